#include "base/clock.h"

#include "tests/unit/base/testing.h"

#include <time.h>

static void test_system_clock(void **state)
{
    struct timespec before, after;

    (void)state;
    (void)clock_gettime(CLOCK_REALTIME, &before);
    int64_t now = clock_unix_s(&clock_system);
    (void)clock_gettime(CLOCK_REALTIME, &after);
    assert_true(before.tv_sec <= now && now <= after.tv_sec);
    int64_t b1 = clock_boot_ns(&clock_system), b2 = clock_boot_ns(&clock_system);
    assert_true(b1 > 0 && b2 >= b1);
    (void)clock_gettime(CLOCK_BOOTTIME, &after);
    assert_true(clock_boot_ms(&clock_system) >= after.tv_sec * 1000);
}

static void test_fake_clock_moves_only_when_told(void **state)
{
    struct fake_clock f;

    (void)state;
    fake_clock_init(&f, 1000000000, 5);
    assert_int_equal(clock_unix_s(&f.c), 1);
    assert_int_equal(clock_boot_ns(&f.c), 5);
    fake_clock_advance(&f, 2000000000);
    assert_int_equal(clock_unix_s(&f.c), 3);
    assert_int_equal(clock_boot_ms(&f.c), 2000);
    fake_clock_step_wall(&f, -3000000000); /* an operator sets the clock back */
    assert_int_equal(clock_unix_s(&f.c), 0);
    assert_int_equal(clock_boot_ms(&f.c), 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_system_clock),
        cmocka_unit_test(test_fake_clock_moves_only_when_told),
    };
    return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
