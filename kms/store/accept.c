/* An older or damaged store taken for the truth, once, on somebody's word: everything is sealed again under a new incarnation, so
 * that no row of the future that is given up can ever be put among these. */
#include "kms/crypto/nonce.h"
#include "kms/store/internal.h"

#include <string.h>

enum { ACCEPT_ARENA_BYTES = 1 << 20, ACCEPT_KEY_BYTES = 1 << 16 };

struct accepting {
    struct store *s;          /* as it was: opens */
    struct seal next;         /* as it will be: seals */
    struct db d;
    struct store_acceptance *a;
    sqlite3_stmt *rows, *put, *events, *put_event;
    struct arena arena;
    struct buf sealed, last; /* last: the key of the row that was sealed last */
};

static void release(struct accepting *p)
{
    sqlite3_finalize(p->rows);
    sqlite3_finalize(p->put);
    sqlite3_finalize(p->events);
    sqlite3_finalize(p->put_event);
    db_close(&p->d);
    arena_release(&p->arena);
    buf_release(&p->sealed);
    buf_release(&p->last);
    seal_release(&p->next);
    store_close(p->s);
}

static RESULT prepare(struct accepting *p, struct err *e)
{
    struct db *d = &p->d;
    TRY(db_prepare(d, "SELECT kind, tenant, id, revision, name, state, time, count, epoch, body FROM record", &p->rows, e));
    TRY(db_prepare(d, "UPDATE record SET epoch = ?4, body = ?5, revision = ?6, state = ?7, count = ?8 WHERE kind = ?1 AND tenant = ?2 AND id = ?3", &p->put, e));
    TRY(db_prepare(d, "SELECT seq, tenant, epoch, body FROM outbox WHERE seq > ?1 ORDER BY seq", &p->events, e));
    return db_prepare(d, "INSERT OR REPLACE INTO outbox (seq, tenant, epoch, body) VALUES (?1, ?2, ?3, ?4)", &p->put_event, e);
}

/* What does not open stays as it is and goes on failing where it is read: it may be a row of a key that comes back. */
static void report(struct accepting *p, sqlite3_stmt *st)
{
    char id[128];
    store_id_text(db_column_bytes(st, 2), id, sizeof id);
    p->a->unreadable_rows++;
    if (p->a->unreadable)
        p->a->unreadable(p->a->user, (enum rec_kind)sqlite3_column_int(st, 0), id);
}

static RESULT reseal_row(struct accepting *p, struct err *e)
{
    struct record r;
    struct err why = {0};
    arena_reset(&p->arena);
    if (read_row(p->s, p->rows, &p->arena, &r, &why).failed) {
        if (why.code != ERR_DATA_LOSS) {
            *e = why;
            return (struct result){1};
        }
        report(p, p->rows);
        return ok();
    }
    bool changed = false;
    if (p->a->amend)
        TRY(p->a->amend(p->a->user, &r, &changed, e));
    r.revision += changed;
    p->a->amended_rows += changed;
    TRY(seal_record(&p->next, p->next.epoch, &r, &p->sealed, e));
    sqlite3_bind_int(p->put, 1, (int)r.kind);
    db_bind_bytes(p->put, 2, BYTES(r.tenant, sizeof r.tenant));
    db_bind_bytes(p->put, 3, r.id);
    sqlite3_bind_int64(p->put, 4, p->next.epoch);
    db_bind_bytes(p->put, 5, buf_bytes(&p->sealed));
    sqlite3_bind_int64(p->put, 6, (sqlite3_int64)r.revision);
    sqlite3_bind_int64(p->put, 7, r.state);
    sqlite3_bind_int64(p->put, 8, (sqlite3_int64)r.count);
    p->a->rows++;
    return db_run(&p->d, p->put, e);
}

/* SQLite orders the rows of this table by all of their columns, kind, tenant and id first: one whose revision has grown under the cursor
 * lies behind itself now, and is met again. */
static bool just_sealed(struct accepting *p)
{
    CLEANUP(buf_release) struct buf key;
    buf_init(&key, ACCEPT_KEY_BYTES);
    buf_put_u64(&key, (uint64_t)sqlite3_column_int64(p->rows, 0));
    buf_put_v32(&key, db_column_bytes(p->rows, 1));
    buf_put_v32(&key, db_column_bytes(p->rows, 2));
    const bool same = !key.overflow && bytes_equal(buf_bytes(&key), buf_bytes(&p->last));
    buf_reset(&p->last);
    buf_put_bytes(&p->last, buf_bytes(&key));
    return same;
}

