/*
 * Purpose: what every unit test of base/ includes, and two helpers: a broken invariant and the exact error.
 * Owns: nothing. Threads: one. Errors: fail the test. Limits: none. Secrets: none.
 */
#ifndef TESTS_UNIT_BASE_TESTING_H
#define TESTS_UNIT_BASE_TESTING_H

#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static inline void assert_err(struct result r, const struct err *e, enum err_code code, const char *reason)
{
    assert_int_equal(r.failed, 1);
    assert_string_equal(err_name(e->code), err_name(code));
    if (reason != NULL)
        assert_string_equal(e->reason, reason);
    else
        assert_null(e->reason);
}

#define assert_ok(expr)                                                                                                \
    do {                                                                                                               \
        if ((expr).failed) {                                                                                           \
            char text_[512];                                                                                           \
            fail_msg("%s", err_log_text(&e, text_, sizeof(text_)));                                                    \
        }                                                                                                              \
    } while (0)

/* Runs body in a process of its own and expects it to stop with SIGABRT after "invariant failed" on stderr. */
static inline void assert_invariant(void (*body)(void))
{
    char text[512] = "";
    int fds[2], status;
    pid_t pid;

    assert_int_equal(pipe(fds), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(fds[1], STDERR_FILENO);
        (void)signal(SIGABRT, SIG_DFL);
        body();
        _exit(0);
    }
    (void)close(fds[1]);
    assert_true(read(fds[0], text, sizeof(text) - 1) >= 0);
    (void)close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_non_null(strstr(text, "invariant failed"));
}

#endif
