/* Whether anything still depends on an older seal epoch: everything there is, read and opened. Nobody is kept from writing meanwhile:
 * what is written is under the current epoch, and a key does not move, so what was passed stays proven. */
#include "kms/store/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { PROOF_LOOK = 256 /* rows before the connection is another's turn, and `stop` is asked */, PROOF_ARENA_BYTES = 1 << 20 };

struct proof {
    struct store *s;
    struct store_seal_proof *ret;
    uint32_t epoch;
    bool (*stop)(void *user);
    void *user;
    struct arena a;
};

__attribute__((format(printf, 2, 3))) static void left(struct proof *p, const char *fmt, ...)
{
    va_list ap;
    if (p->ret->left++)
        return;
    va_start(ap, fmt);
    vsnprintf(p->ret->first, sizeof p->ret->first, fmt, ap);
    va_end(ap);
}

/* What is wrong with it is left; what cannot be known now (the HSM is away, the disk fails) ends the proof. */
static RESULT judge(struct proof *p, struct result done, const struct err *why, const char *what, struct err *e)
{
    if (!done.failed)
        return ok();
    if (why->code == ERR_UNAVAILABLE || why->code == ERR_EXHAUSTED) {
        *e = *why;
        return done;
    }
    left(p, "%.70s: %.80s", what, why->detail);
    return ok();
}

static bool is_older(struct proof *p, int64_t epoch, const char *what)
{
    if (epoch >= p->epoch)
        return false;
    left(p, "%s is of seal epoch %lld", what, (long long)epoch);
    return true;
}

/* ---- rows ---- */
static RESULT prove_row(struct proof *p, sqlite3_stmt *st, struct err *e)
{
    char id[72], what[120];
    struct record r;
    struct err why = {0};
    arena_reset(&p->a);
    store_id_text(db_column_bytes(st, 2), id, sizeof id);
    snprintf(what, sizeof what, "%s \"%s\"", store_kind_name((enum rec_kind)sqlite3_column_int(st, 0)), id);
    if (is_older(p, sqlite3_column_int64(st, 8), what))
        return ok();
    struct result done = read_row(p->s, st, &p->a, &r, &why);
    p->ret->rows += !done.failed;
    return judge(p, done, &why, what, e);
}

static RESULT prove_page(struct proof *p, struct db *d, sqlite3_stmt *st, struct store_reseal *at, struct err *e)
{
    int rc = SQLITE_ROW;
    bool stands = true;
    for (unsigned n = 0; !stands || n < PROOF_LOOK; n++) {
        if ((rc = sqlite3_step(st)) != SQLITE_ROW)
            break;
        TRY(prove_row(p, st, e));
        stands = reseal_cursor(at, st);
    }
    at->end = rc == SQLITE_DONE;
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? ok() : db_fail(d, rc, "read rows", e);
}

static RESULT prove_rows(struct proof *p, struct err *e)
{
    struct store_reseal at = {0};
    while (!at.end) {
        if (p->stop && p->stop(p->user))
            FAIL(e, ERR_CANCELLED, NULL, "the proof was stopped");
        struct db *d = conn_take(p->s);
        struct store_reseal from = at;
        struct result r = prove_page(p, d, rows_behind(d, &from), &at, e);
        sqlite3_reset(d->rows);
        conn_return(p->s, d);
        TRY(r);
    }
    return ok();
}

/* ---- outbox ---- */
static RESULT prove_events(struct proof *p, struct db *d, struct err *e)
{
    int rc;
    char what[40];
    sqlite3_bind_int64(d->outbox_read, 1, INT64_MIN);
    sqlite3_bind_int64(d->outbox_read, 2, -1); /* no limit */
    while ((rc = sqlite3_step(d->outbox_read)) == SQLITE_ROW) {
        struct outbox_event ev;
        struct err why = {0};
        arena_reset(&p->a);
        snprintf(what, sizeof what, "event %lld", (long long)sqlite3_column_int64(d->outbox_read, 0));
        if (is_older(p, sqlite3_column_int64(d->outbox_read, 2), what))
            continue;
        struct result done = read_event(p->s, d->outbox_read, &p->a, &ev, &why);
        TRY(judge(p, done, &why, what, e));
    }
    return rc == SQLITE_DONE ? ok() : db_fail(d, rc, "read outbox", e);
}

/* ---- what the store says about itself: each from its own row ---- */
static RESULT prove_root(struct proof *p, sqlite3_stmt *st, struct err *e)
{
    struct bytes body;
    struct err why = {0};
    int64_t epoch = sqlite3_column_int64(st, 0);
    arena_reset(&p->a);
    if (is_older(p, epoch, "a root record"))
        return ok();
    uint32_t known = epoch > UINT32_MAX ? 0 : (uint32_t)epoch;
    struct result done = seal_open_note(&p->s->seal, known, NOTE_ROOT, db_column_bytes(st, 1), &p->a, &body, &why);
    return judge(p, done, &why, "a root record", e);
}

static RESULT prove_identity(struct proof *p, sqlite3_stmt *st, struct err *e)
{
    struct err why = {0};
    int64_t epoch = sqlite3_column_int64(st, 0);
    if (is_older(p, epoch, "the store's identity"))
        return ok();
    uint32_t known = epoch > UINT32_MAX ? 0 : (uint32_t)epoch;
    struct result done = seal_check_identity(&p->s->seal, known, p->s->instance, db_column_bytes(st, 1), &why);
    return judge(p, done, &why, "the store's identity", e);
}

/* Takes the statement. */
static RESULT prove_each(struct proof *p, struct db *d, sqlite3_stmt *st,
                         struct result (*prove)(struct proof *p, sqlite3_stmt *st, struct err *e), struct err *e)
{
    int rc = SQLITE_ROW;
    struct result r = ok();
    uint64_t n = 0;
    for (; !r.failed && (rc = sqlite3_step(st)) == SQLITE_ROW; n++)
        r = prove(p, st, e);
    if (!r.failed && rc != SQLITE_DONE)
        r = db_fail(d, rc, "read root and identity", e);
    sqlite3_finalize(st);
    if (!r.failed && n == 0)
        left(p, "root or identity are gone");
    return r;
}

static RESULT prove_itself(struct proof *p, struct db *d, struct err *e)
{
    sqlite3_stmt *st = NULL;
    TRY(db_prepare(d, "SELECT seal, body FROM root", &st, e));
    TRY(prove_each(p, d, st, prove_root, e));
    TRY(db_prepare(d, "SELECT epoch, seal FROM identity", &st, e));
    return prove_each(p, d, st, prove_identity, e);
}

static RESULT prove_rest(struct proof *p, struct err *e)
{
    struct db *d = conn_take(p->s);
    struct result r = prove_events(p, d, e);
    sqlite3_reset(d->outbox_read);
    if (!r.failed)
        r = prove_itself(p, d, e);
    conn_return(p->s, d);
    if (!r.failed && !anchor_sealed_under(p->s, p->epoch))
        left(p, "the anchor could not be written anew");
    return r;
}

RESULT store_seal_prove(struct store *s, bool (*stop)(void *user), void *user, struct store_seal_proof *ret, struct err *e)
{
    struct store_seal_proof found = {0};
    struct proof p = {.s = s, .ret = &found, .epoch = store_seal_epoch(s), .stop = stop, .user = user};
    arena_init(&p.a, PROOF_ARENA_BYTES);
    struct result r = prove_rows(&p, e);
    if (!r.failed)
        r = prove_rest(&p, e);
    arena_release(&p.a);
    TRY(r);
    if (found.left == 0)
        seal_forget(&s->seal, p.epoch);
    *ret = found;
    return ok();
}
