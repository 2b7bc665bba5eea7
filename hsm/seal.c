/* Sealing and opening with a key on the token: the messages of docs/FORMATS.md section 9, made and taken apart here alone. */
#include "hsm/seal.h"

#include <string.h>

enum { NONCE_DRAW = TOKEN_RANDOM_BYTES /* so that a generator that is stuck is found */, BINDING_HEAD = 4 + HSM_HEADER_BYTES,
       BINDING_BYTES = BINDING_HEAD + HSM_COMMIT_BYTES + HSM_AAD_HASH_BYTES, AT_COMMIT = HSM_HEADER_BYTES,
       AT_NONCE = AT_COMMIT + HSM_COMMIT_BYTES, AT_BODY = AT_NONCE + HSM_NONCE_BYTES,
       BODY_MAX = HSM_PLAIN_MAX + HSM_TAG_BYTES };
_Static_assert(AT_BODY + HSM_TAG_BYTES == HSM_SEALED_OVERHEAD, "header, commitment, nonce, tag");

/* The token answers, but wrongly: recovery treats it as a device that failed. */
static RESULT wrong_answer(struct token *t, const char *what, struct err *e)
{
    t->m.last_rv = CKR_DEVICE_ERROR;
    FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token gave a wrong answer: %s", what);
}

static RESULT bad_message(struct err *e)
{
    FAIL(e, ERR_CIPHERTEXT, NULL, "not an intact message under this key");
}

static void header_of(enum hsm_sealed type, const uint8_t kvid[HSM_KVID_BYTES], uint8_t out[HSM_HEADER_BYTES])
{
    static const uint8_t start[] = {'C', 'L', 'V'};
    memset(out, 0, HSM_HEADER_BYTES);
    memcpy(out, start, sizeof start);
    out[3] = (uint8_t)type;
    out[4] = 1;
    memcpy(out + 8, kvid, HSM_KVID_BYTES);
}

/* What tag and commitment bind: u32 length of header, header, commitment, SHA-256 of the additional data. */
struct binding {
    uint8_t p[BINDING_BYTES];
};
static void binding_init(struct binding *b, const uint8_t header[HSM_HEADER_BYTES], const uint8_t commitment[HSM_COMMIT_BYTES],
                         const uint8_t aad_hash[HSM_AAD_HASH_BYTES])
{
    put_be32(b->p, HSM_HEADER_BYTES);
    memcpy(b->p + 4, header, HSM_HEADER_BYTES);
    memcpy(b->p + BINDING_HEAD, commitment, HSM_COMMIT_BYTES);
    memcpy(b->p + BINDING_HEAD + HSM_COMMIT_BYTES, aad_hash, HSM_AAD_HASH_BYTES);
}

/* The one thing that a commitment key ever signs: 88 bytes of this shape. */
static RESULT commit(struct token *t, const struct key_pair *k, const uint8_t header[HSM_HEADER_BYTES],
                     const uint8_t nonce[HSM_NONCE_BYTES], const uint8_t aad_hash[HSM_AAD_HASH_BYTES], uint8_t out[HSM_COMMIT_BYTES],
                     struct err *e)
{
    uint8_t in[BINDING_HEAD + HSM_NONCE_BYTES + HSM_AAD_HASH_BYTES];
    put_be32(in, HSM_HEADER_BYTES);
    memcpy(in + 4, header, HSM_HEADER_BYTES);
    memcpy(in + BINDING_HEAD, nonce, HSM_NONCE_BYTES);
    memcpy(in + BINDING_HEAD + HSM_NONCE_BYTES, aad_hash, HSM_AAD_HASH_BYTES);
    return ops_hmac(t, k->handle[KEY_COMMIT], BYTES(in, sizeof in), out, e);
}

/* ---- AES-256-GCM on the token ------------------------------------------------------------------------------------- */
struct gcm {
    CK_GCM_PARAMS params;
    CK_MECHANISM mechanism;
};
static void gcm_init(struct gcm *g, const uint8_t nonce[HSM_NONCE_BYTES], const struct binding *b)
{
    /* PKCS#11 wants mutable pointers and does not write through them. */
    g->params = (CK_GCM_PARAMS){.iv_ptr = (uint8_t *)(uintptr_t)nonce, .iv_len = HSM_NONCE_BYTES, .iv_bits = 8 * HSM_NONCE_BYTES,
                                .aad_ptr = (uint8_t *)(uintptr_t)b->p, .aad_len = sizeof b->p, .tag_bits = 8 * HSM_TAG_BYTES};
    g->mechanism = (CK_MECHANISM){CKM_AES_GCM, &g->params, sizeof g->params};
}

