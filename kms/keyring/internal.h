/*
 * Purpose: what the keyring's own files share: struct keyring and the cached forms. Not for other folders.
 * Owns: see keyring.h. Threads: caches synchronise; an entry is read-only once it is in a cache, but for the KEK, which is
 *       made at most once under kek_lock.
 * Errors: keyring.h. Limits: keyring.h. Secrets: KEKs, audit keys and purpose keys (aead_key).
 */
#ifndef KMS_KEYRING_INTERNAL_H
#define KMS_KEYRING_INTERNAL_H

#include "kms/keyring/cache.h"
#include "kms/keyring/due.h"
#include "kms/keyring/model.h"

#include <pthread.h>

struct keyring {
    struct store *store;
    struct hsm *hsm;
    const struct clock *clock;
    uint8_t instance[16];
    uint32_t master_version;
    const char *locations;
    struct cache *tenants; /* name -> struct tenant_ref */
    struct cache *keys;    /* canonical key name -> struct key_entry */
    struct cache *handles; /* kvid, use -> struct key_handle */
    struct cache *tags;    /* leaf tag -> tenant name */
    struct secret *system_secret;
    struct audit_tenant system;
    struct aead_key *system_key;
    _Atomic uint64_t hits, misses, hsm_calls;
};

struct tenant_ref {
    struct cache_entry entry; /* key: t.name */
    struct tenant t;
    struct audit_tenant audit;
    struct aead_key *audit_key;
    uint8_t salt[HIERARCHY_SALT_BYTES], kcv[HIERARCHY_KCV_BYTES];
    pthread_mutex_t kek_lock;
    struct aead_key *kek; /* NULL until first needed */
};

struct version_info {
    uint8_t kvid[FORMAT_KVID_BYTES];
    uint32_t n;
    enum version_state state;
};
struct key_entry {
    struct cache_entry entry; /* key: name */
    uint32_t primary;
    size_t nversions;
    struct version_info *versions; /* sorted by kvid; behind it the name's bytes, in one block */
};

struct key_handle {
    struct cache_entry entry; /* key: id */
    uint8_t id[FORMAT_KVID_BYTES + 1];
    uint32_t version;
    struct aead_key *aead;
    uint16_t name_n;
    char name[]; /* canonical version name */
};

/* The tenant that n names, held; ERR_NOT_FOUND when absent or when n's location is not the tenant's. */
RESULT tenant_of_name(struct keyring *k, const struct name *n, bool may_block, struct tenant_ref **ret, struct err *e);
/* The tenant's KEK, made at first use through the HSM (twice, when `fresh`) and checked against its kcv. */
RESULT tenant_kek(struct keyring *k, struct tenant_ref *t, const struct aead_key **ret, struct err *e);
RESULT derive_l1(struct keyring *k, const struct hierarchy_tenant *h, const uint8_t salt[HIERARCHY_SALT_BYTES],
                 struct secret **ret, struct err *e);
/* L2, only for as long as it takes to derive from it. */
struct version_l2 {
    struct secret *l2;
    struct hierarchy_ctx c; /* borrows key_name, and the location of the tenant */
    char key_name[NAME_MAX_BYTES];
};
RESULT version_unwrap(struct keyring *k, struct tenant_ref *t, const struct name *version, const struct keyring_version *m,
                      struct version_l2 *ret, struct err *e);
static inline void version_l2_release(struct version_l2 *u)
{
    secret_free(u->l2);
}
void hierarchy_of(const struct keyring *k, const struct tenant_ref *t, uint32_t master, struct hierarchy_tenant *ret);
static inline RESULT would_block(struct err *e)
{
    FAIL(e, ERR_WOULD_BLOCK, NULL, "not cached");
}

#endif
