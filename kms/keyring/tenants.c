/* Tenants: records, cache, and the road from the HSM to a tenant's KEK. */
#include "kms/keyring/internal.h"

#include "kms/crypto/kdf.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/text.h"
#include "kms/crypto/nonce.h"

#include <stdlib.h>
#include <string.h>

enum { TAG_PAGE = 256 };
static const uint8_t no_tenant[STORE_TENANT_BYTES];

static void tenant_release(struct cache_entry *entry)
{
    struct tenant_ref *t = (struct tenant_ref *)entry;
    for (size_t i = 0; i < t->nkeks; i++)
        aead_key_free(t->keks[i].kek);
    aead_key_free(t->audit_key);
    pthread_mutex_destroy(&t->kek_lock);
    free(t);
}

/* The tag in a leaf hides the tenant from whoever reads only leaves, and is the same in all of its leaves. */
void tenant_tag(const struct keyring *k, const uint8_t id[16], uint8_t out[32])
{
    struct bytes parts[] = {BYTES_LIT("tenant-tag"), BYTES(id, 16)};
    hmac_sha256(k->system_secret, parts, 2, out);
}

static RESULT audit_setup(const struct keyring *k, const uint8_t id[16], const struct secret *key, struct audit_tenant *audit,
                          struct aead_key **ret_key, struct err *e)
{
    struct bytes use = {NULL, 0};
    TRY(aead_key_derive(key, KDF_AUDIT, &use, 1, 0, ret_key, e));
    memcpy(audit->id, id, sizeof audit->id);
    tenant_tag(k, id, audit->tag);
    audit->key = *ret_key;
    return ok();
}

static RESULT audit_from_bytes(const struct keyring *k, const uint8_t id[16], const uint8_t key_bytes[MODEL_AUDIT_KEY_BYTES],
                               struct audit_tenant *audit, struct aead_key **ret_key, struct err *e)
{
    CLEANUP(secret_freep) struct secret *s = NULL;
    TRY(secret_from(key_bytes, MODEL_AUDIT_KEY_BYTES, &s, e));
    return audit_setup(k, id, s, audit, ret_key, e);
}

RESULT tenant_from_record(struct keyring *k, const struct record *r, struct tenant_ref **ret, struct err *e)
{
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
    TRY(model_tenant_get(r, &m, e));
    struct tenant_ref *t = calloc(1, sizeof *t);
    INVARIANT(t != NULL);
    t->t = m.t;
    t->t.served = location_served(k, bytes_str(m.t.location));
    memcpy(t->salt, m.salt, sizeof t->salt);
    for (t->nkeks = 0; t->nkeks < m.nkeks; t->nkeks++)
        t->keks[t->nkeks].is = m.keks[t->nkeks];
    pthread_mutex_init(&t->kek_lock, NULL);
    cache_entry_init(&t->entry, bytes_str(t->t.name), tenant_release);
    struct result done = audit_from_bytes(k, m.t.id, m.audit_key, &t->audit, &t->audit_key, e);
    if (done.failed) {
        tenant_release(&t->entry);
        return done;
    }
    *ret = t;
    return ok();
}

RESULT tenant_row(struct keyring *k, struct bytes name, struct model_tenant *ret, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct record r;
    arena_init(&a, STORE_BODY_MAX + 4096);
    TRY(store_get(k->store, REC_TENANT, no_tenant, name, &a, &r, e));
    TRY(model_tenant_get(&r, ret, e));
    ret->t.served = location_served(k, bytes_str(ret->t.location));
    return ok();
}

void tenant_row_put(struct store_txn *txn, const struct model_tenant *m, uint64_t expected)
{
    char full[NAME_MAX_BYTES];
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, 2048);
    model_tenant_put(m, &body);
    const struct record r = {.kind = REC_TENANT, .id = bytes_str(m->t.name), .name = tenant_full_name(bytes_str(m->t.name), full),
                             .state = m->t.state, .time_unix_ns = m->t.created_ns, .body = buf_bytes(&body)};
    INVARIANT(!body.overflow);
    store_txn_put(txn, &r, expected);
}

struct bytes tenant_full_name(struct bytes name, char out[NAME_MAX_BYTES])
{
    const struct name n = {.kind = NAME_TENANT, .tenant = name};
    const size_t len = name_format(&n, out);
    return BYTES(out, len);
}

