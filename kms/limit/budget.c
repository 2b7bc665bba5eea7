#include "kms/limit/budget.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SHARDS = 64, DAY_S = 24 * 3600, MONTH_S = 31 * DAY_S };

struct counter {
    struct budget_count c;
    struct counter *next;
    int64_t day_ahead_s, month_ahead_s; /* boot time since which its period lies ahead of the clock; 0: it does not */
    bool dirty;
};
struct shard {
    pthread_mutex_t lock;
    struct counter **buckets; /* power of two, doubled when full */
    size_t nbuckets, count;
} __attribute__((aligned(64)));

struct budgets {
    struct shard shards[SHARDS];
    const struct clock *clock;
    uint64_t per_day, per_month;
};

struct budgets *budgets_new(const struct clock *c, uint64_t per_day, uint64_t per_month)
{
    struct budgets *b = aligned_alloc(64, (sizeof *b + 63) / 64 * 64);
    INVARIANT(b != NULL);
    memset(b, 0, sizeof *b);
    b->clock = c;
    b->per_day = per_day;
    b->per_month = per_month;
    for (size_t i = 0; i < SHARDS; i++)
        pthread_mutex_init(&b->shards[i].lock, NULL);
    return b;
}

void budgets_free(struct budgets *b)
{
    if (b == NULL)
        return;
    for (size_t i = 0; i < SHARDS; i++) {
        struct shard *s = &b->shards[i];
        for (size_t j = 0; j < s->nbuckets; j++)
            while (s->buckets[j] != NULL) {
                struct counter *gone = s->buckets[j];
                s->buckets[j] = gone->next;
                free(gone);
            }
        free(s->buckets);
        pthread_mutex_destroy(&s->lock);
    }
    free(b);
}

bool budgets_active(const struct budgets *b)
{
    return b->per_day > 0 || b->per_month > 0;
}

/* Keys are random tenant ids: their own bytes are the hash. */
static uint64_t hash_of(const uint8_t key[BUDGET_KEY_BYTES])
{
    return get_be64(key);
}

static void grow(struct shard *s)
{
    size_t n = s->nbuckets > 0 ? s->nbuckets * 2 : 16;
    struct counter **fresh = calloc(n, sizeof *fresh);
    INVARIANT(fresh != NULL);
    for (size_t j = 0; j < s->nbuckets; j++)
        while (s->buckets[j] != NULL) {
            struct counter *c = s->buckets[j];
            s->buckets[j] = c->next;
            struct counter **to = &fresh[(hash_of(c->c.key) / SHARDS) & (n - 1)];
            c->next = *to;
            *to = c;
        }
    free(s->buckets);
    s->buckets = fresh;
    s->nbuckets = n;
}

static struct counter *find(struct shard *s, const uint8_t key[BUDGET_KEY_BYTES])
{
    if (s->count >= s->nbuckets)
        grow(s);
    struct counter **at = &s->buckets[(hash_of(key) / SHARDS) & (s->nbuckets - 1)];
    for (struct counter *c = *at; c != NULL; c = c->next)
        if (memcmp(c->c.key, key, BUDGET_KEY_BYTES) == 0)
            return c;
    struct counter *c = calloc(1, sizeof *c);
    INVARIANT(c != NULL);
    memcpy(c->c.key, key, BUDGET_KEY_BYTES);
    c->next = *at;
    *at = c;
    s->count++;
    return c;
}

/* Months since 1970-01 of a day since 1970-01-01, proleptic Gregorian: by eras of 400 years from 0000-03-01. */
static int64_t month_of(int64_t day)
{
    int64_t z = day + 719468, era = (z >= 0 ? z : z - 146096) / 146097, in_era = z - era * 146097;
    int64_t year = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
    int64_t in_year = in_era - (365 * year + year / 4 - year / 100);
    int64_t from_march = (5 * in_year + 2) / 153;
    return (year + era * 400 - 1970) * 12 + from_march + 2;
}

/* A period ends when the clock says so, and also when it has lasted its length by the boot clock: one that was begun by a clock that
 * stood years ahead would never end. */
static bool is_over(int64_t now, int64_t period, int64_t boot_s, int64_t length_s, int64_t *ahead_s)
{
    if (now < period && *ahead_s == 0)
        *ahead_s = boot_s;
    bool over = now > period || (now < period && boot_s - *ahead_s >= length_s);
    if (over || now == period)
        *ahead_s = 0;
    return over;
}

