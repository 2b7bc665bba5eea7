/* The buckets that a group of transactions changes: read once, changed in memory, written once. A transaction that is refused
 * gives its changes back, as its savepoint does in the database. */
#include "kms/store/internal.h"

#include <stdlib.h>
#include <string.h>

struct staged {
    uint32_t n;
    bool dirty;
    uint64_t saved_in; /* the transaction that last saved a copy */
    struct buf entries;
};
struct copy {
    size_t at; /* in stage.b */
    bool dirty;
    uint8_t *p;
    size_t n;
};
struct stage {
    struct staged *b;
    size_t n, cap;
    struct buf changed; /* hashes of the entries that were changed, in order */
    size_t changed_before; /* of that, before this transaction */
    uint32_t *slot; /* bucket -> its place in b + 1; 0: not staged */
    struct copy *copies;
    size_t ncopies, copies_cap;
    uint64_t txn;
};

struct stage *stage_new(void)
{
    struct stage *g = calloc(1, sizeof *g);
    INVARIANT(g);
    g->slot = calloc(TREE_LEAVES, sizeof *g->slot);
    INVARIANT(g->slot);
    buf_init(&g->changed, SIZE_MAX / 4);
    return g;
}

void stage_free(struct stage *g)
{
    if (!g)
        return;
    stage_reset(g);
    buf_release(&g->changed);
    free(g->b);
    free(g->copies);
    free(g->slot);
    free(g);
}

void stage_keep(struct stage *g)
{
    for (size_t i = 0; i < g->ncopies; i++)
        free(g->copies[i].p);
    g->ncopies = 0;
}

void stage_reset(struct stage *g)
{
    stage_keep(g);
    for (size_t i = 0; i < g->n; i++) {
        g->slot[g->b[i].n] = 0;
        buf_release(&g->b[i].entries);
    }
    g->n = 0;
    buf_reset(&g->changed);
}

void stage_begin(struct stage *g)
{
    g->changed_before = g->changed.n;
    g->txn++;
    stage_keep(g);
}

void stage_undo(struct stage *g)
{
    for (size_t i = g->ncopies; i-- > 0;) {
        struct staged *b = &g->b[g->copies[i].at];
        buf_reset(&b->entries);
        buf_put(&b->entries, g->copies[i].p, g->copies[i].n);
        b->dirty = g->copies[i].dirty;
        b->saved_in = 0;
    }
    g->changed.n = g->changed_before;
    stage_keep(g);
}

/* Of a bucket that is staged. */
static struct staged *staged_at(struct stage *g, uint32_t n)
{
    return &g->b[g->slot[n] - 1];
}

static struct staged *stage_add(struct stage *g, uint32_t n, struct bytes entries)
{
    if (g->n == g->cap) {
        g->cap = g->cap ? g->cap * 2 : 64;
        g->b = reallocarray(g->b, g->cap, sizeof *g->b);
        INVARIANT(g->b);
    }
    struct staged *b = &g->b[g->n++];
    *b = (struct staged){.n = n};
    buf_init(&b->entries, SIZE_MAX / 4);
    buf_put_bytes(&b->entries, entries);
    g->slot[n] = (uint32_t)g->n;
    return b;
}

/* What is staged is built on what the file says only after that was found to be ours: else a forged bucket would be sealed in. */
static RESULT stage_bucket(struct store *s, uint32_t n, struct staged **ret, struct err *e)
{
    struct stage *g = s->stage;
    if (g->slot[n]) {
        *ret = staged_at(g, n);
        return ok();
    }
    struct bytes known;
    if (overlay_peek(s->fresh.overlay, n, &known)) {
        *ret = stage_add(g, n, known);
        return ok();
    }
    TRY(bucket_read(s, &s->writer, n, &known, e));
    *ret = stage_add(g, n, known);
    sqlite3_reset(s->writer.bucket_get);
    return ok();
}

static void save(struct stage *g, struct staged *b)
{
    if (b->saved_in == g->txn)
        return;
    b->saved_in = g->txn;
    if (g->ncopies == g->copies_cap) {
        g->copies_cap = g->copies_cap ? g->copies_cap * 2 : 16;
        g->copies = reallocarray(g->copies, g->copies_cap, sizeof *g->copies);
        INVARIANT(g->copies);
    }
    struct copy *c = &g->copies[g->ncopies++];
    *c = (struct copy){.at = (size_t)(b - g->b), .dirty = b->dirty, .n = b->entries.n};
    c->p = malloc(c->n ? c->n : 1);
    INVARIANT(c->p);
    if (c->n)
        memcpy(c->p, b->entries.p, c->n);
    b->dirty = true;
}

/* The entry, to be changed; made when absent. Valid until the next call. */
static RESULT stage_entry(struct store *s, const struct entry_hash *h, bool make, uint8_t **ret, struct err *e)
{
    struct staged *b;
    TRY(stage_bucket(s, entry_bucket(h), &b, e));
    *ret = NULL;
    if (!make && !bucket_find(buf_bytes(&b->entries), h))
        return ok();
    save(s->stage, b);
    buf_put(&s->stage->changed, h->b, ENTRY_HASH_BYTES);
    *ret = bucket_put(&b->entries, h);
    return ok();
}

