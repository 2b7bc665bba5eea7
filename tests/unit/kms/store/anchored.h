/*
 * Purpose: a store with a floor in a second place, which is the test's own.
 * Owns: the place. Threads: one. Errors: a failed set-up fails the test. Limits: one at a time. Secrets: none.
 */
#ifndef TESTS_UNIT_KMS_STORE_ANCHORED_H
#define TESTS_UNIT_KMS_STORE_ANCHORED_H

#include "tests/unit/kms/store/edit.h"

static struct place place;
static inline int setup(void **state)
{
    static struct fx f;
    fx_init(&f);
    place_init(&place);
    f.o.anchor = &place.io;
    assert_false(store_create(&f.o, &f.e).failed);
    fx_open(&f);
    *state = &f;
    return 0;
}
static inline int teardown(void **state)
{
    fx_stop(*state);
    return 0;
}

#endif
