/* The queue of what is due, made good: for a store from before there was one, and after accept-rollback, which changes rows and draws a
 * new incarnation. REC_META "due-queue": the incarnation in which the queue was complete. */
#include "kms/keyring/internal.h"

#include "base/log.h"

#include <string.h>

enum { REQUEUE_PAGE = 256, REQUEUE_ARENA_BYTES = 64 << 20 };
static const uint8_t no_tenant[STORE_TENANT_BYTES];

static RESULT requeue_key(struct keyring *k, struct store_txn *txn, const struct record *r, struct arena *a, struct err *e)
{
    struct keyring_key m;
    (void)k;
    TRY(model_key_get(r, a, &m, e));
    due_move(txn, DUE_ROTATION, m.name, 0, m.next_rotation_ns);
    store_txn_check(txn, r->kind, r->tenant, r->id, r->revision);
    return ok();
}

/* Its certificate lies under the version's own id. */
static RESULT has_certificate(struct keyring *k, const struct record *version, struct arena *a, bool *ret, struct err *e)
{
    struct record r;
    struct err why = {0};
    *ret = !store_get(k->store, REC_CERTIFICATE, version->tenant, version->id, a, &r, &why).failed;
    if (*ret || why.code == ERR_NOT_FOUND)
        return ok();
    *e = why;
    return (struct result){1};
}

static RESULT requeue_version(struct keyring *k, struct store_txn *txn, const struct record *r, struct arena *a, struct err *e)
{
    struct keyring_version m;
    bool done = false;
    TRY(model_version_get(r, &m, e));
    if (m.state == VERSION_DESTROYED) /* what an accepted rollback destroyed again has no certificate in this incarnation yet */
        TRY(has_certificate(k, r, a, &done, e));
    due_move(txn, DUE_DESTRUCTION, m.name, 0, m.state != VERSION_DESTROYED ? m.queued_destroy_ns : done ? 0 : m.destroyed_ns);
    store_txn_check(txn, r->kind, r->tenant, r->id, r->revision);
    return ok();
}

static RESULT requeue_tenant(struct keyring *k, struct store_txn *txn, const struct record *r, struct arena *a, struct err *e)
{
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
    char full[NAME_MAX_BYTES];
    (void)k, (void)a;
    TRY(model_tenant_get(r, &m, e));
    due_move(txn, DUE_PURGE, tenant_full_name(bytes_str(m.t.name), full), 0, m.t.purge_ns);
    store_txn_check(txn, r->kind, r->tenant, r->id, r->revision);
    return ok();
}

/* One of a version that is not signed yet; of a tenant's only its text says the name, and its row of the queue has it. */
static RESULT requeue_certificate(struct keyring *k, struct store_txn *txn, const struct record *r, struct arena *a, struct err *e)
{
    (void)k, (void)a, (void)e;
    due_move(txn, DUE_CERTIFICATE, r->name, 0, r->state == CERTIFICATE_UNSIGNED && r->name.n > 0 ? r->time_unix_ns : 0);
    store_txn_check(txn, r->kind, r->tenant, r->id, r->revision);
    return ok();
}

typedef RESULT requeue_fn(struct keyring *k, struct store_txn *txn, const struct record *r, struct arena *a, struct err *e);

/* A store that was accepted as it stood may have rows that do not open. Each is refused by itself where it is used, and named here: what it
 * was to do is not known; all others still do what they are to do. */
static RESULT one(struct keyring *k, struct store_txn *txn, const struct record *r, requeue_fn *each, struct arena *a, struct err *e)
{
    char id[128];
    struct err why = {.code = ERR_DATA_LOSS, .reason = "RECORD_TAMPERED"};
    if (r->body.p != NULL && !each(k, txn, r, a, &why).failed)
        return ok();
    if (why.code == ERR_DATA_LOSS) {
        store_id_text(r->id, id, sizeof id);
        log_event(LOG_ERROR, "a row does not open: what it names does not fall due any more", LF_STR("kind", store_kind_name(r->kind)), LF_STR("id", id),
                  LF_ERR(&why));
        return ok();
    }
    *e = why;
    return (struct result){1};
}

