/*
 * Purpose: tenants, key rings, crypto keys and their versions: their records, their life, and their key material ready
 *          for use. The only place where L1, L2 and L3 keys exist together.
 * Owns:    the caches (sharded, bounded by number and absolute age), the tenant table, key material in struct secret.
 * Threads: everything from any thread. keyring_use with may_block false never touches store or HSM: ERR_WOULD_BLOCK then.
 * Errors:  ERR_NOT_FOUND "...", ERR_EXISTS, ERR_STATE "KEY_VERSION_DISABLED" etc., ERR_CIPHERTEXT, ERR_UNAVAILABLE (HSM),
 *          ERR_DATA_LOSS "KEY_CHECK_FAILED" (a derived L1 does not match its stored check value).
 * Limits:  KEYRING_VERSIONS_MAX versions a key, KEYRING_LABELS_MAX labels.
 * Secrets: see docs/DESIGN.md "Keys". Model structs hold no key bytes but wrapped ones.
 */
#ifndef KMS_KEYRING_KEYRING_H
#define KMS_KEYRING_KEYRING_H

#include "base/arena.h"
#include "base/clock.h"
#include "base/sm.h"
#include "hsm/hsm.h"
#include "kms/audit/journal.h"
#include "kms/crypto/format.h"
#include "kms/crypto/hierarchy.h"
#include "kms/keyring/token_secret.h"
#include "kms/name/name.h"
#include "kms/store/store.h"

enum { KEYRING_VERSIONS_MAX = 65536, KEYRING_LABELS_MAX = 64, KEYRING_LABEL_MAX = 63 };

/* Version states, numbers as google.cloud.kms.v1.CryptoKeyVersion.CryptoKeyVersionState:
 *
 *   ENABLED <--------> DISABLED <---------+
 *      |                  |               | restore (always to DISABLED, as Cloud KMS)
 *      +--- destroy ------+---> DESTROY_SCHEDULED ---> DESTROYED (final; the wrapped key is erased)
 */
enum version_state { VERSION_ENABLED = 1, VERSION_DISABLED = 2, VERSION_DESTROYED = 3, VERSION_DESTROY_SCHEDULED = 4 };
/* Numbers as google.cloud.kms.v1.ProtectionLevel. HSM: the key is made on the token, and every operation happens there. */
enum protection { PROTECTION_SOFTWARE = 1, PROTECTION_HSM = 2 };
bool version_state_can(enum version_state from, enum version_state to);
const char *version_state_name(enum version_state s);

/* Tenant states. What is PURGED has no row any more, only a tombstone:
 *
 *   ACTIVE ------ suspend -----> SUSPENDED
 *     |   <------ resume -------     |
 *     | delete                       | delete
 *     +----------> DELETED <---------+
 *                   |   |
 *    restore to what|   | on the day
 *    it was <-------+   +-----> PURGING ---> PURGED
 */
enum tenant_state { TENANT_ACTIVE = 1, TENANT_SUSPENDED, TENANT_DELETED, TENANT_PURGING, TENANT_PURGED };
extern const struct sm_table tenant_machine;

