#include "base/dir.h"
#include "base/thread.h"
#include "kms/crypto/nonce.h"
#include "kms/store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct store *store_alloc(const struct store_options *o)
{
    struct store *s = calloc(1, sizeof *s);
    INVARIANT(s);
    s->clock = o->clock;
    memcpy(s->instance, o->instance, sizeof s->instance);
    s->lock_fd = -1;
    s->tail = &s->head;
    seal_init(&s->seal, o);
    buf_init(&s->scratch, STORE_BODY_MAX + SEAL_BYTES);
    fresh_init(&s->fresh);
    s->stage = stage_new();
    s->anchor = o->anchor ? anchor_new(o->anchor) : NULL;
    INVARIANT(pthread_mutex_init(&s->mu, NULL) == 0 && pthread_mutex_init(&s->hooks_mu, NULL) == 0 &&
              pthread_cond_init(&s->work, NULL) == 0 && pthread_cond_init(&s->reader_free, NULL) == 0);
    wait_cond_init(&s->tick);
    wait_cond_init(&s->erased);
    s->erase_wanted = 1; /* who died before may have left it to us */
    return s;
}

static void store_closep(struct store **s)
{
    store_close(*s);
}

RESULT store_write_identity(struct store *s, struct db *d, struct err *e)
{
    CLEANUP(buf_release) struct buf sealed;
    sqlite3_stmt *st = NULL;
    buf_init(&sealed, 4096);
    TRY(seal_identity(&s->seal, s->seal.epoch, s->instance, &sealed, e));
    TRY(db_prepare(d,
                   "INSERT INTO identity (one, instance, incarnation, epoch, seal) VALUES (1, ?1, ?2, ?3, ?4)"
                   " ON CONFLICT (one) DO UPDATE SET incarnation = ?2, epoch = ?3, seal = ?4",
                   &st, e));
    db_bind_bytes(st, 1, BYTES(s->instance, 16));
    db_bind_bytes(st, 2, BYTES(s->seal.incarnation, 16));
    sqlite3_bind_int64(st, 3, s->seal.epoch);
    db_bind_bytes(st, 4, buf_bytes(&sealed));
    struct result r = db_run(d, st, e);
    sqlite3_finalize(st);
    return r;
}

struct filling {
    struct store *s;
    bool is_new; /* it has no identity yet */
};

/* Runs in the transaction that made the tables: there is never a moment at which they are empty and believed. */
static struct result fill(void *user, struct db *d, struct err *e)
{
    struct filling *f = user;
    if (f->is_new)
        TRY(store_write_identity(f->s, d, e));
    TRY(db_statements(d, DB_WRITER, e));
    TRY(fresh_new_key(&f->s->fresh, e));
    return fresh_build(f->s, d, e);
}

static RESULT fill_new(const char *path, const struct store_options *o, struct err *e)
{
    CLEANUP(db_close) struct db d = {0};
    CLEANUP(store_closep) struct store *s = store_alloc(o);
    struct filling f = {s, true};
    char set_id[64];
    TRY(db_open(path, DB_CREATE, &d, e));
    snprintf(set_id, sizeof set_id, "PRAGMA application_id = %d", (int)STORE_APPLICATION_ID); /* banned-ok: PRAGMA takes no parameter */
    TRY(db_exec(&d, set_id, e)); /* banned-ok: a number of our own */
    nonce_fill(s->seal.incarnation, sizeof s->seal.incarnation);
    return schema_migrate(&d, o->clock, fill, &f, e);
}

RESULT store_create(const struct store_options *o, struct err *e)
{
    char path[4096 + 16], part[4096 + 16];
    TRY(db_path(o->dir, "store.db", path, sizeof path, e));
    TRY(db_path(o->dir, "store.db.part", part, sizeof part, e));
    if (access(path, F_OK) == 0)
        FAIL(e, ERR_EXISTS, NULL, "%s exists", path);
    /* Made aside and linked into place when complete: a crash leaves no half a store that would refuse to be made again. */
    if (unlink(part) != 0 && errno != ENOENT)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "STORE_IO", "remove %s", part);
    int fd = open(part, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, errno == ENOSPC ? "STORE_FULL" : "STORE_IO", "create %s", part);
    close(fd);
    struct result r = fill_new(part, o, e);
    if (r.failed) {
        unlink(part);
        return r;
    }
    if (link(part, path) != 0) {
        int errnum = errno;
        unlink(part);
        errno = errnum;
        FAIL_ERRNO(e, errnum == EEXIST ? ERR_EXISTS : ERR_UNAVAILABLE, errnum == EEXIST ? NULL : "STORE_IO", "name %s", path);
    }
    unlink(part);
    return dir_sync(o->dir, "STORE_IO", e);
}

