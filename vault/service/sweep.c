#include "vault/service/sweep.h"

#include "base/log.h"
#include "base/text.h"
#include "base/thread.h"
#include "vault/service/admin.h"
#include "vault/service/clockstep.h"
#include "vault/service/lanes.h"
#include "vault/service/pipeline.h"
#include "vault/service/token_backup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DRAIN_BATCH = 64, BUDGET_BATCH = 256, EXPIRE_PAGE = 256, LEAF_TIME_AT = 1 + 16 /* docs/FORMATS.md */ };

struct sweep {
    struct service *s;
    struct ticker ticker;
    struct clockstep clock; /* the thread's */
    pthread_mutex_t lock;   /* the rest */
    bool probe_pending, hsm_ok, by_pin;
    struct hsm_status status;
    char why[256];
    struct lane_job probe; /* the probe may take as long as an HSM call may: not on this thread */
};

/* ---- HSM probe ---- */
/* The hsm process tells callers one reason, that the token is not available; why stands in its words. */
static bool blames_pin(const struct err *e)
{
    return strstr(e->detail, "PIN") != NULL || strstr(e->detail, "hsm_pin_file") != NULL;
}

static void run_probe(struct lane_job *j)
{
    struct sweep *w = (struct sweep *)((char *)j - offsetof(struct sweep, probe));
    struct hsm_status st;
    struct err e = {0};
    const uint32_t made[] = {[HSM_MASTER] = atomic_load(&w->s->made[HSM_MASTER]), [HSM_SEAL] = atomic_load(&w->s->made[HSM_SEAL])};
    uint8_t asked[8]; /* the probe tells what the hsm process knows; that the token answers is known only by asking it */
    bool good = !hsm_probe(w->s->hsm, &st, &e).failed && !hsm_random(w->s->hsm, asked, sizeof asked, &e).failed;
    pthread_mutex_lock(&w->lock);
    if (good != w->hsm_ok)
        log_event(good ? LOG_INFO : LOG_ERROR, "hsm state changed", LF_STR("state", good ? "up" : "down"), LF_ERR(&e));
    w->hsm_ok = good;
    w->probe_pending = false;
    if (good)
        w->status = st;
    else
        err_operator(&e, w->why, sizeof w->why);
    w->by_pin = !good && blames_pin(&e);
    pthread_mutex_unlock(&w->lock);
    for (enum hsm_object kind = HSM_MASTER; good && kind <= HSM_SEAL; kind++) { /* what was made before it was asked, it has told */
        uint32_t told = made[kind];
        (void)atomic_compare_exchange_strong(&w->s->made[kind], &told, 0);
    }
}

static void start_probe(struct sweep *w)
{
    pthread_mutex_lock(&w->lock);
    bool go = !w->probe_pending;
    w->probe_pending = true;
    pthread_mutex_unlock(&w->lock);
    if (go && !lanes_submit(w->s->lanes, BYTES_LIT("probe"), &w->probe)) {
        pthread_mutex_lock(&w->lock);
        w->probe_pending = false;
        pthread_mutex_unlock(&w->lock);
    }
}

bool sweep_hsm_state(struct sweep *w, struct hsm_status *ret, bool *ret_pin, char *why, size_t n)
{
    pthread_mutex_lock(&w->lock);
    bool good = w->hsm_ok;
    if (ret_pin != NULL)
        *ret_pin = w->by_pin;
    *ret = w->status;
    if (n > 0) {
        strncpy(why, good ? "" : w->why, n - 1);
        why[n - 1] = 0;
    }
    pthread_mutex_unlock(&w->lock);
    return good;
}

/* ---- what the service itself puts on record ---- */
static RESULT record(struct service *s, struct audit_event *ev, struct err *e)
{
    CLEANUP(buf_release) struct buf out;
    journal_next_event_id(s->journal, ev->id);
    buf_init(&out, EVENT_MAX_BYTES);
    event_encode(ev, &out);
    return pipeline_submit_detached(s, keyring_system_audit(s->keyring), ev, buf_bytes(&out), e);
}

/* ---- counted refusals ---- */
static void record_count(struct service *s, const struct refusal_count *r)
{
    struct audit_event ev = {.time_unix_ns = clock_wall_ns(s->clock), .repeats = r->repeats};
    size_t prefix = strlen(SOURCE_ADDRESS);
    if (strncmp(r->source, SOURCE_ADDRESS, prefix) == 0)
        ev.address = bytes_str(r->source + prefix);
    else
        ev.principal = bytes_str(r->source);
    ev.action = bytes_str(r->action);
    ev.outcome = bytes_str("refused");
    ev.code = bytes_str(r->code);
    ev.reason = bytes_str(r->reason);
    struct err e = {0};
    if (record(s, &ev, &e).failed)
        log_event(LOG_WARN, "a count of refusals could not be journalled", LF_INT("repeats", r->repeats), LF_ERR(&e));
}

