/*
 * Purpose: the two channels between children (core-hsm, front-core): made by the monitor, anew whenever one side starts.
 * Owns:    an end that is waiting for a side that is not running yet.
 * Threads: the monitor's one.
 * Errors:  ERR_UNAVAILABLE as proc_send: the side that is gone gets its end when it starts again.
 * Limits:  none.
 * Secrets: the monitor never reads these channels: it holds an end only until it is handed over.
 */
#ifndef VAULT_OPS_EDGE_H
#define VAULT_OPS_EDGE_H

#include "vault/ops/proc.h"

struct edge {
    struct proc *side[2];
    enum ipc_control type[2]; /* how the channel is called when it is given to side i */
    int held[2];              /* end for side i, which was not running when the pair was made; -1: none */
};

void edge_init(struct edge *g, struct proc *a, enum ipc_control to_a, struct proc *b, enum ipc_control to_b);
void edge_release(struct edge *g);
/* Call when `started` is up and has its CONFIG; does nothing when it is no side of g. */
RESULT edge_connect(struct edge *g, const struct proc *started, struct err *e);

#endif
