/* The locked arena: zeroed, wiped on return, zero in a fork, exhausted in the open; and OpenSSL's hooks refused when too late. */
#include "vectors.h"

#include "kms/crypto/cipher.h"
#include "kms/crypto/lockmem.h"

#include <sys/wait.h>
#include <unistd.h>

static bool all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != 0)
            return false;
    return true;
}

static void slots_are_zero_and_wiped(void **state)
{
    (void)state;
    uint8_t *p = lockmem_take(LOCKMEM_SLOT_BYTES);
    assert_non_null(p);
    assert_true(lockmem_owns(p) && lockmem_owns(p + LOCKMEM_SLOT_BYTES - 1));
    assert_int_equal((uintptr_t)p % 16, 0);
    assert_true(all_zero(p, LOCKMEM_SLOT_BYTES));
    memset(p, 0xa5, LOCKMEM_SLOT_BYTES);
    lockmem_give(p);
    assert_true(all_zero(p, LOCKMEM_SLOT_BYTES)); /* the arena stays mapped, so this may be looked at */
    int here;
    assert_false(lockmem_owns(&here));
}

static void too_large_or_too_many_is_null(void **state)
{
    (void)state;
    void *all[LOCKMEM_SLOTS];
    size_t n = 0;
    assert_null(lockmem_take(LOCKMEM_SLOT_BYTES + 1));
    for (void *p; n < LOCKMEM_SLOTS && (p = lockmem_take(1)) != NULL; n++)
        all[n] = p;
    assert_int_equal(lockmem_used(), LOCKMEM_SLOTS);
    assert_null(lockmem_take(1));
    while (n > 0)
        lockmem_give(all[--n]);
    assert_int_equal(lockmem_used(), 0);
}

static void a_fork_finds_zeros(void **state)
{
    (void)state;
    uint8_t *p = lockmem_take(64);
    memset(p, 0xa5, 64);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(all_zero(p, 64) ? 0 : 1);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(p[0], 0xa5);
    lockmem_give(p);
}

/* The kernel's own word: the arena is locked, left out of dumps, and wiped on fork. */
static void the_kernel_agrees(void **state)
{
    (void)state;
    void *p = lockmem_take(1);
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512], flags[512] = "";
    unsigned long from = 0, to = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        unsigned long a, b;
        if (sscanf(line, "%lx-%lx ", &a, &b) == 2)
            from = a, to = b;
        if (strncmp(line, "VmFlags:", 8) == 0 && (unsigned long)(uintptr_t)p >= from && (unsigned long)(uintptr_t)p < to)
            memcpy(flags, line, sizeof flags);
    }
    fclose(f);
    assert_non_null(strstr(flags, " lo"));
    assert_non_null(strstr(flags, " dd"));
    assert_non_null(strstr(flags, " wf"));
    lockmem_give(p);
}

static void refused_after_openssl_was_used(void **state)
{
    (void)state;
    struct err e;
    uint8_t key[32] = {0}, in[32] = {0}, out[32];
    assert_int_equal(code_of(cipher_memory_init(LOCKMEM_SLOTS, &e), &e), ERR_OUT_OF_RANGE);
    cipher_aes256_blocks(key, in, out);
    assert_int_equal(code_of(cipher_memory_init(8, &e), &e), ERR_STATE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_are_zero_and_wiped),
        cmocka_unit_test(too_large_or_too_many_is_null),
        cmocka_unit_test(a_fork_finds_zeros),
        cmocka_unit_test(the_kernel_agrees),
        cmocka_unit_test(refused_after_openssl_was_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
