/*
 * Purpose: the steps of the rotation and the end of a secret on the token, the master's and the seal secret's alike, each one transaction
 *          with its event under "system:master" or "system:seal": an effect on the token (making, backing up, destroying) comes between the
 *          record that says what is meant and the one that says it is done, and is made again by whoever finds the first without the second.
 *          What differs is in moving_master.c and moving_seal.c (moving_kind.h).
 * Owns:    struct moving_steps holds the tenant under way. Threads: one at a time for each kind (mover.h).
 * Errors:  the HSM's and the store's, then nothing happened but perhaps the effect; ERR_CONFLICT: somebody changed what was read, call
 *          again; ERR_STATE "TOKEN_NOT_CLONED", "TOKEN_SECRET_NEEDED", "ROTATION_STATE"; ERR_CANCELLED: `stop` said so.
 * Limits:  REKEY_PAGE versions, MOVING_SEAL_PAGE rows a step. Secrets: inside kms/keyring and kms/store.
 */
#ifndef VAULT_SERVICE_MOVING_STEPS_H
#define VAULT_SERVICE_MOVING_STEPS_H

#include "kms/keyring/rekey.h"
#include "vault/service/moving.h"
#include "vault/service/service.h"

enum { MOVING_SEAL_PAGE = 128, MOVING_ENDS_AGAIN_MS = 3600000 };

struct moving_steps {
    struct service *s;          /* store, journal, keyring, hsm, config and clock of it are used */
    enum hsm_object kind;
    bool (*stop)(void *user);   /* NULL: never */
    bool (*steady)(void *user); /* times of the wall clock may be relied on; NULL: they may not, and nothing begins or ends by itself */
    void *user;
    struct rekey rekey;         /* the master's */
    uint64_t events_before;     /* the seal secret's: the proof waits until the journal has them; 0: it waits for none */
    int64_t look_boot_ms;       /* when the token is asked again whether what was destroyed is there again */
    int64_t ends_again_boot_ms; /* and what was not destroyed, because something is left under it, is not tried again by itself before that */
};
struct moving_step {
    bool more;       /* there is a next step, to be taken at once */
    uint32_t moved;  /* rows that were wrapped or sealed again */
    uint64_t done;   /* of the rotation, as it stands */
};
void moving_steps_release(struct moving_steps *x);
RESULT moving_step(struct moving_steps *x, struct moving_step *ret, struct err *e);

/* Adds to txn what begins a rotation, to a version above all that store and token know; *v and *all as they were read. */
RESULT moving_begin(struct service *s, struct moving *v, struct token_secrets *all, const char *by, struct store_txn *txn, struct err *e);
/* From when on a retired one may go: backups of the store that need it were made until it was proven unused. Backups of the token from
 * later hold it for as long as it lies there, and need it for nothing. */
int64_t moving_destroyable_ns(const struct config *c, const struct token_secret *m);

#endif
