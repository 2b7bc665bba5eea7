/*
 * Purpose: the rows of a usage table, for usage.c, which fills them, and usage_record.c, which adds them to records.
 * Owns:    struct usage_table: chunks, slots, names. Threads: one owner at a time. Errors: none. Limits: usage.h. Secrets: none.
 */
#ifndef KMS_KEYRING_USAGE_ROWS_H
#define KMS_KEYRING_USAGE_ROWS_H

#include "kms/keyring/usage.h"

enum { USAGE_CHUNK = 4096 };

struct usage_row {
    uint64_t hash;
    uint8_t kvid[EVENT_KVID_BYTES], tenant[STORE_TENANT_BYTES];
    uint32_t slot, primary, name_at;
    uint8_t name_n;
    int64_t last_ns;
    uint64_t items[EVENT_USE_UNWRAP + 1];
};
struct usage_table {
    size_t rows_max, nrows, nchunks, mask;
    struct usage_row **chunks;
    uint32_t *slots; /* 1-based row */
    struct buf names;
};
static inline struct usage_row *usage_row(const struct usage_table *t, size_t i)
{
    return &t->chunks[i / USAGE_CHUNK][i % USAGE_CHUNK];
}
static inline struct bytes usage_row_name(const struct usage_table *t, const struct usage_row *r)
{
    return BYTES(t->names.p + r->name_at, r->name_n);
}

#endif
