#include "hsm/watchdog.h"

#include "base/log.h"

#include <errno.h>
#include <pthread.h>
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
    errno = pthread_create(&t, NULL, watch, w);
    if (errno != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, NULL, "starting the HSM watchdog");
    (void)pthread_detach(t);
    return ok();
}
