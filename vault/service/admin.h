/*
 * Purpose: what decisions depend on, stored: policy documents (versions) and registered principals. Loads them at start,
 *          applies changes atomically, hands out the compiled policy.
 * Owns:    the current policy set (counted), the version number.
 * Threads: admin_policy from any thread (fast lane); changes on the slow lane, one at a time inside.
 * Errors:  ERR_INVALID with the document's line as text; ERR_CONFLICT "POLICY_CHANGED" when expected_version is not current;
 *          ERR_NOT_FOUND, ERR_EXISTS for principals; ERR_EXHAUSTED "TOO_MANY_PRINCIPALS".
 * Limits:  ADMIN_DOCS_MAX documents, ADMIN_PRINCIPALS_MAX principals; policy.h, authn.h.
 * Secrets: none; records are sealed all the same.
 */
#ifndef VAULT_SERVICE_ADMIN_H
#define VAULT_SERVICE_ADMIN_H

#include "kms/authn/authn.h"
#include "kms/policy/policy.h"
#include "kms/store/store.h"

enum { ADMIN_DOCS_MAX = 16, ADMIN_PRINCIPALS_MAX = 100000 };

struct admin;
struct admin_options {
    struct store *store;
    struct authn *authn;
    const struct clock *clock;
    const char *trust_domain;
    uint8_t boot_id[BOOT_ID_BYTES]; /* of this boot; zeros: unknown */
    uint64_t principals_max;        /* 0: ADMIN_PRINCIPALS_MAX: they are all held in memory */
};
RESULT admin_open(const struct admin_options *o, struct admin **ret, struct err *e);
void admin_free(struct admin *a);

struct policy_set *admin_policy(struct admin *a); /* counted: policy_unref */

/* After a commit that changed policy or principals, before its answer. Where the change cannot be loaded the commit stands and
 * the node is stale: every decision is refused (admin_current false) until a reload succeeds; the sweep tries each second. */
void admin_refresh(struct admin *a);
bool admin_current(const struct admin *a);

struct admin_policy_version {
    uint64_t version, revision;
    int64_t created_ns;
    struct bytes creator;
    struct policy_doc *docs; /* names are NUL-terminated */
    size_t ndocs;
    uint8_t digest[32];
};
RESULT admin_policy_get(struct admin *a, struct arena *ar, struct admin_policy_version *ret, struct err *e);
/* Compiles against the table's actions; the explanation (public: the caller's own documents) goes to ret_text. */
RESULT admin_policy_check(const struct policy_doc *docs, size_t n, struct policy_set **ret, struct buf *ret_text, struct err *e);
/* Adds the new version to txn, guarded by the current one. After the commit call admin_policy_reload. */
RESULT admin_policy_put(struct admin *a, const struct policy_doc *docs, size_t n, uint64_t expected_version, struct bytes creator,
                        struct store_txn *txn, struct arena *ar, struct admin_policy_version *ret, struct err *e);
RESULT admin_policy_reload(struct admin *a, struct err *e);
/* kmsd init: version 1. */
void admin_policy_first(const struct policy_doc *docs, size_t n, struct bytes creator, int64_t now_ns, struct store_txn *txn);

struct admin_principal {
    struct principal p;
    int64_t created_ns;
    uint8_t boot_id[BOOT_ID_BYTES]; /* of a recovery administrator: the boot that p.until_boot_ns counts in */
};
RESULT admin_principal_get(struct admin *a, struct bytes name, struct arena *ar, struct admin_principal *ret, struct err *e);
RESULT admin_principal_list(struct admin *a, struct bytes after, size_t limit, struct arena *ar, struct admin_principal **ret,
                            size_t *ret_n, struct err *e);
/* expected: STORE_ABSENT to create, or the revision read. After the commit call admin_principals_reload. A SAN that another
 * principal has: ERR_EXISTS "SAN_TAKEN". */
RESULT admin_principal_put(struct admin *a, const struct admin_principal *p, uint64_t expected, struct store_txn *txn,
                           struct err *e);
RESULT admin_principals_reload(struct admin *a, struct err *e);
void admin_principal_first(const struct admin_principal *p, struct store_txn *txn); /* kmsd init, recover-admin */
/* `kmsd accept-rollback`: state and body (in `body`) of r become those of a disabled principal, when `revoked` says so or it is a
 * recovery administrator. *ret_changed false: nothing of that, or it is so already. */
RESULT admin_principal_as_disabled(struct record *r, bool revoked, struct buf *body, bool *ret_changed, struct err *e);
/* Adds to txn: ADMIN_REMOVE of the tenant's principals go, with their claims on SANs; *ret_n of them, 0: it has none. After the commit
 * call admin_refresh. */
enum { ADMIN_REMOVE = 256 };
RESULT admin_principals_remove(struct store *s, struct bytes tenant, struct store_txn *txn, uint64_t *ret_n, struct err *e);
/* Adds to txn: disabled. A principal that is not there, or is it already, is no error. */
RESULT admin_principal_end(struct store *s, struct bytes name, struct store_txn *txn, struct err *e);

#endif
