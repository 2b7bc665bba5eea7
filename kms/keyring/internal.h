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
#include <string.h>

struct keyring {
    struct store *store;
    struct hsm *hsm;
    const struct clock *clock;
    uint8_t instance[16];
    pthread_mutex_t master_lock; /* the next two */
    uint32_t master_version;     /* the current master: the store's word, not the token's */
    uint64_t master_revision;
    const char *locations;
    struct cache *tenants; /* name -> struct tenant_ref */
    struct cache *keys;    /* canonical key name -> struct key_entry */
    struct cache *handles; /* kvid, use -> struct key_handle */
    struct cache *tags;    /* leaf tag -> tenant name */
    struct secret *system_secret;
    struct audit_tenant system;
    struct aead_key *system_key;
    struct gcm *gcm;       /* nonces in hand of versions on the token: gcm.c */
    uint64_t token_keys_max;
    _Atomic uint64_t hits, misses, hsm_calls;
};

struct tenant_ref {
    struct cache_entry entry; /* key: t.name */
    struct tenant t;
    struct audit_tenant audit;
    struct aead_key *audit_key;
    uint8_t salt[HIERARCHY_SALT_BYTES];
    pthread_mutex_t kek_lock;
    size_t nkeks;
    struct {
        struct model_kek is;
        struct aead_key *kek; /* NULL until first needed */
    } keks[MODEL_KEKS_MAX];
};

struct version_info {
    uint8_t kvid[FORMAT_KVID_BYTES];
    uint32_t n;
    enum version_state state;
    enum protection protection;
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
    struct aead_key *aead;     /* NULL: of level HSM, and then: */
    struct token_key *token;
    uint16_t name_n;
    char name[]; /* canonical version name */
};

/* The tenant that n names, held; ERR_NOT_FOUND when absent or when n's location is not the tenant's. */
RESULT tenant_of_name(struct keyring *k, const struct name *n, bool may_block, struct tenant_ref **ret, struct err *e);
/* The tenant's record as it is stored, and its put: the plain columns follow the body. */
RESULT tenant_row(struct keyring *k, struct bytes name, struct model_tenant *ret, struct err *e);
void tenant_row_put(struct store_txn *txn, const struct model_tenant *m, uint64_t expected);
struct bytes tenant_full_name(struct bytes name, char out[NAME_MAX_BYTES]); /* projects/{tenant} */
void tenant_tag(const struct keyring *k, const uint8_t id[16], uint8_t out[32]);
bool location_served(const struct keyring *k, struct bytes location);
/* The tenant's KEK under that master, made at first use through the HSM and checked against its kcv. ERR_CONFLICT TENANT_MOVED: the
 * tenant, as it is held, does not name that master. */
RESULT tenant_kek(struct keyring *k, struct tenant_ref *t, uint32_t master, const struct aead_key **ret, struct err *e);
#define TENANT_MOVED "TENANT_MOVED" /* never leaves the keyring */
static inline bool tenant_moved(const struct err *e)
{
    return e->code == ERR_CONFLICT && e->reason != NULL && strcmp(e->reason, TENANT_MOVED) == 0;
}
/* The current master, and the revision of its row: a transaction checks it before it relies on it. */
uint32_t keyring_master_now(struct keyring *k, uint64_t *ret_revision);
/* A tenant of one's own, in no cache; drop it. */
RESULT tenant_from_record(struct keyring *k, const struct record *r, struct tenant_ref **ret, struct err *e);
/* Derived twice and compared, before anything is first wrapped under it (DESIGN section 5). */
RESULT first_kcv(struct keyring *k, const struct hierarchy_tenant *h, const uint8_t salt[HIERARCHY_SALT_BYTES],
                 uint8_t kcv[HIERARCHY_KCV_BYTES], struct err *e);
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

/* A version on the token: token_key.c. */
struct token_key {
    uint8_t kvid[FORMAT_KVID_BYTES], tenant[16], aad_hash[HSM_AAD_HASH_BYTES], check[HSM_CHECK_BYTES];
};
/* ERR_EXHAUSTED "TENANT_TOKEN_KEYS": of that level the tenant has as many versions as it may. */
RESULT token_share(struct keyring *k, const struct tenant_ref *t, enum protection level, struct err *e);
/* Makes m's objects. Before that it is on record that there may be some: who dies in between, or does not commit, leaves a row in the
 * queue of what is due, which txn takes away. *ret_check: HSM_CHECK_BYTES in the arena. */
RESULT token_key_make(struct keyring *k, const struct tenant_ref *t, const struct name *version, const struct keyring_version *m,
                      struct store_txn *txn, struct arena *a, struct bytes *ret_check, struct err *e);
/* m as it is stored, with its objects confirmed on the token. ERR_UNAVAILABLE where the token does not show them. */
RESULT token_key_load(struct keyring *k, const struct tenant_ref *t, const struct name *version, const struct keyring_version *m,
                      struct token_key *ret, struct err *e);
/* For fsck: the same, but ERR_DATA_LOSS "KEY_OBJECT_ABSENT" where the token is there and its objects are not; and its counter. */
RESULT token_key_examine(struct keyring *k, const struct tenant_ref *t, const struct name *version, const struct keyring_version *m,
                         struct err *e);
/* In the transaction that destroys the version: its objects are to go, and its counter goes. */
void token_key_gone(const struct tenant_ref *t, const struct keyring_version *m, int64_t now_ns, struct store_txn *txn);

/* How many messages may still be sealed with random nonces: gcm.c. */
struct gcm *gcm_new(void);
void gcm_free(struct gcm *g); /* NULL accepted */
void gcm_begin(struct store_txn *txn, const uint8_t tenant[16], const uint8_t kvid[FORMAT_KVID_BYTES]);
void gcm_end(struct store_txn *txn, const uint8_t tenant[16], const uint8_t kvid[FORMAT_KVID_BYTES]);
RESULT gcm_read(struct keyring *k, const uint8_t tenant[16], const uint8_t kvid[FORMAT_KVID_BYTES], uint64_t *ret, uint64_t *ret_revision,
                struct err *e);
RESULT gcm_take(struct keyring *k, const struct key_handle *h, struct err *e);

static inline RESULT would_block(struct err *e)
{
    FAIL(e, ERR_WOULD_BLOCK, NULL, "not cached");
}

#endif
