#include "hsm/ops.h"

#include "base/log.h"
#include "base/rng.h"

#include <stdio.h>
#include <string.h>

enum { OPTIONAL = 3, REMOVE_MAX = 8 };

/* A token that does not know one of the optional attributes refuses the whole template: drop them from the end. */
bool create_refuses_template(const struct token *t, CK_RV rv)
{
    /* NSS softoken's words for an attribute that its database has no column for; from others they mean that the device failed. */
    if (rv == CKR_GENERAL_ERROR && t->m.parameters[0] != '\0')
        return true;
    return rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_ATTRIBUTE_VALUE_INVALID || rv == CKR_ATTRIBUTE_READ_ONLY ||
           rv == CKR_TEMPLATE_INCONSISTENT || rv == CKR_TEMPLATE_INCOMPLETE;
}

struct names {
    char label[OBJECT_LABEL_MAX];
    uint8_t id[OBJECT_ID_BYTES];
};

/* What this call has put on the token: undoing removes exactly that, never what only has its name. */
struct made {
    CK_OBJECT_HANDLE handle[2], answer; /* answer: CK_INVALID_HANDLE when none was stored */
    size_t n;
};

RESULT create_secret(struct token *t, const struct create_secret *s, CK_OBJECT_HANDLE *ret, struct err *e)
{
    CK_MECHANISM mechanism = {s->maker, NULL, 0};
    CK_MECHANISM_TYPE allowed = s->allowed;
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = s->type;
    CK_ULONG bytes = SECRET_KEY_BYTES;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE, sign = !s->encrypts, encrypt = s->encrypts;
    CK_ATTRIBUTE a[] = {{CKA_CLASS, &class, sizeof class},     {CKA_KEY_TYPE, &type, sizeof type},
                        {CKA_VALUE_LEN, &bytes, sizeof bytes}, {CKA_LABEL, (void *)(uintptr_t)s->label, strlen(s->label)},
                        {CKA_ID, (void *)(uintptr_t)s->id.p, s->id.n}, {CKA_TOKEN, &yes, sizeof yes},
                        {CKA_PRIVATE, &yes, sizeof yes},       {CKA_SENSITIVE, &yes, sizeof yes},
                        {CKA_EXTRACTABLE, &no, sizeof no},     {CKA_SIGN, &sign, sizeof sign},
                        {CKA_VERIFY, &no, sizeof no},          {CKA_ENCRYPT, &encrypt, sizeof encrypt},
                        {CKA_DECRYPT, &encrypt, sizeof encrypt}, {CKA_WRAP, &no, sizeof no},
                        {CKA_UNWRAP, &no, sizeof no},          {CKA_DERIVE, &no, sizeof no},
                        {CKA_MODIFIABLE, &no, sizeof no},      {CKA_COPYABLE, &no, sizeof no},
                        {CKA_ALLOWED_MECHANISMS, &allowed, sizeof allowed}};
    CK_RV rv = CKR_TEMPLATE_INCONSISTENT;
    for (CK_ULONG dropped = 0; dropped <= OPTIONAL && create_refuses_template(t, rv); dropped++)
        rv = CALL(&t->m, C_GenerateKey, t->session, &mechanism, a, sizeof a / sizeof a[0] - dropped, ret);
    return rv == CKR_OK ? ok() : ckr_fail(rv, "C_GenerateKey", e);
}

static RESULT generate_secret(struct token *t, struct names *n, struct made *made, struct err *e)
{
    const struct create_secret s = {.maker = CKM_GENERIC_SECRET_KEY_GEN, .type = CKK_GENERIC_SECRET, .allowed = CKM_SHA256_HMAC,
                                    .label = n->label, .id = BYTES(n->id, sizeof n->id)};
    TRY(mechanisms_need(&t->can, GROUP_KDF, e));
    struct result done = create_secret(t, &s, &made->handle[0], e);
    made->n = 1;
    return done;
}

