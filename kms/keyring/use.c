/* Key material ready for use: key entries (which versions, in which state) and handles (one purpose key of one version). */
#include "kms/keyring/internal.h"

#include <stdlib.h>
#include <string.h>

enum { LIST_PAGE = 256, MOVED_TRIES = 3 };

/* ---- key entries ------------------------------------------------------------------------------------------------ */
static void key_entry_release(struct cache_entry *entry)
{
    struct key_entry *k = (struct key_entry *)entry;
    free(k->versions);
    free(k);
}

static int by_kvid(const void *x, const void *y)
{
    return memcmp(((const struct version_info *)x)->kvid, ((const struct version_info *)y)->kvid, FORMAT_KVID_BYTES);
}

static RESULT load_versions(struct keyring *k, const struct name *key, struct version_info **ret, size_t *ret_n, struct err *e)
{
    struct version_info *all = NULL;
    size_t n = 0;
    uint32_t after = 0;
    for (;;) {
        CLEANUP(arena_release) struct arena a;
        arena_init(&a, 4 << 20);
        struct keyring_version *page;
        size_t got;
        if (keyring_version_list(k, key, after, false, LIST_PAGE, &a, &page, &got, e).failed) {
            free(all);
            return (struct result){1};
        }
        struct version_info *grown = realloc(all, (n + got + 1) * sizeof *all);
        INVARIANT(grown != NULL);
        all = grown;
        for (size_t i = 0; i < got; i++) {
            all[n].n = page[i].n;
            all[n].state = page[i].state;
            all[n].protection = page[i].protection;
            memcpy(all[n].kvid, page[i].kvid, sizeof all[n].kvid);
            n++;
        }
        if (got < LIST_PAGE)
            break;
        after = page[got - 1].n;
    }
    qsort(all, n, sizeof *all, by_kvid);
    *ret = all;
    *ret_n = n;
    return ok();
}

static RESULT load_key(struct keyring *k, const struct name *key, struct bytes full, struct key_entry **ret, struct err *e)
{
    uint64_t generation = cache_generation(k->keys, full);
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, 1 << 20);
    struct keyring_key m;
    TRY(keyring_key_get(k, key, &a, &m, e));
    struct version_info *versions;
    size_t n;
    TRY(load_versions(k, key, &versions, &n, e));
    struct key_entry *entry = calloc(1, sizeof *entry + full.n);
    INVARIANT(entry != NULL);
    uint8_t *name = (uint8_t *)(entry + 1);
    memcpy(name, full.p, full.n);
    entry->primary = m.primary;
    entry->versions = versions;
    entry->nversions = n;
    cache_entry_init(&entry->entry, BYTES(name, full.n), key_entry_release);
    cache_put(k->keys, &entry->entry, generation);
    *ret = entry;
    return ok();
}

static RESULT key_entry_of(struct keyring *k, const struct name *n, bool may_block, struct key_entry **ret, struct err *e)
{
    struct name key = name_truncate(n, NAME_CRYPTOKEY);
    char text[NAME_MAX_BYTES];
    struct bytes full = {(const uint8_t *)text, name_format(&key, text)};
    struct cache_entry *hit = cache_get(k->keys, full);
    if (hit != NULL) {
        *ret = (struct key_entry *)hit;
        return ok();
    }
    if (!may_block)
        return would_block(e);
    return load_key(k, &key, full, ret, e);
}

static const struct version_info *version_by_number(const struct key_entry *k, uint32_t n)
{
    for (size_t i = 0; i < k->nversions; i++)
        if (k->versions[i].n == n)
            return &k->versions[i];
    return NULL;
}

static RESULT usable(const struct version_info *v, struct err *e)
{
    switch (v->state) {
    case VERSION_ENABLED:
        return ok();
    case VERSION_DISABLED:
        FAIL(e, ERR_STATE, "KEY_VERSION_DISABLED", "version %u is disabled", v->n);
    case VERSION_DESTROY_SCHEDULED:
        FAIL(e, ERR_STATE, "KEY_VERSION_DESTROY_SCHEDULED", "version %u is scheduled for destruction", v->n);
    case VERSION_DESTROYED:
        FAIL(e, ERR_STATE, "KEY_VERSION_DESTROYED", "version %u is destroyed", v->n);
    }
    FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "version %u has state %d", v->n, (int)v->state);
}

