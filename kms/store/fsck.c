/* Everything that can be checked without knowing what rows mean. It goes on after each finding: the first is seldom the cause. */
#include "kms/store/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { FSCK_ARENA_BYTES = 1 << 20, FSCK_EPOCHS = 16 /* rows of more epochs are nobody's doing but an editor's */ };

struct fsck {
    struct store *s;
    struct db *d;
    struct store_check *c;
    struct arena a;
    bool entries_known;               /* the root opened: hashes can be made */
    uint64_t heads;
    int64_t kind;                     /* of the chain under way; -1: none */
    uint8_t next[ENTRY_HASH_BYTES];   /* what the row before names */
    struct fsck_epoch {
        int64_t epoch;
        bool is_gone;                 /* its secret is not on the token */
        uint64_t rows;
        char first[160];
    } older[FSCK_EPOCHS];             /* than the store's */
    size_t nolder;
};

__attribute__((format(printf, 2, 3))) static void found(struct fsck *f, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    f->c->report(f->c->user, text);
}

/* What is wrong is a finding; what cannot be known now (the HSM is away, the disk fails) ends the check. */
static RESULT judge(struct fsck *f, struct result done, const struct err *why, const char *what, struct err *e)
{
    if (!done.failed)
        return ok();
    if (why->code == ERR_UNAVAILABLE || why->code == ERR_EXHAUSTED) {
        *e = *why;
        return done;
    }
    found(f, "%s%s%s [%s]", what, what[0] ? ": " : "", why->detail, why->reason ? why->reason : err_name(why->code));
    return ok();
}

/* ---- root, buckets, tree ---- */
static RESULT check_buckets(struct fsck *f, struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc;
    TRY(db_prepare(f->d, "SELECT n, digest, entries FROM bucket ORDER BY n", &st, e));
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        int64_t n = sqlite3_column_int64(st, 0);
        struct bytes digest = db_column_bytes(st, 1), entries = db_column_bytes(st, 2);
        uint8_t want[TREE_DIGEST_BYTES];
        f->c->buckets++;
        if (n < 0 || n >= TREE_LEAVES || !bucket_well_formed((uint32_t)n, entries)) {
            found(f, "bucket %lld: not of ours", (long long)n);
            continue;
        }
        bucket_digest((uint32_t)n, entries, want);
        if (digest.n != sizeof want || !bytes_ct_equal(digest.p, want, sizeof want))
            found(f, "bucket %lld: its digest is not that of its entries", (long long)n);
    }
    struct result r = rc == SQLITE_DONE ? ok() : db_fail(f->d, rc, "read buckets", e);
    sqlite3_finalize(st);
    return r;
}

static RESULT check_root(struct fsck *f, struct err *e)
{
    struct store *s = f->s;
    struct err why = {0};
    uint8_t tree[TREE_DIGEST_BYTES];
    struct result done = fresh_read_root(s, f->d, &s->fresh.root, &why);
    TRY(judge(f, done, &why, "root", e));
    f->entries_known = !done.failed;
    if (!done.failed && fresh_check_seal(s, &why).failed) {
        found(f, "%s", why.detail);
        if (s->fresh.root.seal > s->seal.epoch)
            atomic_store(&s->seal.epoch, s->fresh.root.seal); /* or all that is under it would be a finding too */
    }
    f->c->seal_epoch = s->seal.epoch;
    f->c->epoch = s->fresh.root.epoch;
    why = (struct err){0};
    done = fresh_load_leaves(s, f->d, &why);
    if (!done.failed)
        done = overlay_replay(s, f->d, &why);
    TRY(judge(f, done, &why, "buckets", e));
    if (done.failed || !f->entries_known)
        return ok();
    tree_rebuild(s->fresh.tree);
    tree_root(s->fresh.tree, tree);
    if (!bytes_ct_equal(tree, s->fresh.root.tree, sizeof tree))
        found(f, "root: the buckets are not those of epoch %llu: a part of the store was edited or put back",
              (unsigned long long)s->fresh.root.epoch);
    return ok();
}

/* ---- rows ---- */
static void end_chain(struct fsck *f)
{
    static const uint8_t none[ENTRY_HASH_BYTES];
    if (f->kind >= 0 && memcmp(f->next, none, sizeof none) != 0)
        found(f, "%s: the last rows are missing", store_kind_name((enum rec_kind)f->kind));
}

static RESULT next_of(struct fsck *f, const struct entry_hash *h, bool *ret_there, struct err *e)
{
    uint8_t entry[ENTRY_BYTES];
    struct err why = {0};
    struct result done = fresh_entry(f->s, f->d, h, entry, ret_there, &why);
    if (done.failed)
        *ret_there = false;
    memset(f->next, 0, sizeof f->next);
    if (*ret_there)
        memcpy(f->next, entry + ENTRY_NEXT_AT, sizeof f->next);
    if (done.failed && why.code == ERR_UNAVAILABLE) {
        *e = why;
        return done;
    }
    return ok(); /* a bad bucket is a finding of its own */
}

