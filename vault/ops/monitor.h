/*
 * Purpose: the monitor: starts hsm, then core, then front; gives each what base/ipc.h says; starts what dies again; reloads
 *          on SIGHUP; drains front, core, hsm in that order on SIGTERM or SIGINT. With `init` it starts
 *          `kmsd-hsm --init` and `kmsd-core --init` instead, and ends when core has answered.
 * Owns:    the listening socket, the control channels, the lock on state_dir, run_dir/endpoint.
 * Threads: one, and it must stay the only one of the process: the monitor forks.
 * Errors:  start-up errors before anything was started; later ones are logged and mended, or end in exit code 1.
 * Limits:  drain_timeout + MONITOR_GRACE_MS for a stop; a second signal ends it at once. Backoff: proc.h.
 * Secrets: none: it opens the PIN file and the TLS key and passes the descriptors on, unread.
 */
#ifndef VAULT_OPS_MONITOR_H
#define VAULT_OPS_MONITOR_H

#include "base/config.h"

enum { MONITOR_GRACE_MS = 2000 };

struct monitor_options {
    const struct config *config;
    const char *libexec;       /* folder of kmsd-hsm, kmsd-core, kmsd-front */
    struct bytes init_message; /* init.h; empty: serve */
    bool offline;              /* init_message is one of IPC_OFFLINE: core is started with --offline, hsm as always */
};

/* Runs until stopped. *ret_exit is the process's exit code: 0 stopped or initialised, 1 something was fatal or had to be
 * killed. Blocks SIGCHLD, SIGHUP, SIGINT, SIGTERM in the process. */
RESULT monitor_run(const struct monitor_options *o, int *ret_exit, struct err *e);

#endif
