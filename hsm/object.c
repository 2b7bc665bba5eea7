#include "hsm/object.h"

#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const prefixes[OBJECT_KINDS + 1] = {
    [HSM_MASTER] = "claviger-master-", [HSM_SEAL] = "claviger-seal-", [HSM_AUDIT] = "claviger-audit-"};

void object_label(enum hsm_object kind, uint32_t version, char out[OBJECT_LABEL_MAX])
{
    INVARIANT(kind >= HSM_MASTER && kind <= HSM_AUDIT);
    (void)snprintf(out, OBJECT_LABEL_MAX, "%s%u", prefixes[kind], version);
}

void object_id(enum hsm_object kind, uint32_t version, uint8_t out[OBJECT_ID_BYTES])
{
    out[0] = (uint8_t)kind;
    put_be32(out + 1, version);
}

RESULT object_read(struct module *m, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE h, CK_ATTRIBUTE_TYPE type, void *out, size_t max,
                   size_t *ret_n, bool *ret_known, struct err *e)
{
    CK_ATTRIBUTE a = {type, out, max};
    memset(out, 0, max); /* a length that claims more than was written must not reach what lay here before */
    CK_RV rv = CALL(m, C_GetAttributeValue, s, h, &a, 1);
    bool no_value = rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_BUFFER_TOO_SMALL;
    if (rv != CKR_OK && !no_value)
        return ckr_fail(rv, "C_GetAttributeValue", e);
    if (no_value || a.ulValueLen > max /* CK_UNAVAILABLE_INFORMATION too */) {
        *ret_known = false;
        *ret_n = 0;
        return ok();
    }
    *ret_known = true;
    *ret_n = a.ulValueLen;
    return ok();
}

RESULT object_find(struct module *m, CK_SESSION_HANDLE s, CK_ATTRIBUTE *match, CK_ULONG n, CK_OBJECT_HANDLE *out, size_t max,
                   size_t *ret_n, struct err *e)
{
    CK_RV rv = CALL(m, C_FindObjectsInit, s, match, n);
    if (rv != CKR_OK)
        return ckr_fail(rv, "C_FindObjectsInit", e);
    size_t total = 0;
    bool too_many = false;
    for (;;) {
        CK_OBJECT_HANDLE one;
        CK_ULONG got = 0;
        rv = CALL(m, C_FindObjects, s, &one, 1, &got);
        if (rv != CKR_OK || got == 0)
            break;
        too_many = total == max;
        if (too_many)
            break;
        out[total++] = one;
    }
    /* The search must be closed whatever happened, or the session refuses the next one. */
    CK_RV rv_final = CALL(m, C_FindObjectsFinal, s);
    if (rv != CKR_OK) {
        m->last_rv = rv;
        return ckr_fail(rv, "C_FindObjects", e);
    }
    if (rv_final != CKR_OK)
        return ckr_fail(rv_final, "C_FindObjectsFinal", e);
    if (too_many)
        FAIL(e, ERR_STATE, "HSM_OBJECT_DOUBLE", "more than %zu objects match where at most that many may", max);
    *ret_n = total;
    return ok();
}

/* Ours are exactly prefix and decimal version; a label that only begins like ours is somebody's mistake: refused. */
static RESULT parse_label(struct bytes label, enum hsm_object *ret_kind, uint32_t *ret_version, bool *ret_ours, struct err *e)
{
    for (enum hsm_object k = HSM_MASTER; k <= HSM_AUDIT; k++) {
        struct bytes p = bytes_str(prefixes[k]);
        if (label.n < p.n || memcmp(label.p, p.p, p.n) != 0)
            continue;
        uint64_t v = 0;
        if (!text_parse_u64(BYTES(label.p + p.n, label.n - p.n), UINT32_MAX, &v) || v == 0)
            FAIL(e, ERR_STATE, "HSM_OBJECT_NAME", "the token has an object named %.*s: not <kind>-<version>", (int)label.n,
                 (const char *)label.p);
        *ret_kind = k;
        *ret_version = (uint32_t)v;
        *ret_ours = true;
        return ok();
    }
    *ret_ours = false;
    return ok();
}

static RESULT check_id(struct module *m, CK_SESSION_HANDLE s, const struct object *o, struct err *e)
{
    uint8_t want[OBJECT_ID_BYTES], got[OBJECT_ID_BYTES + 1];
    size_t n;
    bool known;
    object_id(o->kind, o->version, want);
    TRY(object_read(m, s, o->handle, CKA_ID, got, sizeof got, &n, &known, e));
    if (!known || n != sizeof want || memcmp(want, got, n) != 0)
        FAIL(e, ERR_STATE, "HSM_OBJECT_NAME", "%s%u on the token has a foreign id", prefixes[o->kind], o->version);
    return ok();
}

static RESULT add(struct objects *all, const struct object *o, struct err *e)
{
    for (size_t i = 0; i < all->n; i++)
        if (all->all[i].kind == o->kind && all->all[i].version == o->version && all->all[i].class == o->class)
            FAIL(e, ERR_STATE, "HSM_OBJECT_DOUBLE", "the token has two objects named %s%u: nobody can tell which one is meant",
                 prefixes[o->kind], o->version);
    if (all->n == OBJECTS_MAX)
        FAIL(e, ERR_STATE, "HSM_OBJECTS_MAX", "more than %d objects of ours on the token", OBJECTS_MAX);
    all->all[all->n++] = *o;
    return ok();
}

