/*
 * Purpose: what the SQLite store's own files share: connections, the seal, the queue of transactions.
 * Owns:    struct store and everything in it. Threads: named at each field.
 * Errors:  db_fail maps every SQLite code once, for all files. Limits: STORE_EPOCHS_MAX seal epochs in memory.
 * Secrets: the keys of each epoch, in struct aead_key; opened bodies only in arenas and transaction buffers (wiped).
 */
#ifndef KMS_STORE_INTERNAL_H
#define KMS_STORE_INTERNAL_H

#include "kms/crypto/aead.h"
#include "kms/store/fresh.h"
#include "kms/store/store.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>

enum {
    STORE_EPOCHS_MAX = 64,
    STORE_WATCH_SLOTS = 8,
    STORE_READERS_MAX = 64,
    STORE_WAL_FRAMES_MAX = 8192,     /* 32 MiB: above it the writer checkpoints itself, or the log could grow for ever */
    STORE_CHECKPOINT_EVERY_MS = 100,
    STORE_ERASE_PATIENCE_MS = 50,    /* writers wait meanwhile */
    STORE_ERASE_AGAIN_TICKS = 10,    /* of the checkpointer, after a reader was in the way */
    STORE_RETRY_BYTES = 200 * 1024,
    STORE_APPLICATION_ID = 0x434c5653, /* "CLVS" */
    SEAL_FORMAT = 1,
    SEAL_HEADER_BYTES = 1,           /* the format */
    SEAL_BYTES = SEAL_HEADER_BYTES + AEAD_OVERHEAD,
};

/* ---- db.c: one connection ---- */
enum db_role { DB_READER, DB_WRITER, DB_CHECKPOINTER, DB_CREATE };
struct db {
    sqlite3 *h;
    struct db *next_free;
    sqlite3_stmt *get, *scan_up, *scan_down, *scan_all, *count, *outbox_read;                      /* readers */
    sqlite3_stmt *revision, *upsert, *remove, *outbox_max, *outbox_put, *outbox_trim;      /* writer */
    sqlite3_stmt *begin, *commit, *savepoint, *undo, *release;
    sqlite3_stmt *bucket_get, *key_below;                                                  /* both */
    sqlite3_stmt *walk, *rows;                                                             /* readers */
    sqlite3_stmt *reseal, *identity_put;                                                   /* writer */
    sqlite3_stmt *bucket_put, *bucket_remove, *root_put, *root_trim;                                   /* writer */
};
RESULT db_open(const char *path, enum db_role role, struct db *ret, struct err *e);
void db_close(struct db *d);
RESULT db_statements(struct db *d, enum db_role role, struct err *e); /* prepares what the role needs */
RESULT db_exec(struct db *d, const char *sql, struct err *e);
RESULT db_prepare(struct db *d, const char *sql, sqlite3_stmt **ret, struct err *e);
RESULT db_int(struct db *d, const char *sql, int64_t *ret, struct err *e); /* first column of the first row; 0 when no row */
RESULT db_run(struct db *d, sqlite3_stmt *st, struct err *e);              /* steps to the end and resets */
RESULT db_fail(struct db *d, int rc, const char *doing, struct err *e);    /* always fails */
void db_bind_bytes(sqlite3_stmt *st, int at, struct bytes b);              /* borrowed until reset; empty is X'', not NULL */
struct bytes db_column_bytes(sqlite3_stmt *st, int at);
RESULT db_path(const char *dir, const char *file, char *out, size_t n, struct err *e);

/* ---- schema.c: numbered, checksummed, forward-only ---- */
RESULT schema_check(struct db *d, struct err *e);  /* ours? not newer? history as compiled in? */
/* fill: in the same transaction, when the tables of number SCHEMA_FRESH were made just now. */
enum { SCHEMA_FRESH = 2 };
RESULT schema_migrate(struct db *d, const struct clock *clock,
                      struct result (*fill)(void *user, struct db *d, struct err *e), void *user, struct err *e);

