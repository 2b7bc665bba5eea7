#include "base/log.h"
#include "base/thread.h"
#include "kms/audit/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What one fdatasync will make durable. */
struct group {
    struct journal_entry *head, **tail;
    size_t bytes;
    uint32_t n;
    uint64_t outbox_seq; /* highest, this group included */
};

static void finish(struct journal_entry *en, const struct err *failed)
{
    free(en->record);
    en->record = NULL;
    en->done(en, failed); /* en is its caller's again */
}

static void finish_all(struct journal_entry *en, const struct err *failed)
{
    while (en) {
        struct journal_entry *next = en->next;
        finish(en, failed);
        en = next;
    }
}

/* A result that was known before, or a visit: nothing to write. Between two groups every index below next_index has had its say. */
static void finish_posted(struct journal *j, struct journal_entry *en)
{
    struct err e = {0};
    const bool failed = en->record_n == POSTED_FAILED;
    if (en->record_n == POSTED_VISIT)
        en->receipt.index = j->next_index;
    if (failed)
        err_set(&e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", __FILE__, __LINE__, "the event is not durable in the journal yet");
    en->done(en, failed ? &e : NULL);
}

static struct journal_entry *pop(struct journal *j)
{
    struct journal_entry *en = j->taken;
    j->taken = en->next;
    en->next = NULL;
    return en;
}

/* Entries count as queued until they are durable or refused: that bounds memory, and keeps what was promised of the space. */
static void uncount(struct journal *j, size_t n, size_t bytes)
{
    pthread_mutex_lock(&j->mu);
    j->queued -= n;
    j->queued_bytes -= bytes;
    pthread_mutex_unlock(&j->mu);
}

static void refuse(struct journal *j, struct journal_entry *en, const char *why)
{
    struct err e = {0};
    err_set(&e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", __FILE__, __LINE__, "%s", why);
    uncount(j, 1, en->record_n);
    finish(en, &e);
}

enum fit { FIT_HERE, FIT_AFTER_ROLL, FIT_WAIT, FIT_NEVER };

/* The reserve is kept with space that exists: a file still being made does not count. */
static enum fit fits(const struct journal *j, enum next_state next, size_t group_bytes, const struct journal_entry *en)
{
    uint64_t room = j->active_bytes - j->off - group_bytes;
    uint64_t real = room + (next == NEXT_READY ? j->segment_bytes - SEGMENT_HEADER_BYTES : 0);
    bool here = en->record_n <= room, kept = en->reserve || en->record_n + j->reserve_bytes <= real;
    if (here && kept)
        return FIT_HERE;
    if (next == NEXT_READY)
        return kept ? FIT_AFTER_ROLL : FIT_NEVER;
    return next == NEXT_FAILED ? FIT_NEVER : FIT_WAIT;
}

static enum next_state next_state(struct journal *j)
{
    pthread_mutex_lock(&j->mu);
    enum next_state next = j->next;
    pthread_mutex_unlock(&j->mu);
    return next;
}

static void add(struct journal *j, struct group *g, struct journal_entry *en)
{
    uint8_t *frame = j->group + g->bytes;
    memcpy(frame, en->record, en->record_n);
    en->receipt.index = j->next_index + g->n;
    frame_finish(frame, en->receipt.index, en->outbox_seq, g->n);
    g->bytes += en->record_n;
    g->n++;
    if (en->outbox_seq)
        g->outbox_seq = en->outbox_seq;
    *g->tail = en;
    g->tail = &en->next;
}

static void wait_for_space(struct journal *j)
{
    pthread_mutex_lock(&j->mu);
    if (j->next == NEXT_IDLE) {
        j->next = NEXT_WANTED;
        pthread_cond_broadcast(&j->space);
    }
    while (j->next == NEXT_WANTED)
        pthread_cond_wait(&j->space, &j->mu);
    pthread_mutex_unlock(&j->mu);
}

static RESULT roll(struct journal *j, struct err *e)
{
    pthread_mutex_lock(&j->mu);
    int fd = j->next_fd;
    pthread_mutex_unlock(&j->mu);
    struct result r = disk_roll(j, fd, e);
    if (j->fd != fd)
        return r; /* the part file stays READY: tried again */
    pthread_mutex_lock(&j->mu);
    j->next = NEXT_IDLE;
    j->next_fd = -1;
    pthread_mutex_unlock(&j->mu);
    return r;
}

/* Fills the group with what fits the active file. False: the disk failed while changing files. */
static RESULT gather(struct journal *j, struct group *g, struct err *e)
{
    enum next_state next = next_state(j);
    while (j->taken) {
        struct journal_entry *en = j->taken;
        if (!en->record) {
            finish_posted(j, pop(j));
            continue;
        }
        if (en->outbox_seq && en->outbox_seq != g->outbox_seq + 1) {
            /* One before it failed: taking this one would lose that one for ever. */
            refuse(j, pop(j), "an earlier outbox event is not in the journal");
            continue;
        }
        if (g->bytes + en->record_n > GROUP_BYTES)
            return ok();
        enum fit fit = fits(j, next, g->bytes, en);
        if (fit == FIT_HERE)
            add(j, g, pop(j));
        else if (fit == FIT_NEVER)
            refuse(j, pop(j), "the journal is full");
        else if (g->n)
            return ok(); /* first what is gathered */
        else if (fit == FIT_WAIT)
            wait_for_space(j);
        else
            TRY(roll(j, e));
        if (fit != FIT_HERE)
            next = next_state(j);
    }
    return ok();
}

static void publish(struct journal *j, const struct group *g)
{
    pthread_mutex_lock(&j->mu);
    j->queued -= g->n;
    j->queued_bytes -= g->bytes;
    j->off += g->bytes;
    j->active_free = j->active_bytes - j->off;
    j->next_index += g->n;
    j->outbox_seq = g->outbox_seq;
    j->syncs++;
    j->entries += g->n;
    space_want_locked(j);
    if (j->waiters)
        pthread_cond_broadcast(&j->progress);
    pthread_mutex_unlock(&j->mu);
}

static RESULT write_group(struct journal *j, const struct group *g, struct err *e)
{
    atomic_store_explicit(&j->writing_since_ms, clock_boot_ms(j->clock), memory_order_relaxed);
    struct result r = disk_write(j, j->fd, j->group, g->bytes, j->off, e);
    if (!r.failed)
        r = disk_sync(j, j->fd, e);
    atomic_store_explicit(&j->writing_since_ms, 0, memory_order_relaxed);
    if (r.failed)
        j->spoilt_bytes = g->bytes;
    return r;
}

static void enter_failing(struct journal *j, const struct err *e)
{
    log_event(LOG_ERROR, "the audit journal cannot be written: no work is admitted", LF_ERR(e));
    pthread_mutex_lock(&j->mu);
    j->failing = true;
    snprintf(j->reason, sizeof j->reason, "%.120s", e->detail);
    pthread_mutex_unlock(&j->mu);
}

static void fail_taken(struct journal *j, const struct err *e)
{
    while (j->taken) {
        struct journal_entry *en = pop(j);
        if (!en->record) {
            finish_posted(j, en);
            continue;
        }
        uncount(j, 1, en->record_n);
        finish(en, e);
    }
}

static void write_taken(struct journal *j)
{
    while (j->taken) {
        struct err e = {0};
        struct group g = {.outbox_seq = j->outbox_seq};
        g.tail = &g.head;
        bool failed = gather(j, &g, &e).failed;
        if (!failed && g.n)
            failed = write_group(j, &g, &e).failed;
        if (failed) {
            enter_failing(j, &e); /* before anyone hears of it: who then asks journal_admits is told no */
            uncount(j, g.n, g.bytes);
            finish_all(g.head, &e);
            fail_taken(j, &e);
            return;
        }
        if (g.n) {
            publish(j, &g);
            finish_all(g.head, NULL);
        }
    }
}

/* After a failed fdatasync the pages may count as clean though they never reached the disk, so nothing is taken on trust: the
 * failed region is written anew, as zeros (its records were refused and must not come back), and synced. */
static RESULT try_repair(struct journal *j, struct err *e)
{
    if (j->spoilt_bytes) {
        TRY(disk_zero(j, j->fd, j->off, j->spoilt_bytes, e));
        TRY(disk_sync(j, j->fd, e));
    }
    if (j->dir_dirty)
        TRY(disk_sync_dir(j, e));
    j->spoilt_bytes = 0;
    j->dir_dirty = false;
    log_event(LOG_INFO, "the audit journal can be written again");
    pthread_mutex_lock(&j->mu);
    j->failing = false;
    if (j->next != NEXT_FAILED)
        j->reason[0] = 0;
    pthread_mutex_unlock(&j->mu);
    return ok();
}

/* Lets the next start tell a torn tail from one that was damaged later. */
static void write_close_mark(struct journal *j)
{
    uint8_t mark[FRAME_HEADER_BYTES] = {0}; /* length 0, and 0 is the CRC of nothing */
    struct err e = {0};
    if (j->failing || j->active_bytes - j->off < sizeof mark)
        return;
    frame_finish(mark, j->next_index, 0, 0);
    if (disk_write(j, j->fd, mark, sizeof mark, j->off, &e).failed || disk_sync(j, j->fd, &e).failed)
        log_event(LOG_WARN, "the journal's closing mark was not written", LF_ERR(&e));
}

/* Waits for entries, or for the time of the next try while failing. False: time to stop, and nothing is left. */
static bool next_work(struct journal *j, bool *ret_failing)
{
    const struct timespec until = wait_until(JOURNAL_RETRY_MS);
    pthread_mutex_lock(&j->mu);
    int timed_out = 0;
    while (!j->head && !j->stop && !timed_out) {
        j->audit_sleeps = true;
        if (j->failing)
            timed_out = pthread_cond_timedwait(&j->work, &j->mu, &until);
        else
            pthread_cond_wait(&j->work, &j->mu);
    }
    j->audit_sleeps = false;
    j->taken = j->head;
    j->head = NULL;
    j->tail = &j->head;
    *ret_failing = j->failing;
    bool go_on = j->taken || !j->stop;
    pthread_mutex_unlock(&j->mu);
    return go_on;
}

void *audit_main(void *arg)
{
    struct journal *j = arg;
    bool failing = false;
    while (next_work(j, &failing)) {
        struct err e = {0};
        if (failing && try_repair(j, &e).failed)
            fail_taken(j, &e); /* queued before the failure was known */
        else
            write_taken(j);
    }
    write_close_mark(j);
    return NULL;
}