struct tenant {
    char name[NAME_SEGMENT_MAX + 1], location[NAME_SEGMENT_MAX + 1];
    char display_name[129];
    uint8_t id[16];
    int64_t created_ns;
    unsigned state, was;          /* enum tenant_state; was: what a restore of a deleted one leads back to, else 0 */
    int64_t deleted_ns, purge_ns; /* 0: not deleted. From purge_ns on nothing of it is kept */
    char deleted_by[NAME_PRINCIPAL_MAX + 1];
    bool served;                  /* its location is one of this daemon's */
    uint64_t revision;
    uint32_t master_version;
};
struct label {
    struct bytes key, value;
};
struct keyring_ring {
    struct bytes name; /* canonical full name */
    int64_t created_ns;
    uint64_t revision;
};
struct keyring_key {
    struct bytes name;
    int64_t created_ns;
    uint32_t primary;             /* 0: none */
    uint32_t newest;              /* highest version number ever given */
    int64_t rotation_period_s;    /* 0: none */
    int64_t next_rotation_ns;     /* 0: none */
    int64_t queued_rotation_ns;   /* as it was read: what the queue of what is due has */
    int64_t destroy_delay_s;
    bool import_only;
    enum protection protection;   /* of versions to come; 0 is SOFTWARE. It never changes (Cloud KMS: immutable) */
    struct label *labels;         /* sorted by key */
    size_t nlabels;
    uint64_t revision;
};
struct keyring_version {
    struct bytes name;
    uint32_t n;
    enum version_state state;
    int64_t created_ns, generated_ns, destroy_ns /* scheduled */, destroyed_ns;
    int64_t queued_destroy_ns;    /* as it was read; 0 when not scheduled */
    int64_t asked_ns;             /* when its destruction was asked for, and by whom; 0 and empty: not asked, or not known */
    struct bytes asked_by;
    uint8_t kvid[FORMAT_KVID_BYTES];
    uint32_t master_version;
    struct bytes wrapped;         /* L2 under the tenant KEK; empty once destroyed, and of level HSM */
    enum protection protection;   /* 0 is SOFTWARE */
    struct bytes check;           /* level HSM: sealed on the token at birth (hsm_key_check); empty once destroyed */
    uint64_t revision;
};

struct keyring;
struct due;
struct keyring_options {
    struct store *store;
    struct hsm *hsm;
    const struct clock *clock;
    uint8_t instance[16];
    size_t cache_max;
    uint64_t cache_ttl_ms;
    const char *locations;        /* comma separated: tenants elsewhere are refused */
    uint64_t token_keys_max;      /* versions of level HSM a tenant may have */
};
/* Secret slots that full caches of that size occupy; calls in flight come on top. */
size_t keyring_secrets_max(size_t cache_max);
RESULT keyring_new(const struct keyring_options *o, struct keyring **ret, struct err *e);
void keyring_free(struct keyring *k);

/* The master that new tenants, and versions of tenants that have moved to it, are wrapped under. */
uint32_t keyring_master(struct keyring *k);
RESULT keyring_master_changed(struct keyring *k, struct err *e); /* after a commit that changed the record of the current one */
bool keyring_master_is(struct keyring *k, const struct token_secret *current); /* as it was read; NULL: no */

/* ---- tenants ---- */
/* Adds the puts to txn (commit is the caller's: it adds event and idempotency record), then keyring_changed after commit. */
RESULT keyring_tenant_create(struct keyring *k, struct bytes name, struct bytes location, struct bytes display_name,
                             struct store_txn *txn, struct tenant *ret, struct err *e);
RESULT keyring_tenant_get(struct keyring *k, struct bytes name, bool may_block, struct tenant *ret, struct err *e);
RESULT keyring_tenant_list(struct keyring *k, struct bytes after_name, size_t limit, struct arena *a, struct tenant **ret,
                           size_t *ret_n, struct err *e);
/* A tenant held for a while: counted. Its audit key seals its events. */
struct tenant_ref;
RESULT keyring_tenant_hold(struct keyring *k, struct bytes name, bool may_block, struct tenant_ref **ret, struct err *e);
RESULT keyring_tenant_hold_by_id(struct keyring *k, const uint8_t id[16], struct tenant_ref **ret, struct err *e); /* blocks */
/* By the tag in a leaf (kms/audit); blocks. ERR_NOT_FOUND: nobody's; with JOURNAL_CHECK_ERASED: of a tenant that was purged. */
RESULT keyring_tenant_hold_by_tag(struct keyring *k, const uint8_t tag[32], struct tenant_ref **ret, struct err *e);
/* As the store has it now, whatever is cached; blocks. */
RESULT keyring_tenant_read(struct keyring *k, struct bytes name, struct tenant *ret, struct err *e);
const struct tenant *tenant_ref_info(const struct tenant_ref *t);
const struct audit_tenant *tenant_ref_audit(const struct tenant_ref *t);
void tenant_ref_drop(struct tenant_ref *t); /* NULL accepted */
void tenant_ref_dropp(struct tenant_ref **t);
/* What events of no tenant are sealed with; lives as long as the keyring. */
const struct audit_tenant *keyring_system_audit(struct keyring *k);

