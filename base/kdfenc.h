/*
 * Purpose: the one KDF input encoding (SP 800-108r1 counter mode, section 4.1; PRF HMAC-SHA-256; one block, 256 bits out):
 *              i32 = 1 || label || 0x00 || context || L32 = 256
 *          context = the label's fields in their fixed order, each u16 length then bytes. Labels are the closed table below.
 *          It stands in base/ because kms/crypto builds it and hsm/ refuses to sign anything that is not it.
 * Owns: nothing. Threads: pure. Errors: false. Limits: KDFENC_MAX_BYTES. Secrets: contexts hold salts: public, not keys.
 */
#ifndef BASE_KDFENC_H
#define BASE_KDFENC_H

#include "base/bytes.h"

enum { KDFENC_MAX_BYTES = 640, KDFENC_FIELDS_MAX = 8, KDFENC_NAME_MAX = 320 };

/* id, label, in-HSM?, fields as "name:min-max" lengths in bytes, in order. `master` and `epoch` and `version` are u32. */
#define KDF_LABELS(X)                                                                                                  \
    /* by C_Sign under a master (L0) or seal secret: the only inputs the HSM process signs */                          \
    X(KDF_TENANT_KEK, "claviger.v1.tenant-kek", 1, "instance:16-16 tenant:16-16 location:1-63 salt:32-32 master:4-4")  \
    X(KDF_STORE_KEY,  "claviger.v1.store-key",  1, "instance:16-16 epoch:4-4")                                         \
    X(KDF_CHALLENGE,  "claviger.v1.challenge",  1, "nonce:32-32")                                                      \
    /* in memory */                                                                                                    \
    X(KDF_KEK_WRAP,   "claviger.v1.kek-wrap",   0, "use:3-7")          /* from L1; use = encrypt | commit */           \
    X(KDF_KEK_KCV,    "claviger.v1.kek-kcv",    0, "")                 /* from L1; first 16 bytes are the check value */\
    X(KDF_PURPOSE,    "claviger.v1.purpose",    0,                     /* L3 from L2 */                                \
      "tenant:16-16 location:1-63 key:1-320 version:4-4 kvid:16-16 purpose:1-32 use:3-7 subject:0-32")                 \
    X(KDF_STORE,      "claviger.v1.store",      0, "area:1-32 use:3-7") /* from the store key; area = record token ... */\
    X(KDF_AUDIT,      "claviger.v1.audit",      0, "use:3-7")           /* from a tenant audit key */

enum kdf_label {
#define X(id, label, in_hsm, fields) id,
    KDF_LABELS(X)
#undef X
    KDF_LABEL_COUNT
};

/* Appends the encoding to out (max at least KDFENC_MAX_BYTES). False when a field's count or length is not the label's. */
bool kdfenc_build(enum kdf_label label, const struct bytes *fields, size_t nfields, struct buf *out);
/* True when input is exactly the encoding of an in-HSM label; *ret says which. */
bool kdfenc_is_hsm_input(struct bytes input, enum kdf_label *ret);
const char *kdfenc_label_text(enum kdf_label label);

#endif
