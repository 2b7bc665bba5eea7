#include "hsm/call.h"

#include <string.h>

enum { GENERATE_EXTRA_MS = 20000 };

static RESULT call(struct hsm *h, enum wire_op op, const struct buf *request, uint8_t *reply, struct reader *ret, struct err *e)
{
    return hsm_call(h, 0, op, request, NULL, reply, ret, e);
}

static RESULT finish(const struct reader *r, struct err *e)
{
    return reader_done(r) ? ok() : hsm_unavailable("an answer of the hsm process cannot be read", e);
}

static void take_text(struct reader *r, char *out, size_t n)
{
    struct bytes s = reader_v16(r);
    size_t take = s.n < n - 1 ? s.n : n - 1;
    if (take > 0)
        memcpy(out, s.p, take);
    out[take] = '\0';
}

RESULT hsm_probe(struct hsm *h, struct hsm_status *ret, struct err *e)
{
    uint8_t reply[WIRE_MAX];
    struct buf none = {0};
    struct reader r;
    struct hsm_status st = {0};
    TRY(call(h, WIRE_PROBE, &none, reply, &r, e));
    st.logged_in = reader_u8(&r) != 0;
    take_text(&r, st.token_label, sizeof st.token_label);
    take_text(&r, st.manufacturer, sizeof st.manufacturer);
    take_text(&r, st.model, sizeof st.model);
    take_text(&r, st.serial, sizeof st.serial);
    st.master_newest = reader_u32(&r);
    st.seal_newest = reader_u32(&r);
    st.audit_newest = reader_u32(&r);
    take_text(&r, st.missing, sizeof st.missing);
    take_text(&r, st.cannot, sizeof st.cannot);
    take_text(&r, st.weaknesses, sizeof st.weaknesses);
    st.calls = reader_u64(&r);
    st.failures = reader_u64(&r);
    st.copyable = reader_u8(&r) != 0;
    st.backups = reader_u32(&r);
    TRY(finish(&r, e));
    *ret = st;
    return ok();
}

static void wipe_reply(uint8_t (*reply)[WIRE_MAX])
{
    wipe(*reply, WIRE_MAX);
}

RESULT hsm_derive(struct hsm *h, enum hsm_object object, uint32_t version, struct bytes kdf_input, struct secret **ret,
                  struct err *e)
{
    CLEANUP(secret_freep) struct secret *key = NULL;
    CLEANUP(buf_release) struct buf b = {0};
    uint8_t reply[WIRE_MAX];
    struct reader r;
    if (kdf_input.n > KDFENC_MAX_BYTES)
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "an input of %zu bytes is not our KDF encoding", kdf_input.n);
    buf_init(&b, KDFENC_MAX_BYTES + 16);
    buf_put_u8(&b, (uint8_t)object);
    buf_put_u32(&b, version);
    buf_put_v16(&b, kdf_input);
    TRY(secret_new(SECRET_KEY_BYTES, &key, e));
    TRY(hsm_call(h, 0, WIRE_DERIVE, &b, key, reply, &r, e));
    TRY(finish(&r, e));
    *ret = key;
    key = NULL;
    return ok();
}

RESULT hsm_random(struct hsm *h, void *out, size_t n, struct err *e)
{
    CLEANUP(wipe_reply) uint8_t reply[WIRE_MAX];
    CLEANUP(buf_release) struct buf b = {0};
    struct reader r;
    if (n == 0 || n > HSM_RANDOM_MAX)
        FAIL(e, ERR_INVALID, "HSM_BAD_REQUEST", "%zu random bytes asked for", n);
    buf_init(&b, 16);
    buf_put_u16(&b, (uint16_t)n);
    TRY(call(h, WIRE_RANDOM, &b, reply, &r, e));
    struct bytes random = reader_take(&r, n);
    TRY(finish(&r, e));
    memcpy(out, random.p, n);
    return ok();
}

static RESULT call_sign(struct hsm *h, enum wire_op op, uint32_t version, struct bytes message, uint8_t sig[HSM_SIG_MAX], size_t *ret_n,
                        struct err *e)
{
    uint8_t reply[WIRE_MAX];
    CLEANUP(buf_release) struct buf b = {0};
    struct reader r;
    if (message.n > HSM_MESSAGE_MAX)
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "%zu bytes are too long to be signed", message.n);
    buf_init(&b, HSM_MESSAGE_MAX + 16);
    buf_put_u32(&b, version);
    buf_put_v16(&b, message);
    TRY(call(h, op, &b, reply, &r, e));
    struct bytes s = reader_v16(&r);
    TRY(finish(&r, e));
    if (s.n == 0 || s.n > HSM_SIG_MAX)
        return hsm_unavailable("an answer of the hsm process cannot be read", e);
    memcpy(sig, s.p, s.n);
    *ret_n = s.n;
    return ok();
}

