/*
 * Purpose: what becomes of tenants by themselves. A tenant that was deleted is purged on the day: everything of it goes, row by row, and
 *          last salt and audit key, with a certificate; one that is ACTIVE again gets its keys' rotations back into the queue.
 * Owns:    nothing. Threads: the keeper's.
 * Errors:  the store's, the token's; ERR_STATE "TENANT_NOT_EMPTY". Whatever stops a purge leaves it due, and what is gone is counted.
 * Limits:  TENANT_PURGE_STEPS transactions a look: other things fall due meanwhile. Secrets: inside the keyring only.
 */
#ifndef VAULT_SERVICE_TENANT_LIFE_H
#define VAULT_SERVICE_TENANT_LIFE_H

#include "kms/keyring/keyring.h"

enum { TENANT_PURGE_STEPS = 64, TENANT_RETENTION_SHORT_S = 30 * 24 * 3600, TENANT_RETENTION_LONG_S = 90 * 24 * 3600 };

/* Keeper tasks: user is the struct service. */
RESULT tenant_purge_due(void *user, const struct due *d, struct err *e);
RESULT tenant_return_due(void *user, const struct due *d, struct err *e);
/* One line of JSON for an event's before and after; accept-rollback reads it (revoked.c). */
struct bytes tenant_json(struct arena *a, const struct tenant *t);

#endif
