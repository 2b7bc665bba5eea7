#include "kms/crypto/aead.h"

#include "kms/crypto/aead_at.h"
#include "kms/crypto/cipher.h"
#include "kms/crypto/hmac.h"
#include "kms/crypto/kdf.h"
#include "kms/crypto/nonce.h"
#include "kms/crypto/xaes.h"

#include <string.h>

/* The slot: encrypt key, its CMAC subkey, saved states of the commit key. */
enum { AT_KEY = 0, AT_K1 = AT_KEY + XAES_KEY_BYTES, AT_COMMIT = AT_K1 + XAES_K1_BYTES,
       SLOT_BYTES = AT_COMMIT + HMAC_STATES_BYTES };
_Static_assert((int)SLOT_BYTES <= (int)SECRET_MAX_BYTES, "a key is one slot");

/* An aead_key is its slot under another name, so that a cached key costs no allocation; it is never dereferenced. */
static const uint8_t *slot(const struct aead_key *k)
{
    return secret_borrow((const struct secret *)k);
}

RESULT aead_key_derive(const struct secret *parent, enum kdf_label label, struct bytes *fields, size_t nfields, size_t use_at,
                       struct aead_key **ret, struct err *e)
{
    INVARIANT(use_at < nfields);
    CLEANUP(secret_freep) struct secret *encrypt = NULL, *commit = NULL, *s = NULL;
    fields[use_at] = BYTES_LIT("encrypt");
    TRY(kdf_derive(parent, label, fields, nfields, &encrypt, e));
    fields[use_at] = BYTES_LIT("commit");
    TRY(kdf_derive(parent, label, fields, nfields, &commit, e));
    TRY(secret_new(SLOT_BYTES, &s, e));
    uint8_t *p = secret_borrow_mut(s);
    memcpy(p + AT_KEY, secret_borrow(encrypt), XAES_KEY_BYTES);
    xaes_k1(p + AT_KEY, p + AT_K1);
    hmac_states_init(BYTES(secret_borrow(commit), secret_len(commit)), p + AT_COMMIT);
    *ret = (struct aead_key *)s;
    s = NULL;
    return ok();
}

void aead_key_free(struct aead_key *k)
{
    secret_free((struct secret *)k);
}

void aead_key_freep(struct aead_key **k)
{
    aead_key_free(*k);
    *k = NULL;
}

/* What the tag and the commitment bind: u32 header length, header, commitment, SHA-256(aad), in the order of the GCM AAD. */
struct binding {
    uint8_t p[4 + AEAD_HEADER_MAX + AEAD_COMMIT_BYTES + 32];
    size_t header_n;
};

static void binding_init(struct binding *b, struct bytes header, struct bytes aad)
{
    INVARIANT(header.n <= AEAD_HEADER_MAX);
    b->header_n = 4 + header.n;
    put_be32(b->p, (uint32_t)header.n);
    if (header.n > 0)
        memcpy(b->p + 4, header.p, header.n);
    sha256(&aad, 1, b->p + b->header_n + AEAD_COMMIT_BYTES);
}

static void binding_commit(struct binding *b, const struct aead_key *k, const uint8_t nonce[AEAD_NONCE_BYTES])
{
    uint8_t *commitment = b->p + b->header_n;
    hmac_states_mac(slot(k) + AT_COMMIT,
                    (struct bytes[]){BYTES(b->p, b->header_n), BYTES(nonce, AEAD_NONCE_BYTES),
                                     BYTES(commitment + AEAD_COMMIT_BYTES, 32)},
                    3, commitment);
}

static struct bytes binding_aad(const struct binding *b)
{
    return BYTES(b->p, b->header_n + AEAD_COMMIT_BYTES + 32);
}

void aead_seal_at(const struct aead_key *k, const uint8_t nonce[AEAD_NONCE_BYTES], struct bytes header, struct bytes aad,
                  struct bytes plain, uint8_t *out)
{
    struct binding b;
    binding_init(&b, header, aad);
    binding_commit(&b, k, nonce);
    uint8_t kx[XAES_KEY_BYTES];
    xaes_kx(slot(k) + AT_KEY, slot(k) + AT_K1, nonce, kx);

    memcpy(out, b.p + 4, header.n);
    out += header.n;
    memcpy(out, b.p + b.header_n, AEAD_COMMIT_BYTES);
    out += AEAD_COMMIT_BYTES;
    memcpy(out, nonce, AEAD_NONCE_BYTES);
    out += AEAD_NONCE_BYTES;
    cipher_gcm_seal(kx, nonce + XAES_PREFIX_BYTES, binding_aad(&b), plain, out);
    wipe(kx, sizeof kx);
}

void aead_seal(const struct aead_key *k, struct bytes header, struct bytes aad, struct bytes plain, uint8_t *out)
{
    uint8_t nonce[AEAD_NONCE_BYTES];
    nonce_fill(nonce, sizeof nonce);
    aead_seal_at(k, nonce, header, aad, plain, out);
}

/* sealed.n has been checked. The commitment first: a message that was not made under this key never reaches GCM. */
static bool open_checked(const struct aead_key *k, size_t header_n, struct bytes aad, struct bytes sealed, uint8_t *out)
{
    struct reader r = reader_of(sealed);
    struct binding b;
    binding_init(&b, reader_take(&r, header_n), aad);
    struct bytes commitment = reader_take(&r, AEAD_COMMIT_BYTES), nonce = reader_take(&r, AEAD_NONCE_BYTES);
    INVARIANT(!r.bad);
    binding_commit(&b, k, nonce.p);
    if (!bytes_ct_equal(b.p + b.header_n, commitment.p, AEAD_COMMIT_BYTES))
        return false;
    uint8_t kx[XAES_KEY_BYTES];
    xaes_kx(slot(k) + AT_KEY, slot(k) + AT_K1, nonce.p, kx);
    bool good = cipher_gcm_open(kx, nonce.p + XAES_PREFIX_BYTES, binding_aad(&b), BYTES(r.p, r.n), out);
    wipe(kx, sizeof kx);
    return good;
}

RESULT aead_open(const struct aead_key *k, size_t header_n, struct bytes aad, struct bytes sealed, uint8_t *out, struct err *e)
{
    INVARIANT(header_n <= AEAD_HEADER_MAX);
    if (sealed.n < header_n + AEAD_OVERHEAD)
        FAIL(e, ERR_CIPHERTEXT, NULL, "not an intact message under this key");
    size_t plain_n = sealed.n - header_n - AEAD_OVERHEAD;
    INVARIANT(out != NULL || plain_n == 0);
    if (open_checked(k, header_n, aad, sealed, out))
        return ok();
    if (plain_n > 0)
        wipe(out, plain_n);
    FAIL(e, ERR_CIPHERTEXT, NULL, "not an intact message under this key");
}
