#include "kms/limit/limit.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define SECOND INT64_C(1000000000)

static struct limiter *make(struct fake_clock *clock, size_t keys, uint64_t rate, uint64_t burst)
{
    struct limiter *l = NULL;
    struct err e = {0};
    fake_clock_init(clock, 0, 5 * SECOND);
    assert_false(limiter_new(&clock->c, keys, rate, burst, &l, &e).failed);
    return l;
}

static bool take(struct limiter *l, const char *key, uint64_t items)
{
    struct err e = {0};
    bool failed = limiter_take(l, bytes_str(key), items, &e).failed;
    assert_int_equal(e.code, failed ? ERR_EXHAUSTED : ERR_NONE);
    if (failed)
        assert_string_equal(e.reason, "RATE_LIMITED");
    return !failed;
}

static void burst_then_rate(void **state)
{
    (void)state;
    struct fake_clock c;
    struct limiter *l = make(&c, 100, 10, 20);
    for (int i = 0; i < 20; i++)
        assert_true(take(l, "a", 1));
    assert_false(take(l, "a", 1));
    assert_true(take(l, "b", 20)); /* another key is not affected */
    assert_false(take(l, "b", 1));
    fake_clock_advance(&c, SECOND / 10 - 1);
    assert_false(take(l, "a", 1));
    fake_clock_advance(&c, 1);
    assert_true(take(l, "a", 1));
    assert_false(take(l, "a", 1));
    fake_clock_advance(&c, 3600 * SECOND); /* never more than the burst */
    assert_true(take(l, "a", 20));
    assert_false(take(l, "a", 1));
    limiter_free(l);
}

static void batches_count_their_items_and_take_all_or_nothing(void **state)
{
    (void)state;
    struct fake_clock c;
    struct limiter *l = make(&c, 100, 1000, 1000);
    assert_true(take(l, "a", 999));
    assert_false(take(l, "a", 2));
    assert_true(take(l, "a", 1)); /* the refusal cost nothing */
    fake_clock_advance(&c, 10 * SECOND);
    assert_false(take(l, "a", 1001)); /* over the burst: never */
    assert_false(take(l, "a", UINT64_MAX));
    assert_true(take(l, "a", 0));
    limiter_free(l);
}

static void refund_gives_back_but_never_beyond_full(void **state)
{
    (void)state;
    struct fake_clock c;
    struct limiter *l = make(&c, 100, 1, 10);
    assert_true(take(l, "a", 10));
    limiter_refund(l, BYTES_LIT("a"), 4);
    assert_false(take(l, "a", 5));
    assert_true(take(l, "a", 4));
    limiter_refund(l, BYTES_LIT("a"), UINT64_MAX);
    assert_false(take(l, "a", 11));
    assert_true(take(l, "a", 10));
    assert_false(take(l, "a", 1));
    limiter_refund(l, BYTES_LIT("nobody"), 100);
    assert_false(take(l, "a", 1));
    limiter_free(l);
}

static void odd_rates_are_exact(void **state)
{
    (void)state;
    struct fake_clock c;
    struct limiter *l = make(&c, 10, 3, 3);
    uint64_t taken = 0;
    for (int i = 0; i < 100000; i++) { /* 100,000 steps of 1 ms: 100 s, plus the burst */
        taken += take(l, "a", 1) ? 1u : 0u;
        fake_clock_advance(&c, SECOND / 1000);
    }
    assert_in_range(taken, 302, 303);
    limiter_free(l);
    l = make(&c, 10, 1000000000, 1000000000);
    assert_true(take(l, "a", 1000000000));
    fake_clock_advance(&c, INT64_MAX / 2); /* the refill does not overflow */
    assert_true(take(l, "a", 1000000000));
    assert_false(take(l, "a", 1));
    limiter_free(l);
}

