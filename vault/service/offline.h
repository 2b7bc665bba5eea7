/*
 * Purpose: what an operator does while the daemon is stopped: `kmsd fsck`, `accept-rollback`, `recover-admin`, and the reviews
 *          of the last two, which can be had on line as well.
 * Owns:    nothing. Threads: one.
 * Errors:  those of store and journal; ERR_DATA_LOSS "FSCK_FINDINGS" with their number; those of review.h and recovery.h.
 * Limits:  a reason of 1 to REVIEW_REASON_MAX bytes. Secrets: none printed: kinds, names, numbers.
 */
#ifndef VAULT_SERVICE_OFFLINE_H
#define VAULT_SERVICE_OFFLINE_H

#include "base/ipc.h"
#include "vault/service/review.h"
#include "vault/service/service.h"

struct offline_request {
    enum ipc_task task;
    struct bytes reason;    /* all but fsck */
    struct bytes name, san; /* recover: of the administrator */
    int64_t seconds;
};

/* line: called with each finding, NUL-terminated. ret_text: the summary. */
struct offline_out {
    void (*line)(void *user, const char *text);
    void *user;
};
RESULT service_offline(const struct service_options *o, const struct offline_request *q, const struct offline_out *out,
                       struct buf *ret_text, struct err *e);
RESULT fsck_run(const struct service_options *o, const struct instance *in, const struct offline_out *out, struct buf *ret_text,
                struct err *e);

/* For journal_check: the audit key of whoever has that tag. *held: the tenant that the record before was opened with; NULL before
 * the first, and the caller's to drop after the last. NULL and e: ERR_NOT_FOUND (keyring_tenant_hold_by_tag). */
const struct aead_key *offline_journal_key(struct keyring *k, struct tenant_ref **held, const uint8_t tag[32], struct err *e);

#endif
