/*
 * Purpose: the way back in when no administrator is left: `kmsd recover-admin` makes one, for a time, off line. What it may do is
 *          fixed here and no policy can change it: everything that mends a lock-out, nothing that touches a key.
 * Owns:    nothing. Threads: recovery_decide from any; recovery_make off line.
 * Errors:  ERR_EXISTS "RECOVERY_UNREVIEWED" (one that nobody has reviewed), "RECOVERY_NAME" (name or SAN is taken);
 *          ERR_INVALID "RECOVERY_TIME", "ADMIN_INVALID"; ERR_STATE "BOOT_ID".
 * Limits:  1 s to RECOVERY_MAX_S; ends with the boot that made it. One at a time. Secrets: none.
 */
#ifndef VAULT_SERVICE_RECOVERY_H
#define VAULT_SERVICE_RECOVERY_H

#include "base/clock.h"
#include "kms/policy/policy.h"
#include "kms/store/store.h"

enum { RECOVERY_MAX_S = 24 * 3600 };

struct recovery_request {
    struct bytes name, san, reason;
    int64_t seconds;
};
/* Principal, note and event in one transaction: there is never half an administrator. */
RESULT recovery_make(struct store *s, const struct recovery_request *q, const char *trust_domain, const struct clock *clock,
                     const uint8_t boot_id[BOOT_ID_BYTES], struct buf *ret_text, struct err *e);

/* What a recovery administrator may do, whatever policy says. */
struct policy_decision recovery_decide(const char *action);

#endif
