/*
 * Purpose: the client's half of the channel: many threads call, each gets the answer with its own sequence number.
 * Owns:    struct hsm: the channel and who waits on it.
 * Threads: any. No thread of its own: of the callers that wait one reads for all.
 * Errors:  ERR_UNAVAILABLE "HSM_UNAVAILABLE": no channel, replaced, closed, or no answer in time; else what hsm answered.
 * Limits:  16 calls in flight, so that a send never blocks; the rest wait their turn within their own deadline.
 * Secrets: packets are received in locked memory and wiped; a key goes from there into its secret. The reply buffer is the caller's to
 *          wipe.
 */
#ifndef HSM_CALL_H
#define HSM_CALL_H

#include "hsm/hsm.h"
#include "hsm/wire.h"

/* One operation within the client's timeout and extra_ms: *ret reads the payload, in reply. key: where an answer that is a key goes
 * in place of reply (SECRET_KEY_BYTES; then the payload is empty), so that no other memory sees it; NULL: it brings none. */
RESULT hsm_call(struct hsm *h, uint64_t extra_ms, enum wire_op op, const struct buf *request, struct secret *key,
                uint8_t reply[WIRE_MAX], struct reader *ret, struct err *e);
RESULT hsm_unavailable(const char *why, struct err *e);

#endif
