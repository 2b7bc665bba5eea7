#include "vault/service/mover.h"

#include "base/log.h"
#include "base/thread.h"
#include "vault/service/clockstep.h"
#include "vault/service/moving_steps.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MS_PER_S = 1000, PACED_MS = 20 };

struct sample {
    int64_t boot_ms;
    uint64_t done;
};
/* Of one kind; all but `status` is the stepping thread's. */
struct lane {
    struct moving_steps steps;
    uint64_t pace;
    int64_t paced_boot_ms, retry_boot_ms, logged_boot_ms;
    double tokens;
    bool rating;
    struct sample old, new;       /* the rate is taken from the older one to now */
    struct mover_status status;   /* under the mover's lock */
};
enum { LANES = 2 };
struct mover {
    struct mover_options o;
    struct lane lanes[LANES];
    struct clockstep clock;       /* the stepping thread's */
    struct ticker ticker;
    pthread_mutex_t lock;         /* the rest */
    bool steady;
};

/* ---- what others see ---- */
static bool stopping(void *user)
{
    struct mover *m = user;
    return ticker_stopping(&m->ticker);
}

/* *ret_new: it fails now, and did not fail for this before. */
static void note(struct mover *m, struct lane *l, const struct err *failed, bool *ret_new)
{
    char text[MOVER_WHY_MAX] = "";
    const char *why = failed != NULL ? err_operator(failed, text, sizeof text) : "";
    pthread_mutex_lock(&m->lock);
    *ret_new = failed != NULL && (!l->status.failing || strncmp(l->status.why, why, sizeof l->status.why - 1) != 0);
    l->status.failing = failed != NULL;
    (void)snprintf(l->status.why, sizeof l->status.why, "%s", why);
    pthread_mutex_unlock(&m->lock);
}

/* A token that is to be cloned by hand may be waited for over a weekend: a line when it begins, then one in MOVER_SAY_MS. */
static void tell(struct mover *m, struct lane *l, const struct err *e, int64_t boot_ms)
{
    bool is_new;
    note(m, l, e, &is_new);
    if (!is_new && boot_ms - l->logged_boot_ms < MOVER_SAY_MS)
        return;
    l->logged_boot_ms = boot_ms;
    log_event(LOG_ERROR, "a step of the rotation of a secret on the token failed", LF_STR("secret", token_secret_word(l->steps.kind)), LF_ERR(e));
    pthread_mutex_lock(&m->lock);
    l->status.told++;
    pthread_mutex_unlock(&m->lock);
}

static void rate(struct mover *m, struct lane *l, const struct moving_step *step, int64_t boot_ms)
{
    if (!l->rating || step->done < l->new.done) { /* the first, or of another rotation */
        l->old = l->new = (struct sample){boot_ms, step->done};
        l->rating = true;
        return;
    }
    if (boot_ms - l->new.boot_ms >= MOVER_RATE_MS) {
        l->old = l->new;
        l->new = (struct sample){boot_ms, step->done};
    }
    const int64_t ms = boot_ms - l->old.boot_ms;
    pthread_mutex_lock(&m->lock);
    if (ms > 0)
        l->status.per_second = (step->done - l->old.done) * MS_PER_S / (uint64_t)ms;
    pthread_mutex_unlock(&m->lock);
}

static void unrated(struct mover *m, struct lane *l)
{
    l->rating = false;
    pthread_mutex_lock(&m->lock);
    l->status.per_second = 0;
    pthread_mutex_unlock(&m->lock);
}

void mover_status(struct mover *m, enum hsm_object kind, struct mover_status *ret)
{
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < LANES; i++)
        if (m->lanes[i].steps.kind == kind)
            *ret = m->lanes[i].status;
    pthread_mutex_unlock(&m->lock);
}

static bool steady(void *user)
{
    struct mover *m = user;
    pthread_mutex_lock(&m->lock);
    const bool is = m->steady;
    pthread_mutex_unlock(&m->lock);
    return is;
}

bool mover_steady(struct mover *m)
{
    return steady(m);
}

/* ---- the pace ---- */
/* Work may be owed: a page is taken when there is any token, and paid for when it is known how much it was. */
static void earn(struct mover *m, struct lane *l, int64_t boot_ms)
{
    const bool busy = atomic_load_explicit(&m->o.s->calls_in_flight, memory_order_relaxed) >= MOVER_BUSY;
    const double pace = (double)l->pace / (busy ? MOVER_BUSY_SHARE : 1);
    l->tokens += (double)(boot_ms - l->paced_boot_ms) * pace / MS_PER_S;
    const double most = 1 + pace * 2 * PACED_MS / MS_PER_S;
    if (l->tokens > most)
        l->tokens = most;
    l->paced_boot_ms = boot_ms;
}

