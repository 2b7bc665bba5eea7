/*
 * Purpose: what the journal knows as revoked, for `kmsd accept-rollback`: principals that were disabled, key versions that were
 *          disabled or destroyed, and tenants that were suspended, deleted or purged after the copy of the store was made. The acceptance leaves them so.
 * Owns:    the names and their last state. Threads: one.
 * Errors:  ERR_UNAVAILABLE (the HSM is away); whatever else cannot be read is counted, and makes the journal no full witness.
 * Limits:  memory: one entry for each thing that is revoked now. Secrets: none kept.
 *
 * Not in the journal: what a policy said. So a policy that is older than the last one applied cannot be judged here.
 */
#ifndef VAULT_SERVICE_REVOKED_H
#define VAULT_SERVICE_REVOKED_H

#include "vault/service/service.h"

struct revoked;
struct revoked_facts {
    uint64_t unread;             /* records that did not open, though their tenant is known: what they say is not known */
    uint64_t policy_version;     /* the newest one applied */
    uint64_t store_policy;       /* the newest one in the store */
    uint64_t journal_next, journal_seq;
};
/* Reads the whole journal with the keys of the store as it is now, older or not; changes nothing. */
RESULT revoked_read(const struct service_options *o, const struct instance *in, struct revoked **ret, struct revoked_facts *facts,
                    struct err *e);
void revoked_free(struct revoked *r); /* NULL accepted */
/* A row as the store has it: when the journal knows better, body and state become those of a revoked one (body: valid until
 * the next call), *ret_changed, and text says what. Recovery administrators are ended, and counters of nonces (REC_GCM, without a text)
 * put near their end, whatever the journal says; and what is scheduled to be destroyed or deleted waits for another 30 or 90 days
 * (*ret_waits: no more than that has changed), since the copy does not know what was restored after it. */
RESULT revoked_amend(struct revoked *r, struct record *row, int64_t now_ns, bool *ret_changed, bool *ret_waits, struct buf *text, struct err *e);

#endif
