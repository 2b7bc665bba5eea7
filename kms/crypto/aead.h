/*
 * Purpose: the one authenticated encryption: committing XAES-256-GCM (C2SP XAES-256-GCM; commitment as in DESIGN section 5).
 *          Every format of ours (ciphertext, wrapped key, sealed record, page token, audit body) is
 *              header || commitment[32] || nonce[24] || GCM ciphertext || tag[16]
 *          commitment = HMAC-SHA-256(commit key, u32 len(header) || header || nonce || SHA-256(aad))
 *          GCM AAD    = u32 len(header) || header || commitment || SHA-256(aad)      (nonce enters through XAES itself)
 * Owns:    struct aead_key owns one secret slot: encrypt key, its CMAC subkey, two saved HMAC states (112 bytes).
 * Threads: a key is read-only after it is made: share it freely. OpenSSL contexts are per thread, inside.
 * Errors:  aead_open: ERR_CIPHERTEXT, one text for every cause; the commitment is compared first, in constant time.
 * Limits:  AEAD_OVERHEAD bytes more than header and plaintext; plaintext up to 2^32 bytes; 192-bit random nonces: no 2^32
 *          message limit (C2SP: 2^80 messages at 2^-32).
 * Secrets: the encrypt and commit keys are derived together from the *same context* and never leave the slot.
 */
#ifndef KMS_CRYPTO_AEAD_H
#define KMS_CRYPTO_AEAD_H

#include "base/kdfenc.h"
#include "base/secret.h"

enum { AEAD_COMMIT_BYTES = 32, AEAD_NONCE_BYTES = 24, AEAD_TAG_BYTES = 16,
       AEAD_OVERHEAD = AEAD_COMMIT_BYTES + AEAD_NONCE_BYTES + AEAD_TAG_BYTES,
       AEAD_HEADER_MAX = 512 /* bytes; longer is INVARIANT */ };

struct aead_key;
/* Derives both keys with kdf_derive: the label's field "use" at index use_at is set to "encrypt" and "commit" in turn. */
RESULT aead_key_derive(const struct secret *parent, enum kdf_label label, struct bytes *fields, size_t nfields, size_t use_at,
                       struct aead_key **ret, struct err *e);
void aead_key_free(struct aead_key *k); /* wipes; NULL accepted */
void aead_key_freep(struct aead_key **k);

/* out has room for header.n + plain.n + AEAD_OVERHEAD bytes; the header is copied to its front. aad is any bytes (hashed). */
void aead_seal(const struct aead_key *k, struct bytes header, struct bytes aad, struct bytes plain, uint8_t *out);
/* sealed as made by aead_seal; header_n its known header length; out has room for sealed.n - header_n - AEAD_OVERHEAD.
 * out is wiped on failure. May be given out == NULL when the plaintext is empty. */
RESULT aead_open(const struct aead_key *k, size_t header_n, struct bytes aad, struct bytes sealed, uint8_t *out, struct err *e);

/* The bare primitive, for vectors and the bench: C2SP XAES-256-GCM. out: plain.n + 16. */
void xaes_seal(const uint8_t key[32], const uint8_t nonce[24], struct bytes aad, struct bytes plain, uint8_t *out);
bool xaes_open(const uint8_t key[32], const uint8_t nonce[24], struct bytes aad, struct bytes sealed, uint8_t *out);

#endif
