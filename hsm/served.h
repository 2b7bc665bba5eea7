/*
 * Purpose: tells a first start from a restart: a token that is absent when kmsd starts is the operator's mistake, one that is
 *          absent when the monitor restarts a crashed hsm process is an outage to wait out.
 * Owns:    the file state_dir/hsm-served: process id and start time of the monitor under which hsm said READY.
 * Threads: any. Errors: none: what cannot be read or written means "first start", the stricter answer.
 * Limits: none. Secrets: none.
 */
#ifndef HSM_SERVED_H
#define HSM_SERVED_H

#include <stdbool.h>

enum { SERVED_ID_BYTES = 64 };

/* The parent process: "" when /proc does not tell. Call it before the process is confined. */
void served_monitor_id(char out[SERVED_ID_BYTES]);
bool served_before(const char *state_dir, const char *monitor_id);
void served_mark(const char *state_dir, const char *monitor_id);

#endif