static RESULT load_one(struct module *m, CK_SESSION_HANDLE s, CK_OBJECT_CLASS class, CK_OBJECT_HANDLE h, struct objects *all,
                       struct keys *keys, struct buf *weak, struct err *e)
{
    char label[KEYS_LABEL_MAX];
    uint8_t kvid[HSM_KVID_BYTES];
    enum key_half half;
    size_t n = 0;
    bool known = false, ours = false;
    struct object o = {.class = class, .handle = h};
    TRY(object_read(m, s, h, CKA_LABEL, label, sizeof label, &n, &known, e));
    if (!known)
        return ok();
    if (class == CKO_SECRET_KEY && keys_parse_label(BYTES(label, n), &half, kvid))
        return keys_take(keys, h, half, kvid, e);
    TRY(parse_label(BYTES(label, n), &o.kind, &o.version, &ours, e));
    if (!ours)
        return ok();
    /* A secret named as the audit key, or the reverse, must not pass for it. */
    if ((o.kind == HSM_AUDIT) == (class == CKO_SECRET_KEY))
        FAIL(e, ERR_STATE, "HSM_OBJECT_NAME", "%s%u on the token is of the wrong class", prefixes[o.kind], o.version);
    TRY(check_id(m, s, &o, e));
    TRY(object_audit(m, s, &o, false, weak, e));
    return add(all, &o, e);
}

static void free_handles(CK_OBJECT_HANDLE **p)
{
    free(*p);
}

static RESULT load_class(struct module *m, CK_SESSION_HANDLE s, CK_OBJECT_CLASS class, struct objects *all, struct keys *keys,
                         struct buf *weak, struct err *e)
{
    /* Others may share the token, so there may be many more objects than ours. */
    enum { SEEN_MAX = KEY_HALVES * HSM_KEYS_MAX + 2048 };
    CLEANUP(free_handles) CK_OBJECT_HANDLE *seen = calloc(SEEN_MAX, sizeof *seen);
    INVARIANT(seen != NULL);
    CK_BBOOL yes = CK_TRUE;
    CK_ATTRIBUTE match[] = {{CKA_CLASS, &class, sizeof class}, {CKA_TOKEN, &yes, sizeof yes}};
    size_t n = 0;
    TRY(object_find(m, s, match, 2, seen, SEEN_MAX, &n, e));
    for (size_t i = 0; i < n; i++)
        TRY(load_one(m, s, class, seen[i], all, keys, weak, e));
    return ok();
}

/* The label decides and the id is checked; this finds the reverse: our id under another name. */
static RESULT check_ids_unique(struct module *m, CK_SESSION_HANDLE s, const struct objects *all, struct err *e)
{
    for (size_t i = 0; i < all->n; i++) {
        uint8_t id[OBJECT_ID_BYTES];
        CK_OBJECT_CLASS class = all->all[i].class;
        CK_OBJECT_HANDLE found[2];
        size_t n;
        object_id(all->all[i].kind, all->all[i].version, id);
        CK_ATTRIBUTE match[] = {{CKA_CLASS, &class, sizeof class}, {CKA_ID, id, sizeof id}};
        TRY(object_find(m, s, match, 2, found, 2, &n, e));
        if (n != 1)
            FAIL(e, ERR_STATE, "HSM_OBJECT_DOUBLE", "%zu objects on the token share the id of %s%u", n,
                 prefixes[all->all[i].kind], all->all[i].version);
    }
    return ok();
}

static RESULT load_all(struct module *m, CK_SESSION_HANDLE s, struct objects *all, struct keys *keys, struct err *e)
{
    static const CK_OBJECT_CLASS classes[] = {CKO_SECRET_KEY, CKO_PRIVATE_KEY, CKO_PUBLIC_KEY};
    CLEANUP(buf_release) struct buf weak = {0};
    buf_init(&weak, sizeof all->weaknesses - 1);
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++)
        TRY(load_class(m, s, classes[i], all, keys, &weak, e));
    TRY(check_ids_unique(m, s, all, e));
    (void)snprintf(all->weaknesses, sizeof all->weaknesses, "%s", buf_cstr(&weak));
    return ok();
}

RESULT objects_load(struct module *m, CK_SESSION_HANDLE s, struct objects *o, struct keys *keys, struct err *e)
{
    o->n = 0;
    o->weaknesses[0] = '\0';
    keys_clear(keys);
    struct result r = load_all(m, s, o, keys, e);
    /* Half a table would be a table of objects that nobody compared with each other. */
    if (r.failed) {
        o->n = 0;
        keys_clear(keys);
    }
    return r;
}

RESULT objects_get(const struct objects *o, enum hsm_object kind, CK_OBJECT_CLASS class, uint32_t version,
                   const struct object **ret, struct err *e)
{
    for (size_t i = 0; i < o->n; i++)
        if (o->all[i].kind == kind && o->all[i].version == version && o->all[i].class == class) {
            *ret = &o->all[i];
            return ok();
        }
    FAIL(e, ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", "%s%u is not on the token", prefixes[kind], version);
}

uint32_t objects_newest(const struct objects *o, enum hsm_object kind)
{
    uint32_t newest = 0;
    for (size_t i = 0; i < o->n; i++)
        if (o->all[i].kind == kind && o->all[i].class != CKO_PUBLIC_KEY && o->all[i].version > newest)
            newest = o->all[i].version;
    return newest;
}