/* Rows that changed meanwhile put themselves into the queue: the page is read again. */
static RESULT page(struct keyring *k, struct store_scan *q, requeue_fn *each, uint8_t after[STORE_ID_MAX], size_t *ret_n, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(k->store);
    struct record *rows;
    uint64_t seq;
    arena_init(&a, REQUEUE_ARENA_BYTES);
    TRY(store_scan(k->store, q, &a, &rows, ret_n, e));
    for (size_t i = 0; i < *ret_n; i++)
        TRY(one(k, txn, &rows[i], each, &a, e));
    if (*ret_n == 0)
        return ok();
    struct err why = {0};
    if (store_txn_commit(txn, &seq, &why).failed && why.code != ERR_CONFLICT && why.code != ERR_NOT_FOUND) {
        *e = why;
        return (struct result){1};
    }
    if (why.code != ERR_NONE) {
        *ret_n = REQUEUE_PAGE; /* not the last page, however short it was */
        return ok();
    }
    memcpy(after, rows[*ret_n - 1].id.p, rows[*ret_n - 1].id.n);
    q->after = BYTES(after, rows[*ret_n - 1].id.n);
    memcpy(q->after_tenant, rows[*ret_n - 1].tenant, sizeof q->after_tenant);
    return ok();
}

static RESULT walk(struct keyring *k, struct store_scan *q, requeue_fn *each, struct err *e)
{
    uint8_t after[STORE_ID_MAX];
    size_t n = REQUEUE_PAGE;
    q->limit = REQUEUE_PAGE;
    while (n == REQUEUE_PAGE)
        TRY(page(k, q, each, after, &n, e));
    return ok();
}

static RESULT all_of(struct keyring *k, enum rec_kind kind, requeue_fn *each, struct err *e)
{
    struct store_scan q = {.kind = kind, .all_tenants = true, .with_broken = true};
    return walk(k, &q, each, e);
}

RESULT keyring_requeue_tenant(struct keyring *k, const struct tenant *t, struct err *e)
{
    struct store_scan q = {.kind = REC_CRYPTOKEY, .with_broken = true};
    memcpy(q.tenant, t->id, sizeof q.tenant);
    return walk(k, &q, requeue_key, e);
}

/* Rows of the queue that do not open: what they led to is found by the records, above. They would only be in the way, of a purge too. */
static RESULT clear_page(struct keyring *k, struct bytes after, uint8_t ret_after[STORE_ID_MAX], size_t *ret_after_n, size_t *ret_n, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(k->store);
    struct due *all;
    size_t gone = 0;
    uint64_t seq;
    arena_init(&a, REQUEUE_ARENA_BYTES);
    TRY(due_look(k->store, after, INT64_MAX, REQUEUE_PAGE, &a, &all, ret_n, e));
    for (size_t i = 0; i < *ret_n; i++) {
        if (all[i].broken)
            store_txn_delete(txn, REC_DUE, no_tenant, all[i].id, STORE_ANY);
        gone += all[i].broken;
        memcpy(ret_after, all[i].id.p, all[i].id.n);
        *ret_after_n = all[i].id.n;
    }
    if (gone == 0)
        return ok();
    log_event(LOG_ERROR, "rows of the queue of what is due did not open: they were taken out", LF_INT("rows", gone));
    return store_txn_commit(txn, &seq, e);
}

static RESULT clear(struct keyring *k, struct err *e)
{
    uint8_t after[STORE_ID_MAX];
    size_t after_n = 0, n = REQUEUE_PAGE;
    while (n == REQUEUE_PAGE)
        TRY(clear_page(k, BYTES(after, after_n), after, &after_n, &n, e));
    return ok();
}

RESULT keyring_requeue(struct keyring *k, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct record r;
    struct err why = {0};
    uint8_t incarnation[16];
    arena_init(&a, STORE_BODY_MAX + 4096);
    store_incarnation(k->store, incarnation);
    if (!store_get(k->store, REC_META, no_tenant, BYTES_LIT("due-queue"), &a, &r, &why).failed &&
        bytes_equal(r.body, BYTES(incarnation, sizeof incarnation)))
        return ok();
    if (why.code != ERR_NONE && why.code != ERR_NOT_FOUND) {
        *e = why;
        return (struct result){1};
    }
    TRY(all_of(k, REC_CRYPTOKEY, requeue_key, e));
    TRY(all_of(k, REC_VERSION, requeue_version, e));
    TRY(all_of(k, REC_TENANT, requeue_tenant, e));
    TRY(all_of(k, REC_CERTIFICATE, requeue_certificate, e));
    TRY(clear(k, e));
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(k->store);
    uint64_t seq;
    const struct record mark = {.kind = REC_META, .id = BYTES_LIT("due-queue"), .body = BYTES(incarnation, sizeof incarnation)};
    store_txn_put(txn, &mark, STORE_ANY);
    return store_txn_commit(txn, &seq, e);
}
