#include "kms/keyring/rekey.h"

#include "base/log.h"
#include "base/text.h"
#include "kms/keyring/internal.h"

enum { TENANT_ARENA_BYTES = STORE_BODY_MAX + 65536, PAGE_ARENA_BYTES = 4 << 20, PROOF_PAGE = 256, COUNT_PAGE = 256 };
static const uint8_t no_tenant[STORE_TENANT_BYTES];

/* ---- the master that is current ---- */
uint32_t keyring_master_now(struct keyring *k, uint64_t *ret_revision)
{
    pthread_mutex_lock(&k->master_lock);
    const uint32_t version = k->master_version;
    *ret_revision = k->master_revision;
    pthread_mutex_unlock(&k->master_lock);
    return version;
}

uint32_t keyring_master(struct keyring *k)
{
    uint64_t revision;
    return keyring_master_now(k, &revision);
}

bool keyring_master_is(struct keyring *k, const struct token_secret *current)
{
    uint64_t revision;
    const uint32_t version = keyring_master_now(k, &revision);
    return current != NULL && current->version == version && current->revision == revision;
}

RESULT keyring_master_changed(struct keyring *k, struct err *e)
{
    struct token_secrets all;
    TRY(token_secrets_read(k->store, HSM_MASTER, &all, e));
    const struct token_secret *now = token_secrets_current(&all);
    if (now == NULL)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "of %zu master secrets on record not exactly one is current", all.n);
    pthread_mutex_lock(&k->master_lock);
    k->master_version = now->version;
    k->master_revision = now->revision;
    pthread_mutex_unlock(&k->master_lock);
    return ok();
}

/* ---- one tenant, a page ---- */
void rekey_release(struct rekey *r)
{
    tenant_ref_drop(r->held);
    r->held = NULL;
}

/* The tenant as the store has it now. What was derived for the page before is kept for as long as its row stays the same. */
static RESULT hold(struct keyring *k, struct bytes tenant, struct rekey *r, struct arena *a, struct record *ret, struct err *e)
{
    TRY(store_get(k->store, REC_TENANT, no_tenant, tenant, a, ret, e));
    if (r->held != NULL && r->held->t.revision == ret->revision && bytes_equal(bytes_str(r->held->t.name), tenant))
        return ok();
    rekey_release(r);
    return tenant_from_record(k, ret, &r->held, e);
}

/* Its KEK under the current master: derived twice, and the first of those that its record names from now on. */
static RESULT begin(struct keyring *k, struct tenant_ref *t, struct model_tenant *m, uint32_t to, struct err *e)
{
    struct hierarchy_tenant h;
    if (m->nkeks == MODEL_KEKS_MAX)
        FAIL(e, ERR_EXHAUSTED, "TOO_MANY_MASTERS", "tenant %s depends on %u masters already", m->t.name, m->nkeks);
    hierarchy_of(k, t, to, &h);
    struct model_kek now = {.master = to};
    TRY(first_kcv(k, &h, m->salt, now.kcv, e));
    memmove(m->keks + 1, m->keks, m->nkeks * sizeof *m->keks);
    m->keks[0] = now;
    m->nkeks++;
    m->t.master_version = to;
    memmove(t->keks + 1, t->keks, t->nkeks * sizeof *t->keks);
    t->keks[0].is = now;
    t->keks[0].kek = NULL;
    t->nkeks++;
    t->t.master_version = to;
    return ok();
}

static RESULT rewrap(struct keyring *k, struct tenant_ref *t, const struct record *row, struct keyring_version *m, uint32_t to,
                     struct store_txn *txn, struct err *e)
{
    CLEANUP(version_l2_release) struct version_l2 u = {0};
    CLEANUP(buf_release) struct buf body;
    struct hierarchy_tenant h;
    struct name n;
    const struct aead_key *kek;
    uint8_t wrapped[HIERARCHY_L2_WRAPPED_BYTES];
    buf_init(&body, 4096);
    TRY(name_parse(row->name, NAME_VERSION, "name", &n, e));
    TRY(version_unwrap(k, t, &n, m, &u, e));
    TRY(tenant_kek(k, t, to, &kek, e));
    hierarchy_of(k, t, to, &h);
    hierarchy_l2_wrap(kek, &h, &u.c, u.l2, wrapped);
    m->wrapped = BYTES(wrapped, sizeof wrapped);
    m->master_version = to;
    model_version_put(m, &body);
    struct record r = *row;
    r.body = buf_bytes(&body);
    INVARIANT(!body.overflow);
    store_txn_put(txn, &r, row->revision);
    return ok();
}

