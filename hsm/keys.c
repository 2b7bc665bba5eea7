#include "hsm/keys.h"

#include "hsm/openssl.h"
#include "hsm/token.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const prefixes[KEY_HALVES] = {[KEY_AES] = "claviger-key-", [KEY_COMMIT] = "claviger-commit-"};
static const CK_KEY_TYPE key_types[KEY_HALVES] = {[KEY_AES] = CKK_AES, [KEY_COMMIT] = CKK_GENERIC_SECRET};
enum { ID_KIND = 4, ATTRIBUTES_MAX = 24 };

void keys_label(enum key_half half, const uint8_t kvid[HSM_KVID_BYTES], char out[KEYS_LABEL_MAX])
{
    char hex[2 * HSM_KVID_BYTES + 1];
    hex_encode(kvid, HSM_KVID_BYTES, hex);
    (void)snprintf(out, KEYS_LABEL_MAX, "%s%s", prefixes[half], hex);
}

void keys_id(enum key_half half, const uint8_t kvid[HSM_KVID_BYTES], uint8_t out[KEYS_ID_BYTES])
{
    out[0] = (uint8_t)(ID_KIND + (int)half);
    memcpy(out + 1, kvid, HSM_KVID_BYTES);
}

bool keys_parse_label(struct bytes label, enum key_half *ret_half, uint8_t ret_kvid[HSM_KVID_BYTES])
{
    char again[KEYS_LABEL_MAX];
    for (enum key_half half = KEY_AES; half < KEY_HALVES; half++) {
        struct bytes p = bytes_str(prefixes[half]);
        if (label.n != p.n + 2 * HSM_KVID_BYTES || memcmp(label.p, p.p, p.n) != 0 ||
            !hex_decode(BYTES(label.p + p.n, label.n - p.n), ret_kvid, HSM_KVID_BYTES))
            continue;
        *ret_half = half;
        keys_label(half, ret_kvid, again);
        return bytes_equal(label, bytes_str(again)); /* upper case is not ours */
    }
    return false;
}

/* ---- the audit ---------------------------------------------------------------------------------------------------- */
struct flag {
    CK_ATTRIBUTE_TYPE type;
    const char *name;
    bool want[KEY_HALVES];
    bool optional; /* a token that does not know it has that weakness, which is named where masters have it too */
};
static const struct flag flags[] = {
    {CKA_TOKEN, "TOKEN", {true, true}, false},
    {CKA_PRIVATE, "PRIVATE", {true, true}, false},
    {CKA_SENSITIVE, "SENSITIVE", {true, true}, false},
    {CKA_EXTRACTABLE, "EXTRACTABLE", {false, false}, false},
    {CKA_ALWAYS_SENSITIVE, "ALWAYS_SENSITIVE", {true, true}, false},
    {CKA_NEVER_EXTRACTABLE, "NEVER_EXTRACTABLE", {true, true}, false},
    {CKA_ENCRYPT, "ENCRYPT", {true, false}, false},
    {CKA_DECRYPT, "DECRYPT", {true, false}, false},
    {CKA_SIGN, "SIGN", {false, true}, false},
    {CKA_VERIFY, "VERIFY", {false, false}, false},
    {CKA_WRAP, "WRAP", {false, false}, false},
    {CKA_UNWRAP, "UNWRAP", {false, false}, false},
    {CKA_DERIVE, "DERIVE", {false, false}, false},
    {CKA_MODIFIABLE, "MODIFIABLE", {false, false}, true},
    {CKA_COPYABLE, "COPYABLE", {false, false}, true},
};
enum { FLAGS = sizeof flags / sizeof flags[0] };
_Static_assert(FLAGS + 4 <= ATTRIBUTES_MAX, "one call for all");

struct seen { /* what one call of the token said of an object */
    CK_BBOOL flag[FLAGS];
    CK_ULONG type, bytes;
    CK_MECHANISM_TYPE mechanisms[4];
    uint8_t id[KEYS_ID_BYTES + 1];
    CK_ATTRIBUTE a[ATTRIBUTES_MAX];
};
enum { AT_TYPE = FLAGS, AT_BYTES, AT_MECHANISMS, AT_ID, AT_END };

