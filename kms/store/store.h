/*
 * Purpose: the store contract: get, ordered scan, compare-and-set transaction with outbox events, watch. SQLite behind it
 *          (kms/store/sqlite*.c); PostgreSQL joins behind the same contract and the same conformance suite.
 * Owns:    database handles, the writer thread (group commit of up to STORE_GROUP_MAX transactions), the checkpointer
 *          thread, and the store key of each seal epoch.
 * Threads: every function from any thread; get and scan use pooled read connections; commit blocks until durable.
 *          Slow lane only: never on a gRPC worker.
 * Errors:  ERR_NOT_FOUND; ERR_CONFLICT (revision not as expected: read again); ERR_EXISTS (expected absent);
 *          ERR_DATA_LOSS "RECORD_TAMPERED" (does not open under its own columns); ERR_UNAVAILABLE "STORE_FULL" / "STORE_IO",
 *          and "STORE_UNSURE" where a failing disk leaves open whether a commit happened;
 *          open: ERR_STATE "STORE_NEWER" (made by a newer version), "STORE_FOREIGN" (other instance or seal secret),
 *          "STORE_BUSY" (another process has it open), "STORE_PERMISSIONS"; ERR_NOT_FOUND; ERR_DATA_LOSS "STORE_CORRUPT".
 *          ERR_DATA_LOSS "STORE_STALE": what is there is authentic but not the newest, or something is missing (README.md).
 *          ERR_DATA_LOSS "SEAL_ABSENT": sealed under an epoch whose secret is not on the token any more: gone for good, or another
 *          token, or a copy from before. Never told as "no such row".
 *          open: ERR_STATE "STORE_ROLLED_BACK": older than the floor; `kmsd accept-rollback` is the way on.
 *          commit: ERR_OUT_OF_RANGE "STORE_LIMIT" when the transaction passed a limit below; nothing of it is applied.
 * Limits:  STORE_BODY_MAX a body, STORE_ID_MAX an id (at least 1), STORE_NAME_MAX a name, STORE_EVENT_MAX an event,
 *          STORE_TXN_MAX operations and STORE_TXN_MAX_BYTES a transaction.
 * Secrets: bodies are sealed (kms/crypto/aead.h, key from KDF_STORE area "record"); AAD = every plain column, with format,
 *          incarnation, epoch, kind, tenant, id, revision, name, state, time, count. Plain columns only find rows.
 */
#ifndef KMS_STORE_STORE_H
#define KMS_STORE_STORE_H

#include "base/arena.h"
#include "base/clock.h"
#include "base/secret.h"

enum { STORE_BODY_MAX = 262144, STORE_ID_MAX = 256, STORE_TXN_MAX = 4096, STORE_GROUP_MAX = 64, STORE_TENANT_BYTES = 16,
       STORE_NAME_MAX = 328, STORE_EVENT_MAX = 8192, STORE_TXN_MAX_BYTES = 67108864 };

/* Kinds are released numbers: never re-used. */
enum rec_kind {
    REC_META = 1,        /* instance facts: id "instance", "policy-head" ... */
    REC_TENANT = 2,      /* id = tenant name; tenant column zero */
    REC_KEYRING = 3,     /* id = location NUL ring */
    REC_CRYPTOKEY = 4,   /* id = location NUL ring NUL key */
    REC_VERSION = 5,     /* id = location NUL ring NUL key NUL be32(n) */
    REC_SAN = 6,         /* id = sha256(SAN): body = name of the one principal that has it */
    REC_PRINCIPAL = 7,   /* id = principal name */
    REC_POLICY = 8,      /* id = be64(version) */
    REC_IDEMPOTENCY = 9, /* id = sha256(tenant, principal, method, request id) */
    REC_BUDGET = 11,     /* id = tenant id[16]: volume used this day and month */
    REC_TENANT_ID = 10,  /* id = tenant id[16]: body = tenant name */
    REC_DUE = 12,        /* what falls due by itself, in order of time: kms/keyring/due.h */
    REC_USAGE = 14,      /* id = kvid: what a version was used for; "mark": how far that is counted (kms/keyring/usage.h) */
    REC_TOMBSTONE = 16,  /* id = tag of a tenant that was purged: kms/keyring/purge.c */
    REC_CERTIFICATE = 15, /* of destruction: vault/service/certificate.h */
    REC_GCM = 20,        /* tenant's; id = kvid: random nonces handed out to a version on the token (kms/keyring/gcm.c) */
    REC_UNSAVED = 24,    /* id = kvid: a version on the token that no backup of it has yet (kms/keyring/unsaved.h) */
};