static RESULT check_file(const char *path, struct err *e)
{
    struct stat st;
    if (lstat(path, &st) != 0 && errno == ENOENT)
        FAIL(e, ERR_NOT_FOUND, "STORE_MISSING", "no store at %s: run kmsd init", path);
    if (lstat(path, &st) != 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "STORE_IO", "stat %s", path);
    if (!S_ISREG(st.st_mode) || (st.st_mode & 077) != 0 || st.st_uid != geteuid())
        FAIL(e, ERR_STATE, "STORE_PERMISSIONS", "%s must be a plain file of this user with mode 0600, is %o of user %u", path,
             (unsigned)st.st_mode, (unsigned)st.st_uid);
    return ok();
}

/* A lock of our own file: two writers would each be right for SQLite and wrong for the outbox and the watchers. Not on the
 * database, whose POSIX locks fall when any descriptor of it is closed. */
static RESULT take_lock(struct store *s, const char *dir, struct err *e)
{
    char path[4096 + 16];
    TRY(db_path(dir, "store.lock", path, sizeof path, e));
    s->lock_fd = open(path, O_CREAT | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (s->lock_fd < 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "STORE_IO", "open %s", path);
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0)
        FAIL_ERRNO(e, ERR_STATE, "STORE_BUSY", "another process has %s open", dir);
    return ok();
}

RESULT store_identify(struct store *s, struct db *d, const struct store_options *o, struct err *e)
{
    sqlite3_stmt *st = NULL;
    TRY(db_prepare(d, "SELECT instance, incarnation, epoch, seal FROM identity", &st, e));
    struct result r = {0};
    int rc = sqlite3_step(st);
    struct bytes instance = db_column_bytes(st, 0), incarnation = db_column_bytes(st, 1);
    if (rc != SQLITE_ROW || incarnation.n != 16 || !bytes_equal(instance, BYTES(o->instance, 16))) {
        r = err_set(e, ERR_STATE, "STORE_FOREIGN", __FILE__, __LINE__, "the store belongs to another instance");
    } else {
        memcpy(s->seal.incarnation, incarnation.p, 16);
        int64_t column = sqlite3_column_int64(st, 2);
        uint32_t epoch = column < 0 || column > UINT32_MAX ? 0 : (uint32_t)column;
        r = seal_check_identity(&s->seal, epoch, o->instance, db_column_bytes(st, 3), e);
        if (!r.failed)
            atomic_store(&s->seal.epoch, epoch); /* the store's, not the token's */
    }
    sqlite3_finalize(st);
    atomic_store(&s->fresh.seal, s->seal.epoch);
    return r;
}

RESULT store_upgrade(struct store *s, struct db *d, const struct store_options *o, struct err *e)
{
    struct filling f = {s, false};
    return schema_migrate(d, o->clock, fill, &f, e);
}

RESULT store_lock(struct store *s, const char *dir, struct err *e)
{
    TRY(db_path(dir, "store.db", s->path, sizeof s->path, e));
    TRY(check_file(s->path, e));
    return take_lock(s, dir, e);
}

/* Before anything is written: a store that is not ours, or newer, stays as it was. */
static RESULT check_then_migrate(struct store *s, const struct store_options *o, struct err *e)
{
    CLEANUP(db_close) struct db d = {0};
    TRY(db_open(s->path, DB_CREATE, &d, e));
    TRY(schema_check(&d, e));
    TRY(store_identify(s, &d, o, e));
    TRY(store_upgrade(s, &d, o, e));
    return fresh_load(s, &d, e);
}

