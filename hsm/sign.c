#include "hsm/ops.h"

#include "hsm/note.h"
#include "hsm/openssl.h"

#include <stdio.h>
#include <string.h>

enum { ED25519_BYTES = 32, ED25519_SIG = 64, P256_POINT = 65, P256_SIG = 64, SHA256_BYTES = 32, POINT_MAX = 80 };

static void pkey_free(EVP_PKEY **k) { EVP_PKEY_free(*k); }
static void pkey_ctx_free(EVP_PKEY_CTX **c) { EVP_PKEY_CTX_free(*c); }
static void md_ctx_free(EVP_MD_CTX **c) { EVP_MD_CTX_free(*c); }
static void ecdsa_free(ECDSA_SIG **s) { ECDSA_SIG_free(*s); }

/* PKCS#11 wants the point inside a DER OCTET STRING; some tokens give it bare. */
static struct bytes unwrap_point(struct bytes p, size_t want)
{
    if (p.n == want + 2 && p.p[0] == 0x04 && p.p[1] == want)
        return BYTES(p.p + 2, want);
    return p;
}

RESULT ops_audit_pubkey(struct token *t, uint32_t version, uint8_t out[HSM_PUBKEY_MAX], size_t *ret_n, bool *ret_ed25519,
                        struct err *e)
{
    const struct object *o;
    CK_ULONG type = 0;
    uint8_t raw[POINT_MAX];
    size_t n, type_n;
    bool known, type_known;
    TRY(objects_get(&t->objects, HSM_AUDIT, CKO_PUBLIC_KEY, version, &o, e));
    TRY(object_read(&t->m, t->session, o->handle, CKA_KEY_TYPE, &type, sizeof type, &type_n, &type_known, e));
    TRY(object_read(&t->m, t->session, o->handle, CKA_EC_POINT, raw, sizeof raw, &n, &known, e));
    bool ed = type_known && type_n == sizeof type && type == CKK_EC_EDWARDS;
    size_t want = ed ? ED25519_BYTES : P256_POINT;
    struct bytes point = unwrap_point(BYTES(raw, n), want);
    if (!known || point.n != want || (!ed && point.p[0] != 0x04))
        FAIL(e, ERR_STATE, "HSM_OBJECT_WEAK", "the public audit key is neither Ed25519 nor an uncompressed P-256 point");
    memcpy(out, point.p, want);
    *ret_n = want;
    *ret_ed25519 = ed;
    return ok();
}

static EVP_PKEY *p256_key(const uint8_t point[P256_POINT])
{
    char group[] = "prime256v1";
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0),
                           OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, (void *)(uintptr_t)point, P256_POINT),
                           OSSL_PARAM_construct_end()};
    CLEANUP(pkey_ctx_free) EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    EVP_PKEY *k = NULL;
    if (c == NULL || EVP_PKEY_fromdata_init(c) <= 0 || EVP_PKEY_fromdata(c, &k, EVP_PKEY_PUBLIC_KEY, params) <= 0)
        return NULL;
    return k;
}

/* A signature made by a faulty chip can give its key away: none leaves unchecked. */
static RESULT verify(struct token *t, uint32_t version, struct bytes message, const uint8_t *sig, size_t n, struct err *e)
{
    uint8_t pub[HSM_PUBKEY_MAX];
    size_t pub_n;
    bool ed;
    TRY(ops_audit_pubkey(t, version, pub, &pub_n, &ed, e));
    CLEANUP(pkey_free)
    EVP_PKEY *k = ed ? EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, pub, pub_n) : p256_key(pub);
    CLEANUP(md_ctx_free) EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool good = k != NULL && c != NULL && EVP_DigestVerifyInit(c, NULL, ed ? NULL : EVP_sha256(), NULL, k) == 1 &&
                EVP_DigestVerify(c, sig, n, message.p, message.n) == 1;
    ERR_clear_error();
    if (!good)
        FAIL(e, ERR_INTERNAL, "HSM_ERROR", "the token's signature does not verify under its own public key");
    return ok();
}