static void look_at_clock(struct mover *m)
{
    int64_t expected;
    (void)clockstep_look(&m->clock, m->o.s->clock, &expected);
    const bool is = clockstep_steady(&m->clock, m->o.s->clock, (int64_t)m->o.settle_ms);
    pthread_mutex_lock(&m->lock);
    m->steady = is;
    pthread_mutex_unlock(&m->lock);
}

static enum mover_next lane_failed(struct mover *m, struct lane *l, const struct err *e, int64_t boot_ms)
{
    if (e->code == ERR_CONFLICT) /* somebody changed it meanwhile: at once, by what is there now */
        return MOVER_AGAIN;
    if (e->code == ERR_CANCELLED)
        return MOVER_REST;
    tell(m, l, e, boot_ms);
    const bool unproven = e->reason != NULL && strcmp(e->reason, "TOKEN_SECRET_NEEDED") == 0;
    l->retry_boot_ms = boot_ms + (unproven ? MOVER_PROVE_MS : MOVER_RETRY_MS);
    return MOVER_REST;
}

static enum mover_next lane_step(struct mover *m, struct lane *l, int64_t boot_ms)
{
    struct moving_step step;
    struct err e = {0};
    earn(m, l, boot_ms);
    if (boot_ms < l->retry_boot_ms)
        return MOVER_REST;
    if (l->tokens <= 0)
        return MOVER_PACED;
    if (moving_step(&l->steps, &step, &e).failed)
        return lane_failed(m, l, &e, boot_ms);
    l->tokens -= step.moved;
    bool is_new;
    note(m, l, NULL, &is_new);
    if (!step.more) {
        unrated(m, l);
        return MOVER_REST;
    }
    rate(m, l, &step, boot_ms);
    return MOVER_AGAIN;
}

enum mover_next mover_step(struct mover *m)
{
    const int64_t boot_ms = clock_boot_ms(m->o.s->clock);
    enum mover_next soonest = MOVER_REST;
    look_at_clock(m);
    for (size_t i = 0; i < LANES; i++) {
        const enum mover_next next = lane_step(m, &m->lanes[i], boot_ms);
        soonest = next < soonest ? next : soonest;
    }
    return soonest;
}

/* ---- the thread ---- */
struct mover *mover_new(const struct mover_options *o)
{
    struct mover *m = calloc(1, sizeof *m);
    INVARIANT(m != NULL && o->master_pace > 0 && o->seal_pace > 0);
    m->o = *o;
    const int64_t boot_ms = clock_boot_ms(o->s->clock);
    for (size_t i = 0; i < LANES; i++)
        m->lanes[i] = (struct lane){.steps = {.s = o->s, .kind = i == 0 ? HSM_MASTER : HSM_SEAL, .stop = stopping, .steady = steady, .user = m, .look_boot_ms = boot_ms + MOVING_ENDS_AGAIN_MS},
                                    .pace = i == 0 ? o->master_pace : o->seal_pace, .tokens = 1,
                                    .paced_boot_ms = boot_ms, .retry_boot_ms = boot_ms};
    clockstep_init(&m->clock, o->s->clock);
    pthread_mutex_init(&m->lock, NULL);
    ticker_init(&m->ticker);
    return m;
}

static void *mover_thread(void *arg)
{
    static const int64_t wait_ms[] = {[MOVER_AGAIN] = 0, [MOVER_PACED] = PACED_MS, [MOVER_REST] = MOVER_LOOK_MS};
    struct mover *m = arg;
    while (ticker_rest(&m->ticker, wait_ms[mover_step(m)]) != TICK_STOP)
        continue;
    return NULL;
}

void mover_start(struct mover *m)
{
    struct err e = {0};
    INVARIANT(!ticker_start(&m->ticker, "mover", mover_thread, m, &e).failed);
}

void mover_wake(struct mover *m)
{
    if (m != NULL)
        ticker_wake(&m->ticker);
}

void mover_free(struct mover *m)
{
    if (m == NULL)
        return;
    ticker_stop(&m->ticker);
    for (size_t i = 0; i < LANES; i++)
        moving_steps_release(&m->lanes[i].steps);
    ticker_release(&m->ticker);
    pthread_mutex_destroy(&m->lock);
    free(m);
}
