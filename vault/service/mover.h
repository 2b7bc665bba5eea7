/*
 * Purpose: takes the steps of the rotation and the end of the master and of the seal secret (moving_steps.h) in the background: at a pace
 *          that yields to traffic, again and again where one fails, from where it was after a restart. Neither waits for the other.
 * Owns:    one thread, from mover_start to mover_free. Threads: mover_status, mover_wake from any; mover_step by one at a time.
 * Errors:  logged, told by mover_status, tried again after MOVER_RETRY_MS or MOVER_PROVE_MS.
 * Limits:  `pace` rows in a second; a quarter of it while MOVER_BUSY calls or more are in flight. Secrets: none.
 */
#ifndef VAULT_SERVICE_MOVER_H
#define VAULT_SERVICE_MOVER_H

#include "vault/service/service.h"

enum { MOVER_LOOK_MS = 500, MOVER_RETRY_MS = 5000, MOVER_PROVE_MS = 60000 /* after a proof that failed: it reads everything */, MOVER_BUSY = 32, MOVER_BUSY_SHARE = 4, MOVER_WHY_MAX = 256, MOVER_RATE_MS = 5000,
       MOVER_SAY_MS = 600000 /* between two lines of the log about the same failure */ };

struct mover_options {
    struct service *s;                /* store, journal, keyring, hsm, config, clock and the number of calls in flight */
    uint64_t master_pace, seal_pace;  /* versions, rows in a second */
    uint64_t settle_ms;               /* mover_steady: the wall clock has gone steadily for that long */
};
enum mover_next { MOVER_AGAIN = 1, MOVER_PACED /* a moment */, MOVER_REST };

struct mover;
struct mover *mover_new(const struct mover_options *o);
enum mover_next mover_step(struct mover *m); /* at most one transaction of each kind */
void mover_start(struct mover *m);
void mover_wake(struct mover *m);            /* there may be something to do; NULL accepted */
void mover_free(struct mover *m);            /* ends the thread, at most one step later; NULL accepted */

struct mover_status {
    bool failing;            /* the last step failed */
    char why[MOVER_WHY_MAX];
    uint64_t told;           /* lines of the log about failures */
    uint64_t per_second;     /* rows passed, over the last seconds; 0: not known */
};
void mover_status(struct mover *m, enum hsm_object kind, struct mover_status *ret);
bool mover_steady(struct mover *m); /* times of the wall clock may be relied on */

#endif
