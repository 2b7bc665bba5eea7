/*
 * Purpose: what the journal says was used, into a table of usage: for metering.c, after a start and where a table was full.
 * Owns:    nothing. Threads: any that may block.
 * Errors:  the journal's and the keyring's (ERR_UNAVAILABLE: try again). A record that does not open is passed over, and told.
 * Limits:  METERING_READ records at a time. Secrets: events, in an arena of its own.
 */
#ifndef VAULT_SERVICE_METERING_REPLAY_H
#define VAULT_SERVICE_METERING_REPLAY_H

#include "vault/service/metering.h"

enum { METERING_READ = 256 };

struct replay {
    struct journal *journal;
    struct keyring *keyring;
    struct usage_table *into;
    uint64_t next, to; /* [next, to) is to be counted; next moves */
    int64_t began_ns;  /* moves up to the time of what could not be read */
    RESULT (*between)(void *user, struct err *e); /* pages; its error ends the replay */
    void *user;
};
/* Until `to`, or until the table has no room for the event at `next`. */
RESULT metering_replay(struct replay *r, struct err *e);

#endif
