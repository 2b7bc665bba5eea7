/* The buckets made anew from the rows: when a store of schema 1 is opened for the first time, and when an older store is
 * accepted. Whatever does not open goes on failing where it is read; it is not made believable by being counted. */
#include "kms/store/internal.h"

#include <stdlib.h>
#include <string.h>

struct building {
    struct buf entries; /* of ENTRY_BYTES, in the order of the rows */
    int64_t kind;
};

static void add(struct building *b, const struct entry_hash *h, uint64_t revision, struct bytes sealed)
{
    uint8_t entry[ENTRY_BYTES] = {0};
    memcpy(entry, h->b, sizeof h->b);
    put_be64(entry + ENTRY_REVISION_AT, revision);
    if (revision)
        tag_of(sealed, entry + ENTRY_TAG_AT);
    buf_put(&b->entries, entry, sizeof entry);
}

static void add_row(struct store *s, struct building *b, sqlite3_stmt *st)
{
    enum rec_kind kind = (enum rec_kind)sqlite3_column_int(st, 0);
    struct bytes tenant = db_column_bytes(st, 1);
    if (!fresh_covers(kind) || tenant.n != STORE_TENANT_BYTES)
        return;
    if (b->kind != kind) {
        struct entry_hash head = entry_head(&s->fresh, kind);
        add(b, &head, 0, BYTES(NULL, 0));
        b->kind = kind;
    }
    struct entry_hash h = entry_hash_of(&s->fresh, kind, tenant.p, db_column_bytes(st, 2));
    memcpy(b->entries.p + b->entries.n - ENTRY_BYTES + ENTRY_NEXT_AT, h.b, sizeof h.b);
    add(b, &h, (uint64_t)sqlite3_column_int64(st, 3), db_column_bytes(st, 4));
}

static RESULT read_rows(struct store *s, struct db *d, struct building *b, struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc;
    TRY(db_prepare(d, "SELECT kind, tenant, id, revision, substr(body, -16) FROM record ORDER BY kind, tenant, id", &st, e));
    while ((rc = sqlite3_step(st)) == SQLITE_ROW)
        add_row(s, b, st);
    struct result r = rc == SQLITE_DONE ? ok() : db_fail(d, rc, "read rows", e);
    sqlite3_finalize(st);
    return r;
}

static int by_hash(const void *a, const void *b)
{
    return memcmp(a, b, ENTRY_HASH_BYTES);
}

static RESULT write_buckets(struct store *s, struct db *d, struct bytes all, struct err *e)
{
    for (size_t at = 0, end; at < all.n; at = end) {
        uint8_t digest[TREE_DIGEST_BYTES];
        uint32_t n = get_be16(all.p + at);
        for (end = at; end < all.n && get_be16(all.p + end) == n;)
            end += ENTRY_BYTES;
        bucket_digest(n, BYTES(all.p + at, end - at), digest);
        tree_load(s->fresh.tree, n, digest);
        TRY(bucket_write(d, n, BYTES(all.p + at, end - at), e));
    }
    return ok();
}

RESULT fresh_build(struct store *s, struct db *d, struct err *e)
{
    CLEANUP(buf_release) struct buf entries;
    struct building b = {.kind = -1};
    buf_init(&b.entries, SIZE_MAX / 4);
    struct result r = read_rows(s, d, &b, e);
    entries = b.entries;
    TRY(r);
    if (entries.n)
        qsort(entries.p, entries.n / ENTRY_BYTES, ENTRY_BYTES, by_hash);
    TRY(db_exec(d, "DELETE FROM bucket; DELETE FROM root", e));
    overlay_clear(s->fresh.overlay);
    tree_free(s->fresh.tree);
    s->fresh.tree = tree_new();
    TRY(write_buckets(s, d, buf_bytes(&entries), e));
    tree_rebuild(s->fresh.tree);
    tree_root(s->fresh.tree, s->fresh.root.tree);
    int64_t seq = 0;
    TRY(db_int(d, "SELECT max(seq) FROM outbox", &seq, e));
    s->fresh.root.outbox_last = (uint64_t)seq;
    s->fresh.root.epoch++;
    s->fresh.root.seal = s->seal.epoch;
    s->fresh.roots = 1;
    return fresh_write_root(s, d, &s->fresh.root, BYTES(NULL, 0), e);
}