static RESULT open_readers(struct store *s, const struct store_options *o, struct err *e)
{
    for (unsigned i = 0; i < o->readers; i++) {
        TRY(db_open(s->path, DB_READER, &s->readers[i], e));
        s->nreaders++;
        s->readers[i].next_free = s->free_readers;
        s->free_readers = &s->readers[i];
        if (s->check_only) /* the log stays as it was found */
            sqlite3_db_config(s->readers[i].h, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    }
    return ok();
}

static RESULT open_to_check(struct store *s, const struct store_options *o, struct err *e)
{
    CLEANUP(db_close) struct db d = {0};
    int64_t version = 0;
    TRY(store_lock(s, o->dir, e));
    TRY(db_open(s->path, DB_CREATE, &d, e));
    sqlite3_db_config(d.h, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    TRY(schema_check(&d, e));
    TRY(store_identify(s, &d, o, e));
    TRY(db_int(&d, "PRAGMA user_version", &version, e));
    if (version < schema_newest())
        FAIL(e, ERR_STATE, "STORE_OLDER", "the store has schema %lld, this program's is %d: start kmsd once, it upgrades it",
             (long long)version, schema_newest());
    return open_readers(s, o, e);
}

static RESULT open_all(struct store *s, const struct store_options *o, struct err *e)
{
    TRY(store_lock(s, o->dir, e));
    TRY(check_then_migrate(s, o, e));
    TRY(db_open(s->path, DB_WRITER, &s->writer, e));
    TRY(seal_have(&s->seal, s->seal.epoch, e)); /* the current key now: a commit must not wait for the HSM */
    TRY(anchor_check(s, e));
    TRY(db_open(s->path, DB_CHECKPOINTER, &s->checkpointer, e));
    TRY(open_readers(s, o, e));
    TRY(writer_start(s, e));
    TRY(anchor_start(s, e));
    return checkpointer_start(s, e);
}

RESULT store_open(const struct store_options *o, struct store **ret, struct err *e)
{
    INVARIANT(o->readers >= 1 && o->readers <= STORE_READERS_MAX && o->epoch >= 1);
    struct store *s = store_alloc(o);
    s->check_only = o->check_only;
    if ((o->check_only ? open_to_check(s, o, e) : open_all(s, o, e)).failed) {
        store_close(s);
        return (struct result){1};
    }
    *ret = s;
    return ok();
}

static void stop_threads(struct store *s)
{
    pthread_mutex_lock(&s->mu);
    s->stop_writer = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->mu);
    if (s->writer_runs)
        pthread_join(s->writer_thread, NULL);
    anchor_stop(s);
    pthread_mutex_lock(&s->mu);
    s->stop_checkpointer = true;
    pthread_cond_signal(&s->tick);
    pthread_mutex_unlock(&s->mu);
    if (s->checkpointer_runs)
        pthread_join(s->checkpointer_thread, NULL);
}

void store_close(struct store *s)
{
    if (!s)
        return;
    stop_threads(s);
    for (size_t i = 0; i < s->nreaders; i++)
        db_close(&s->readers[i]);
    db_close(&s->checkpointer);
    db_close(&s->writer); /* the last one checkpoints and removes the log */
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    anchor_free(s->anchor);
    seal_release(&s->seal);
    buf_release(&s->scratch);
    stage_free(s->stage);
    fresh_release(&s->fresh);
    pthread_mutex_destroy(&s->mu);
    pthread_mutex_destroy(&s->hooks_mu);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->reader_free);
    pthread_cond_destroy(&s->tick);
    pthread_cond_destroy(&s->erased);
    free(s);
}

void store_incarnation(const struct store *s, uint8_t out[16])
{
    memcpy(out, s->seal.incarnation, 16);
}

uint32_t store_seal_epoch(struct store *s)
{
    return atomic_load(&s->fresh.seal);
}

uint64_t store_outbox_last(struct store *s)
{
    return atomic_load(&s->outbox_last);
}

void store_set_outbox_waker(struct store *s, void (*wake)(void *user, uint64_t seq), void *user)
{
    pthread_mutex_lock(&s->hooks_mu);
    s->wake = wake;
    s->wake_user = user;
    pthread_mutex_unlock(&s->hooks_mu);
}

void store_watch(struct store *s, unsigned slot,
                 void (*fn)(void *user, enum rec_kind kind, const uint8_t tenant[16], struct bytes id), void *user)
{
    INVARIANT(slot < STORE_WATCH_SLOTS);
    pthread_mutex_lock(&s->hooks_mu);
    s->watch[slot].fn = fn;
    s->watch[slot].user = user;
    pthread_mutex_unlock(&s->hooks_mu);
}
