/* Within an operation that takes long: what only uses keys is answered before it, what changes the token after it, and nothing is lost. */
#include "tests/unit/hsm/direct.h"

#include "base/log.h"
#include "hsm/seal.h"
#include "hsm/service.h"

#include <stdio.h>

static const uint8_t kvid_a[HSM_KVID_BYTES] = "kvid of key a ..", kvid_b[HSM_KVID_BYTES] = "kvid of key b ..";
static const uint8_t hash[HSM_AAD_HASH_BYTES] = "a hash of additional data ......";
enum { REPLIES_MAX = 40 };
struct served {
    struct world *w;
    struct service s;
    int core[2], now; /* now: what the loop has */
    uint8_t check[HSM_CHECK_BYTES];
    struct {
        uint32_t seq;
        uint8_t code;
    } got[REPLIES_MAX];
    size_t n;
};

/* How many lines a command says, in the folder of backups. */
static unsigned lines(const struct served *f, const char *command)
{
    char text[600];
    unsigned n = 0;
    (void)snprintf(text, sizeof text, "cd '%s/token-backup' && %s | wc -l", f->w->f.state, command);
    FILE *p = popen(text, "re");
    assert_non_null(p);
    assert_int_equal(fscanf(p, "%u", &n), 1);
    (void)pclose(p);
    return n;
}

static int setup(void **state)
{
    struct served *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->w = world_new();
    struct token_setup s = fixture_setup(&f->w->f, &f->w->clock.c);
    OK(token_init(&f->w->t, &s, &e));
    OK(token_open(&f->w->t, &e));
    for (enum hsm_object o = HSM_MASTER; o <= HSM_AUDIT; o++)
        OK(ops_generate(&f->w->t, &verifier, o, 1, &e));
    OK(ops_key_generate(&f->w->t, &verifier, kvid_a, hash, f->check, &e));
    OK(chan_pair(f->core, &e));
    f->now = f->core[1];
    f->s = (struct service){.verifier = &verifier, .core = &f->now};
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct served *f = *state;
    if (f->core[0] >= 0)
        (void)close(f->core[0]);
    (void)close(f->core[1]);
    void *w = f->w;
    free(f);
    return world_free(&w);
}

static void ask(struct served *f, enum wire_op op, uint32_t seq, struct bytes body)
{
    const struct chan_msg m = {.type = (uint16_t)op, .seq = seq, .body = body};
    OK(chan_send(f->core[0], &m, &e));
}

static void ask_key(struct served *f, enum wire_op op, uint32_t seq, const uint8_t kvid[HSM_KVID_BYTES])
{
    CLEANUP(buf_release) struct buf b = {0};
    buf_init(&b, 1024);
    buf_put(&b, kvid, HSM_KVID_BYTES);
    if (op == WIRE_KEY_SEAL)
        buf_put_u8(&b, HSM_SEALED_DATA);
    buf_put(&b, hash, sizeof hash);
    if (op == WIRE_KEY_CHECK)
        buf_put(&b, f->check, sizeof f->check);
    if (op == WIRE_KEY_SEAL)
        buf_put_v16(&b, BYTES_LIT("card"));
    ask(f, op, seq, buf_bytes(&b));
}

static void ask_anchor(struct served *f, uint32_t seq)
{
    CLEANUP(buf_release) struct buf b = {0};
    buf_init(&b, 64);
    buf_put_v16(&b, BYTES_LIT("a floor"));
    ask(f, WIRE_ANCHOR_PUT, seq, buf_bytes(&b));
}

static void ask_random(struct served *f, uint32_t seq)
{
    ask(f, WIRE_RANDOM, seq, BYTES_LIT("\x00\x10"));
}

/* All that has been answered by now. */
static void read_replies(struct served *f)
{
    uint8_t buf[WIRE_MAX];
    struct chan_msg m;
    struct err e = {0};
    for (f->n = 0; f->n < REPLIES_MAX && !chan_recv(f->core[0], 0, buf, sizeof buf, &m, &e).failed; f->n++) {
        assert_true(m.body.n > 0);
        f->got[f->n].seq = m.seq;
        f->got[f->n].code = m.body.p[0];
    }
}

static void in_this_order(struct served *f, const uint32_t *seq, size_t n)
{
    read_replies(f);
    assert_int_equal(f->n, n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(f->got[i].seq, seq[i]);
        assert_int_equal(f->got[i].code, ERR_NONE);
    }
}
#define IN_THIS_ORDER(...) in_this_order(f, (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

