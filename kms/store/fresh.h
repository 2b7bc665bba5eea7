/*
 * Purpose: freshness inside the store: proof that a row is the newest of its id, that an absent one never was or was deleted by
 *          us, and that a range is complete. README.md, "Freshness", says how and why.
 * Owns:    struct fresh: the tree over the buckets, the key of the entry hashes; struct stage: what a group of transactions
 *          has changed and not yet committed.
 * Threads: stage_* and fresh_commit on the writer thread; fresh_check_* on any reader.
 * Errors:  ERR_DATA_LOSS "STORE_STALE".
 * Limits:  TREE_LEAVES buckets. A check that fails is made again while no commit is under way: then it is final.
 * Secrets: the hash key lies in the sealed root and, expanded, in a struct secret.
 *
 * Entry, ENTRY_BYTES: hash[16] of (kind, tenant, id) | u64 revision | tag[16] of the sealed body | next[16]: the hash of the row
 * that follows in (tenant, id) order within its kind, zeros after the last. One more entry for each kind, of an empty id and
 * revision 0, stands before its first row. A bucket holds entries ascending by hash; its number is the hash's first 16 bits.
 * Digest of a bucket = SHA-256(0x00 || u32 number || entries); empty: zeros.
 */
#ifndef KMS_STORE_FRESH_H
#define KMS_STORE_FRESH_H

#include "base/arena.h"
#include "base/secret.h"
#include "kms/store/store.h"
#include "kms/store/tree.h"

#include <pthread.h>
#include <stdatomic.h>

enum { ENTRY_HASH_BYTES = 16, ENTRY_TAG_BYTES = 16, ENTRY_REVISION_AT = 16, ENTRY_TAG_AT = 24, ENTRY_NEXT_AT = 40, ENTRY_BYTES = 56,
       FRESH_KEY_BYTES = 32, OVERLAY_MAX = 4096 /* buckets; then they are written, and the rows of root forgotten */,
       ROOTS_MAX = 1024 /* rows of root; then too: the same few rows may change for ever */ };
#define ENTRY_REMOVED UINT64_MAX /* as the revision of a changed entry: it is no more */

struct db;
struct overlay;

/* Which kinds are covered: what no decision depends on but a repeat or a figure is not, nor usage, which the journal can tell
 * again. New kinds are. */
static inline bool fresh_covers(enum rec_kind kind)
{
    return kind != REC_IDEMPOTENCY && kind != REC_BUDGET && kind != REC_USAGE;
}

/* The sealed root record, opened. */
struct root {
    uint64_t epoch;         /* grows by one with each committed transaction */
    uint64_t outbox_last;
    uint8_t tree[TREE_DIGEST_BYTES];
    uint8_t anchor_place;   /* enum store_anchor_place: where floors are written; 0: nowhere yet */
    uint32_t seal;          /* the epoch that it is sealed under, and so the store's: not in its body */
};

struct fresh {
    struct tree *tree;
    struct root root;           /* as committed; writer thread */
    struct secret *key;         /* of the entry hashes: random, kept in the sealed root */
    struct secret *hash_states; /* its HMAC states */
    struct overlay *overlay;
    size_t roots;               /* rows of root, which an open replays; writer thread */
    pthread_mutex_t commit;     /* held from the change of the tree to the end of the commit: a reader that holds it sees both
                                   of one moment */
    _Atomic uint64_t epoch;     /* committed */
    _Atomic uint32_t seal;      /* the same of the root's; set before `epoch` is */
};

void fresh_init(struct fresh *f);
void fresh_release(struct fresh *f);
/* Names the row: kind, and its id as text. */
RESULT fresh_stale(struct err *e, enum rec_kind kind, struct bytes id, const char *what);

/* ---- bucket.c: pure ---- */
struct entry_hash {
    uint8_t b[ENTRY_HASH_BYTES];
};
struct entry_hash entry_hash_of(const struct fresh *f, enum rec_kind kind, const uint8_t tenant[16], struct bytes id);
struct entry_hash entry_head(const struct fresh *f, enum rec_kind kind); /* of what stands before the first row */
static inline uint32_t entry_bucket(const struct entry_hash *h)
{
    return get_be16(h->b);
}
const uint8_t *bucket_find(struct bytes entries, const struct entry_hash *h); /* NULL: not there */
/* The entry, to be changed; made when absent, of its hash and zeros. Valid until the next change of b. */
uint8_t *bucket_put(struct buf *b, const struct entry_hash *h);
void bucket_cut(struct buf *b, const struct entry_hash *h); /* nothing when it is not there */
void bucket_digest(uint32_t n, struct bytes entries, uint8_t out[TREE_DIGEST_BYTES]);
bool bucket_well_formed(uint32_t n, struct bytes entries);
void tag_of(struct bytes sealed, uint8_t out[ENTRY_TAG_BYTES]);

