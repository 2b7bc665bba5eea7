#include "base/log.h"
#include "base/thread.h"
#include "kms/crypto/nonce.h"
#include "kms/store/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void bind_key(sqlite3_stmt *st, const struct store_txn *t, const struct op *op)
{
    sqlite3_bind_int(st, 1, (int)op->kind);
    db_bind_bytes(st, 2, BYTES(op->tenant, sizeof op->tenant));
    db_bind_bytes(st, 3, txn_view(t, op->id_at, op->id_n));
}

/* 0: absent. The plain column is enough here: what the caller decided on it read through the seal, and of the kinds that
 * decisions depend on the entries know the revision (stage_check). */
static RESULT current_revision(struct store *s, const struct store_txn *t, const struct op *op, uint64_t *ret, struct err *e)
{
    sqlite3_stmt *st = s->writer.revision;
    bind_key(st, t, op);
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        *ret = (uint64_t)sqlite3_column_int64(st, 0);
    struct result r = rc == SQLITE_ROW || rc == SQLITE_DONE ? ok() : db_fail(&s->writer, rc, "read revision", e);
    sqlite3_reset(st);
    return r;
}

static RESULT compare(const struct op *op, uint64_t current, struct err *e)
{
    if (op->expected == STORE_ANY && (op->what != OP_CHECK || current))
        return ok();
    if (op->expected == STORE_ANY)
        FAIL(e, ERR_NOT_FOUND, NULL, "kind %d: absent", (int)op->kind);
    if (op->expected == current)
        return ok();
    if (op->expected == STORE_ABSENT)
        FAIL(e, ERR_EXISTS, NULL, "kind %d: at revision %llu", (int)op->kind, (unsigned long long)current);
    FAIL(e, ERR_CONFLICT, NULL, "kind %d: expected revision %llu, found %llu", (int)op->kind,
         (unsigned long long)op->expected, (unsigned long long)current);
}

static RESULT put(struct store *s, const struct store_txn *t, const struct op *op, uint64_t current, struct err *e)
{
    struct record r = {.kind = op->kind, .id = txn_view(t, op->id_at, op->id_n), .revision = current + 1,
                       .name = txn_view(t, op->name_at, op->name_n), .state = op->state,
                       .time_unix_ns = op->time_unix_ns, .count = op->count, .body = txn_view(t, op->body_at, op->body_n)};
    memcpy(r.tenant, op->tenant, sizeof r.tenant);
    TRY(seal_record(&s->seal, s->seal.epoch, &r, &s->scratch, e));
    if (fresh_covers(op->kind))
        TRY(stage_put(s, &r, buf_bytes(&s->scratch), e));
    sqlite3_stmt *st = s->writer.upsert;
    bind_key(st, t, op);
    sqlite3_bind_int64(st, 4, (sqlite3_int64)r.revision);
    db_bind_bytes(st, 5, r.name);
    sqlite3_bind_int64(st, 6, r.state);
    sqlite3_bind_int64(st, 7, r.time_unix_ns);
    sqlite3_bind_int64(st, 8, (sqlite3_int64)r.count);
    sqlite3_bind_int64(st, 9, s->seal.epoch);
    db_bind_bytes(st, 10, buf_bytes(&s->scratch));
    return db_run(&s->writer, st, e);
}

/* Sealed anew by store_reseal, while anybody might write: only the very sealing that was opened there makes room for it, in the file
 * and in its entry. Whatever else is there now is newer, or not the truth, and must not be sealed in as true. */
static RESULT reseal(struct store *s, const struct store_txn *t, const struct op *op, struct err *e)
{
    struct record key = {.kind = op->kind, .id = txn_view(t, op->id_at, op->id_n), .revision = op->expected};
    struct bytes sealed = txn_view(t, op->body_at, op->body_n);
    bool same = op->epoch_after == s->seal.epoch;
    memcpy(key.tenant, op->tenant, sizeof key.tenant);
    if (same && fresh_covers(op->kind))
        TRY(stage_is(s, &key, op->tag_before, &same, e));
    if (!same)
        return ok();
    sqlite3_stmt *st = s->writer.reseal;
    bind_key(st, t, op);
    sqlite3_bind_int64(st, 4, op->epoch_after);
    db_bind_bytes(st, 5, sealed);
    sqlite3_bind_int64(st, 6, (sqlite3_int64)op->expected);
    sqlite3_bind_int64(st, 7, op->epoch_before);
    db_bind_bytes(st, 8, BYTES(op->tag_before, sizeof op->tag_before));
    TRY(db_run(&s->writer, st, e));
    if (sqlite3_changes(s->writer.h) && fresh_covers(op->kind))
        TRY(stage_retag(s, &key, sealed, e));
    return ok();
}