struct record {
    enum rec_kind kind;
    uint8_t tenant[STORE_TENANT_BYTES]; /* immutable random tenant id; zero for what is no tenant's */
    struct bytes id;
    uint64_t revision;   /* 1.. ; set by the store */
    struct bytes name;   /* plain, at most STORE_NAME_MAX bytes: only to find and list */
    uint32_t state;      /* plain */
    int64_t time_unix_ns; /* plain */
    uint64_t count;      /* plain */
    struct bytes body;   /* opened (plaintext) here, sealed on disk */
};

/* The floor: a second place that remembers how far the store had come, so that an older copy of it is not taken for it. The
 * value is sealed; the place only keeps it. Both calls may block; they run on the anchor thread, at open and at close. */
enum store_anchor_place { STORE_ANCHOR_NONE = 0, STORE_ANCHOR_TOKEN = 1, STORE_ANCHOR_FILE = 2 };
enum { STORE_ANCHOR_MAX = 1024, STORE_ANCHOR_EVERY_MS = 2000, STORE_ANCHOR_JOURNAL_S = 60 };
struct store_anchor {
    enum store_anchor_place place;
    RESULT (*get)(void *user, uint8_t out[STORE_ANCHOR_MAX], size_t *ret_n, struct err *e); /* ERR_NOT_FOUND: never written */
    RESULT (*put)(void *user, struct bytes value, struct err *e);
    RESULT (*get_other)(void *user, uint8_t out[STORE_ANCHOR_MAX], size_t *ret_n, struct err *e); /* of the other place */
    void *user;
};

struct store;
struct store_options {
    const char *dir;              /* state_dir; the database is dir/store.db, 0600 */
    const struct clock *clock;
    uint8_t instance[16];
    /* Derives the 32-byte store key of an epoch (core: hsm_derive over KDF_STORE_KEY). */
    RESULT (*store_key)(void *user, uint32_t epoch, struct secret **ret, struct err *e);
    void *user;
    uint32_t epoch;               /* newest seal secret on the token: no row can be of a later one. create: sealed under it */
    unsigned readers;             /* read connections */
    const struct store_anchor *anchor; /* NULL: no floor is kept or asked for; copied */
    bool check_only; /* for store_fsck: opens whatever opens, proves nothing, writes nothing; commits fail ERR_STATE */
};
/* Creates an empty store (schema, incarnation); ERR_EXISTS when there is one. */
RESULT store_create(const struct store_options *o, struct err *e);
RESULT store_open(const struct store_options *o, struct store **ret, struct err *e);
void store_close(struct store *s); /* waits for commits under way; NULL accepted */
void store_incarnation(const struct store *s, uint8_t out[16]);

/* The journal's part of the floor: next_index(user) is asked at each writing of the anchor (NULL: no more). */
void store_anchor_journal(struct store *s, uint64_t (*next_index)(void *user), void *user);
struct store_anchor_status {
    enum store_anchor_place place;
    uint64_t epoch, floor_epoch; /* of the store, and of the newest floor that was written */
    uint64_t floor_journal;      /* the journal had this many records when the floor that was found at open was written */
    bool failing;                /* the last writing failed: it is tried again */
    char why[160];
};
void store_anchor_status(struct store *s, struct store_anchor_status *ret);

/* `kmsd fsck`: every row, bucket, link, count, the root, the outbox and the floor, of a store opened with check_only. What is
 * found goes to report; an error is what keeps the check from going on. */
struct store_check {
    void (*report)(void *user, const char *text);
    void (*inform)(void *user, const char *text); /* or NULL: what is no finding, as rows of an older seal epoch, which can be opened */
    void *user;
    uint64_t rows, covered, buckets, events, epoch, outbox_first, outbox_last; /* out; covered: rows that have an entry */
    uint32_t seal_epoch;                          /* out: the store's */
    uint64_t older;                               /* out: rows of an older one */
};
RESULT store_fsck(struct store *s, struct store_check *c, struct err *e);

/* `kmsd accept-rollback`, offline: takes the store as it stands, older or damaged, for the truth from now on. Draws a new
 * incarnation, under which every row that opens is sealed again, so that nothing of what is given up ever opens; writes the fact
 * as REC_META "rollback" and `event` to the outbox behind what the journal has; sets the floor. One transaction. */
