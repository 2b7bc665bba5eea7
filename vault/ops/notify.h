/*
 * Purpose: tells a service manager how we are: one datagram to $NOTIFY_SOCKET, the protocol of sd_notify(3).
 * Owns:    nothing. Threads: any. Errors: none: without a listener, or when it cannot be reached, nothing happens.
 * Limits:  the state is a short line such as "READY=1"; waits NOTIFY_WAIT_S seconds at most. Secrets: none.
 */
#ifndef VAULT_OPS_NOTIFY_H
#define VAULT_OPS_NOTIFY_H

enum { NOTIFY_WAIT_S = 2 };

void notify_state(const char *state);

#endif