static RESULT reseal_rows(struct accepting *p, struct err *e)
{
    int rc;
    while ((rc = sqlite3_step(p->rows)) == SQLITE_ROW)
        if (!just_sealed(p))
            TRY(reseal_row(p, e));
    return rc == SQLITE_DONE ? ok() : db_fail(&p->d, rc, "read rows", e);
}

static RESULT put_event(struct accepting *p, uint64_t seq, const uint8_t tenant[16], struct bytes event, struct err *e)
{
    TRY(seal_outbox(&p->next, p->next.epoch, seq, tenant, event, &p->sealed, e));
    sqlite3_bind_int64(p->put_event, 1, (sqlite3_int64)seq);
    db_bind_bytes(p->put_event, 2, BYTES(tenant, STORE_TENANT_BYTES));
    sqlite3_bind_int64(p->put_event, 3, p->next.epoch);
    db_bind_bytes(p->put_event, 4, buf_bytes(&p->sealed));
    return db_run(&p->d, p->put_event, e);
}

/* Events that the journal lacks are kept when they follow on what it has; *ret_last is the last one kept. */
static RESULT keep_events(struct accepting *p, uint64_t *ret_last, struct err *e)
{
    uint64_t last = p->a->journal_outbox_seq;
    int rc;
    sqlite3_bind_int64(p->events, 1, (sqlite3_int64)last);
    while ((rc = sqlite3_step(p->events)) == SQLITE_ROW && (uint64_t)sqlite3_column_int64(p->events, 0) == last + 1) {
        struct outbox_event ev;
        struct err why = {0};
        arena_reset(&p->arena);
        if (read_event(p->s, p->events, &p->arena, &ev, &why).failed)
            break;
        TRY(put_event(p, ev.seq, ev.tenant, ev.event, e));
        last = ev.seq;
    }
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return db_fail(&p->d, rc, "read outbox", e);
    sqlite3_reset(p->events);
    *ret_last = last;
    return ok();
}

static RESULT replace_outbox(struct accepting *p, struct err *e)
{
    static const uint8_t no_tenant[STORE_TENANT_BYTES];
    sqlite3_stmt *st = NULL;
    uint64_t last = 0;
    TRY(keep_events(p, &last, e));
    TRY(db_prepare(&p->d, "DELETE FROM outbox WHERE seq <= ?1 OR seq > ?2", &st, e));
    sqlite3_bind_int64(st, 1, (sqlite3_int64)p->a->journal_outbox_seq);
    sqlite3_bind_int64(st, 2, (sqlite3_int64)last);
    struct result r = db_run(&p->d, st, e);
    sqlite3_finalize(st);
    TRY(r);
    return put_event(p, last + 1, no_tenant, p->a->event, e);
}

/* REC_META "rollback": shown in health until somebody has reviewed it. */
static RESULT put_note(struct accepting *p, struct err *e)
{
    static const uint8_t no_tenant[STORE_TENANT_BYTES];
    struct record r = {.kind = REC_META, .id = bytes_str(STORE_ROLLBACK_ID), .revision = 1, .body = p->a->note,
                       .time_unix_ns = clock_wall_ns(p->s->clock)};
    int64_t before = 0;
    TRY(db_int(&p->d, "SELECT revision FROM record WHERE kind = 1 AND tenant = zeroblob(16) AND id = CAST('rollback' AS BLOB)",
               &before, e));
    r.revision += (uint64_t)before;
    TRY(seal_record(&p->next, p->next.epoch, &r, &p->sealed, e));
    sqlite3_stmt *st = p->d.upsert;
    sqlite3_bind_int(st, 1, (int)r.kind);
    db_bind_bytes(st, 2, BYTES(no_tenant, sizeof no_tenant));
    db_bind_bytes(st, 3, r.id);
    sqlite3_bind_int64(st, 4, (sqlite3_int64)r.revision);
    db_bind_bytes(st, 5, BYTES(NULL, 0));
    sqlite3_bind_int64(st, 6, 0);
    sqlite3_bind_int64(st, 7, r.time_unix_ns);
    sqlite3_bind_int64(st, 8, 0);
    sqlite3_bind_int64(st, 9, p->next.epoch);
    db_bind_bytes(st, 10, buf_bytes(&p->sealed));
    return db_run(&p->d, st, e);
}

