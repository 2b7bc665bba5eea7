#include "vault/client/local.h"

#include <limits.h>
/* OpenSSL's types.h declares a type ERR_STATE, which is the name of one of our codes. */
#define ERR_STATE OPENSSL_ERR_STATE
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#undef ERR_STATE
#include <stdlib.h>
#include <string.h>

static const uint8_t magic[8] = {'C', 'L', 'V', 'L', 1, 0, 0, 0};

size_t local_size(size_t wrapped_len, size_t plain_len)
{
    return sizeof magic + 2 + wrapped_len + LOCAL_SALT_BYTES + LOCAL_COMMIT_BYTES + plain_len + LOCAL_TAG_BYTES;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct claviger_pair *)a)->key, ((const struct claviger_pair *)b)->key);
}

/* The same canonical forms as the server's (docs/FORMATS.md): "ctx1" and sorted pairs, or "aad1" and the bytes. */
RESULT local_aad(const struct claviger_binding *b, struct buf *out, struct claviger_error *e)
{
    if (!b || b->context_len == 0) {
        buf_put(out, "aad1", 4);
        if (b)
            buf_put(out, b->aad, b->aad_len);
    } else {
        struct claviger_pair sorted[CLAVIGER_CONTEXT_PAIRS_MAX];
        memcpy(sorted, b->context, b->context_len * sizeof *sorted);
        qsort(sorted, b->context_len, sizeof *sorted, by_key);
        buf_put(out, "ctx1", 4);
        buf_put_u16(out, (uint16_t)b->context_len);
        for (size_t i = 0; i < b->context_len; i++) {
            buf_put_v16(out, bytes_str(sorted[i].key));
            buf_put_v16(out, bytes_str(sorted[i].value));
        }
    }
    if (out->overflow)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_BINDING", "the binding is too long");
    return ok();
}

static void derive(const struct secret *key, const char *label, struct bytes salt, uint8_t out[32])
{
    uint8_t in[64];
    size_t n = strlen(label);
    INVARIANT(n + 1 + salt.n <= sizeof in);
    memcpy(in, label, n + 1); /* with its NUL: no label is the beginning of another's input */
    memcpy(in + n + 1, salt.p, salt.n);
    unsigned len = 32;
    INVARIANT(HMAC(EVP_sha256(), secret_borrow(key), (int)secret_len(key), in, n + 1 + salt.n, out, &len) && len == 32);
}

/* GCM's AAD: everything in front of the ciphertext, then the caller's binding; lengths make the split unambiguous. */
static void feed_aad(EVP_CIPHER_CTX *c, int (*update)(EVP_CIPHER_CTX *, unsigned char *, int *, const unsigned char *, int),
                     struct bytes header, const uint8_t *commitment, struct bytes aad)
{
    uint8_t len[8];
    put_be32(len, (uint32_t)header.n);
    put_be32(len + 4, (uint32_t)aad.n);
    int n;
    INVARIANT(update(c, NULL, &n, len, sizeof len) == 1);
    INVARIANT(update(c, NULL, &n, header.p, (int)header.n) == 1);
    INVARIANT(update(c, NULL, &n, commitment, LOCAL_COMMIT_BYTES) == 1);
    INVARIANT(update(c, NULL, &n, aad.p, (int)aad.n) == 1);
}

/* The key serves one message, so its nonce may be a constant. */
static const uint8_t zero_nonce[12];

