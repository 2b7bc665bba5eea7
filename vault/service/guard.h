/*
 * Purpose: before a version is scheduled for destruction: a guard of the policy may want it unused for so many days.
 * Owns:    nothing. Threads: the call's owner (slow lane).
 * Errors:  ERR_STATE "KEY_VERSION_IN_USE": the event's rule is then the guard's id. ERR_UNAVAILABLE "USAGE_UNKNOWN": not all uses are
 *          counted yet: nothing is destroyed on a guess. Limits: policy.h. Secrets: none; who used it is not told.
 */
#ifndef VAULT_SERVICE_GUARD_H
#define VAULT_SERVICE_GUARD_H

#include "kms/keyring/usage.h"
#include "vault/service/call.h"
#include "vault/service/service.h"

/* m: as it was read. Where a guard matches, the event's `before` says which, and what it found. */
RESULT guard_check(struct call *c, const struct name *n, const struct keyring_version *m, struct err *e);
/* When it may have been used last: what is known, and, of a version that is older than what is known of it, since when that is. 0: never. */
int64_t guard_last_use(const struct usage *u, int64_t created_ns, int64_t began_ns);

#endif
