/*
 * Purpose: volume budgets: items per day and per month (UTC) of each tenant, reserved before work and refunded when nothing
 *          was done.
 * Owns:    one counter a tenant that was ever active; the caller keeps them in the store (budget_dirty, budget_load).
 * Threads: any; fast lane (one short lock of 64).
 * Errors:  ERR_EXHAUSTED "BUDGET_DAY" or "BUDGET_MONTH". Limits: memory grows only with the number of tenants, 80 bytes each.
 * Secrets: none.
 *
 * A clock that steps back does not give a day back: a counter's period moves forward. It moves back only when it has lain ahead of
 * the clock for its own length of the boot clock: then the clock that began it was wrong, and has been right for that long.
 */
#ifndef KMS_LIMIT_BUDGET_H
#define KMS_LIMIT_BUDGET_H

#include "base/bytes.h"
#include "base/clock.h"

enum { BUDGET_KEY_BYTES = 16 };

struct budget_count {
    uint8_t key[BUDGET_KEY_BYTES]; /* tenant id */
    int64_t day, month;            /* days and months since 1970 */
    uint64_t day_used, month_used; /* items */
};
struct budgets;
/* 0: no such budget. With neither, every call is a quick yes. */
struct budgets *budgets_new(const struct clock *c, uint64_t per_day, uint64_t per_month);
void budgets_free(struct budgets *b); /* NULL accepted */
bool budgets_active(const struct budgets *b);
/* All or nothing: a refusal takes nothing. */
RESULT budget_take(struct budgets *b, const uint8_t key[BUDGET_KEY_BYTES], uint64_t items, struct err *e);
void budget_refund(struct budgets *b, const uint8_t key[BUDGET_KEY_BYTES], uint64_t items);
/* Counters that changed since they were last given out, at most max; returns how many. */
size_t budget_dirty(struct budgets *b, struct budget_count *out, size_t max);
void budget_forget(struct budgets *b, const uint8_t key[BUDGET_KEY_BYTES]); /* a tenant that is gone */
void budget_load(struct budgets *b, const struct budget_count *c); /* at start; a running counter keeps the larger value */

#endif
