#include "base/clock.h"

#include "tests/unit/base/testing.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

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

/* ---- the boot id ------------------------------------------------------------------------------------------------------ */
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
ssize_t __real_read(int fd, void *p, size_t n);
ssize_t __wrap_read(int fd, void *p, size_t n);
static bool no_open;
static const char *instead; /* what read finds */
static unsigned faults;
int __wrap_open(const char *path, int flags, ...)
{
    faults += no_open;
    if (!no_open)
        return __real_open(path, flags);
    errno = EACCES;
    return -1;
}
ssize_t __wrap_read(int fd, void *p, size_t n)
{
    if (instead == NULL)
        return __real_read(fd, p, n);
    size_t have = strlen(instead) < n ? strlen(instead) : n;
    faults++;
    memcpy(p, instead, have);
    return (ssize_t)have;
}

static void test_the_boot_has_an_id(void **state)
{
    static const uint8_t none[BOOT_ID_BYTES], said[] = {0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff};
    uint8_t a[BOOT_ID_BYTES], b[BOOT_ID_BYTES];

    (void)state;
    assert_true(clock_boot_id(a));
    assert_true(clock_boot_id(b));
    assert_memory_equal(a, b, sizeof a);
    assert_memory_not_equal(a, none, sizeof a);
    instead = "00112233-4455-6677-8899-aabbccddeeff\n";
    assert_true(clock_boot_id(a));
    instead = NULL;
    assert_memory_equal(a, said, sizeof a);
}

static void test_what_cannot_be_read_is_no_boot(void **state)
{
    static const char *const not_ours[] = {"", "00112233", "00112233-4455-6677-8899-aabbccddee", "00112233-4455-6677-8899-aabbccddeefg",
                                           "------------------------------------", "00112233445566778899aabbccddeeff0011"};
    static const uint8_t none[BOOT_ID_BYTES];
    uint8_t id[BOOT_ID_BYTES];

    (void)state;
    for (size_t i = 0; i < sizeof not_ours / sizeof not_ours[0]; i++) {
        memset(id, 1, sizeof id);
        instead = not_ours[i];
        bool read_it = clock_boot_id(id);
        instead = NULL;
        assert_false(read_it);
        assert_memory_equal(id, none, sizeof id);
    }
    memset(id, 1, sizeof id);
    faults = 0;
    no_open = true;
    bool read_it = clock_boot_id(id);
    no_open = false;
    assert_int_equal(faults, 1);
    assert_false(read_it);
    assert_memory_equal(id, none, sizeof id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_system_clock),
        cmocka_unit_test(test_fake_clock_moves_only_when_told),
        cmocka_unit_test(test_the_boot_has_an_id),
        cmocka_unit_test(test_what_cannot_be_read_is_no_boot),
    };
    return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
