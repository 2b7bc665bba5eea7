#include "base/secret.h"

#include "base/confine_build.h"
#include "tests/unit/base/testing.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

enum { SLOTS = 64 };

static int setup(void **state)
{
    struct err e;

    (void)state;
    return secret_slab_init(SLOTS, &e).failed;
}

static int teardown(void **state)
{
    (void)state;
    secret_slab_release(); /* INVARIANT when a test leaked */
    return 0;
}

static void test_holds_and_wipes(void **state)
{
    struct secret *s, *t;
    struct err e;

    (void)state;
    assert_ok(secret_from("0123456789abcdef", 16, &s, &e));
    assert_int_equal(secret_len(s), 16);
    assert_memory_equal(secret_borrow(s), "0123456789abcdef", 16);
    assert_ok(secret_dup(s, &t, &e));
    assert_ptr_not_equal(s, t);
    assert_true(secret_equal(s, t));
    secret_borrow_mut(t)[15] ^= 1;
    assert_false(secret_equal(s, t));
    const volatile uint8_t *raw = secret_borrow(s);
    secret_free(s);
    for (int i = 0; i < 16; i++)
        assert_int_equal(raw[i], 0);
    secret_freep(&t);
    assert_null(t);
    secret_free(NULL);
    assert_ok(secret_new(32, &s, &e));
    for (int i = 0; i < 32; i++)
        assert_int_equal(secret_borrow(s)[i], 0);
    assert_ok(secret_new(31, &t, &e));
    assert_false(secret_equal(s, t)); /* all zero, but of other length */
    secret_free(s);
    secret_free(t);
}

static void test_limits(void **state)
{
    struct secret *all[SLOTS], *more = NULL;
    struct err e;

    (void)state;
    assert_err(secret_new(0, &more, &e), &e, ERR_INVALID, "SECRET_LENGTH");
    assert_err(secret_new(SECRET_MAX_BYTES + 1, &more, &e), &e, ERR_INVALID, "SECRET_LENGTH");
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < SLOTS; i++)
            assert_ok(secret_new(1 + i, &all[i], &e));
        assert_int_equal(secret_stats().used, SLOTS);
        assert_err(secret_new(1, &more, &e), &e, ERR_EXHAUSTED, "SECRET_SLOTS");
        assert_null(more);
        for (size_t i = 0; i < SLOTS; i++)
            secret_free(all[(i * 7) % SLOTS]);
    }
    assert_int_equal(secret_stats().used, 0);
    assert_int_equal(secret_stats().slots, SLOTS);
    assert_true(secret_stats().locked_bytes >= SLOTS * SECRET_MAX_BYTES);
}

static void free_twice(void)
{
    struct secret *s;
    struct err e;
    if (secret_new(8, &s, &e).failed)
        return;
    secret_free(s);
    secret_free(s);
}

static void use_after_free(void)
{
    struct secret *s;
    struct err e;
    if (secret_new(8, &s, &e).failed)
        return;
    secret_free(s);
    (void)secret_borrow(s);
}

static void write_past_end(void)
{
    struct secret *s;
    struct err e;
    if (secret_new(8, &s, &e).failed)
        return;
    ((volatile uint8_t *)secret_borrow_mut(s))[8] = 1;
    secret_free(s);
}

static void write_after_free(void)
{
    struct secret *s;
    struct err e;
    if (secret_new(8, &s, &e).failed)
        return;
    volatile uint8_t *p = secret_borrow_mut(s);
    secret_free(s);
    p[3] = 1;
    for (int i = 0; i < SLOTS; i++)
        if (secret_new(8, &s, &e).failed)
            return;
}

static void free_foreign(void)
{
    static char not_a_secret[SECRET_MAX_BYTES];
    secret_free((struct secret *)(void *)not_a_secret);
}

static void test_misuse_stops_the_process(void **state)
{
    (void)state;
    assert_invariant(free_twice);
    assert_invariant(use_after_free);
    assert_invariant(write_past_end);
    assert_invariant(write_after_free);
    assert_invariant(free_foreign);
}