static uint8_t *no_data(void)
{
    static uint8_t nothing[1];
    return nothing; /* an empty text is no NULL: that is how PKCS#11 asks for a length */
}

static RESULT gcm_encrypt(struct token *t, const struct key_pair *k, const uint8_t nonce[HSM_NONCE_BYTES], const struct binding *b,
                          struct bytes plain, uint8_t *out, struct err *e)
{
    struct gcm g;
    CK_ULONG n = plain.n + HSM_TAG_BYTES;
    gcm_init(&g, nonce, b);
    CK_RV rv = CALL(&t->m, C_EncryptInit, t->session, &g.mechanism, k->handle[KEY_AES]);
    if (rv != CKR_OK)
        return ckr_fail(rv, "C_EncryptInit", e);
    rv = CALL(&t->m, C_Encrypt, t->session, plain.n > 0 ? (CK_BYTE_PTR)(uintptr_t)plain.p : no_data(), plain.n, out, &n);
    if (rv != CKR_OK)
        return ckr_fail(rv, "C_Encrypt", e);
    return n == plain.n + HSM_TAG_BYTES ? ok() : wrong_answer(t, "C_Encrypt gave another length than GCM has", e);
}

/* out has room for body.n bytes: some tokens want room for the tag too. *ret_rv: what C_Decrypt said, where it was asked. */
static RESULT gcm_decrypt(struct token *t, const struct key_pair *k, const uint8_t nonce[HSM_NONCE_BYTES], const struct binding *b,
                          struct bytes body, uint8_t *out, CK_RV *ret_rv, struct err *e)
{
    struct gcm g;
    CK_ULONG n = body.n;
    *ret_rv = CKR_OK;
    gcm_init(&g, nonce, b);
    CK_RV rv = CALL(&t->m, C_DecryptInit, t->session, &g.mechanism, k->handle[KEY_AES]);
    if (rv != CKR_OK)
        return ckr_fail(rv, "C_DecryptInit", e);
    *ret_rv = CALL(&t->m, C_Decrypt, t->session, (CK_BYTE_PTR)(uintptr_t)body.p, body.n, out, &n);
    if (*ret_rv != CKR_OK)
        return ckr_fail(*ret_rv, "C_Decrypt", e);
    return n == body.n - HSM_TAG_BYTES ? ok() : wrong_answer(t, "C_Decrypt gave another length than GCM has", e);
}

/* ---- the known answer --------------------------------------------------------------------------------------------- */
static RESULT differs(const struct key_pair *k, struct err *e)
{
    char label[KEYS_LABEL_MAX];
    keys_label(KEY_AES, k->kvid, label);
    struct result r = err_set(e, ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", __FILE__, __LINE__,
                              "%s does not open what it sealed at birth: the key was damaged or exchanged", label);
    e->hint = "restore the token from its backup";
    return r;
}

/* A token that says that a message is bad, rather than that it itself is: some have only vague words for it (ckr.c). */
static bool about_the_message(CK_RV rv)
{
    return rv != CKR_OK && (ckr_class(rv) == CKR_CLASS_OTHER || rv == CKR_GENERAL_ERROR || rv == CKR_FUNCTION_FAILED);
}

static RESULT open_check(struct token *t, const struct key_pair *k, const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                         const uint8_t check[HSM_CHECK_BYTES], struct err *e)
{
    uint8_t header[HSM_HEADER_BYTES], commitment[HSM_COMMIT_BYTES], plain[HSM_KVID_BYTES + HSM_TAG_BYTES];
    struct binding b;
    struct err why = {0};
    CK_RV rv;
    header_of(HSM_SEALED_CHECK, k->kvid, header);
    TRY(commit(t, k, header, check + AT_NONCE, aad_hash, commitment, e));
    if (memcmp(header, check, sizeof header) != 0)
        return differs(k, e);
    if (!bytes_ct_equal(commitment, check + AT_COMMIT, sizeof commitment))
        return differs(k, e);
    binding_init(&b, header, commitment, aad_hash);
    if (gcm_decrypt(t, k, check + AT_NONCE, &b, BYTES(check + AT_BODY, HSM_CHECK_BYTES - AT_BODY), plain, &rv, &why).failed) {
        if (rv != CKR_OK && ckr_class(rv) == CKR_CLASS_OTHER)
            return differs(k, e);
        *e = why;
        return (struct result){1};
    }
    return memcmp(plain, k->kvid, HSM_KVID_BYTES) == 0 ? ok() : differs(k, e);
}