RESULT keyring_tenant_read(struct keyring *k, struct bytes name, struct tenant *ret, struct err *e)
{
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
    TRY(tenant_row(k, name, &m, e));
    *ret = m.t;
    return ok();
}

RESULT keyring_tenant_hold(struct keyring *k, struct bytes name, bool may_block, struct tenant_ref **ret, struct err *e)
{
    struct cache_entry *hit = cache_get(k->tenants, name);
    if (hit != NULL) {
        *ret = (struct tenant_ref *)hit;
        return ok();
    }
    if (!may_block)
        return would_block(e);
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, STORE_BODY_MAX + 4096);
    uint64_t generation = cache_generation(k->tenants, name);
    struct record r;
    TRY(store_get(k->store, REC_TENANT, no_tenant, name, &a, &r, e));
    struct tenant_ref *t;
    TRY(tenant_from_record(k, &r, &t, e));
    cache_put(k->tenants, &t->entry, generation);
    *ret = t;
    return ok();
}

RESULT keyring_tenant_hold_by_id(struct keyring *k, const uint8_t id[16], struct tenant_ref **ret, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, STORE_BODY_MAX + 4096);
    struct record r;
    TRY(store_get(k->store, REC_TENANT_ID, no_tenant, BYTES(id, 16), &a, &r, e));
    return keyring_tenant_hold(k, r.body, true, ret, e);
}

/* ---- from a leaf's tag back to its tenant: remembered, else every tenant is asked. That nobody has it is remembered, too: ids are random
 * and a tenant is there before its first event, so it stays so; and an older store has a journal full of such events ---- */
struct tag_entry {
    struct cache_entry entry;
    uint8_t tag[32];
    char name[NAME_SEGMENT_MAX + 1]; /* "": nobody's */
};

static void tag_release(struct cache_entry *entry)
{
    free(entry);
}

static void tag_put(struct keyring *k, const uint8_t tag[32], const char *name)
{
    struct tag_entry *t = calloc(1, sizeof *t);
    INVARIANT(t != NULL);
    memcpy(t->tag, tag, sizeof t->tag);
    memcpy(t->name, name, strlen(name) + 1);
    cache_entry_init(&t->entry, BYTES(t->tag, sizeof t->tag), tag_release);
    cache_put(k->tags, &t->entry, cache_generation(k->tags, BYTES(t->tag, sizeof t->tag)));
    cache_unref(&t->entry);
}

/* A tombstone lies under the tag itself: one look, before every tenant is asked. */
static RESULT not_purged(struct keyring *k, const uint8_t tag[32], struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct record r;
    struct err why = {0};
    arena_init(&a, 65536);
    if (!store_get(k->store, REC_TOMBSTONE, no_tenant, BYTES(tag, 32), &a, &r, &why).failed)
        FAIL(e, ERR_NOT_FOUND, JOURNAL_CHECK_ERASED, "a tenant that was purged");
    if (why.code == ERR_NOT_FOUND)
        return ok();
    *e = why;
    return (struct result){1};
}

static RESULT nobodys(struct err *e)
{
    FAIL(e, ERR_NOT_FOUND, NULL, "no tenant has that tag");
}

/* A row that does not open is nobody's here: it must not hide all the others. */
static bool has_tag(const struct keyring *k, const struct record *r, const uint8_t tag[32])
{
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
    struct err why = {0};
    uint8_t t[32];
    if (r->body.p == NULL || model_tenant_get(r, &m, &why).failed)
        return false;
    tenant_tag(k, m.t.id, t);
    return bytes_ct_equal(t, tag, sizeof t);
}

static RESULT find_tag(struct keyring *k, const uint8_t tag[32], char name[NAME_SEGMENT_MAX + 1], struct err *e)
{
    uint8_t after[STORE_ID_MAX];
    struct store_scan q = {.kind = REC_TENANT, .limit = TAG_PAGE, .with_broken = true};
    size_t n = TAG_PAGE;
    TRY(not_purged(k, tag, e));
    while (n == TAG_PAGE) {
        CLEANUP(arena_release) struct arena a;
        struct record *rows;
        arena_init(&a, 4 << 20);
        TRY(store_scan(k->store, &q, &a, &rows, &n, e));
        for (size_t i = 0; i < n; i++)
            if (has_tag(k, &rows[i], tag) && text_copy(rows[i].id, name, NAME_SEGMENT_MAX + 1))
                return ok();
        if (n > 0)
            memcpy(after, rows[n - 1].id.p, rows[n - 1].id.n);
        q.after = BYTES(after, n > 0 ? rows[n - 1].id.n : 0);
    }
    tag_put(k, tag, "");
    return nobodys(e);
}

