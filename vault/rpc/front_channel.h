/*
 * Purpose: the core's end of the front's control channel: announces connections to authn before their first byte arrives.
 * Owns:    the descriptor, one thread, and the list of connections announced on it: when the channel breaks (the front died)
 *          they are all reported closed.
 * Threads: its own; everything else may be called from any one thread at a time.
 * Errors:  a malformed packet ends the channel: the front is then started anew by the monitor.
 * Limits:  FRONT_CONNS_MAX connections at a time: more are answered "close". Secrets: none.
 */
#ifndef VAULT_RPC_FRONT_CHANNEL_H
#define VAULT_RPC_FRONT_CHANNEL_H

#include "base/ipc.h"
#include "kms/authn/authn.h"

enum { FRONT_CONNS_MAX = 131072, FRONT_CHANNEL_NICE = 5 };

struct front_channel;
struct front_stats {
    uint64_t open, accepted, refused, policed;
};
RESULT front_channel_start(struct authn *a, int fd, struct front_channel **ret, struct err *e); /* fd is taken */
void front_channel_stop(struct front_channel *f); /* NULL accepted; the connections are forgotten */
/* From now on also kept in out[4]: open, accepted, refused, policed. out outlives the channel. */
void front_channel_mirror(struct front_channel *f, _Atomic uint64_t *out);
void front_channel_stats(const struct front_channel *f, struct front_stats *ret);

#endif