/* ---- seal.c ---- */
struct seal {
    pthread_mutex_t asking;  /* one at a time asks the token, without the lock of the table */
    pthread_rwlock_t lock;   /* the table; held, shared, while a key is used: so a key can leave */
    struct seal_keys {
        uint32_t epoch;
        struct aead_key *record, *outbox, *note;
    } keys[STORE_EPOCHS_MAX];
    size_t n;
    uint8_t incarnation[16];
    _Atomic uint32_t epoch;  /* what is written now is sealed under. The writer changes it, before anybody can read what is */
    _Atomic uint32_t newest; /* on the token */
    _Atomic uint32_t oldest; /* of rows and events, known by proof; 0: any */
    RESULT (*store_key)(void *user, uint32_t epoch, struct secret **ret, struct err *e);
    void *user;
};
void seal_init(struct seal *s, const struct store_options *o); /* epoch: the newest, until the store says which is current */
void seal_release(struct seal *s);
RESULT seal_have(struct seal *s, uint32_t epoch, struct err *e); /* from now on in memory; may ask the HSM */
bool seal_holds(struct seal *s, uint32_t epoch);
void seal_forget(struct seal *s, uint32_t below); /* keys of these epochs leave memory, and are not asked for again */
/* out: SEAL_BYTES + body.n bytes. An epoch whose key is in memory: else the HSM is asked. */
RESULT seal_record(struct seal *s, uint32_t epoch, const struct record *r, struct buf *out, struct err *e);
RESULT seal_open_record(struct seal *s, uint32_t epoch, struct record *r, struct bytes sealed, struct arena *a, struct err *e);
RESULT seal_outbox(struct seal *s, uint32_t epoch, uint64_t seq, const uint8_t tenant[16], struct bytes event, struct buf *out,
                   struct err *e);
RESULT seal_open_outbox(struct seal *s, uint32_t epoch, struct outbox_event *ev, struct bytes sealed, struct arena *a,
                        struct err *e);
/* Small facts of the store about itself. An anchor is read before it is known of which incarnation it is. */
enum seal_note { NOTE_ROOT = 1, NOTE_ANCHOR = 2 };
RESULT seal_note(struct seal *s, uint32_t epoch, enum seal_note what, struct bytes plain, struct buf *out, struct err *e);
RESULT seal_open_note(struct seal *s, uint32_t epoch, enum seal_note what, struct bytes sealed, struct arena *a,
                      struct bytes *ret, struct err *e);
/* The store's own identity: instance and incarnation under the seal secret. Asks the HSM. */
RESULT seal_identity(struct seal *s, uint32_t epoch, const uint8_t instance[16], struct buf *out, struct err *e);
RESULT seal_check_identity(struct seal *s, uint32_t epoch, const uint8_t instance[16], struct bytes sealed, struct err *e);

/* ---- read.c ---- */
struct db *conn_take(struct store *s); /* waits for one */
void conn_return(struct store *s, struct db *d);
RESULT read_row(struct store *s, sqlite3_stmt *st, struct arena *a, struct record *ret, struct err *e); /* columns as in scan */
RESULT read_event(struct store *s, sqlite3_stmt *st, struct arena *a, struct outbox_event *ret, struct err *e);

/* ---- txn.c ---- */
enum op_kind { OP_PUT, OP_DELETE, OP_CHECK, OP_RESEAL };
struct op {
    enum op_kind what;
    enum rec_kind kind;
    uint8_t tenant[STORE_TENANT_BYTES];
    size_t id_at, id_n, name_at, name_n, body_at, body_n; /* in txn.data */
    uint32_t state;
    int64_t time_unix_ns;
    uint64_t count, expected;
    /* OP_RESEAL: the very sealing that makes room (its revision is `expected`), and for which: body is sealed already */
    uint32_t epoch_before, epoch_after;
    uint8_t tag_before[ENTRY_TAG_BYTES];
};
struct store_txn {
    struct store *s;
    struct op *ops;
    size_t nops, cap;
    struct buf data; /* wiped on release */
    bool has_event, is_trim, is_urgent, is_erasing;
    uint8_t event_tenant[STORE_TENANT_BYTES];
    size_t event_at, event_n;
    uint64_t trim_up_to;
    bool seals;
    uint32_t seal_epoch;
    size_t identity_at, identity_n; /* in data: the store's identity under that epoch */
    const char *broken; /* what limit was passed, or NULL */
    /* queue; under store.mu */
    struct store_txn *next;
    pthread_cond_t settled;
    bool is_settled, failed;
    uint64_t seq;
    struct err err;
};
/* Into the transaction: this row, as it was read, sealed anew. */
void txn_reseal(struct store_txn *t, const struct record *key, uint32_t epoch, const uint8_t tag[ENTRY_TAG_BYTES], uint32_t epoch_after,
                struct bytes sealed);
