/*
 * Purpose: data keys of claviger_local_*: found by resource name (to encrypt) or by wrapped form (to decrypt), forgotten by
 *          age, by uses and, when full, the one used longest ago first.
 * Owns:    its entries; each holds one secret slot. An entry borrowed by a caller lives until it is given back.
 * Threads: everything from any thread; one short lock, never held across a call to the server.
 * Errors:  none: a miss is NULL.
 * Limits:  keys entries, age_ms (boot clock: suspend counts), uses encryptions a key.
 * Secrets: keys in struct secret only; wiped when forgotten, at the latest when the last borrower gives back.
 */
#ifndef VAULT_CLIENT_CACHE_H
#define VAULT_CLIENT_CACHE_H

#include "base/clock.h"
#include "base/secret.h"
#include "vault/client/claviger.h"

struct cache;
struct cache_limits {
    size_t keys;
    uint64_t age_ms, uses;
};
struct data_key { /* read-only for borrowers */
    struct secret *key;
    struct bytes wrapped;
};
struct cache *cache_new(const struct cache_limits *l, const struct clock *clock);
void cache_free(struct cache *c);
void cache_clear(struct cache *c);
/* A key for one more encryption under `name`; counts the use. */
const struct data_key *cache_to_encrypt(struct cache *c, const char *name);
const struct data_key *cache_to_decrypt(struct cache *c, const char *name, struct bytes wrapped);
/* Takes the secret, copies the rest, and lends the new entry; for_encrypt counts its first use and offers it to the next. */
const struct data_key *cache_put(struct cache *c, const char *name, struct bytes wrapped, struct secret *take_key, bool for_encrypt);
void cache_give_back(struct cache *c, const struct data_key *k); /* NULL accepted */
void cache_read_stats(struct cache *c, struct claviger_cache_stats *ret);

#endif
