/*
 * Purpose: the key derivation of C2SP XAES-256-GCM (c2sp.org/XAES-256-GCM): SP 800-108r1 counter mode with CMAC-AES-256, unrolled
 *          to two AES blocks. Used inside this folder; xaes_seal and xaes_open are in aead.h.
 * Owns: nothing. Threads: pure. Errors: none. Limits: none.
 * Secrets: k1 and kx are key bytes: the caller keeps them in a slot, or wipes them.
 */
#ifndef KMS_CRYPTO_XAES_H
#define KMS_CRYPTO_XAES_H

#include "base/bytes.h"

enum { XAES_KEY_BYTES = 32, XAES_K1_BYTES = 16, XAES_NONCE_BYTES = 24, XAES_PREFIX_BYTES = 12 };

/* The CMAC subkey K1 (SP 800-38B section 6.1): the same for every message, so kept with the key. */
void xaes_k1(const uint8_t key[XAES_KEY_BYTES], uint8_t k1[XAES_K1_BYTES]);
/* Kx from the first 12 nonce bytes; the last 12 are the GCM nonce. */
void xaes_kx(const uint8_t key[XAES_KEY_BYTES], const uint8_t k1[XAES_K1_BYTES], const uint8_t nonce[XAES_NONCE_BYTES],
             uint8_t kx[XAES_KEY_BYTES]);

#endif
