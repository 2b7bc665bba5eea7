/*
 * Purpose: messages between the four processes: typed, length-checked packets on SOCK_SEQPACKET socketpairs, with
 *          descriptors. base/ipc.h lists who says what on which channel.
 * Owns:    the descriptor. Threads: one reader and one writer at a time; a packet is atomic.
 * Errors:  ERR_UNAVAILABLE "CHANNEL_CLOSED" when the other side is gone, ERR_DEADLINE on timeout, ERR_INVALID on a bad packet.
 * Limits:  CHAN_MAX_BYTES a packet, CHAN_MAX_FDS descriptors a packet.
 * Secrets: a packet that carries a key (hsm to core) is received into a caller's buffer that the caller wipes.
 */
#ifndef BASE_CHAN_H
#define BASE_CHAN_H

#include "base/bytes.h"

enum { CHAN_MAX_BYTES = 65536, CHAN_MAX_FDS = 4 };

struct chan_msg {
    uint16_t type;         /* channel-specific */
    uint32_t seq;          /* echoes in the reply; 0 for notices */
    struct bytes body;     /* on receive: borrowed from the caller's buffer */
    int fds[CHAN_MAX_FDS]; /* on receive the caller owns them */
    size_t nfds;
};
RESULT chan_pair(int ret_fds[2], struct err *e); /* CLOEXEC, SOCK_SEQPACKET */
RESULT chan_send(int fd, const struct chan_msg *m, struct err *e); /* blocks; MSG_NOSIGNAL; refuses bodies over the limit */
/* Waits up to timeout_ms (-1: for ever). buf receives header and body; CHAN_MAX_BYTES + 16 holds any packet. */
RESULT chan_recv(int fd, int timeout_ms, void *buf, size_t buf_bytes, struct chan_msg *ret, struct err *e);

#endif
