/*
 * Purpose: what the fixtures of store and journal share: cmocka, the slab, a folder emptied, a store key, calls that must succeed or fail
 *          as told.
 * Owns: nothing. Threads: any. Errors: a failed set-up fails the test. Limits: a folder without folders in it. Secrets: none.
 */
#ifndef TESTS_UNIT_KMS_TESTING_H
#define TESTS_UNIT_KMS_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/secret.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A group's set-up. */
static inline int kms_slab(void **state)
{
    struct err e = {0};
    (void)state;
    return secret_slab_init(256, &e).failed;
}
static inline void kms_empty(const char *dir)
{
    char path[400];
    DIR *d = opendir(dir);
    for (struct dirent *de; d && (de = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", dir, de->d_name);
        unlink(path);
    }
    closedir(d);
}
/* For store_options: each epoch has a key of its own, and it is the same in each process. */
static inline struct result kms_store_key(void *user, uint32_t epoch, struct secret **ret, struct err *e)
{
    uint8_t k[32];
    (void)user;
    memset(k, (int)epoch, sizeof k);
    return secret_from(k, sizeof k, ret, e);
}
static inline void kms_same_reason(const char *got, const char *want /* NULL: any */)
{
    if (want)
        assert_string_equal(got ? got : "(none)", want);
}

/* Of a call that takes &f->e, where f is the fixture. */
#define assert_ok(expr)                                                                            \
    do {                                                                                           \
        if ((expr).failed) {                                                                       \
            char text_[512];                                                                       \
            fail_msg(#expr ": %s", err_log_text(&f->e, text_, sizeof text_));                      \
        }                                                                                          \
    } while (0)
#define assert_fails(expr, code_, reason_)                                                         \
    do {                                                                                           \
        f->e = (struct err){0};                                                                    \
        assert_true((expr).failed);                                                                \
        assert_string_equal(err_name(f->e.code), err_name(code_));                                 \
        kms_same_reason(f->e.reason, (reason_));                                                   \
    } while (0)

#endif
