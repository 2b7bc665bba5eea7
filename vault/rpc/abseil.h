/*
 * Purpose: quiets the debugging that Debian's abseil, on whose mutexes gRPC stands, was built with.
 * Owns:    nothing. Threads: once, before gRPC is used.
 * Errors:  none: where it cannot be done that is logged, and it costs memory, time, and an abort() on an imagined deadlock.
 * Limits:  none.
 * Secrets: none.
 */
#ifndef VAULT_RPC_ABSEIL_H
#define VAULT_RPC_ABSEIL_H

#include <stdbool.h>

/* True when done. Without it each connection leaves memory behind for ever. */
bool abseil_no_deadlock_graph(void);

#endif
