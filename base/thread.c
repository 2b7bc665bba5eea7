#include "base/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

RESULT thread_spawn(pthread_t *ret, const char *name, void *(*fn)(void *), void *arg, struct err *e)
{
    static const int faults[] = {SIGSYS, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
    sigset_t blocked, old;
    (void)sigfillset(&blocked);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        (void)sigdelset(&blocked, faults[i]);
    (void)pthread_sigmask(SIG_SETMASK, &blocked, &old); /* a new thread inherits it */
    const int rc = pthread_create(ret, NULL, fn, arg);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0)
        FAIL(e, ERR_EXHAUSTED, "THREADS", "no thread for %s: %s", name, strerror(rc));
    char cut[THREAD_NAME_BYTES];
    (void)snprintf(cut, sizeof cut, "%s", name);
    (void)pthread_setname_np(*ret, cut); /* for who looks from outside: a thread without a name works as well */
    return ok();
}

/* ---- waits ---- */
void wait_cond_init(pthread_cond_t *c)
{
    pthread_condattr_t monotonic;
    INVARIANT(pthread_condattr_init(&monotonic) == 0 && pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) == 0 &&
              pthread_cond_init(c, &monotonic) == 0);
    (void)pthread_condattr_destroy(&monotonic);
}

struct timespec wait_until(int64_t ms)
{
    struct timespec t;
    INVARIANT(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    if (ms <= 0)
        return t;
    t.tv_sec += (time_t)(ms / 1000);
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

/* ---- the ticker ---- */
void ticker_init(struct ticker *t)
{
    *t = (struct ticker){0};
    INVARIANT(pthread_mutex_init(&t->lock, NULL) == 0);
    wait_cond_init(&t->cond);
}

RESULT ticker_start(struct ticker *t, const char *name, void *(*fn)(void *), void *arg, struct err *e)
{
    TRY(thread_spawn(&t->thread, name, fn, arg, e));
    t->running = true;
    return ok();
}

enum tick ticker_rest(struct ticker *t, int64_t ms)
{
    const struct timespec until = wait_until(ms);
    (void)pthread_mutex_lock(&t->lock);
    while (!t->stop && !t->woken && ms > 0 && pthread_cond_timedwait(&t->cond, &t->lock, &until) != ETIMEDOUT)
        continue;
    const enum tick why = t->stop ? TICK_STOP : t->woken ? TICK_WOKEN : TICK_TIME;
    t->woken = false;
    (void)pthread_mutex_unlock(&t->lock);
    return why;
}

void ticker_wake(struct ticker *t)
{
    (void)pthread_mutex_lock(&t->lock);
    t->woken = true;
    (void)pthread_cond_signal(&t->cond);
    (void)pthread_mutex_unlock(&t->lock);
}

bool ticker_stopping(struct ticker *t)
{
    (void)pthread_mutex_lock(&t->lock);
    const bool stop = t->stop;
    (void)pthread_mutex_unlock(&t->lock);
    return stop;
}

void ticker_stop(struct ticker *t)
{
    (void)pthread_mutex_lock(&t->lock);
    t->stop = true;
    (void)pthread_cond_signal(&t->cond);
    (void)pthread_mutex_unlock(&t->lock);
    if (t->running)
        (void)pthread_join(t->thread, NULL);
    t->running = false;
}

void ticker_release(struct ticker *t)
{
    (void)pthread_cond_destroy(&t->cond);
    (void)pthread_mutex_destroy(&t->lock);
}
