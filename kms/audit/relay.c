#include "base/log.h"
#include "base/thread.h"
#include "kms/audit/event.h"
#include "kms/audit/internal.h"
#include "kms/store/store.h"

#include <stdlib.h>
#include <string.h>

enum { RELAY_BATCH = 128, RELAY_RECENT = 4096, RELAY_TRIM_AFTER = 512, RELAY_TICK_MS = 1000, RELAY_ARENA_BYTES = 4 << 20 };

struct relay_item {
    struct journal_entry en; /* first: done gets it back */
    struct relay *r;
};
struct relay {
    struct journal *j;
    struct store *s;
    struct relay_hooks hooks;
    uint8_t incarnation[16];
    pthread_t thread;
    struct relay_item items[RELAY_BATCH]; /* relay thread, then the audit thread until done */
    uint64_t trimmed;                     /* relay thread */
    bool in_trouble;                      /* relay thread: one log line for each trouble */

    pthread_mutex_t mu;
    pthread_cond_t wake;
    bool woken, stop, batch_failed;
    size_t under_way;
    uint64_t durable;
    struct journal_entry *waiters; /* by next; outbox_seq is what each waits for */
    struct {
        uint64_t seq;
        struct receipt receipt;
    } recent[RELAY_RECENT];
};

static struct journal_entry *take_waiters_locked(struct relay *r, uint64_t up_to)
{
    struct journal_entry *taken = NULL, **at = &r->waiters;
    while (*at) {
        struct journal_entry *w = *at;
        if (w->outbox_seq > up_to) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        w->next = taken;
        taken = w;
    }
    return taken;
}

static void set_receipt_locked(const struct relay *r, struct journal_entry *w)
{
    size_t at = w->outbox_seq % RELAY_RECENT;
    w->receipt = (struct receipt){.index = UINT64_MAX};
    if (r->recent[at].seq == w->outbox_seq)
        w->receipt = r->recent[at].receipt;
}

static void on_done(struct journal_entry *en, const struct err *failed)
{
    struct relay *r = ((struct relay_item *)en)->r;
    struct journal_entry *ready = NULL;
    pthread_mutex_lock(&r->mu);
    if (failed) {
        r->batch_failed = true;
    } else {
        size_t at = en->outbox_seq % RELAY_RECENT;
        r->durable = en->outbox_seq;
        r->recent[at].seq = en->outbox_seq;
        r->recent[at].receipt = en->receipt;
        ready = take_waiters_locked(r, r->durable);
        for (struct journal_entry *w = ready; w; w = w->next)
            set_receipt_locked(r, w);
    }
    if (--r->under_way == 0)
        pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->mu);
    while (ready) {
        struct journal_entry *next = ready->next;
        ready->done(ready, NULL);
        ready = next;
    }
}

void relay_when_durable(struct relay *r, uint64_t seq, struct journal_entry *waiter)
{
    waiter->outbox_seq = seq;
    pthread_mutex_lock(&r->mu);
    bool now = seq <= r->durable, never = r->stop;
    if (now) {
        set_receipt_locked(r, waiter);
    } else if (!never) {
        waiter->next = r->waiters;
        r->waiters = waiter;
    }
    pthread_mutex_unlock(&r->mu);
    if (now || never)
        journal_post(r->j, waiter, !now);
}

static void fail_waiters(struct relay *r, uint64_t up_to)
{
    pthread_mutex_lock(&r->mu);
    struct journal_entry *w = take_waiters_locked(r, up_to);
    pthread_mutex_unlock(&r->mu);
    while (w) {
        struct journal_entry *next = w->next;
        journal_post(r->j, w, true);
        w = next;
    }
}

static void on_outbox(void *user, uint64_t seq)
{
    struct relay *r = user;
    (void)seq;
    pthread_mutex_lock(&r->mu);
    r->woken = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->mu);
}

