/* The log of the database: written back while nobody waits, and cut off when something in it is to be gone. */
#include "base/log.h"
#include "base/thread.h"
#include "kms/store/internal.h"

static void checkpoint(struct store *s, bool *troubled)
{
    int rc = sqlite3_wal_checkpoint_v2(s->checkpointer.h, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    bool bad = rc != SQLITE_OK && rc != SQLITE_BUSY && rc != SQLITE_LOCKED;
    if (bad)
        atomic_store(&s->wal_dirty, true);
    if (bad && !*troubled) /* one line for each trouble, not ten a second */
        log_event(LOG_WARN, "store checkpoint failed, will retry", LF_STR("sqlite", sqlite3_errstr(rc)));
    *troubled = bad;
}

/* The log is cut off, and with it every older copy of a row. It keeps writers waiting while it is written to the file, so most of that
 * is done before; a reader that is in the way keeps them waiting no longer than the patience of this connection. */
static bool erase(struct store *s, bool *troubled)
{
    checkpoint(s, troubled);
    const int rc = sqlite3_wal_checkpoint_v2(s->checkpointer.h, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    if (rc != SQLITE_OK && rc != SQLITE_BUSY && rc != SQLITE_LOCKED && !*troubled)
        log_event(LOG_WARN, "the log of the store cannot be cut off, will retry", LF_STR("sqlite", sqlite3_errstr(rc)));
    return rc == SQLITE_OK;
}

RESULT store_await_erased(struct store *s, int64_t ms, struct err *e)
{
    const struct timespec until = wait_until(ms);
    pthread_mutex_lock(&s->mu);
    const uint64_t wanted = s->erase_wanted;
    while (s->erase_done < wanted && pthread_cond_timedwait(&s->erased, &s->mu, &until) == 0)
        continue;
    const bool done = s->erase_done >= wanted;
    pthread_mutex_unlock(&s->mu);
    if (!done)
        FAIL(e, ERR_UNAVAILABLE, "STORE_ERASING", "older copies of what was destroyed still lie in the store's log: somebody reads it");
    return ok();
}

/* One tick, with the lock held; true: the next try to erase has to wait. */
static bool tick(struct store *s, bool may_erase, bool *troubled)
{
    const uint64_t wanted = s->erase_wanted;
    const bool dirty = atomic_exchange(&s->wal_dirty, false), want = may_erase && wanted != s->erase_done;
    bool done = false;
    if (!dirty && !want)
        return false;
    pthread_mutex_unlock(&s->mu);
    if (want)
        done = erase(s, troubled);
    else
        checkpoint(s, troubled);
    pthread_mutex_lock(&s->mu);
    if (!done)
        return want;
    s->erase_done = wanted;
    pthread_cond_broadcast(&s->erased);
    return false;
}

static void *checkpointer_main(void *arg)
{
    struct store *s = arg;
    bool troubled = false;
    unsigned pause = 0;
    pthread_mutex_lock(&s->mu);
    while (!s->stop_checkpointer) {
        const struct timespec until = wait_until(STORE_CHECKPOINT_EVERY_MS);
        pthread_cond_timedwait(&s->tick, &s->mu, &until);
        if (s->stop_checkpointer)
            break;
        pause = pause > 0 ? pause - 1 : 0;
        if (tick(s, pause == 0, &troubled))
            pause = STORE_ERASE_AGAIN_TICKS;
    }
    pthread_mutex_unlock(&s->mu);
    return NULL;
}

RESULT checkpointer_start(struct store *s, struct err *e)
{
    sqlite3_busy_timeout(s->checkpointer.h, STORE_ERASE_PATIENCE_MS);
    TRY(thread_spawn(&s->checkpointer_thread, "store-ckpt", checkpointer_main, s, e));
    s->checkpointer_runs = true;
    return ok();
}
