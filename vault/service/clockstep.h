/*
 * Purpose: notices that the wall clock went another way than the boot clock: it was set, or stands still. What expires is judged by
 *          the wall clock, so whoever reads the log must see when it jumped.
 * Owns:    nothing: struct clockstep lies in its owner. Threads: its owner's.
 * Errors:  none. Limits: a difference of CLOCKSTEP_MIN_MS; the slewing of a time service (CLOCKSTEP_SLEW_PPM) is no step;
 *          CLOCKSTEP_BURST records, then one each CLOCKSTEP_EVERY_MS: a clock that stands still would be one for ever.
 * Secrets: none.
 */
#ifndef VAULT_SERVICE_CLOCKSTEP_H
#define VAULT_SERVICE_CLOCKSTEP_H

#include "base/clock.h"

#include <stdbool.h>

enum { CLOCKSTEP_MIN_MS = 2000, CLOCKSTEP_SLEW_PPM = 1000, CLOCKSTEP_BURST = 10, CLOCKSTEP_EVERY_MS = 60000 };

struct clockstep {
    int64_t offset_ns;      /* wall minus boot, as it should be */
    int64_t looked_boot_ns, started_boot_ns;
    int64_t stepped_boot_ms; /* the last step; only where there was one */
    bool stepped;
    int tokens;
    int64_t token_boot_ms;
};
void clockstep_init(struct clockstep *s, const struct clock *c);
/* True: the clock stepped since the last look, and it is worth a record. *ret_expected_ns: what it would show without. */
bool clockstep_look(struct clockstep *s, const struct clock *c, int64_t *ret_expected_ns);
/* No step in the last ms of the boot clock: what is removed for its age may be removed. */
bool clockstep_settled(const struct clockstep *s, const struct clock *c, int64_t ms);

/* The same, and it was watched for as long: a machine may start with a wrong clock. What falls due by the clock may be done. */
bool clockstep_steady(const struct clockstep *s, const struct clock *c, int64_t ms);

#endif
