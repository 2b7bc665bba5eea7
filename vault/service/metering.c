#include "vault/service/metering.h"

#include "base/log.h"
#include "base/thread.h"
#include "vault/service/metering_replay.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { REPLAY_PAUSE_MS = 2, REPLAY_EVENTS = 262144 /* then what was found is kept: a death does not begin all over */ };

/* A table, and what it has: every use by events of [from, upto). */
struct stretch {
    struct usage_table *table;
    uint64_t from, upto;
    bool full; /* the event at upto found no room, and none behind it was counted */
};

struct metering {
    struct metering_options o;
    struct stretch two[2];
    struct stretch *live; /* the audit thread's */
    atomic_bool hurry;    /* it is half full */

    struct journal_entry visit; /* the counting thread's, and the audit thread's while it is under way; as the next two */
    struct stretch *taken;      /* to be added to the records; NULL: none */
    uint64_t visited;           /* it was taken when the journal had come this far */
    uint64_t taken_asked;       /* the counting thread's from here on: `asked`, then */
    struct usage_mark mark;
    uint64_t known_to;          /* as mark.counted_to, which is not written while nothing is used */
    bool told;                  /* one log line for each trouble */

    pthread_t thread;
    bool running;
    pthread_mutex_t lock;
    pthread_cond_t wake, progress;
    bool stop, handed;
    uint64_t asked, answered; /* by metering_sync, and how far that has been done */
    uint64_t failures;
    struct metering_status status;
};

/* ---- the audit thread ---- */
/* An event counts as a whole, or from the journal. */
void metering_count(struct metering *m, uint64_t index, const uint8_t tenant[16], struct bytes principal, int64_t at_ns,
                    const struct event_use *use, size_t n)
{
    if (m == NULL || n == 0 || m->live->full)
        return;
    struct stretch *live = m->live;
    live->full = !usage_table_room(live->table, n);
    live->upto = index;
    for (size_t i = 0; i < n && !live->full; i++)
        usage_table_add(live->table, &(struct usage_use){.tenant = tenant, .principal = principal, .at_ns = at_ns, .use = &use[i]});
    if (usage_table_rows(live->table) > m->o.rows_max / 2)
        atomic_store_explicit(&m->hurry, true, memory_order_relaxed);
}

static void hand_over(struct journal_entry *en, const struct err *failed)
{
    struct metering *m = (struct metering *)((char *)en - offsetof(struct metering, visit));
    struct stretch *old = m->live, *next = old == &m->two[0] ? &m->two[1] : &m->two[0];
    (void)failed;
    if (!old->full)
        old->upto = en->receipt.index;
    *next = (struct stretch){.table = next->table, .from = en->receipt.index};
    m->live = next;
    atomic_store_explicit(&m->hurry, false, memory_order_relaxed);
    pthread_mutex_lock(&m->lock);
    m->taken = old;
    m->visited = en->receipt.index;
    m->handed = true;
    pthread_cond_broadcast(&m->progress);
    pthread_mutex_unlock(&m->lock);
}

/* ---- the counting thread ---- */
static bool wanted_locked(const struct metering *m)
{
    return m->stop || m->asked > m->answered;
}

static void pause_ms(struct metering *m, unsigned ms)
{
    const struct timespec until = wait_until(ms);
    pthread_mutex_lock(&m->lock);
    while (!wanted_locked(m) && pthread_cond_timedwait(&m->wake, &m->lock, &until) != ETIMEDOUT)
        continue;
    pthread_mutex_unlock(&m->lock);
}

static void between_batches(void *user)
{
    pause_ms(user, METERING_PAUSE_MS);
}

static bool stopping(struct metering *m)
{
    pthread_mutex_lock(&m->lock);
    const bool stop = m->stop;
    pthread_mutex_unlock(&m->lock);
    return stop;
}

/* The journal keeps what a stop leaves uncounted. */
static RESULT between_pages(void *user, struct err *e)
{
    pause_ms(user, REPLAY_PAUSE_MS);
    if (stopping(user))
        FAIL(e, ERR_UNAVAILABLE, "SHUTTING_DOWN", "usage is counted on after the next start");
    return ok();
}

static void take(struct metering *m)
{
    pthread_mutex_lock(&m->lock);
    m->handed = false;
    m->taken_asked = m->asked;
    pthread_mutex_unlock(&m->lock);
    m->visit = (struct journal_entry){.done = hand_over};
    journal_visit(m->o.journal, &m->visit);
    pthread_mutex_lock(&m->lock);
    while (!m->handed)
        pthread_cond_wait(&m->progress, &m->lock);
    pthread_mutex_unlock(&m->lock);
}

