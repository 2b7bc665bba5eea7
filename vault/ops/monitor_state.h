/*
 * Purpose: the monitor's own state, shared by monitor.c (the loop) and greet.c (what each child is given).
 * Owns:    see monitor.h. Threads: one. Errors: as monitor.h.
 * Limits:  none. Secrets: none: descriptors of secret files pass through, unread.
 */
#ifndef VAULT_OPS_MONITOR_STATE_H
#define VAULT_OPS_MONITOR_STATE_H

#include "vault/ops/edge.h"
#include "vault/ops/listen.h"
#include "vault/ops/monitor.h"

/* In the order of starting; stopping goes the other way round. */
enum { HSM, CORE, FRONT, CHILDREN };

struct monitor {
    const struct config *config;
    const char *libexec;
    struct bytes init_message;
    bool offline; /* ... is of another task than init */
    struct proc child[CHILDREN];
    size_t nchildren; /* CHILDREN, or without the front for init */
    struct edge edge[2];
    int signals, listener, lock;
    char address[LISTEN_TEXT_BYTES];
    bool announced, stopping, killed;
    int64_t deadline_ms;
    int exit_code;
    uint8_t *buf; /* CHAN_MAX_BYTES + 16 */
};

/* One task, without the front, and then the end. */
static inline bool monitor_is_init(const struct monitor *m)
{
    return m->init_message.n > 0;
}

/* Everything a child that has just started needs: configuration, files, channels. */
RESULT greet_child(struct monitor *m, struct proc *p, struct err *e);
/* To the front: certificate and key, opened anew. Nothing is sent when a file fails its check. */
RESULT greet_tls_files(struct monitor *m, struct err *e);
/* To core: client CAs and CRLs, opened anew. Nothing is sent when a file fails its check. */
RESULT greet_reload(struct monitor *m, struct err *e);
/* To hsm: the PIN file, opened anew, or the reason why not. */
RESULT greet_pin(struct monitor *m, struct err *e);

#endif