/* ---- handles ---------------------------------------------------------------------------------------------------- */
static void handle_release(struct cache_entry *entry)
{
    struct key_handle *h = (struct key_handle *)entry;
    aead_key_free(h->aead);
    free(h->token);
    free(h);
}

static void handle_id(const uint8_t kvid[FORMAT_KVID_BYTES], enum key_use use, uint8_t out[FORMAT_KVID_BYTES + 1])
{
    memcpy(out, kvid, FORMAT_KVID_BYTES);
    out[FORMAT_KVID_BYTES] = (uint8_t)use;
}

RESULT version_unwrap(struct keyring *k, struct tenant_ref *t, const struct name *version, const struct keyring_version *m,
                      struct version_l2 *ret, struct err *e)
{
    const struct aead_key *kek;
    TRY(tenant_kek(k, t, m->master_version, &kek, e));
    struct name key = name_truncate(version, NAME_CRYPTOKEY);
    struct hierarchy_tenant h;
    hierarchy_of(k, t, m->master_version, &h);
    ret->c = (struct hierarchy_ctx){.location = h.location, .version = m->n};
    ret->c.key = BYTES(ret->key_name, name_format(&key, ret->key_name));
    memcpy(ret->c.tenant, t->t.id, sizeof ret->c.tenant);
    memcpy(ret->c.kvid, m->kvid, sizeof ret->c.kvid);
    struct err why = {0};
    if (hierarchy_l2_unwrap(kek, &h, &ret->c, m->wrapped, &ret->l2, &why).failed) {
        if (why.code == ERR_CIPHERTEXT) /* our own record, behind a good seal: not the caller's fault */
            FAIL(e, ERR_DATA_LOSS, "KEY_UNWRAP_FAILED", "version %u does not unwrap under its tenant's KEK", m->n);
        *e = why;
        return (struct result){1};
    }
    return ok();
}

/* L1 (through the tenant's KEK) -> L2 -> L3: from the store and, at worst, the HSM. L2 lives only inside this function. */
static RESULT derive_once(struct keyring *k, const struct name *version, const struct version_info *v, enum key_use use,
                          struct aead_key **ret, struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    TRY(tenant_of_name(k, version, true, &t, e));
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, 1 << 20);
    struct keyring_version m;
    TRY(keyring_version_get(k, version, &a, &m, e));
    TRY(usable(&(struct version_info){.n = m.n, .state = m.state}, e));
    if (memcmp(m.kvid, v->kvid, sizeof m.kvid) != 0)
        FAIL(e, ERR_CONFLICT, NULL, "version %u changed its identity while it was loaded", v->n);
    CLEANUP(version_l2_release) struct version_l2 u = {0};
    TRY(version_unwrap(k, t, version, &m, &u, e));
    return hierarchy_purpose_key(u.l2, &u.c, use == KEY_USE_WRAP ? HIERARCHY_WRAP : HIERARCHY_ENCRYPT, (struct bytes){0}, ret, e);
}

/* While the tenant moves to another master, what was read of it may be older than what was read of the version. */
static RESULT derive_purpose_key(struct keyring *k, const struct name *version, const struct version_info *v, enum key_use use,
                                 struct aead_key **ret, struct err *e)
{
    for (unsigned tries = 0; tries < MOVED_TRIES; tries++) {
        struct err why = {0};
        if (!derive_once(k, version, v, use, ret, &why).failed)
            return ok();
        if (!tenant_moved(&why)) {
            *e = why;
            return (struct result){1};
        }
        cache_remove(k->tenants, version->tenant);
    }
    FAIL(e, ERR_DATA_LOSS, "KEY_MASTER_UNKNOWN", "version %u is under a master that its tenant does not name", v->n);
}

/* Level HSM: no key comes here; that the token has it, and that it is the one of this version, is what is found out. */
static RESULT find_token_key(struct keyring *k, const struct name *version, const struct version_info *v, struct token_key **ret,
                             struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    CLEANUP(arena_release) struct arena a;
    struct keyring_version m;
    struct token_key found;
    arena_init(&a, 1 << 20);
    TRY(tenant_of_name(k, version, true, &t, e));
    TRY(keyring_version_get(k, version, &a, &m, e));
    TRY(usable(&(struct version_info){.n = m.n, .state = m.state}, e));
    if (memcmp(m.kvid, v->kvid, sizeof m.kvid) != 0)
        FAIL(e, ERR_CONFLICT, NULL, "version %u changed its identity while it was loaded", v->n);
    TRY(token_key_load(k, t, version, &m, &found, e));
    *ret = malloc(sizeof **ret);
    INVARIANT(*ret != NULL);
    **ret = found;
    return ok();
}

