/*
 * Purpose: the steps of a master's rotation and destruction, each one transaction with its event under "system:master": an effect on
 *          the token (making, backing up, destroying) comes between the record that says what is meant and the one that says it is done,
 *          and is made again by whoever finds the first without the second.
 * Owns:    struct master_steps holds the tenant under way. Threads: one at a time (mover.h).
 * Errors:  the HSM's and the store's, then nothing happened but perhaps the effect; ERR_CONFLICT: somebody changed what was read, call
 *          again; ERR_STATE "MASTER_NOT_CLONED", "MASTER_STILL_NEEDED"; ERR_CANCELLED: `stop` said so.
 * Limits:  REKEY_PAGE versions a step. Secrets: inside kms/keyring.
 */
#ifndef VAULT_SERVICE_MASTER_STEPS_H
#define VAULT_SERVICE_MASTER_STEPS_H

#include "kms/keyring/rekey.h"
#include "vault/service/moving.h"
#include "vault/service/service.h"

struct master_steps {
    struct service *s; /* store, keyring, hsm and clock of it are used */
    bool (*stop)(void *user);
    void *user;
    struct rekey rekey;
};
struct master_step {
    bool more;       /* there is a next step, to be taken at once */
    uint32_t moved;  /* versions that were wrapped again */
    uint64_t done;   /* of the rotation, as it stands */
};
void master_steps_release(struct master_steps *x);
RESULT master_step(struct master_steps *x, struct master_step *ret, struct err *e);

#endif
