/* Checks that are counted, for capable.c and served.c: the first one that does not hold ends the program (give_up). */
#ifndef TESTS_HARDWARE_CHECKS_H
#define TESTS_HARDWARE_CHECKS_H

#include "base/err.h"

#include <stdio.h>
#include <string.h>

static unsigned checks;
static _Noreturn void give_up(void); /* the program's own way out, with exit code 1 */

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            broken(__LINE__, #condition, NULL);                                                                        \
        checks++;                                                                                                      \
    } while (0)
#define WORKS(call)                                                                                                    \
    do {                                                                                                               \
        struct err e = {0};                                                                                            \
        if ((call).failed)                                                                                             \
            broken(__LINE__, #call, &e);                                                                               \
        checks++;                                                                                                      \
    } while (0)
#define DENIES(want_code, want_reason, call)                                                                           \
    do {                                                                                                               \
        struct err e = {0};                                                                                            \
        if (!(call).failed || e.code != (want_code) || strcmp(e.reason != NULL ? e.reason : "", (want_reason)) != 0)   \
            broken(__LINE__, #call, &e);                                                                               \
        checks++;                                                                                                      \
    } while (0)

static inline _Noreturn void broken(int line, const char *what, const struct err *e)
{
    printf("BROKEN line %d: %s: %s/%s %s\n", line, what, e != NULL ? err_name(e->code) : "", e != NULL && e->reason ? e->reason : "",
           e != NULL ? e->detail : "");
    give_up();
}

/* The first operation of a group: true, or the group says why not. */
static inline bool begins(const char *group, struct result r, const struct err *e)
{
    checks = 1;
    if (r.failed)
        printf("%s cannot: %s %s %s\n", group, err_name(e->code), e->reason, e->detail);
    return !r.failed;
}

static inline bool ran(const char *group)
{
    printf("%s ran: %u checks\n", group, checks);
    return true;
}

#endif