static CK_RV generate_pair(struct token *t, struct names *n, bool ed25519, struct bytes curve, struct made *made)
{
    CK_MECHANISM mechanism = {ed25519 ? CKM_EC_EDWARDS_KEY_PAIR_GEN : CKM_EC_KEY_PAIR_GEN, NULL, 0};
    CK_MECHANISM_TYPE allowed = ed25519 ? CKM_EDDSA : CKM_ECDSA;
    CK_KEY_TYPE type = ed25519 ? CKK_EC_EDWARDS : CKK_EC;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_ATTRIBUTE pub[] = {{CKA_KEY_TYPE, &type, sizeof type},  {CKA_EC_PARAMS, (void *)(uintptr_t)curve.p, curve.n},
                          {CKA_LABEL, n->label, strlen(n->label)}, {CKA_ID, n->id, sizeof n->id},
                          {CKA_TOKEN, &yes, sizeof yes},       {CKA_VERIFY, &yes, sizeof yes},
                          {CKA_ENCRYPT, &no, sizeof no},       {CKA_WRAP, &no, sizeof no},
                          {CKA_DERIVE, &no, sizeof no},        {CKA_MODIFIABLE, &no, sizeof no}};
    CK_ATTRIBUTE priv[] = {{CKA_KEY_TYPE, &type, sizeof type},  {CKA_LABEL, n->label, strlen(n->label)},
                           {CKA_ID, n->id, sizeof n->id},       {CKA_TOKEN, &yes, sizeof yes},
                           {CKA_PRIVATE, &yes, sizeof yes},     {CKA_SENSITIVE, &yes, sizeof yes},
                           {CKA_EXTRACTABLE, &no, sizeof no},   {CKA_SIGN, &yes, sizeof yes},
                           {CKA_DECRYPT, &no, sizeof no},       {CKA_UNWRAP, &no, sizeof no},
                           {CKA_DERIVE, &no, sizeof no},        {CKA_SIGN_RECOVER, &no, sizeof no},
                           {CKA_MODIFIABLE, &no, sizeof no},    {CKA_COPYABLE, &no, sizeof no},
                           {CKA_ALLOWED_MECHANISMS, &allowed, sizeof allowed}};
    CK_RV rv = CKR_TEMPLATE_INCONSISTENT;
    for (CK_ULONG dropped = 0; dropped <= OPTIONAL && create_refuses_template(t, rv); dropped++) {
        CK_ULONG npub = sizeof pub / sizeof pub[0] - (dropped == OPTIONAL);
        rv = CALL(&t->m, C_GenerateKeyPair, t->session, &mechanism, pub, npub, priv, sizeof priv / sizeof priv[0] - dropped,
                  &made->handle[0], &made->handle[1]);
    }
    made->n = 2;
    return rv;
}

static RESULT generate_audit(struct token *t, struct names *n, struct made *made, struct err *e)
{
    /* Ed25519 as object identifier 1.3.101.112 (RFC 8410), else by its name (PKCS#11 v3.0); P-256 as 1.2.840.10045.3.1.7. */
    static const uint8_t ed_oid[] = {0x06, 0x03, 0x2b, 0x65, 0x70};
    static const uint8_t ed_name[] = {0x13, 0x0c, 'e', 'd', 'w', 'a', 'r', 'd', 's', '2', '5', '5', '1', '9'};
    static const uint8_t p256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
    CK_RV rv = CKR_MECHANISM_INVALID;
    TRY(mechanisms_need(&t->can, GROUP_SIGN, e));
    if (t->can.eddsa) {
        rv = generate_pair(t, n, true, BYTES(ed_oid, sizeof ed_oid), made);
        if (rv != CKR_OK && ckr_class(rv) == CKR_CLASS_OTHER)
            rv = generate_pair(t, n, true, BYTES(ed_name, sizeof ed_name), made);
    }
    if (rv != CKR_OK && ckr_class(rv) == CKR_CLASS_OTHER && t->can.ecdsa)
        rv = generate_pair(t, n, false, BYTES(p256, sizeof p256), made);
    return rv == CKR_OK ? ok() : ckr_fail(rv, "C_GenerateKeyPair", e);
}

static bool exists(const struct token *t, enum hsm_object kind, uint32_t version)
{
    for (size_t i = 0; i < t->objects.n; i++)
        if (t->objects.all[i].kind == kind && t->objects.all[i].version == version)
            return true;
    return false;
}

/* The load before it audited what any key needs; a key born here must also never have been anything else. */
static RESULT audit_birth(struct token *t, enum hsm_object kind, uint32_t version, struct err *e)
{
    CLEANUP(buf_release) struct buf weak = {0};
    buf_init(&weak, sizeof t->objects.weaknesses);
    unsigned found = 0;
    for (size_t i = 0; i < t->objects.n; i++) {
        const struct object *o = &t->objects.all[i];
        if (o->kind != kind || o->version != version)
            continue;
        TRY(object_audit(&t->m, t->session, o, true, &weak, e));
        found++;
    }
    if (found != (kind == HSM_AUDIT ? 2 : 1))
        FAIL(e, ERR_INTERNAL, "HSM_ERROR", "%u objects after one key was made", found);
    return ok();
}