RESULT hsm_sign_checkpoint(struct hsm *h, uint32_t version, struct bytes message, uint8_t sig[HSM_SIG_MAX], size_t *ret_n,
                           struct err *e)
{
    return call_sign(h, WIRE_SIGN_CHECKPOINT, version, message, sig, ret_n, e);
}

RESULT hsm_sign_certificate(struct hsm *h, uint32_t version, struct bytes text, uint8_t sig[HSM_SIG_MAX], size_t *ret_n, struct err *e)
{
    return call_sign(h, WIRE_SIGN_CERTIFICATE, version, text, sig, ret_n, e);
}

RESULT hsm_audit_pubkey(struct hsm *h, uint32_t version, uint8_t out[HSM_PUBKEY_MAX], size_t *ret_n, bool *ret_ed25519,
                        struct err *e)
{
    uint8_t reply[WIRE_MAX];
    CLEANUP(buf_release) struct buf b = {0};
    struct reader r;
    buf_init(&b, 16);
    buf_put_u32(&b, version);
    TRY(call(h, WIRE_AUDIT_PUBKEY, &b, reply, &r, e));
    bool ed25519 = reader_u8(&r) != 0;
    struct bytes key = reader_v16(&r);
    TRY(finish(&r, e));
    if (key.n == 0 || key.n > HSM_PUBKEY_MAX)
        return hsm_unavailable("an answer of the hsm process cannot be read", e);
    memcpy(out, key.p, key.n);
    *ret_n = key.n;
    *ret_ed25519 = ed25519;
    return ok();
}

static RESULT call_object(struct hsm *h, enum wire_op op, uint64_t extra_ms, enum hsm_object object, uint32_t version,
                          struct err *e)
{
    uint8_t reply[WIRE_MAX];
    CLEANUP(buf_release) struct buf b = {0};
    struct reader r;
    buf_init(&b, 16);
    buf_put_u8(&b, (uint8_t)object);
    buf_put_u32(&b, version);
    TRY(hsm_call(h, extra_ms, op, &b, NULL, reply, &r, e));
    return finish(&r, e);
}

RESULT hsm_generate(struct hsm *h, enum hsm_object object, uint32_t version, struct err *e)
{
    return call_object(h, WIRE_GENERATE, GENERATE_EXTRA_MS, object, version, e);
}

RESULT hsm_destroy(struct hsm *h, enum hsm_object object, uint32_t version, struct err *e)
{
    return call_object(h, WIRE_DESTROY, 0, object, version, e);
}

RESULT hsm_backup(struct hsm *h, struct hsm_backup *ret, struct err *e)
{
    uint8_t reply[WIRE_MAX];
    struct buf none = {0};
    struct reader r;
    TRY(hsm_call(h, HSM_BACKUP_MS, WIRE_BACKUP, &none, NULL, reply, &r, e));
    take_text(&r, ret->path, sizeof ret->path);
    take_text(&r, ret->serial, sizeof ret->serial);
    take_text(&r, ret->holds, sizeof ret->holds);
    ret->made_unix_s = (int64_t)reader_u64(&r);
    ret->keys = reader_u32(&r);
    return finish(&r, e);
}

RESULT hsm_anchor_get(struct hsm *h, uint8_t out[HSM_ANCHOR_MAX], size_t *ret_n, struct err *e)
{
    uint8_t reply[WIRE_MAX];
    struct buf none = {0};
    struct reader r;
    TRY(call(h, WIRE_ANCHOR_GET, &none, reply, &r, e));
    struct bytes value = reader_v16(&r);
    TRY(finish(&r, e));
    if (value.n > HSM_ANCHOR_MAX)
        return hsm_unavailable("an answer of the hsm process cannot be read", e);
    if (value.n > 0)
        memcpy(out, value.p, value.n);
    *ret_n = value.n;
    return ok();
}

RESULT hsm_anchor_put(struct hsm *h, struct bytes value, struct err *e)
{
    uint8_t reply[WIRE_MAX];
    CLEANUP(buf_release) struct buf b = {0};
    struct reader r;
    if (value.n > HSM_ANCHOR_MAX)
        FAIL(e, ERR_INVALID, "HSM_BAD_REQUEST", "an anchor of %zu bytes is too long", value.n);
    buf_init(&b, HSM_ANCHOR_MAX + 16);
    buf_put_v16(&b, value);
    TRY(call(h, WIRE_ANCHOR_PUT, &b, reply, &r, e));
    return finish(&r, e);
}

RESULT hsm_anchor_try(struct hsm *h, struct err *e)
{
    uint8_t reply[WIRE_MAX];
    struct buf none = {0};
    struct reader r;
    TRY(call(h, WIRE_ANCHOR_TRY, &none, reply, &r, e));
    return finish(&r, e);
}