static RESULT apply_op(struct store *s, const struct store_txn *t, const struct op *op, struct err *e)
{
    uint64_t current = 0;
    if (op->what == OP_RESEAL)
        return reseal(s, t, op, e);
    TRY(current_revision(s, t, op, &current, e));
    if (fresh_covers(op->kind))
        TRY(stage_check(s, op->kind, op->tenant, txn_view(t, op->id_at, op->id_n), current, e));
    TRY(compare(op, current, e));
    if (op->what == OP_PUT)
        return put(s, t, op, current, e);
    if (op->what == OP_DELETE && current) {
        if (fresh_covers(op->kind))
            TRY(stage_remove(s, op->kind, op->tenant, txn_view(t, op->id_at, op->id_n), e));
        bind_key(s->writer.remove, t, op);
        return db_run(&s->writer, s->writer.remove, e);
    }
    return ok();
}

static RESULT put_event(struct store *s, struct store_txn *t, uint64_t seq, struct err *e)
{
    TRY(seal_outbox(&s->seal, s->seal.epoch, seq, t->event_tenant, txn_view(t, t->event_at, t->event_n), &s->scratch, e));
    sqlite3_stmt *st = s->writer.outbox_put;
    sqlite3_bind_int64(st, 1, (sqlite3_int64)seq);
    db_bind_bytes(st, 2, BYTES(t->event_tenant, sizeof t->event_tenant));
    sqlite3_bind_int64(st, 3, s->seal.epoch);
    db_bind_bytes(st, 4, buf_bytes(&s->scratch));
    TRY(db_run(&s->writer, st, e));
    t->seq = seq;
    return ok();
}

/* The identity here, the root with the commit. Readers take rows of this epoch from now on; there are none before the commit. */
static RESULT change_seal(struct store *s, const struct store_txn *t, struct err *e)
{
    if (t->seal_epoch <= s->seal.epoch)
        FAIL(e, ERR_STATE, "SEAL_EPOCH", "seal epoch %u is not above %u, the store's", t->seal_epoch, s->seal.epoch);
    sqlite3_bind_int64(s->writer.identity_put, 1, t->seal_epoch);
    db_bind_bytes(s->writer.identity_put, 2, txn_view(t, t->identity_at, t->identity_n));
    TRY(db_run(&s->writer, s->writer.identity_put, e));
    atomic_store(&s->seal.epoch, t->seal_epoch);
    return ok();
}

static RESULT apply_txn(struct store *s, struct store_txn *t, uint64_t next_seq, struct err *e)
{
    if (t->is_trim) {
        sqlite3_bind_int64(s->writer.outbox_trim, 1, (sqlite3_int64)t->trim_up_to);
        return db_run(&s->writer, s->writer.outbox_trim, e);
    }
    if (t->seals)
        TRY(change_seal(s, t, e));
    for (size_t i = 0; i < t->nops; i++)
        TRY(apply_op(s, t, &t->ops[i], e));
    if (t->has_event)
        return put_event(s, t, next_seq, e);
    return ok();
}

static RESULT newest_seq(struct store *s, uint64_t *ret, struct err *e)
{
    int rc = sqlite3_step(s->writer.outbox_max);
    if (rc == SQLITE_ROW)
        *ret = (uint64_t)sqlite3_column_int64(s->writer.outbox_max, 0);
    struct result r = rc == SQLITE_ROW ? ok() : db_fail(&s->writer, rc, "read outbox", e);
    sqlite3_reset(s->writer.outbox_max);
    return r;
}

/* One transaction inside the group: a refused one is undone alone. An error of the disk undoes the group, since SQLite
 * may have rolled back more than the savepoint. */
static RESULT apply_in_group(struct store *s, struct store_txn *t, uint64_t *seq, struct err *e)
{
    struct db *w = &s->writer;
    const uint32_t seal_before = s->seal.epoch;
    TRY(db_run(w, w->savepoint, e));
    stage_begin(s->stage);
    t->seq = 0;
    t->failed = apply_txn(s, t, *seq + 1, &t->err).failed;
    bool disk = t->failed && t->err.code == ERR_UNAVAILABLE && t->err.reason && strncmp(t->err.reason, "STORE_", 6) == 0;
    if (disk || sqlite3_get_autocommit(w->h)) {
        *e = t->err;
        return (struct result){1};
    }
    if (t->failed) {
        stage_undo(s->stage);
        atomic_store(&s->seal.epoch, seal_before);
        TRY(db_run(w, w->undo, e));
    }
    TRY(db_run(w, w->release, e));
    if (t->seq)
        *seq = t->seq;
    return ok();
}

