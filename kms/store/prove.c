#include "base/text.h"
#include "kms/store/internal.h"

#include <stdio.h>
#include <string.h>

enum { FOREIGN_MAX = 64 }; /* rows that nobody wrote, beside a range, that a proof passes over */

static const char *const kind_names[] = {
    [REC_META] = "instance fact", [REC_TENANT] = "tenant",       [REC_KEYRING] = "key ring",   [REC_CRYPTOKEY] = "key",
    [REC_VERSION] = "key version", [REC_SAN] = "SAN",            [REC_PRINCIPAL] = "principal", [REC_POLICY] = "policy",
    [REC_IDEMPOTENCY] = "repeat",  [REC_TENANT_ID] = "tenant id", [REC_BUDGET] = "budget",
    [REC_USAGE] = "usage",
    [REC_DUE] = "due",               [REC_CERTIFICATE] = "certificate", [REC_TOMBSTONE] = "tombstone",
    [REC_GCM] = "nonces",            [REC_UNSAVED] = "version without a backup of the token",
};

const char *store_kind_name(enum rec_kind kind)
{
    size_t n = sizeof kind_names / sizeof *kind_names;
    return (size_t)kind < n && kind_names[kind] ? kind_names[kind] : "row of unknown kind";
}

/* Ids are text with NUL between their parts, numbers, or hashes: what is not printable is shown as hex. */
void store_id_text(struct bytes id, char *out, size_t n)
{
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < id.n && at + 4 < n; i++) {
        uint8_t c = id.p[i];
        if (c > 0x20 && c < 0x7f)
            out[at++] = (char)c;
        else if (c == 0)
            out[at++] = '/';
        else
            at += (size_t)snprintf(out + at, n - at, "%02x", c);
        out[at] = 0;
    }
}

RESULT fresh_stale(struct err *e, enum rec_kind kind, struct bytes id, const char *what)
{
    char text[128];
    store_id_text(id, text, sizeof text);
    FAIL(e, ERR_DATA_LOSS, "STORE_STALE", "%s \"%s\": %s", store_kind_name(kind), text, what);
}

RESULT bucket_read(struct store *s, struct db *d, uint32_t n, struct bytes *ret, struct err *e)
{
    uint8_t digest[TREE_DIGEST_BYTES];
    sqlite3_bind_int(d->bucket_get, 1, (int)n);
    int rc = sqlite3_step(d->bucket_get);
    struct bytes entries = rc == SQLITE_ROW ? db_column_bytes(d->bucket_get, 0) : BYTES(NULL, 0);
    bucket_digest(n, entries, digest);
    struct result r = ok();
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        r = db_fail(d, rc, "read bucket", e);
    else if (!tree_leaf_is(s->fresh.tree, n, digest))
        r = err_set(e, ERR_DATA_LOSS, "STORE_STALE", __FILE__, __LINE__, "bucket %u is not the one that was written", n);
    if (r.failed)
        sqlite3_reset(d->bucket_get);
    else
        *ret = entries;
    return r;
}

RESULT fresh_entry(struct store *s, struct db *d, const struct entry_hash *h, uint8_t out[ENTRY_BYTES], bool *ret_there,
                   struct err *e)
{
    struct bytes entries;
    if (overlay_entry(s->fresh.overlay, h, out, ret_there))
        return ok();
    TRY(bucket_read(s, d, entry_bucket(h), &entries, e));
    const uint8_t *entry = bucket_find(entries, h);
    if (entry)
        memcpy(out, entry, ENTRY_BYTES);
    *ret_there = entry != NULL;
    sqlite3_reset(d->bucket_get);
    return ok();
}

static RESULT compare_entry(const uint8_t *entry /* NULL: none */, const struct record *key, bool present, uint64_t revision,
                            const uint8_t tag[ENTRY_TAG_BYTES], struct err *e)
{
    if (!entry && !present)
        return ok();
    if (!present)
        return fresh_stale(e, key->kind, key->id, "the row was deleted behind our back");
    if (!entry)
        return fresh_stale(e, key->kind, key->id, "the row was deleted, and put back behind our back");
    if (get_be64(entry + ENTRY_REVISION_AT) != revision || !bytes_ct_equal(entry + ENTRY_TAG_AT, tag, ENTRY_TAG_BYTES))
        return fresh_stale(e, key->kind, key->id, "the row is not the newest of its id");
    return ok();
}

RESULT fresh_prove_row(struct store *s, struct db *d, const struct record *key, bool present, uint64_t revision,
                       const uint8_t tag[ENTRY_TAG_BYTES], struct err *e)
{
    uint8_t entry[ENTRY_BYTES];
    bool there = false;
    struct entry_hash h = entry_hash_of(&s->fresh, key->kind, key->tenant, key->id);
    TRY(fresh_entry(s, d, &h, entry, &there, e));
    return compare_entry(there ? entry : NULL, key, present, revision, tag, e);
}

/* The link that leads to the first row of the range: of the row before it, or of the head of the kind. A row that nobody wrote is
 * passed over: that it stands outside the range is not this range's trouble. */
