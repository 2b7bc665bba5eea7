/* The client against a scripted hsm process: order, lateness, silence, replacement. */
#include "tests/unit/hsm/fixture.h"

#include "base/chan.h"
#include "hsm/wire.h"
#include "tests/unit/slow.h"

#include <pthread.h>

enum { PATIENCE_MS = 200, CALLERS = 24, CALLS = 50 };

struct peer {
    int fd;
    pthread_t thread;
    bool late, backwards;
};

/* "Random" bytes of the length asked for, all of that value, and keys of bytes that are the version's last: a caller sees whether
 * the answer is its own. */
static void reply_to(int fd, const struct chan_msg *m, uint32_t seq)
{
    CLEANUP(buf_release) struct buf b = {0};
    struct err e = {0};
    buf_init(&b, WIRE_MAX);
    wire_put_result(&b, ok(), NULL);
    if (m->type == WIRE_RANDOM)
        for (int i = 0; i < get_be16(m->body.p); i++)
            buf_put_u8(&b, m->body.p[1]);
    if (m->type == WIRE_DERIVE)
        for (int i = 0; i < SECRET_KEY_BYTES; i++)
            buf_put_u8(&b, m->body.p[4]);
    const struct chan_msg out = {.type = m->type | WIRE_REPLY, .seq = seq, .body = buf_bytes(&b)};
    (void)chan_send(fd, &out, &e).failed;
}

static void *peer_run(void *arg)
{
    struct peer *p = arg;
    uint8_t buf[2][WIRE_MAX];
    struct chan_msg m[2];
    struct err e = {0};
    while (!chan_recv(p->fd, -1, buf[0], WIRE_MAX, &m[0], &e).failed) {
        bool two = p->backwards && !chan_recv(p->fd, 5, buf[1], WIRE_MAX, &m[1], &e).failed;
        if (two)
            reply_to(p->fd, &m[1], m[1].seq);
        if (p->late)
            reply_to(p->fd, &m[0], m[0].seq ^ 0x40000000); /* the answer to a call that gave up */
        reply_to(p->fd, &m[0], m[0].seq);
    }
    (void)close(p->fd);
    return NULL;
}

static int peer_start(struct peer *p)
{
    int fds[2];
    OK(chan_pair(fds, &e));
    p->fd = fds[1];
    assert_int_equal(pthread_create(&p->thread, NULL, peer_run, p), 0);
    return fds[0];
}

static uintptr_t derives_its_own(struct hsm *h, uint8_t version)
{
    CLEANUP(secret_freep) struct secret *key = NULL;
    struct err e = {0};
    if (hsm_derive(h, HSM_MASTER, version, BYTES_LIT("x"), &key, &e).failed)
        return 1;
    const uint8_t *p = secret_borrow(key);
    return secret_len(key) == SECRET_KEY_BYTES && p[0] == version && p[SECRET_KEY_BYTES - 1] == version ? 0 : 1000;
}

static void *caller(void *arg)
{
    struct hsm *h = arg;
    uintptr_t wrong = 0;
    for (size_t n = 1; n <= CALLS; n++) {
        uint8_t out[CALLS];
        struct err e = {0};
        size_t want = 1 + (n * 7) % CALLS;
        if (hsm_random(h, out, want, &e).failed)
            wrong++;
        else if (out[0] != want || out[want - 1] != want)
            wrong += 1000;
        wrong += derives_its_own(h, (uint8_t)(n * 5));
    }
    return (void *)wrong;
}

static uintptr_t many_callers(struct hsm *h)
{
    pthread_t t[CALLERS];
    uintptr_t wrong = 0;
    for (int i = 0; i < CALLERS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, caller, h), 0);
    for (int i = 0; i < CALLERS; i++) {
        void *w;
        assert_int_equal(pthread_join(t[i], &w), 0);
        wrong += (uintptr_t)w;
    }
    return wrong;
}

static void test_each_gets_its_own(void **state)
{
    (void)state;
    for (int variant = 0; variant < 3; variant++) {
        struct peer p = {.late = variant == 1, .backwards = variant == 2};
        struct hsm *h = NULL;
        int fd = peer_start(&p);
        OK(hsm_client_new(fd, 20000, &h, &e));
        assert_int_equal(many_callers(h), 0);
        hsm_free(h);
        assert_int_equal(pthread_join(p.thread, NULL), 0);
    }
}

static void test_no_channel(void **state)
{
    (void)state;
    struct hsm *h = NULL;
    struct hsm_status st;
    uint8_t out[4];
    OK(hsm_client_new(-1, PATIENCE_MS, &h, &e));
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", hsm_probe(h, &st, &e));
    REFUSED(ERR_INVALID, "HSM_BAD_REQUEST", hsm_random(h, out, 0, &e));
    REFUSED(ERR_INVALID, "HSM_BAD_REQUEST", hsm_random(h, out, HSM_RANDOM_MAX + 1, &e));
    struct peer p = {0};
    hsm_client_set_channel(h, peer_start(&p));
    OK(hsm_random(h, out, 4, &e));
    hsm_free(h);
    hsm_free(NULL);
    assert_int_equal(pthread_join(p.thread, NULL), 0);
}

/* Said before it is asked: the first call has the number 1. */
static void answer_with(uint16_t type, uint8_t code, enum err_code want)
{
    struct hsm *h = NULL;
    int fds[2];
    uint8_t out[4], body[] = {code, 2 /* HSM_REFUSED */, 0, 0};
    const struct chan_msg m = {.type = type, .seq = 1, .body = BYTES(body, sizeof body)};
    OK(chan_pair(fds, &e));
    OK(hsm_client_new(fds[0], 20000, &h, &e));
    OK(chan_send(fds[1], &m, &e));
    REFUSED(want, want == ERR_UNAVAILABLE ? "HSM_UNAVAILABLE" : "HSM_REFUSED", hsm_random(h, out, sizeof out, &e));
    hsm_free(h);
    (void)close(fds[1]);
}

