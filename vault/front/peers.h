/*
 * Purpose: what each client address may do: how many connections at once, how many new ones a second, and whether it is in
 *          the penalty box because the policer cut it off.
 * Owns:    its table. Threads: the loop's. An IPv6 address counts as its /64: that is what one customer holds.
 * Errors:  a refusal, named; a full table refuses addresses it does not know.
 * Limits:  the enum below, max_per_peer and max_streams.
 * Secrets: none.
 */
#ifndef FRONT_PEERS_H
#define FRONT_PEERS_H

#include "vault/front/bucket.h"

#include <sys/socket.h>

enum {
    PEERS_MAX = 65536,               /* addresses remembered */
    PEERS_NEW_BURST = 1000,          /* new connections of one address at once, */
    PEERS_NEW_PER_S = 500,           /* and a second: a TLS handshake costs us more than it costs them */
    PEERS_PENALTY_FIRST_MS = 250,    /* after the first cut; doubled by each further one, */
    PEERS_PENALTY_MAX_MS = 30000,    /* up to this */
    PEERS_FORGET_MS = 60000,         /* quiet so long: the strikes are forgotten */
    PEERS_UNDONE_BURST = 2000,       /* streams begun and not completed, by reset or by leaving, of one address at once, */
    PEERS_UNDONE_PER_S = 400,        /* and a second; each completed one allows half a further one */
    PEERS_UNFINISHED_BYTES = 32 << 20, /* of messages begun and not finished; one connection's 100 largest are 25 MiB */
    PEERS_STREAMS = 1024,            /* open at once, over all connections: core holds 12 KB for each, 18 with an answer unread */
    /* Of all addresses together; at that limit each may still have a little, so that many of them cannot shut the others out. */
    PEERS_LEAST_STREAMS = 64,
    PEERS_ALL_UNFINISHED_BYTES = 48 << 20,
    PEERS_LEAST_UNFINISHED_BYTES = 512 << 10,
};

enum peers_verdict { PEERS_OK, PEERS_TOO_MANY, PEERS_TOO_FAST, PEERS_PENALISED, PEERS_UNDONE, PEERS_TABLE_FULL };
struct peer;
struct peers;
struct peers *peers_new(uint32_t max_per_peer, uint32_t max_streams /* of all */);
void peers_free(struct peers *ps); /* NULL accepted */
/* On PEERS_OK the connection is counted, and *ret is its to leave and to penalise. */
enum peers_verdict peers_join(struct peers *ps, const struct sockaddr_storage *addr, int64_t now_ms, struct peer **ret);
void peers_leave(struct peers *ps, struct peer *p, int64_t now_ms);
void peers_penalise(struct peer *p, int64_t now_ms);
/* What has become of a connection's streams since the last time. A new connection must not be a new budget, so resets and
 * streams left behind are counted here, too: an address over its budget opens nothing until it has refilled. */
struct peer_change {
    int32_t streams, unfinished_bytes; /* more or less of them */
    uint32_t completed, undone;        /* of the streams that ended */
};
void peers_count(struct peer *p, int64_t now_ms, const struct peer_change *ch);
/* What it may open and begin now. Kept to by whoever asks. */
uint32_t peers_stream_room(struct peer *p, int64_t now_ms);
uint32_t peers_unfinished_room(const struct peer *p);
const char *peers_verdict_text(enum peers_verdict v);

#endif
