/*
 * Purpose: what key versions were used for, counted: a table of what is new, and the records that it is added to. A figure that
 *          can be made again from the journal: the mark says up to which index the records count it.
 * Owns:    a table owns its rows. Threads: a table has one owner at a time, no lock; records from any thread that may block.
 * Errors:  the store's; ERR_DATA_LOSS "RECORD_MALFORMED". What has no room is not added: ask first.
 * Limits:  USAGE_ROWS_MAX rows (version, principal, primary) a table, USAGE_CALLERS_MAX principals a version: the latest. Secrets: none.
 *
 * REC_USAGE, tenant column = the tenant's id, id = kvid; body: u8 format 1, u32 series, u64 counted to (journal index), i64 last use,
 * i64 known since, 4 x u64 items by what, 2 x { u32 primary, u64 opened }, u8 more, u8 n, n x { i64 last use, v16 name } latest first.
 * The mark: tenant column zero, id "mark"; body: u8 format 1, u32 series, u64 counted to, u64 under way to, i64 began.
 */
#ifndef KMS_KEYRING_USAGE_H
#define KMS_KEYRING_USAGE_H

#include "kms/audit/event.h"
#include "kms/store/store.h"

enum { USAGE_CALLERS_MAX = 64, USAGE_ROWS_MAX = 1 << 18, USAGE_BATCH = 128, USAGE_NAME_MAX = 128 };

/* ---- the table ---- */
struct usage_use {
    const uint8_t *tenant; /* id, 16 bytes */
    struct bytes principal;
    int64_t at_ns;
    const struct event_use *use;
};
struct usage_table;
struct usage_table *usage_table_new(size_t rows_max);
void usage_table_free(struct usage_table *t); /* NULL accepted */
bool usage_table_room(const struct usage_table *t, size_t n); /* for so many more rows */
void usage_table_add(struct usage_table *t, const struct usage_use *u);
size_t usage_table_rows(const struct usage_table *t);
void usage_table_clear(struct usage_table *t);

/* ---- the records ---- */
struct usage_caller {
    struct bytes name;
    int64_t last_ns;
};
struct usage {
    uint64_t items[EVENT_USE_UNWRAP + 1]; /* by enum event_use_what; [0] is not used */
    int64_t last_ns;                      /* 0: never */
    int64_t since_ns;                     /* its record was lost: nothing of before is known; 0: it never was */
    struct usage_caller *callers;         /* latest first */
    size_t ncallers;
    bool more;                            /* there were more of them */
    struct {
        uint32_t primary;
        uint64_t opened;                  /* decrypted and unwrapped while that version was primary */
    } during[2];                          /* newest first */
    uint32_t series;
    uint64_t counted_to;
};
void usage_encode(const struct usage *u, struct buf *out);
RESULT usage_decode(struct bytes body, struct arena *a, struct usage *ret, struct err *e); /* views into body; room for one caller more */
/* Zeros where nothing was counted. */
RESULT usage_read(struct store *s, const uint8_t tenant[16], const uint8_t kvid[16], struct arena *a, struct usage *ret, struct err *e);

struct usage_mark {
    uint32_t series;     /* of indexes: a journal that is shorter than it was begins another */
    uint64_t counted_to; /* every event below is in the records */
    uint64_t under_way;  /* above counted_to: those below this are in some of the records, which say so */
    int64_t began_ns;    /* nothing is known of before; 0: all there is */
};
RESULT usage_mark_read(struct store *s, struct usage_mark *ret, struct err *e); /* zeros where there is none */
RESULT usage_mark_put(struct store *s, const struct usage_mark *m, struct err *e);
/* Adds what the table counted of [m->counted_to, upto) in transactions of USAGE_BATCH versions, and moves the mark. After an error,
 * or a death between two transactions, the same again completes it: nothing is counted twice. between: after each but the last. Of a
 * tenant that is PURGING or gone nothing is kept. */
RESULT usage_merge(struct store *s, struct usage_table *t, struct usage_mark *m, uint64_t upto, void (*between)(void *user), void *user,
                   struct err *e);

#endif