static RESULT ritual(struct token *t, struct verifier *v, enum hsm_object kind, uint32_t version, struct made *made, struct err *e)
{
    uint8_t nonce[ANSWER_NONCE_BYTES], answer[ANSWER_BYTES];
    TRY(token_reload(t, e));
    TRY(audit_birth(t, kind, version, e));
    rng_fill(&rng_system, nonce, sizeof nonce);
    TRY(verifier_answer(t, kind, version, nonce, answer, e));
    TRY(storage_sync(&t->storage, e));
    TRY(verifier_check(v, t, NULL, kind, version, nonce, answer, e));
    if (kind == HSM_AUDIT)
        return ok();
    /* Written last: a secret with a stored answer is one whose making was finished. */
    TRY(answer_store(t, kind, version, nonce, answer, &made->answer, e));
    TRY(storage_sync(&t->storage, e));
    return token_reload(t, e);
}

static RESULT remove_all(struct token *t, enum hsm_object kind, uint32_t version, struct err *e)
{
    struct names n;
    CK_BBOOL yes = CK_TRUE;
    object_label(kind, version, n.label);
    object_id(kind, version, n.id);
    /* Each round removes one: a token that says yes and removes nothing must not keep the loop for ever. */
    for (unsigned round = 0;; round++) {
        CK_ATTRIBUTE match[] = {{CKA_LABEL, n.label, strlen(n.label)}, {CKA_ID, n.id, sizeof n.id}, {CKA_TOKEN, &yes, sizeof yes}};
        CK_OBJECT_HANDLE h[4];
        size_t found;
        TRY(object_find(&t->m, t->session, match, 3, h, 4, &found, e));
        if (found == 0)
            break;
        if (round == REMOVE_MAX)
            FAIL(e, ERR_INTERNAL, "HSM_ERROR", "%s is still on the token after it was destroyed", n.label);
        CK_RV rv = CALL(&t->m, C_DestroyObject, t->session, h[0]);
        if (rv != CKR_OK)
            return ckr_fail(rv, "C_DestroyObject", e);
    }
    if (kind != HSM_AUDIT)
        TRY(answer_remove(t, kind, version, e));
    return storage_sync(&t->storage, e);
}

static RESULT undo(struct token *t, const struct made *made, struct err *e)
{
    for (size_t i = 0; i <= made->n; i++) {
        const CK_OBJECT_HANDLE h = i < made->n ? made->handle[i] : made->answer;
        CK_RV rv = h == CK_INVALID_HANDLE ? CKR_OK : CALL(&t->m, C_DestroyObject, t->session, h);
        if (rv != CKR_OK)
            return ckr_fail(rv, "C_DestroyObject", e);
    }
    return storage_sync(&t->storage, e);
}

RESULT ops_generate(struct token *t, struct verifier *v, enum hsm_object object, uint32_t version, struct err *e)
{
    struct names n;
    if (object < HSM_MASTER || object > HSM_AUDIT || version == 0)
        FAIL(e, ERR_INVALID, "HSM_BAD_REQUEST", "no object %d version %u can be made", (int)object, version);
    object_label(object, version, n.label);
    object_id(object, version, n.id);
    /* The table may be old: somebody else may have made the object meanwhile. */
    TRY(token_reload(t, e));
    if (exists(t, object, version))
        FAIL(e, ERR_EXISTS, "HSM_OBJECT_EXISTS", "%s is on the token already and is not overwritten", n.label);
    TRY(answer_forget(t, object, version, e));
    struct made made = {.answer = CK_INVALID_HANDLE};
    TRY(object == HSM_AUDIT ? generate_audit(t, &n, &made, e) : generate_secret(t, &n, &made, e));
    struct result r = ritual(t, v, object, version, &made, e);
    if (!r.failed)
        return r;
    /* Nothing was ever derived from it: better no key than one that may not outlive the next power cut. */
    struct err left = {0};
    CK_RV why = t->m.last_rv;
    if (undo(t, &made, &left).failed || answer_forget(t, object, version, &left).failed)
        log_event(LOG_ERROR, "an unfinished key may be left on the token", LF_STR("object", n.label), LF_ERR(&left));
    (void)token_reload(t, &left).failed; /* when it fails the token is not ready, and is looked for again */
    t->m.last_rv = why;
    return r;
}

RESULT ops_destroy(struct token *t, enum hsm_object object, uint32_t version, struct err *e)
{
    if (object < HSM_MASTER || object > HSM_AUDIT || version == 0)
        FAIL(e, ERR_INVALID, "HSM_BAD_REQUEST", "no object %d version %u can be destroyed", (int)object, version);
    if (!exists(t, object, version)) {
        TRY(storage_sync(&t->storage, e)); /* as in ops_key_destroy */
        FAIL(e, ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", "object %d version %u is not on the token", (int)object, version);
    }
    TRY(remove_all(t, object, version, e));
    return token_reload(t, e);
}
