/*
 * Purpose: the record bodies of tenants, key rings, crypto keys and versions, to the byte, and their store ids.
 * Owns: nothing (decoded views live in the record's arena). Threads: pure.
 * Errors: ERR_DATA_LOSS "RECORD_MALFORMED": the seal was right but the content is not ours. Limits: as keyring.h.
 * Secrets: a tenant body holds its audit key: bodies live in an arena that is wiped.
 *
 * Every body starts with u8 format = 1; integers big endian; v16 = u16 length and bytes; times are i64 Unix ns.
 *   tenant:  id[16] v16 location, v16 display name, salt[32], audit key[32], u32 master version, kcv[16], created,
 *            u8 n, n x { u32 master version, kcv[16] }: older masters, which versions of it may still be wrapped under,
 *            u8 state, u8 was, deleted, purge, v16 deleted by; PURGING: 6 x u64 what it has lost (struct keyring_toll)
 *   ring:    created
 *   key:     created, u32 primary, u32 newest, i64 rotation period s, i64 next rotation, i64 destroy delay s, u8 import only,
 *            u16 n, n x { v16 key, v16 value } sorted by key, u8 protection level of versions to come
 *   version: u32 n, u8 state, created, generated, destroy, destroyed, asked, v16 asked by, kvid[16], u32 master version, v16 wrapped,
 *            u8 protection level; level HSM: master version 0, nothing wrapped, v16 check message
 */
#ifndef KMS_KEYRING_MODEL_H
#define KMS_KEYRING_MODEL_H

#include "kms/keyring/keyring.h"

enum { MODEL_AUDIT_KEY_BYTES = 32, MODEL_KEKS_MAX = 4 };

struct model_kek {
    uint32_t master;
    uint8_t kcv[HIERARCHY_KCV_BYTES];
};
struct model_tenant {
    struct tenant t;
    uint8_t salt[HIERARCHY_SALT_BYTES], audit_key[MODEL_AUDIT_KEY_BYTES];
    uint8_t nkeks; /* 1; while the tenant moves to another master, more */
    struct model_kek keks[MODEL_KEKS_MAX]; /* the first is of t.master_version, under which new versions are wrapped */
    struct keyring_toll toll;
};
static inline void model_tenant_wipe(struct model_tenant *m) /* for CLEANUP: it is secret on every way out */
{
    wipe(m, sizeof *m);
}
void model_tenant_put(const struct model_tenant *m, struct buf *out);
RESULT model_tenant_get(const struct record *r, struct model_tenant *ret, struct err *e);
void model_ring_put(const struct keyring_ring *m, struct buf *out);
RESULT model_ring_get(const struct record *r, struct keyring_ring *ret, struct err *e);
void model_key_put(const struct keyring_key *m, struct buf *out);
RESULT model_key_get(const struct record *r, struct arena *a, struct keyring_key *ret, struct err *e);
void model_version_put(const struct keyring_version *m, struct buf *out);
RESULT model_version_get(const struct record *r, struct keyring_version *ret, struct err *e);

/* The store id of what a name names (ring, key or version), and the id prefix of its children. */
struct model_id {
    uint8_t b[STORE_ID_MAX];
    size_t n;
};
struct model_id model_id_of(const struct name *n);
struct model_id model_child_prefix(const struct name *n); /* location, ring or key */
static inline struct bytes model_id_bytes(const struct model_id *id)
{
    return (struct bytes){id->b, id->n};
}

#endif
