/* Changes to rings, keys and versions: checks and puts into the caller's transaction; nothing happens before its commit. */
#include "kms/keyring/internal.h"

#include "base/rng.h"
#include "kms/crypto/nonce.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t no_tenant[STORE_TENANT_BYTES];

bool version_state_can(enum version_state from, enum version_state to)
{
    static const uint32_t next[] = {
        [VERSION_ENABLED] = 1u << VERSION_DISABLED | 1u << VERSION_DESTROY_SCHEDULED,
        [VERSION_DISABLED] = 1u << VERSION_ENABLED | 1u << VERSION_DESTROY_SCHEDULED,
        [VERSION_DESTROY_SCHEDULED] = 1u << VERSION_DISABLED | 1u << VERSION_DESTROYED,
        [VERSION_DESTROYED] = 0,
    };
    return from >= VERSION_ENABLED && from <= VERSION_DESTROY_SCHEDULED && to >= VERSION_ENABLED &&
           to <= VERSION_DESTROY_SCHEDULED && (next[from] >> to & 1) != 0;
}

const char *version_state_name(enum version_state s)
{
    switch (s) {
    case VERSION_ENABLED: return "ENABLED";
    case VERSION_DISABLED: return "DISABLED";
    case VERSION_DESTROYED: return "DESTROYED";
    case VERSION_DESTROY_SCHEDULED: return "DESTROY_SCHEDULED";
    }
    return "?";
}

static RESULT copy_name(const struct name *n, struct arena *a, struct bytes *ret, struct err *e)
{
    char text[NAME_MAX_BYTES];
    size_t len = name_format(n, text);
    char *copy = arena_dup(a, text, len + 1);
    if (copy == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "a name does not fit the call's memory");
    *ret = BYTES(copy, len);
    return ok();
}

static void put_row(struct store_txn *txn, const struct tenant_ref *t, enum rec_kind kind, const struct name *n,
                    struct bytes full_name, uint32_t state, int64_t time_ns, uint64_t count, const struct buf *body,
                    uint64_t expected)
{
    struct model_id id = model_id_of(n);
    struct record r = {.kind = kind, .id = model_id_bytes(&id), .name = full_name, .state = state, .time_unix_ns = time_ns,
                       .count = count, .body = buf_bytes(body)};
    INVARIANT(!body->overflow);
    memcpy(r.tenant, t->t.id, sizeof r.tenant);
    store_txn_put(txn, &r, expected);
}

RESULT keyring_ring_create(struct keyring *k, const struct name *n, struct store_txn *txn, struct arena *a,
                           struct keyring_ring *ret, struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    TRY(tenant_of_name(k, n, true, &t, e));
    struct keyring_ring m = {.created_ns = clock_wall_ns(k->clock), .revision = 1};
    TRY(copy_name(n, a, &m.name, e));
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, 64);
    model_ring_put(&m, &body);
    put_row(txn, t, REC_KEYRING, n, m.name, 0, m.created_ns, 0, &body, STORE_ABSENT);
    *ret = m;
    return ok();
}

/* 256 bits from the HSM's generator, mixed with the kernel's: neither alone decides the key. */
static RESULT new_l2(struct keyring *k, struct secret **ret, struct err *e)
{
    CLEANUP(secret_freep) struct secret *l2 = NULL;
    TRY(secret_new(HIERARCHY_L2_BYTES, &l2, e));
    uint8_t *p = secret_borrow_mut(l2), ours[HIERARCHY_L2_BYTES];
    atomic_fetch_add_explicit(&k->hsm_calls, 1, memory_order_relaxed);
    TRY(hsm_random(k->hsm, p, HIERARCHY_L2_BYTES, e));
    rng_fill(&rng_system, ours, sizeof ours);
    for (size_t i = 0; i < sizeof ours; i++)
        p[i] ^= ours[i];
    wipe(ours, sizeof ours);
    *ret = l2;
    l2 = NULL;
    return ok();
}

/* L2, wrapped under the tenant's KEK. */
static RESULT make_wrapped(struct keyring *k, struct tenant_ref *t, const struct name *key, struct keyring_version *m,
                           struct store_txn *txn, struct arena *a, struct err *e)
{
    const struct aead_key *kek;
    struct bytes key_name;
    CLEANUP(secret_freep) struct secret *l2 = NULL;
    m->master_version = t->t.master_version;
    TRY(copy_name(key, a, &key_name, e));
    TRY(tenant_kek(k, t, m->master_version, &kek, e));
    TRY(new_l2(k, &l2, e));
    /* A version must not come to be under a master from which its tenant has just moved: nobody would look for it there. */
    store_txn_check(txn, REC_TENANT, no_tenant, bytes_str(t->t.name), t->t.revision);
    struct hierarchy_tenant h;
    hierarchy_of(k, t, m->master_version, &h);
    struct hierarchy_ctx c = {.location = h.location, .key = key_name, .version = m->n};
    memcpy(c.tenant, t->t.id, sizeof c.tenant);
    memcpy(c.kvid, m->kvid, sizeof c.kvid);
    uint8_t *wrapped = arena_alloc(a, HIERARCHY_L2_WRAPPED_BYTES);
    if (wrapped == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "a key does not fit the call's memory");
    hierarchy_l2_wrap(kek, &h, &c, l2, wrapped);
    m->wrapped = BYTES(wrapped, HIERARCHY_L2_WRAPPED_BYTES);
    return ok();
}