/* What does not unwrap stays as it is, and keeps the old master needed: it is not lost for good by being in the way. */
static RESULT move_one(struct keyring *k, struct rekey *r, const struct record *row, uint32_t to, struct store_txn *txn, struct err *e)
{
    struct keyring_version m;
    struct err why = {0};
    TRY(model_version_get(row, &m, e));
    if (m.wrapped.n == 0 || m.master_version == to)
        return ok();
    r->from = m.master_version;
    if (!rewrap(k, r->held, row, &m, to, txn, &why).failed) {
        r->moved++;
        r->changed = true;
        return ok();
    }
    if (why.code == ERR_DATA_LOSS || tenant_moved(&why)) {
        log_event(LOG_ERROR, "a version cannot move to the new master", LF_TXT("name", row->name), LF_ERR(&why));
        r->broken++;
        return ok();
    }
    *e = why;
    return (struct result){1};
}

static RESULT move_page(struct keyring *k, struct rekey *r, uint32_t to, struct store_txn *txn, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct store_scan q = {.kind = REC_VERSION, .after = BYTES(r->after, r->after_n), .limit = REKEY_PAGE};
    struct record *rows;
    size_t n;
    memcpy(q.tenant, r->held->t.id, sizeof q.tenant);
    arena_init(&a, PAGE_ARENA_BYTES);
    TRY(store_scan(k->store, &q, &a, &rows, &n, e));
    for (size_t i = 0; i < n; i++)
        TRY(move_one(k, r, &rows[i], to, txn, e));
    r->seen = (uint32_t)n;
    r->end = n < REKEY_PAGE;
    if (n == 0)
        return ok();
    memcpy(r->after, rows[n - 1].id.p, rows[n - 1].id.n);
    r->after_n = rows[n - 1].id.n;
    return ok();
}

static void put_tenant(struct store_txn *txn, const struct record *row, const struct model_tenant *m, struct rekey *r)
{
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, 4096);
    model_tenant_put(m, &body);
    INVARIANT(!body.overflow);
    struct record changed = *row;
    changed.body = buf_bytes(&body);
    store_txn_put(txn, &changed, row->revision);
    r->changed = true;
    r->held->t.revision = 0; /* it is ahead of the store until the caller has committed: read again then */
}

/* The first step alone makes the new master the tenant's: from its commit on nothing comes to be under the old one, so the pages, which
 * are read after it, are complete. Read before it, they could miss what is made between their reading and their commit. */
RESULT keyring_rekey(struct keyring *k, struct bytes tenant, struct rekey *r, struct store_txn *txn, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
    struct record row;
    const uint32_t to = keyring_master(k);
    arena_init(&a, TENANT_ARENA_BYTES);
    r->seen = r->moved = r->from = 0;
    r->changed = r->end = false;
    TRY(hold(k, tenant, r, &a, &row, e));
    TRY(model_tenant_get(&row, &m, e));
    if (m.nkeks == 1 && m.t.master_version == to) { /* made since, or moved before */
        r->end = true;
        return ok();
    }
    if (m.t.master_version != to) {
        r->from = m.t.master_version;
        TRY(begin(k, r->held, &m, to, e));
        put_tenant(txn, &row, &m, r);
        return ok();
    }
    TRY(move_page(k, r, to, txn, e));
    if (!r->end || r->broken > 0) {
        store_txn_check(txn, REC_TENANT, no_tenant, row.id, row.revision);
        return ok();
    }
    m.nkeks = 1;
    put_tenant(txn, &row, &m, r);
    return ok();
}

void keyring_rekeyed(struct keyring *k, struct bytes tenant)
{
    cache_remove(k->tenants, tenant);
}

