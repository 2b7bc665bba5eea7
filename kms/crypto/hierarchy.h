/*
 * Purpose: the key hierarchy of docs/FORMATS.md section 3 in one place: L1 (tenant KEK) -> wrap key and check value,
 *          L2 (key version) wrapped under it, L2 -> L3 (purpose keys), and the envelope that a client is handed.
 * Owns:    the keys and secrets it returns belong to the caller.
 * Threads: pure; a struct aead_key is shared read-only.
 * Errors:  ERR_CIPHERTEXT for every cause of a failed unwrap or open (a caller that unwraps its *own stored* record turns it
 *          into ERR_DATA_LOSS); ERR_EXHAUSTED when no secret slot is free. A field of the wrong length is INVARIANT (a bug:
 *          names were validated before).
 * Limits:  location 1..63 bytes, key name 1..KDFENC_NAME_MAX, plaintext as aead.h.
 * Secrets: L1 and L2 only as struct secret; outputs are wiped on failure.
 */
#ifndef KMS_CRYPTO_HIERARCHY_H
#define KMS_CRYPTO_HIERARCHY_H

#include "kms/crypto/aead.h"
#include "kms/crypto/format.h"

enum { HIERARCHY_ID_BYTES = 16, HIERARCHY_SALT_BYTES = 32, HIERARCHY_KCV_BYTES = 16, HIERARCHY_L2_BYTES = 32,
       HIERARCHY_L2_WRAPPED_BYTES = FORMAT_OVERHEAD + HIERARCHY_L2_BYTES /* 144 */,
       HIERARCHY_ALG_XAES_256_GCM = 1, HIERARCHY_ALG_TOKEN_AES_256_GCM = 2 };

/* Where a tenant KEK comes from; the instance and tenant ids are random and immutable. */
struct hierarchy_tenant {
    uint8_t instance[HIERARCHY_ID_BYTES];
    uint8_t tenant[HIERARCHY_ID_BYTES];
    struct bytes location; /* borrowed */
    uint32_t master;       /* version of L0 */
};
/* The input for hsm_derive(HSM_MASTER, t->master): KDF_TENANT_KEK over instance, tenant, location, salt, master.
 * out: at least KDFENC_MAX_BYTES of max. */
void hierarchy_l1_input(const struct hierarchy_tenant *t, const uint8_t salt[HIERARCHY_SALT_BYTES], struct buf *out);
/* The check value stored beside a tenant: says that the HSM derived the same L1 again, and nothing about L1. */
RESULT hierarchy_kcv(const struct secret *l1, uint8_t out[HIERARCHY_KCV_BYTES], struct err *e);
RESULT hierarchy_kek(const struct secret *l1, struct aead_key **ret, struct err *e);

/* What one key version is; enters every L3 derivation and the AAD of the wrapped L2. Strings are borrowed. */
struct hierarchy_ctx {
    uint8_t tenant[HIERARCHY_ID_BYTES];
    struct bytes location;
    struct bytes key; /* canonical: projects/../locations/../keyRings/../cryptoKeys/x */
    uint32_t version;
    uint8_t kvid[FORMAT_KVID_BYTES];
};
/* t and c name the same tenant and location (INVARIANT). */
void hierarchy_l2_wrap(const struct aead_key *kek, const struct hierarchy_tenant *t, const struct hierarchy_ctx *c,
                       const struct secret *l2, uint8_t out[HIERARCHY_L2_WRAPPED_BYTES]);
RESULT hierarchy_l2_unwrap(const struct aead_key *kek, const struct hierarchy_tenant *t, const struct hierarchy_ctx *c,
                           struct bytes wrapped, struct secret **ret, struct err *e);

/* A version of level HSM has no L2: it is two objects on the token. SHA-256 of all that names it, which its check message binds
 * (FORMATS section 9). No master enters: it depends on none. */
void hierarchy_token_aad(const struct hierarchy_tenant *t, const struct hierarchy_ctx *c, uint8_t out[32]);

/* Distinct types: what one purpose sealed, no other opens. The format type of an envelope follows from it. */
enum hierarchy_purpose { HIERARCHY_ENCRYPT, HIERARCHY_WRAP };
/* subject_salt: 32 bytes, or empty when no subject was named. */
RESULT hierarchy_purpose_key(const struct secret *l2, const struct hierarchy_ctx *c, enum hierarchy_purpose purpose,
                             struct bytes subject_salt, struct aead_key **ret, struct err *e);

/* Header, then the sealed plaintext: plain.n + FORMAT_OVERHEAD bytes into out. aad is canonical (format.h: ctx1 or aad1). */
void envelope_seal(const struct aead_key *k, enum format_type type, const uint8_t kvid[FORMAT_KVID_BYTES],
                   const uint8_t subject[FORMAT_SUBJECT_BYTES] /* NULL: none */, struct bytes aad, struct bytes plain,
                   uint8_t *out);
/* Opens what format_header_parse found to be of `type` and the key version that k belongs to; out has room for
 * sealed.n - FORMAT_OVERHEAD bytes and is wiped on failure. */
RESULT envelope_open(const struct aead_key *k, enum format_type type, const uint8_t kvid[FORMAT_KVID_BYTES],
                     struct bytes aad, struct bytes untrusted_sealed, uint8_t *out, struct err *e);

#endif
