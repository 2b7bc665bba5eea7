/* The wall clock against the boot clock: steps are seen once, slewing is not one, and a clock that stands still is no flood. */
#include "vault/service/clockstep.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>

#include <cmocka.h>

#define MS INT64_C(1000000)
#define S (1000 * MS)
#define YEAR (INT64_C(365) * 86400 * S)

static struct fake_clock f;
static struct clockstep s;

static int start(void **state)
{
    (void)state;
    fake_clock_init(&f, INT64_C(1800000000) * S, 77 * S);
    clockstep_init(&s, &f.c);
    return 0;
}

/* 50 ms pass, as between two looks of the sweep. */
static bool look(int64_t *expected)
{
    fake_clock_advance(&f, 50 * MS);
    return clockstep_look(&s, &f.c, expected);
}

static void a_clock_that_runs_is_no_step(void **state)
{
    int64_t expected;
    (void)state;
    for (int i = 0; i < 100000; i++) {
        fake_clock_step_wall(&f, i % 2 ? 25000 : 15000); /* 400 ppm: a time service slews it, by 2 s in all */
        assert_false(look(&expected));
    }
    assert_true(clockstep_settled(&s, &f.c, 3600 * 1000));
}

static void a_step_is_seen_once_and_says_what_was_expected(void **state)
{
    static const int64_t steps[] = {10 * YEAR, -10 * YEAR, 3600 * S, -3600 * S, CLOCKSTEP_MIN_MS * MS, -CLOCKSTEP_MIN_MS * MS};
    (void)state;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        int64_t expected = 0, before = clock_wall_ns(&f.c);
        fake_clock_step_wall(&f, steps[i]);
        assert_true(look(&expected));
        assert_int_equal(expected, before + 50 * MS);
        assert_false(look(&expected));
    }
}

static void less_than_the_least_is_none(void **state)
{
    int64_t expected;
    (void)state;
    fake_clock_step_wall(&f, CLOCKSTEP_MIN_MS * MS - 1);
    assert_false(look(&expected));
    fake_clock_step_wall(&f, S); /* and is not forgotten: the next one comes on top */
    assert_true(look(&expected));
}

static void a_clock_that_stands_still_is_a_few_records_and_then_one_a_minute(void **state)
{
    int64_t expected;
    int seen = 0;
    (void)state;
    for (int i = 0; i < 3600 * 20; i++) { /* an hour */
        fake_clock_step_wall(&f, -50 * MS);
        seen += look(&expected);
    }
    assert_in_range(seen, CLOCKSTEP_BURST + 55, CLOCKSTEP_BURST + 61);
    assert_false(clockstep_settled(&s, &f.c, 3600 * 1000));
}

static void it_is_steady_when_it_was_watched_for_as_long_as_it_did_not_step(void **state)
{
    int64_t expected;
    (void)state;
    assert_true(clockstep_settled(&s, &f.c, 60000)); /* no step was seen; but it was not looked at either */
    assert_false(clockstep_steady(&s, &f.c, 60000));
    fake_clock_advance(&f, 60 * S - MS);
    assert_false(clockstep_steady(&s, &f.c, 60000));
    fake_clock_advance(&f, MS);
    assert_true(clockstep_steady(&s, &f.c, 60000));
    fake_clock_step_wall(&f, 3600 * S);
    assert_true(look(&expected));
    assert_false(clockstep_steady(&s, &f.c, 60000));
    fake_clock_advance(&f, 60 * S - MS);
    assert_false(clockstep_steady(&s, &f.c, 60000));
    fake_clock_advance(&f, MS);
    assert_true(clockstep_steady(&s, &f.c, 60000));
}

/* A clock whose reading takes a while, as for a thread that was put aside in the middle of it. */
static int64_t slow_ns;
static int64_t slow_wall(const struct clock *c)
{
    int64_t now = atomic_load(&((const struct fake_clock *)c)->wall);
    fake_clock_advance(&f, slow_ns);
    return now;
}

static void two_readings_far_apart_are_no_step(void **state)
{
    int64_t expected;
    (void)state;
    f.c.wall_ns = slow_wall;
    slow_ns = 5 * S;
    for (int i = 0; i < 10; i++)
        assert_false(look(&expected));
    slow_ns = 0;
    assert_false(look(&expected));
    fake_clock_step_wall(&f, 3 * S); /* the twin */
    assert_true(look(&expected));
}

static void settled_means_by_the_boot_clock(void **state)
{
    int64_t expected;
    (void)state;
    fake_clock_step_wall(&f, 10 * YEAR);
    assert_true(look(&expected));
    assert_false(clockstep_settled(&s, &f.c, 1000));
    fake_clock_advance(&f, S);
    assert_true(clockstep_settled(&s, &f.c, 1000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_clock_that_runs_is_no_step, start),
        cmocka_unit_test_setup(a_step_is_seen_once_and_says_what_was_expected, start),
        cmocka_unit_test_setup(less_than_the_least_is_none, start),
        cmocka_unit_test_setup(a_clock_that_stands_still_is_a_few_records_and_then_one_a_minute, start),
        cmocka_unit_test_setup(two_readings_far_apart_are_no_step, start),
        cmocka_unit_test_setup(settled_means_by_the_boot_clock, start),
        cmocka_unit_test_setup(it_is_steady_when_it_was_watched_for_as_long_as_it_did_not_step, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