static RESULT apply_all(struct store *s, struct store_txn *group, uint64_t *ret_seq, struct err *e)
{
    struct db *w = &s->writer;
    uint64_t seq = 0, changes = 0;
    TRY(db_run(w, w->begin, e));
    TRY(newest_seq(s, &seq, e));
    if (seq != s->fresh.root.outbox_last)
        FAIL(e, ERR_DATA_LOSS, "STORE_STALE", "the outbox ends at %llu, the last event was %llu", (unsigned long long)seq,
             (unsigned long long)s->fresh.root.outbox_last);
    for (struct store_txn *t = group; t; t = t->next) {
        TRY(apply_in_group(s, t, &seq, e));
        changes += !t->failed && !t->is_trim;
    }
    if (changes)
        TRY(fresh_commit(s, changes, seq, e));
    else
        TRY(db_run(w, w->commit, e)); /* a trimmed outbox is no change: what is gone is in the journal */
    *ret_seq = seq;
    return ok();
}

static RESULT apply_group(struct store *s, struct store_txn *group, uint64_t *ret_seq, struct err *e)
{
    struct result r = apply_all(s, group, ret_seq, e);
    if (r.failed)
        atomic_store(&s->seal.epoch, s->fresh.root.seal);
    stage_reset(s->stage);
    return r;
}

RESULT writer_note_place(struct store *s, uint8_t place, struct err *e)
{
    uint8_t before = s->fresh.root.anchor_place;
    TRY(db_run(&s->writer, s->writer.begin, e));
    s->fresh.root.anchor_place = place;
    struct result r = fresh_commit(s, 1, s->fresh.root.outbox_last, e);
    if (!r.failed)
        return ok();
    s->fresh.root.anchor_place = before;
    sqlite3_exec(s->writer.h, "ROLLBACK", NULL, NULL, NULL);
    return r;
}

static bool changes_a_row(const struct op *op)
{
    return op->what == OP_PUT || op->what == OP_DELETE; /* sealed anew is not changed */
}

static void run_hooks(struct store *s, struct store_txn *group, bool new_event, uint64_t seq)
{
    pthread_mutex_lock(&s->hooks_mu);
    if (new_event && s->wake)
        s->wake(s->wake_user, seq);
    for (struct store_txn *t = group; t; t = t->next) {
        for (size_t i = 0; !t->failed && i < t->nops; i++) {
            const struct op *op = &t->ops[i];
            for (unsigned w = 0; changes_a_row(op) && w < STORE_WATCH_SLOTS; w++) {
                if (s->watch[w].fn)
                    s->watch[w].fn(s->watch[w].user, op->kind, op->tenant, txn_view(t, op->id_at, op->id_n));
            }
        }
    }
    pthread_mutex_unlock(&s->hooks_mu);
}

/* For health: whether the disk takes what is written. A refusal is no trouble. */
static void note_trouble(struct store *s, const struct err *e)
{
    if (e->code != ERR_UNAVAILABLE)
        return;
    if (!atomic_load(&s->troubled))
        log_event(LOG_ERROR, "the store cannot be written", LF_ERR(e));
    pthread_mutex_lock(&s->mu);
    err_operator(e, s->trouble, sizeof s->trouble);
    atomic_store(&s->troubled, true);
    pthread_mutex_unlock(&s->mu);
}

bool store_trouble(struct store *s, char why[STORE_TROUBLE_MAX])
{
    pthread_mutex_lock(&s->mu);
    bool troubled = atomic_load(&s->troubled);
    memcpy(why, s->trouble, STORE_TROUBLE_MAX);
    pthread_mutex_unlock(&s->mu);
    return troubled;
}

static RESULT write_much(struct store *s, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *put = store_txn_new(s);
    CLEANUP(store_txn_freep) struct store_txn *remove = store_txn_new(s);
    uint8_t *body = calloc(1, STORE_RETRY_BYTES), id[32];
    INVARIANT(body);
    nonce_fill(id, sizeof id);
    struct record r = {.kind = REC_IDEMPOTENCY, .id = BYTES(id, sizeof id), .time_unix_ns = clock_wall_ns(s->clock),
                       .body = BYTES(body, STORE_RETRY_BYTES)};
    store_txn_put(put, &r, STORE_ABSENT);
    store_txn_delete(remove, REC_IDEMPOTENCY, r.tenant, r.id, STORE_ANY);
    free(body);
    TRY(store_txn_commit(put, NULL, e));
    return store_txn_commit(remove, NULL, e); /* did we die before it: such records are removed after a day */
}

/* What is small may still find a place in a log that is being used again, so that trouble would come and go: as much as the largest
 * change must fit. */
void store_retry(struct store *s)
{
    struct err e = {0};
    if (!atomic_load(&s->troubled) || write_much(s, &e).failed)
        return;
    log_event(LOG_INFO, "the store is written again");
    atomic_store(&s->troubled, false);
}

