/*
 * Purpose: the real kmsd-hsm, confined, over its real channels, with the monitor and core played by the test. Whoever includes this needs
 *          bin/kmsd-hsm and hardware/shim.so (tests/tests.mk).
 * Owns:    struct world: the fixture's token and folders, the process, the client. Threads: one; hammer is for more.
 * Errors:  a failed set-up fails the test. Limits: none. Secrets: none worth keeping.
 */
#ifndef TESTS_UNIT_HSM_WORLD_H
#define TESTS_UNIT_HSM_WORLD_H

#include "tests/unit/hsm/monitor.h"
#include "tests/unit/hsm/shim.h"

#include <sys/wait.h>
#include <time.h>

struct world {
    struct fixture f;
    struct monitor m;
    struct hsm *hsm;
    char shim[256];
};

static inline void connect_core(struct world *w, struct monitor *m, const char *module, bool init)
{
    int fds[2];
    OK(chan_pair(fds, &e));
    monitor_start(m, &w->f, module, NULL, init, fds[1]);
    (void)close(fds[1]);
    if (w->hsm == NULL)
        OK(hsm_client_new(fds[0], (uint64_t)slower(TIMEOUT_MS), &w->hsm, &e));
    else
        hsm_client_set_channel(w->hsm, fds[0]);
}

static inline int setup_empty(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    fixture_make(&w->f);
    binary_path("../../hardware/shim.so", w->shim);
    shim_attach(&w->f);
    *state = w;
    return 0;
}

/* A token as kmsd init leaves it, made by kmsd-hsm --init itself. */
static inline int setup(void **state)
{
    (void)setup_empty(state);
    struct world *w = *state;
    connect_core(w, &w->m, NULL, true);
    assert_true(monitor_ready(&w->m));
    OK(hsm_generate(w->hsm, HSM_MASTER, 1, &e));
    OK(hsm_generate(w->hsm, HSM_SEAL, 1, &e));
    OK(hsm_generate(w->hsm, HSM_AUDIT, 1, &e));
    assert_int_equal(monitor_drain(&w->m), 0);
    return 0;
}

static inline int teardown(void **state)
{
    struct world *w = *state;
    hsm_free(w->hsm);
    fixture_remove(&w->f);
    free(w);
    return 0;
}

static inline RESULT derive(struct world *w, struct secret **ret, struct err *e)
{
    CLEANUP(buf_release) struct buf in = {0};
    tenant_kek_input(&in);
    return hsm_derive(w->hsm, HSM_MASTER, 1, buf_bytes(&in), ret, e);
}

static inline RESULT derive_only(struct world *w, struct err *e)
{
    CLEANUP(secret_freep) struct secret *key = NULL;
    return derive(w, &key, e);
}

enum { BACK_MS = 20000 }; /* two seconds, but for a machine that has other work, too */

/* How long until it answers again; fails the test after the promise. */
static inline int64_t wait_for_service(struct world *w, int64_t promise_ms)
{
    const int64_t begin = now_ms();
    struct err e = {0};
    while (derive_only(w, &e).failed) {
        assert_int_equal(e.code, ERR_UNAVAILABLE);
        if (now_ms() - begin > promise_ms)
            fail_msg("no service for %d ms: %s", (int)(now_ms() - begin), e.detail);
        const struct timespec nap = {.tv_nsec = 10000000};
        (void)nanosleep(&nap, NULL);
    }
    return now_ms() - begin;
}

/* Calls until one is refused in these words. */
static inline void await_detail(struct world *w, const char *says)
{
    const int64_t begin = now_ms();
    for (;;) {
        struct err e = {0};
        bool refused = derive_only(w, &e).failed;
        assert_true(!refused || e.code == ERR_UNAVAILABLE);
        if (refused && strstr(e.detail, says) != NULL)
            return;
        if (now_ms() - begin > slower(60000))
            fail_msg("not refused with \"%s\" but \"%s\"", says, e.detail);
    }
}

#define FRESH(name) cmocka_unit_test_setup_teardown(name, setup_empty, teardown)
#define MADE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
