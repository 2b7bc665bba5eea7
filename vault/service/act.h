/*
 * Purpose: what the service does by itself: a change and its event in one transaction, under a principal of the system
 *          ("system:rotation"), which no certificate can name.
 * Owns:    nothing. Threads: any that may block. Errors: the commit's; nothing happened then (but for STORE_UNSURE).
 * Limits:  event.h. Secrets: none.
 */
#ifndef VAULT_SERVICE_ACT_H
#define VAULT_SERVICE_ACT_H

#include "kms/audit/event.h"
#include "kms/keyring/keyring.h"

struct act {
    const char *principal, *action;
    struct bytes resource;
    struct bytes key_version;   /* may be empty */
    struct bytes before, after; /* short canonical JSON */
    uint64_t items;             /* 0: one thing */
};
/* tenant NULL: an act on the instance. */
RESULT act_commit(struct store_txn *txn, const struct clock *clock, const struct tenant_ref *tenant, const struct act *a, struct err *e);

#endif