static RESULT load_handle(struct keyring *k, const struct name *key, const struct version_info *v, enum key_use use,
                          struct key_handle **ret, struct err *e)
{
    uint8_t id[FORMAT_KVID_BYTES + 1];
    handle_id(v->kvid, use, id);
    uint64_t generation = cache_generation(k->handles, BYTES(id, sizeof id));
    struct name version = *key;
    version.kind = NAME_VERSION;
    version.version = v->n;
    struct aead_key *aead = NULL;
    struct token_key *token = NULL;
    if (v->protection == PROTECTION_HSM)
        TRY(find_token_key(k, &version, v, &token, e));
    else
        TRY(derive_purpose_key(k, &version, v, use, &aead, e));
    char text[NAME_MAX_BYTES];
    size_t n = name_format(&version, text);
    struct key_handle *h = calloc(1, sizeof *h + n + 1);
    INVARIANT(h != NULL);
    memcpy(h->id, id, sizeof id);
    memcpy(h->name, text, n);
    h->name_n = (uint16_t)n;
    h->version = v->n;
    h->aead = aead;
    h->token = token;
    cache_entry_init(&h->entry, BYTES(h->id, sizeof h->id), handle_release);
    cache_put(k->handles, &h->entry, generation);
    *ret = h;
    return ok();
}

static RESULT handle_of(struct keyring *k, const struct name *key, const struct version_info *v, enum key_use use,
                        bool may_block, struct key_handle **ret, struct err *e)
{
    uint8_t id[FORMAT_KVID_BYTES + 1];
    if (v->protection == PROTECTION_HSM && !may_block) /* cached or not: every operation waits for the token */
        return would_block(e);
    handle_id(v->kvid, use, id);
    struct cache_entry *hit = cache_get(k->handles, BYTES(id, sizeof id));
    if (hit != NULL) {
        atomic_fetch_add_explicit(&k->hits, 1, memory_order_relaxed);
        *ret = (struct key_handle *)hit;
        return ok();
    }
    if (!may_block)
        return would_block(e);
    atomic_fetch_add_explicit(&k->misses, 1, memory_order_relaxed);
    return load_handle(k, key, v, use, ret, e);
}

static void view_of(const struct key_handle *h, const struct key_entry *key, struct key_view *view)
{
    *view = (struct key_view){.aead = h->aead, .protection = h->token != NULL ? PROTECTION_HSM : PROTECTION_SOFTWARE, .kvid = h->id, .version = h->version, .primary = key->primary,
                              .version_name = BYTES(h->name, h->name_n), .is_primary = h->version == key->primary};
}

void key_handle_unref(struct key_handle *h)
{
    if (h != NULL)
        cache_unref(&h->entry);
}

void key_handle_unrefp(struct key_handle **h)
{
    key_handle_unref(*h);
}

static RESULT use_entry_encrypt(struct keyring *k, const struct key_entry *entry, const struct name *n, enum key_use use,
                                bool may_block, struct key_handle **ret, struct key_view *view, struct err *e)
{
    uint32_t number = n->kind == NAME_VERSION ? n->version : entry->primary;
    if (number == 0)
        FAIL(e, ERR_STATE, "KEY_NO_PRIMARY", "the key has no primary version");
    const struct version_info *v = version_by_number(entry, number);
    if (v == NULL)
        FAIL(e, ERR_NOT_FOUND, NULL, "no version %u", number);
    TRY(usable(v, e));
    struct name key = name_truncate(n, NAME_CRYPTOKEY);
    TRY(handle_of(k, &key, v, use, may_block, ret, e));
    view_of(*ret, entry, view);
    return ok();
}

RESULT keyring_use_encrypt(struct keyring *k, const struct name *n, enum key_use use, bool may_block, struct key_handle **ret,
                           struct key_view *view, struct err *e)
{
    struct key_entry *entry;
    TRY(key_entry_of(k, n, may_block, &entry, e));
    struct result done = use_entry_encrypt(k, entry, n, use, may_block, ret, view, e);
    cache_unref(&entry->entry);
    return done;
}

