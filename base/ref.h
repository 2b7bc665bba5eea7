/*
 * Purpose: a count of references that several threads take and drop: whoever drops the last one frees.
 * Owns:    nothing: struct ref lies in what it counts. Threads: any.
 * Errors:  a reference taken of something that nobody holds any more is INVARIANT, as is one dropped too often.
 * Limits:  UINT_MAX / 2 references. Secrets: none.
 */
#ifndef BASE_REF_H
#define BASE_REF_H

#include "base/err.h"

#include <limits.h>
#include <stdatomic.h>

struct ref {
    atomic_uint n;
};

static inline void ref_init(struct ref *r) /* the caller's own */
{
    atomic_init(&r->n, 1);
}

/* The caller holds one, or keeps the last from being dropped meanwhile: nothing has to be seen but the number. */
static inline void ref_take(struct ref *r)
{
    const unsigned before = atomic_fetch_add_explicit(&r->n, 1, memory_order_relaxed);
    INVARIANT(before > 0 && before < UINT_MAX / 2);
}

/* True: it was the last. What the others did with it before they dropped theirs has been done by then. */
static inline bool ref_drop(struct ref *r)
{
    const unsigned before = atomic_fetch_sub_explicit(&r->n, 1, memory_order_acq_rel);
    INVARIANT(before > 0);
    return before == 1;
}

#endif