static RESULT peek(struct store *s, const struct entry_hash *h, const uint8_t **ret, struct err *e)
{
    struct staged *b;
    TRY(stage_bucket(s, entry_bucket(h), &b, e));
    *ret = bucket_find(buf_bytes(&b->entries), h);
    return ok();
}

RESULT stage_check(struct store *s, enum rec_kind kind, const uint8_t tenant[16], struct bytes id, uint64_t revision,
                   struct err *e)
{
    struct entry_hash h = entry_hash_of(&s->fresh, kind, tenant, id);
    const uint8_t *entry = NULL;
    TRY(peek(s, &h, &entry, e));
    if ((entry ? get_be64(entry + ENTRY_REVISION_AT) : 0) != revision)
        return fresh_stale(e, kind, id, "a row to be changed is not the newest of its id");
    return ok();
}

/* Whose `next` names this row: the row before it in its kind, or the head. */
static RESULT hash_before(struct store *s, enum rec_kind kind, const uint8_t tenant[16], struct bytes id, struct entry_hash *ret,
                          struct err *e)
{
    sqlite3_stmt *st = s->writer.key_below;
    sqlite3_bind_int(st, 1, (int)kind);
    db_bind_bytes(st, 2, BYTES(tenant, STORE_TENANT_BYTES));
    db_bind_bytes(st, 3, id);
    int rc = sqlite3_step(st);
    struct result r = ok();
    if (rc == SQLITE_ROW && db_column_bytes(st, 0).n == STORE_TENANT_BYTES)
        *ret = entry_hash_of(&s->fresh, kind, db_column_bytes(st, 0).p, db_column_bytes(st, 1));
    else if (rc == SQLITE_ROW)
        r = fresh_stale(e, kind, id, "a column no program of ours writes");
    else if (rc == SQLITE_DONE)
        *ret = entry_head(&s->fresh, kind);
    else
        r = db_fail(&s->writer, rc, "read neighbour", e);
    sqlite3_reset(st);
    return r;
}

static RESULT link_in(struct store *s, const struct record *r, const struct entry_hash *h, uint8_t next[ENTRY_HASH_BYTES],
                      struct err *e)
{
    struct entry_hash before;
    uint8_t *entry = NULL;
    TRY(hash_before(s, r->kind, r->tenant, r->id, &before, e));
    struct entry_hash head = entry_head(&s->fresh, r->kind);
    TRY(stage_entry(s, &before, memcmp(before.b, head.b, sizeof head.b) == 0, &entry, e));
    if (!entry)
        return fresh_stale(e, r->kind, r->id, "a row that nobody wrote stands before the new one");
    memcpy(next, entry + ENTRY_NEXT_AT, ENTRY_HASH_BYTES);
    memcpy(entry + ENTRY_NEXT_AT, h->b, ENTRY_HASH_BYTES);
    return ok();
}

RESULT stage_put(struct store *s, const struct record *r, struct bytes sealed, struct err *e)
{
    struct entry_hash h = entry_hash_of(&s->fresh, r->kind, r->tenant, r->id);
    uint8_t next[ENTRY_HASH_BYTES] = {0}, *entry = NULL;
    TRY(stage_entry(s, &h, false, &entry, e));
    if (!entry) {
        TRY(link_in(s, r, &h, next, e));
        TRY(stage_entry(s, &h, true, &entry, e));
        memcpy(entry + ENTRY_NEXT_AT, next, sizeof next);
    }
    put_be64(entry + ENTRY_REVISION_AT, r->revision);
    tag_of(sealed, entry + ENTRY_TAG_AT);
    return ok();
}

RESULT stage_remove(struct store *s, enum rec_kind kind, const uint8_t tenant[16], struct bytes id, struct err *e)
{
    struct entry_hash h = entry_hash_of(&s->fresh, kind, tenant, id), before;
    uint8_t next[ENTRY_HASH_BYTES] = {0}, *entry = NULL;
    TRY(stage_entry(s, &h, false, &entry, e));
    if (!entry)
        return fresh_stale(e, kind, id, "a row that nobody wrote was to be deleted");
    memcpy(next, entry + ENTRY_NEXT_AT, sizeof next);
    TRY(hash_before(s, kind, tenant, id, &before, e));
    TRY(stage_entry(s, &before, false, &entry, e));
    if (!entry || memcmp(entry + ENTRY_NEXT_AT, h.b, sizeof h.b) != 0)
        return fresh_stale(e, kind, id, "the row before a deleted one is not its neighbour");
    memcpy(entry + ENTRY_NEXT_AT, next, sizeof next);
    bucket_cut(&staged_at(s->stage, entry_bucket(&h))->entries, &h);
    return ok();
}

