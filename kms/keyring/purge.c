/* The end of a tenant that is PURGING: its rows go a page at a time, whatever their kind, each page counted in the transaction that takes
 * it; last its own rows, and with them salt and audit key, once a scan has found nothing else.
 *
 * REC_TOMBSTONE: tenant column zero, id = tag of the tenant (the one in its leaves: a keyed hash, so the row tells nothing), body: u8
 * format 1, id[16], SHA-256(name), i64 created, i64 purged. The name may be given again: to another id and another salt. */
#include "kms/keyring/internal.h"

#include "kms/crypto/kdf.h"
#include "kms/keyring/unsaved.h"

enum { PURGE_PAGE = 128, PURGE_DUE_MAX = STORE_TXN_MAX / 2, PURGE_ARENA_BYTES = 64 << 20, KINDS_END = 64, TOMBSTONE_FORMAT = 1 };
static const uint8_t no_tenant[STORE_TENANT_BYTES];

/* Only a tenant that is PURGING loses anything. */
static RESULT purging_row(struct keyring *k, struct bytes name, struct model_tenant *ret, struct err *e)
{
    TRY(tenant_row(k, name, ret, e));
    if (ret->t.state != TENANT_PURGING)
        FAIL(e, ERR_STATE, "TENANT_STATE", "tenant %s is %s", ret->t.name, sm_name(&tenant_machine, ret->t.state));
    return ok();
}

static void add_toll(struct keyring_toll *to, const struct keyring_toll *more)
{
    to->rings += more->rings;
    to->keys += more->keys;
    to->versions += more->versions;
    to->token_objects += more->token_objects;
    to->principals += more->principals;
    to->others += more->others;
}

static void count_into(struct model_tenant *m, const struct keyring_toll *more, struct store_txn *txn)
{
    add_toll(&m->toll, more);
    tenant_row_put(txn, m, m->t.revision);
}

RESULT keyring_purge_count(struct keyring *k, struct bytes name, const struct keyring_toll *more, struct store_txn *txn, struct err *e)
{
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
    TRY(purging_row(k, name, &m, e));
    count_into(&m, more, txn);
    return ok();
}

/* ---- rows that bear the tenant's id ---- */
/* The first page of the first kind that has any: versions before all else, they hold keys. */
static RESULT find_rows(struct keyring *k, const uint8_t id[16], struct arena *a, struct record **ret, size_t *ret_n, struct err *e)
{
    for (int i = 0; i < KINDS_END; i++) {
        struct store_scan q = {.kind = i == 0 ? REC_VERSION : (enum rec_kind)i, .limit = PURGE_PAGE};
        memcpy(q.tenant, id, sizeof q.tenant);
        TRY(store_scan(k->store, &q, a, ret, ret_n, e));
        if (*ret_n > 0)
            return ok();
    }
    return ok();
}

/* Whatever became of the version: a removal that was queued when it was destroyed may not have been done yet. */
static RESULT off_the_token(struct keyring *k, const struct keyring_version *v, struct store_txn *txn, struct keyring_toll *lost, struct err *e)
{
    struct err why = {0};
    if (v->protection != PROTECTION_HSM)
        return ok();
    unsaved_drop(txn, v->kvid);
    lost->token_objects += v->state != VERSION_DESTROYED; /* by the record: an object may be gone since before somebody died */
    if (!hsm_key_destroy(k->hsm, v->kvid, &why).failed || why.code == ERR_NOT_FOUND)
        return ok();
    *e = why;
    return (struct result){1};
}

/* What the row held besides its bytes, gone before the row is: who dies in between finds the row again. */
static RESULT let_go(struct keyring *k, const struct record *r, struct store_txn *txn, struct keyring_toll *lost, struct err *e)
{
    struct keyring_version v;
    if (r->kind != REC_VERSION) {
        lost->rings += r->kind == REC_KEYRING;
        lost->keys += r->kind == REC_CRYPTOKEY;
        lost->others += r->kind != REC_KEYRING && r->kind != REC_CRYPTOKEY;
        lost->versions += r->kind == REC_CERTIFICATE && r->state == CERTIFICATE_UNSIGNED; /* the token was away: the tenant's is the only one it gets */
        return ok();
    }
    TRY(model_version_get(r, &v, e));
    lost->versions += v.state != VERSION_DESTROYED; /* those had their certificates when they were, or see above */
    return off_the_token(k, &v, txn, lost, e);
}

RESULT keyring_purge_rows(struct keyring *k, struct bytes name, bool *ret_more, struct err *e)
{
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
    CLEANUP(arena_release) struct arena a;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(k->store);
    struct keyring_toll lost = {0};
    struct record *rows;
    size_t n = 0;
    uint64_t seq;
    arena_init(&a, PURGE_ARENA_BYTES);
    TRY(purging_row(k, name, &m, e));
    TRY(find_rows(k, m.t.id, &a, &rows, &n, e));
    *ret_more = n > 0;
    if (n == 0)
        return ok();
    for (size_t i = 0; i < n; i++) {
        TRY(let_go(k, &rows[i], txn, &lost, e));
        store_txn_delete(txn, rows[i].kind, rows[i].tenant, rows[i].id, STORE_ANY);
    }
    count_into(&m, &lost, txn);
    return store_txn_commit(txn, &seq, e);
}