RESULT keyring_tenant_hold_by_tag(struct keyring *k, const uint8_t tag[32], struct tenant_ref **ret, struct err *e)
{
    struct cache_entry *hit = cache_get(k->tags, BYTES(tag, 32));
    char name[NAME_SEGMENT_MAX + 1];
    if (hit != NULL) {
        memcpy(name, ((struct tag_entry *)hit)->name, sizeof name);
        cache_unref(hit);
        if (name[0] == 0)
            return nobodys(e);
        struct err why = {0}; /* gone, or another's by now: then it is looked for as if it were new */
        if (!keyring_tenant_hold(k, bytes_str(name), true, ret, &why).failed && bytes_ct_equal((*ret)->audit.tag, tag, 32))
            return ok();
        if (why.code == ERR_NONE)
            tenant_ref_drop(*ret);
        *ret = NULL;
    }
    TRY(find_tag(k, tag, name, e));
    tag_put(k, tag, name);
    return keyring_tenant_hold(k, bytes_str(name), true, ret, e);
}

const struct tenant *tenant_ref_info(const struct tenant_ref *t)
{
    return &t->t;
}

const struct audit_tenant *tenant_ref_audit(const struct tenant_ref *t)
{
    return &t->audit;
}

void tenant_ref_drop(struct tenant_ref *t)
{
    if (t != NULL)
        cache_unref(&t->entry);
}

void tenant_ref_dropp(struct tenant_ref **t)
{
    tenant_ref_drop(*t);
}

RESULT keyring_tenant_get(struct keyring *k, struct bytes name, bool may_block, struct tenant *ret, struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    TRY(keyring_tenant_hold(k, name, may_block, &t, e));
    *ret = t->t;
    return ok();
}

RESULT tenant_of_name(struct keyring *k, const struct name *n, bool may_block, struct tenant_ref **ret, struct err *e)
{
    TRY(keyring_tenant_hold(k, n->tenant, may_block, ret, e));
    if (!bytes_equal(n->location, bytes_str((*ret)->t.location))) {
        tenant_ref_drop(*ret);
        *ret = NULL;
        FAIL(e, ERR_NOT_FOUND, "LOCATION_NOT_FOUND", "the tenant is not in that location");
    }
    return ok();
}

void hierarchy_of(const struct keyring *k, const struct tenant_ref *t, uint32_t master, struct hierarchy_tenant *ret)
{
    memcpy(ret->instance, k->instance, sizeof ret->instance);
    memcpy(ret->tenant, t->t.id, sizeof ret->tenant);
    ret->location = bytes_str(t->t.location);
    ret->master = master;
}

RESULT derive_l1(struct keyring *k, const struct hierarchy_tenant *h, const uint8_t salt[HIERARCHY_SALT_BYTES],
                 struct secret **ret, struct err *e)
{
    CLEANUP(buf_release) struct buf input;
    buf_init(&input, KDFENC_MAX_BYTES);
    hierarchy_l1_input(h, salt, &input);
    struct err why = {0};
    atomic_fetch_add_explicit(&k->hsm_calls, 1, memory_order_relaxed);
    if (!hsm_derive(k->hsm, HSM_MASTER, h->master, buf_bytes(&input), ret, &why).failed)
        return ok();
    /* A master that a record names and the token does not show is a token to be mended: to a caller nothing is "not found". */
    if (why.code == ERR_NOT_FOUND)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "%.200s", why.detail);
    *e = why;
    return (struct result){1};
}

static RESULT make_kek(struct keyring *k, struct tenant_ref *t, const struct model_kek *is, struct aead_key **ret, struct err *e)
{
    struct hierarchy_tenant h;
    hierarchy_of(k, t, is->master, &h);
    CLEANUP(secret_freep) struct secret *l1 = NULL;
    TRY(derive_l1(k, &h, t->salt, &l1, e));
    uint8_t kcv[HIERARCHY_KCV_BYTES];
    TRY(hierarchy_kcv(l1, kcv, e));
    /* A flipped bit in the HSM's answer would make every wrap under it a permanent loss. */
    if (!bytes_ct_equal(kcv, is->kcv, sizeof kcv))
        FAIL(e, ERR_DATA_LOSS, "KEY_CHECK_FAILED", "the HSM derived another KEK for tenant %s than its check value says",
             t->t.name);
    return hierarchy_kek(l1, ret, e);
}

