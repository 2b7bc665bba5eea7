/* The floor. It is written behind the commits, so it may lag; it never runs ahead, so a crash cannot lock the store out. */
#include "base/log.h"
#include "base/thread.h"
#include "kms/store/internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ANCHOR_FORMAT = 1 };

struct anchor {
    struct store_anchor io;
    pthread_t thread;
    bool runs;
    pthread_mutex_t mu;
    pthread_cond_t work, done;
    bool stop, wanted;     /* wanted: somebody waits for it */
    bool failing;
    char why[160];
    uint64_t attempts;     /* finished */
    uint64_t written;      /* epoch of the newest floor */
    uint64_t journal_next; /* as last asked; the journal may be closed before the store */
    uint64_t written_journal;
    uint32_t written_seal; /* the epoch that floor is sealed under */
    time_t written_at;     /* monotonic, seconds */
    uint64_t found_journal;
    uint64_t (*next_index)(void *user);
    void *user;
};

static time_t seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

struct anchor *anchor_new(const struct store_anchor *io)
{
    struct anchor *a = calloc(1, sizeof *a);
    INVARIANT(a);
    a->io = *io;
    INVARIANT(pthread_mutex_init(&a->mu, NULL) == 0 && pthread_cond_init(&a->done, NULL) == 0);
    wait_cond_init(&a->work);
    return a;
}

void anchor_free(struct anchor *a)
{
    if (!a)
        return;
    pthread_mutex_destroy(&a->mu);
    pthread_cond_destroy(&a->work);
    pthread_cond_destroy(&a->done);
    free(a);
}

static bool is_absent(const struct err *e)
{
    return e->reason && strcmp(e->reason, "SEAL_ABSENT") == 0;
}

/* ---- the value: u32 seal epoch, sealed(u8 1, incarnation, epoch, outbox, journal) ---- */
static RESULT parse(struct store *s, struct bytes value, struct floor_value *ret, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct reader in = reader_of(value);
    struct bytes body = {0};
    struct err why = {0};
    uint32_t epoch = reader_u32(&in);
    arena_init(&a, 65536);
    if (in.bad || seal_open_note(&s->seal, epoch, NOTE_ANCHOR, BYTES(in.p, in.n), &a, &body, &why).failed) {
        if (why.code == ERR_UNAVAILABLE || is_absent(&why)) {
            *e = why;
            return (struct result){1};
        }
        FAIL(e, ERR_STATE, "STORE_ROLLED_BACK",
             "the anchor does not open under the store's key: it was edited, or token or anchor file are of another time");
    }
    ret->seal = epoch;
    in = reader_of(body);
    uint8_t format = reader_u8(&in);
    reader_copy(&in, ret->incarnation, sizeof ret->incarnation);
    ret->epoch = reader_u64(&in);
    ret->outbox_last = reader_u64(&in);
    ret->journal_next = reader_u64(&in);
    if (format != ANCHOR_FORMAT || !reader_done(&in))
        FAIL(e, ERR_STATE, "STORE_ROLLED_BACK", "the anchor is not of this program's form: a newer version wrote it");
    return ok();
}

static RESULT read_place(struct store *s, bool other, struct floor_value *ret, struct err *e)
{
    const struct store_anchor *io = &s->anchor->io;
    uint8_t value[STORE_ANCHOR_MAX];
    size_t n = 0;
    TRY((other ? io->get_other : io->get)(io->user, value, &n, e));
    return parse(s, BYTES(value, n), ret, e);
}

#define WAY_ON "to go on with it knowingly: kmsd accept-rollback --reason TEXT"

RESULT anchor_read(struct store *s, const struct root *root, struct floor_value *ret, struct err *e)
{
    struct err why = {0};
    struct result r = read_place(s, false, ret, &why);
    bool moved = root->anchor_place != STORE_ANCHOR_NONE && root->anchor_place != s->anchor->io.place;
    /* What lies here from an earlier time may be of a seal secret that is gone since: then it is as good as none. */
    if (r.failed && moved && (why.code == ERR_NOT_FOUND || is_absent(&why))) {
        why = (struct err){0};
        r = read_place(s, true, ret, &why);
    }
    if (r.failed && is_absent(&why))
        FAIL(e, ERR_STATE, "STORE_ROLLED_BACK", "the anchor does not open: %.120s; token or anchor file are of another time; " WAY_ON, why.detail);
    if (r.failed)
        *e = why;
    return r;
}

