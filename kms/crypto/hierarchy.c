#include "kms/crypto/hierarchy.h"

#include "kms/crypto/kdf.h"

#include <string.h>

void hierarchy_l1_input(const struct hierarchy_tenant *t, const uint8_t salt[HIERARCHY_SALT_BYTES], struct buf *out)
{
    uint8_t master[4];
    put_be32(master, t->master);
    const struct bytes fields[] = {
        BYTES(t->instance, HIERARCHY_ID_BYTES), BYTES(t->tenant, HIERARCHY_ID_BYTES), t->location,
        BYTES(salt, HIERARCHY_SALT_BYTES),      BYTES(master, sizeof master),
    };
    INVARIANT(kdfenc_build(KDF_TENANT_KEK, fields, sizeof fields / sizeof fields[0], out) && !out->overflow);
}

RESULT hierarchy_kcv(const struct secret *l1, uint8_t out[HIERARCHY_KCV_BYTES], struct err *e)
{
    CLEANUP(secret_freep) struct secret *v = NULL;
    TRY(kdf_derive(l1, KDF_KEK_KCV, NULL, 0, &v, e));
    memcpy(out, secret_borrow(v), HIERARCHY_KCV_BYTES);
    return ok();
}

RESULT hierarchy_kek(const struct secret *l1, struct aead_key **ret, struct err *e)
{
    struct bytes use = {0};
    return aead_key_derive(l1, KDF_KEK_WRAP, &use, 1, 0, ret, e);
}

enum { L2_AAD_MAX = 4 + 16 + 16 + 2 + 63 + 2 + KDFENC_NAME_MAX + 12 };

static void l2_aad(const struct hierarchy_tenant *t, const struct hierarchy_ctx *c, struct buf *out)
{
    INVARIANT(bytes_equal(BYTES(t->tenant, HIERARCHY_ID_BYTES), BYTES(c->tenant, HIERARCHY_ID_BYTES)));
    INVARIANT(bytes_equal(t->location, c->location));
    buf_put_str(out, "l2v1");
    buf_put(out, t->instance, sizeof t->instance);
    buf_put(out, c->tenant, sizeof c->tenant);
    buf_put_v16(out, c->location);
    buf_put_v16(out, c->key);
    buf_put_u32(out, c->version);
    buf_put_u32(out, t->master);
    buf_put_u32(out, HIERARCHY_ALG_XAES_256_GCM);
    INVARIANT(!out->overflow);
}

void hierarchy_token_aad(const struct hierarchy_tenant *t, const struct hierarchy_ctx *c, uint8_t out[32])
{
    CLEANUP(buf_release) struct buf aad = {0};
    INVARIANT(bytes_equal(t->location, c->location));
    buf_init(&aad, L2_AAD_MAX);
    buf_put_str(&aad, "tkv1");
    buf_put(&aad, t->instance, sizeof t->instance);
    buf_put(&aad, c->tenant, sizeof c->tenant);
    buf_put_v16(&aad, c->location);
    buf_put_v16(&aad, c->key);
    buf_put_u32(&aad, c->version);
    buf_put_u32(&aad, HIERARCHY_ALG_TOKEN_AES_256_GCM);
    INVARIANT(!aad.overflow);
    const struct bytes all = buf_bytes(&aad);
    sha256(&all, 1, out);
}

void hierarchy_l2_wrap(const struct aead_key *kek, const struct hierarchy_tenant *t, const struct hierarchy_ctx *c,
                       const struct secret *l2, uint8_t out[HIERARCHY_L2_WRAPPED_BYTES])
{
    INVARIANT(secret_len(l2) == HIERARCHY_L2_BYTES);
    CLEANUP(buf_release) struct buf aad = {0};
    buf_init(&aad, L2_AAD_MAX);
    l2_aad(t, c, &aad);
    envelope_seal(kek, FORMAT_KEY_VERSION, c->kvid, NULL, buf_bytes(&aad), BYTES(secret_borrow(l2), HIERARCHY_L2_BYTES), out);
}