/* As derive does: an answer is believed when the key gives its known answer right after it. */
static RESULT still_right(struct token *t, const struct key_pair *k, struct err *e)
{
    struct err why = {0};
    if (!open_check(t, k, k->aad_hash, k->check, &why).failed)
        return ok();
    if (why.code == ERR_DATA_LOSS)
        return wrong_answer(t, "a key does not open what it sealed at birth", e);
    *e = why;
    return (struct result){1};
}

RESULT seal_check(struct token *t, struct key_pair *k, const uint8_t aad_hash[HSM_AAD_HASH_BYTES], const uint8_t check[HSM_CHECK_BYTES],
                  struct err *e)
{
    struct err why = {0};
    if (open_check(t, k, aad_hash, check, &why).failed) {
        if (why.code != ERR_DATA_LOSS) {
            *e = why;
            return (struct result){1};
        }
        TRY(open_check(t, k, aad_hash, check, e)); /* one wrong bit is no damaged key */
    }
    memcpy(k->aad_hash, aad_hash, sizeof k->aad_hash);
    memcpy(k->check, check, sizeof k->check);
    k->checked = true;
    return ok();
}

/* ---- sealing ------------------------------------------------------------------------------------------------------ */
static void wipe_body(uint8_t (*p)[BODY_MAX])
{
    wipe(*p, sizeof *p);
}

/* A wrong bit here would be noticed when the data is needed, and that is too late: what was made is opened before it is given away. */
static RESULT opens_again(struct token *t, const struct key_pair *k, const struct binding *b, const uint8_t *sealed, struct bytes plain,
                          struct err *e)
{
    CLEANUP(wipe_body) uint8_t again[BODY_MAX];
    uint8_t commitment[HSM_COMMIT_BYTES];
    struct err why = {0};
    CK_RV rv;
    TRY(commit(t, k, sealed, sealed + AT_NONCE, b->p + BINDING_BYTES - HSM_AAD_HASH_BYTES, commitment, e));
    if (!bytes_ct_equal(commitment, sealed + AT_COMMIT, sizeof commitment))
        return wrong_answer(t, "two commitments to one message", e);
    if (gcm_decrypt(t, k, sealed + AT_NONCE, b, BYTES(sealed + AT_BODY, plain.n + HSM_TAG_BYTES), again, &rv, &why).failed) {
        if (about_the_message(rv))
            return wrong_answer(t, "it does not open what it sealed", e);
        *e = why;
        return (struct result){1};
    }
    if (plain.n > 0 && !bytes_ct_equal(again, plain.p, plain.n))
        return wrong_answer(t, "it opens what it sealed to something else", e);
    return ok();
}

RESULT seal_message(struct token *t, const struct key_pair *k, enum hsm_sealed type, const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                    struct bytes plain, uint8_t *out, struct err *e)
{
    uint8_t nonce[NONCE_DRAW];
    struct binding b;
    INVARIANT(plain.n <= HSM_PLAIN_MAX);
    TRY(ops_random(t, nonce, sizeof nonce, e));
    header_of(type, k->kvid, out);
    memcpy(out + AT_NONCE, nonce, HSM_NONCE_BYTES);
    TRY(commit(t, k, out, out + AT_NONCE, aad_hash, out + AT_COMMIT, e));
    binding_init(&b, out, out + AT_COMMIT, aad_hash);
    TRY(gcm_encrypt(t, k, out + AT_NONCE, &b, plain, out + AT_BODY, e));
    return opens_again(t, k, &b, out, plain, e);
}

static RESULT usable(struct token *t, const uint8_t kvid[HSM_KVID_BYTES], struct key_pair **ret, struct err *e)
{
    TRY(keys_get(t, kvid, ret, e));
    if (!(*ret)->checked)
        FAIL(e, ERR_STATE, "HSM_KEY_UNCHECKED", "the key has not opened its check message since it was looked up");
    return ok();
}

static bool type_served(enum hsm_sealed type)
{
    return type == HSM_SEALED_DATA || type == HSM_SEALED_KEY; /* check messages are made at birth, and opened by ops_key_check */
}

