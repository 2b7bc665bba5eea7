/*
 * Purpose: the Merkle tree over the digests of all buckets, in memory: its root is what the sealed root record holds.
 * Owns:    TREE_LEAVES and a fifteenth more digests. Only leaves are stored (table bucket); the inner nodes are computed at open.
 * Threads: one writer; tree_leaf_is from any thread.
 * Errors:  none. Limits: TREE_LEAVES is part of the stored form: never changed without a migration.
 * Secrets: none: digests of entries that hold keyed hashes and tags.
 *
 * Node = SHA-256(0x01 || its TREE_FAN children); a node over empty ones only is empty (all zeros), as is the digest of an empty
 * bucket. Sixteen to one: a change costs four hashes of 512 bytes, half of what sixteen hashes of two digests cost.
 */
#ifndef KMS_STORE_TREE_H
#define KMS_STORE_TREE_H

#include "base/bytes.h"

#include <pthread.h>

enum { TREE_LEAVES = 65536, TREE_FAN = 16, TREE_DIGEST_BYTES = 32 };

struct tree;
struct tree *tree_new(void);
void tree_free(struct tree *t); /* NULL accepted */
/* Loading: no root is known until tree_rebuild. */
void tree_load(struct tree *t, uint32_t leaf, const uint8_t digest[TREE_DIGEST_BYTES]);
void tree_rebuild(struct tree *t);
struct tree_change {
    uint32_t leaf;
    uint8_t before[TREE_DIGEST_BYTES], after[TREE_DIGEST_BYTES]; /* before is filled by tree_apply */
};
/* Sets the leaves and recomputes what stands above them. tree_undo sets them back. Sorts `c`. */
void tree_apply(struct tree *t, struct tree_change *c, size_t n);
void tree_undo(struct tree *t, struct tree_change *c, size_t n);
void tree_root(struct tree *t, uint8_t out[TREE_DIGEST_BYTES]);
bool tree_leaf_is(struct tree *t, uint32_t leaf, const uint8_t digest[TREE_DIGEST_BYTES]);

#endif
