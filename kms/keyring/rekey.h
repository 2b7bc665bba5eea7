/*
 * Purpose: a tenant moves to the current master: its KEK is derived anew, its versions are wrapped again, a page a transaction; and the
 *          proof that nothing is left under another one. L2, and all that is derived from it, stays as it is: no cached key is touched.
 * Owns:    struct rekey holds the tenant between pages. Threads: one at a time; changes of others meanwhile are conflicts, read again.
 * Errors:  ERR_CONFLICT (the caller's commit: somebody changed what was moved: call again with the same cursor); ERR_NOT_FOUND: the
 *          tenant is gone; the HSM's and the store's. A version that does not unwrap is left, logged and counted in `broken`.
 * Limits:  REKEY_PAGE versions a call. Secrets: L2 for as long as it takes to wrap it again.
 */
#ifndef KMS_KEYRING_REKEY_H
#define KMS_KEYRING_REKEY_H

#include "kms/keyring/keyring.h"

enum { REKEY_PAGE = 64 };
struct rekey {
    uint8_t after[STORE_ID_MAX]; /* in: the cursor within the tenant; out: behind this page */
    size_t after_n;
    uint32_t broken;             /* in and out: versions of the tenant that did not unwrap, on the way so far */
    uint32_t from;               /* out: the master that it moves from; 0: it began nowhere else */
    uint32_t seen, moved;        /* out: rows of this page, and those wrapped again */
    bool changed;                /* out: there is something to commit */
    bool end;                    /* out: that was the last page: the tenant depends on no other master (unless `broken`) */
    struct tenant_ref *held;     /* between calls; rekey_release */
};
void rekey_release(struct rekey *r);
/* Adds the next step's puts to txn: the tenant's new KEK, then page after page of versions; after the commit: keyring_rekeyed. */
RESULT keyring_rekey(struct keyring *k, struct bytes tenant, struct rekey *r, struct store_txn *txn, struct err *e);

/* Forgets what is cached of the tenant itself; its keys go on as they are. */
void keyring_rekeyed(struct keyring *k, struct bytes tenant);

/* By what the sealed bodies say. version 0: names any master but the current one; else: names that one. */
struct rekey_proof {
    uint64_t tenants, versions; /* examined; versions: those that have a wrapped key */
    uint64_t left;              /* tenants and versions that name it */
    char first[NAME_MAX_BYTES]; /* of them; "" */
};
RESULT keyring_rekey_prove(struct keyring *k, uint32_t version, bool (*stop)(void *user), void *user, struct rekey_proof *ret,
                           struct err *e); /* ERR_CANCELLED: it was stopped */
/* Rows of versions that there are, in whatever state: what is ahead, for people. */
RESULT keyring_rekey_count(struct keyring *k, uint64_t *ret, struct err *e);

#endif
