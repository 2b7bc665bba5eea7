/*
 * Purpose: the only file that hands keys to OpenSSL: AES-256 on two blocks and AES-256-GCM (SP 800-38D; 96-bit nonce, 128-bit
 *          tag), with the key given for each call. Used inside this folder.
 * Owns:    two EVP contexts a thread. OpenSSL keeps the expanded key of the *last* call in them; they are wiped when the
 *          thread ends. cipher_memory_init puts them into locked memory (lockmem.h).
 * Threads: any. Errors: gcm_open says false; OpenSSL failing otherwise (no memory, no provider) is INVARIANT.
 * Limits:  CIPHER_GCM_MAX_BYTES of plaintext and of additional data, far more than any caller has (SP 800-38D section 5.2.1.1 allows 2^36 - 32).
 * Secrets: keys are read from where the caller holds them; no other copy than the expanded one above.
 */
#ifndef KMS_CRYPTO_CIPHER_H
#define KMS_CRYPTO_CIPHER_H

#include "base/bytes.h"

enum { CIPHER_TAG_BYTES = 16, CIPHER_GCM_MAX_BYTES = 1 << 30 };

/* Serves the memory of OpenSSL's cipher contexts from locked slots, enough for `threads` threads at a time; past that, making
 * a context is INVARIANT. Call once in main, before anything else touches OpenSSL: it refuses afterwards (ERR_STATE), and where
 * memory cannot be locked (ERR_EXHAUSTED). Without this call contexts live in the heap: right for tools and tests, not for a
 * process that holds keys. */
RESULT cipher_memory_init(size_t threads, struct err *e);

void cipher_aes256_blocks(const uint8_t key[32], const uint8_t in[32], uint8_t out[32]); /* ECB on two blocks */
/* out: plain.n + 16 */
void cipher_gcm_seal(const uint8_t key[32], const uint8_t nonce[12], struct bytes aad, struct bytes plain, uint8_t *out);
/* sealed: ciphertext and tag; out has room for sealed.n - 16 and is wiped on failure. */
bool cipher_gcm_open(const uint8_t key[32], const uint8_t nonce[12], struct bytes aad, struct bytes sealed, uint8_t *out);

#endif
