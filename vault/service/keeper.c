#include "vault/service/keeper.h"

#include "base/log.h"
#include "base/thread.h"
#include "vault/service/clockstep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MS_PER_S = 1000, PAGE_ARENA_BYTES = 4 << 20 };
#define FORGIVE_MS ((int64_t)2 * DUE_RETRY_MAX_S * 1000)

struct keeper {
    struct keeper_options o;
    struct clockstep steps; /* the stepping thread's, as the next three */
    int64_t looked_boot_ms;
    double tokens;
    int64_t failed_boot_ms;
    uint8_t failed_name[STORE_NAME_MAX]; /* under lock: the last that failed */
    size_t failed_name_n;
    bool prepared, told_broken;
    struct ticker ticker;
    pthread_mutex_t lock; /* status */
    struct keeper_status status;
};

/* ---- what went wrong ---- */
static void note(struct keeper *k, const struct due *d, const struct err *failed)
{
    char why[KEEPER_WHY_MAX] = "";
    pthread_mutex_lock(&k->lock);
    if (failed == NULL) {
        k->status.done++;
        if (d->tries > 0 && k->failed_name_n == d->name.n && memcmp(k->failed_name, d->name.p, d->name.n) == 0)
            k->status.failing = false;
    } else {
        k->failed_name_n = d->name.n <= sizeof k->failed_name ? d->name.n : 0;
        memcpy(k->failed_name, d->name.p, k->failed_name_n);
        k->status.failed++;
        k->status.failing = true;
        (void)snprintf(k->status.why, sizeof k->status.why, "%.*s: %.120s", (int)(d->name.n < 120 ? d->name.n : 120), (const char *)d->name.p,
                       err_operator(failed, why, sizeof why));
    }
    pthread_mutex_unlock(&k->lock);
}

/* One row that says nothing any more (its store was accepted as it stood) does not keep the others from being done; while it is there it
 * is told, as nobody knows what it was for. */
#define BROKEN "a row of the queue of what is due does not open: what it was for is not known; kmsd fsck names it"
static void found_broken(struct keeper *k)
{
    if (!k->told_broken)
        log_event(LOG_ERROR, BROKEN);
    k->told_broken = true;
    k->failed_boot_ms = clock_boot_ms(k->o.clock);
    pthread_mutex_lock(&k->lock);
    k->status.failing = true;
    (void)snprintf(k->status.why, sizeof k->status.why, "%s", BROKEN);
    pthread_mutex_unlock(&k->lock);
}

/* Twice the longest wait without another failure: what had failed is gone. */
static void forgive(struct keeper *k, int64_t boot_ms)
{
    if (boot_ms - k->failed_boot_ms < FORGIVE_MS)
        return;
    pthread_mutex_lock(&k->lock);
    k->status.failing = false;
    pthread_mutex_unlock(&k->lock);
}

void keeper_status(struct keeper *k, struct keeper_status *ret)
{
    pthread_mutex_lock(&k->lock);
    *ret = k->status;
    pthread_mutex_unlock(&k->lock);
}

/* ---- one thing ---- */
static const struct keeper_task *task_of(const struct keeper *k, enum due_what what)
{
    for (size_t i = 0; i < k->o.ntasks; i++)
        if (k->o.tasks[i].what == what)
            return &k->o.tasks[i];
    return NULL;
}

/* It lies behind what is due now, so that it cannot hold up the rest. The record keeps its own time. */
static RESULT put_off(struct keeper *k, const struct due *d, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(k->o.store);
    uint64_t seq;
    due_put_off(t, d, clock_wall_ns(k->o.clock));
    return store_txn_commit(t, &seq, e);
}

/* False: the store itself fails, and there is no sense in going on. */
static bool do_one(struct keeper *k, const struct keeper_task *task, const struct due *d)
{
    struct err e = {0};
    if (!task->run(k->o.user, d, &e).failed) {
        note(k, d, NULL);
        return true;
    }
    if (e.code == ERR_CONFLICT) /* somebody changed it meanwhile: the next look sees what it is now */
        return true;
    log_event(LOG_ERROR, "what fell due could not be done", LF_TXT("name", d->name), LF_ERR(&e));
    note(k, d, &e);
    k->failed_boot_ms = clock_boot_ms(k->o.clock);
    struct err why = {0};
    return !put_off(k, d, &why).failed;
}