/* What is not there any more cannot be counted: usage is known from the first record that is. */
static RESULT skip_what_is_gone(struct metering *m, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct journal_status st;
    struct journal_record *first;
    size_t n;
    arena_init(&a, 1 << 20);
    journal_status(m->o.journal, &st);
    if (st.first_index <= m->known_to)
        return ok();
    TRY(journal_read(m->o.journal, st.first_index, 1, &a, &first, &n, e));
    m->mark.began_ns = n > 0 ? (int64_t)get_be64(first[0].leaf + 1 + 16) : clock_wall_ns(m->o.clock);
    m->mark.under_way = 0;
    m->mark.counted_to = m->known_to = st.first_index;
    return ok();
}

/* A death between two transactions left some records ahead: up to exactly there comes first, then the rest. */
static RESULT replay(struct metering *m, struct usage_table *t, uint64_t to, struct err *e)
{
    struct replay r = {.journal = m->o.journal, .keyring = m->o.keyring, .into = t, .next = m->known_to, .to = to,
                       .began_ns = m->mark.began_ns, .between = between_pages, .user = m};
    if (r.to - r.next > REPLAY_EVENTS)
        r.to = r.next + REPLAY_EVENTS;
    if (m->mark.under_way > m->known_to && m->mark.under_way <= to)
        r.to = m->mark.under_way;
    TRY(metering_replay(&r, e));
    m->mark.began_ns = r.began_ns;
    TRY(usage_merge(m->o.store, t, &m->mark, r.next, between_batches, m, e));
    m->known_to = r.next;
    return ok();
}

static void table_freep(struct usage_table **t)
{
    usage_table_free(*t);
}

static RESULT catch_up(struct metering *m, uint64_t to, struct err *e)
{
    CLEANUP(table_freep) struct usage_table *t = NULL;
    TRY(between_pages(m, e));
    TRY(skip_what_is_gone(m, e));
    if (m->known_to < to)
        t = usage_table_new(m->o.rows_max);
    while (m->known_to < to) {
        TRY(replay(m, t, to, e));
        usage_table_clear(t);
    }
    return ok();
}

/* Nothing used: the mark need not move for each other event, so that an idle node writes nothing. */
static bool worth_writing(const struct metering *m)
{
    return usage_table_rows(m->taken->table) > 0 || m->taken->upto - m->mark.counted_to > METERING_IDLE_EVENTS;
}

static RESULT turn(struct metering *m, struct err *e)
{
    if (m->taken == NULL)
        take(m);
    if (m->taken->from > m->known_to)
        TRY(catch_up(m, m->taken->from, e));
    if (worth_writing(m))
        TRY(usage_merge(m->o.store, m->taken->table, &m->mark, m->taken->upto, between_batches, m, e));
    m->known_to = m->taken->upto;
    usage_table_clear(m->taken->table);
    m->taken = NULL;
    return ok();
}

/* True: what was there when the turn began is counted. Else the table was full, or something failed. */
static bool take_turn(struct metering *m)
{
    struct err e = {0};
    const bool failed = turn(m, &e).failed, all = !failed && m->known_to >= m->visited;
    if (failed && !m->told && !stopping(m))
        log_event(LOG_ERROR, "what keys were used for cannot be kept, will retry", LF_ERR(&e));
    m->told = failed;
    pthread_mutex_lock(&m->lock);
    m->failures += failed;
    if (all)
        m->answered = m->taken_asked;
    m->status = (struct metering_status){.complete = all, .counted_to = m->known_to, .began_ns = m->mark.began_ns};
    pthread_cond_broadcast(&m->progress);
    pthread_mutex_unlock(&m->lock);
    return !failed;
}

/* Until it is time for a turn; false: to stop. */
static bool wait_for_turn(struct metering *m, bool after_trouble, bool at_once)
{
    bool go;
    unsigned waited = 0;
    pthread_mutex_lock(&m->lock);
    do {
        const struct timespec until = wait_until(METERING_TICK_MS);
        while (!at_once && !m->stop && (after_trouble || !wanted_locked(m)) && pthread_cond_timedwait(&m->wake, &m->lock, &until) != ETIMEDOUT)
            continue;
        waited += METERING_TICK_MS;
        go = !m->stop;
    } while (go && !at_once && !wanted_locked(m) && waited < METERING_KEEP_MS && !atomic_load_explicit(&m->hurry, memory_order_relaxed));
    pthread_mutex_unlock(&m->lock);
    return go;
}