RESULT tenant_kek(struct keyring *k, struct tenant_ref *t, uint32_t master, const struct aead_key **ret, struct err *e)
{
    for (size_t i = 0; i < t->nkeks; i++) {
        if (t->keks[i].is.master != master)
            continue;
        pthread_mutex_lock(&t->kek_lock);
        struct result done = t->keks[i].kek != NULL ? ok() : make_kek(k, t, &t->keks[i].is, &t->keks[i].kek, e);
        *ret = t->keks[i].kek;
        pthread_mutex_unlock(&t->kek_lock);
        return done;
    }
    FAIL(e, ERR_CONFLICT, TENANT_MOVED, "tenant %s, as it is held, has no check value of master %u", t->t.name, master);
}

RESULT first_kcv(struct keyring *k, const struct hierarchy_tenant *h, const uint8_t salt[HIERARCHY_SALT_BYTES],
                        uint8_t kcv[HIERARCHY_KCV_BYTES], struct err *e)
{
    CLEANUP(secret_freep) struct secret *one = NULL, *two = NULL;
    TRY(derive_l1(k, h, salt, &one, e));
    TRY(derive_l1(k, h, salt, &two, e));
    if (!secret_equal(one, two)) {
        /* To the caller it is a token that is away for a moment; to who runs it, one that cannot be trusted. */
        log_event(LOG_ERROR, "the HSM derived two different KEKs from one input: it was used for nothing", LF_INT("master", h->master));
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the HSM derived two different KEKs from one input");
    }
    return hierarchy_kcv(one, kcv, e);
}

bool location_served(const struct keyring *k, struct bytes location)
{
    const char *p = k->locations;
    while (*p != 0) {
        size_t n = strcspn(p, ",");
        if (bytes_equal(location, BYTES(p, n)))
            return true;
        p += n + (p[n] == ',');
    }
    return false;
}

RESULT keyring_tenant_create(struct keyring *k, struct bytes name, struct bytes location, struct bytes display_name,
                             struct store_txn *txn, struct tenant *ret, struct err *e)
{
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
    if (!name_valid_id(name, NAME_TENANT))
        return err_field(e, "tenant_id", "2 to 63 of a-z, 0-9 and -, beginning with a letter, not ending with -");
    if (!name_valid_id(location, NAME_LOCATION))
        return err_field(e, "tenant.location", "2 to 63 of a-z, 0-9 and -, beginning with a letter");
    if (!location_served(k, location))
        return err_field(e, "tenant.location", "this daemon does not serve that location");
    if (display_name.n >= sizeof m.t.display_name)
        return err_field(e, "tenant.display_name", "at most 128 bytes");
    memcpy(m.t.name, name.p, name.n);
    memcpy(m.t.location, location.p, location.n);
    if (display_name.n > 0)
        memcpy(m.t.display_name, display_name.p, display_name.n);
    nonce_fill(m.t.id, sizeof m.t.id);
    rng_fill(&rng_system, m.salt, sizeof m.salt);
    rng_fill(&rng_system, m.audit_key, sizeof m.audit_key);
    uint64_t revision;
    char master[TOKEN_SECRET_ID_MAX];
    m.t.master_version = m.keks[0].master = keyring_master_now(k, &revision);
    m.nkeks = 1;
    m.t.created_ns = clock_wall_ns(k->clock);
    m.t.state = TENANT_ACTIVE;
    m.t.served = true;
    struct hierarchy_tenant h = {.location = location, .master = m.t.master_version};
    memcpy(h.instance, k->instance, sizeof h.instance);
    memcpy(h.tenant, m.t.id, sizeof h.tenant);
    TRY(first_kcv(k, &h, m.salt, m.keks[0].kcv, e));
    /* A tenant must not come to be under a master that has just been replaced: nobody would look for it there. */
    store_txn_check(txn, REC_META, no_tenant, token_secret_id(HSM_MASTER, m.t.master_version, master), revision);

    tenant_row_put(txn, &m, STORE_ABSENT);
    char full[NAME_MAX_BYTES];
    struct record by_id = {.kind = REC_TENANT_ID, .id = BYTES(m.t.id, 16), .name = tenant_full_name(name, full), .body = name};
    store_txn_put(txn, &by_id, STORE_ABSENT);
    m.t.revision = 1;
    *ret = m.t;
    return ok();
}

