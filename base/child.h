/*
 * Purpose: what the main of front, core and hsm does the same way: harden, signals, configuration from the monitor, log,
 *          then READY or FATAL (base/ipc.h).
 * Owns:    the control descriptor and the configuration, until child_release.
 * Threads: one thread receives; child_ready and child_notice may be called from another.
 * Errors:  ERR_STATE "NOT_A_CHILD" when not started by the monitor; ERR_UNAVAILABLE "CHANNEL_CLOSED" when the monitor is
 *          gone: the child exits at once then.
 * Limits:  CHILD_START_MS for the configuration to arrive.
 * Secrets: none; the process can neither be dumped nor traced after child_start.
 *
 *     int main(void)
 *     {
 *         struct child c;
 *         struct err e;
 *         if (child_start("hsm", &c, &e).failed)
 *             return child_start_failed("hsm", &e);
 *         if (serve(&c, &e).failed)          // confine_self, child_recv ..., child_ready
 *             child_fatal(&c, &e);
 *         child_release(&c);
 *         return 0;
 *     }
 */
#ifndef BASE_CHILD_H
#define BASE_CHILD_H

#include "base/config.h"
#include "base/ipc.h"

enum { CHILD_START_MS = 10000, CHILD_BUF_BYTES = CHAN_MAX_BYTES + 16 };

struct child {
    const char *role;
    int control; /* poll it for POLLIN, then child_recv */
    struct config *config;
};

/* role is a literal ("front", "core", "hsm") and becomes the log's process name. SIGPIPE, SIGTERM, SIGINT and SIGHUP are
 * ignored from here on: the monitor says DRAIN. Dies (SIGKILL) when the monitor dies. */
RESULT child_start(const char *role, struct child *ret, struct err *e);
int child_start_failed(const char *role, const struct err *e); /* prints why, tells a monitor if there is one; returns 1 */
void child_release(struct child *c);

RESULT child_ready(struct child *c, const char *text, struct err *e);
/* What restarting cannot mend: the monitor prints it, stops everything and exits 1. Anything else: log it and return
 * non-zero from main, and the monitor starts the child again. */
__attribute__((noreturn)) void child_fatal(struct child *c, const struct err *e);
/* The next control message. buf (CHILD_BUF_BYTES) holds what ret->body borrows; ret->fds are the caller's. */
RESULT child_recv(struct child *c, int timeout_ms, void *buf, size_t buf_bytes, struct chan_msg *ret, struct err *e);
/* The same for a message that must be of one type with nfds descriptors, e.g. IPC_CORE_CHANNEL, 1 -> ret->fds[0]. */
RESULT child_expect(struct child *c, enum ipc_control type, size_t nfds, int timeout_ms, void *buf, size_t buf_bytes,
                    struct chan_msg *ret, struct err *e);
/* A message without descriptors to the monitor, e.g. IPC_WANT_PIN. */
RESULT child_notice(struct child *c, enum ipc_control type, struct bytes body, struct err *e);

#endif