static RESULT begin_chain(struct fsck *f, enum rec_kind kind, struct err *e)
{
    bool there = false;
    end_chain(f);
    f->kind = kind;
    struct entry_hash head = entry_head(&f->s->fresh, kind);
    TRY(next_of(f, &head, &there, e));
    f->heads += there;
    return ok();
}

static RESULT check_covered(struct fsck *f, sqlite3_stmt *st, struct err *e)
{
    struct record key = {.kind = (enum rec_kind)sqlite3_column_int(st, 0), .id = db_column_bytes(st, 2)};
    struct bytes tenant = db_column_bytes(st, 1);
    uint8_t tag[ENTRY_TAG_BYTES];
    char id[160];
    bool there = false;
    struct err why = {0};
    if (tenant.n != sizeof key.tenant || key.id.n > STORE_ID_MAX)
        return ok(); /* did not open: found already */
    memcpy(key.tenant, tenant.p, sizeof key.tenant);
    if (f->kind != (int64_t)key.kind)
        TRY(begin_chain(f, key.kind, e));
    f->c->covered++;
    store_id_text(key.id, id, sizeof id);
    struct entry_hash h = entry_hash_of(&f->s->fresh, key.kind, key.tenant, key.id);
    if (memcmp(h.b, f->next, sizeof h.b) != 0)
        found(f, "%s \"%s\": a row before it is missing, or it was put in", store_kind_name(key.kind), id);
    tag_of(db_column_bytes(st, 9), tag);
    struct result done = fresh_prove_row(f->s, f->d, &key, true, (uint64_t)sqlite3_column_int64(st, 3), tag, &why);
    TRY(judge(f, done, &why, "", e));
    return next_of(f, &h, &there, e);
}

/* Rows of one older epoch have one line, not one each: while a change is under way there may be millions. */
static struct fsck_epoch *count_older(struct fsck *f, int64_t epoch, const char *what)
{
    size_t i = 0;
    if (epoch < 1 || epoch >= f->c->seal_epoch)
        return NULL;
    f->c->older++;
    while (i < f->nolder && f->older[i].epoch != epoch)
        i++;
    if (i == FSCK_EPOCHS)
        return NULL;
    struct fsck_epoch *o = &f->older[i];
    if (i == f->nolder) {
        f->nolder++;
        o->epoch = epoch;
        snprintf(o->first, sizeof o->first, "%.150s", what);
    }
    o->rows++;
    return o;
}

static void tell_older(struct fsck *f)
{
    char text[400];
    for (size_t i = 0; i < f->nolder; i++) {
        const struct fsck_epoch *o = &f->older[i];
        snprintf(text, sizeof text, "%llu rows are sealed under epoch %lld, the store is at %u", (unsigned long long)o->rows,
                 (long long)o->epoch, f->c->seal_epoch);
        if (o->is_gone)
            found(f, "%s; the secret of that epoch is not on the token; the first is %s [SEAL_ABSENT]", text, o->first);
        else if (f->c->inform)
            f->c->inform(f->c->user, text);
    }
}

static bool is_absent(const struct err *why)
{
    return why->reason && strcmp(why->reason, "SEAL_ABSENT") == 0;
}

static RESULT check_row(struct fsck *f, sqlite3_stmt *st, struct err *e)
{
    struct record r;
    struct err why = {0};
    char what[256], id[160];
    f->c->rows++;
    arena_reset(&f->a);
    store_id_text(db_column_bytes(st, 2), id, sizeof id);
    snprintf(what, sizeof what, "%s \"%s\"", store_kind_name((enum rec_kind)sqlite3_column_int(st, 0)), id);
    struct fsck_epoch *older = count_older(f, sqlite3_column_int64(st, 8), what);
    if (!older || !older->is_gone) { /* the token is not asked for each of them */
        struct result done = read_row(f->s, st, &f->a, &r, &why);
        if (older && done.failed && is_absent(&why))
            older->is_gone = true;
        else
            TRY(judge(f, done, &why, what, e));
    }
    if (!f->entries_known || !fresh_covers((enum rec_kind)sqlite3_column_int(st, 0)))
        return ok();
    return check_covered(f, st, e);
}

/* A kind whose rows are all gone has no row to be found at: its head tells. */
static RESULT check_emptied_kinds(struct fsck *f, struct err *e)
{
    for (int kind = 1; kind <= 64; kind++) {
        int64_t rows = 0;
        sqlite3_stmt *st = NULL;
        if (!fresh_covers((enum rec_kind)kind))
            continue;
        TRY(db_prepare(f->d, "SELECT count(*) FROM (SELECT 1 FROM record WHERE kind = ?1 LIMIT 1)", &st, e));
        sqlite3_bind_int(st, 1, kind);
        if (sqlite3_step(st) == SQLITE_ROW)
            rows = sqlite3_column_int64(st, 0);
        sqlite3_finalize(st);
        if (rows == 0)
            TRY(begin_chain(f, (enum rec_kind)kind, e));
    }
    end_chain(f);
    f->kind = -1;
    return ok();
}

