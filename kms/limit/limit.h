/*
 * Purpose: rate limits (token buckets in items per second) keyed by principal or peer, and the refusal recorder that
 *          lets the first refusals of a source through to the journal in full and counts the rest.
 * Owns:    sharded fixed-size tables; memory is bounded whatever is thrown at them.
 * Threads: any; fast lane. Errors: ERR_EXHAUSTED "RATE_LIMITED". Limits: at init. Secrets: none.
 */
#ifndef KMS_LIMIT_LIMIT_H
#define KMS_LIMIT_LIMIT_H

#include "base/bytes.h"
#include "base/clock.h"

struct limiter;
RESULT limiter_new(const struct clock *c, size_t max_keys, uint64_t per_second, uint64_t burst, struct limiter **ret,
                   struct err *e);
void limiter_free(struct limiter *l);
RESULT limiter_take(struct limiter *l, struct bytes key, uint64_t items, struct err *e);
void limiter_refund(struct limiter *l, struct bytes key, uint64_t items);

/* Refusals: record in full (true) for the first `full_per_minute` of a (source, code) each minute, then count. */
struct refusals;
struct refusal_count { /* emitted by refusals_drain: one counting event */
    char source[128], action[64], code[32], reason[48];
    uint64_t repeats;
};
RESULT refusals_new(const struct clock *c, size_t max_sources, unsigned full_per_minute, struct refusals **ret, struct err *e);
void refusals_free(struct refusals *r);
bool refusals_full(struct refusals *r, struct bytes source, const char *action, const char *code, const char *reason);
/* Takes counts whose minute is over (or all, at shutdown); at most max; returns how many. Sources beyond the table's size
 * are counted under source "other": nothing is lost, nothing grows. */
size_t refusals_drain(struct refusals *r, bool all, struct refusal_count *out, size_t max);

#endif
