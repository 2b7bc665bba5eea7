/* Debian's abseil aborts on locks taken in turn, by a graph that never shrinks: it does (or this file is not needed any more), and
 * not after we have switched it off. */
#include "vault/rpc/abseil.h"

#include <grpc/support/sync.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* One thread, so nothing can hang: only the order is of a kind that could. */
static void lock_in_turn(void)
{
    static gpr_mu a, b;
    gpr_mu_init(&a);
    gpr_mu_init(&b);
    for (int turn = 0; turn < 2; turn++) {
        gpr_mu_lock(turn ? &b : &a);
        gpr_mu_lock(turn ? &a : &b);
        gpr_mu_unlock(&a);
        gpr_mu_unlock(&b);
    }
}

static int end_of(bool quiet)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        const struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGABRT, SIG_DFL); /* cmocka's own would go on from here */
        (void)!freopen("/dev/null", "w", stderr); /* it says much */
        if (quiet && !abseil_no_deadlock_graph())
            _exit(2);
        lock_in_turn();
        _exit(0);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void locks_in_turn_abort_as_debian_builds_it(void **state)
{
    (void)state;
    int status = end_of(false);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

static void and_not_once_that_is_off(void **state)
{
    (void)state;
    int status = end_of(true);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(locks_in_turn_abort_as_debian_builds_it),
        cmocka_unit_test(and_not_once_that_is_off),
    };
    return cmocka_run_group_tests_name("vault/rpc/abseil", tests, NULL, NULL);
}
