#include "kms/limit/limit.h"

#include "kms/limit/table.h"

#include <stdlib.h>

enum { NS_PER_S = 1000000000, RATE_MAX = 1000000000 };

/* The level is kept in item-nanoseconds (1 item = NS_PER_S), so that refilling is exact at any rate: elapsed ns x rate. */
struct bucket {
    struct tag tag;
    uint64_t level;
    int64_t at_ns;
};
struct limiter {
    const struct clock *clock;
    uint64_t rate, full; /* items per second = item-ns per ns; full level */
    struct table table;
    /* Keys that find their set crowded by others still owing share one bucket a lock: stricter for them, never looser. */
    struct bucket crowd[LIMIT_LOCKS];
    struct bucket *slots;
};

RESULT limiter_new(const struct clock *c, size_t max_keys, uint64_t per_second, uint64_t burst, struct limiter **ret,
                   struct err *e)
{
    if (per_second < 1 || per_second > RATE_MAX || burst < 1 || burst > RATE_MAX)
        FAIL(e, ERR_INVALID, NULL, "rate %llu/s and burst %llu must be 1..%d", (unsigned long long)per_second,
             (unsigned long long)burst, RATE_MAX);
    struct limiter *l = calloc(1, sizeof *l);
    INVARIANT(l);
    if (table_init(&l->table, max_keys, e).failed) {
        free(l);
        return (struct result){1};
    }
    l->slots = calloc(table_slots(&l->table), sizeof *l->slots);
    INVARIANT(l->slots);
    l->clock = c;
    l->rate = per_second;
    l->full = burst * NS_PER_S;
    int64_t now = clock_boot_ns(c);
    for (size_t i = 0; i < LIMIT_LOCKS; i++)
        l->crowd[i] = (struct bucket){.level = l->full, .at_ns = now};
    *ret = l;
    return ok();
}

void limiter_free(struct limiter *l)
{
    if (!l)
        return;
    table_release(&l->table);
    free(l->slots);
    free(l);
}

static void refill(const struct limiter *l, struct bucket *b, int64_t now)
{
    if (now <= b->at_ns)
        return;
    unsigned __int128 level = b->level + (unsigned __int128)(uint64_t)(now - b->at_ns) * l->rate;
    b->level = level > l->full ? l->full : (uint64_t)level;
    b->at_ns = now;
}

static struct bucket *find(struct limiter *l, const struct place *p)
{
    for (struct bucket *b = &l->slots[p->first], *end = b + LIMIT_WAYS; b < end; b++)
        if (tag_equal(b->tag, p->tag))
            return b;
    return NULL;
}

/* A full bucket says no more than an absent one, so its slot may be taken over; an empty slot is never owing either. */
static struct bucket *claim(struct limiter *l, const struct place *p, int64_t now)
{
    for (struct bucket *b = &l->slots[p->first], *end = b + LIMIT_WAYS; b < end; b++) {
        refill(l, b, now);
        if (b->level == l->full || (b->tag.a == 0 && b->tag.b == 0)) {
            *b = (struct bucket){.tag = p->tag, .level = l->full, .at_ns = now};
            return b;
        }
    }
    return &l->crowd[p->lock - l->table.locks];
}

RESULT limiter_take(struct limiter *l, struct bytes key, uint64_t items, struct err *e)
{
    struct place p = table_place(&l->table, table_tag(&l->table, key));
    bool taken = false;
    pthread_mutex_lock(p.lock);
    /* The clock is read under the lock: times in one bucket never run backwards. */
    int64_t now = clock_boot_ns(l->clock);
    struct bucket *b = find(l, &p);
    if (!b)
        b = claim(l, &p, now);
    refill(l, b, now);
    if (items <= b->level / NS_PER_S) {
        b->level -= items * NS_PER_S;
        taken = true;
    }
    pthread_mutex_unlock(p.lock);
    if (!taken)
        FAIL(e, ERR_EXHAUSTED, "RATE_LIMITED", "%llu items at %llu/s, burst %llu", (unsigned long long)items,
             (unsigned long long)l->rate, (unsigned long long)(l->full / NS_PER_S));
    return ok();
}

void limiter_refund(struct limiter *l, struct bytes key, uint64_t items)
{
    struct place p = table_place(&l->table, table_tag(&l->table, key));
    pthread_mutex_lock(p.lock);
    /* No bucket: it filled up and was let go, or the crowd's was charged, which must not gain from one key's refund. */
    struct bucket *b = find(l, &p);
    if (b) {
        uint64_t room = l->full - b->level;
        b->level = items > room / NS_PER_S ? l->full : b->level + items * NS_PER_S;
    }
    pthread_mutex_unlock(p.lock);
}
