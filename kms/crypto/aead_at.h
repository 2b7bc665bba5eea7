/*
 * Purpose: sealing with a given nonce: how the worked examples of docs/FORMATS.md are made. Everything else calls aead_seal,
 *          which draws its nonce itself; tools/banned may refuse this header outside kms/crypto and tests.
 * Owns: nothing. Threads: pure. Errors: none. Limits: as aead.h.
 * Secrets: the nonce is public, and must never come twice under one key.
 */
#ifndef KMS_CRYPTO_AEAD_AT_H
#define KMS_CRYPTO_AEAD_AT_H

#include "kms/crypto/aead.h"

void aead_seal_at(const struct aead_key *k, const uint8_t nonce[AEAD_NONCE_BYTES], struct bytes header, struct bytes aad,
                  struct bytes plain, uint8_t *out);

#endif
