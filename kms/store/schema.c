#include "kms/crypto/kdf.h"
#include "kms/store/internal.h"

#include <stdio.h>
#include <string.h>

static const struct migration {
    int number;
    const char *name, *sql;
} migrations[] = {
    {1, "init",
#include "kms/store/migrations/0001_init.inc"
    },
    {SCHEMA_FRESH, "freshness",
#include "kms/store/migrations/0002_freshness.inc"
    },
};
enum { MIGRATIONS = sizeof(migrations) / sizeof(*migrations) };

uint32_t store_schema(void)
{
    return (uint32_t)schema_newest();
}

int schema_newest(void)
{
    return MIGRATIONS;
}

static void checksum(const struct migration *m, uint8_t out[32])
{
    struct bytes parts[] = {bytes_str(m->name), BYTES_LIT("\n"), bytes_str(m->sql)};
    sha256(parts, 3, out);
}

static RESULT check_history(struct db *d, int64_t applied, struct err *e)
{
    sqlite3_stmt *st = NULL;
    TRY(db_prepare(d, "SELECT number, checksum FROM migration ORDER BY number", &st, e));
    int64_t seen = 0;
    bool same = true;
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW && same) {
        uint8_t want[32];
        same = sqlite3_column_int64(st, 0) == ++seen && seen <= MIGRATIONS;
        if (!same)
            break;
        checksum(&migrations[seen - 1], want);
        same = bytes_equal(db_column_bytes(st, 1), BYTES(want, 32));
    }
    struct result r = !same || rc == SQLITE_DONE ? ok() : db_fail(d, rc, "migration history", e);
    sqlite3_finalize(st);
    if (r.failed)
        return r;
    if (!same || seen != applied)
        FAIL(e, ERR_STATE, "STORE_FOREIGN", "the store's migration history is not this program's (at number %lld)",
             (long long)seen);
    return ok();
}

RESULT schema_check(struct db *d, struct err *e)
{
    int64_t app = 0, version = 0;
    TRY(db_int(d, "PRAGMA application_id", &app, e));
    if (app != STORE_APPLICATION_ID)
        FAIL(e, ERR_STATE, "STORE_FOREIGN", "not a Claviger store (application id %lld)", (long long)app);
    TRY(db_int(d, "PRAGMA user_version", &version, e));
    if (version > MIGRATIONS)
        FAIL(e, ERR_STATE, "STORE_NEWER",
             "the store has schema %lld, this program knows up to %d: start the version that made it, or a newer one",
             (long long)version, (int)MIGRATIONS);
    return check_history(d, version, e);
}

static RESULT apply(struct db *d, const struct migration *m, const struct clock *clock, struct err *e)
{
    char set_version[64];
    uint8_t sum[32];
    sqlite3_stmt *st = NULL;
    TRY(db_exec(d, m->sql, e)); /* banned-ok: a literal of migrations/ */
    TRY(db_prepare(d, "INSERT INTO migration (number, name, checksum, applied) VALUES (?1, ?2, ?3, ?4)", &st, e));
    checksum(m, sum);
    sqlite3_bind_int(st, 1, m->number);
    sqlite3_bind_text(st, 2, m->name, -1, SQLITE_STATIC);
    db_bind_bytes(st, 3, BYTES(sum, 32));
    sqlite3_bind_int64(st, 4, clock_unix_s(clock));
    struct result r = db_run(d, st, e);
    sqlite3_finalize(st);
    if (r.failed)
        return r;
    /* The only SQL ever put together at run time: PRAGMA takes no parameter, and the number is our own. */
    snprintf(set_version, sizeof set_version, "PRAGMA user_version = %d", m->number); /* banned-ok: see above */
    return db_exec(d, set_version, e); /* banned-ok: a number of our own */
}

static RESULT apply_from(struct db *d, int64_t version, const struct clock *clock, struct err *e)
{
    for (int64_t i = version; i < MIGRATIONS; i++)
        TRY(apply(d, &migrations[i], clock, e));
    return ok();
}

RESULT schema_migrate(struct db *d, const struct clock *clock,
                      struct result (*fill)(void *user, struct db *d, struct err *e), void *user, struct err *e)
{
    int64_t version = 0;
    TRY(db_int(d, "PRAGMA user_version", &version, e));
    if (version >= MIGRATIONS)
        return ok();
    /* All missing ones in one transaction: a store is never left between two versions. */
    TRY(db_exec(d, "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS migration (number INTEGER PRIMARY KEY, name TEXT NOT NULL,"
                   " checksum BLOB NOT NULL, applied INTEGER NOT NULL) STRICT", e));
    struct result r = apply_from(d, version, clock, e);
    if (!r.failed && version < SCHEMA_FRESH)
        r = fill(user, d, e);
    if (!r.failed)
        r = db_exec(d, "COMMIT", e);
    if (r.failed)
        sqlite3_exec(d->h, "ROLLBACK", NULL, NULL, NULL);
    return r;
}
