/* The executables link wipefree.o; a test program takes it in whole. Sanitizers have their own allocator: nothing to test. */
#include "base/confine_build.h"
#include "tests/unit/base/testing.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include "base/wipefree.c"
#else
#include <malloc.h>
#endif

/* Through pointers, so that the compiler does not reason about what a freed block holds: that is what is looked at here. */
static void *(*volatile renew)(void *, size_t) = realloc;
static void (*volatile give_back)(void *) = free;

static bool zero(const volatile uint8_t *p, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        if (p[i] != 0)
            return false;
    return true;
}

/* The first 16 bytes of a freed block become the allocator's own list links. */
static void test_free_wipes(void **state)
{
    (void)state;
    if (confine_is_sanitizer_build())
        skip();
    for (size_t n = 64; n <= 4096; n *= 4) {
        uint8_t *volatile p = malloc(n);
        memset(p, 0xaa, n);
        uintptr_t where = (uintptr_t)p;
        give_back(p);
        assert_true(zero((const volatile uint8_t *)where, 32, n));
    }
    give_back(NULL);
}

static void test_realloc_wipes_what_it_leaves(void **state)
{
    (void)state;
    if (confine_is_sanitizer_build())
        skip();
    uint8_t *p = malloc(256);
    memset(p, 0xaa, 256);
    uintptr_t old = (uintptr_t)p;
    uint8_t *q = renew(p, 8192);
    assert_non_null(q);
    for (size_t i = 0; i < 256; i++)
        assert_int_equal(q[i], 0xaa);
    if ((uintptr_t)q != old)
        assert_true(zero((const volatile uint8_t *)old, 32, 256));
    uint8_t *r = renew(q, 6000);
    assert_ptr_equal(r, q); /* shrunk in place */
    for (size_t i = 0; i < 256; i++)
        assert_int_equal(r[i], 0xaa);
    assert_true(zero(r, 6000, 8192));
    q = renew(r, 100); /* far smaller: moved, and the old block wiped */
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(q[i], 0xaa);
    give_back(q);
    p = renew(NULL, 10);
    assert_non_null(p);
    assert_null(renew(p, 0));
}

static void test_errno_survives(void **state)
{
    void *p = malloc(1 << 22); /* beyond the mmap threshold: free calls munmap */

    (void)state;
    errno = EXDEV;
    give_back(p);
    assert_int_equal(errno, EXDEV);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_free_wipes),
        cmocka_unit_test(test_realloc_wipes_what_it_leaves),
        cmocka_unit_test(test_errno_survives),
    };
    return cmocka_run_group_tests_name("wipefree", tests, NULL, NULL);
}