void local_seal(const struct secret *key, struct bytes wrapped, struct bytes aad, struct bytes plain, const struct rng *rng,
                uint8_t *out)
{
    INVARIANT(plain.n <= CLAVIGER_LOCAL_PLAINTEXT_MAX && wrapped.n <= LOCAL_WRAPPED_MAX);
    uint8_t *p = out;
    memcpy(p, magic, sizeof magic);
    put_be16(p + sizeof magic, (uint16_t)wrapped.n);
    p += sizeof magic + 2;
    memcpy(p, wrapped.p, wrapped.n);
    p += wrapped.n;
    rng_fill(rng, p, LOCAL_SALT_BYTES);
    struct bytes salt = BYTES(p, LOCAL_SALT_BYTES);
    p += LOCAL_SALT_BYTES;
    struct bytes header = BYTES(out, (size_t)(p - out));
    uint8_t message_key[32];
    derive(key, "claviger.local.v1.encrypt", salt, message_key);
    derive(key, "claviger.local.v1.commit", salt, p);
    const uint8_t *commitment = p;
    p += LOCAL_COMMIT_BYTES;
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    INVARIANT(c && EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, message_key, zero_nonce) == 1);
    wipe(message_key, sizeof message_key);
    feed_aad(c, EVP_EncryptUpdate, header, commitment, aad);
    int n = 0;
    INVARIANT(EVP_EncryptUpdate(c, p, &n, plain.p ? plain.p : p, (int)plain.n) == 1 && (size_t)n == plain.n);
    INVARIANT(EVP_EncryptFinal_ex(c, p + plain.n, &n) == 1 && n == 0);
    INVARIANT(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, LOCAL_TAG_BYTES, p + plain.n) == 1);
    EVP_CIPHER_CTX_free(c);
}

static struct result refuse(struct claviger_error *e)
{
    return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "CIPHERTEXT", "the ciphertext cannot be decrypted");
}

RESULT local_parse(struct bytes untrusted, struct local_parts *ret, struct claviger_error *e)
{
    struct reader r = reader_of(untrusted);
    struct bytes m = reader_take(&r, sizeof magic);
    struct local_parts p = {.wrapped = reader_v16(&r), .salt = reader_take(&r, LOCAL_SALT_BYTES)};
    p.commitment = reader_take(&r, LOCAL_COMMIT_BYTES);
    if (r.bad || !bytes_equal(m, BYTES(magic, sizeof magic)) || p.wrapped.n > LOCAL_WRAPPED_MAX || r.n < LOCAL_TAG_BYTES ||
        r.n - LOCAL_TAG_BYTES > CLAVIGER_LOCAL_PLAINTEXT_MAX)
        return refuse(e);
    p.header = BYTES(untrusted.p, sizeof magic + 2 + p.wrapped.n + LOCAL_SALT_BYTES);
    p.sealed = BYTES(r.p, r.n);
    *ret = p;
    return ok();
}

static bool gcm_open(const uint8_t message_key[32], const struct local_parts *p, struct bytes aad, uint8_t *out)
{
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    INVARIANT(c && EVP_DecryptInit_ex(c, EVP_aes_256_gcm(), NULL, message_key, zero_nonce) == 1);
    feed_aad(c, EVP_DecryptUpdate, p->header, p->commitment.p, aad);
    size_t len = p->sealed.n - LOCAL_TAG_BYTES;
    uint8_t tag[LOCAL_TAG_BYTES];
    memcpy(tag, p->sealed.p + len, sizeof tag);
    int n = 0;
    bool good = EVP_DecryptUpdate(c, out, &n, p->sealed.p, (int)len) == 1 &&
                EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, LOCAL_TAG_BYTES, tag) == 1 &&
                EVP_DecryptFinal_ex(c, out + len, &n) == 1;
    EVP_CIPHER_CTX_free(c);
    if (!good)
        wipe(out, len);
    return good;
}

RESULT local_open(const struct secret *key, const struct local_parts *p, struct bytes aad, uint8_t *out, struct claviger_error *e)
{
    uint8_t message_key[32], commitment[LOCAL_COMMIT_BYTES];
    derive(key, "claviger.local.v1.commit", p->salt, commitment);
    if (!bytes_ct_equal(commitment, p->commitment.p, LOCAL_COMMIT_BYTES))
        return refuse(e);
    derive(key, "claviger.local.v1.encrypt", p->salt, message_key);
    bool good = gcm_open(message_key, p, aad, out);
    wipe(message_key, sizeof message_key);
    return good ? ok() : refuse(e);
}