/* ---- the life of a tenant ---- */
struct tenant_move {
    enum tenant_state to;
    int64_t purge_ns; /* to DELETED: the day */
    struct bytes by;  /* to DELETED: who asked */
};
/* t: as it was read; as it will be after. Adds its puts to txn, that of the queue too; keyring_changed after the commit.
 * ERR_STATE "TENANT_STATE": tenant_machine has no such move, or a restore would lead to what it was not. ERR_CONFLICT. After the
 * commit keyring_changed, or, when it is not ACTIVE any more, keyring_tenant_forget. */
RESULT keyring_tenant_move(struct keyring *k, struct tenant *t, const struct tenant_move *m, struct store_txn *txn, struct err *e);
void keyring_tenant_forget(struct keyring *k, struct bytes name); /* all that is cached of it: record, KEKs, keys */
/* `kmsd accept-rollback`: r, a tenant's row, as events that came after it left it, and never with more rights than it has: a purged
 * one is to be purged again. to ACTIVE: of no such event. One that is DELETED may have been restored since the store was copied: it can
 * be for 90 days from now_ns again. *ret_changed false: it is so already. id: whose row that is. */
RESULT keyring_tenant_row_id(const struct record *r, uint8_t id[16], struct err *e);
RESULT keyring_tenant_as_revoked(struct record *r, enum tenant_state to, int64_t now_ns, struct buf *body, bool *ret_changed,
                                 struct err *e);
/* The keys of a tenant that is ACTIVE again: what fell due meanwhile is in the queue again. Any number of times; blocks. */
RESULT keyring_requeue_tenant(struct keyring *k, const struct tenant *t, struct err *e);

/* A tenant that is PURGING: each call takes away at most a page, in a transaction of its own that also counts it, so whoever dies in
 * between goes on where it was. *ret_more false: nothing of that is left. */
struct keyring_toll {
    uint64_t rings, keys, versions, token_objects, principals, others;
};
RESULT keyring_purge_rows(struct keyring *k, struct bytes name, bool *ret_more, struct err *e);
RESULT keyring_purge_due(struct keyring *k, struct bytes name, bool *ret_more, struct err *e);
/* Adds to txn: it has lost that much more. */
RESULT keyring_purge_count(struct keyring *k, struct bytes name, const struct keyring_toll *more, struct store_txn *txn, struct err *e);
/* Proves by a scan that no row is the tenant's, and adds to txn: its own rows go, and what wrapped and sealed all that was its; a
 * tombstone stays. ERR_STATE "TENANT_NOT_EMPTY". After the commit: keyring_purged. */
RESULT keyring_purge_end(struct keyring *k, struct bytes name, struct store_txn *txn, struct tenant *ret, struct keyring_toll *ret_toll,
                         struct err *e);
void keyring_purged(struct keyring *k, const struct tenant *gone); /* nothing of it stays in a cache */
/* That there was a tenant of this id, and that it was purged. ERR_NOT_FOUND: not known. */
RESULT keyring_tombstone(struct keyring *k, const uint8_t id[16], struct err *e);

/* ---- rings, keys, versions: reads (slow lane) ---- */
RESULT keyring_ring_get(struct keyring *k, const struct name *n, struct arena *a, struct keyring_ring *ret, struct err *e);
RESULT keyring_key_get(struct keyring *k, const struct name *n, struct arena *a, struct keyring_key *ret, struct err *e);
RESULT keyring_version_get(struct keyring *k, const struct name *n, struct arena *a, struct keyring_version *ret, struct err *e);
/* Children in id order (versions: numeric), after the given child (empty / 0: from the start), at most limit. */
RESULT keyring_ring_list(struct keyring *k, const struct name *location, struct bytes after_ring, bool descending, size_t limit,
                         struct arena *a, struct keyring_ring **ret, size_t *ret_n, struct err *e);