/* A fresh, enabled version `number` of `key`, put. */
static RESULT put_new_version(struct keyring *k, struct tenant_ref *t, const struct name *key, uint32_t number,
                              enum protection protection, struct store_txn *txn, struct arena *a, struct keyring_version *ret, struct err *e)
{
    struct name n = *key;
    n.kind = NAME_VERSION;
    n.version = number;
    struct keyring_version m = {.n = number, .state = VERSION_ENABLED, .protection = protection, .revision = 1};
    TRY(copy_name(&n, a, &m.name, e));
    m.created_ns = m.generated_ns = clock_wall_ns(k->clock);
    nonce_fill(m.kvid, sizeof m.kvid);
    if (protection == PROTECTION_HSM)
        TRY(token_key_make(k, t, &n, &m, txn, a, &m.check, e));
    else
        TRY(make_wrapped(k, t, key, &m, txn, a, e));
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, 1024);
    model_version_put(&m, &body);
    put_row(txn, t, REC_VERSION, &n, m.name, m.state, m.created_ns, number, &body, STORE_ABSENT);
    *ret = m;
    return ok();
}

static void put_key(struct store_txn *txn, const struct tenant_ref *t, const struct name *n, const struct keyring_key *m,
                    uint64_t expected)
{
    due_move(txn, DUE_ROTATION, m->name, m->queued_rotation_ns, m->next_rotation_ns);
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, STORE_BODY_MAX);
    model_key_put(m, &body);
    put_row(txn, t, REC_CRYPTOKEY, n, m->name, 0, m->created_ns, m->newest, &body, expected);
}

static int by_label_key(const void *x, const void *y)
{
    return bytes_compare(((const struct label *)x)->key, ((const struct label *)y)->key);
}

static RESULT key_absent(struct keyring *k, const struct tenant_ref *t, const struct name *n, struct arena *a, struct err *e)
{
    struct model_id id = model_id_of(n);
    struct record r;
    struct err why = {0};
    if (!store_get(k->store, REC_CRYPTOKEY, t->t.id, model_id_bytes(&id), a, &r, &why).failed)
        FAIL(e, ERR_EXISTS, NULL, "the key exists");
    if (why.code == ERR_NOT_FOUND)
        return ok();
    *e = why;
    return (struct result){1};
}

RESULT keyring_key_create(struct keyring *k, const struct name *n, const struct keyring_key *want, bool first_version,
                          struct store_txn *txn, struct arena *a, struct keyring_key *ret, struct keyring_version *ret_v1,
                          struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    TRY(tenant_of_name(k, n, true, &t, e));
    struct name ring = name_truncate(n, NAME_KEYRING);
    struct model_id ring_id = model_id_of(&ring);
    struct record ring_row;
    TRY(store_get(k->store, REC_KEYRING, t->t.id, model_id_bytes(&ring_id), a, &ring_row, e));
    store_txn_check(txn, REC_KEYRING, t->t.id, model_id_bytes(&ring_id), ring_row.revision);

    struct keyring_key m = *want;
    TRY(copy_name(n, a, &m.name, e));
    m.created_ns = clock_wall_ns(k->clock);
    m.queued_rotation_ns = 0;
    m.primary = m.newest = first_version ? 1 : 0;
    m.revision = 1;
    if (m.nlabels > 0)
        qsort(m.labels, m.nlabels, sizeof *m.labels, by_label_key);
    m.protection = m.protection == PROTECTION_HSM ? PROTECTION_HSM : PROTECTION_SOFTWARE;
    if (m.protection == PROTECTION_HSM) /* the commit would find out, but only after a key was made on the token for nothing */
        TRY(key_absent(k, t, n, a, e));
    if (first_version)
        TRY(token_share(k, t, m.protection, e));
    if (first_version)
        TRY(put_new_version(k, t, n, 1, m.protection, txn, a, ret_v1, e));
    put_key(txn, t, n, &m, STORE_ABSENT);
    *ret = m;
    return ok();
}

RESULT keyring_key_put(struct keyring *k, const struct name *n, const struct keyring_key *changed, struct store_txn *txn,
                       struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    TRY(tenant_of_name(k, n, true, &t, e));
    if (changed->nlabels > 0)
        qsort(changed->labels, changed->nlabels, sizeof *changed->labels, by_label_key);
    put_key(txn, t, n, changed, changed->revision);
    return ok();
}