static void drain_refusals(struct service *s, bool all)
{
    struct refusal_count counts[DRAIN_BATCH];
    size_t n;
    do {
        n = refusals_drain(s->refusals, all, counts, DRAIN_BATCH);
        for (size_t i = 0; i < n; i++)
            record_count(s, &counts[i]);
    } while (n == DRAIN_BATCH);
}

/* ---- the wall clock ---- */
static void record_step(struct service *s, int64_t expected_ns, int64_t now_ns)
{
    char from[TEXT_RFC3339_BYTES], to[TEXT_RFC3339_BYTES], before[64], after[64];
    struct audit_event ev = {.time_unix_ns = now_ns, .principal = bytes_str("system:clock"), .action = bytes_str("system.clockStep"),
                             .outcome = bytes_str("ok")};
    text_format_rfc3339(expected_ns, from);
    text_format_rfc3339(now_ns, to);
    (void)snprintf(before, sizeof before, "{\"wall\":\"%s\"}", from);
    (void)snprintf(after, sizeof after, "{\"wall\":\"%s\"}", to);
    log_event(LOG_WARN, "the wall clock stepped", LF_STR("expected", from), LF_STR("now", to));
    ev.before = bytes_str(before);
    ev.after = bytes_str(after);
    struct err e = {0};
    if (record(s, &ev, &e).failed)
        log_event(LOG_WARN, "a step of the clock could not be journalled", LF_ERR(&e));
}

static void watch_clock(struct sweep *w)
{
    int64_t expected;
    if (clockstep_look(&w->clock, w->s->clock, &expected))
        record_step(w->s, expected, clock_wall_ns(w->s->clock));
}

/* The newest event stands in the journal: a clock that is behind it was set back while nobody ran. */
static void watch_restart(struct service *s)
{
    CLEANUP(arena_release) struct arena a;
    struct journal_status st;
    struct journal_record *recs;
    struct err e = {0};
    size_t n = 0;
    journal_status(s->journal, &st);
    arena_init(&a, 1u << 20);
    if (st.next_index == 0 || journal_read(s->journal, st.next_index - 1, 1, &a, &recs, &n, &e).failed || n == 0)
        return;
    int64_t newest = (int64_t)get_be64(recs[0].leaf + LEAF_TIME_AT), now = clock_wall_ns(s->clock);
    if (newest - now >= (int64_t)CLOCKSTEP_MIN_MS * 1000000)
        record_step(s, newest, now);
}

/* ---- idempotency records ---- */
static RESULT expire_page(struct service *s, struct store_scan *q, struct arena *a, bool *ret_more, struct err *e)
{
    struct record *rows;
    size_t n;
    TRY(store_scan(s->store, q, a, &rows, &n, e));
    int64_t limit = clock_wall_ns(s->clock) - (int64_t)IDEMPOTENCY_KEEP_S * 1000000000;
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(s->store);
    size_t gone = 0;
    for (size_t i = 0; i < n; i++)
        if (rows[i].time_unix_ns < limit) {
            store_txn_delete(t, REC_IDEMPOTENCY, rows[i].tenant, rows[i].id, STORE_ANY);
            gone++;
        }
    uint64_t seq;
    if (gone > 0)
        TRY(store_txn_commit(t, &seq, e));
    *ret_more = n == EXPIRE_PAGE;
    if (n > 0) {
        q->after = rows[n - 1].id;
        memcpy(q->after_tenant, rows[n - 1].tenant, sizeof q->after_tenant);
    }
    return ok();
}

static void expire_idempotency(struct service *s)
{
    struct store_scan q = {.kind = REC_IDEMPOTENCY, .limit = EXPIRE_PAGE, .all_tenants = true, .with_broken = true}; /* those go, too */
    uint8_t after[STORE_ID_MAX];
    bool more = true;
    while (more) {
        CLEANUP(arena_release) struct arena a;
        arena_init(&a, 256u << 20);
        struct err e = {0};
        if (expire_page(s, &q, &a, &more, &e).failed) {
            log_event(LOG_WARN, "old idempotency records could not be removed", LF_ERR(&e));
            return;
        }
        if (q.after.n > 0)
            memmove(after, q.after.p, q.after.n); /* outlives the page */
        q.after.p = after;
    }
}