/* Sealed under the epoch that the store is at, by its identity or its root, whichever opens and is the later: not the token's newest,
 * which no record may speak of yet. Rows of any epoch that the token knows are opened: a change may have been under way, or one of those
 * two put back. */
static void set_seal(struct accepting *p, uint32_t of_root)
{
    const uint32_t identity = p->s->seal.epoch;
    atomic_store(&p->next.epoch, of_root > identity ? of_root : identity);
    atomic_store(&p->s->seal.epoch, p->s->seal.newest);
}

/* Above both what the store and what the anchor say, where they can be read. */
static RESULT first_epoch(struct accepting *p, struct err *e)
{
    struct root root = {0};
    struct floor_value f = {0};
    struct err why = {0};
    if (fresh_read_root(p->s, &p->d, &root, &why).failed && why.code != ERR_DATA_LOSS) {
        *e = why;
        return (struct result){1};
    }
    why = (struct err){.code = ERR_NOT_FOUND};
    if (p->s->anchor && anchor_read(p->s, &root, &f, &why).failed && why.code != ERR_NOT_FOUND && why.code != ERR_STATE &&
        why.code != ERR_DATA_LOSS) {
        *e = why;
        return (struct result){1};
    }
    set_seal(p, root.seal);
    p->a->old_epoch = root.epoch;
    p->a->floor_epoch = f.epoch;
    p->a->floor_journal = f.journal_next;
    p->a->floor_outbox = f.outbox_last;
    p->a->floor_found = f.epoch > 0 && memcmp(f.incarnation, p->s->seal.incarnation, sizeof f.incarnation) == 0;
    if (p->a->floor_known)
        p->a->floor_known(p->a->user);
    p->s->fresh.root = (struct root){.epoch = root.epoch > f.epoch ? root.epoch : f.epoch,
                                     .anchor_place = p->s->anchor ? p->a->place : 0};
    return ok();
}

static RESULT change_all(struct accepting *p, struct err *e)
{
    TRY(reseal_rows(p, e));
    TRY(replace_outbox(p, e));
    TRY(put_note(p, e));
    memcpy(p->s->seal.incarnation, p->next.incarnation, sizeof p->next.incarnation);
    atomic_store(&p->s->seal.epoch, p->next.epoch);
    TRY(store_write_identity(p->s, &p->d, e));
    TRY(fresh_new_key(&p->s->fresh, e));
    TRY(fresh_build(p->s, &p->d, e));
    p->a->new_epoch = p->s->fresh.root.epoch;
    return db_run(&p->d, p->d.commit, e);
}

static uint64_t journal_now(void *user)
{
    return ((struct store_acceptance *)user)->journal_next_index;
}

static RESULT accept_all(struct accepting *p, const struct store_options *o, struct err *e)
{
    TRY(store_lock(p->s, o->dir, e));
    TRY(db_open(p->s->path, DB_CREATE, &p->d, e));
    TRY(schema_check(&p->d, e));
    TRY(store_identify(p->s, &p->d, o, e));
    TRY(store_upgrade(p->s, &p->d, o, e));
    db_close(&p->d);
    TRY(db_open(p->s->path, DB_WRITER, &p->d, e));
    TRY(first_epoch(p, e));
    TRY(prepare(p, e));
    nonce_fill(p->next.incarnation, sizeof p->next.incarnation);
    TRY(db_run(&p->d, p->d.begin, e));
    if (change_all(p, e).failed) {
        sqlite3_exec(p->d.h, "ROLLBACK", NULL, NULL, NULL);
        return (struct result){1};
    }
    store_anchor_journal(p->s, journal_now, p->a);
    atomic_store(&p->s->fresh.seal, p->s->fresh.root.seal);
    atomic_store(&p->s->fresh.epoch, p->s->fresh.root.epoch);
    atomic_store(&p->s->outbox_last, p->s->fresh.root.outbox_last);
    return p->s->anchor ? anchor_write(p->s, e) : ok();
}

RESULT store_accept(const struct store_options *o, struct store_acceptance *a, struct err *e)
{
    CLEANUP(release) struct accepting p = {.a = a, .s = store_alloc(o)};
    seal_init(&p.next, o);
    arena_init(&p.arena, ACCEPT_ARENA_BYTES);
    buf_init(&p.sealed, STORE_BODY_MAX + SEAL_BYTES);
    buf_init(&p.last, ACCEPT_KEY_BYTES);
    a->place = o->anchor ? (uint8_t)o->anchor->place : 0;
    return accept_all(&p, o, e);
}
