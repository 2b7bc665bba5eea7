#include "kms/store/internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

RESULT db_path(const char *dir, const char *file, char *out, size_t n, struct err *e)
{
    int w = snprintf(out, n, "%s/%s", dir, file);
    if (w < 0 || (size_t)w >= n)
        FAIL(e, ERR_INVALID, "STORE_PATH", "path too long: %s", dir);
    return ok();
}

RESULT db_fail(struct db *d, int rc, const char *doing, struct err *e)
{
    const char *msg = d->h ? sqlite3_errmsg(d->h) : sqlite3_errstr(rc);
    int os = d->h ? sqlite3_system_errno(d->h) : 0;
    int primary = rc & 0xff;
    /* A full disk shows as SQLITE_FULL on a write, but as an I/O error when the shared-memory file cannot grow. */
    if (primary == SQLITE_FULL || (primary == SQLITE_IOERR && (os == ENOSPC || os == EDQUOT)))
        FAIL(e, ERR_UNAVAILABLE, "STORE_FULL", "%s: %s", doing, msg);
    if (primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB)
        FAIL(e, ERR_DATA_LOSS, "STORE_CORRUPT", "%s: %s", doing, msg);
    FAIL(e, ERR_UNAVAILABLE, "STORE_IO", "%s: %s (%d, errno %d)", doing, msg, rc, os);
}

RESULT db_exec(struct db *d, const char *sql, struct err *e)
{
    int rc = sqlite3_exec(d->h, sql, NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        return db_fail(d, rc, "statement", e);
    return ok();
}

RESULT db_prepare(struct db *d, const char *sql, sqlite3_stmt **ret, struct err *e)
{
    int rc = sqlite3_prepare_v3(d->h, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL);
    if (rc != SQLITE_OK)
        return db_fail(d, rc, "prepare", e);
    return ok();
}

RESULT db_int(struct db *d, const char *sql, int64_t *ret, struct err *e)
{
    sqlite3_stmt *st = NULL;
    TRY(db_prepare(d, sql, &st, e));
    int rc = sqlite3_step(st);
    *ret = rc == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
    struct result r = rc == SQLITE_ROW || rc == SQLITE_DONE ? ok() : db_fail(d, rc, "query", e);
    sqlite3_finalize(st);
    return r;
}

RESULT db_run(struct db *d, sqlite3_stmt *st, struct err *e)
{
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW)
        ;
    struct result r = rc == SQLITE_DONE ? ok() : db_fail(d, rc, "write", e);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return r;
}

void db_bind_bytes(sqlite3_stmt *st, int at, struct bytes b)
{
    INVARIANT(sqlite3_bind_blob64(st, at, b.n ? (const void *)b.p : "", b.n, SQLITE_STATIC) == SQLITE_OK);
}

struct bytes db_column_bytes(sqlite3_stmt *st, int at)
{
    const void *p = sqlite3_column_blob(st, at); /* before _bytes: the order SQLite asks for */
    return BYTES(p, (size_t)sqlite3_column_bytes(st, at));
}

static const struct {
    enum db_role role;
    size_t at;
    const char *sql;
} statements[] = {
#define COLUMNS "kind, tenant, id, revision, name, state, time, count, epoch, body"
#define AT(f) offsetof(struct db, f)
    {DB_READER, AT(get), "SELECT " COLUMNS " FROM record WHERE kind = ?1 AND tenant = ?2 AND id = ?3"},
    {DB_READER, AT(scan_up),
     "SELECT " COLUMNS " FROM record WHERE kind = ?1 AND tenant = ?2 AND id >= ?3 AND id < ?4 ORDER BY id LIMIT ?5"},
    {DB_READER, AT(scan_down),
     "SELECT " COLUMNS " FROM record WHERE kind = ?1 AND tenant = ?2 AND id >= ?3 AND id < ?4 ORDER BY id DESC LIMIT ?5"},
    {DB_READER, AT(count), "SELECT count(*) FROM record WHERE kind = ?1 AND tenant = ?2 AND id >= ?3 AND id < ?4"},
    {DB_READER, AT(scan_all),
     "SELECT " COLUMNS " FROM record WHERE kind = ?1 AND (tenant, id) > (?2, ?3) AND substr(id, 1, ?4) = ?6"
     " ORDER BY tenant, id LIMIT ?5"},
    {DB_READER, AT(outbox_read), "SELECT seq, tenant, epoch, body FROM outbox WHERE seq > ?1 ORDER BY seq LIMIT ?2"},
    {DB_WRITER, AT(revision), "SELECT revision FROM record WHERE kind = ?1 AND tenant = ?2 AND id = ?3"},
    {DB_WRITER, AT(upsert),
     "INSERT INTO record (" COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
     " ON CONFLICT (kind, tenant, id) DO UPDATE SET revision = ?4, name = ?5, state = ?6, time = ?7, count = ?8,"
     " epoch = ?9, body = ?10"},
    {DB_WRITER, AT(remove), "DELETE FROM record WHERE kind = ?1 AND tenant = ?2 AND id = ?3"},
    {DB_WRITER, AT(outbox_max), "SELECT max(seq) FROM outbox"},
    {DB_WRITER, AT(outbox_put), "INSERT INTO outbox (seq, tenant, epoch, body) VALUES (?1, ?2, ?3, ?4)"},
    {DB_WRITER, AT(outbox_trim), "DELETE FROM outbox WHERE seq <= ?1 AND seq < (SELECT max(seq) FROM outbox)"},
#define BUCKET_GET "SELECT entries FROM bucket WHERE n = ?1"
#define KEY_BELOW                                                                                                                \
    "SELECT tenant, id FROM record WHERE kind = ?1 AND (tenant, id) < (?2, ?3) ORDER BY tenant DESC, id DESC"
    {DB_READER, AT(bucket_get), BUCKET_GET},
    {DB_WRITER, AT(bucket_get), BUCKET_GET},
    {DB_READER, AT(key_below), KEY_BELOW},
    {DB_WRITER, AT(key_below), KEY_BELOW},
    {DB_READER, AT(walk),
     "SELECT tenant, id, revision, substr(body, -16) FROM record WHERE kind = ?1 AND (tenant, id) >= (?2, ?3)"
     " ORDER BY tenant, id"},
    {DB_READER, AT(rows),
     "SELECT " COLUMNS " FROM record WHERE (kind, tenant, id) > (?1, ?2, ?3) ORDER BY kind, tenant, id"},
    {DB_WRITER, AT(reseal),
     "UPDATE record SET epoch = ?4, body = ?5 WHERE kind = ?1 AND tenant = ?2 AND id = ?3 AND revision = ?6 AND epoch = ?7"
     " AND substr(body, -16) = ?8"},
    {DB_WRITER, AT(identity_put), "UPDATE identity SET epoch = ?1, seal = ?2"},
    {DB_READER, AT(begin), "BEGIN"},
    {DB_READER, AT(commit), "COMMIT"},
    {DB_WRITER, AT(bucket_put),
     "INSERT INTO bucket (n, digest, entries) VALUES (?1, ?2, ?3) ON CONFLICT (n) DO UPDATE SET digest = ?2, entries = ?3"},
    {DB_WRITER, AT(bucket_remove), "DELETE FROM bucket WHERE n = ?1"},
    {DB_WRITER, AT(root_put),
     "INSERT INTO root (epoch, seal, body, entries) VALUES (?1, ?2, ?3, ?4)"},
    {DB_WRITER, AT(root_trim), "DELETE FROM root WHERE epoch < ?1"},
    {DB_WRITER, AT(begin), "BEGIN IMMEDIATE"},
    {DB_WRITER, AT(commit), "COMMIT"},
    {DB_WRITER, AT(savepoint), "SAVEPOINT one"},
    {DB_WRITER, AT(undo), "ROLLBACK TO one"},
    {DB_WRITER, AT(release), "RELEASE one"},
#undef AT
#undef BUCKET_GET
#undef KEY_BELOW
#undef COLUMNS
};
static sqlite3_stmt **slot(struct db *d, size_t i)
{
    return (sqlite3_stmt **)(void *)((char *)d + statements[i].at);
}