/* A commit whose sync failed is undone here, but the log may hold it whole: did the process die now, the next start would take it for
 * committed, though its callers are told otherwise. A transaction that changes nothing overwrites its first frame, and what follows
 * then no longer checks. Should the sync of that fail too, it still stands in the log that the next process reads. False: it could not
 * even be written, and whether the group happened is open until something can. */
static bool bury(struct store *s)
{
    char sql[64];
    snprintf(sql, sizeof sql, "PRAGMA user_version = %d", schema_newest()); /* what it is; banned-ok: a number */
    int rc = sqlite3_exec(s->writer.h, sql, NULL, NULL, NULL); /* banned-ok: as made above */
    return rc == SQLITE_OK || rc == SQLITE_IOERR_FSYNC;
}

static void fail_group(struct store *s, struct store_txn *group, struct err *e)
{
    bool in_doubt = sqlite3_extended_errcode(s->writer.h) == SQLITE_IOERR_FSYNC;
    if (!sqlite3_get_autocommit(s->writer.h))
        sqlite3_exec(s->writer.h, "ROLLBACK", NULL, NULL, NULL);
    if (in_doubt && !bury(s))
        e->reason = "STORE_UNSURE";
    for (struct store_txn *t = group; t; t = t->next) {
        t->failed = true;
        t->err = *e;
    }
}

static void commit_group(struct store *s, struct store_txn *group)
{
    struct err e = {0};
    uint64_t seq = 0;
    bool failed = apply_group(s, group, &seq, &e).failed;
    if (failed) {
        note_trouble(s, &e);
        fail_group(s, group, &e);
        return;
    }
    bool new_event = seq > atomic_load(&s->outbox_last);
    atomic_store(&s->outbox_last, seq);
    atomic_store(&s->wal_dirty, true);
    run_hooks(s, group, new_event, seq); /* before anyone is told: a revocation holds when its commit returns */
}

static struct store_txn *take_group(struct store *s)
{
    struct store_txn *group = s->head, *last = group;
    for (unsigned n = 1; n < STORE_GROUP_MAX && last->next; n++)
        last = last->next;
    s->head = last->next;
    if (!s->head)
        s->tail = &s->head;
    last->next = NULL;
    return group;
}

static void settle(struct store *s, struct store_txn *group)
{
    bool erase = false;
    pthread_mutex_lock(&s->mu);
    for (struct store_txn *t = group, *next; t; t = next) {
        next = t->next; /* once settled and unlocked, t is its caller's again */
        erase |= t->is_erasing; /* one that failed may be on the disk all the same: STORE_UNSURE */
        t->is_settled = true;
        pthread_cond_signal(&t->settled);
    }
    s->erase_wanted += erase;
    if (erase)
        pthread_cond_signal(&s->tick);
    pthread_mutex_unlock(&s->mu);
}

static int on_wal(void *arg, sqlite3 *h, const char *name, int frames)
{
    (void)h, (void)name;
    ((struct store *)arg)->wal_frames = frames;
    return SQLITE_OK;
}

/* The checkpointer catches up only while nobody writes; under a steady load the log would never be restarted. Between two
 * groups nobody writes, so a checkpoint here is complete. */
static void bound_wal(struct store *s)
{
    if (s->wal_frames < STORE_WAL_FRAMES_MAX)
        return;
    if (sqlite3_wal_checkpoint_v2(s->writer.h, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL) == SQLITE_OK)
        s->wal_frames = 0;
}

static void *writer_main(void *arg)
{
    struct store *s = arg;
    pthread_mutex_lock(&s->mu);
    for (;;) {
        while (!s->head && !s->stop_writer)
            pthread_cond_wait(&s->work, &s->mu);
        if (!s->head)
            break;
        struct store_txn *group = take_group(s);
        pthread_mutex_unlock(&s->mu);
        commit_group(s, group);
        settle(s, group);
        bound_wal(s);
        pthread_mutex_lock(&s->mu);
    }
    pthread_mutex_unlock(&s->mu);
    return NULL;
}

RESULT writer_start(struct store *s, struct err *e)
{
    uint64_t seq = 0;
    TRY(newest_seq(s, &seq, e));
    if (seq != s->fresh.root.outbox_last)
        FAIL(e, ERR_DATA_LOSS, "STORE_STALE", "the outbox ends at %llu, the last event was %llu", (unsigned long long)seq,
             (unsigned long long)s->fresh.root.outbox_last);
    atomic_store(&s->outbox_last, seq);
    sqlite3_wal_hook(s->writer.h, on_wal, s);
    TRY(thread_spawn(&s->writer_thread, "store-writer", writer_main, s, e));
    s->writer_runs = true;
    return ok();
}
