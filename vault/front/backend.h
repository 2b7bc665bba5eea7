/*
 * Purpose: the core's side of the front: announce each connection, wait for the ack, connect under its name, report its
 *          end, obey KILL, count (base/ipc.h, enum ipc_conn); and live through the core's restart.
 * Owns:    the channel. Threads: the loop's.
 * Errors:  a channel that breaks or says nonsense is closed: running connections get CONN_CORE_GONE_MS, new ones wait.
 * Limits:  the enum below; never blocks: what the channel does not take waits in the outbox, one place a connection.
 * Secrets: certificates are public; ids are random and unguessable.
 */
#ifndef FRONT_BACKEND_H
#define FRONT_BACKEND_H

#include "vault/front/conn.h"

enum {
    BACKEND_WAIT_MS = 2000,  /* from the end of the handshake to the connection to core: ack, or a new core */
    BACKEND_RETRY_MS = 20,   /* core's backlog is full */
    BACKEND_TURN = 256,      /* messages read a pass */
};

void backend_init(struct backend *b, uint32_t max_connections, const char *run_dir);
void backend_release(struct loop *l);
void backend_set_channel(struct loop *l, int take_fd); /* the monitor's new channel; replaces an earlier one */
void backend_register(struct conn *c);                 /* handshake done: CONN_NEW .. OPEN */
void backend_connect(struct conn *c);
void backend_ended(struct conn *c); /* its core connection is closed: tell the core, once; forget the id */
void backend_readable(struct loop *l);
void backend_flush(struct loop *l);
void backend_stats(struct loop *l);

#endif
