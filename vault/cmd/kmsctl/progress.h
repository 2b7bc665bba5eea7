/*
 * Purpose: a progress bar on stderr, and the closing line with fields per second.
 * Owns: nothing. Threads: one. Errors: none. Limits: redrawn at most ten times a second. Secrets: counts only.
 */
#ifndef VAULT_CMD_KMSCTL_PROGRESS_H
#define VAULT_CMD_KMSCTL_PROGRESS_H

#include "base/clock.h"

#include <stdbool.h>
#include <stddef.h>

struct progress {
    bool shown;
    const char *what; /* "encrypted" */
    uint64_t total_bytes; /* 0: not known */
    int64_t start_ms, drawn_ms;
    int drawn_width;
};
void progress_start(struct progress *p, bool force, const char *what, int fd);
void progress_update(struct progress *p, uint64_t bytes, uint64_t fields, bool last);
/* The same for something that goes on elsewhere, which tells how far it is. */
struct progress_far {
    const char *what, *rows; /* "moving", "versions" */
    uint64_t done, total, per_second, left_s; /* rows; 0: not known */
};
void progress_far(struct progress *p, const struct progress_far *f, bool last);
double progress_seconds(const struct progress *p);
void group_digits(uint64_t v, char out[32]); /* 12,345 */

#endif