static inline struct bytes txn_view(const struct store_txn *t, size_t at, size_t n)
{
    return (struct bytes){t->data.p + at, n};
}

struct store {
    char path[4096 + 16];
    const struct clock *clock;
    uint8_t instance[16];
    struct seal seal;
    int lock_fd;

    pthread_mutex_t mu; /* queue, stop, reader pool */
    pthread_cond_t work, reader_free, tick, erased;
    uint64_t erase_wanted, erase_done; /* erasing commits, and those of them whose log is cut off */
    struct store_txn *head, **tail;
    bool stop_writer, stop_checkpointer;
    struct db *free_readers;
    struct db readers[STORE_READERS_MAX];
    size_t nreaders;

    pthread_mutex_t hooks_mu; /* held while hooks run: a setter that returned is never called again */
    struct {
        void (*fn)(void *user, enum rec_kind kind, const uint8_t tenant[16], struct bytes id);
        void *user;
    } watch[STORE_WATCH_SLOTS];
    void (*wake)(void *user, uint64_t seq);
    void *wake_user;

    struct db writer; /* writer thread only, once it runs */
    struct db checkpointer;
    pthread_t writer_thread, checkpointer_thread;
    bool writer_runs, checkpointer_runs;
    int wal_frames; /* writer thread */
    struct buf scratch; /* writer thread: the sealed form of one row */
    struct fresh fresh;
    struct stage *stage; /* writer thread */
    struct anchor *anchor; /* NULL: none */
    bool check_only;
    char trouble[STORE_TROUBLE_MAX]; /* under mu */
    atomic_bool troubled;
    _Atomic uint64_t outbox_last;
    atomic_bool wal_dirty;
};

/* ---- reseal.c: all rows in key order; the statement is reset by its caller, and what is bound borrowed until then ---- */
sqlite3_stmt *rows_behind(struct db *d, const struct store_reseal *at);
/* Onto the row under st. False: no cursor can stand on it, since no program of ours writes such a key. */
bool reseal_cursor(struct store_reseal *at, sqlite3_stmt *st);

/* ---- anchor.c: the floor in a second place ---- */
struct floor_value {
    uint32_t seal; /* the epoch that it is sealed under */
    uint8_t incarnation[16];
    uint64_t epoch, outbox_last, journal_next;
};
struct anchor *anchor_new(const struct store_anchor *io);
void anchor_free(struct anchor *a); /* stops its thread; NULL accepted */
/* What the configured place holds, or, when the root says that the floor was elsewhere before, what that holds.
 * ERR_NOT_FOUND: none was ever written. */
RESULT anchor_read(struct store *s, const struct root *root, struct floor_value *ret, struct err *e);
RESULT anchor_compare(struct store *s, struct floor_value *ret, bool *ret_found, struct err *e); /* changes nothing */
RESULT anchor_check(struct store *s, struct err *e); /* the store as loaded against the floor */
RESULT anchor_write(struct store *s, struct err *e); /* the store as committed becomes the floor */
RESULT anchor_start(struct store *s, struct err *e);
void anchor_stop(struct store *s); /* after the writer: writes the last floor */
/* Whether the newest floor is sealed under this epoch; waits for one attempt to write it where it is not. */
bool anchor_sealed_under(struct store *s, uint32_t epoch);
void anchor_cover(struct store *s); /* waits until the floor covers what is committed, or one attempt has failed */

/* ---- open.c, for accept.c ---- */
struct store *store_alloc(const struct store_options *o);
RESULT store_lock(struct store *s, const char *dir, struct err *e); /* path, permissions, lock */
RESULT store_identify(struct store *s, struct db *d, const struct store_options *o, struct err *e);
RESULT store_write_identity(struct store *s, struct db *d, struct err *e); /* asks the HSM */
RESULT store_upgrade(struct store *s, struct db *d, const struct store_options *o, struct err *e); /* migrations */

/* ---- schema.c ---- */
int schema_newest(void);

/* ---- writer.c ---- */
RESULT writer_note_place(struct store *s, uint8_t place, struct err *e); /* before the thread runs: into the root */
RESULT writer_start(struct store *s, struct err *e);
RESULT checkpointer_start(struct store *s, struct err *e); /* checkpoint.c */

#endif
