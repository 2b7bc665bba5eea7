/*
 * Purpose: seal and open with a named key: what Encrypt, Wrap, the batches and the streams have in common. The only place in
 *          vault/ that touches key material, through kms/keyring.
 * Owns:    a crypt_key holds a handle until it is released; outputs are in the call's arena.
 * Threads: the call's owner; fast lane (ERR_WOULD_BLOCK on a cache miss).
 * Errors:  keyring's, in the order existence, state, then the ciphertext: ERR_CIPHERTEXT, one text for every cause.
 * Limits:  FIELD_BYTES_MAX of plaintext. Secrets: plaintext in the arena, wiped with the call.
 */
#ifndef VAULT_SERVICE_CRYPT_H
#define VAULT_SERVICE_CRYPT_H

#include "vault/service/fields.h"

struct crypt_key {
    struct key_handle *handle;
    struct key_view view;
    const struct name *name; /* what it was asked for with: a batch re-uses it while name and use stay */
    enum key_use use;
};
void crypt_key_release(struct crypt_key *k); /* {0} accepted */

/* The key to seal with: existence and state, before any field is looked at. */
RESULT crypt_key_for_seal(struct call *c, const struct name *n, enum key_use use, struct crypt_key *k, struct err *e);
RESULT crypt_seal(struct call *c, const struct crypt_key *k, enum key_use use, struct bytes aad, struct bytes plain,
                  struct bytes *ret, struct err *e);
/* The key's existence, then the version in the ciphertext's header and its state; then the ciphertext itself. On success k
 * holds the version that had sealed it. k may hold one from an earlier call: it is re-used or released. */
RESULT crypt_open(struct call *c, const struct name *n, enum key_use use, struct bytes aad, struct bytes sealed,
                  struct crypt_key *k, struct bytes *ret, struct err *e);
/* From under whichever version to under the key's primary one; the plaintext is wiped before this returns. What is there already is
 * opened all the same, and *ret is `sealed` itself. `from` and `to` as k above; both are held on success. */
RESULT crypt_rewrap(struct call *c, const struct name *n, struct bytes aad, struct bytes sealed, struct crypt_key *from,
                    struct crypt_key *to, struct bytes *ret, struct err *e);
ProtobufCBinaryData crypt_version_name(struct call *c, const struct crypt_key *k); /* copied; also into the audit event */

#endif