/* What /proc says of the slab: locked, not dumped, wiped on fork, and guarded on both sides. */
/* The memory that p lies in: locked, out of core dumps, zeros for a fork, between pages that nobody can touch. */
static void assert_guarded(const void *p)
{
    char line[512], vm_flags[512] = "";
    unsigned long lo = 0, hi = 0, locked_kib = 0, start = 0, stop = 0, before_hi = 0, after_lo = 0;
    char perms[8], before_perms[8] = "", after_perms[8] = "", previous[8] = "";
    bool mine = false;

    FILE *f = fopen("/proc/self/smaps", "re");
    assert_non_null(f);
    unsigned long previous_hi = 0;
    while (fgets(line, sizeof(line), f) != NULL) {
        if (sscanf(line, "%lx-%lx %7s", &lo, &hi, perms) == 3) {
            if (mine) {
                after_lo = lo;
                (void)snprintf(after_perms, sizeof(after_perms), "%s", perms);
            }
            mine = lo <= (uintptr_t)p && (uintptr_t)p < hi;
            if (mine) {
                start = lo;
                stop = hi;
                before_hi = previous_hi;
                (void)snprintf(before_perms, sizeof(before_perms), "%s", previous);
            }
            previous_hi = hi;
            (void)snprintf(previous, sizeof(previous), "%s", perms);
        }
        else if (mine && sscanf(line, "Locked: %lu kB", &locked_kib) != 1 && strncmp(line, "VmFlags:", 8) == 0) {
            (void)snprintf(vm_flags, sizeof(vm_flags), "%s", line);
        }
    }
    (void)fclose(f);
    assert_int_equal(locked_kib * 1024, stop - start);
    assert_non_null(strstr(vm_flags, " lo"));
    assert_non_null(strstr(vm_flags, " dd"));
    assert_non_null(strstr(vm_flags, " wf"));
    assert_int_equal(before_hi, start);
    assert_string_equal(before_perms, "---p");
    assert_int_equal(after_lo, stop);
    assert_string_equal(after_perms, "---p");
}

static void test_memory_is_guarded(void **state)
{
    struct secret *s;
    struct err e;

    (void)state;
    assert_ok(secret_new(1, &s, &e));
    assert_guarded(s);
    secret_free(s);
}

/* What is longer than a slot: the same memory, zeros at first, every byte of it ours, and gone when it is freed. */
static void test_pages(void **state)
{
    enum { BYTES_WANTED = 3 * 4096 + 1 };
    struct err e;
    uint8_t *p, *q;
    unsigned char resident;

    (void)state;
    assert_ok(secret_pages_new(BYTES_WANTED, &p, &e));
    assert_ok(secret_pages_new(1, &q, &e));
    for (size_t i = 0; i < BYTES_WANTED; i++)
        assert_int_equal(p[i], 0);
    memset(p, 0xa5, BYTES_WANTED);
    assert_guarded(p);
    assert_guarded(q);
    secret_pages_free(q, 1);
    secret_pages_free(p, BYTES_WANTED);
    secret_pages_free(NULL, 1);
    assert_int_equal(mincore(p, 4096, &resident), -1); /* nothing is mapped there any more; memcheck lets one ask this way */
    assert_int_equal(errno, ENOMEM);
}

static void test_a_fork_finds_nothing(void **state)
{
    struct secret *s;
    struct err e;
    int status;

    (void)state;
    assert_ok(secret_from("key", 3, &s, &e));
    pid_t pid = fork();
    if (pid == 0) {
        const uint8_t *p = secret_borrow(s);
        _exit(p[0] == 0 && p[1] == 0 && p[2] == 0 ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_memory_equal(secret_borrow(s), "key", 3);
    secret_free(s);
}

static struct result read_text(const char *text, size_t n, struct secret **ret, struct err *e)
{
    int fds[2];
    struct result r;

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], text, n), (ssize_t)n);
    (void)close(fds[1]);
    r = secret_read_fd(fds[0], ret, e);
    (void)close(fds[0]);
    return r;
}

