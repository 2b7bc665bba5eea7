/*
 * Purpose: token bucket in whole milliseconds: a burst, a rate, refunds, and since when it has been running dry.
 * Owns:    nothing. Threads: the caller's. Errors: none.
 * Errors:  bucket_take answers false and says how long to wait.
 * Limits:  tokens are kept in thousandths; burst at most 2^31 / 1000.
 * Secrets: none.
 */
#ifndef FRONT_BUCKET_H
#define FRONT_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

struct bucket_limit {
    uint32_t burst;    /* tokens */
    uint32_t per_s;    /* tokens a second */
};
struct bucket {
    int64_t at_ms;    /* last refill */
    int64_t dry_ms;   /* running dry since then; 0: it is not */
    int64_t milli;    /* thousandths of a token */
};

static inline void bucket_init(struct bucket *b, const struct bucket_limit *l, int64_t now_ms)
{
    *b = (struct bucket){.at_ms = now_ms, .milli = (int64_t)l->burst * 1000};
}

static inline void bucket_add(struct bucket *b, const struct bucket_limit *l, int64_t milli)
{
    int64_t full = (int64_t)l->burst * 1000;
    b->milli = b->milli + milli < full ? b->milli + milli : full;
}

static inline void bucket_refill(struct bucket *b, const struct bucket_limit *l, int64_t now_ms)
{
    int64_t dt = now_ms - b->at_ms;
    if (dt <= 0)
        return;
    if (dt > 3600000) /* an hour fills any bucket; keeps the product small */
        dt = 3600000;
    b->at_ms = now_ms;
    bucket_add(b, l, dt * (int64_t)l->per_s);
    if (b->milli >= (int64_t)l->burst * 500)
        b->dry_ms = 0; /* half full again: the excess is over */
}

/* Takes one token, or says how many ms to wait (at least 1) and notes since when the bucket is dry. */
static inline bool bucket_take(struct bucket *b, const struct bucket_limit *l, int64_t now_ms, int64_t *wait_ms)
{
    bucket_refill(b, l, now_ms);
    if (b->milli >= 1000) {
        b->milli -= 1000;
        return true;
    }
    if (b->dry_ms == 0)
        b->dry_ms = now_ms;
    *wait_ms = l->per_s == 0 ? 1000 : (1000 - b->milli + (int64_t)l->per_s - 1) / (int64_t)l->per_s;
    return false;
}

#endif