/* The stored event has no id, because its sequence was not known when it was encoded; the id is field 1, so it goes in front. */
static RESULT submit_one(struct relay *r, struct relay_item *item, const struct outbox_event *ev, struct err *e)
{
    static const uint8_t system[16];
    uint8_t id[16];
    struct audit_event decoded = {0};
    struct err malformed = {0};
    CLEANUP(buf_release) struct buf bytes;
    buf_init(&bytes, EVENT_MAX_BYTES);
    const struct audit_tenant *t = r->hooks.tenant(r->hooks.user, ev->tenant);
    if (!t)
        t = r->hooks.tenant(r->hooks.user, system); /* a tenant that is gone: what happened to it is still on the record */
    if (!t)
        FAIL(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "no audit key to seal outbox event %llu", (unsigned long long)ev->seq);
    event_outbox_id(r->incarnation, ev->seq, id);
    if (event_decode(ev->event, &decoded, &malformed).failed)
        decoded.time_unix_ns = clock_wall_ns(r->j->clock); /* ours and sealed, so a bug: but it must not stop the log */
    if (memcmp(decoded.id, system, 16) == 0)
        event_put_id(id, &bytes);
    buf_put_bytes(&bytes, ev->event);
    item->r = r;
    item->en = (struct journal_entry){.done = on_done, .reserve = true};
    return journal_submit_outbox(r->j, &item->en, t, id, decoded.time_unix_ns,
                                 bytes.overflow ? ev->event : buf_bytes(&bytes), ev->seq, e);
}

static RESULT submit_batch(struct relay *r, const struct outbox_event *ev, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        pthread_mutex_lock(&r->mu);
        r->under_way++;
        pthread_mutex_unlock(&r->mu);
        struct result res = submit_one(r, &r->items[i], &ev[i], e);
        if (!res.failed)
            continue;
        pthread_mutex_lock(&r->mu);
        r->under_way--;
        pthread_mutex_unlock(&r->mu);
        return res;
    }
    return ok();
}

/* Waits for the batch: its items are used again, and the next one begins behind what is durable. */
static RESULT await_batch(struct relay *r, struct err *e)
{
    pthread_mutex_lock(&r->mu);
    while (r->under_way)
        pthread_cond_wait(&r->wake, &r->mu);
    bool failed = r->batch_failed;
    r->batch_failed = false;
    pthread_mutex_unlock(&r->mu);
    if (failed)
        FAIL(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "the journal refused outbox events");
    return ok();
}

static RESULT copy_batch(struct relay *r, struct arena *a, size_t *ret_n, struct err *e)
{
    struct outbox_event *ev = NULL;
    pthread_mutex_lock(&r->mu);
    uint64_t durable = r->durable;
    pthread_mutex_unlock(&r->mu);
    TRY(store_outbox_read(r->s, durable, RELAY_BATCH, a, &ev, ret_n, e));
    if (*ret_n == 0)
        return ok();
    if (ev[0].seq != durable + 1)
        FAIL(e, ERR_DATA_LOSS, "OUTBOX_GAP", "the journal has outbox event %llu, the store goes on with %llu",
             (unsigned long long)durable, (unsigned long long)ev[0].seq);
    struct result r1 = submit_batch(r, ev, *ret_n, e);
    struct result r2 = await_batch(r, e);
    return r1.failed ? r1 : r2;
}

static RESULT copy_all(struct relay *r, struct err *e)
{
    size_t n = RELAY_BATCH;
    while (n == RELAY_BATCH) {
        struct arena a;
        arena_init(&a, RELAY_ARENA_BYTES);
        struct result res = copy_batch(r, &a, &n, e);
        arena_release(&a);
        TRY(res);
    }
    return ok();
}

static bool stopping(struct relay *r)
{
    pthread_mutex_lock(&r->mu);
    bool stop = r->stop;
    pthread_mutex_unlock(&r->mu);
    return stop;
}

