/* Volume budgets: all or nothing, refunds, days and months, clocks that step back, what survives a restart. */
#include "kms/limit/budget.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <string.h>

static const uint8_t one[BUDGET_KEY_BYTES] = {1}, two[BUDGET_KEY_BYTES] = {2};
static const int64_t second = 1000000000, day = 86400ll * 1000000000;

static void taken(struct budgets *b, const uint8_t *key, uint64_t n)
{
    struct err e = {0};
    assert_false(budget_take(b, key, n, &e).failed);
}

static void refused(struct budgets *b, const uint8_t *key, uint64_t n, const char *reason)
{
    struct err e = {0};
    assert_true(budget_take(b, key, n, &e).failed);
    assert_int_equal(e.code, ERR_EXHAUSTED);
    assert_string_equal(e.reason, reason);
}

static void day_and_month(void **state)
{
    (void)state;
    struct fake_clock f;
    fake_clock_init(&f, 1795996800ll * second, 0); /* 2026-11-30T00:00:00Z */
    struct budgets *b = budgets_new(&f.c, 1000, 1500);
    taken(b, one, 999);
    refused(b, one, 2, "BUDGET_DAY"); /* and takes nothing: */
    taken(b, one, 1);
    refused(b, one, 1, "BUDGET_DAY");
    taken(b, two, 1000); /* another tenant's budget is its own */
    fake_clock_advance(&f, day - second);
    refused(b, one, 1, "BUDGET_DAY");
    fake_clock_advance(&f, second); /* December: day and month turn */
    taken(b, one, 1000);
    fake_clock_advance(&f, day);
    refused(b, one, 501, "BUDGET_MONTH");
    taken(b, one, 500);
    refused(b, one, UINT64_MAX, "BUDGET_DAY");
    budgets_free(b);
}

static void refunds(void **state)
{
    (void)state;
    struct fake_clock f;
    fake_clock_init(&f, day * 20000, 0);
    struct budgets *b = budgets_new(&f.c, 10, 0);
    taken(b, one, 10);
    budget_refund(b, one, 4);
    taken(b, one, 4);
    refused(b, one, 1, "BUDGET_DAY");
    budget_refund(b, two, 4); /* never below nothing */
    taken(b, two, 10);
    refused(b, two, 1, "BUDGET_DAY");
    budgets_free(b);
}

static void a_step_back_gives_nothing(void **state)
{
    (void)state;
    struct fake_clock f;
    fake_clock_init(&f, day * 20000, 0);
    struct budgets *b = budgets_new(&f.c, 10, 0);
    taken(b, one, 10);
    fake_clock_step_wall(&f, -day);
    refused(b, one, 1, "BUDGET_DAY");
    fake_clock_step_wall(&f, day);
    refused(b, one, 1, "BUDGET_DAY");
    budgets_free(b);
}

/* Begun by a clock that stood ten years ahead, a period lasts its own length of real time, and not ten years. */
static void a_period_of_the_future_ends(void **state)
{
    (void)state;
    struct fake_clock f;
    fake_clock_init(&f, day * 20000, 0);
    struct budgets *b = budgets_new(&f.c, 10, 100);
    fake_clock_step_wall(&f, 3652 * day);
    taken(b, one, 10);
    fake_clock_step_wall(&f, -3652 * day);
    for (int hour = 0; hour < 24; hour++) {
        refused(b, one, 1, "BUDGET_DAY");
        fake_clock_advance(&f, day / 24);
    }
    taken(b, one, 10); /* the day, by the boot clock */
    for (int d = 1; d < 9; d++) {
        fake_clock_advance(&f, day);
        taken(b, one, 10);
    }
    fake_clock_advance(&f, day);
    refused(b, one, 1, "BUDGET_MONTH"); /* the month is still that of the future: 100 are gone */
    fake_clock_advance(&f, 20 * day);
    refused(b, one, 1, "BUDGET_MONTH");
    fake_clock_advance(&f, 3 * day);
    taken(b, one, 10);
    budgets_free(b);
}

