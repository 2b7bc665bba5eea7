#include "vault/client/cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A few hundred entries: a list in order of use, searched from the front, costs less than the AES it stands before. */
struct entry {
    struct data_key k; /* first: borrowers hold its address */
    struct entry *prev, *next;
    char *name;
    uint64_t uses;
    int64_t born_ms;
    unsigned refs;    /* borrowers, and the list itself */
    bool for_encrypt;
};

struct cache {
    pthread_mutex_t lock;
    struct cache_limits limits;
    const struct clock *clock;
    struct entry head; /* ring: next is the one used last */
    struct claviger_cache_stats stats;
};

struct cache *cache_new(const struct cache_limits *l, const struct clock *clock)
{
    struct cache *c = calloc(1, sizeof *c);
    INVARIANT(c && pthread_mutex_init(&c->lock, NULL) == 0);
    c->limits = *l;
    c->clock = clock;
    c->head.prev = c->head.next = &c->head;
    return c;
}

static void entry_unref(struct entry *n)
{
    if (--n->refs > 0)
        return;
    secret_free(n->k.key);
    free((void *)(uintptr_t)n->k.wrapped.p);
    free(n->name);
    free(n);
}

static void unlink_entry(struct entry *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
}

static void forget(struct cache *c, struct entry *n)
{
    unlink_entry(n);
    c->stats.keys--;
    c->stats.evicted++;
    entry_unref(n);
}

static void to_front(struct cache *c, struct entry *n)
{
    n->next = c->head.next;
    n->prev = &c->head;
    n->next->prev = n;
    c->head.next = n;
}

void cache_clear(struct cache *c)
{
    pthread_mutex_lock(&c->lock);
    while (c->head.next != &c->head)
        forget(c, c->head.next);
    pthread_mutex_unlock(&c->lock);
}

void cache_free(struct cache *c)
{
    if (!c)
        return;
    cache_clear(c);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* Old keys go even when nobody asks for them: they must not sit in memory past their age while others are used. */
static void forget_old(struct cache *c)
{
    int64_t now = clock_boot_ms(c->clock);
    for (struct entry *n = c->head.next, *next; n != &c->head; n = next) {
        next = n->next;
        if (now - n->born_ms >= (int64_t)c->limits.age_ms)
            forget(c, n);
    }
}

static struct entry *find(struct cache *c, const char *name, const struct bytes *wrapped)
{
    for (struct entry *n = c->head.next; n != &c->head; n = n->next) {
        if (strcmp(n->name, name) != 0)
            continue;
        if (wrapped ? bytes_equal(n->k.wrapped, *wrapped) : n->for_encrypt && n->uses < c->limits.uses)
            return n;
    }
    return NULL;
}

static const struct data_key *lend(struct cache *c, const char *name, const struct bytes *wrapped)
{
    pthread_mutex_lock(&c->lock);
    forget_old(c);
    struct entry *n = find(c, name, wrapped);
    if (n) {
        unlink_entry(n);
        to_front(c, n);
        n->refs++;
        n->uses += wrapped == NULL;
        c->stats.hits++;
    }
    c->stats.misses += n == NULL;
    pthread_mutex_unlock(&c->lock);
    return n ? &n->k : NULL;
}

const struct data_key *cache_to_encrypt(struct cache *c, const char *name)
{
    return lend(c, name, NULL);
}

const struct data_key *cache_to_decrypt(struct cache *c, const char *name, struct bytes wrapped)
{
    return lend(c, name, &wrapped);
}

const struct data_key *cache_put(struct cache *c, const char *name, struct bytes wrapped, struct secret *take_key, bool for_encrypt)
{
    struct entry *n = calloc(1, sizeof *n);
    uint8_t *copy = malloc(wrapped.n ? wrapped.n : 1);
    char *name_copy = strdup(name);
    INVARIANT(n && copy && name_copy);
    if (wrapped.n)
        memcpy(copy, wrapped.p, wrapped.n);
    *n = (struct entry){.k = {take_key, {copy, wrapped.n}}, .name = name_copy, .uses = for_encrypt, .refs = 2,
                        .for_encrypt = for_encrypt, .born_ms = clock_boot_ms(c->clock)};
    pthread_mutex_lock(&c->lock);
    forget_old(c);
    while (c->stats.keys >= c->limits.keys)
        forget(c, c->head.prev);
    to_front(c, n);
    c->stats.keys++;
    pthread_mutex_unlock(&c->lock);
    return &n->k;
}

void cache_give_back(struct cache *c, const struct data_key *k)
{
    if (!k)
        return;
    pthread_mutex_lock(&c->lock);
    entry_unref((struct entry *)(uintptr_t)k);
    pthread_mutex_unlock(&c->lock);
}

void cache_read_stats(struct cache *c, struct claviger_cache_stats *ret)
{
    pthread_mutex_lock(&c->lock);
    *ret = c->stats;
    pthread_mutex_unlock(&c->lock);
}