/* ---- overlay.c: buckets that changed since they were last written to their table. Their changes are in the rows of root. ---- */
struct overlay *overlay_new(void);
void overlay_free(struct overlay *o); /* NULL accepted */
/* The bucket's entries, when it is here; borrowed: writer thread only, until the next overlay_set. */
bool overlay_peek(struct overlay *o, uint32_t n, struct bytes *ret);
/* From any thread: false when the bucket is not here. Else *ret_there, and a copy of the entry. */
bool overlay_entry(struct overlay *o, const struct entry_hash *h, uint8_t out[ENTRY_BYTES], bool *ret_there);
void overlay_set(struct overlay *o, uint32_t n, struct bytes entries);
size_t overlay_count(const struct overlay *o);
RESULT overlay_write(struct store *s, struct db *d, struct err *e); /* all to the table bucket; inside a transaction */
void overlay_clear(struct overlay *o);
RESULT overlay_replay(struct store *s, struct db *d, struct err *e); /* at open: the rows of root onto the buckets */
RESULT bucket_write(struct db *d, uint32_t n, struct bytes entries, struct err *e);

/* ---- root.c: the root record and what is loaded at open ---- */
RESULT fresh_new_key(struct fresh *f, struct err *e);
/* Inside a transaction; r->epoch must be new. entries: what changed since the root before. */
RESULT fresh_write_root(struct store *s, struct db *d, const struct root *r, struct bytes entries, struct err *e);
RESULT fresh_read_root(struct store *s, struct db *d, struct root *ret, struct err *e);      /* sets the key too */
/* The root's seal epoch must be the identity's: one of them alone was put back else, and an epoch that has ended would go on. */
RESULT fresh_check_seal(const struct store *s, struct err *e);
RESULT fresh_load(struct store *s, struct db *d, struct err *e);
/* Makes the buckets from the rows as they are: the migration, and the acceptance of an older store. */
RESULT fresh_build(struct store *s, struct db *d, struct err *e);

/* ---- stage.c: the writer's side ---- */
struct stage;
struct stage *stage_new(void);
void stage_free(struct stage *g);
void stage_reset(struct stage *g);
void stage_begin(struct stage *g); /* a transaction: what follows can be undone at once */
void stage_undo(struct stage *g);
void stage_keep(struct stage *g);
/* The row as the plain columns show it (revision 0: absent) must be what the entries say. */
RESULT stage_check(struct store *s, enum rec_kind kind, const uint8_t tenant[16], struct bytes id, uint64_t revision,
                   struct err *e);
RESULT stage_put(struct store *s, const struct record *r, struct bytes sealed, struct err *e); /* before or after the row is written */
RESULT stage_remove(struct store *s, enum rec_kind kind, const uint8_t tenant[16], struct bytes id, struct err *e);
/* A row that is sealed anew, and else the same: whether its entry is of this revision and tag; and its next tag. */
RESULT stage_is(struct store *s, const struct record *key, const uint8_t tag[ENTRY_TAG_BYTES], bool *ret_same, struct err *e);
RESULT stage_retag(struct store *s, const struct record *key, struct bytes sealed, struct err *e);
/* Writes the changed buckets and the root, and commits. On failure nothing has changed in memory. */
RESULT fresh_commit(struct store *s, uint64_t txns, uint64_t outbox_last, struct err *e);

RESULT fresh_load_leaves(struct store *s, struct db *d, struct err *e); /* the tree as the table says, before any replay */

/* ---- prove.c: the readers' side. Within one read transaction of d. ---- */
RESULT fresh_prove_row(struct store *s, struct db *d, const struct record *key /* kind, tenant, id */, bool present,
                       uint64_t revision, const uint8_t tag[ENTRY_TAG_BYTES], struct err *e);
/* A bucket of the table that is the one last written; borrowed until sqlite3_reset(d->bucket_get), which a failure has done. */
RESULT bucket_read(struct store *s, struct db *d, uint32_t n, struct bytes *ret, struct err *e);
/* A copy of the entry out of such a bucket, or of the overlay's; *ret_there false: the bucket has none. */
RESULT fresh_entry(struct store *s, struct db *d, const struct entry_hash *h, uint8_t out[ENTRY_BYTES], bool *ret_there,
                   struct err *e);
struct fresh_bound {
    uint8_t tenant[16];
    struct bytes id;
    bool none; /* high only: no bound */
};
/* Every row of the kind from low (inclusive) to high (exclusive, or inclusive) is as its entry says, and none is missing. */
RESULT fresh_prove_range(struct store *s, struct db *d, enum rec_kind kind, const struct fresh_bound *low,
                         const struct fresh_bound *high, bool high_inclusive, struct err *e);

#endif
