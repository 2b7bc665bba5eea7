/*
 * Purpose: one child process of the monitor: started, spoken to, reaped, started again with backoff.
 *
 *              DOWN ---spawn---> STARTING ---READY---> READY
 *               ^  \                |  \                 |  \
 *               |   \ (stop)        |   +----DRAIN-------|---+--> DRAINING
 *               |    v              |                    |            |
 *               +----|-----died-----+--------died--------+            | died
 *                    +------------------------------------------------+--> DONE
 *
 * Owns:    the process and the monitor's end of its control channel.
 * Threads: the monitor's one: it forks, so no other thread may exist.
 * Errors:  ERR_UNAVAILABLE when it is gone or hung: its death follows by SIGCHLD. Messages to a dead child are dropped.
 * Limits:  backoff PROC_BACKOFF_MIN_MS doubling to PROC_BACKOFF_MAX_MS, forgotten after PROC_HEALTHY_MS of READY.
 * Secrets: none.
 */
#ifndef VAULT_OPS_PROC_H
#define VAULT_OPS_PROC_H

#include "base/ipc.h"

#include <sys/types.h>

enum {
    PROC_BACKOFF_MIN_MS = 100,
    PROC_BACKOFF_MAX_MS = 1000,
    PROC_HEALTHY_MS = 10000,
    PROC_CLOSED_GRACE_MS = 2000, /* closed its channel but has not exited: killed after this */
};

enum proc_state { PROC_DOWN, PROC_STARTING, PROC_READY, PROC_DRAINING, PROC_DONE };

struct proc {
    const char *role;     /* "hsm": runs libexec/kmsd-hsm */
    const char *argument; /* "--init" or NULL */
    pid_t pid;            /* 0: none */
    int control;          /* -1: none */
    unsigned state;
    bool ever_ready;
    int64_t backoff_ms, ready_ms, retry_ms, kill_ms; /* times on the boot clock; kill_ms 0: none */
};

void proc_init(struct proc *p, const char *role, const char *argument);
bool proc_alive(const struct proc *p);
/* Forks and execs with an empty environment, stdin on /dev/null and the control channel as the only other descriptor. */
RESULT proc_spawn(struct proc *p, const char *libexec, int64_t now_ms, struct err *e);
/* Never blocks: a child whose queue is full is hung, and is killed. fds stay the caller's. */
RESULT proc_send(struct proc *p, enum ipc_control type, struct bytes body, const int *fds, size_t nfds, struct err *e);
void proc_ready(struct proc *p, int64_t now_ms);
void proc_drain(struct proc *p);
void proc_kill(struct proc *p);
void proc_channel_closed(struct proc *p, int64_t now_ms); /* end of file on its control channel */
/* True when it has died; then it is DOWN with retry_ms set, or DONE when it was draining. Logs how. */
bool proc_reap(struct proc *p, int64_t now_ms);
const char *proc_state_name(const struct proc *p);

/* The folder of kmsd-hsm, kmsd-core and kmsd-front: beside this executable, else the installed one. */
RESULT proc_find_libexec(char *out, size_t n, struct err *e);
RESULT proc_check_libexec(const char *libexec, struct err *e);

#endif
