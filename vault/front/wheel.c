#include "vault/front/wheel.h"

#include <stddef.h>

void wheel_init(struct wheel *w, int64_t now_ms)
{
    *w = (struct wheel){.done_tick = now_ms / WHEEL_TICK_MS, .now_tick = now_ms / WHEEL_TICK_MS};
}

void wheel_disarm(struct wheel *w, struct timer *t)
{
    if (t->at == NULL)
        return;
    *t->at = t->next;
    if (t->next != NULL)
        t->next->at = t->at;
    t->at = NULL;
    w->armed--;
}

void wheel_arm(struct wheel *w, struct timer *t, int64_t due_ms)
{
    if (t->at != NULL && t->due_ms <= due_ms)
        return;
    wheel_disarm(w, t);
    /* Rounded up, and never into a slot that is being emptied: an owner that keeps arming for the past gets a tick's rest. */
    int64_t tick = (due_ms + WHEEL_TICK_MS - 1) / WHEEL_TICK_MS;
    if (tick <= w->now_tick)
        tick = w->now_tick + 1;
    struct timer **slot = &w->slots[tick % WHEEL_SLOTS];
    *t = (struct timer){.next = *slot, .at = slot, .due_ms = due_ms};
    if (t->next != NULL)
        t->next->at = &t->next;
    *slot = t;
    w->armed++;
}

struct timer *wheel_pop(struct wheel *w, int64_t now_ms)
{
    int64_t now_tick = now_ms / WHEEL_TICK_MS;
    w->now_tick = now_tick;
    if (now_tick - w->done_tick > WHEEL_SLOTS) /* one round sees every slot */
        w->done_tick = now_tick - WHEEL_SLOTS;
    while (w->done_tick < now_tick) {
        for (struct timer *t = w->slots[(w->done_tick + 1) % WHEEL_SLOTS]; t != NULL; t = t->next) {
            if (t->due_ms > now_ms)
                continue;
            wheel_disarm(w, t);
            return t;
        }
        w->done_tick++;
    }
    return NULL;
}

int wheel_sleep_ms(const struct wheel *w, int64_t now_ms, int max_ms)
{
    if (w->armed == 0)
        return max_ms;
    for (int64_t i = 1; i <= WHEEL_SLOTS; i++) {
        if (w->slots[(w->done_tick + i) % WHEEL_SLOTS] == NULL)
            continue;
        int64_t ms = (w->done_tick + i) * WHEEL_TICK_MS - now_ms;
        return ms < 0 ? 0 : ms > max_ms ? max_ms : (int)ms;
    }
    return max_ms;
}
