/*
 * Purpose: what an operator does while the daemon is stopped: `kmsd accept-rollback`, `kmsd review-rollback`, `kmsd fsck`.
 *          And the note that an acceptance leaves until it is reviewed.
 * Owns:    nothing. Threads: one.
 * Errors:  those of store and journal; ERR_DATA_LOSS "FSCK_FINDINGS" with their number; ERR_NOT_FOUND "NO_ROLLBACK".
 * Limits:  a reason of 1 to OFFLINE_REASON_MAX bytes. Secrets: none printed: kinds, names, numbers.
 */
#ifndef VAULT_SERVICE_OFFLINE_H
#define VAULT_SERVICE_OFFLINE_H

#include "vault/service/service.h"

enum { OFFLINE_REASON_MAX = 512 };
enum offline_task { OFFLINE_ACCEPT = 1, OFFLINE_REVIEW = 2, OFFLINE_FSCK = 3 };

/* line: called with each finding, NUL-terminated. ret_text: the summary. */
struct offline_out {
    void (*line)(void *user, const char *text);
    void *user;
};
RESULT service_offline(const struct service_options *o, enum offline_task task, struct bytes reason, const struct offline_out *out,
                       struct buf *ret_text, struct err *e);
RESULT fsck_run(const struct service_options *o, const struct instance *in, const struct offline_out *out, struct buf *ret_text,
                struct err *e);

struct rollback_note {
    bool reviewed;
    int64_t time_unix_ns;
    char reason[OFFLINE_REASON_MAX + 1];
};
/* found false: there was no acceptance. */
RESULT rollback_note_get(struct store *s, struct rollback_note *ret, bool *ret_found, struct err *e);

#endif
