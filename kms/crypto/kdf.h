/*
 * Purpose: SP 800-108r1 counter-mode KDF with HMAC-SHA-256 in memory (base/kdfenc.h encoding), and HMAC with saved states.
 * Owns: the secrets it returns belong to the caller. Threads: pure.
 * Errors: ERR_EXHAUSTED when the slab is full; wrong fields are INVARIANT (a bug). Limits: 256 bits out.
 * Secrets: key material only in struct secret; stack copies are wiped.
 */
#ifndef KMS_CRYPTO_KDF_H
#define KMS_CRYPTO_KDF_H

#include "base/kdfenc.h"
#include "base/secret.h"

RESULT kdf_derive(const struct secret *key, enum kdf_label label, const struct bytes *fields, size_t nfields,
                  struct secret **ret /* 32 bytes */, struct err *e);
/* What kdf_derive runs, with the fixed input data given (SP 800-108r1 section 4.1, r = 32, counter before): for published
 * vectors. n up to 255 blocks of 32 bytes. */
void kdf_counter(const struct secret *key, struct bytes fixed, uint8_t *out, size_t n);
/* HMAC-SHA-256 (RFC 2104) of the concatenation of parts. Key of any length up to SECRET_MAX_BYTES. */
void hmac_sha256(const struct secret *key, const struct bytes *parts, size_t nparts, uint8_t out[32]);
void sha256(const struct bytes *parts, size_t nparts, uint8_t out[32]);

#endif