static RESULT compare(struct store *s, const struct floor_value *f, struct err *e)
{
    const struct root *r = &s->fresh.root;
    if (memcmp(f->incarnation, s->seal.incarnation, sizeof f->incarnation) != 0)
        FAIL(e, ERR_STATE, "STORE_ROLLED_BACK", "the store is of another incarnation than the anchor: a copy from before an accepted"
             " rollback, or an acceptance that was cut short; " WAY_ON);
    if (r->epoch < f->epoch || r->outbox_last < f->outbox_last)
        FAIL(e, ERR_STATE, "STORE_ROLLED_BACK", "the store is at epoch %llu, event %llu; the anchor saw %llu, %llu: it is an older copy; "
             WAY_ON, (unsigned long long)r->epoch, (unsigned long long)r->outbox_last, (unsigned long long)f->epoch,
             (unsigned long long)f->outbox_last);
    return ok();
}

/* A token without its anchor was put back from a backup made before there was one: the same as one with an older anchor, a floor
 * that is lower than it was. Whoever can do that to a token can do worse. A file that is gone was taken away. */
static RESULT anchor_gone(struct store *s, struct err *e)
{
    if (s->anchor->io.place == STORE_ANCHOR_FILE)
        FAIL(e, ERR_STATE, "STORE_ROLLED_BACK", "the anchor that the store was written with is gone; " WAY_ON);
    log_event(LOG_WARN, "the token has no anchor though the store was written with one: it was put back from an older backup; that the"
                        " store is the newest is not proven this time");
    return ok();
}

RESULT anchor_compare(struct store *s, struct floor_value *ret, bool *ret_found, struct err *e)
{
    struct err why = {0};
    bool found = !anchor_read(s, &s->fresh.root, ret, &why).failed;
    *ret_found = found;
    if (!found && why.code == ERR_NOT_FOUND && s->fresh.root.anchor_place != STORE_ANCHOR_NONE)
        return anchor_gone(s, e);
    if (!found && why.code != ERR_NOT_FOUND) {
        *e = why;
        return (struct result){1};
    }
    return found ? compare(s, ret, e) : ok();
}

RESULT anchor_check(struct store *s, struct err *e)
{
    struct floor_value f;
    struct anchor *a = s->anchor;
    bool found = false;
    if (!a)
        return ok();
    TRY(anchor_compare(s, &f, &found, e));
    if (found) {
        a->journal_next = a->found_journal = f.journal_next;
        a->written = f.epoch;
        a->written_journal = f.journal_next;
        a->written_seal = f.seal;
        a->written_at = seconds();
    }
    if (found && s->fresh.root.anchor_place == a->io.place)
        return ok();
    TRY(anchor_write(s, e));
    return writer_note_place(s, (uint8_t)a->io.place, e);
}

static uint64_t ask_journal(struct anchor *a)
{
    pthread_mutex_lock(&a->mu);
    uint64_t now = a->next_index ? a->next_index(a->user) : 0;
    if (now > a->journal_next)
        a->journal_next = now;
    now = a->journal_next;
    pthread_mutex_unlock(&a->mu);
    return now;
}

RESULT anchor_write(struct store *s, struct err *e)
{
    struct anchor *a = s->anchor;
    CLEANUP(buf_release) struct buf body;
    CLEANUP(buf_release) struct buf sealed;
    CLEANUP(buf_release) struct buf value;
    uint64_t epoch = atomic_load(&s->fresh.epoch);
    uint32_t seal = atomic_load(&s->fresh.seal);
    buf_init(&body, 256);
    buf_init(&sealed, STORE_ANCHOR_MAX);
    buf_init(&value, STORE_ANCHOR_MAX);
    buf_put_u8(&body, ANCHOR_FORMAT);
    buf_put(&body, s->seal.incarnation, sizeof s->seal.incarnation);
    buf_put_u64(&body, epoch);
    buf_put_u64(&body, atomic_load(&s->outbox_last)); /* asked after the epoch: at least as new, and as durable */
    uint64_t journal = ask_journal(a);
    buf_put_u64(&body, journal);
    TRY(seal_note(&s->seal, seal, NOTE_ANCHOR, buf_bytes(&body), &sealed, e));
    buf_put_u32(&value, seal);
    buf_put_bytes(&value, buf_bytes(&sealed));
    INVARIANT(!value.overflow);
    TRY(a->io.put(a->io.user, buf_bytes(&value), e));
    pthread_mutex_lock(&a->mu);
    a->written = epoch;
    a->written_journal = journal;
    a->written_seal = seal;
    a->written_at = seconds();
    pthread_mutex_unlock(&a->mu);
    return ok();
}

