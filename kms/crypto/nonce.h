/*
 * Purpose: nonces and ids: one getrandom a batch, mixed with boot id, clock and a counter, so that VM clones and forks
 *          never share one. Per-thread state inside.
 * Owns: thread-local batches (wiped at thread end). Threads: any. Errors: none. Limits: none.
 * Secrets: output is used for nonces, ids and fresh key halves; key bytes go straight into struct secret.
 */
#ifndef KMS_CRYPTO_NONCE_H
#define KMS_CRYPTO_NONCE_H

#include <stddef.h>
#include <stdint.h>

void nonce_fill(void *out, size_t n);

#endif
