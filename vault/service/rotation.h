/*
 * Purpose: automatic rotation: a key whose next_rotation_time has come gets a new version, which becomes primary, as in Cloud KMS.
 * Owns:    nothing. Threads: the keeper's. Errors: keyring's and the commit's; then nothing happened.
 * Limits:  one version for each due time, however late. Secrets: none.
 */
#ifndef VAULT_SERVICE_ROTATION_H
#define VAULT_SERVICE_ROTATION_H

#include "kms/keyring/due.h"

/* A keeper_task: user is the struct service, of which store, keyring and clock are used. */
RESULT rotation_due(void *user, const struct due *d, struct err *e);
/* The first time after now in the series that began at due_ns: who was away for a year rotates once. period_s 0: none, 0. */
int64_t rotation_next(int64_t due_ns, int64_t period_s, int64_t now_ns);

#endif