static RESULT use_entry_decrypt(struct keyring *k, const struct key_entry *entry, const struct name *n, enum key_use use,
                                const uint8_t kvid[FORMAT_KVID_BYTES], bool may_block, struct key_handle **ret,
                                struct key_view *view, struct err *e)
{
    struct version_info want;
    memcpy(want.kvid, kvid, sizeof want.kvid);
    const struct version_info *v = bsearch(&want, entry->versions, entry->nversions, sizeof want, by_kvid);
    if (v == NULL)
        FAIL(e, ERR_CIPHERTEXT, NULL, "no version of this key has that kvid");
    TRY(usable(v, e));
    struct name key = name_truncate(n, NAME_CRYPTOKEY);
    TRY(handle_of(k, &key, v, use, may_block, ret, e));
    view_of(*ret, entry, view);
    return ok();
}

RESULT keyring_use_decrypt(struct keyring *k, const struct name *n, enum key_use use, const uint8_t kvid[FORMAT_KVID_BYTES],
                           bool may_block, struct key_handle **ret, struct key_view *view, struct err *e)
{
    struct key_entry *entry;
    TRY(key_entry_of(k, n, may_block, &entry, e));
    struct result done = use_entry_decrypt(k, entry, n, use, kvid, may_block, ret, view, e);
    cache_unref(&entry->entry);
    return done;
}

RESULT keyring_key_exists(struct keyring *k, const struct name *n, bool may_block, struct err *e)
{
    struct key_entry *entry;
    TRY(key_entry_of(k, n, may_block, &entry, e));
    cache_unref(&entry->entry);
    return ok();
}

/* ---- forgetting ------------------------------------------------------------------------------------------------- */
static void forget_key(struct keyring *k, const struct name *key)
{
    char text[NAME_MAX_BYTES];
    struct bytes full = {(const uint8_t *)text, name_format(key, text)};
    struct key_entry *entry = (struct key_entry *)cache_get(k->keys, full);
    cache_remove(k->keys, full);
    if (entry == NULL)
        return;
    for (size_t i = 0; i < entry->nversions; i++)
        for (enum key_use use = KEY_USE_ENCRYPT; use <= KEY_USE_WRAP; use++) {
            uint8_t id[FORMAT_KVID_BYTES + 1];
            handle_id(entry->versions[i].kvid, use, id);
            cache_remove(k->handles, BYTES(id, sizeof id));
        }
    cache_unref(&entry->entry);
}

static bool begins_with(struct bytes name, struct bytes prefix)
{
    return name.n > prefix.n && memcmp(name.p, prefix.p, prefix.n) == 0;
}

static bool key_is_of(const struct cache_entry *e, void *prefix)
{
    return begins_with(BYTES(e->key, e->key_n), *(const struct bytes *)prefix);
}

static bool handle_is_of(const struct cache_entry *e, void *prefix)
{
    const struct key_handle *h = (const struct key_handle *)e;
    return begins_with(BYTES(h->name, h->name_n), *(const struct bytes *)prefix);
}

/* With its KEK all its keys leave the memory, as soon as no call uses them any more. */
void keyring_tenant_forget(struct keyring *k, struct bytes tenant)
{
    char text[NAME_MAX_BYTES];
    struct bytes prefix = tenant_full_name(tenant, text);
    text[prefix.n++] = '/'; /* a name has room for a location behind it */
    cache_remove(k->tenants, tenant);
    cache_remove_matching(k->keys, key_is_of, &prefix);
    cache_remove_matching(k->handles, handle_is_of, &prefix);
}

void keyring_changed(struct keyring *k, const struct name *n)
{
    if (n->kind == NAME_TENANT) {
        cache_remove(k->tenants, n->tenant);
    } else if (n->kind >= NAME_CRYPTOKEY) {
        struct name key = name_truncate(n, NAME_CRYPTOKEY);
        forget_key(k, &key);
    }
}

void keyring_stats(struct keyring *k, struct keyring_stats *ret)
{
    *ret = (struct keyring_stats){
        .hits = atomic_load_explicit(&k->hits, memory_order_relaxed),
        .misses = atomic_load_explicit(&k->misses, memory_order_relaxed),
        .entries = cache_count(k->handles),
        .hsm_calls = atomic_load_explicit(&k->hsm_calls, memory_order_relaxed),
    };
}