/* ---- the pace ---- */
static void earn(struct keeper *k, int64_t boot_ms)
{
    k->tokens += (double)(boot_ms - k->looked_boot_ms) * (double)k->o.pace / MS_PER_S;
    if (k->tokens > (double)k->o.pace)
        k->tokens = (double)k->o.pace;
    k->looked_boot_ms = boot_ms;
}

struct look {
    uint8_t after[STORE_ID_MAX];
    size_t after_n;
    bool more;
};

static RESULT page(struct keeper *k, struct look *l, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct due *all;
    size_t n;
    arena_init(&a, PAGE_ARENA_BYTES);
    TRY(due_look(k->o.store, BYTES(l->after, l->after_n), clock_wall_ns(k->o.clock), KEEPER_PAGE, &a, &all, &n, e));
    l->more = n == KEEPER_PAGE;
    for (size_t i = 0; i < n; i++) {
        const struct keeper_task *task = task_of(k, all[i].what);
        memcpy(l->after, all[i].id.p, all[i].id.n);
        l->after_n = all[i].id.n;
        if (all[i].broken)
            found_broken(k);
        if (task == NULL) /* of a later version: it is left alone */
            continue;
        if (k->tokens < 1 || ticker_stopping(&k->ticker)) {
            l->more = false;
            return ok();
        }
        k->tokens--;
        if (!do_one(k, task, &all[i]))
            FAIL(e, ERR_UNAVAILABLE, "STORE_IO", "the queue of what is due cannot be written");
    }
    return ok();
}

static RESULT look(struct keeper *k, struct err *e)
{
    struct look l = {.more = true};
    if (!k->prepared && k->o.prepare != NULL)
        TRY(k->o.prepare(k->o.user, e));
    k->prepared = true;
    /* A clock that has just jumped, or a machine that has just started with a wrong one, must not end a key before its time,
     * nor set its next rotation years ahead. */
    while (l.more && clockstep_steady(&k->steps, k->o.clock, (int64_t)k->o.settle_ms))
        TRY(page(k, &l, e));
    return ok();
}

void keeper_step(struct keeper *k)
{
    int64_t expected, boot_ms = clock_boot_ms(k->o.clock);
    struct err e = {0};
    (void)clockstep_look(&k->steps, k->o.clock, &expected);
    earn(k, boot_ms);
    forgive(k, boot_ms);
    if (!look(k, &e).failed)
        return;
    note(k, &(struct due){.name = BYTES_LIT("the queue of what is due")}, &e);
    k->failed_boot_ms = boot_ms;
}

/* ---- the thread ---- */
struct keeper *keeper_new(const struct keeper_options *o)
{
    struct keeper *k = calloc(1, sizeof *k);
    INVARIANT(k != NULL && o->pace > 0);
    k->o = *o;
    k->looked_boot_ms = clock_boot_ms(o->clock);
    k->failed_boot_ms = k->looked_boot_ms - FORGIVE_MS;
    k->tokens = (double)o->pace;
    clockstep_init(&k->steps, o->clock);
    pthread_mutex_init(&k->lock, NULL);
    ticker_init(&k->ticker);
    return k;
}

static void *keeper_thread(void *arg)
{
    struct keeper *k = arg;
    do
        keeper_step(k);
    while (ticker_rest(&k->ticker, KEEPER_LOOK_MS) != TICK_STOP);
    return NULL;
}

void keeper_start(struct keeper *k)
{
    struct err e = {0};
    INVARIANT(!ticker_start(&k->ticker, "keeper", keeper_thread, k, &e).failed);
}

void keeper_free(struct keeper *k)
{
    if (k == NULL)
        return;
    ticker_stop(&k->ticker);
    ticker_release(&k->ticker);
    pthread_mutex_destroy(&k->lock);
    free(k);
}