RESULT stage_is(struct store *s, const struct record *key, const uint8_t tag[ENTRY_TAG_BYTES], bool *ret_same, struct err *e)
{
    struct entry_hash h = entry_hash_of(&s->fresh, key->kind, key->tenant, key->id);
    const uint8_t *entry = NULL;
    TRY(peek(s, &h, &entry, e));
    *ret_same = entry && get_be64(entry + ENTRY_REVISION_AT) == key->revision && bytes_ct_equal(entry + ENTRY_TAG_AT, tag, ENTRY_TAG_BYTES);
    return ok();
}

RESULT stage_retag(struct store *s, const struct record *key, struct bytes sealed, struct err *e)
{
    struct entry_hash h = entry_hash_of(&s->fresh, key->kind, key->tenant, key->id);
    uint8_t *entry = NULL;
    TRY(stage_entry(s, &h, false, &entry, e));
    INVARIANT(entry); /* stage_is has seen it */
    tag_of(sealed, entry + ENTRY_TAG_AT);
    return ok();
}

/* What the changed entries have become: what a later open replays. */
static void put_changes(struct stage *g, struct buf *out)
{
    for (size_t at = 0; at < g->changed.n; at += ENTRY_HASH_BYTES) {
        struct entry_hash h;
        memcpy(h.b, g->changed.p + at, sizeof h.b);
        const uint8_t *entry = bucket_find(buf_bytes(&staged_at(g, entry_bucket(&h))->entries), &h);
        uint8_t removed[ENTRY_BYTES] = {0};
        memcpy(removed, h.b, sizeof h.b);
        put_be64(removed + ENTRY_REVISION_AT, ENTRY_REMOVED);
        buf_put(out, entry ? entry : removed, ENTRY_BYTES);
    }
}

static size_t digest_all(struct stage *g, struct tree_change *c)
{
    size_t n = 0;
    for (size_t i = 0; i < g->n; i++) {
        if (!g->b[i].dirty)
            continue;
        c[n].leaf = g->b[i].n;
        bucket_digest(g->b[i].n, buf_bytes(&g->b[i].entries), c[n++].after);
    }
    return n;
}

/* Now and then the buckets themselves are written, many at a time, and what was to be replayed is forgotten. */
static RESULT write_buckets(struct store *s, const struct root *next, struct err *e)
{
    TRY(overlay_write(s, &s->writer, e));
    for (size_t i = 0; i < s->stage->n; i++) {
        struct staged *b = &s->stage->b[i];
        if (b->dirty)
            TRY(bucket_write(&s->writer, b->n, buf_bytes(&b->entries), e));
    }
    sqlite3_bind_int64(s->writer.root_trim, 1, (sqlite3_int64)next->epoch);
    return db_run(&s->writer, s->writer.root_trim, e);
}

static RESULT seal_and_commit(struct store *s, const struct root *next, bool all, struct err *e)
{
    CLEANUP(buf_release) struct buf changes;
    buf_init(&changes, SIZE_MAX / 4);
    if (!all)
        put_changes(s->stage, &changes);
    TRY(fresh_write_root(s, &s->writer, next, buf_bytes(&changes), e));
    if (all)
        TRY(write_buckets(s, next, e));
    return db_run(&s->writer, s->writer.commit, e);
}

static void publish(struct store *s, const struct root *next, bool all)
{
    s->fresh.root = *next;
    s->fresh.roots = all ? 1 : s->fresh.roots + 1;
    if (all)
        overlay_clear(s->fresh.overlay);
    for (size_t i = 0; !all && i < s->stage->n; i++)
        if (s->stage->b[i].dirty)
            overlay_set(s->fresh.overlay, s->stage->b[i].n, buf_bytes(&s->stage->b[i].entries));
    atomic_store(&s->fresh.seal, next->seal);
    atomic_store(&s->fresh.epoch, next->epoch);
}

RESULT fresh_commit(struct store *s, uint64_t txns, uint64_t outbox_last, struct err *e)
{
    struct tree_change *c = calloc(s->stage->n + 1, sizeof *c);
    INVARIANT(c);
    size_t n = digest_all(s->stage, c);
    struct root next = s->fresh.root;
    next.epoch += txns;
    next.outbox_last = outbox_last;
    next.seal = s->seal.epoch;
    /* With a new seal epoch too: the roots before it, which hold the key of the hashes, must not stay under the old one. */
    bool all = overlay_count(s->fresh.overlay) + n > OVERLAY_MAX || s->fresh.roots >= ROOTS_MAX || next.seal != s->fresh.root.seal;
    pthread_mutex_lock(&s->fresh.commit);
    tree_apply(s->fresh.tree, c, n);
    tree_root(s->fresh.tree, next.tree);
    struct result r = seal_and_commit(s, &next, all, e);
    if (r.failed)
        tree_undo(s->fresh.tree, c, n);
    else
        publish(s, &next, all);
    pthread_mutex_unlock(&s->fresh.commit);
    free(c);
    return r;
}
