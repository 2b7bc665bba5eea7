/*
 * Purpose: end a connection without losing a call (MEASURED 6): GOAWAY(2^31-1), a pause of more than a round trip,
 *          GOAWAY(last stream seen), wait until no stream is open, close. Newer streams are dropped meanwhile: the client was
 *          told that they did not happen and may repeat them elsewhere.
 * Owns:    nothing. Threads: the loop's. Errors: none.
 * Errors:  none; a connection that is not done in time is closed.
 * Limits:  the enum below.
 * Secrets: none.
 */
#ifndef FRONT_DRAIN_H
#define FRONT_DRAIN_H

#include "vault/front/conn.h"

enum {
    DRAIN_WARN_MS = 200,         /* between the two GOAWAYs */
    DRAIN_HANDSHAKE_MS = 500,    /* for a handshake that is under way */
    DRAIN_AGE_GRACE_MS = 60000,  /* for calls in flight when a connection has reached its age */
};

void drain_begin(struct conn *c, int64_t due_ms); /* idempotent; the earlier due time counts */
bool drain_wants_frame(const struct conn *c);     /* a GOAWAY waits for a frame boundary */
void drain_put_frame(struct conn *c);             /* at a boundary */
void drain_step(struct conn *c);                  /* after each pump and timer: next stage, or the end */

#endif