/* PKCS#11 gives r and s side by side; everybody else reads ASN.1 (RFC 3279 section 2.2.3). */
static RESULT ecdsa_to_der(const uint8_t raw[P256_SIG], uint8_t sig[HSM_SIG_MAX], size_t *ret_n, struct err *e)
{
    CLEANUP(ecdsa_free) ECDSA_SIG *s = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(raw, P256_SIG / 2, NULL), *v = BN_bin2bn(raw + P256_SIG / 2, P256_SIG / 2, NULL);
    INVARIANT(s != NULL && r != NULL && v != NULL && ECDSA_SIG_set0(s, r, v) == 1);
    uint8_t *p = sig;
    int n = i2d_ECDSA_SIG(s, NULL);
    if (n <= 0 || n > HSM_SIG_MAX || i2d_ECDSA_SIG(s, &p) != n)
        FAIL(e, ERR_INTERNAL, "HSM_ERROR", "an ECDSA signature cannot be encoded");
    *ret_n = (size_t)n;
    return ok();
}

static RESULT c_sign(struct token *t, CK_OBJECT_HANDLE key, CK_MECHANISM_TYPE type, struct bytes input,
                     uint8_t raw[ED25519_SIG], struct err *e)
{
    CK_MECHANISM mechanism = {type, NULL, 0};
    CK_ULONG n = ED25519_SIG;
    CK_RV rv = CALL(&t->m, C_SignInit, t->session, &mechanism, key);
    if (rv != CKR_OK)
        return ckr_fail(rv, "C_SignInit", e);
    rv = CALL(&t->m, C_Sign, t->session, (CK_BYTE_PTR)(uintptr_t)input.p, input.n, raw, &n);
    if (rv != CKR_OK)
        return ckr_fail(rv, "C_Sign", e);
    if (n != ED25519_SIG)
        FAIL(e, ERR_INTERNAL, "HSM_ERROR", "C_Sign gave a signature of %lu bytes", n);
    return ok();
}

static RESULT sign(struct token *t, uint32_t version, struct bytes message, uint8_t sig[HSM_SIG_MAX], size_t *ret_n,
                   struct err *e)
{
    _Static_assert((int)ED25519_SIG == (int)P256_SIG, "one buffer for both");
    uint8_t raw[ED25519_SIG], digest[SHA256_BYTES];
    const struct object *key;
    CK_ULONG type = 0;
    size_t n;
    bool known;
    TRY(objects_get(&t->objects, HSM_AUDIT, CKO_PRIVATE_KEY, version, &key, e));
    TRY(object_read(&t->m, t->session, key->handle, CKA_KEY_TYPE, &type, sizeof type, &n, &known, e));
    if (known && n == sizeof type && type == CKK_EC_EDWARDS) {
        TRY(c_sign(t, key->handle, CKM_EDDSA, message, raw, e));
        memcpy(sig, raw, sizeof raw);
        *ret_n = sizeof raw;
        return verify(t, version, message, sig, *ret_n, e);
    }
    INVARIANT(EVP_Digest(message.p, message.n, digest, NULL, EVP_sha256(), NULL) == 1);
    TRY(c_sign(t, key->handle, CKM_ECDSA, BYTES(digest, sizeof digest), raw, e));
    TRY(ecdsa_to_der(raw, sig, ret_n, e));
    return verify(t, version, message, sig, *ret_n, e);
}

RESULT ops_sign_checkpoint(struct token *t, uint32_t version, struct bytes untrusted_message, uint8_t sig[HSM_SIG_MAX],
                           size_t *ret_n, struct err *e)
{
    TRY(note_check_checkpoint(untrusted_message, t->setup.origin, e));
    return sign(t, version, untrusted_message, sig, ret_n, e);
}

RESULT ops_sign_certificate(struct token *t, uint32_t version, struct bytes untrusted_text, uint8_t sig[HSM_SIG_MAX], size_t *ret_n,
                            struct err *e)
{
    TRY(note_check_certificate(untrusted_text, t->setup.origin, e));
    return sign(t, version, untrusted_text, sig, ret_n, e);
}

RESULT ops_audit_selftest(struct token *t, uint32_t version, const uint8_t nonce[32], struct err *e)
{
    char hex[65], message[128];
    uint8_t sig[HSM_SIG_MAX];
    size_t n;
    hex_encode(nonce, 32, hex);
    /* No empty line in it could ever make it a checkpoint: the second line is no number. */
    int len = snprintf(message, sizeof message, "claviger key check\nnonce %s\n", hex);
    return sign(t, version, BYTES(message, (size_t)len), sig, &n, e);
}
