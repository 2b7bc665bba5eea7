/*
 * Purpose: injected time: wall clock for records and expiry, CLOCK_BOOTTIME for durations that must survive clock steps.
 * Owns:    nothing. Threads: clock_system is shared read-only; a fake clock may be moved from any thread.
 * Errors:  a clock that cannot be read is INVARIANT; a boot id that cannot be read is false.
 * Limits:  signed 64-bit nanoseconds/milliseconds/seconds. Secrets: none.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct clock {
    int64_t (*wall_ns)(const struct clock *c); /* since 1970-01-01T00:00:00Z */
    int64_t (*boot_ns)(const struct clock *c); /* CLOCK_BOOTTIME: monotonic, counts suspend */
};
extern const struct clock clock_system;

static inline int64_t clock_wall_ns(const struct clock *c) { return c->wall_ns(c); }
static inline int64_t clock_boot_ns(const struct clock *c) { return c->boot_ns(c); }
static inline int64_t clock_unix_s(const struct clock *c) { return c->wall_ns(c) / 1000000000; }
static inline int64_t clock_boot_ms(const struct clock *c) { return c->boot_ns(c) / 1000000; }

enum { BOOT_ID_BYTES = 16 };
/* The kernel's id of this boot. false, and zeros, where it cannot be read (a sandbox without /proc). */
bool clock_boot_id(uint8_t out[BOOT_ID_BYTES]);

struct fake_clock {
    struct clock c; /* pass &fake.c */
    _Atomic int64_t wall, boot;
};
void fake_clock_init(struct fake_clock *f, int64_t wall_ns, int64_t boot_ns);
void fake_clock_advance(struct fake_clock *f, int64_t ns);    /* both clocks */
void fake_clock_step_wall(struct fake_clock *f, int64_t ns);  /* wall only: a clock step */

#endif