static bool known(const struct seen *s, size_t at, size_t n)
{
    return s->a[at].ulValueLen == n; /* CK_UNAVAILABLE_INFORMATION, and whatever else it claims, is not */
}

/* One call for all: with thousands of keys a call for each attribute is what a start would wait for. */
static RESULT look(struct module *m, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE h, struct seen *s, struct err *e)
{
    memset(s, 0, sizeof *s);
    for (size_t i = 0; i < FLAGS; i++)
        s->a[i] = (CK_ATTRIBUTE){flags[i].type, &s->flag[i], sizeof s->flag[i]};
    s->a[AT_TYPE] = (CK_ATTRIBUTE){CKA_KEY_TYPE, &s->type, sizeof s->type};
    s->a[AT_BYTES] = (CK_ATTRIBUTE){CKA_VALUE_LEN, &s->bytes, sizeof s->bytes};
    s->a[AT_MECHANISMS] = (CK_ATTRIBUTE){CKA_ALLOWED_MECHANISMS, s->mechanisms, sizeof s->mechanisms};
    s->a[AT_ID] = (CK_ATTRIBUTE){CKA_ID, s->id, sizeof s->id};
    CK_RV rv = CALL(m, C_GetAttributeValue, session, h, s->a, AT_END);
    /* Those that it does not know, or has too much to say of, are marked so; the others are filled all the same. */
    if (rv == CKR_OK || rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_BUFFER_TOO_SMALL)
        return ok();
    return ckr_fail(rv, "C_GetAttributeValue", e);
}

static const char *judge(const struct seen *s, enum key_half half, const uint8_t kvid[HSM_KVID_BYTES])
{
    static const CK_MECHANISM_TYPE mechanisms[KEY_HALVES] = {CKM_AES_GCM, CKM_SHA256_HMAC};
    uint8_t id[KEYS_ID_BYTES];
    keys_id(half, kvid, id);
    if (!known(s, AT_ID, sizeof id) || memcmp(s->id, id, sizeof id) != 0)
        return "ID";
    if (!known(s, AT_TYPE, sizeof s->type) || s->type != key_types[half])
        return "KEY_TYPE";
    if (!known(s, AT_BYTES, sizeof s->bytes) || s->bytes != SECRET_KEY_BYTES)
        return "VALUE_LEN";
    for (size_t i = 0; i < FLAGS; i++) {
        const bool there = known(s, i, sizeof s->flag[i]);
        if (there ? (s->flag[i] != CK_FALSE) != flags[i].want[half] : !flags[i].optional)
            return flags[i].name;
    }
    const size_t n = s->a[AT_MECHANISMS].ulValueLen;
    if (n != CK_UNAVAILABLE_INFORMATION && n != 0 && (n != sizeof s->mechanisms[0] || s->mechanisms[0] != mechanisms[half]))
        return "ALLOWED_MECHANISMS";
    return NULL;
}