static void within_a_backup(void **state)
{
    struct served *f = *state;
    ask(f, WIRE_BACKUP, 1, BYTES(NULL, 0));
    ask_random(f, 2);
    ask_key(f, WIRE_KEY_GENERATE, 3, kvid_b);
    ask_key(f, WIRE_KEY_CHECK, 4, kvid_a);
    ask_anchor(f, 5);
    ask_key(f, WIRE_KEY_SEAL, 6, kvid_a);
    OK(service_answer(&f->s, &f->w->t, f->core[1], &e));
    IN_THIS_ORDER(2, 4, 6, 1, 3, 5);
    assert_int_equal(f->w->t.keys.n, 2); /* made after the backup, which has one of them, */
    assert_int_equal(lines(f, "grep -h '^# key ' *Z/SHA256SUMS"), 1);
    assert_int_equal(f->s.meanwhile.n, 0);
}

static void within_the_making_of_a_key(void **state)
{
    struct served *f = *state;
    ask_key(f, WIRE_KEY_GENERATE, 1, kvid_b);
    ask_key(f, WIRE_KEY_SEAL, 2, kvid_a);
    OK(service_answer(&f->s, &f->w->t, f->core[1], &e));
    IN_THIS_ORDER(2, 1);
    ask_key(f, WIRE_KEY_SEAL, 3, kvid_b);
    OK(service_answer(&f->s, &f->w->t, f->core[1], &e));
    IN_THIS_ORDER(3);
}

/* More than is held is not read until there is room again. */
static void no_more_than_is_held(void **state)
{
    struct served *f = *state;
    ask(f, WIRE_BACKUP, 1, BYTES(NULL, 0));
    for (uint32_t i = 0; i < MEANWHILE_HELD; i++)
        ask_anchor(f, 2 + i);
    ask_random(f, 99);
    OK(service_answer(&f->s, &f->w->t, f->core[1], &e));
    read_replies(f);
    assert_int_equal(f->n, 1 + MEANWHILE_HELD);
    for (uint32_t i = 0; i <= MEANWHILE_HELD; i++)
        assert_true(f->got[i].seq == 1 + i && f->got[i].code == ERR_NONE);
    OK(service_answer(&f->s, &f->w->t, f->core[1], &e));
    IN_THIS_ORDER(99);
}

/* A core that dies within a backup: it is made all the same, and nothing that it asked for before. */
static void the_channel_ends(void **state)
{
    struct served *f = *state;
    struct err e = {0};
    ask(f, WIRE_BACKUP, 1, BYTES(NULL, 0));
    ask_key(f, WIRE_KEY_GENERATE, 2, kvid_b);
    (void)close(f->core[0]);
    f->core[0] = -1;
    assert_true(service_answer(&f->s, &f->w->t, f->core[1], &e).failed);
    assert_int_equal(lines(f, "ls -d *Z"), 1);
    assert_int_equal(f->w->t.keys.n, 1);
    assert_int_equal(f->s.meanwhile.n, 0);
}

/* The loop has another channel by now: of the old one nothing more is read. */
static void another_core_has_come(void **state)
{
    struct served *f = *state;
    f->now = f->core[1] + 1000;
    ask(f, WIRE_BACKUP, 1, BYTES(NULL, 0));
    ask_random(f, 2);
    OK(service_answer(&f->s, &f->w->t, f->core[1], &e));
    IN_THIS_ORDER(1);
}

/* The token fails within: that call is told so, the backup goes on, and what was wrong is mended by the next call. */
static void a_failure_within(void **state)
{
    struct served *f = *state;
    f->w->t.keys.all[0].handle[KEY_COMMIT] = 99999; /* within the making: no lookup comes first */
    ask_key(f, WIRE_KEY_GENERATE, 1, kvid_b);
    ask_key(f, WIRE_KEY_SEAL, 2, kvid_a);
    OK(service_answer(&f->s, &f->w->t, f->core[1], &e));
    read_replies(f);
    assert_int_equal(f->n, 2);
    assert_true(f->got[0].seq == 2 && f->got[0].code == ERR_UNAVAILABLE);
    assert_true(f->got[1].seq == 1 && f->got[1].code == ERR_NONE);
    ask_key(f, WIRE_KEY_CHECK, 3, kvid_a);
    OK(service_answer(&f->s, &f->w->t, f->core[1], &e));
    ask_key(f, WIRE_KEY_SEAL, 4, kvid_a);
    OK(service_answer(&f->s, &f->w->t, f->core[1], &e));
    IN_THIS_ORDER(3, 4);
}

#define SERVED(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        SERVED(within_a_backup), SERVED(within_the_making_of_a_key), SERVED(no_more_than_is_held),
        SERVED(the_channel_ends), SERVED(another_core_has_come),     SERVED(a_failure_within),
    };
    log_init("test", LOG_ERROR);
    if (!world_begin(32))
        return 2;
    world_end(cmocka_run_group_tests(tests, NULL, NULL));
}
