#include "base/log.h"
#include "base/thread.h"
#include "kms/audit/internal.h"

#include <stdio.h>

void space_want_locked(struct journal *j)
{
    uint64_t low = j->active_bytes / 2, floor = j->reserve_bytes + 4 * (uint64_t)FRAME_MAX;
    if (j->next == NEXT_IDLE && j->active_free < (low > floor ? low : floor)) {
        j->next = NEXT_WANTED;
        pthread_cond_broadcast(&j->space);
    }
}

/* One try, without the lock: it may take as long as the disk needs to write a whole file. */
static void try_once(struct journal *j)
{
    struct err e = {0};
    int fd = -1;
    bool was_failing = j->next == NEXT_FAILED;
    pthread_mutex_unlock(&j->mu);
    bool failed = disk_prealloc(j, &fd, &e).failed;
    if (failed && !was_failing)
        log_event(LOG_ERROR, "the next journal file cannot be made, will retry", LF_ERR(&e));
    if (!failed && was_failing)
        log_event(LOG_INFO, "journal space is back");
    pthread_mutex_lock(&j->mu);
    if (failed)
        snprintf(j->reason, sizeof j->reason, "the next file: %.100s", e.detail);
    else if (!j->failing)
        j->reason[0] = 0;
    j->next = failed ? NEXT_FAILED : NEXT_READY;
    j->next_fd = fd;
    pthread_cond_broadcast(&j->space);
}

void *space_main(void *arg)
{
    struct journal *j = arg;
    pthread_mutex_lock(&j->mu);
    while (!j->stop_space) {
        if (j->next == NEXT_WANTED) {
            try_once(j);
        } else if (j->next == NEXT_FAILED) {
            const struct timespec until = wait_until(JOURNAL_RETRY_MS);
            pthread_cond_timedwait(&j->space, &j->mu, &until);
            if (!j->stop_space && j->next == NEXT_FAILED)
                try_once(j);
        } else {
            pthread_cond_wait(&j->space, &j->mu);
        }
    }
    pthread_mutex_unlock(&j->mu);
    return NULL;
}
