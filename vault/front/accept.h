/*
 * Purpose: the listening sockets: accept, count, refuse. Running out of descriptors neither spins nor loses the listener.
 * Owns:    the listeners and the reserve descriptor, which is given up to accept and refuse one client when none is left.
 * Threads: the loop's.
 * Errors:  none returned; refusals are counted and (budgeted) logged.
 * Limits:  the enum below; limits.max_connections in total, peers.h for each address.
 * Secrets: none.
 */
#ifndef FRONT_ACCEPT_H
#define FRONT_ACCEPT_H

#include "vault/front/loop.h"

enum {
    ACCEPT_TURN = 8,        /* new connections a pass: handshakes are the dearest thing a stranger can ask for */
    ACCEPT_PAUSE_MS = 100,  /* no descriptor, not even the reserve: look again after it */
    ACCEPT_FDS_KEPT = 32,   /* descriptors that are not for clients; each client takes two */
};

void accept_init(struct loop *l); /* reserve descriptor; lowers max_connections to what RLIMIT_NOFILE allows */
void accept_release(struct loop *l);
void accept_ready(struct loop *l, struct listener *from);
void accept_tick(struct loop *l); /* end a pause */
void accept_stop(struct loop *l); /* drain: closes our copies of the listeners */
bool accept_local_name(const struct loop *l, char out[80]); /* "127.0.0.1:7443" of the first listener */

#endif
