#include "kms/store/internal.h"

#include <stdlib.h>
#include <string.h>

struct overlay {
    pthread_mutex_t mu; /* readers look while the writer sets */
    size_t count;
    struct {
        uint8_t *p; /* NULL: not here */
        size_t n;
    } b[TREE_LEAVES];
};

struct overlay *overlay_new(void)
{
    struct overlay *o = calloc(1, sizeof *o);
    INVARIANT(o && pthread_mutex_init(&o->mu, NULL) == 0);
    return o;
}

void overlay_free(struct overlay *o)
{
    if (!o)
        return;
    overlay_clear(o);
    pthread_mutex_destroy(&o->mu);
    free(o);
}

void overlay_clear(struct overlay *o)
{
    pthread_mutex_lock(&o->mu);
    for (size_t i = 0; o->count && i < TREE_LEAVES; i++) {
        if (!o->b[i].p)
            continue;
        free(o->b[i].p);
        o->b[i].p = NULL;
        o->count--;
    }
    pthread_mutex_unlock(&o->mu);
}

bool overlay_peek(struct overlay *o, uint32_t n, struct bytes *ret)
{
    if (!o->b[n].p)
        return false;
    *ret = BYTES(o->b[n].p, o->b[n].n);
    return true;
}

bool overlay_entry(struct overlay *o, const struct entry_hash *h, uint8_t out[ENTRY_BYTES], bool *ret_there)
{
    uint32_t n = entry_bucket(h);
    pthread_mutex_lock(&o->mu);
    bool here = o->b[n].p != NULL;
    const uint8_t *entry = here ? bucket_find(BYTES(o->b[n].p, o->b[n].n), h) : NULL;
    if (entry)
        memcpy(out, entry, ENTRY_BYTES);
    pthread_mutex_unlock(&o->mu);
    *ret_there = entry != NULL;
    return here;
}

void overlay_set(struct overlay *o, uint32_t n, struct bytes entries)
{
    uint8_t *p = malloc(entries.n ? entries.n : 1); /* a bucket that became empty is here too */
    INVARIANT(p);
    if (entries.n)
        memcpy(p, entries.p, entries.n);
    pthread_mutex_lock(&o->mu);
    o->count += !o->b[n].p;
    free(o->b[n].p);
    o->b[n].p = p;
    o->b[n].n = entries.n;
    pthread_mutex_unlock(&o->mu);
}

size_t overlay_count(const struct overlay *o)
{
    return o->count;
}

RESULT bucket_write(struct db *d, uint32_t n, struct bytes entries, struct err *e)
{
    uint8_t digest[TREE_DIGEST_BYTES];
    sqlite3_stmt *st = entries.n ? d->bucket_put : d->bucket_remove;
    bucket_digest(n, entries, digest);
    sqlite3_bind_int(st, 1, (int)n);
    if (entries.n) {
        db_bind_bytes(st, 2, BYTES(digest, sizeof digest));
        db_bind_bytes(st, 3, entries);
    }
    return db_run(d, st, e);
}

RESULT overlay_write(struct store *s, struct db *d, struct err *e)
{
    struct overlay *o = s->fresh.overlay;
    for (uint32_t n = 0; n < TREE_LEAVES; n++)
        if (o->b[n].p)
            TRY(bucket_write(d, n, BYTES(o->b[n].p, o->b[n].n), e));
    return ok();
}

/* ---- replay: nothing read here is believed before fresh_load has compared the root ---- */
static RESULT base_of(struct store *s, sqlite3_stmt *get, uint32_t n, struct buf *out, struct err *e)
{
    struct bytes known;
    buf_reset(out);
    if (overlay_peek(s->fresh.overlay, n, &known)) {
        buf_put_bytes(out, known);
        return ok();
    }
    sqlite3_bind_int(get, 1, (int)n);
    int rc = sqlite3_step(get);
    struct result r = ok();
    if (rc == SQLITE_ROW)
        buf_put_bytes(out, db_column_bytes(get, 0));
    else if (rc != SQLITE_DONE)
        r = err_set(e, ERR_UNAVAILABLE, "STORE_IO", __FILE__, __LINE__, "read bucket %u", n);
    sqlite3_reset(get);
    if (!r.failed && out->n % ENTRY_BYTES != 0)
        FAIL(e, ERR_DATA_LOSS, "STORE_STALE", "bucket %u is not of ours", n);
    return r;
}

static void set_entry(struct buf *b, const uint8_t *entry)
{
    struct entry_hash h;
    memcpy(h.b, entry, sizeof h.b);
    if (get_be64(entry + ENTRY_REVISION_AT) == ENTRY_REMOVED)
        bucket_cut(b, &h);
    else
        memcpy(bucket_put(b, &h), entry, ENTRY_BYTES);
}

static RESULT replay(struct store *s, sqlite3_stmt *get, struct bytes changes, struct err *e)
{
    CLEANUP(buf_release) struct buf b;
    buf_init(&b, SIZE_MAX / 4);
    if (changes.n % ENTRY_BYTES != 0)
        FAIL(e, ERR_DATA_LOSS, "STORE_STALE", "changes of %zu bytes are not of ours", changes.n);
    for (size_t at = 0; at < changes.n; at += ENTRY_BYTES) {
        uint8_t digest[TREE_DIGEST_BYTES];
        uint32_t n = get_be16(changes.p + at);
        TRY(base_of(s, get, n, &b, e));
        set_entry(&b, changes.p + at);
        overlay_set(s->fresh.overlay, n, buf_bytes(&b));
        bucket_digest(n, buf_bytes(&b), digest);
        tree_load(s->fresh.tree, n, digest);
    }
    return ok();
}

RESULT overlay_replay(struct store *s, struct db *d, struct err *e)
{
    sqlite3_stmt *st = NULL, *get = NULL;
    int rc = SQLITE_ROW;
    struct result r = db_prepare(d, "SELECT entries FROM bucket WHERE n = ?1", &get, e);
    if (!r.failed)
        r = db_prepare(d, "SELECT entries FROM root ORDER BY epoch", &st, e);
    for (s->fresh.roots = 0; !r.failed && (rc = sqlite3_step(st)) == SQLITE_ROW; s->fresh.roots++)
        r = replay(s, get, db_column_bytes(st, 0), e);
    if (!r.failed && rc != SQLITE_DONE)
        r = db_fail(d, rc, "read changes", e);
    sqlite3_finalize(st);
    sqlite3_finalize(get);
    return r;
}