RESULT keyring_tenant_list(struct keyring *k, struct bytes after_name, size_t limit, struct arena *a, struct tenant **ret,
                           size_t *ret_n, struct err *e)
{
    struct record *rows;
    size_t n;
    struct store_scan q = {.kind = REC_TENANT, .after = after_name, .limit = limit};
    TRY(store_scan(k->store, &q, a, &rows, &n, e));
    struct tenant *out = arena_zalloc(a, (n + 1) * sizeof *out);
    if (out == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "the list does not fit the call's memory");
    for (size_t i = 0; i < n; i++) {
        CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
        TRY(model_tenant_get(&rows[i], &m, e));
        out[i] = m.t;
        out[i].served = location_served(k, bytes_str(m.t.location));
    }
    *ret = out;
    *ret_n = n;
    return ok();
}

/* ---- the system's own audit key ---- */
RESULT keyring_init_records(struct store_txn *txn, int64_t now_ns, struct err *e)
{
    (void)e;
    token_secret_first(txn, HSM_MASTER, 1, now_ns);
    uint8_t key[MODEL_AUDIT_KEY_BYTES];
    rng_fill(&rng_system, key, sizeof key);
    struct record r = {.kind = REC_META, .id = BYTES_LIT("system-audit"), .body = BYTES(key, sizeof key)};
    store_txn_put(txn, &r, STORE_ABSENT);
    wipe(key, sizeof key);
    return ok();
}

static RESULT load_system_audit(struct keyring *k, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, STORE_BODY_MAX + 4096);
    struct record r;
    struct err why = {0};
    if (store_get(k->store, REC_META, no_tenant, BYTES_LIT("system-audit"), &a, &r, &why).failed) {
        if (why.code == ERR_NOT_FOUND)
            FAIL(e, ERR_STATE, "NOT_INITIALISED", "the store has no system audit key: run kmsd init");
        *e = why;
        return (struct result){1};
    }
    if (r.body.n != MODEL_AUDIT_KEY_BYTES)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "system audit key has %zu bytes", r.body.n);
    TRY(secret_from(r.body.p, r.body.n, &k->system_secret, e));
    return audit_setup(k, no_tenant, k->system_secret, &k->system, &k->system_key, e);
}

const struct audit_tenant *keyring_system_audit(struct keyring *k)
{
    return &k->system;
}

/* A tenant entry holds two secrets, three while it moves to another master; one tenant usually has several keys in use. */
static size_t keyring_tenants_max(size_t cache_max)
{
    return cache_max / 4 + 64;
}

size_t keyring_secrets_max(size_t cache_max)
{
    return cache_max + 3 * keyring_tenants_max(cache_max) + 64;
}

RESULT keyring_new(const struct keyring_options *o, struct keyring **ret, struct err *e)
{
    struct keyring *k = calloc(1, sizeof *k);
    INVARIANT(k != NULL);
    k->store = o->store;
    k->hsm = o->hsm;
    k->clock = o->clock;
    memcpy(k->instance, o->instance, sizeof k->instance);
    pthread_mutex_init(&k->master_lock, NULL);
    k->locations = o->locations;
    k->tenants = cache_new(keyring_tenants_max(o->cache_max), o->cache_ttl_ms, o->clock);
    k->keys = cache_new(o->cache_max, o->cache_ttl_ms, o->clock);
    k->tags = cache_new(o->cache_max, o->cache_ttl_ms, o->clock);
    k->handles = cache_new(o->cache_max, o->cache_ttl_ms, o->clock);
    k->gcm = gcm_new();
    k->token_keys_max = o->token_keys_max;
    struct result done = load_system_audit(k, e);
    if (!done.failed)
        done = keyring_master_changed(k, e);
    if (done.failed) {
        keyring_free(k);
        return done;
    }
    *ret = k;
    return ok();
}

void keyring_free(struct keyring *k)
{
    if (k == NULL)
        return;
    cache_free(k->handles);
    cache_free(k->keys);
    cache_free(k->tenants);
    cache_free(k->tags);
    gcm_free(k->gcm);
    aead_key_free(k->system_key);
    secret_free(k->system_secret);
    pthread_mutex_destroy(&k->master_lock);
    free(k);
}