/* Cycling through keys must neither grow memory nor let one who owes start afresh. */
static void a_flood_of_keys_does_not_forgive_debt(void **state)
{
    (void)state;
    struct fake_clock c;
    struct limiter *l = make(&c, 64, 1, 5);
    assert_true(take(l, "debtor", 5));
    uint64_t taken = 0;
    for (int i = 0; i < 50000; i++) {
        char key[32];
        snprintf(key, sizeof key, "flood-%d", i);
        for (int j = 0; j < 2; j++)
            taken += take(l, key, 1) ? 1u : 0u;
    }
    assert_false(take(l, "debtor", 1));
    /* At most 2 each for the slots there are (128), and 5 for each crowded lock. */
    assert_in_range(taken, 128, 128 * 2 + 64 * 5);
    fake_clock_advance(&c, 10 * SECOND); /* everyone has paid: newcomers are served again */
    assert_true(take(l, "newcomer", 5));
    limiter_free(l);
}

static void nonsense_limits_are_refused(void **state)
{
    (void)state;
    struct limiter *l = NULL;
    static const struct {
        size_t keys;
        uint64_t rate, burst;
    } bad[] = {{0, 1, 1}, {(size_t)1 << 40, 1, 1}, {1, 0, 1}, {1, 1, 0}, {1, 1000000001, 1}, {1, 1, 1000000001}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err e = {0};
        assert_true(limiter_new(&clock_system, bad[i].keys, bad[i].rate, bad[i].burst, &l, &e).failed);
        assert_int_equal(e.code, ERR_INVALID);
        assert_null(l);
    }
    limiter_free(NULL);
}

struct worker {
    struct limiter *l;
    uint64_t taken;
};
static void *work(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; i < 20000; i++) {
        struct err e = {0};
        char key[16];
        snprintf(key, sizeof key, "k%d", i % 8);
        w->taken += limiter_take(w->l, bytes_str(key), 1, &e).failed ? 0 : 1;
    }
    return NULL;
}

static void threads_share_one_budget(void **state)
{
    (void)state;
    struct fake_clock c;
    struct limiter *l = make(&c, 100, 1, 1000);
    struct worker w[4];
    pthread_t t[4];
    for (int i = 0; i < 4; i++) {
        w[i] = (struct worker){.l = l};
        assert_int_equal(pthread_create(&t[i], NULL, work, &w[i]), 0);
    }
    uint64_t taken = 0;
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
        taken += w[i].taken;
    }
    assert_int_equal(taken, 8 * 1000);
    limiter_free(l);
}

/* Full, crowded and empty tables cost alike: the work is one set of slots, whatever the table holds. */
static void a_take_costs_little(void **state)
{
    (void)state;
    struct fake_clock c;
    struct limiter *l = make(&c, 1024, 1, 1000000);
    struct timespec t0, t1;
    enum { N = 100000 };
    for (int crowded = 0; crowded < 2; crowded++) {
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t0); /* what others do on the machine is no cost of ours */
        struct bytes key = crowded ? BYTES_LIT("late-comer") : BYTES_LIT("acme-orders");
        struct err e;
        int refused = 0;
        for (int i = 0; i < N; i++)
            refused += limiter_take(l, key, 1, &e).failed;
        assert_int_equal(refused, 0);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t1);
        int64_t ns = ((t1.tv_sec - t0.tv_sec) * SECOND + (t1.tv_nsec - t0.tv_nsec)) / N;
        printf("limiter_take, %s: %lld ns\n", crowded ? "crowded table" : "empty table", (long long)ns);
        assert_in_range(ns, 0, 20000);
        for (int i = 0; i < 20000 && !crowded; i++) {
            char flood[32];
            snprintf(flood, sizeof flood, "flood-%d", i);
            (void)take(l, flood, 1);
        }
    }
    limiter_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(burst_then_rate),
        cmocka_unit_test(batches_count_their_items_and_take_all_or_nothing),
        cmocka_unit_test(refund_gives_back_but_never_beyond_full),
        cmocka_unit_test(odd_rates_are_exact),
        cmocka_unit_test(a_flood_of_keys_does_not_forgive_debt),
        cmocka_unit_test(nonsense_limits_are_refused),
        cmocka_unit_test(threads_share_one_budget),
        cmocka_unit_test(a_take_costs_little),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
