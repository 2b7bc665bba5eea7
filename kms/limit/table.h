/*
 * Purpose: where a key lives in a fixed table: a 128-bit tag under a secret per-table key, a set of LIMIT_WAYS slots, a lock.
 * Owns:    the locks and the hash key.
 * Threads: table_locate is pure; a set's slots are touched only under its lock.
 * Errors:  none: allocation failure is reported by table_init.
 * Limits:  the table never grows. Keys of any length are reduced to their tag: two keys share one only by a 2^-128 accident.
 * Secrets: the hash key, so that nobody can choose keys that crowd one set.
 */
#ifndef KMS_LIMIT_TABLE_H
#define KMS_LIMIT_TABLE_H

#include "base/bytes.h"

#include <pthread.h>

enum { LIMIT_WAYS = 16, LIMIT_LOCKS = 64, LIMIT_TAG_BYTES = 16, LIMIT_KEYS_MAX = 1 << 22 };

struct tag {
    uint64_t a, b;
};
struct table {
    uint8_t hash_key[LIMIT_TAG_BYTES];
    size_t sets; /* power of two; slots = sets * LIMIT_WAYS */
    pthread_mutex_t locks[LIMIT_LOCKS];
};
struct place {
    struct tag tag;
    size_t first; /* index of the set's first slot */
    pthread_mutex_t *lock;
};

/* Room for at least twice `keys`, so that a set overflows only when the table is nearly crowded. */
RESULT table_init(struct table *t, size_t keys, struct err *e);
void table_release(struct table *t);
struct tag table_tag(const struct table *t, struct bytes key);
struct place table_place(struct table *t, struct tag tag);
static inline bool tag_equal(struct tag x, struct tag y)
{
    return x.a == y.a && x.b == y.b;
}
static inline size_t table_slots(const struct table *t)
{
    return t->sets * LIMIT_WAYS;
}

#endif