/* One attempt, with its outcome for waiters and for health. */
static void attempt(struct store *s)
{
    struct anchor *a = s->anchor;
    struct err e = {0};
    bool failed = anchor_write(s, &e).failed;
    pthread_mutex_lock(&a->mu);
    if (failed && !a->failing)
        log_event(LOG_ERROR, "the anchor was not written, will retry", LF_ERR(&e));
    if (!failed && a->failing)
        log_event(LOG_INFO, "the anchor is written again");
    a->failing = failed;
    a->why[0] = 0;
    if (failed)
        err_operator(&e, a->why, sizeof a->why);
    a->attempts++;
    pthread_cond_broadcast(&a->done);
    pthread_mutex_unlock(&a->mu);
}

static void wait_turn(struct anchor *a)
{
    const struct timespec until = wait_until(STORE_ANCHOR_EVERY_MS);
    while (!a->stop && !a->wanted && pthread_cond_timedwait(&a->work, &a->mu, &until) == 0)
        ;
    a->wanted = false;
}

/* Each commit is followed by a floor, a change of the seal epoch too. A journal that grows by itself (keys are used) is, once a minute: tokens count their writes. */
static bool is_behind(struct store *s, bool closing)
{
    struct anchor *a = s->anchor;
    uint64_t journal = ask_journal(a);
    pthread_mutex_lock(&a->mu);
    bool late = closing || seconds() - a->written_at >= STORE_ANCHOR_JOURNAL_S;
    bool behind = a->written != atomic_load(&s->fresh.epoch) || (journal != a->written_journal && late);
    pthread_mutex_unlock(&a->mu);
    return behind;
}

static void *anchor_main(void *arg)
{
    struct store *s = arg;
    struct anchor *a = s->anchor;
    pthread_mutex_lock(&a->mu);
    while (!a->stop) {
        wait_turn(a);
        bool stop = a->stop;
        pthread_mutex_unlock(&a->mu);
        bool behind = !stop && is_behind(s, false); /* the last one is anchor_stop's */
        if (behind)
            attempt(s);
        pthread_mutex_lock(&a->mu);
        if (!behind) {
            a->attempts++; /* who waits is covered */
            pthread_cond_broadcast(&a->done);
        }
    }
    pthread_mutex_unlock(&a->mu);
    return NULL;
}

RESULT anchor_start(struct store *s, struct err *e)
{
    if (!s->anchor)
        return ok();
    TRY(thread_spawn(&s->anchor->thread, "store-anchor", anchor_main, s, e));
    s->anchor->runs = true;
    return ok();
}

void anchor_stop(struct store *s)
{
    struct anchor *a = s->anchor;
    if (!a || !a->runs)
        return;
    pthread_mutex_lock(&a->mu);
    a->stop = true;
    pthread_cond_signal(&a->work);
    pthread_mutex_unlock(&a->mu);
    pthread_join(a->thread, NULL);
    a->runs = false;
    if (is_behind(s, true))
        attempt(s);
}

/* Until it is so, or one attempt that began after us has ended. */
static bool cover(struct store *s, uint64_t epoch, uint32_t seal)
{
    struct anchor *a = s->anchor;
    pthread_mutex_lock(&a->mu);
    /* An attempt under way may have looked before our commit: the second one to end has not. */
    uint64_t enough = a->attempts + 2;
    while (a->runs && !a->stop && (a->written < epoch || a->written_seal < seal) && a->attempts < enough) {
        a->wanted = true;
        pthread_cond_signal(&a->work);
        pthread_cond_wait(&a->done, &a->mu);
    }
    bool covered = a->written >= epoch && a->written_seal >= seal;
    pthread_mutex_unlock(&a->mu);
    return covered;
}

void anchor_cover(struct store *s)
{
    if (s->anchor)
        (void)cover(s, atomic_load(&s->fresh.epoch), 0);
}

bool anchor_sealed_under(struct store *s, uint32_t epoch)
{
    return !s->anchor || cover(s, 0, epoch);
}

void store_anchor_journal(struct store *s, uint64_t (*next_index)(void *user), void *user)
{
    struct anchor *a = s->anchor;
    if (!a)
        return;
    ask_journal(a);
    pthread_mutex_lock(&a->mu);
    a->next_index = next_index;
    a->user = user;
    pthread_mutex_unlock(&a->mu);
}

void store_anchor_status(struct store *s, struct store_anchor_status *ret)
{
    struct anchor *a = s->anchor;
    *ret = (struct store_anchor_status){.epoch = atomic_load(&s->fresh.epoch)};
    if (!a)
        return;
    pthread_mutex_lock(&a->mu);
    ret->place = a->io.place;
    ret->floor_epoch = a->written;
    ret->floor_journal = a->found_journal;
    ret->failing = a->failing;
    memcpy(ret->why, a->why, sizeof ret->why);
    pthread_mutex_unlock(&a->mu);
}
