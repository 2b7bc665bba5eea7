#include "hsm/watchdog.h"

#include "base/log.h"
#include "base/thread.h"

#include <time.h>
#include <unistd.h>

static void *watch(void *arg)
{
    struct watchdog *w = arg;
    const uint64_t tick_ms = w->timeout_ms / 8 + 1;
    const struct timespec tick = {(time_t)(tick_ms / 1000), (long)(tick_ms % 1000) * 1000000};
    for (;;) {
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &tick, NULL);
        int64_t armed = w->armed_ms;
        if (armed == 0 || clock_boot_ms(w->clock) - armed < (int64_t)w->timeout_ms)
            continue;
        const char *call = w->call;
        if (w->armed_ms != armed)
            continue;
        log_event(LOG_ERROR, "a PKCS#11 call hangs, giving the process up", LF_STR("call", call),
                  LF_INT("timeout_ms", w->timeout_ms));
        _exit(WATCHDOG_EXIT);
    }
    return NULL;
}

RESULT watchdog_start(struct watchdog *w, uint64_t timeout_ms, const struct clock *clock, struct err *e)
{
    w->timeout_ms = timeout_ms;
    w->clock = clock;
    w->armed_ms = 0;
    w->call = "";
    pthread_t t;
    TRY(thread_spawn(&t, "watchdog", watch, w, e));
    (void)pthread_detach(t);
    return ok();
}
