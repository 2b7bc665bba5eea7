#include "vault/service/mover.h"

#include "base/log.h"
#include "vault/service/clockstep.h"
#include "vault/service/master_steps.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NS_PER_MS = 1000000, MS_PER_S = 1000, PACED_MS = 20 };

struct sample {
    int64_t boot_ms;
    uint64_t done;
};
struct mover {
    struct mover_options o;
    struct master_steps steps;    /* the stepping thread's, as the next six */
    struct clockstep clock;
    int64_t started_boot_ms, paced_boot_ms, retry_boot_ms;
    double tokens;
    bool rating;
    struct sample old, new;       /* the rate is taken from the older one to now */
    pthread_t thread;
    bool running;
    pthread_mutex_t lock;         /* the rest */
    pthread_cond_t cond;
    bool stop, woken, steady;
    struct mover_status status;
};

/* ---- what others see ---- */
static bool stopping(void *user)
{
    struct mover *m = user;
    pthread_mutex_lock(&m->lock);
    const bool stop = m->stop;
    pthread_mutex_unlock(&m->lock);
    return stop;
}

static void note(struct mover *m, const struct err *failed)
{
    char why[MOVER_WHY_MAX] = "";
    pthread_mutex_lock(&m->lock);
    m->status.failing = failed != NULL;
    (void)snprintf(m->status.why, sizeof m->status.why, "%s", failed != NULL ? err_operator(failed, why, sizeof why) : "");
    pthread_mutex_unlock(&m->lock);
}

static void rate(struct mover *m, const struct master_step *step, int64_t boot_ms)
{
    if (!m->rating || step->done < m->new.done) { /* the first, or of another rotation */
        m->old = m->new = (struct sample){boot_ms, step->done};
        m->rating = true;
        return;
    }
    if (boot_ms - m->new.boot_ms >= MOVER_RATE_MS) {
        m->old = m->new;
        m->new = (struct sample){boot_ms, step->done};
    }
    const int64_t ms = boot_ms - m->old.boot_ms;
    pthread_mutex_lock(&m->lock);
    if (ms > 0)
        m->status.per_second = (step->done - m->old.done) * MS_PER_S / (uint64_t)ms;
    pthread_mutex_unlock(&m->lock);
}

static void unrated(struct mover *m)
{
    m->rating = false;
    pthread_mutex_lock(&m->lock);
    m->status.per_second = 0;
    pthread_mutex_unlock(&m->lock);
}

void mover_status(struct mover *m, struct mover_status *ret)
{
    pthread_mutex_lock(&m->lock);
    *ret = m->status;
    pthread_mutex_unlock(&m->lock);
}

bool mover_steady(struct mover *m)
{
    pthread_mutex_lock(&m->lock);
    const bool steady = m->steady;
    pthread_mutex_unlock(&m->lock);
    return steady;
}

/* ---- the pace ---- */
/* Work may be owed: a page is taken when there is any token, and paid for when it is known how much it was. */
static void earn(struct mover *m, int64_t boot_ms)
{
    const bool busy = atomic_load_explicit(&m->o.s->calls_in_flight, memory_order_relaxed) >= MOVER_BUSY;
    const double pace = (double)m->o.pace / (busy ? MOVER_BUSY_SHARE : 1);
    m->tokens += (double)(boot_ms - m->paced_boot_ms) * pace / MS_PER_S;
    const double most = 1 + pace * 2 * PACED_MS / MS_PER_S;
    if (m->tokens > most)
        m->tokens = most;
    m->paced_boot_ms = boot_ms;
}

static void look_at_clock(struct mover *m, int64_t boot_ms)
{
    int64_t expected;
    const int64_t ms = (int64_t)m->o.settle_ms;
    (void)clockstep_look(&m->clock, m->o.s->clock, &expected);
    const bool steady = boot_ms - m->started_boot_ms >= ms && clockstep_settled(&m->clock, m->o.s->clock, ms);
    pthread_mutex_lock(&m->lock);
    m->steady = steady;
    pthread_mutex_unlock(&m->lock);
}

enum mover_next mover_step(struct mover *m)
{
    const int64_t boot_ms = clock_boot_ms(m->o.s->clock);
    struct master_step step;
    struct err e = {0};
    look_at_clock(m, boot_ms);
    earn(m, boot_ms);
    if (boot_ms < m->retry_boot_ms)
        return MOVER_REST;
    if (m->tokens <= 0)
        return MOVER_PACED;
    if (master_step(&m->steps, &step, &e).failed) {
        if (e.code == ERR_CONFLICT) /* somebody changed it meanwhile: at once, by what is there now */
            return MOVER_AGAIN;
        if (e.code == ERR_CANCELLED)
            return MOVER_REST;
        log_event(LOG_ERROR, "a step of the master's rotation failed", LF_ERR(&e));
        note(m, &e);
        const bool unproven = e.reason != NULL && strcmp(e.reason, "MASTER_STILL_NEEDED") == 0;
        m->retry_boot_ms = boot_ms + (unproven ? MOVER_PROVE_MS : MOVER_RETRY_MS);
        return MOVER_REST;
    }
    m->tokens -= step.moved;
    if (!step.more) {
        note(m, NULL);
        unrated(m);
        return MOVER_REST;
    }
    note(m, NULL);
    rate(m, &step, boot_ms);
    return MOVER_AGAIN;
}

/* ---- the thread ---- */
struct mover *mover_new(const struct mover_options *o)
{
    struct mover *m = calloc(1, sizeof *m);
    INVARIANT(m != NULL && o->pace > 0);
    m->o = *o;
    m->steps = (struct master_steps){.s = o->s, .stop = stopping, .user = m};
    m->started_boot_ms = m->paced_boot_ms = m->retry_boot_ms = clock_boot_ms(o->s->clock);
    m->tokens = 1;
    clockstep_init(&m->clock, o->s->clock);
    pthread_mutex_init(&m->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&m->cond, &attr);
    pthread_condattr_destroy(&attr);
    return m;
}

static bool wait_for(struct mover *m, long ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ms * NS_PER_MS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&m->lock);
    while (!m->stop && !m->woken && ms > 0 && pthread_cond_timedwait(&m->cond, &m->lock, &until) != ETIMEDOUT)
        continue;
    m->woken = false;
    const bool go = !m->stop;
    pthread_mutex_unlock(&m->lock);
    return go;
}

static void *mover_thread(void *arg)
{
    static const long wait_ms[] = {[MOVER_AGAIN] = 0, [MOVER_PACED] = PACED_MS, [MOVER_REST] = MOVER_LOOK_MS};
    struct mover *m = arg;
    while (wait_for(m, wait_ms[mover_step(m)]))
        continue;
    return NULL;
}

void mover_start(struct mover *m)
{
    INVARIANT(pthread_create(&m->thread, NULL, mover_thread, m) == 0);
    m->running = true;
}

void mover_wake(struct mover *m)
{
    if (m == NULL)
        return;
    pthread_mutex_lock(&m->lock);
    m->woken = true;
    pthread_cond_signal(&m->cond);
    pthread_mutex_unlock(&m->lock);
}

void mover_free(struct mover *m)
{
    if (m == NULL)
        return;
    pthread_mutex_lock(&m->lock);
    m->stop = true;
    pthread_cond_signal(&m->cond);
    pthread_mutex_unlock(&m->lock);
    if (m->running)
        (void)pthread_join(m->thread, NULL);
    master_steps_release(&m->steps);
    pthread_cond_destroy(&m->cond);
    pthread_mutex_destroy(&m->lock);
    free(m);
}
