/*
 * Purpose: whose turn it is to shake hands. A handshake holds 76 KB and half a millisecond of CPU for somebody nobody knows
 *          yet, so few go on at once; the others wait, cheaply, and the nets they come from take turns.
 * Owns:    its table of nets: an IPv4 /24, an IPv6 /48. A net is known for as long as somebody of it is here. Threads: the loop's.
 * Errors:  a refusal: false.
 * Limits:  the enum below.
 * Secrets: none.
 */
#ifndef FRONT_TURNS_H
#define FRONT_TURNS_H

#include "base/err.h"

#include <stdint.h>
#include <sys/socket.h>

enum {
    TURNS_SLOTS = 256,        /* handshakes at once, until the core has said who it is: 19 MB */
    TURNS_NET_SLOTS = 128,    /* of one net */
    TURNS_LINE = 1024,        /* waiting for a slot; over it the longest line gets shorter */
    TURNS_STALL_MS = 1000,    /* a client silent for so long gives its slot up, if somebody waits for it */
    TURNS_STRANGERS = 128,    /* connections whose certificates the core does not trust: they exist to be told so; */
    TURNS_NET_STRANGERS = 32, /* of one net */
};

enum turn_place { TURN_NONE, TURN_IN_LINE, TURN_SHAKING, TURN_STRANGER };
struct turns_net;
struct turn { /* one connection's; zero: nowhere */
    struct turn *next, *prev;
    struct turns_net *net;
    int64_t since_ms; /* it has its slot */
    enum turn_place place;
};

struct turns;
struct turns *turns_new(void);
void turns_free(struct turns *ts); /* when everybody has left; NULL accepted */
/* To the end of its net's line. False: everybody waits, and its own line is the longest. *ret_displaced: the last of the
 * longest line, which has left and is to be closed; NULL: nobody. */
bool turns_join(struct turns *ts, const struct sockaddr_storage *addr, struct turn *t, struct turn **ret_displaced);
/* The next one, with a slot from now on; NULL: nobody may go. */
struct turn *turns_next(struct turns *ts, int64_t now_ms);
void turns_leave(struct turns *ts, struct turn *t); /* from wherever it is; TURN_NONE accepted */
/* Its slot is free again, and it is one of the strangers until it leaves. False: there are too many; it has left. */
bool turns_stranger(struct turns *ts, struct turn *t);
bool turns_waiting(const struct turns *ts);
/* The one that has held longest a slot that somebody waits for, at least TURNS_STALL_MS; NULL: none. */
struct turn *turns_slowest(const struct turns *ts, int64_t now_ms);
void turns_spare(struct turns *ts, struct turn *t, int64_t now_ms); /* not its own fault: the slot is as if it were new */

#endif