/* ---- the table ---------------------------------------------------------------------------------------------------- */
static size_t place_of(const struct keys *k, const uint8_t kvid[HSM_KVID_BYTES])
{
    size_t low = 0, high = k->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (memcmp(k->all[mid].kvid, kvid, HSM_KVID_BYTES) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

struct key_pair *keys_entry(struct keys *k, const uint8_t kvid[HSM_KVID_BYTES])
{
    size_t at = place_of(k, kvid);
    return at < k->n && memcmp(k->all[at].kvid, kvid, HSM_KVID_BYTES) == 0 ? &k->all[at] : NULL;
}

static RESULT entry_for(struct keys *k, const uint8_t kvid[HSM_KVID_BYTES], struct key_pair **ret, struct err *e)
{
    *ret = keys_entry(k, kvid);
    if (*ret != NULL)
        return ok();
    if (k->n == HSM_KEYS_MAX)
        FAIL(e, ERR_EXHAUSTED, "HSM_KEYS_MAX", "more than %d keys of ours on the token", HSM_KEYS_MAX);
    if (k->n == k->cap) {
        k->cap = k->cap == 0 ? 16 : 2 * k->cap;
        k->all = reallocarray(k->all, k->cap, sizeof *k->all);
        INVARIANT(k->all != NULL);
    }
    size_t at = place_of(k, kvid);
    memmove(&k->all[at + 1], &k->all[at], (k->n - at) * sizeof *k->all);
    k->n++;
    k->all[at] = (struct key_pair){.handle = {CK_INVALID_HANDLE, CK_INVALID_HANDLE}};
    memcpy(k->all[at].kvid, kvid, HSM_KVID_BYTES);
    *ret = &k->all[at];
    return ok();
}

RESULT keys_take(struct keys *k, CK_OBJECT_HANDLE h, enum key_half half, const uint8_t kvid[HSM_KVID_BYTES], struct err *e)
{
    struct key_pair *pair;
    TRY(entry_for(k, kvid, &pair, e));
    if (pair->handle[half] != CK_INVALID_HANDLE && pair->handle[half] != h)
        pair->weak = "two objects of one name"; /* nobody can tell which one is meant */
    pair->handle[half] = h;
    pair->audited[half] = false;
    return ok();
}

static RESULT audit(struct token *t, struct key_pair *p, struct err *e)
{
    for (enum key_half half = KEY_AES; half < KEY_HALVES; half++) {
        struct seen seen;
        if (p->audited[half] || p->handle[half] == CK_INVALID_HANDLE)
            continue;
        TRY(look(&t->m, t->session, p->handle[half], &seen, e));
        const char *weak = judge(&seen, half, p->kvid);
        p->weak = p->weak != NULL ? p->weak : weak;
        p->audited[half] = true;
    }
    return ok();
}

RESULT keys_audit_some(struct token *t, size_t n, bool *ret_found, struct err *e)
{
    struct keys *k = &t->keys;
    *ret_found = false;
    for (; n > 0 && k->audit_next < k->n; n--) {
        struct key_pair *p = &k->all[k->audit_next++];
        const bool known = p->weak != NULL;
        TRY(audit(t, p, e));
        *ret_found |= !known && p->weak != NULL;
    }
    return ok();
}

/* ---- one that is not in the table --------------------------------------------------------------------------------- */
static bool lately_absent(const struct token *t, const uint8_t kvid[HSM_KVID_BYTES])
{
    for (size_t i = 0; i < KEYS_ABSENT; i++) {
        const struct keys_absent *a = &t->keys.absent[i];
        if (a->until_ms > clock_boot_ms(t->setup.clock) && memcmp(a->kvid, kvid, HSM_KVID_BYTES) == 0)
            return true;
    }
    return false;
}

/* A search walks over every object of the token: who asks again and again for a key that is gone must not hold up the others. */
static void note_absent(struct token *t, const uint8_t kvid[HSM_KVID_BYTES])
{
    struct keys_absent *a = &t->keys.absent[t->keys.absent_next++ % KEYS_ABSENT];
    memcpy(a->kvid, kvid, HSM_KVID_BYTES);
    a->until_ms = clock_boot_ms(t->setup.clock) + KEYS_ABSENT_MS;
}

RESULT keys_find(struct token *t, enum key_half half, const uint8_t kvid[HSM_KVID_BYTES], CK_OBJECT_HANDLE ret[KEYS_FIND_MAX], size_t *ret_n,
                 struct err *e)
{
    char label[KEYS_LABEL_MAX];
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = key_types[half];
    CK_BBOOL yes = CK_TRUE;
    keys_label(half, kvid, label);
    /* Labels last: SoftHSM decrypts each that it has to compare. */
    CK_ATTRIBUTE match[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_TOKEN, &yes, sizeof yes},
                            {CKA_LABEL, label, strlen(label)}};
    return object_find(&t->m, t->session, match, 4, ret, KEYS_FIND_MAX, ret_n, e);
}

static RESULT search(struct token *t, enum key_half half, const uint8_t kvid[HSM_KVID_BYTES], struct err *e)
{
    CK_OBJECT_HANDLE found[KEYS_FIND_MAX];
    size_t n;
    TRY(keys_find(t, half, kvid, found, &n, e));
    for (size_t i = 0; i < n; i++)
        TRY(keys_take(&t->keys, found[i], half, kvid, e));
    return ok();
}

static bool has(const struct key_pair *p, enum key_half half)
{
    return p->handle[half] != CK_INVALID_HANDLE;
}

bool key_whole(const struct key_pair *p)
{
    return has(p, KEY_AES) && has(p, KEY_COMMIT);
}

static RESULT absent(const uint8_t kvid[HSM_KVID_BYTES], struct err *e)
{
    char label[KEYS_LABEL_MAX];
    keys_label(KEY_AES, kvid, label);
    FAIL(e, ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", "%s is not on the token", label);
}

static RESULT fit(const struct key_pair *p, struct err *e)
{
    char label[KEYS_LABEL_MAX];
    keys_label(KEY_AES, p->kvid, label);
    if (!key_whole(p))
        FAIL(e, ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", "%s is only half on the token", label);
    if (p->weak == NULL)
        return ok();
    struct result r = err_set(e, ERR_STATE, "HSM_OBJECT_WEAK", __FILE__, __LINE__, "%s on the token: %s is not what this key needs", label,
                              p->weak);
    e->hint = "do not use this key: its value may be known outside the token; make a new version";
    return r;
}

RESULT keys_get(struct token *t, const uint8_t kvid[HSM_KVID_BYTES], struct key_pair **ret, struct err *e)
{
    if (keys_entry(&t->keys, kvid) == NULL) {
        if (lately_absent(t, kvid))
            return absent(kvid, e);
        TRY(search(t, KEY_AES, kvid, e));
        TRY(search(t, KEY_COMMIT, kvid, e));
    }
    *ret = keys_entry(&t->keys, kvid);
    if (*ret == NULL) {
        note_absent(t, kvid);
        return absent(kvid, e);
    }
    TRY(audit(t, *ret, e));
    return fit(*ret, e);
}

size_t keys_whole(const struct keys *k)
{
    size_t n = 0;
    for (size_t i = 0; i < k->n; i++)
        n += key_whole(&k->all[i]);
    return n;
}

void keys_census(const struct keys *k, uint8_t out[KEYS_CENSUS_BYTES])
{
    EVP_MD_CTX *m = EVP_MD_CTX_new();
    INVARIANT(m != NULL && EVP_DigestInit_ex(m, EVP_sha256(), NULL) == 1);
    for (size_t i = 0; i < k->n; i++) {
        const uint8_t halves = (uint8_t)(has(&k->all[i], KEY_AES) | has(&k->all[i], KEY_COMMIT) << 1);
        INVARIANT(EVP_DigestUpdate(m, k->all[i].kvid, HSM_KVID_BYTES) == 1 && EVP_DigestUpdate(m, &halves, 1) == 1);
    }
    INVARIANT(EVP_DigestFinal_ex(m, out, NULL) == 1);
    EVP_MD_CTX_free(m);
}

void keys_forget(struct keys *k, const uint8_t kvid[HSM_KVID_BYTES])
{
    struct key_pair *p = keys_entry(k, kvid);
    if (p == NULL)
        return;
    size_t at = (size_t)(p - k->all);
    memmove(p, p + 1, (k->n - at - 1) * sizeof *p);
    k->n--;
}

void keys_clear(struct keys *k)
{
    k->n = k->audit_next = 0;
    memset(k->absent, 0, sizeof k->absent);
}

void keys_release(struct keys *k)
{
    free(k->all);
    *k = (struct keys){0};
}

void keys_weaknesses(const struct keys *k, struct buf *out)
{
    char label[KEYS_LABEL_MAX];
    size_t refused = 0;
    const struct key_pair *one = NULL;
    for (size_t i = 0; i < k->n; i++)
        if (k->all[i].weak != NULL) {
            one = &k->all[i];
            refused++;
        }
    if (one == NULL)
        return;
    keys_label(KEY_AES, one->kvid, label);
    buf_putf(out, "%s%zu keys refused, one is %s: %s", out->n > 0 ? "; " : "", refused, label + strlen("claviger-"), one->weak);
}