/* ---- rows of the queue ---- */
/* Of the tenant or of what is in it; but not its own purge, and not the certificate of an earlier tenant of its name. */
static bool is_of(const struct due *d, struct bytes full)
{
    if (bytes_equal(d->name, full))
        return d->what != DUE_PURGE && d->what != DUE_CERTIFICATE;
    return d->name.n > full.n && memcmp(d->name.p, full.p, full.n) == 0 && d->name.p[full.n] == '/';
}

static RESULT due_page(struct keyring *k, struct bytes full, struct bytes after, struct store_txn *txn, uint8_t ret_after[DUE_ID_BYTES],
                       size_t *ret_n, size_t *gone, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct due *all;
    arena_init(&a, PURGE_ARENA_BYTES);
    TRY(due_read(k->store, after, INT64_MAX, PURGE_PAGE, &a, &all, ret_n, e));
    for (size_t i = 0; i < *ret_n; i++) {
        due_id(&all[i], ret_after);
        if (!is_of(&all[i], full))
            continue;
        due_move(txn, all[i].what, all[i].name, all[i].at_ns, 0);
        ++*gone;
    }
    return ok();
}

/* *ret_gone rows were found and are in txn: all, or as many as a transaction takes. */
static RESULT due_walk(struct keyring *k, struct bytes name, struct store_txn *txn, size_t *ret_gone, struct err *e)
{
    char text[NAME_MAX_BYTES];
    const struct bytes full = tenant_full_name(name, text);
    uint8_t after[DUE_ID_BYTES];
    size_t n = PURGE_PAGE;
    struct bytes from = {0};
    *ret_gone = 0;
    while (n == PURGE_PAGE && *ret_gone + PURGE_PAGE <= PURGE_DUE_MAX) {
        TRY(due_page(k, full, from, txn, after, &n, ret_gone, e));
        from = BYTES(after, sizeof after);
    }
    return ok();
}

RESULT keyring_purge_due(struct keyring *k, struct bytes name, bool *ret_more, struct err *e)
{
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(k->store);
    size_t gone;
    uint64_t seq;
    TRY(purging_row(k, name, &m, e));
    TRY(due_walk(k, name, txn, &gone, e));
    *ret_more = gone > 0;
    return gone > 0 ? store_txn_commit(txn, &seq, e) : ok();
}

/* ---- the tenant itself ---- */
static void put_tombstone(struct keyring *k, const struct model_tenant *m, struct store_txn *txn)
{
    uint8_t tag[32], hash[32];
    const struct bytes name = bytes_str(m->t.name);
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, 128);
    tenant_tag(k, m->t.id, tag);
    sha256(&name, 1, hash);
    buf_put_u8(&body, TOMBSTONE_FORMAT);
    buf_put(&body, m->t.id, sizeof m->t.id);
    buf_put(&body, hash, sizeof hash);
    buf_put_u64(&body, (uint64_t)m->t.created_ns);
    buf_put_u64(&body, (uint64_t)clock_wall_ns(k->clock));
    const struct record r = {.kind = REC_TOMBSTONE, .id = BYTES(tag, sizeof tag), .body = buf_bytes(&body)};
    store_txn_put(txn, &r, STORE_ANY); /* there already, when an older store was accepted and it is purged again */
}

RESULT keyring_purge_end(struct keyring *k, struct bytes name, struct store_txn *txn, struct tenant *ret, struct keyring_toll *ret_toll,
                         struct err *e)
{
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
    CLEANUP(arena_release) struct arena a;
    CLEANUP(store_txn_freep) struct store_txn *none = store_txn_new(k->store);
    char full[NAME_MAX_BYTES];
    struct record *rows;
    size_t n = 0, due = 0;
    arena_init(&a, PURGE_ARENA_BYTES);
    TRY(purging_row(k, name, &m, e));
    TRY(find_rows(k, m.t.id, &a, &rows, &n, e));
    TRY(due_walk(k, name, none, &due, e));
    if (n > 0 || due > 0)
        FAIL(e, ERR_STATE, "TENANT_NOT_EMPTY", "%zu rows and %zu due times of tenant %s are there still", n, due, m.t.name);
    store_txn_delete(txn, REC_TENANT, no_tenant, name, m.t.revision);
    store_txn_delete(txn, REC_TENANT_ID, no_tenant, BYTES(m.t.id, 16), STORE_ANY);
    store_txn_delete(txn, REC_BUDGET, no_tenant, BYTES(m.t.id, 16), STORE_ANY);
    due_move(txn, DUE_PURGE, tenant_full_name(name, full), m.t.purge_ns, 0);
    put_tombstone(k, &m, txn);
    store_txn_erases(txn); /* with the log goes what the pages before this took, too */
    *ret = m.t;
    *ret_toll = m.toll;
    return ok();
}

void keyring_purged(struct keyring *k, const struct tenant *gone)
{
    uint8_t tag[32];
    tenant_tag(k, gone->id, tag);
    cache_remove(k->tags, BYTES(tag, sizeof tag));
    keyring_tenant_forget(k, bytes_str(gone->name));
}

RESULT keyring_tombstone(struct keyring *k, const uint8_t id[16], struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct record r;
    uint8_t tag[32];
    arena_init(&a, 65536);
    tenant_tag(k, id, tag);
    return store_get(k->store, REC_TOMBSTONE, no_tenant, BYTES(tag, sizeof tag), &a, &r, e);
}