/* ---- keys of protection level HSM ---- */
static void begin_key(struct buf *b, const uint8_t kvid[HSM_KVID_BYTES])
{
    buf_init(b, WIRE_MAX - 16);
    buf_put(b, kvid, HSM_KVID_BYTES);
}

RESULT hsm_key_generate(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                        uint8_t check[HSM_CHECK_BYTES], struct err *e)
{
    CLEANUP(buf_release) struct buf b = {0};
    uint8_t reply[WIRE_MAX], got[HSM_CHECK_BYTES];
    struct reader r;
    begin_key(&b, kvid);
    buf_put(&b, aad_hash, HSM_AAD_HASH_BYTES);
    TRY(hsm_call(h, GENERATE_EXTRA_MS, WIRE_KEY_GENERATE, &b, NULL, reply, &r, e));
    reader_copy(&r, got, sizeof got);
    TRY(finish(&r, e));
    memcpy(check, got, sizeof got);
    return ok();
}

RESULT hsm_key_check(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                     const uint8_t check[HSM_CHECK_BYTES], struct err *e)
{
    CLEANUP(buf_release) struct buf b = {0};
    uint8_t reply[WIRE_MAX];
    struct reader r;
    begin_key(&b, kvid);
    buf_put(&b, aad_hash, HSM_AAD_HASH_BYTES);
    buf_put(&b, check, HSM_CHECK_BYTES);
    TRY(call(h, WIRE_KEY_CHECK, &b, reply, &r, e));
    return finish(&r, e);
}

static RESULT message(struct hsm *h, enum wire_op op, const uint8_t kvid[HSM_KVID_BYTES], enum hsm_sealed type,
                      const uint8_t aad_hash[HSM_AAD_HASH_BYTES], struct bytes in, uint8_t *out, size_t out_n, struct err *e)
{
    CLEANUP(wipe_reply) uint8_t reply[WIRE_MAX];
    CLEANUP(buf_release) struct buf b = {0};
    struct reader r;
    begin_key(&b, kvid);
    buf_put_u8(&b, (uint8_t)type);
    buf_put(&b, aad_hash, HSM_AAD_HASH_BYTES);
    buf_put_v16(&b, in);
    TRY(call(h, op, &b, reply, &r, e));
    struct bytes got = reader_take(&r, out_n);
    TRY(finish(&r, e));
    if (out_n > 0)
        memcpy(out, got.p, out_n);
    return ok();
}

RESULT hsm_key_seal(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], enum hsm_sealed type,
                    const uint8_t aad_hash[HSM_AAD_HASH_BYTES], struct bytes plain, uint8_t *out, struct err *e)
{
    if (plain.n > HSM_PLAIN_MAX)
        FAIL(e, ERR_INVALID, "HSM_BAD_REQUEST", "%zu bytes are more than the token seals at once", plain.n);
    return message(h, WIRE_KEY_SEAL, kvid, type, aad_hash, plain, out, plain.n + HSM_SEALED_OVERHEAD, e);
}

RESULT hsm_key_open(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], enum hsm_sealed type,
                    const uint8_t aad_hash[HSM_AAD_HASH_BYTES], struct bytes untrusted_sealed, uint8_t *out, struct err *e)
{
    if (untrusted_sealed.n < HSM_SEALED_OVERHEAD || untrusted_sealed.n > HSM_SEALED_OVERHEAD + HSM_PLAIN_MAX)
        FAIL(e, ERR_CIPHERTEXT, NULL, "not an intact message under this key");
    return message(h, WIRE_KEY_OPEN, kvid, type, aad_hash, untrusted_sealed, out, untrusted_sealed.n - HSM_SEALED_OVERHEAD, e);
}

RESULT hsm_key_destroy(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], struct err *e)
{
    CLEANUP(buf_release) struct buf b = {0};
    uint8_t reply[WIRE_MAX];
    struct reader r;
    begin_key(&b, kvid);
    TRY(call(h, WIRE_KEY_DESTROY, &b, reply, &r, e));
    return finish(&r, e);
}

RESULT hsm_key_list(struct hsm *h, const uint8_t *after, uint8_t out[HSM_KEY_PAGE][HSM_KVID_BYTES], size_t *ret_n, struct err *e)
{
    CLEANUP(buf_release) struct buf b = {0};
    uint8_t reply[WIRE_MAX];
    struct reader r;
    buf_init(&b, 32);
    buf_put_v16(&b, BYTES(after, after != NULL ? HSM_KVID_BYTES : 0));
    TRY(call(h, WIRE_KEY_LIST, &b, reply, &r, e));
    if (r.n % HSM_KVID_BYTES != 0 || r.n > (size_t)HSM_KEY_PAGE * HSM_KVID_BYTES)
        return hsm_unavailable("an answer of the hsm process cannot be read", e);
    *ret_n = r.n / HSM_KVID_BYTES;
    memcpy(out, r.p, r.n);
    return ok();
}
