/*
 * Purpose: timers by the thousand: a hashed wheel with one intrusive timer for each connection, armed and moved in O(1).
 * Owns:    nothing: timers live in their owners. Threads: the loop's.
 * Errors:  none.
 * Limits:  WHEEL_SLOTS slots of WHEEL_TICK_MS; longer timers stay in their slot for another round.
 * Secrets: none.
 */
#ifndef FRONT_WHEEL_H
#define FRONT_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

enum { WHEEL_SLOTS = 512, WHEEL_TICK_MS = 10 };

struct timer {
    struct timer *next, **at; /* at: what points to this one; NULL: not armed */
    int64_t due_ms;
};
struct wheel {
    struct timer *slots[WHEEL_SLOTS];
    int64_t done_tick, now_tick; /* emptied so far; of the last pop */
    uint64_t armed;
};
void wheel_init(struct wheel *w, int64_t now_ms);
/* Arms or moves. A timer that is armed for an earlier time stays there: its owner looks at its clock when it fires. */
void wheel_arm(struct wheel *w, struct timer *t, int64_t due_ms);
void wheel_disarm(struct wheel *w, struct timer *t);
/* Takes one timer that is due off the wheel, or NULL. Call until NULL. */
struct timer *wheel_pop(struct wheel *w, int64_t now_ms);
/* How long epoll may sleep: 0..max_ms. */
int wheel_sleep_ms(const struct wheel *w, int64_t now_ms, int max_ms);

#endif