RESULT db_statements(struct db *d, enum db_role role, struct err *e)
{
    for (size_t i = 0; i < sizeof(statements) / sizeof(*statements); i++) {
        if (statements[i].role == role)
            TRY(db_prepare(d, statements[i].sql, slot(d, i), e));
    }
    return ok();
}

static RESULT db_setup(struct db *d, enum db_role role, struct err *e)
{
    sqlite3_extended_result_codes(d->h, 1);
    sqlite3_busy_timeout(d->h, 5000);
    sqlite3_db_config(d->h, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(d->h, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(d->h, SQLITE_DBCONFIG_DQS_DDL, 0, NULL);
    sqlite3_db_config(d->h, SQLITE_DBCONFIG_DQS_DML, 0, NULL);
    sqlite3_limit(d->h, SQLITE_LIMIT_ATTACHED, 0);
    /* secure_delete: what was destroyed is overwritten in the file, not left on a free page. */
    TRY(db_exec(d, "PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0; PRAGMA secure_delete = ON;"
                   "PRAGMA cell_size_check = ON; PRAGMA journal_size_limit = 67108864", e));
    if (role == DB_CREATE)
        return ok();
    TRY(db_exec(d, "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0", e));
    if (role == DB_READER)
        TRY(db_exec(d, "PRAGMA query_only = ON", e));
    /* Every change reads two buckets at random: with SQLite's own 2 MiB twice as many of them were reads of the file. */
    if (role == DB_WRITER)
        TRY(db_exec(d, "PRAGMA cache_size = -16384", e));
    if (role == DB_WRITER) /* the same may have befallen the shared memory: only who asks to write is told */
        TRY(db_exec(d, "BEGIN IMMEDIATE; ROLLBACK", e));
    return db_statements(d, role, e);
}

/* Where a file cannot be opened for writing SQLite opens it for reading, and says nothing: one descriptor too few at the wrong moment,
 * and no change would ever be taken again. */
static RESULT check_writable(struct db *d, const char *path, struct err *e)
{
    if (sqlite3_db_readonly(d->h, "main") != 0)
        FAIL(e, ERR_UNAVAILABLE, "STORE_IO", "%s could be opened for reading only", path);
    return ok();
}

RESULT db_open(const char *path, enum db_role role, struct db *ret, struct err *e)
{
    *ret = (struct db){0};
    /* The file exists already, 0600: SQLite gives its -wal and -shm the same mode, so no umask is involved. */
    int rc = sqlite3_open_v2(path, &ret->h, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE, NULL);
    struct result r = rc == SQLITE_OK ? check_writable(ret, path, e) : db_fail(ret, rc, path, e);
    if (!r.failed)
        r = db_setup(ret, role, e);
    if (r.failed)
        db_close(ret);
    return r;
}

void db_close(struct db *d)
{
    for (size_t i = 0; i < sizeof(statements) / sizeof(*statements); i++) {
        sqlite3_finalize(*slot(d, i));
        *slot(d, i) = NULL; /* readers and the writer share some slots */
    }
    sqlite3_close_v2(d->h);
    *d = (struct db){0};
}
