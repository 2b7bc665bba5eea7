/*
 * Purpose: does what falls due by itself, in order of time, at a pace: keys rotate, versions and tenants end. Whoever dies in
 *          between finds it still due; after time away what has gathered is done one by one, not all at once.
 * Owns:    one thread, from keeper_start to keeper_stop. Threads: keeper_status from any; keeper_step by one at a time.
 * Errors:  what fails stays in the queue and is tried again (due.h), the rest goes on; keeper_status tells it to health.
 * Limits:  `pace` in a second, KEEPER_PAGE a look. Secrets: none.
 */
#ifndef VAULT_SERVICE_KEEPER_H
#define VAULT_SERVICE_KEEPER_H

#include "base/clock.h"
#include "kms/keyring/due.h"

enum { KEEPER_PAGE = 64, KEEPER_LOOK_MS = 500, KEEPER_WHY_MAX = 256 };

struct keeper_task {
    enum due_what what;
    /* Does it, and takes the row out of the queue, in one transaction; what is not due any more only loses its row. */
    RESULT (*run)(void *user, const struct due *d, struct err *e);
};
struct keeper_options {
    struct store *store;
    const struct clock *clock;
    uint64_t pace;      /* things done in a second, at most */
    uint64_t settle_ms; /* nothing is due before the wall clock has gone steadily for that long */
    RESULT (*prepare)(void *user, struct err *e); /* before anything is due, until it succeeds; NULL: nothing to do */
    const struct keeper_task *tasks;
    size_t ntasks;
    void *user;
};
struct keeper;
struct keeper *keeper_new(const struct keeper_options *o);
void keeper_step(struct keeper *k);  /* what is due now, as far as the pace allows */
void keeper_start(struct keeper *k); /* the thread: a step each KEEPER_LOOK_MS */
void keeper_free(struct keeper *k);  /* ends the thread, at most one thing later; NULL accepted */

struct keeper_status {
    uint64_t done, failed;    /* since start */
    bool failing;             /* something failed and has not been done since */
    char why[KEEPER_WHY_MAX]; /* the last that failed: its name, and why */
};
void keeper_status(struct keeper *k, struct keeper_status *ret);

#endif