/* ---- volume budgets: id = tenant id, body: i64 day, u64 used, i64 month, u64 used ---- */
static RESULT keep_budgets(struct service *s, struct err *e)
{
    static const uint8_t no_tenant[STORE_TENANT_BYTES];
    struct budget_count counts[BUDGET_BATCH];
    size_t n;
    while ((n = budget_dirty(s->budgets, counts, BUDGET_BATCH)) > 0) {
        CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(s->store);
        for (size_t i = 0; i < n; i++) {
            CLEANUP(buf_release) struct buf body;
            buf_init(&body, 64);
            buf_put_u64(&body, (uint64_t)counts[i].day);
            buf_put_u64(&body, counts[i].day_used);
            buf_put_u64(&body, (uint64_t)counts[i].month);
            buf_put_u64(&body, counts[i].month_used);
            struct record r = {.kind = REC_BUDGET, .id = BYTES(counts[i].key, BUDGET_KEY_BYTES), .body = buf_bytes(&body)};
            memcpy(r.tenant, no_tenant, sizeof r.tenant);
            store_txn_put(t, &r, STORE_ANY);
        }
        uint64_t seq;
        TRY(store_txn_commit(t, &seq, e));
    }
    return ok();
}

static void sweep_budgets(struct service *s)
{
    struct err e = {0};
    if (keep_budgets(s, &e).failed)
        log_event(LOG_WARN, "volume budgets could not be kept", LF_ERR(&e));
}

/* A count that does not open begins again, as one does that somebody has taken out: that is no reason not to start. */
static void load_budget(struct service *s, const struct record *r)
{
    struct reader in = reader_of(r->body);
    struct budget_count c = {.day = (int64_t)reader_u64(&in)};
    c.day_used = reader_u64(&in);
    c.month = (int64_t)reader_u64(&in);
    c.month_used = reader_u64(&in);
    if (r->body.p == NULL || !reader_done(&in) || r->id.n != sizeof c.key) {
        log_event(LOG_ERROR, "a volume budget is damaged: it begins again", LF_HEX("tenant", r->id));
        return;
    }
    memcpy(c.key, r->id.p, sizeof c.key);
    budget_load(s->budgets, &c);
}

RESULT sweep_load_budgets(struct service *s, struct err *e)
{
    if (!budgets_active(s->budgets))
        return ok();
    uint8_t after[STORE_ID_MAX];
    struct store_scan q = {.kind = REC_BUDGET, .limit = EXPIRE_PAGE, .with_broken = true};
    size_t n = EXPIRE_PAGE;
    while (n == EXPIRE_PAGE) {
        CLEANUP(arena_release) struct arena a;
        arena_init(&a, 16u << 20);
        struct record *rows;
        TRY(store_scan(s->store, &q, &a, &rows, &n, e));
        for (size_t i = 0; i < n; i++) {
            load_budget(s, &rows[i]);
            memcpy(after, rows[i].id.p, rows[i].id.n);
            q.after = BYTES(after, rows[i].id.n);
        }
    }
    return ok();
}

/* ---- the thread ---- */
static void *sweep_thread(void *arg)
{
    struct sweep *w = arg;
    int64_t probed = 0, kept = 0, expired = clock_boot_ms(w->s->clock);
    watch_restart(w->s);
    do {
        int64_t now = clock_boot_ms(w->s->clock);
        watch_clock(w);
        waiters_wake(w->s, false);
        if (now - probed >= SWEEP_PROBE_MS) {
            probed = now;
            start_probe(w);
            if (!admin_current(w->s->admin))
                admin_refresh(w->s->admin);
            store_retry(w->s->store);
            token_backup_look(w->s);
            drain_refusals(w->s, false);
        }
        if (now - kept >= SWEEP_BUDGET_MS) {
            kept = now;
            sweep_budgets(w->s);
        }
        if (now - expired >= SWEEP_EXPIRE_MS) {
            expired = now;
            /* Judged by a clock that has just jumped, all would be old: better to remember too long. */
            if (clockstep_settled(&w->clock, w->s->clock, SWEEP_EXPIRE_MS))
                expire_idempotency(w->s);
        }
    } while (ticker_rest(&w->ticker, SWEEP_WAKE_MS) != TICK_STOP);
    return NULL;
}

struct sweep *sweep_start(struct service *s)
{
    struct sweep *w = calloc(1, sizeof *w);
    INVARIANT(w != NULL);
    w->s = s;
    w->hsm_ok = true; /* start-up has just used it */
    w->probe.run = run_probe;
    clockstep_init(&w->clock, s->clock);
    pthread_mutex_init(&w->lock, NULL);
    ticker_init(&w->ticker);
    struct err e = {0};
    INVARIANT(!ticker_start(&w->ticker, "sweep", sweep_thread, w, &e).failed);
    return w;
}

void sweep_stop(struct sweep *w)
{
    if (w == NULL)
        return;
    ticker_stop(&w->ticker);
    waiters_wake(w->s, true);
    sweep_budgets(w->s);
    drain_refusals(w->s, true);
}