#define STORE_ROLLBACK_ID "rollback"
struct store_acceptance {
    uint64_t journal_outbox_seq, journal_next_index; /* as the journal stands */
    struct bytes event, note;                        /* note: body of the REC_META record */
    void (*unreadable)(void *user, enum rec_kind kind, const char *id); /* a row that does not open: it stays as it is */
    /* Each row before it is sealed again: may change its state, count and body (valid until the next call): then *ret_changed. */
    RESULT (*amend)(void *user, struct record *r, bool *ret_changed, struct err *e);
    void (*floor_known)(void *user);                 /* old_epoch and floor are filled; event and note may still be changed */
    void *user;
    uint64_t rows, unreadable_rows, amended_rows;    /* out */
    uint64_t old_epoch, floor_epoch, new_epoch;      /* out; 0: was not readable */
    uint64_t floor_journal, floor_outbox;            /* out */
    bool floor_found;                                /* out: there is one, it opens, and it is of this store's incarnation */
    uint8_t place;                                   /* private */
};
RESULT store_accept(const struct store_options *o, struct store_acceptance *a, struct err *e);

/* Views live in the arena. */
RESULT store_get(struct store *s, enum rec_kind kind, const uint8_t tenant[16], struct bytes id, struct arena *a,
                 struct record *ret, struct err *e);
/* Rows of (kind, tenant) with id > after and id starting with prefix, bytewise ascending, at most `limit`. */
struct store_scan {
    enum rec_kind kind;
    uint8_t tenant[16];
    struct bytes prefix, after;
    size_t limit;
    bool descending;     /* then id < after (after empty: from the end) */
    bool all_tenants;    /* every tenant (start-up loading only); order: tenant, id; never with `descending` */
    uint8_t after_tenant[16];
    bool with_broken;    /* a row that does not open is given too, its body.p NULL: what the file says of it, and no more. Else: an error */
};
RESULT store_scan(struct store *s, const struct store_scan *q, struct arena *a, struct record **ret, size_t *ret_n,
                  struct err *e);

/* For messages to people: "principal", and an id with what is not printable as hex and NUL as "/". */
const char *store_kind_name(enum rec_kind kind);
void store_id_text(struct bytes id, char *out, size_t n);

/* How many rows of (kind, tenant) have an id that starts with prefix: a figure for people, it trusts the plain columns. */
RESULT store_count(struct store *s, enum rec_kind kind, const uint8_t tenant[16], struct bytes prefix, uint64_t *ret,
                   struct err *e);

/* A group could not be written (STORE_FULL, STORE_IO): true, and why, until store_retry has written as much as the largest change:
 * call it now and then; it does nothing when there is no trouble, and blocks as a commit does. */
enum { STORE_TROUBLE_MAX = 256 };
bool store_trouble(struct store *s, char why[STORE_TROUBLE_MAX]);
void store_retry(struct store *s);
uint32_t store_schema(void); /* number of the newest migration: of every open store */

struct store_txn; /* buffered; nothing happens before commit */
struct store_txn *store_txn_new(struct store *s);
void store_txn_free(struct store_txn *t); /* NULL accepted; after commit too */
void store_txn_freep(struct store_txn **t);
enum { STORE_ABSENT = 0 };
#define STORE_ANY UINT64_MAX
/* Copies. expected: the revision read, STORE_ABSENT, or STORE_ANY. Problems are reported by commit. Operations apply in the
 * order they were added; each sees what the earlier ones did. Deleting an absent row with STORE_ANY is no error. */
void store_txn_put(struct store_txn *t, const struct record *r, uint64_t expected);
void store_txn_delete(struct store_txn *t, enum rec_kind kind, const uint8_t tenant[16], struct bytes id, uint64_t expected);
/* Only checks that the row still has this revision (TOCTOU guard), writes nothing. */
void store_txn_check(struct store_txn *t, enum rec_kind kind, const uint8_t tenant[16], struct bytes id, uint64_t expected);
/* Adds an audit event to the outbox; its sequence is given by the commit. At most one a transaction. */
void store_txn_event(struct store_txn *t, const uint8_t tenant[16], struct bytes event);
/* The commit returns only after the floor covers it (or could not be written: then health says so): what is revoked or destroyed
 * must not come back with an older copy of the store. */
void store_txn_urgent(struct store_txn *t);
/* What the transaction overwrites or deletes is to be gone from the files, the log included. The rows are overwritten by the commit
 * (secure_delete), older copies of them go with the log: store_await_erased returns when the log of all such transactions that have
 * returned is cut off. After a crash it is cut off when the store is opened. ERR_UNAVAILABLE "STORE_ERASING": a reader is in the way for
 * longer than that; it is tried again. Blocks that the file system gives free are its own matter. */
