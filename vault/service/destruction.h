/*
 * Purpose: the day of a version's destruction: its wrapped key is erased from the store, and a certificate says so. Until then it can
 *          be restored; a version that was restored, or has another time by now, is left alone.
 * Owns:    nothing. Threads: the keeper's. Errors: keyring's and the commit's; then nothing happened.
 * Limits:  one destruction and one certificate for each version, whoever dies when. Secrets: none.
 *
 * A version whose key lies on the token loses its object there afterwards, before its certificate is signed (certificate_due): were it
 * destroyed first, a restore in the same moment would bring back a version without its key.
 */
#ifndef VAULT_SERVICE_DESTRUCTION_H
#define VAULT_SERVICE_DESTRUCTION_H

#include "kms/keyring/due.h"

/* A keeper_task: user is the struct service, of which store, keyring, clock and instance are used. */
RESULT destruction_due(void *user, const struct due *d, struct err *e);

#endif