static RESULT count_entries(struct fsck *f, struct err *e)
{
    sqlite3_stmt *st = NULL;
    uint64_t n = 0;
    int rc;
    for (uint32_t i = 0; i < TREE_LEAVES; i++) {
        struct bytes entries;
        if (overlay_peek(f->s->fresh.overlay, i, &entries))
            n += entries.n / ENTRY_BYTES;
    }
    TRY(db_prepare(f->d, "SELECT n, length(entries) FROM bucket", &st, e));
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct bytes known;
        int64_t at = sqlite3_column_int64(st, 0);
        if (at >= 0 && at < TREE_LEAVES && !overlay_peek(f->s->fresh.overlay, (uint32_t)at, &known))
            n += (uint64_t)sqlite3_column_int64(st, 1) / ENTRY_BYTES;
    }
    struct result r = rc == SQLITE_DONE ? ok() : db_fail(f->d, rc, "count entries", e);
    sqlite3_finalize(st);
    TRY(r);
    if (n != f->c->covered + f->heads)
        found(f, "buckets: %llu entries for %llu rows", (unsigned long long)(n - f->heads), (unsigned long long)f->c->covered);
    return ok();
}

static RESULT check_rows(struct fsck *f, struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc;
    struct result r = ok();
    TRY(db_prepare(f->d, "SELECT kind, tenant, id, revision, name, state, time, count, epoch, body FROM record"
                         " ORDER BY kind, tenant, id", &st, e));
    while (!r.failed && (rc = sqlite3_step(st)) == SQLITE_ROW)
        r = check_row(f, st, e);
    if (!r.failed && rc != SQLITE_DONE)
        r = db_fail(f->d, rc, "read rows", e);
    sqlite3_finalize(st);
    TRY(r);
    tell_older(f);
    if (!f->entries_known)
        return ok();
    end_chain(f);
    f->kind = -1;
    TRY(check_emptied_kinds(f, e));
    return count_entries(f, e);
}

/* ---- outbox, floor ---- */
static RESULT check_outbox(struct fsck *f, struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc;
    struct result r = ok();
    TRY(db_prepare(f->d, "SELECT seq, tenant, epoch, body FROM outbox ORDER BY seq", &st, e));
    while (!r.failed && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct outbox_event ev;
        struct err why = {0};
        uint64_t seq = (uint64_t)sqlite3_column_int64(st, 0);
        arena_reset(&f->a);
        if (f->c->events++ == 0)
            f->c->outbox_first = seq;
        else if (seq != f->c->outbox_last + 1)
            found(f, "outbox: event %llu follows on %llu", (unsigned long long)seq, (unsigned long long)f->c->outbox_last);
        f->c->outbox_last = seq;
        struct result done = read_event(f->s, st, &f->a, &ev, &why);
        r = judge(f, done, &why, "outbox", e);
    }
    if (!r.failed && rc != SQLITE_DONE)
        r = db_fail(f->d, rc, "read outbox", e);
    sqlite3_finalize(st);
    TRY(r);
    if (f->entries_known && f->c->outbox_last != f->s->fresh.root.outbox_last)
        found(f, "outbox: it ends at %llu, the last event was %llu", (unsigned long long)f->c->outbox_last,
              (unsigned long long)f->s->fresh.root.outbox_last);
    return ok();
}

static RESULT check_floor(struct fsck *f, struct err *e)
{
    struct floor_value floor;
    struct err why = {0};
    bool there = false;
    if (!f->s->anchor || !f->entries_known)
        return ok();
    return judge(f, anchor_compare(f->s, &floor, &there, &why), &why, "anchor", e);
}

static RESULT check_file(struct fsck *f, struct err *e)
{
    sqlite3_stmt *st = NULL;
    TRY(db_prepare(f->d, "PRAGMA integrity_check(20)", &st, e));
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(st, 0);
        if (text && strcmp(text, "ok") != 0)
            found(f, "database: %.300s", text);
    }
    struct result r = rc == SQLITE_DONE ? ok() : db_fail(f->d, rc, "integrity check", e);
    sqlite3_finalize(st);
    return r;
}

RESULT store_fsck(struct store *s, struct store_check *c, struct err *e)
{
    INVARIANT(s->check_only && s->nreaders > 0);
    struct fsck f = {.s = s, .d = &s->readers[0], .c = c, .kind = -1};
    arena_init(&f.a, FSCK_ARENA_BYTES);
    struct result r = check_file(&f, e);
    if (!r.failed)
        r = check_root(&f, e);
    if (!r.failed)
        r = check_buckets(&f, e);
    if (!r.failed)
        r = check_rows(&f, e);
    if (!r.failed)
        r = check_outbox(&f, e);
    if (!r.failed)
        r = check_floor(&f, e);
    arena_release(&f.a);
    return r;
}