/* Back and forth: time ahead is counted only while it lasts. */
static void going_there_again_gives_no_other(void **state)
{
    (void)state;
    struct fake_clock f;
    fake_clock_init(&f, day * 20000, 0);
    struct budgets *b = budgets_new(&f.c, 10, 0);
    fake_clock_step_wall(&f, day);
    taken(b, one, 10);
    for (int i = 0; i < 40; i++) { /* 40 times 20 hours, but never 24 in one piece */
        fake_clock_step_wall(&f, -day);
        refused(b, one, 1, "BUDGET_DAY");
        fake_clock_advance(&f, 20 * day / 24);
        fake_clock_step_wall(&f, day - 20 * day / 24);
        refused(b, one, 1, "BUDGET_DAY");
    }
    budgets_free(b);
}

static void none_is_unlimited(void **state)
{
    (void)state;
    struct budgets *b = budgets_new(&clock_system, 0, 0);
    assert_false(budgets_active(b));
    taken(b, one, UINT64_MAX);
    taken(b, one, UINT64_MAX);
    struct budget_count out;
    assert_int_equal(budget_dirty(b, &out, 1), 0);
    budgets_free(b);
}

static void kept_over_a_restart(void **state)
{
    (void)state;
    struct fake_clock f;
    fake_clock_init(&f, day * 20000, 0);
    struct budgets *b = budgets_new(&f.c, 10, 100);
    taken(b, one, 7);
    struct budget_count out[4];
    assert_int_equal(budget_dirty(b, out, 4), 1);
    assert_int_equal(budget_dirty(b, out + 1, 3), 0); /* only what changed since */
    assert_memory_equal(out[0].key, one, sizeof one);
    assert_int_equal(out[0].day_used, 7);
    budgets_free(b);
    b = budgets_new(&f.c, 10, 100);
    budget_load(b, &out[0]);
    refused(b, one, 4, "BUDGET_DAY");
    taken(b, one, 3);
    budget_load(b, &out[0]); /* older than what runs */
    refused(b, one, 1, "BUDGET_DAY");
    budgets_free(b);
}

/* Only the one that is named, and nothing of it is given out to be kept again. */
static void forgotten(void **state)
{
    (void)state;
    struct fake_clock f;
    struct budget_count out[4];
    fake_clock_init(&f, day * 20000, 0);
    struct budgets *b = budgets_new(&f.c, 10, 100);
    budget_forget(b, one); /* of whom nothing is known */
    taken(b, one, 10);
    taken(b, two, 10);
    budget_forget(b, one);
    assert_int_equal(budget_dirty(b, out, 4), 1);
    assert_memory_equal(out[0].key, two, sizeof two);
    refused(b, two, 1, "BUDGET_DAY");
    taken(b, one, 10);
    budgets_free(b);
}

static void months_by_the_calendar(void **state)
{
    (void)state;
    static const struct { int64_t last_s; } months[] = {{1772323199}, {1709251199}, {1798761599}}; /* Feb 2026, Feb 2024, Dec 2026 */
    for (size_t i = 0; i < sizeof months / sizeof months[0]; i++) {
        struct fake_clock f;
        fake_clock_init(&f, months[i].last_s * second, 0);
        struct budgets *b = budgets_new(&f.c, 0, 5);
        taken(b, one, 5);
        refused(b, one, 1, "BUDGET_MONTH");
        fake_clock_advance(&f, second);
        taken(b, one, 5);
        budgets_free(b);
    }
}

static void *take_ones(void *arg)
{
    uint64_t got = 0;
    struct err e;
    for (int i = 0; i < 10000; i++)
        got += !budget_take(arg, one, 1, &e).failed;
    return (void *)(uintptr_t)got;
}

static void never_more_than_the_budget(void **state)
{
    (void)state;
    struct fake_clock f;
    fake_clock_init(&f, day * 20000, 0);
    struct budgets *b = budgets_new(&f.c, 25000, 0);
    pthread_t t[4];
    uintptr_t sum = 0;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, take_ones, b), 0);
    for (int i = 0; i < 4; i++) {
        void *got;
        pthread_join(t[i], &got);
        sum += (uintptr_t)got;
    }
    assert_int_equal(sum, 25000);
    budgets_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(day_and_month),      cmocka_unit_test(refunds),
        cmocka_unit_test(none_is_unlimited),  cmocka_unit_test(a_step_back_gives_nothing), cmocka_unit_test(a_period_of_the_future_ends),
        cmocka_unit_test(going_there_again_gives_no_other),
        cmocka_unit_test(kept_over_a_restart), cmocka_unit_test(forgotten), cmocka_unit_test(months_by_the_calendar),
        cmocka_unit_test(never_more_than_the_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
