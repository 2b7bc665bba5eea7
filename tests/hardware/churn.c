/* Signing beside object churn, on a real SoftHSM2 through the real, confined kmsd-hsm: churn SECONDS [THREADS]. The threads derive,
 * sign and draw random numbers over one channel, as core's do; one more makes objects, finds and destroys them by the server's own
 * operations. Every answer is compared with the first one. Prints counts; exit 0 only when no call failed and no answer differed. */
#include "tests/unit/hsm/monitor.h"

#include <stdatomic.h>

enum { THREADS_MAX = 64, CHURN_TIMEOUT_MS = 10000, SEAL_VERSIONS = 3 };

struct churn {
    struct hsm *hsm;
    struct secret *want;
    uint8_t signature[HSM_SIG_MAX];
    _Atomic bool stop;
    _Atomic uint64_t derived, signed_, drawn, made, destroyed, anchored, errors, wrong;
    pthread_mutex_t lock;
    char first[512];
};

static const char note[] = ORIGIN "\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n";

static void count(struct churn *c, struct result r, const struct err *e, const char *what, _Atomic uint64_t *good)
{
    if (!r.failed) {
        (*good)++;
        return;
    }
    if (c->errors++ > 0)
        return;
    (void)pthread_mutex_lock(&c->lock);
    (void)snprintf(c->first, sizeof c->first, "%s: %s %s", what, err_name(e->code), e->detail);
    (void)pthread_mutex_unlock(&c->lock);
}

static void derive_once(struct churn *c)
{
    CLEANUP(buf_release) struct buf in = {0};
    CLEANUP(secret_freep) struct secret *key = NULL;
    struct err e = {0};
    tenant_kek_input(&in);
    struct result r = hsm_derive(c->hsm, HSM_MASTER, 1, buf_bytes(&in), &key, &e);
    count(c, r, &e, "derive", &c->derived);
    if (!r.failed && !secret_equal(key, c->want))
        c->wrong++;
}

static void sign_once(struct churn *c)
{
    uint8_t sig[HSM_SIG_MAX], random[32];
    size_t n = 0;
    struct err e = {0};
    struct result r = hsm_sign_checkpoint(c->hsm, 1, BYTES((const uint8_t *)note, sizeof note - 1), sig, &n, &e);
    count(c, r, &e, "sign", &c->signed_);
    if (!r.failed && (n != 64 || memcmp(sig, c->signature, n) != 0)) /* Ed25519 has one signature for one text */
        c->wrong++;
    e = (struct err){0};
    r = hsm_random(c->hsm, random, sizeof random, &e);
    count(c, r, &e, "random", &c->drawn);
}

static void *worker(void *arg)
{
    struct churn *c = arg;
    for (unsigned i = 0; !c->stop; i++) {
        if (i % 8 == 7)
            sign_once(c);
        else
            derive_once(c);
    }
    return NULL;
}

/* Makes, finds and destroys; the anchor's two objects change in place. */
static void *churner(void *arg)
{
    struct churn *c = arg;
    uint8_t seen[HSM_ANCHOR_MAX];
    for (uint32_t round = 0; !c->stop; round++) {
        const uint32_t version = 2 + round % SEAL_VERSIONS;
        struct err e = {0};
        size_t n = 0;
        count(c, hsm_generate(c->hsm, HSM_SEAL, version, &e), &e, "generate", &c->made);
        for (unsigned i = 0; i < 8; i++) {
            uint32_t text = round * 8 + i;
            e = (struct err){0};
            count(c, hsm_anchor_put(c->hsm, BYTES((uint8_t *)&text, sizeof text), &e), &e, "anchor put", &c->anchored);
            e = (struct err){0};
            struct result r = hsm_anchor_get(c->hsm, seen, &n, &e);
            count(c, r, &e, "anchor get", &c->anchored);
            if (!r.failed && (n != sizeof text || memcmp(seen, &text, n) != 0))
                c->wrong++;
        }
        e = (struct err){0};
        count(c, hsm_destroy(c->hsm, HSM_SEAL, version, &e), &e, "destroy", &c->destroyed);
    }
    return NULL;
}

static void prepare(struct churn *c, struct fixture *f, struct monitor *m)
{
    int fds[2];
    size_t n;
    CLEANUP(buf_release) struct buf in = {0};
    fixture_make(f);
    f->timeout_ms = CHURN_TIMEOUT_MS;
    OK(chan_pair(fds, &e));
    monitor_start(m, f, NULL, NULL, true, fds[1]);
    (void)close(fds[1]);
    OK(hsm_client_new(fds[0], CHURN_TIMEOUT_MS, &c->hsm, &e));
    assert_true(monitor_ready(m));
    for (enum hsm_object k = HSM_MASTER; k <= HSM_AUDIT; k++)
        OK(hsm_generate(c->hsm, k, 1, &e));
    tenant_kek_input(&in);
    OK(hsm_derive(c->hsm, HSM_MASTER, 1, buf_bytes(&in), &c->want, &e));
    OK(hsm_sign_checkpoint(c->hsm, 1, BYTES((const uint8_t *)note, sizeof note - 1), c->signature, &n, &e));
}

static void run(struct churn *c, unsigned seconds, unsigned threads)
{
    pthread_t t[THREADS_MAX], maintenance;
    const int64_t end = now_ms() + (int64_t)seconds * 1000;
    for (unsigned i = 0; i < threads; i++)
        assert_int_equal(pthread_create(&t[i], NULL, worker, c), 0);
    assert_int_equal(pthread_create(&maintenance, NULL, churner, c), 0);
    while (now_ms() < end) {
        const struct timespec tick = {.tv_nsec = 50000000};
        (void)nanosleep(&tick, NULL);
    }
    c->stop = true;
    for (unsigned i = 0; i < threads; i++)
        (void)pthread_join(t[i], NULL);
    (void)pthread_join(maintenance, NULL);
}

struct order {
    unsigned seconds, threads;
    struct fixture f;
};

static void test_churn(void **state)
{
    static struct churn c = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct order *o = *state;
    struct monitor m;
    prepare(&c, &o->f, &m);
    run(&c, o->seconds, o->threads);
    const int status = monitor_drain(&m);
    (void)printf("seconds %u threads %u derived %lu signed %lu random %lu made %lu destroyed %lu anchored %lu errors %lu wrong %lu\n",
                 o->seconds, o->threads, c.derived, c.signed_, c.drawn, c.made, c.destroyed, c.anchored, c.errors, c.wrong);
    if (c.errors > 0)
        (void)printf("first error: %s\n", c.first);
    hsm_free(c.hsm);
    secret_free(c.want);
    assert_true(status == 0 && c.errors == 0 && c.wrong == 0);
}

static int remove_folder(void **state)
{
    fixture_remove(&((struct order *)*state)->f);
    return 0;
}

int main(int argc, char **argv)
{
    static struct order o;
    struct err e = {0};
    o.seconds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
    o.threads = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 8;
    if (o.seconds == 0 || o.threads == 0 || o.threads > THREADS_MAX || secret_slab_init(THREADS_MAX + 8, &e).failed)
        return 2;
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate_setup_teardown(test_churn, NULL, remove_folder, &o)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