/* A key has one length; whatever else comes is no key, and nothing of it is given out. */
static void test_a_key_has_one_length(void **state)
{
    (void)state;
    for (size_t n = 0; n <= 64; n++) {
        struct hsm *h = NULL;
        struct secret *key = NULL;
        int fds[2];
        uint8_t body[1 + 64] = {ERR_NONE};
        const struct chan_msg m = {.type = WIRE_DERIVE | WIRE_REPLY, .seq = 1, .body = BYTES(body, 1 + n)};
        OK(chan_pair(fds, &e));
        OK(hsm_client_new(fds[0], 20000, &h, &e));
        OK(chan_send(fds[1], &m, &e));
        if (n == SECRET_KEY_BYTES) {
            OK(hsm_derive(h, HSM_MASTER, 1, BYTES_LIT("x"), &key, &e));
        } else {
            REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", hsm_derive(h, HSM_MASTER, 1, BYTES_LIT("x"), &key, &e));
            assert_null(key);
        }
        secret_free(key);
        hsm_free(h);
        (void)close(fds[1]);
    }
    assert_int_equal(secret_stats().used, 0);
}

/* Each fails at once, by what was said, not by the patience of the call. */
static void test_words_that_are_not_the_hsms(void **state)
{
    (void)state;
    answer_with(WIRE_RANDOM | WIRE_REPLY, ERR_DENIED, ERR_DENIED); /* the twin: a refusal is one */
    answer_with(WIRE_RANDOM | WIRE_REPLY, ERR_WOULD_BLOCK, ERR_UNAVAILABLE);
    answer_with(WIRE_RANDOM | WIRE_REPLY, ERR_INTERNAL + 1, ERR_UNAVAILABLE);
    answer_with(WIRE_DERIVE | WIRE_REPLY, ERR_DENIED, ERR_UNAVAILABLE);
    answer_with(WIRE_RANDOM, ERR_DENIED, ERR_UNAVAILABLE);
}

/* A silent peer: each call ends in time; the answer that comes late is not the next call's. */
static void test_silence(void **state)
{
    (void)state;
    struct hsm *h = NULL;
    int fds[2];
    uint8_t out[8], buf[WIRE_MAX];
    struct chan_msg m;
    OK(chan_pair(fds, &e));
    OK(hsm_client_new(fds[0], PATIENCE_MS, &h, &e));
    const int64_t begin = clock_boot_ms(&clock_system);
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", hsm_random(h, out, 8, &e));
    assert_in_range(clock_boot_ms(&clock_system) - begin, PATIENCE_MS - 1, slower(PATIENCE_MS * 50));
    OK(chan_recv(fds[1], 0, buf, sizeof buf, &m, &e));
    reply_to(fds[1], &m, m.seq);
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", hsm_random(h, out, 4, &e));
    (void)close(fds[1]);
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", hsm_random(h, out, 4, &e));
    hsm_free(h);
}

/* More callers than places in flight wait on a peer that never answers; a new channel frees them all at once. */
static void test_replacement(void **state)
{
    (void)state;
    struct hsm *h = NULL;
    int silent[2];
    pthread_t t[CALLERS];
    struct peer p = {0};
    OK(chan_pair(silent, &e));
    OK(hsm_client_new(silent[0], 20000, &h, &e));
    for (int i = 0; i < CALLERS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, caller, h), 0);
    uint8_t buf[WIRE_MAX];
    struct chan_msg m;
    for (int i = 0; i < 16; i++)
        OK(chan_recv(silent[1], 5000, buf, sizeof buf, &m, &e));
    hsm_client_set_channel(h, peer_start(&p));
    uintptr_t failed = 0;
    for (int i = 0; i < CALLERS; i++) {
        void *w;
        assert_int_equal(pthread_join(t[i], &w), 0);
        failed += (uintptr_t)w;
    }
    assert_int_equal(failed, 16); /* those that were in flight, and nobody else */
    (void)close(silent[1]);
    hsm_free(h);
    assert_int_equal(pthread_join(p.thread, NULL), 0);
}

/* Rubbish from the other side is an outage, never a key. */
static void test_bad_replies(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        size_t n;
    } bad[] = {{"", 0}, {"\0", 1}, {"\0abc", 4}, {"\xff", 1}, {"\1\xff\0\0", 4}, {"\1\1\0\5ab", 6}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct reader r = reader_of(BYTES(bad[i].body, bad[i].n));
        struct err e = {0};
        if (i == 1 || i == 2)
            assert_false(wire_get_result(&r, &e).failed);
        else
            assert_true(wire_get_result(&r, &e).failed && e.code == ERR_UNAVAILABLE);
    }
}

static int slab(void **state)
{
    struct err e;
    (void)state;
    return secret_slab_init(CALLERS + 8, &e).failed;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_gets_its_own), cmocka_unit_test(test_no_channel),  cmocka_unit_test(test_silence),
        cmocka_unit_test(test_words_that_are_not_the_hsms), cmocka_unit_test(test_a_key_has_one_length),
        cmocka_unit_test(test_replacement),       cmocka_unit_test(test_bad_replies),
    };
    return cmocka_run_group_tests(tests, slab, NULL);
}
