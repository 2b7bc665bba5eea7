/*
 * A client that moves its data to a key's newest version, three ways in alternation: RewrapStream; the way without it, BatchDecrypt and
 * then BatchEncrypt, as many batches on their way; and RewrapStream over what is on the newest version already. Prints one JSON line
 * with the items per second of each, the median of the rounds.
 *
 *     rewrap KEY ROUNDS SECONDS        server and certificates from KMS_ENDPOINT, KMS_CA, KMS_CERT, KMS_KEY
 *
 * KEY has a second version, and rotates no more. Reads "sealed\n" and a line from stdin between sealing under its first and going on:
 * whoever runs this rotates it there.
 */
#include "vault/client/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ITEMS = 1000, BYTES_EACH = 64, ROUNDS_MAX = 50 };

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void check(int code, const struct claviger_error *e, const char *what)
{
    if (code == CLAVIGER_OK)
        return;
    fprintf(stderr, "rewrap: %s: %s %s\n", what, e->reason, e->message);
    exit(1);
}

static void aim(struct claviger_item *items, const struct claviger_item *at)
{
    for (size_t i = 0; i < ITEMS; i++)
        items[i] = (struct claviger_item){.in = at[i].out.data, .in_len = at[i].out.len};
}

/* Items per second through a stream; in: what each batch is. */
static double by_stream(struct claviger *c, const char *key, const struct claviger_item *in, double seconds)
{
    static struct claviger_item ring[CLAVIGER_REWRAP_WINDOW][ITEMS];
    struct claviger_rewrap_stream *s;
    struct claviger_error e;
    size_t sent = 0, done = 0;
    check(claviger_rewrap_stream_open(c, key, &s, &e), &e, "open");
    double began = now_s();
    while (done < sent || sent == 0 || now_s() - began < seconds) {
        while (sent - done < CLAVIGER_REWRAP_WINDOW && now_s() - began < seconds) {
            aim(ring[sent % CLAVIGER_REWRAP_WINDOW], in);
            check(claviger_rewrap_stream_send(s, ring[sent++ % CLAVIGER_REWRAP_WINDOW], ITEMS, &e), &e, "send");
        }
        check(claviger_rewrap_stream_receive(s, &e), &e, "receive");
        claviger_items_free(ring[done++ % CLAVIGER_REWRAP_WINDOW], ITEMS);
    }
    double took = now_s() - began;
    claviger_rewrap_stream_close(s);
    return (double)(done * ITEMS) / took;
}

struct slot {
    struct claviger_item sealed[ITEMS], plain[ITEMS];
    struct batch *b;
    bool encrypting, busy;
};

/* One step of a slot: its answer, and what follows from it. Returns the batches that were finished by it. */
static size_t turn(struct claviger *c, const char *key, struct slot *s, const struct claviger_item *in, bool more)
{
    struct claviger_error e;
    size_t finished = 0;
    if (s->busy)
        check(batch_finish(s->b, &e).failed, &e, "answer");
    if (s->busy && !s->encrypting) {
        for (size_t i = 0; i < ITEMS; i++)
            s->plain[i] = (struct claviger_item){.in = s->sealed[i].out.data, .in_len = s->sealed[i].out.len};
        check(batch_start(client_transport(c), key, true, s->plain, ITEMS, &s->b, &e).failed, &e, "encrypt");
        s->encrypting = true;
        return 0;
    }
    if (s->busy) {
        claviger_items_free(s->sealed, ITEMS);
        claviger_items_free(s->plain, ITEMS);
        finished = 1;
    }
    s->busy = more;
    s->encrypting = false;
    if (more) {
        aim(s->sealed, in);
        check(batch_start(client_transport(c), key, false, s->sealed, ITEMS, &s->b, &e).failed, &e, "decrypt");
    }
    return finished;
}

static double by_hand(struct claviger *c, const char *key, const struct claviger_item *in, double seconds)
{
    static struct slot slots[CLAVIGER_REWRAP_WINDOW];
    size_t done = 0;
    double began = now_s();
    for (bool busy = true; busy;) {
        busy = false;
        for (size_t i = 0; i < CLAVIGER_REWRAP_WINDOW; i++) {
            done += turn(c, key, &slots[i], in, now_s() - began < seconds);
            busy |= slots[i].busy;
        }
    }
    return (double)(done * ITEMS) / (now_s() - began);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return v[n / 2];
}

int main(int argc, char **argv)
{
    static struct claviger_item old[ITEMS], same[ITEMS];
    static uint8_t text[BYTES_EACH];
    double stream[ROUNDS_MAX], hand[ROUNDS_MAX], newest[ROUNDS_MAX], ratio[ROUNDS_MAX];
    struct claviger_options o = {.size = sizeof o};
    struct claviger_error e;
    struct claviger *c;
    char line[16];
    if (argc != 4)
        return 2;
    size_t rounds = strtoul(argv[2], NULL, 10);
    double seconds = strtod(argv[3], NULL);
    if (rounds < 1 || rounds > ROUNDS_MAX)
        return 2;
    check(claviger_connect(&o, &c, &e), &e, "connect");
    for (size_t i = 0; i < ITEMS; i++)
        old[i] = (struct claviger_item){.in = text, .in_len = sizeof text};
    check(claviger_encrypt_batch(c, argv[1], old, ITEMS, &e), &e, "encrypt");
    printf("sealed\n");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 1;
    aim(same, old);
    check(claviger_rewrap_batch(c, argv[1], same, ITEMS, &e), &e, "rewrap");
    if (same[0].version == same[0].source_version)
        return 1; /* nobody rotated it */
    for (size_t i = 0; i < rounds; i++) {
        stream[i] = by_stream(c, argv[1], old, seconds);
        hand[i] = by_hand(c, argv[1], old, seconds);
        newest[i] = by_stream(c, argv[1], same, seconds);
        ratio[i] = stream[i] / hand[i];
    }
    printf("{\"rewrap\": %.0f, \"decrypt_encrypt\": %.0f, \"newest\": %.0f, \"ratio\": %.2f}\n", median(stream, rounds), median(hand, rounds),
           median(newest, rounds), median(ratio, rounds));
    claviger_items_free(old, ITEMS);
    claviger_items_free(same, ITEMS);
    claviger_free(c);
    return 0;
}