static void *metering_thread(void *arg)
{
    struct metering *m = arg;
    bool good = take_turn(m); /* what a death left uncounted comes first */
    while (wait_for_turn(m, !good, good && m->known_to < m->visited))
        good = take_turn(m);
    (void)take_turn(m);
    return NULL;
}

/* ---- for the others ---- */
RESULT metering_sync(struct metering *m, struct err *e)
{
    const struct timespec until = wait_until(METERING_SYNC_MS);
    pthread_mutex_lock(&m->lock);
    const uint64_t mine = ++m->asked, failures = m->failures;
    pthread_cond_broadcast(&m->wake);
    while (m->answered < mine && m->failures == failures && !m->stop && pthread_cond_timedwait(&m->progress, &m->lock, &until) != ETIMEDOUT)
        continue;
    const bool done = m->answered >= mine;
    pthread_mutex_unlock(&m->lock);
    if (!done)
        FAIL(e, ERR_UNAVAILABLE, "USAGE_UNKNOWN", "what was used is not all counted yet");
    return ok();
}

void metering_status(struct metering *m, struct metering_status *ret)
{
    pthread_mutex_lock(&m->lock);
    *ret = m->status;
    pthread_mutex_unlock(&m->lock);
}

/* A mark that is damaged: what the records count is not known, so they count from here on; and nobody is kept from starting by it. */
static RESULT read_mark(struct metering *m, uint64_t here, struct err *e)
{
    struct err why = {0};
    const int64_t now_ns = clock_wall_ns(m->o.clock);
    if (!usage_mark_read(m->o.store, &m->mark, &why).failed)
        return ok();
    if (why.code != ERR_DATA_LOSS) {
        *e = why;
        return (struct result){1};
    }
    log_event(LOG_ERROR, "how far usage is counted cannot be read: it is known only from here on", LF_ERR(&why));
    m->mark = (struct usage_mark){.series = (uint32_t)(now_ns / 1000000000), .counted_to = here, .began_ns = now_ns};
    return ok();
}

/* A journal that is shorter than what was counted of it is another one: its indexes are given again. */
static RESULT find_place(struct metering *m, struct err *e)
{
    struct journal_status st;
    struct usage_mark *k = &m->mark;
    journal_status(m->o.journal, &st);
    TRY(read_mark(m, st.next_index, e));
    if (k->counted_to > st.next_index || k->under_way > st.next_index)
        *k = (struct usage_mark){.series = k->series + 1, .counted_to = st.next_index, .began_ns = clock_wall_ns(m->o.clock)};
    m->known_to = k->counted_to;
    m->live->from = m->live->upto = st.next_index;
    return ok();
}

RESULT metering_new(const struct metering_options *o, struct metering **ret, struct err *e)
{
    struct metering *m = calloc(1, sizeof *m);
    INVARIANT(m != NULL && o->rows_max >= EVENT_USES_MAX);
    m->o = *o;
    m->live = &m->two[0];
    for (int i = 0; i < 2; i++)
        m->two[i].table = usage_table_new(o->rows_max);
    pthread_mutex_init(&m->lock, NULL);
    wait_cond_init(&m->wake);
    wait_cond_init(&m->progress);
    if (find_place(m, e).failed) {
        metering_free(m);
        return (struct result){1};
    }
    *ret = m;
    return ok();
}

void metering_start(struct metering *m)
{
    struct err e = {0};
    INVARIANT(!thread_spawn(&m->thread, "metering", metering_thread, m, &e).failed);
    m->running = true;
}

void metering_stop(struct metering *m)
{
    if (m == NULL || !m->running)
        return;
    pthread_mutex_lock(&m->lock);
    m->stop = true;
    pthread_cond_broadcast(&m->wake);
    pthread_cond_broadcast(&m->progress);
    pthread_mutex_unlock(&m->lock);
    (void)pthread_join(m->thread, NULL);
    m->running = false;
}

void metering_free(struct metering *m)
{
    if (m == NULL)
        return;
    for (int i = 0; i < 2; i++)
        usage_table_free(m->two[i].table);
    pthread_cond_destroy(&m->wake);
    pthread_cond_destroy(&m->progress);
    pthread_mutex_destroy(&m->lock);
    free(m);
}
