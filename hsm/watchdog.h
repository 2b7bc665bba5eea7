/*
 * Purpose: ends the process when one PKCS#11 call hangs: a call into a vendor's module cannot be cancelled, so the
 *          process is given up and the monitor starts a new one. Leaves by _exit(WATCHDOG_EXIT).
 * Owns:    one thread. Threads: one thread arms and disarms; the watchdog's own thread only looks.
 * Errors:  ERR_INTERNAL when the thread cannot be made.
 * Limits:  a hang is noticed within timeout_ms and an eighth of it. Secrets: none.
 */
#ifndef HSM_WATCHDOG_H
#define HSM_WATCHDOG_H

#include "base/clock.h"
#include "base/err.h"

enum { WATCHDOG_EXIT = 70 };

struct watchdog {
    uint64_t timeout_ms;
    const struct clock *clock;
    _Atomic int64_t armed_ms;          /* boot time at which the call began; 0: no call */
    _Atomic(const char *) call;        /* literal */
};
/* The watchdog lives as long as the process. */
RESULT watchdog_start(struct watchdog *w, uint64_t timeout_ms, const struct clock *clock, struct err *e);
static inline void watchdog_arm(struct watchdog *w, const char *call)
{
    w->call = call;
    w->armed_ms = clock_boot_ms(w->clock) + 1;
}
static inline void watchdog_disarm(struct watchdog *w)
{
    w->armed_ms = 0;
}

#endif
