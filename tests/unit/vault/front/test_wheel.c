#include "tests/unit/vault/front/testing.h"
#include "vault/front/bucket.h"
#include "vault/front/wheel.h"

#include <stdlib.h>

enum { N = 2000, START_MS = 123456 };

/* Against the plain definition: no timer early, none later than a tick, each once; over several rounds of the wheel. */
static void test_due_in_time_and_once(void **state)
{
    (void)state;
    static struct timer t[N];
    struct wheel w;
    unsigned seed = 7, fired = 0;
    wheel_init(&w, START_MS);
    for (int i = 0; i < N; i++) {
        t[i] = (struct timer){0};
        wheel_arm(&w, &t[i], START_MS + 1 + rand_r(&seed) % 20000);
    }
    int64_t now_ms = START_MS;
    while (fired < N) {
        int sleep_ms = wheel_sleep_ms(&w, now_ms, 1000);
        assert_true(sleep_ms >= 0 && sleep_ms <= 1000);
        now_ms += sleep_ms > 0 ? sleep_ms : 1;
        for (struct timer *x; (x = wheel_pop(&w, now_ms)) != NULL; fired++) {
            assert_true(x->due_ms <= now_ms && now_ms - x->due_ms <= WHEEL_TICK_MS);
            assert_null(x->at);
        }
        assert_true(now_ms < START_MS + 30000);
    }
    assert_int_equal(w.armed, 0);
    assert_int_equal(wheel_sleep_ms(&w, now_ms, 777), 777);
}

static void test_arming_moves_forward_only(void **state)
{
    (void)state;
    struct wheel w;
    struct timer t = {0};
    wheel_init(&w, 0);
    wheel_arm(&w, &t, 1000);
    wheel_arm(&w, &t, 2000); /* stays: its owner looks at the clock when it fires */
    assert_int_equal(t.due_ms, 1000);
    wheel_arm(&w, &t, 500);
    assert_int_equal(t.due_ms, 500);
    assert_null(wheel_pop(&w, 499));
    assert_ptr_equal(wheel_pop(&w, 510), &t);
    assert_null(wheel_pop(&w, 510));
    wheel_arm(&w, &t, 600);
    wheel_disarm(&w, &t);
    wheel_disarm(&w, &t);
    assert_null(wheel_pop(&w, 5000));
}

/* An owner that arms for the past again and again must not keep the loop in one pass. */
static void test_the_past_waits_a_tick(void **state)
{
    (void)state;
    struct wheel w;
    struct timer t = {0};
    unsigned fired = 0;
    wheel_init(&w, 1000);
    wheel_arm(&w, &t, 1);
    for (struct timer *x; (x = wheel_pop(&w, 2000)) != NULL; fired++) {
        assert_true(fired < 2);
        wheel_arm(&w, x, 1);
    }
    assert_int_equal(fired, 1);
    assert_ptr_equal(wheel_pop(&w, 2000 + 2 * WHEEL_TICK_MS), &t);
}

static void test_a_long_sleep_misses_nobody(void **state)
{
    (void)state;
    struct wheel w;
    struct timer a = {0}, b = {0};
    wheel_init(&w, 0);
    wheel_arm(&w, &a, 50);
    wheel_arm(&w, &b, 50 + WHEEL_SLOTS * WHEEL_TICK_MS);
    struct timer *first = wheel_pop(&w, 10000000);
    struct timer *second = wheel_pop(&w, 10000000);
    assert_true((first == &a && second == &b) || (first == &b && second == &a));
    assert_null(wheel_pop(&w, 10000000));
}

static void test_bucket(void **state)
{
    (void)state;
    const struct bucket_limit l = {.burst = 4, .per_s = 2};
    struct bucket b;
    int64_t wait_ms = 0;
    bucket_init(&b, &l, 1000);
    for (int i = 0; i < 4; i++)
        assert_true(bucket_take(&b, &l, 1000, &wait_ms));
    assert_false(bucket_take(&b, &l, 1000, &wait_ms));
    assert_int_equal(wait_ms, 500);
    assert_int_equal(b.dry_ms, 1000);
    assert_false(bucket_take(&b, &l, 1499, &wait_ms));
    assert_int_equal(wait_ms, 1);
    assert_true(bucket_take(&b, &l, 1500, &wait_ms));
    assert_int_equal(b.dry_ms, 1000); /* still running dry: less than half full */
    assert_true(bucket_take(&b, &l, 2500, &wait_ms));
    assert_int_equal(b.dry_ms, 0);
    bucket_add(&b, &l, 1000000);
    assert_int_equal(b.milli, 4000);
    bucket_refill(&b, &l, 2000); /* a clock that steps back gives nothing */
    assert_int_equal(b.at_ms, 2500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_due_in_time_and_once),
        cmocka_unit_test(test_arming_moves_forward_only),
        cmocka_unit_test(test_the_past_waits_a_tick),
        cmocka_unit_test(test_a_long_sleep_misses_nobody),
        cmocka_unit_test(test_bucket),
    };
    return cmocka_run_group_tests_name("wheel and bucket", tests, NULL, NULL);
}
