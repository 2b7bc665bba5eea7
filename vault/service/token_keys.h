/*
 * Purpose: what the service does by itself for keys of protection level HSM: a version that has used half of its random nonces is
 *          replaced in time, an object that a creation left on the token is removed, and one whose version is destroyed too.
 * Owns:    nothing. Threads: the keeper's. Errors: keyring's, the token's and the commit's: the row stays, and is tried again.
 * Limits:  none. Secrets: none.
 */
#ifndef VAULT_SERVICE_TOKEN_KEYS_H
#define VAULT_SERVICE_TOKEN_KEYS_H

#include "kms/keyring/due.h"

/* Keeper tasks: user is the struct service, of which store, keyring, hsm and clock are used. */
RESULT token_key_exhausted(void *user, const struct due *d, struct err *e);  /* DUE_EXHAUSTION */
RESULT token_key_unfinished(void *user, const struct due *d, struct err *e); /* DUE_HSM_UNFINISHED: from now on it is DUE_HSM_REMOVAL */
RESULT token_key_removal(void *user, const struct due *d, struct err *e);    /* DUE_HSM_REMOVAL */

#endif