static RESULT link_before(struct store *s, struct db *d, enum rec_kind kind, const struct fresh_bound *low,
                          uint8_t next[ENTRY_HASH_BYTES], struct err *e)
{
    uint8_t entry[ENTRY_BYTES] = {0};
    bool there = false;
    int rc = SQLITE_DONE;
    struct result r = ok();
    sqlite3_bind_int(d->key_below, 1, (int)kind);
    db_bind_bytes(d->key_below, 2, BYTES(low->tenant, STORE_TENANT_BYTES));
    db_bind_bytes(d->key_below, 3, low->id);
    for (int i = 0; i < FOREIGN_MAX && !there && !r.failed && (rc = sqlite3_step(d->key_below)) == SQLITE_ROW; i++) {
        struct bytes tenant = db_column_bytes(d->key_below, 0);
        if (tenant.n != STORE_TENANT_BYTES)
            continue;
        struct entry_hash h = entry_hash_of(&s->fresh, kind, tenant.p, db_column_bytes(d->key_below, 1));
        r = fresh_entry(s, d, &h, entry, &there, e);
    }
    sqlite3_reset(d->key_below);
    TRY(r);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return db_fail(d, rc, "read neighbour", e);
    if (!there && rc == SQLITE_ROW)
        return fresh_stale(e, kind, low->id, "rows that nobody wrote stand before this place");
    if (!there) {
        struct entry_hash head = entry_head(&s->fresh, kind);
        TRY(fresh_entry(s, d, &head, entry, &there, e));
    }
    memcpy(next, entry + ENTRY_NEXT_AT, ENTRY_HASH_BYTES); /* a kind that never had a row has no head: zeros */
    return ok();
}

static int compare_to(const struct record *key, const struct fresh_bound *b)
{
    int c = memcmp(key->tenant, b->tenant, sizeof key->tenant);
    return c ? c : bytes_compare(key->id, b->id);
}

struct walk {
    struct store *s;
    struct db *d;
    const struct fresh_bound *high;
    bool high_inclusive, done;
    unsigned beyond; /* rows behind the range that were passed over */
    uint8_t next[ENTRY_HASH_BYTES];
};

static bool is_last(const struct walk *w)
{
    static const uint8_t none[ENTRY_HASH_BYTES];
    return memcmp(w->next, none, sizeof none) == 0;
}

/* One row in order: it must be the one that the row before it names, and, inside the range, as its own entry says. */
static RESULT walk_row(struct walk *w, struct record *key, uint64_t revision, struct bytes sealed_end, struct err *e)
{
    uint8_t entry[ENTRY_BYTES], tag[ENTRY_TAG_BYTES];
    bool there = false;
    struct entry_hash h = entry_hash_of(&w->s->fresh, key->kind, key->tenant, key->id);
    bool named = memcmp(h.b, w->next, sizeof h.b) == 0;
    int c = w->high->none ? -1 : compare_to(key, w->high);
    bool outside = c > 0 || (c == 0 && !w->high_inclusive);
    /* Behind the range, what is named may come after rows that nobody wrote: then it is behind the range as well. */
    if (!named && outside && !is_last(w) && ++w->beyond <= FOREIGN_MAX)
        return ok();
    if (!named && !(outside && is_last(w)))
        return fresh_stale(e, key->kind, key->id, "a row before it is missing, or it was put in behind our back");
    w->done = c >= 0;
    if (outside)
        return ok();
    tag_of(sealed_end, tag);
    TRY(fresh_entry(w->s, w->d, &h, entry, &there, e));
    TRY(compare_entry(there ? entry : NULL, key, true, revision, tag, e));
    memcpy(w->next, entry + ENTRY_NEXT_AT, sizeof w->next);
    return ok();
}

static RESULT walk_rows(struct walk *w, enum rec_kind kind, sqlite3_stmt *st, struct err *e)
{
    int rc = SQLITE_DONE;
    while (!w->done && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct record key = {.kind = kind, .id = db_column_bytes(st, 1)};
        struct bytes tenant = db_column_bytes(st, 0);
        if (tenant.n != STORE_TENANT_BYTES)
            return fresh_stale(e, kind, key.id, "a column no program of ours writes");
        memcpy(key.tenant, tenant.p, sizeof key.tenant);
        TRY(walk_row(w, &key, (uint64_t)sqlite3_column_int64(st, 2), db_column_bytes(st, 3), e));
    }
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return db_fail(w->d, rc, "walk", e);
    if (!w->done && !is_last(w))
        return fresh_stale(e, kind, BYTES(NULL, 0), "the last rows are missing");
    return ok();
}

RESULT fresh_prove_range(struct store *s, struct db *d, enum rec_kind kind, const struct fresh_bound *low,
                         const struct fresh_bound *high, bool high_inclusive, struct err *e)
{
    struct walk w = {.s = s, .d = d, .high = high, .high_inclusive = high_inclusive};
    TRY(link_before(s, d, kind, low, w.next, e));
    sqlite3_bind_int(d->walk, 1, (int)kind);
    db_bind_bytes(d->walk, 2, BYTES(low->tenant, STORE_TENANT_BYTES));
    db_bind_bytes(d->walk, 3, low->id);
    struct result r = walk_rows(&w, kind, d->walk, e);
    sqlite3_reset(d->walk);
    return r;
}