RESULT keyring_key_list(struct keyring *k, const struct name *ring, struct bytes after_key, bool descending, size_t limit,
                        struct arena *a, struct keyring_key **ret, size_t *ret_n, struct err *e);
RESULT keyring_version_list(struct keyring *k, const struct name *key, uint32_t after, bool descending, size_t limit,
                            struct arena *a, struct keyring_version **ret, size_t *ret_n, struct err *e);
/* How many children of that kind there are. */
RESULT keyring_count(struct keyring *k, const struct name *parent, enum name_kind child, uint64_t *ret, struct err *e);

/* ---- changes: each adds its puts and checks to txn; the caller commits, then calls keyring_changed ---- */
RESULT keyring_ring_create(struct keyring *k, const struct name *n, struct store_txn *txn, struct arena *a,
                           struct keyring_ring *ret, struct err *e);
/* first_version: also creates version 1 and makes it primary. key: wanted fields (labels, rotation, delay). */
RESULT keyring_key_create(struct keyring *k, const struct name *n, const struct keyring_key *want, bool first_version,
                          struct store_txn *txn, struct arena *a, struct keyring_key *ret, struct keyring_version *ret_v1,
                          struct err *e);
RESULT keyring_key_put(struct keyring *k, const struct name *n, const struct keyring_key *changed /* revision = as read */,
                       struct store_txn *txn, struct err *e);
RESULT keyring_version_create(struct keyring *k, const struct name *key, struct store_txn *txn, struct arena *a,
                              struct keyring_version *ret, struct err *e);
/* key as it was read, and its next rotation as it is to be: a new version, which is primary. */
RESULT keyring_key_rotate(struct keyring *k, const struct name *n, struct keyring_key *key, struct store_txn *txn, struct arena *a,
                          struct keyring_version *ret, struct err *e);
/* The same beyond the tenant's share of the token, too: for a version that soon may not seal any more. */
RESULT keyring_key_replace(struct keyring *k, const struct name *n, struct keyring_key *key, struct store_txn *txn, struct arena *a,
                           struct keyring_version *ret, struct err *e);
/* State moves are checked against version_state_can: ERR_STATE. Destroying erases the wrapped key. */
RESULT keyring_version_put(struct keyring *k, const struct name *n, const struct keyring_version *changed,
                           enum version_state from, struct store_txn *txn, struct err *e);
/* Adds to txn: the version must still have this revision when it commits (a check before making it primary). */
RESULT keyring_version_check(struct keyring *k, const struct name *n, uint64_t revision, struct store_txn *txn, struct err *e);
/* `kmsd accept-rollback`: r as an event that came after it left it: state and body (in `body`) of r become that of a version in
 * state `to`, never with more rights than it has (ENABLED: no such event). A destruction that is scheduled may have been taken back since
 * the store was copied: it is at least 30 days from now_ns again. *ret_changed false: it is so already. */
RESULT keyring_version_as_revoked(struct record *r, enum version_state to, int64_t now_ns, struct buf *body, bool *ret_changed,
                                  struct err *e);
/* Adds to txn what goes with a version besides its row. keyring_version_put does so; for one that an accepted rollback destroyed. */
void keyring_version_gone(struct keyring *k, const struct tenant_ref *t, const struct keyring_version *m, struct store_txn *txn);
/* `kmsd accept-rollback`: r, a counter of nonces (REC_GCM), of which the store does not know any more how far it had come: all but a
 * few are taken for used, so the key is replaced soon after it seals again. *ret_changed false: no more than that was left. */
RESULT keyring_counter_as_unknown(struct record *r, struct buf *body, bool *ret_changed, struct err *e);
/* After the commit, before the answer: forgets cached material of this key (all its versions), or this tenant's record and KEKs. */
void keyring_changed(struct keyring *k, const struct name *key_or_version_or_tenant);

