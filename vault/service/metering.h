/*
 * Purpose: counts what each key version is used for, by the events that are durable: every answer that left is counted, none twice,
 *          also over kill -9. The audit thread adds to a table that is its own; a thread takes the table over every few seconds and
 *          adds it to the records (kms/keyring/usage.h), and counts again from the journal what no table has: after a start, and
 *          where a table was full.
 * Owns:    one thread, from metering_start to metering_stop; the tables. Threads: metering_count on the audit thread alone; the rest
 *          from any that may block.
 * Errors:  metering_sync: ERR_UNAVAILABLE "USAGE_UNKNOWN": not all is counted yet. What fails in the background is tried again.
 * Limits:  METERING_ below; usage.h. Secrets: none.
 */
#ifndef VAULT_SERVICE_METERING_H
#define VAULT_SERVICE_METERING_H

#include "kms/audit/journal.h"
#include "kms/keyring/keyring.h"
#include "kms/keyring/usage.h"

enum { METERING_KEEP_MS = 5000, METERING_TICK_MS = 250, METERING_SYNC_MS = 3000, METERING_IDLE_EVENTS = 65536,
       METERING_PAUSE_MS = 50 /* between two batches, while nobody waits: the disk is the journal's, too */ };

struct metering_options {
    struct store *store;
    struct journal *journal;
    struct keyring *keyring;
    const struct clock *clock;
    size_t rows_max; /* of a table; at least EVENT_USES_MAX */
};
struct metering;
/* Where counting goes on; before the first event that metering_count will hear of is submitted. */
RESULT metering_new(const struct metering_options *o, struct metering **ret, struct err *e);
void metering_start(struct metering *m);
void metering_stop(struct metering *m); /* counts what is there, ends the thread; before journal_close. NULL accepted */
void metering_free(struct metering *m); /* after journal_close; NULL accepted */

/* What succeeded in one call, whose event is durable at that index. m NULL: nobody counts. */
void metering_count(struct metering *m, uint64_t index, const uint8_t tenant[16], struct bytes principal, int64_t at_ns,
                    const struct event_use *use, size_t n);

/* Returns when the records hold every use that was answered before the call. */
RESULT metering_sync(struct metering *m, struct err *e);
struct metering_status {
    bool complete;        /* nothing waits to be counted again from the journal */
    uint64_t counted_to;  /* index */
    int64_t began_ns;     /* what came before is not known; 0: all there is */
};
void metering_status(struct metering *m, struct metering_status *ret);

#endif