RESULT ops_key_seal(struct token *t, const uint8_t kvid[HSM_KVID_BYTES], enum hsm_sealed type, const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                    struct bytes plain, uint8_t *out, struct err *e)
{
    struct key_pair *k;
    if (!type_served(type) || plain.n > HSM_PLAIN_MAX)
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "%zu bytes as type %u are none of our messages", plain.n, (unsigned)type);
    TRY(usable(t, kvid, &k, e));
    TRY(seal_message(t, k, type, aad_hash, plain, out, e));
    return still_right(t, k, e);
}

/* ---- opening ------------------------------------------------------------------------------------------------------ */

/* An HMAC that is not the message's: the message is bad, unless the token says something else when it is asked again. */
static RESULT check_commitment(struct token *t, const struct key_pair *k, const uint8_t *sealed, const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                               struct err *e)
{
    uint8_t one[HSM_COMMIT_BYTES], two[HSM_COMMIT_BYTES];
    TRY(commit(t, k, sealed, sealed + AT_NONCE, aad_hash, one, e));
    if (bytes_ct_equal(one, sealed + AT_COMMIT, sizeof one))
        return ok();
    TRY(commit(t, k, sealed, sealed + AT_NONCE, aad_hash, two, e));
    if (!bytes_ct_equal(one, two, sizeof one))
        return wrong_answer(t, "two commitments to one message", e);
    TRY(still_right(t, k, e));
    t->m.last_rv = CKR_OK;
    return bad_message(e);
}

/* A bad tag is answered by some tokens with the words for a broken device: who can still open its check message is not broken, and a
 * client's bad message must not make it start again. Asked twice: a device that failed once must not say that a good message is bad. */
static RESULT once_more(struct token *t, const struct key_pair *k, const uint8_t *nonce, const struct binding *b, struct bytes body,
                        uint8_t *out, CK_RV rv, const struct err *first, struct err *e)
{
    struct err why = {0};
    if (!about_the_message(rv)) {
        *e = *first;
        return (struct result){1};
    }
    TRY(still_right(t, k, e));
    if (!gcm_decrypt(t, k, nonce, b, body, out, &rv, &why).failed)
        return ok();
    if (about_the_message(rv)) {
        t->m.last_rv = CKR_OK;
        return bad_message(e);
    }
    *e = why;
    return (struct result){1};
}

static RESULT decrypt_twice(struct token *t, const struct key_pair *k, const struct binding *b, const uint8_t *nonce, struct bytes body,
                            uint8_t one[BODY_MAX], struct err *e)
{
    CLEANUP(wipe_body) uint8_t two[BODY_MAX];
    struct err why = {0};
    CK_RV rv;
    if (gcm_decrypt(t, k, nonce, b, body, one, &rv, &why).failed)
        TRY(once_more(t, k, nonce, b, body, one, rv, &why, e));
    TRY(gcm_decrypt(t, k, nonce, b, body, two, &rv, e));
    if (body.n > HSM_TAG_BYTES && !bytes_ct_equal(one, two, body.n - HSM_TAG_BYTES))
        return wrong_answer(t, "two texts from one message", e);
    return still_right(t, k, e);
}

RESULT ops_key_open(struct token *t, const uint8_t kvid[HSM_KVID_BYTES], enum hsm_sealed type, const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                    struct bytes untrusted_sealed, uint8_t *out, struct err *e)
{
    CLEANUP(wipe_body) uint8_t plain[BODY_MAX];
    uint8_t header[HSM_HEADER_BYTES];
    struct binding b;
    struct key_pair *k;
    const uint8_t *sealed = untrusted_sealed.p;
    if (!type_served(type))
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "type %u is none of our messages", (unsigned)type);
    TRY(usable(t, kvid, &k, e));
    header_of(type, kvid, header);
    if (untrusted_sealed.n < HSM_SEALED_OVERHEAD || untrusted_sealed.n > HSM_SEALED_OVERHEAD + HSM_PLAIN_MAX ||
        memcmp(header, sealed, sizeof header) != 0)
        return bad_message(e);
    TRY(check_commitment(t, k, sealed, aad_hash, e));
    binding_init(&b, sealed, sealed + AT_COMMIT, aad_hash);
    TRY(decrypt_twice(t, k, &b, sealed + AT_NONCE, BYTES(sealed + AT_BODY, untrusted_sealed.n - AT_BODY), plain, e));
    if (untrusted_sealed.n > HSM_SEALED_OVERHEAD)
        memcpy(out, plain, untrusted_sealed.n - HSM_SEALED_OVERHEAD);
    return ok();
}
