/*
 * Purpose: the front process between start and end: what the monitor sends, in which order, and what becomes of it.
 * Owns:    its loop. Threads: one.
 * Errors:  ERR_INVALID: what restarting cannot mend (certificate, key, configuration): the caller reports it as FATAL.
 *          ERR_UNAVAILABLE: the monitor is gone.
 * Limits:  FRONT_START_MS for the first certificate, listener and channel.
 * Secrets: the TLS key passes through as a descriptor.
 */
#ifndef FRONT_FRONT_H
#define FRONT_FRONT_H

#include "base/child.h"

enum { FRONT_START_MS = 30000 };

/* Until IPC_DRAIN is done. A new certificate that cannot be used is logged, and the old one stays. */
RESULT front_serve(struct child *c, struct err *e);

#endif