/* ---- use ---- */
enum key_use { KEY_USE_ENCRYPT = 1 /* type E */, KEY_USE_WRAP = 2 /* type W */ };
struct key_handle; /* counted; read-only */
struct key_view {
    const struct aead_key *aead; /* NULL: of level HSM: keyring_token_seal, keyring_token_open */
    enum protection protection;
    const uint8_t *kvid;
    uint32_t version, primary;  /* primary: the key's, 0: none */
    struct bytes version_name;  /* canonical, lives with the handle */
    bool is_primary;
};
/* To encrypt: n names a key (its primary) or a version (must be ENABLED). ERR_STATE "KEY_NO_PRIMARY", "KEY_VERSION_...". */
RESULT keyring_use_encrypt(struct keyring *k, const struct name *n, enum key_use use, bool may_block, struct key_handle **ret,
                           struct key_view *view, struct err *e);
/* To decrypt: n names the key, the header's kvid the version. Unknown kvid or one of another key: ERR_CIPHERTEXT.
 * Version not ENABLED: ERR_STATE (as Cloud KMS: after permission and existence). */
RESULT keyring_use_decrypt(struct keyring *k, const struct name *n, enum key_use use, const uint8_t kvid[FORMAT_KVID_BYTES],
                           bool may_block, struct key_handle **ret, struct key_view *view, struct err *e);
/* Only whether the key exists (cached or loaded): a decryption's first question, before its ciphertext is looked at. */
RESULT keyring_key_exists(struct keyring *k, const struct name *n, bool may_block, struct err *e);
/* With a handle of level HSM; blocks: the keyring gives such a handle on the slow lane only. aad canonical (format.h).
 * seal: out has plain.n + FORMAT_TOKEN_OVERHEAD bytes; ERR_STATE "KEY_VERSION_EXHAUSTED": as many messages as random nonces allow have
 * been sealed (gcm.c); plain.n is at most KEYRING_TOKEN_MAX. open: of a message whose header is of that use and kvid. Both:
 * ERR_UNAVAILABLE (HSM), ERR_STATE "HSM_OBJECT_WEAK", ERR_DATA_LOSS "HSM_KNOWN_ANSWER". */
enum { KEYRING_TOKEN_MAX = HSM_PLAIN_MAX };
RESULT keyring_token_seal(struct keyring *k, const struct key_handle *h, enum key_use use, struct bytes aad, struct bytes plain,
                          uint8_t *out, struct err *e);
RESULT keyring_token_open(struct keyring *k, const struct key_handle *h, enum key_use use, struct bytes aad, struct bytes sealed,
                          uint8_t *out, struct err *e);
/* An object on the token that a creation left behind, or that is to go with its version: what DUE_HSM_UNFINISHED and DUE_HSM_REMOVAL
 * name. keyring_token_condemn: from the one to the other, so that a creation still under way cannot commit any more. */
bool keyring_token_kvid(const struct due *d, uint8_t ret[FORMAT_KVID_BYTES]);
void keyring_token_condemn(struct store_txn *txn, const struct due *d, int64_t now_ns);
void key_handle_unref(struct key_handle *h);  /* NULL accepted */
void key_handle_unrefp(struct key_handle **h);
struct keyring_stats {
    uint64_t hits, misses, entries, hsm_calls;
};
void keyring_stats(struct keyring *k, struct keyring_stats *ret);

/* `kmsd fsck`: each tenant's KEK against its check value, each key's primary, each version's L2 under its KEK. A finding goes to
 * report; an error is what keeps the check from going on (the HSM is away). */
struct keyring_check {
    void (*report)(void *user, const char *text);
    void *user;
    uint64_t tenants, keys, versions; /* out */
};
RESULT keyring_check(struct keyring *k, struct keyring_check *c, struct err *e);

/* The queue of what is due holds all that it should: at once where it does, else each key and version is looked at. Blocks. */
RESULT keyring_requeue(struct keyring *k, struct err *e);

/* `kmsd init`: adds the system's audit key, and that master 1 is current, to txn. keyring_new fails ERR_STATE "NOT_INITIALISED" without it. */
RESULT keyring_init_records(struct store_txn *txn, int64_t now_ns, struct err *e);

#endif