RESULT keyring_version_create(struct keyring *k, const struct name *key, struct store_txn *txn, struct arena *a,
                              struct keyring_version *ret, struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    TRY(tenant_of_name(k, key, true, &t, e));
    struct keyring_key m;
    TRY(keyring_key_get(k, key, a, &m, e));
    if (m.newest >= KEYRING_VERSIONS_MAX)
        FAIL(e, ERR_EXHAUSTED, "TOO_MANY_VERSIONS", "the key has %u versions", m.newest);
    TRY(token_share(k, t, m.protection, e));
    m.newest++;
    put_key(txn, t, key, &m, m.revision); /* first: who loses a race is told of a conflict, not that its version exists */
    return put_new_version(k, t, key, m.newest, m.protection, txn, a, ret, e);
}

RESULT keyring_key_rotate(struct keyring *k, const struct name *n, struct keyring_key *key, struct store_txn *txn, struct arena *a,
                          struct keyring_version *ret, struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    TRY(tenant_of_name(k, n, true, &t, e));
    TRY(token_share(k, t, key->protection, e));
    return keyring_key_replace(k, n, key, txn, a, ret, e);
}

RESULT keyring_key_replace(struct keyring *k, const struct name *n, struct keyring_key *key, struct store_txn *txn, struct arena *a,
                           struct keyring_version *ret, struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    TRY(tenant_of_name(k, n, true, &t, e));
    if (key->newest >= KEYRING_VERSIONS_MAX)
        FAIL(e, ERR_EXHAUSTED, "TOO_MANY_VERSIONS", "the key has %u versions", key->newest);
    key->primary = ++key->newest;
    put_key(txn, t, n, key, key->revision);
    return put_new_version(k, t, n, key->newest, key->protection, txn, a, ret, e);
}

void keyring_version_gone(struct keyring *k, const struct tenant_ref *t, const struct keyring_version *m, struct store_txn *txn)
{
    if (m->protection == PROTECTION_HSM)
        token_key_gone(t, m, clock_wall_ns(k->clock), txn);
}

RESULT keyring_version_put(struct keyring *k, const struct name *n, const struct keyring_version *changed,
                           enum version_state from, struct store_txn *txn, struct err *e)
{
    if (!version_state_can(from, changed->state))
        FAIL(e, ERR_STATE, "KEY_VERSION_STATE", "a version cannot go from %s to %s", version_state_name(from),
             version_state_name(changed->state));
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    TRY(tenant_of_name(k, n, true, &t, e));
    struct keyring_version m = *changed;
    if (m.state == VERSION_DESTROYED) {
        keyring_version_gone(k, t, &m, txn);
        m.wrapped = m.check = BYTES(NULL, 0);
        store_txn_erases(txn);
    }
    if (m.state != VERSION_ENABLED)
        store_txn_urgent(txn); /* must not come back with an older copy of the store */
    due_move(txn, DUE_DESTRUCTION, m.name, m.queued_destroy_ns, m.state == VERSION_DESTROY_SCHEDULED ? m.destroy_ns : 0);
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, 1024);
    model_version_put(&m, &body);
    put_row(txn, t, REC_VERSION, n, m.name, m.state, m.created_ns, m.n, &body, m.revision);
    return ok();
}

RESULT keyring_version_check(struct keyring *k, const struct name *n, uint64_t revision, struct store_txn *txn, struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    TRY(tenant_of_name(k, n, true, &t, e));
    struct model_id id = model_id_of(n);
    store_txn_check(txn, REC_VERSION, t->t.id, model_id_bytes(&id), revision);
    return ok();
}

RESULT keyring_version_as_revoked(struct record *r, enum version_state to, int64_t now_ns, struct buf *body, bool *ret_changed,
                                  struct err *e)
{
    enum { DELAY_S = 30 * 24 * 3600 }; /* Cloud KMS's default: later than meant is harmless, earlier is not */
    const int64_t least_ns = now_ns + (int64_t)DELAY_S * 1000000000;
    struct keyring_version v;
    TRY(model_version_get(r, &v, e));
    /* Towards less only: what is destroyed stays so, and what is scheduled to be is not merely disabled. */
    static const int rank[] = {[VERSION_ENABLED] = 0, [VERSION_DISABLED] = 1, [VERSION_DESTROY_SCHEDULED] = 2, [VERSION_DESTROYED] = 3};
    *ret_changed = rank[to] > rank[v.state];
    if (*ret_changed)
        v.state = to;
    if (v.state == VERSION_DESTROY_SCHEDULED && v.destroy_ns < least_ns) {
        v.destroy_ns = least_ns;
        *ret_changed = true;
    }
    if (!*ret_changed)
        return ok();
    if (to == VERSION_DESTROYED) {
        v.destroyed_ns = now_ns;
        v.wrapped = v.check = (struct bytes){0};
    }
    model_version_put(&v, body);
    r->state = (uint32_t)v.state;
    r->body = buf_bytes(body);
    return ok();
}