/* ---- the proof, and how much there is ---- */
struct proving {
    struct keyring *k;
    struct rekey_proof *p;
    uint32_t version, current;
};

static bool depends(const struct proving *x, uint32_t master)
{
    return x->version == 0 ? master != x->current : master == x->version;
}

static void found(const struct proving *x, const struct record *row)
{
    if (x->p->left++ == 0)
        (void)text_copy(row->name.n < sizeof x->p->first ? row->name : BYTES_LIT("?"), x->p->first, sizeof x->p->first);
}

static RESULT prove_tenant(const struct proving *x, const struct record *row, struct err *e)
{
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
    bool names = false;
    TRY(model_tenant_get(row, &m, e));
    x->p->tenants++;
    for (size_t i = 0; i < m.nkeks; i++)
        names |= depends(x, m.keks[i].master);
    if (names)
        found(x, row);
    return ok();
}

static RESULT prove_version(const struct proving *x, const struct record *row, struct err *e)
{
    struct keyring_version m;
    TRY(model_version_get(row, &m, e));
    if (m.wrapped.n == 0)
        return ok();
    x->p->versions++;
    if (depends(x, m.master_version))
        found(x, row);
    return ok();
}

typedef RESULT prove_fn(const struct proving *x, const struct record *row, struct err *e);

static RESULT prove_page(const struct proving *x, struct store_scan *q, prove_fn *each, uint8_t after[STORE_ID_MAX], size_t *ret_n, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct record *rows;
    arena_init(&a, 2 * (size_t)PAGE_ARENA_BYTES);
    TRY(store_scan(x->k->store, q, &a, &rows, ret_n, e));
    for (size_t i = 0; i < *ret_n; i++)
        TRY(each(x, &rows[i], e));
    if (*ret_n == 0)
        return ok();
    const struct record *last = &rows[*ret_n - 1];
    memcpy(after, last->id.p, last->id.n);
    q->after = BYTES(after, last->id.n);
    memcpy(q->after_tenant, last->tenant, sizeof q->after_tenant);
    return ok();
}

static RESULT prove_all(const struct proving *x, enum rec_kind kind, prove_fn *each, bool (*stop)(void *user), void *user, struct err *e)
{
    struct store_scan q = {.kind = kind, .limit = PROOF_PAGE, .all_tenants = true};
    uint8_t after[STORE_ID_MAX];
    size_t n = PROOF_PAGE;
    while (n == PROOF_PAGE) {
        if (stop != NULL && stop(user))
            FAIL(e, ERR_CANCELLED, NULL, "the proof was stopped");
        TRY(prove_page(x, &q, each, after, &n, e));
    }
    return ok();
}

RESULT keyring_rekey_prove(struct keyring *k, uint32_t version, bool (*stop)(void *user), void *user, struct rekey_proof *ret,
                           struct err *e)
{
    struct rekey_proof p = {0};
    const struct proving x = {k, &p, version, keyring_master(k)};
    TRY(prove_all(&x, REC_TENANT, prove_tenant, stop, user, e));
    TRY(prove_all(&x, REC_VERSION, prove_version, stop, user, e));
    *ret = p;
    return ok();
}

RESULT keyring_rekey_count(struct keyring *k, uint64_t *ret, struct err *e)
{
    char after[NAME_SEGMENT_MAX + 1] = "";
    uint64_t all = 0;
    size_t n = COUNT_PAGE;
    while (n == COUNT_PAGE) {
        CLEANUP(arena_release) struct arena a;
        struct tenant *page;
        arena_init(&a, PAGE_ARENA_BYTES);
        TRY(keyring_tenant_list(k, bytes_str(after), COUNT_PAGE, &a, &page, &n, e));
        for (size_t i = 0; i < n; i++) {
            uint64_t versions;
            TRY(store_count(k->store, REC_VERSION, page[i].id, (struct bytes){0}, &versions, e));
            all += versions;
        }
        if (n > 0)
            memcpy(after, page[n - 1].name, sizeof after);
    }
    *ret = all;
    return ok();
}