static void turn(struct budgets *b, struct counter *c)
{
    int64_t now = clock_unix_s(b->clock), day = now / DAY_S, month = month_of(day), boot_s = clock_boot_ms(b->clock) / 1000 + 1;
    if (is_over(day, c->c.day, boot_s, DAY_S, &c->day_ahead_s)) {
        c->c.day = day;
        c->c.day_used = 0;
    }
    if (is_over(month, c->c.month, boot_s, MONTH_S, &c->month_ahead_s)) {
        c->c.month = month;
        c->c.month_used = 0;
    }
}

static bool fits(uint64_t limit, uint64_t used, uint64_t items)
{
    return limit == 0 || (items <= limit && used <= limit - items);
}

static RESULT take(struct budgets *b, struct counter *c, uint64_t items, struct err *e)
{
    turn(b, c);
    if (!fits(b->per_day, c->c.day_used, items))
        FAIL(e, ERR_EXHAUSTED, "BUDGET_DAY", "%llu items today, %llu wanted", (unsigned long long)c->c.day_used, (unsigned long long)items);
    if (!fits(b->per_month, c->c.month_used, items))
        FAIL(e, ERR_EXHAUSTED, "BUDGET_MONTH", "%llu items this month, %llu wanted", (unsigned long long)c->c.month_used,
             (unsigned long long)items);
    c->c.day_used += items;
    c->c.month_used += items;
    c->dirty = true;
    return ok();
}

RESULT budget_take(struct budgets *b, const uint8_t key[BUDGET_KEY_BYTES], uint64_t items, struct err *e)
{
    if (!budgets_active(b))
        return ok();
    struct shard *s = &b->shards[hash_of(key) % SHARDS];
    pthread_mutex_lock(&s->lock);
    struct result done = take(b, find(s, key), items, e);
    pthread_mutex_unlock(&s->lock);
    return done;
}

void budget_refund(struct budgets *b, const uint8_t key[BUDGET_KEY_BYTES], uint64_t items)
{
    if (!budgets_active(b))
        return;
    struct shard *s = &b->shards[hash_of(key) % SHARDS];
    pthread_mutex_lock(&s->lock);
    struct counter *c = find(s, key);
    /* When the day turned meanwhile the reservation went with it. */
    c->c.day_used -= items < c->c.day_used ? items : c->c.day_used;
    c->c.month_used -= items < c->c.month_used ? items : c->c.month_used;
    c->dirty = true;
    pthread_mutex_unlock(&s->lock);
}

size_t budget_dirty(struct budgets *b, struct budget_count *out, size_t max)
{
    size_t n = 0;
    for (size_t i = 0; i < SHARDS && n < max; i++) {
        struct shard *s = &b->shards[i];
        pthread_mutex_lock(&s->lock);
        for (size_t j = 0; j < s->nbuckets && n < max; j++)
            for (struct counter *c = s->buckets[j]; c != NULL && n < max; c = c->next)
                if (c->dirty) {
                    c->dirty = false;
                    out[n++] = c->c;
                }
        pthread_mutex_unlock(&s->lock);
    }
    return n;
}

void budget_forget(struct budgets *b, const uint8_t key[BUDGET_KEY_BYTES])
{
    struct shard *s = &b->shards[hash_of(key) % SHARDS];
    pthread_mutex_lock(&s->lock);
    struct counter **at = s->nbuckets > 0 ? &s->buckets[(hash_of(key) / SHARDS) & (s->nbuckets - 1)] : NULL;
    while (at != NULL && *at != NULL && memcmp((*at)->c.key, key, BUDGET_KEY_BYTES) != 0)
        at = &(*at)->next;
    struct counter *gone = at != NULL ? *at : NULL;
    if (gone != NULL) {
        *at = gone->next;
        s->count--;
    }
    pthread_mutex_unlock(&s->lock);
    free(gone);
}

void budget_load(struct budgets *b, const struct budget_count *from)
{
    struct shard *s = &b->shards[hash_of(from->key) % SHARDS];
    pthread_mutex_lock(&s->lock);
    struct counter *c = find(s, from->key);
    if (from->day >= c->c.day) {
        c->c.day_used = from->day > c->c.day || from->day_used > c->c.day_used ? from->day_used : c->c.day_used;
        c->c.day = from->day;
    }
    if (from->month >= c->c.month) {
        c->c.month_used = from->month > c->c.month || from->month_used > c->c.month_used ? from->month_used : c->c.month_used;
        c->c.month = from->month;
    }
    pthread_mutex_unlock(&s->lock);
}
