/*
 * Purpose: the message format of claviger_local_*: AES-256-GCM under a key derived for this one message from a data key, with
 *          a key commitment; the wrapped data key travels in the header. docs/CLIENT.md has the bytes:
 *              "CLVL" | u8 1 | u8[3] 0 | u16 w | wrapped[w] | salt[32] | commitment[32] | ciphertext | tag[16]
 * Owns:    nothing. Threads: pure.
 * Errors:  CLAVIGER_INVALID_ARGUMENT "CIPHERTEXT" for every cause of a failed opening.
 * Limits:  CLAVIGER_LOCAL_PLAINTEXT_MAX; LOCAL_WRAPPED_MAX bytes of wrapped key. A 256-bit random salt per message: no limit
 *          on messages from nonces.
 * Secrets: message keys live on the stack of one call and are wiped.
 */
#ifndef VAULT_CLIENT_LOCAL_H
#define VAULT_CLIENT_LOCAL_H

#include "base/rng.h"
#include "base/secret.h"
#include "vault/client/error.h"

enum { LOCAL_SALT_BYTES = 32, LOCAL_COMMIT_BYTES = 32, LOCAL_TAG_BYTES = 16, LOCAL_WRAPPED_MAX = 1024 };

/* aad is canonical (local_aad). out has room for local_size(). */
size_t local_size(size_t wrapped_len, size_t plain_len);
RESULT local_aad(const struct claviger_binding *b, struct buf *out, struct claviger_error *e);
void local_seal(const struct secret *key, struct bytes wrapped, struct bytes aad, struct bytes plain, const struct rng *rng,
                uint8_t *out);
struct local_parts {
    struct bytes header, wrapped, salt, commitment, sealed; /* header: all before the commitment; sealed: ciphertext and tag */
};
RESULT local_parse(struct bytes untrusted, struct local_parts *ret, struct claviger_error *e);
/* out has room for sealed.n - LOCAL_TAG_BYTES, wiped on failure. */
RESULT local_open(const struct secret *key, const struct local_parts *p, struct bytes aad, uint8_t *out, struct claviger_error *e);

#endif