static void trim(struct relay *r, bool idle)
{
    struct err e = {0};
    pthread_mutex_lock(&r->mu);
    uint64_t durable = r->durable;
    pthread_mutex_unlock(&r->mu);
    if (durable - r->trimmed < (idle ? 1 : RELAY_TRIM_AFTER))
        return;
    if (!store_outbox_trim(r->s, durable, &e).failed)
        r->trimmed = durable; /* otherwise later: a row too many does no harm */
}

/* True when woken, false at the tick. */
static bool wait_for_work(struct relay *r, int ms)
{
    const struct timespec until = wait_until(ms);
    int rc = 0;
    pthread_mutex_lock(&r->mu);
    while (!r->woken && !r->stop && rc == 0)
        rc = pthread_cond_timedwait(&r->wake, &r->mu, &until);
    bool woken = r->woken;
    r->woken = false;
    pthread_mutex_unlock(&r->mu);
    return woken;
}

static void *relay_main(void *arg)
{
    struct relay *r = arg;
    int wait_ms = 0; /* what the last run left comes first */
    while (!stopping(r)) {
        struct err e = {0};
        bool woken = wait_for_work(r, wait_ms);
        bool failed = copy_all(r, &e).failed;
        if (failed && !r->in_trouble)
            log_event(LOG_ERROR, "outbox events cannot be copied to the journal, will retry", LF_ERR(&e));
        if (failed)
            fail_waiters(r, UINT64_MAX); /* nobody waits through trouble: the event stays in the outbox */
        else
            trim(r, !woken);
        r->in_trouble = failed;
        wait_ms = failed ? JOURNAL_RETRY_MS : RELAY_TICK_MS;
    }
    return NULL;
}

/* Both were durable when they were last seen together; if one lacks what the other knows, it was replaced or rolled back. */
static RESULT check_meeting(struct relay *r, struct err *e)
{
    struct outbox_event *ev = NULL;
    size_t n = 0;
    uint64_t last = store_outbox_last(r->s);
    if (last < r->durable)
        FAIL(e, ERR_DATA_LOSS, "STORE_BEHIND", "the journal has outbox event %llu, the store ends at %llu",
             (unsigned long long)r->durable, (unsigned long long)last);
    struct arena a;
    arena_init(&a, RELAY_ARENA_BYTES);
    struct result res = store_outbox_read(r->s, r->durable, 1, &a, &ev, &n, e);
    uint64_t first = !res.failed && n ? ev[0].seq : r->durable + 1;
    arena_release(&a);
    TRY(res);
    if (first != r->durable + 1 || (last > r->durable && n == 0))
        FAIL(e, ERR_DATA_LOSS, "JOURNAL_BEHIND", "the journal ends at outbox event %llu, the store has only %llu and later",
             (unsigned long long)r->durable, (unsigned long long)first);
    return ok();
}

static void relay_free(struct relay *r)
{
    pthread_mutex_destroy(&r->mu);
    pthread_cond_destroy(&r->wake);
    free(r);
}

RESULT relay_start(struct journal *j, struct store *s, const struct relay_hooks *h, struct relay **ret, struct err *e)
{
    struct relay *r = calloc(1, sizeof *r);
    INVARIANT(r);
    r->j = j;
    r->s = s;
    r->hooks = *h;
    r->durable = r->trimmed = journal_outbox_seq(j);
    store_incarnation(s, r->incarnation);
    INVARIANT(pthread_mutex_init(&r->mu, NULL) == 0);
    wait_cond_init(&r->wake);
    if (check_meeting(r, e).failed || thread_spawn(&r->thread, "relay", relay_main, r, e).failed) {
        relay_free(r);
        return (struct result){1};
    }
    store_set_outbox_waker(s, on_outbox, r);
    *ret = r;
    return ok();
}

void relay_stop(struct relay *r)
{
    if (!r)
        return;
    store_set_outbox_waker(r->s, NULL, NULL);
    pthread_mutex_lock(&r->mu);
    r->stop = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->mu);
    pthread_join(r->thread, NULL);
    fail_waiters(r, UINT64_MAX);
    relay_free(r);
}
