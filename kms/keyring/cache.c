#include "kms/keyring/cache.h"

#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { SHARDS = 64, BUCKETS_MIN = 16 };

struct shard {
    pthread_mutex_t lock;
    struct cache_entry **buckets;
    size_t nbuckets, count, max, hand; /* hand: where the second-chance sweep goes on */
    uint64_t generation;
} __attribute__((aligned(64)));

struct cache {
    struct shard shards[SHARDS];
    const struct clock *clock;
    uint64_t ttl_ms;
    uint8_t seed[crypto_shorthash_KEYBYTES]; /* keyed: names come from outside */
};

struct cache *cache_new(size_t max, uint64_t ttl_ms, const struct clock *clock)
{
    struct cache *c = aligned_alloc(64, (sizeof *c + 63) / 64 * 64);
    INVARIANT(c != NULL);
    memset(c, 0, sizeof *c);
    c->clock = clock;
    c->ttl_ms = ttl_ms;
    randombytes_buf(c->seed, sizeof c->seed);
    for (size_t i = 0; i < SHARDS; i++) {
        struct shard *s = &c->shards[i];
        pthread_mutex_init(&s->lock, NULL);
        s->max = max / SHARDS > 0 ? max / SHARDS : 1;
        s->nbuckets = BUCKETS_MIN;
        while (s->nbuckets < s->max)
            s->nbuckets *= 2;
        s->buckets = calloc(s->nbuckets, sizeof *s->buckets);
        INVARIANT(s->buckets != NULL);
    }
    return c;
}

void cache_entry_init(struct cache_entry *e, struct bytes key, void (*release)(struct cache_entry *e))
{
    INVARIANT(key.n <= UINT16_MAX);
    e->key = key.p;
    e->key_n = (uint16_t)key.n;
    e->release = release;
    ref_init(&e->refs);
    atomic_init(&e->used, true);
}

void cache_unref(struct cache_entry *e)
{
    if (e != NULL && ref_drop(&e->refs))
        e->release(e);
}

static uint64_t hash_of(const struct cache *c, struct bytes key)
{
    uint8_t out[crypto_shorthash_BYTES];
    crypto_shorthash(out, key.p, key.n, c->seed);
    return get_be64(out);
}

static struct shard *shard_of(struct cache *c, uint64_t hash)
{
    return &c->shards[hash % SHARDS];
}

static struct cache_entry **slot_of(struct shard *s, uint64_t hash, struct bytes key)
{
    struct cache_entry **p = &s->buckets[(hash / SHARDS) & (s->nbuckets - 1)];
    while (*p != NULL && !((*p)->hash == hash && (*p)->key_n == key.n && memcmp((*p)->key, key.p, key.n) == 0))
        p = &(*p)->next;
    return p;
}

static struct cache_entry *unlink_slot(struct shard *s, struct cache_entry **p)
{
    struct cache_entry *e = *p;
    *p = e->next;
    e->next = NULL;
    s->count--;
    return e;
}

struct cache_entry *cache_get(struct cache *c, struct bytes key)
{
    uint64_t hash = hash_of(c, key);
    struct shard *s = shard_of(c, hash);
    struct cache_entry *stale = NULL;
    pthread_mutex_lock(&s->lock);
    struct cache_entry **p = slot_of(s, hash, key), *e = *p;
    if (e != NULL && (uint64_t)(clock_boot_ms(c->clock) - e->loaded_boot_ms) >= c->ttl_ms) {
        stale = unlink_slot(s, p);
        e = NULL;
    }
    if (e != NULL) {
        ref_take(&e->refs);
        atomic_store_explicit(&e->used, true, memory_order_relaxed);
    }
    pthread_mutex_unlock(&s->lock);
    cache_unref(stale);
    return e;
}

uint64_t cache_generation(struct cache *c, struct bytes key)
{
    struct shard *s = shard_of(c, hash_of(c, key));
    pthread_mutex_lock(&s->lock);
    uint64_t g = s->generation;
    pthread_mutex_unlock(&s->lock);
    return g;
}

/* Second chance: the first entry not used since the hand last passed goes; two rounds always find one. */
static struct cache_entry *evict(struct shard *s)
{
    for (size_t turn = 0; turn < 2 * s->nbuckets + 1; turn++) {
        s->hand = (s->hand + 1) & (s->nbuckets - 1);
        for (struct cache_entry **p = &s->buckets[s->hand]; *p != NULL; p = &(*p)->next)
            if (!atomic_exchange_explicit(&(*p)->used, false, memory_order_relaxed))
                return unlink_slot(s, p);
    }
    return NULL;
}

void cache_put(struct cache *c, struct cache_entry *e, uint64_t generation)
{
    struct bytes key = {e->key, e->key_n};
    e->hash = hash_of(c, key);
    e->loaded_boot_ms = clock_boot_ms(c->clock);
    struct shard *s = shard_of(c, e->hash);
    struct cache_entry *old = NULL, *out = NULL;
    pthread_mutex_lock(&s->lock);
    if (s->generation == generation) {
        struct cache_entry **p = slot_of(s, e->hash, key);
        if (*p != NULL)
            old = unlink_slot(s, p);
        if (s->count >= s->max)
            out = evict(s);
        ref_take(&e->refs);
        p = slot_of(s, e->hash, key); /* the eviction may have moved the chain */
        *p = e;
        s->count++;
    }
    pthread_mutex_unlock(&s->lock);
    cache_unref(old);
    cache_unref(out);
}

void cache_remove(struct cache *c, struct bytes key)
{
    uint64_t hash = hash_of(c, key);
    struct shard *s = shard_of(c, hash);
    struct cache_entry *gone = NULL;
    pthread_mutex_lock(&s->lock);
    s->generation++;
    struct cache_entry **p = slot_of(s, hash, key);
    if (*p != NULL)
        gone = unlink_slot(s, p);
    pthread_mutex_unlock(&s->lock);
    cache_unref(gone);
}

/* Unlinked entries hang on *gone by next. */
static void unlink_matching(struct shard *s, bool (*match)(const struct cache_entry *e, void *user), void *user, struct cache_entry **gone)
{
    s->generation++;
    for (size_t b = 0; b < s->nbuckets; b++)
        for (struct cache_entry **p = &s->buckets[b]; *p != NULL;) {
            if (!match(*p, user)) {
                p = &(*p)->next;
                continue;
            }
            struct cache_entry *e = unlink_slot(s, p);
            e->next = *gone;
            *gone = e;
        }
}

void cache_remove_matching(struct cache *c, bool (*match)(const struct cache_entry *e, void *user), void *user)
{
    for (size_t i = 0; i < SHARDS; i++) {
        struct cache_entry *gone = NULL;
        pthread_mutex_lock(&c->shards[i].lock);
        unlink_matching(&c->shards[i], match, user, &gone);
        pthread_mutex_unlock(&c->shards[i].lock);
        while (gone != NULL) {
            struct cache_entry *e = gone;
            gone = e->next;
            e->next = NULL;
            cache_unref(e);
        }
    }
}

size_t cache_count(struct cache *c)
{
    size_t n = 0;
    for (size_t i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&c->shards[i].lock);
        n += c->shards[i].count;
        pthread_mutex_unlock(&c->shards[i].lock);
    }
    return n;
}

void cache_free(struct cache *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < SHARDS; i++) {
        struct shard *s = &c->shards[i];
        for (size_t b = 0; b < s->nbuckets; b++)
            while (s->buckets[b] != NULL)
                cache_unref(unlink_slot(s, &s->buckets[b]));
        free(s->buckets);
        pthread_mutex_destroy(&s->lock);
    }
    free(c);
}