RESULT hierarchy_l2_unwrap(const struct aead_key *kek, const struct hierarchy_tenant *t, const struct hierarchy_ctx *c,
                           struct bytes wrapped, struct secret **ret, struct err *e)
{
    if (wrapped.n != HIERARCHY_L2_WRAPPED_BYTES)
        FAIL(e, ERR_CIPHERTEXT, NULL, "a wrapped key version is %d bytes, not %zu", HIERARCHY_L2_WRAPPED_BYTES, wrapped.n);
    CLEANUP(buf_release) struct buf aad = {0};
    buf_init(&aad, L2_AAD_MAX);
    l2_aad(t, c, &aad);
    CLEANUP(secret_freep) struct secret *l2 = NULL;
    TRY(secret_new(HIERARCHY_L2_BYTES, &l2, e));
    TRY(envelope_open(kek, FORMAT_KEY_VERSION, c->kvid, buf_bytes(&aad), wrapped, secret_borrow_mut(l2), e));
    *ret = l2;
    l2 = NULL;
    return ok();
}

static struct bytes purpose_text(enum hierarchy_purpose purpose)
{
    switch (purpose) { /* cover-ok: a purpose that is none is a bug */
    case HIERARCHY_ENCRYPT:
        return BYTES_LIT("encrypt");
    case HIERARCHY_WRAP:
        return BYTES_LIT("wrap");
    }
    invariant_failed("unknown purpose", __FILE__, __LINE__);
}

RESULT hierarchy_purpose_key(const struct secret *l2, const struct hierarchy_ctx *c, enum hierarchy_purpose purpose,
                             struct bytes subject_salt, struct aead_key **ret, struct err *e)
{
    enum { USE_AT = 6 };
    uint8_t version[4];
    put_be32(version, c->version);
    INVARIANT(subject_salt.n == 0 || subject_salt.n == HIERARCHY_SALT_BYTES);
    struct bytes fields[] = {
        BYTES(c->tenant, HIERARCHY_ID_BYTES), c->location, c->key, BYTES(version, sizeof version),
        BYTES(c->kvid, FORMAT_KVID_BYTES), purpose_text(purpose), [USE_AT] = {0}, subject_salt,
    };
    return aead_key_derive(l2, KDF_PURPOSE, fields, sizeof fields / sizeof fields[0], USE_AT, ret, e);
}

void envelope_seal(const struct aead_key *k, enum format_type type, const uint8_t kvid[FORMAT_KVID_BYTES],
                   const uint8_t subject[FORMAT_SUBJECT_BYTES], struct bytes aad, struct bytes plain, uint8_t *out)
{
    struct format_header h = {.type = type};
    uint8_t header[FORMAT_HEADER_BYTES];
    memcpy(h.kvid, kvid, sizeof h.kvid);
    if (subject != NULL)
        memcpy(h.subject, subject, sizeof h.subject);
    format_header_put(&h, header);
    aead_seal(k, BYTES(header, sizeof header), aad, plain, out);
}

RESULT envelope_open(const struct aead_key *k, enum format_type type, const uint8_t kvid[FORMAT_KVID_BYTES],
                     struct bytes aad, struct bytes untrusted_sealed, uint8_t *out, struct err *e)
{
    struct format_header h;
    struct result parsed = format_header_parse(untrusted_sealed, &h, e);
    bool ours = !parsed.failed && h.type == type &&
                bytes_equal(BYTES(h.kvid, sizeof h.kvid), BYTES(kvid, FORMAT_KVID_BYTES));
    if (ours)
        return aead_open(k, FORMAT_HEADER_BYTES, aad, untrusted_sealed, out, e);
    if (untrusted_sealed.n > FORMAT_OVERHEAD)
        wipe(out, untrusted_sealed.n - FORMAT_OVERHEAD);
    FAIL(e, ERR_CIPHERTEXT, NULL, "not an envelope of this type and key version");
}