enum { STORE_ERASE_WAIT_MS = 10000 }; /* long enough for every read of this program */
void store_txn_erases(struct store_txn *t);
RESULT store_await_erased(struct store *s, int64_t ms, struct err *e);
/* All or nothing; returns when durable. *ret_seq: outbox sequence of the event (0: none). */
RESULT store_txn_commit(struct store_txn *t, uint64_t *ret_seq, struct err *e);

/* ---- the seal epoch: which seal secret the store is sealed under. The store itself says which is current, in its root and its
 * identity; that the token has a newer secret means nothing. README.md, "Seal epochs". ---- */
uint32_t store_seal_epoch(struct store *s);
/* From this transaction on everything is sealed under `epoch`, which must be above the current one (commit: ERR_STATE "SEAL_EPOCH");
 * root and identity change in it, so it holds for all or for nothing. Takes the key from the token: blocks on the HSM. */
RESULT store_txn_seal(struct store_txn *t, uint32_t epoch, struct err *e);
/* Rows that are still sealed under an older epoch, a page of them in key order, into a transaction that puts them in place sealed anew:
 * nothing that a reader, a compare-and-set or a watcher sees changes. Opening and sealing is done here, on the caller's thread, and may
 * ask the token for the old key. Rows that do not open stay as they are, and are counted. Who writes or deletes a row meanwhile is not
 * disturbed: then the commit leaves it be. Events of the outbox are not moved: they go as the journal takes them, the newest one with
 * the next event, so the transaction of the change should have one. What was sealed under the older epoch is gone from the files once
 * the log is cut off: let the last transaction erase (store_txn_erases). */
struct store_reseal {
    uint32_t limit;                     /* rows of a page, at most STORE_TXN_MAX / 2; large bodies make it shorter */
    uint16_t kind;                      /* the cursor: behind this row; all zeros: from the first one */
    uint8_t tenant[STORE_TENANT_BYTES], id[STORE_ID_MAX];
    size_t id_n;
    uint32_t rows, broken;              /* out: put into the transaction; do not open */
    bool end;                           /* out: none is behind the cursor now */
};
RESULT store_reseal(struct store *s, struct store_reseal *at, struct store_txn *txn, struct err *e);
RESULT store_reseal_count(struct store *s, uint64_t *ret, struct err *e); /* rows of an older epoch: a figure for people. Reads through
                                                                           * all keys: once in a while, not once a page */
/* Reads and opens everything: what of the store, its outbox, its roots, its identity or its floor is not under the current epoch, or
 * cannot be opened. When nothing is left the keys of all older epochs leave memory, and nothing asks for them again: what is of such an
 * epoch after that was put back (STORE_STALE). `stop` (or NULL), asked every few hundred rows, ends it with ERR_CANCELLED. */
struct store_seal_proof {
    uint64_t rows, left;                /* rows opened under the current epoch; of rows and all else what is not */
    char first[160];                    /* names the first of what is left */
};
RESULT store_seal_prove(struct store *s, bool (*stop)(void *user), void *user, struct store_seal_proof *ret, struct err *e);

/* Outbox, for the relay: events with seq > after, in order (opened); and removal up to seq once journalled. */
struct outbox_event {
    uint64_t seq;
    uint8_t tenant[16];
    struct bytes event;
};
RESULT store_outbox_read(struct store *s, uint64_t after, size_t limit, struct arena *a, struct outbox_event **ret,
                         size_t *ret_n, struct err *e);
RESULT store_outbox_trim(struct store *s, uint64_t up_to, struct err *e); /* the newest row always stays: it is the counter */
uint64_t store_outbox_last(struct store *s); /* highest durable sequence ever given; 0: none */
/* Called on the writer thread after each durable commit that had an event (highest seq): wakes the relay. It and the watchers
 * must not call store_set_outbox_waker, store_watch or a commit. Both setters return when no earlier hook is running. */
void store_set_outbox_waker(struct store *s, void (*wake)(void *user, uint64_t seq), void *user);

/* Watch: fn(user, kind, tenant, id) on the writer thread after a durable change. One subscriber a slot; slots 0..7. */
void store_watch(struct store *s, unsigned slot,
                 void (*fn)(void *user, enum rec_kind kind, const uint8_t tenant[16], struct bytes id), void *user);

#endif
