/*
 * Purpose: a sharded, counted cache: bytes to entry, bounded in number (second chance) and in absolute age.
 * Owns:    one reference to each entry in it. Threads: any; one short lock a shard.
 * Errors:  none: a miss is NULL. Limits: `max` entries, `ttl_ms` of CLOCK_BOOTTIME since loading.
 * Secrets: entries hold them; release() of the last reference frees them.
 *
 * Loading races with changes: read cache_generation before the store, give it to cache_put, and an entry that was removed
 * meanwhile is not put back stale.
 */
#ifndef KMS_KEYRING_CACHE_H
#define KMS_KEYRING_CACHE_H

#include "base/bytes.h"
#include "base/clock.h"
#include "base/ref.h"

#include <stdatomic.h>

struct cache_entry {
    struct cache_entry *next;
    uint64_t hash;
    int64_t loaded_boot_ms;
    struct ref refs;
    atomic_bool used;
    uint16_t key_n;
    const uint8_t *key; /* inside the entry's own memory */
    void (*release)(struct cache_entry *e);
};
struct cache;
struct cache *cache_new(size_t max, uint64_t ttl_ms, const struct clock *clock);
void cache_free(struct cache *c); /* NULL accepted */
/* Sets up an entry with one reference (the caller's). key stays valid as long as the entry. */
void cache_entry_init(struct cache_entry *e, struct bytes key, void (*release)(struct cache_entry *e));
struct cache_entry *cache_get(struct cache *c, struct bytes key); /* counted; NULL: absent or too old */
uint64_t cache_generation(struct cache *c, struct bytes key);
void cache_put(struct cache *c, struct cache_entry *e, uint64_t generation); /* takes a reference of its own if it keeps it */
void cache_remove(struct cache *c, struct bytes key);
/* All that match; what is being loaded meanwhile is not kept either. Looks at every entry: for rare events. */
void cache_remove_matching(struct cache *c, bool (*match)(const struct cache_entry *e, void *user), void *user);
void cache_unref(struct cache_entry *e); /* NULL accepted */
size_t cache_count(struct cache *c);

#endif
