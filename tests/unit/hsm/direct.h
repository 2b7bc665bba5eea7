/* The token without the hsm process: opened in this one, with a clock that the test moves and a verifier. */
#ifndef TESTS_UNIT_HSM_DIRECT_H
#define TESTS_UNIT_HSM_DIRECT_H

#include "tests/unit/hsm/shim.h"

/* One module can be initialised once in a process: the tests take turns with one token each. */
struct world {
    struct fixture f;
    struct token t;
    struct fake_clock clock;
};
static struct verifier verifier;

/* A token that is there, and not yet opened. */
static inline struct world *world_new(void)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    fixture_make(&w->f);
    fake_clock_init(&w->clock, 1700000000000000000, 5000000000);
    return w;
}
/* Behind the shim of tests/hardware, and opened. */
static inline struct world *world_on_shim(void)
{
    static char shim[256]; /* kept by the token */
    struct world *w = world_new();
    shim_attach(&w->f);
    shim_path(shim);
    struct token_setup s = fixture_setup(&w->f, &w->clock.c);
    s.module_path = shim;
    OK(token_init(&w->t, &s, &e));
    OK(token_open(&w->t, &e));
    return w;
}
static inline int world_free(void **state)
{
    struct world *w = *state;
    token_release(&w->t);
    fixture_remove(&w->f);
    free(w);
    return 0;
}

/* What its first master key gives for made-up fields: the caller's to free. */
static inline struct secret *world_derive(struct world *w)
{
    CLEANUP(buf_release) struct buf in = {0};
    struct secret *key = NULL;
    tenant_kek_input(&in);
    OK(ops_derive(&w->t, HSM_MASTER, 1, buf_bytes(&in), &key, &e));
    return key;
}

/* First in main: before the module, threads and secrets, as in the hsm process. */
static inline bool world_begin(size_t slots)
{
    struct err e = {0};
    return !verifier_start(&verifier, NULL, &e).failed && !secret_slab_init(slots, &e).failed;
}
static inline _Noreturn void world_end(int failed)
{
    verifier_stop(&verifier);
    (void)fflush(NULL);
    _exit(failed); /* SoftHSM crashes in exit handlers */
}

#endif
