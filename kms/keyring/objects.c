/* Reads of rings, keys and versions: straight from the store, into the caller's arena. */
#include "kms/keyring/internal.h"

#include <string.h>

/* One row by name; the tenant binds the row: another tenant's id finds nothing. */
static RESULT get_row(struct keyring *k, const struct name *n, enum rec_kind kind, struct arena *a, struct record *ret,
                      struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    TRY(tenant_of_name(k, n, true, &t, e));
    struct model_id id = model_id_of(n);
    return store_get(k->store, kind, t->t.id, model_id_bytes(&id), a, ret, e);
}

RESULT keyring_ring_get(struct keyring *k, const struct name *n, struct arena *a, struct keyring_ring *ret, struct err *e)
{
    struct record r;
    TRY(get_row(k, n, REC_KEYRING, a, &r, e));
    return model_ring_get(&r, ret, e);
}

RESULT keyring_key_get(struct keyring *k, const struct name *n, struct arena *a, struct keyring_key *ret, struct err *e)
{
    struct record r;
    TRY(get_row(k, n, REC_CRYPTOKEY, a, &r, e));
    return model_key_get(&r, a, ret, e);
}

RESULT keyring_version_get(struct keyring *k, const struct name *n, struct arena *a, struct keyring_version *ret, struct err *e)
{
    struct record r;
    TRY(get_row(k, n, REC_VERSION, a, &r, e));
    return model_version_get(&r, ret, e);
}

/* Children of `parent`; after: the child's last id part, empty from the start (or end). */
static RESULT scan_children(struct keyring *k, const struct name *parent, enum rec_kind kind, struct bytes after,
                            bool descending, size_t limit, struct arena *a, struct record **ret, size_t *ret_n, struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    TRY(tenant_of_name(k, parent, true, &t, e));
    struct model_id prefix = model_child_prefix(parent), from = prefix;
    INVARIANT(from.n + after.n <= sizeof from.b);
    if (after.n > 0)
        memcpy(from.b + from.n, after.p, after.n);
    from.n += after.n;
    struct store_scan q = {.kind = kind, .prefix = model_id_bytes(&prefix), .limit = limit, .descending = descending};
    if (after.n > 0)
        q.after = model_id_bytes(&from);
    memcpy(q.tenant, t->t.id, sizeof q.tenant);
    return store_scan(k->store, &q, a, ret, ret_n, e);
}

static RESULT list_of(struct arena *a, size_t n, size_t each, void **ret, struct err *e)
{
    *ret = arena_zalloc(a, (n + 1) * each);
    if (*ret == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "the list does not fit the call's memory");
    return ok();
}

RESULT keyring_ring_list(struct keyring *k, const struct name *location, struct bytes after_ring, bool descending, size_t limit,
                         struct arena *a, struct keyring_ring **ret, size_t *ret_n, struct err *e)
{
    struct record *rows;
    void *out;
    TRY(scan_children(k, location, REC_KEYRING, after_ring, descending, limit, a, &rows, ret_n, e));
    TRY(list_of(a, *ret_n, sizeof **ret, &out, e));
    *ret = out;
    for (size_t i = 0; i < *ret_n; i++)
        TRY(model_ring_get(&rows[i], &(*ret)[i], e));
    return ok();
}

RESULT keyring_key_list(struct keyring *k, const struct name *ring, struct bytes after_key, bool descending, size_t limit,
                        struct arena *a, struct keyring_key **ret, size_t *ret_n, struct err *e)
{
    struct record *rows;
    void *out;
    TRY(scan_children(k, ring, REC_CRYPTOKEY, after_key, descending, limit, a, &rows, ret_n, e));
    TRY(list_of(a, *ret_n, sizeof **ret, &out, e));
    *ret = out;
    for (size_t i = 0; i < *ret_n; i++)
        TRY(model_key_get(&rows[i], a, &(*ret)[i], e));
    return ok();
}

RESULT keyring_version_list(struct keyring *k, const struct name *key, uint32_t after, bool descending, size_t limit,
                            struct arena *a, struct keyring_version **ret, size_t *ret_n, struct err *e)
{
    struct record *rows;
    void *out;
    uint8_t be[4];
    put_be32(be, after);
    struct bytes from = {be, after > 0 ? sizeof be : 0};
    TRY(scan_children(k, key, REC_VERSION, from, descending, limit, a, &rows, ret_n, e));
    TRY(list_of(a, *ret_n, sizeof **ret, &out, e));
    *ret = out;
    for (size_t i = 0; i < *ret_n; i++)
        TRY(model_version_get(&rows[i], &(*ret)[i], e));
    return ok();
}

RESULT keyring_count(struct keyring *k, const struct name *parent, enum name_kind child, uint64_t *ret, struct err *e)
{
    static const enum rec_kind kinds[] = {[NAME_KEYRING] = REC_KEYRING, [NAME_CRYPTOKEY] = REC_CRYPTOKEY, [NAME_VERSION] = REC_VERSION};
    INVARIANT(child >= NAME_KEYRING && child <= NAME_VERSION);
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    TRY(tenant_of_name(k, parent, true, &t, e));
    struct model_id prefix = model_child_prefix(parent);
    return store_count(k->store, kinds[child], t->t.id, model_id_bytes(&prefix), ret, e);
}