static void test_read_fd(void **state)
{
    char longest[SECRET_MAX_BYTES + 3];
    struct secret *s = NULL;
    struct err e;

    (void)state;
    memset(longest, 'p', sizeof(longest));
    assert_ok(read_text("4711", 4, &s, &e));
    assert_int_equal(secret_len(s), 4);
    secret_free(s);
    assert_ok(read_text("4711\n", 5, &s, &e));
    assert_int_equal(secret_len(s), 4);
    secret_free(s);
    assert_ok(read_text("4711\n\n", 6, &s, &e)); /* one newline is dropped, not all */
    assert_int_equal(secret_len(s), 5);
    secret_free(s);
    assert_ok(read_text(longest, SECRET_MAX_BYTES, &s, &e));
    assert_int_equal(secret_len(s), SECRET_MAX_BYTES);
    secret_free(s);
    longest[SECRET_MAX_BYTES] = '\n';
    assert_ok(read_text(longest, SECRET_MAX_BYTES + 1, &s, &e));
    assert_int_equal(secret_len(s), SECRET_MAX_BYTES);
    secret_free(s);
    s = NULL;
    assert_err(read_text(longest, SECRET_MAX_BYTES + 2, &s, &e), &e, ERR_INVALID, "SECRET_LENGTH");
    longest[SECRET_MAX_BYTES] = 'p';
    assert_err(read_text(longest, SECRET_MAX_BYTES + 1, &s, &e), &e, ERR_INVALID, "SECRET_LENGTH");
    assert_err(read_text("", 0, &s, &e), &e, ERR_INVALID, "SECRET_LENGTH");
    assert_err(read_text("\n", 1, &s, &e), &e, ERR_INVALID, "SECRET_LENGTH");
    assert_err(secret_read_fd(-1, &s, &e), &e, ERR_UNAVAILABLE, "SECRET_READ");
    assert_null(s);
    assert_int_equal(secret_stats().used, 0);
}

static void *churn(void *arg)
{
    uint8_t tag = (uint8_t)(uintptr_t)arg;
    struct secret *s[4];
    struct err e;

    for (int i = 0; i < 3000; i++) {
        for (size_t k = 0; k < 4; k++) {
            if (secret_new(1 + (size_t)(i + (int)k) % SECRET_MAX_BYTES, &s[k], &e).failed)
                return (void *)1;
            memset(secret_borrow_mut(s[k]), tag, secret_len(s[k]));
        }
        for (size_t k = 0; k < 4; k++) {
            if (secret_borrow(s[k])[secret_len(s[k]) - 1] != tag)
                return (void *)2;
            secret_free(s[k]);
        }
    }
    return NULL;
}

static void test_threads_share_the_slab(void **state)
{
    pthread_t t[4];

    (void)state;
    for (uintptr_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, churn, (void *)(i + 1)), 0);
    for (size_t i = 0; i < 4; i++) {
        void *result;
        assert_int_equal(pthread_join(t[i], &result), 0);
        assert_null(result);
    }
    assert_int_equal(secret_stats().used, 0);
}

/* In a process of its own: limits cannot be given back, and the capability to ignore them must be gone. */
static void test_start_fails_without_locked_memory(void **state)
{
    int status;
    pid_t pid;

    (void)state;
    pid = fork();
    if (pid == 0) {
        const struct rlimit small = {4096, 4096};
        struct err e;
        secret_slab_release();
        if (setrlimit(RLIMIT_MEMLOCK, &small) != 0 || (geteuid() == 0 && setuid(65534) != 0))
            _exit(3);
        uint8_t *p;
        if (!secret_slab_init(1024, &e).failed || !secret_pages_new(131072, &p, &e).failed)
            _exit(4);
        _exit(e.code == ERR_EXHAUSTED && strcmp(e.reason, "SECRET_MEMORY") == 0 && strstr(e.detail, "ulimit -l") != NULL ? 0 : 5);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_harden(void **state)
{
    int status;
    pid_t pid;

    (void)state;
    if (confine_is_sanitizer_build())
        skip();
    pid = fork();
    if (pid == 0) {
        struct rlimit l;
        struct err e;
        if (secret_process_harden(&e).failed)
            _exit(1);
        _exit(getrlimit(RLIMIT_CORE, &l) == 0 && l.rlim_max == 0 && prctl(PR_GET_DUMPABLE, 0L, 0L, 0L, 0L) == 0 ? 0 : 2);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_holds_and_wipes),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_misuse_stops_the_process),
        cmocka_unit_test(test_memory_is_guarded),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_a_fork_finds_nothing),
        cmocka_unit_test(test_read_fd),
        cmocka_unit_test(test_threads_share_the_slab),
        cmocka_unit_test(test_start_fails_without_locked_memory),
        cmocka_unit_test(test_harden),
    };
    return cmocka_run_group_tests_name("secret", tests, setup, teardown);
}
