#include "base/thread.h"
#include "kms/audit/event.h"
#include "kms/audit/internal.h"
#include "kms/crypto/nonce.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(FRAME_HEADER_BYTES + JOURNAL_LEAF_BYTES + AEAD_OVERHEAD + 32 + EVENT_LONGEST + 8 <= JOURNAL_ENTRY_MAX,
               "the longest event makes a record that fits");
enum { SEGMENT_MIN_BYTES = 1 << 18 };

static int sys_open(void *user, const char *path, int flags, mode_t mode)
{
    (void)user;
    return open(path, flags, mode);
}
static ssize_t sys_pwrite(void *user, int fd, const void *p, size_t n, off_t at)
{
    (void)user;
    return pwrite(fd, p, n, at);
}
static int sys_fdatasync(void *user, int fd)
{
    (void)user;
    return fdatasync(fd);
}

static RESULT prepare_dir(struct journal *j, struct err *e)
{
    char path[JOURNAL_PATH_MAX];
    struct stat st;
    if (mkdir(j->dir, 0700) != 0 && errno != EEXIST)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "make %s", j->dir);
    if (stat(j->dir, &st) != 0 || !S_ISDIR(st.st_mode) || (st.st_mode & 022) != 0)
        FAIL(e, ERR_STATE, "JOURNAL_PERMISSIONS", "%s must be a folder that only this user can write", j->dir);
    snprintf(path, sizeof path, "%s/journal.lock", j->dir);
    j->lock_fd = open(path, O_CREAT | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (j->lock_fd < 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "open %s", path);
    if (flock(j->lock_fd, LOCK_EX | LOCK_NB) != 0)
        FAIL_ERRNO(e, ERR_STATE, "JOURNAL_BUSY", "another process has %s open", j->dir);
    return ok();
}

static RESULT check_options(const struct journal_options *o, struct err *e)
{
    if (strlen(o->dir) >= sizeof(((struct journal *)0)->dir) || strlen(o->origin) > JOURNAL_ORIGIN_MAX)
        FAIL(e, ERR_INVALID, NULL, "journal folder or origin too long");
    /* Both files together must hold the reserve and still some ordinary work. */
    if (o->segment_bytes < SEGMENT_MIN_BYTES || o->segment_bytes % 4096 || o->segment_bytes > UINT32_MAX + UINT64_C(1) ||
        o->reserve_bytes + 4 * (uint64_t)FRAME_MAX > 2 * o->segment_bytes)
        FAIL(e, ERR_INVALID, NULL, "journal_segment_bytes %llu (a multiple of 4096) must be above half of journal_reserve_bytes %llu",
             (unsigned long long)o->segment_bytes, (unsigned long long)o->reserve_bytes);
    return ok();
}

struct journal *journal_alloc(const struct journal_options *o)
{
    static const struct journal_io system_io = {sys_open, sys_pwrite, sys_fdatasync, NULL};
    struct journal *j = calloc(1, sizeof *j);
    INVARIANT(j);
    j->group = malloc(GROUP_BYTES);
    INVARIANT(j->group);
    snprintf(j->dir, sizeof j->dir, "%s", o->dir);
    snprintf(j->origin, sizeof j->origin, "%s", o->origin);
    memcpy(j->instance, o->instance, 16);
    j->segment_bytes = o->segment_bytes;
    j->reserve_bytes = o->reserve_bytes;
    j->clock = o->clock;
    j->io = o->io ? *o->io : system_io;
    j->fd = j->next_fd = j->lock_fd = -1;
    j->tail = &j->head;
    nonce_fill(&j->event_source, sizeof j->event_source);
    j->event_source &= INT64_MAX; /* the high bit says: outbox */
    INVARIANT(pthread_mutex_init(&j->mu, NULL) == 0);
    wait_cond_init(&j->work);
    wait_cond_init(&j->space);
    wait_cond_init(&j->progress);
    return j;
}

static RESULT open_all(struct journal *j, struct err *e)
{
    TRY(prepare_dir(j, e));
    TRY(journal_recover(j, e));
    pthread_mutex_lock(&j->mu);
    space_want_locked(j);
    pthread_mutex_unlock(&j->mu);
    TRY(thread_spawn(&j->space_thread, "audit-space", space_main, j, e));
    j->space_runs = true;
    TRY(thread_spawn(&j->audit_thread, "audit", audit_main, j, e));
    j->audit_runs = true;
    return ok();
}

RESULT journal_open(const struct journal_options *o, struct journal **ret, struct err *e)
{
    TRY(check_options(o, e));
    struct journal *j = journal_alloc(o);
    if (open_all(j, e).failed) {
        journal_close(j);
        return (struct result){1};
    }
    *ret = j;
    return ok();
}

static void stop_threads(struct journal *j)
{
    pthread_mutex_lock(&j->mu);
    j->stop = true;
    pthread_cond_signal(&j->work);
    pthread_mutex_unlock(&j->mu);
    if (j->audit_runs)
        pthread_join(j->audit_thread, NULL);
    pthread_mutex_lock(&j->mu); /* after it: the audit thread may have needed a new file to drain */
    j->stop_space = true;
    pthread_cond_broadcast(&j->space);
    pthread_mutex_unlock(&j->mu);
    if (j->space_runs)
        pthread_join(j->space_thread, NULL);
}

void journal_close(struct journal *j)
{
    if (!j)
        return;
    stop_threads(j);
    if (j->next_fd >= 0) {
        char part[JOURNAL_PATH_MAX];
        journal_part_path(j, part);
        close(j->next_fd);
        unlink(part);
    }
    if (j->fd >= 0)
        close(j->fd);
    if (j->lock_fd >= 0)
        close(j->lock_fd);
    pthread_mutex_destroy(&j->mu);
    pthread_cond_destroy(&j->work);
    pthread_cond_destroy(&j->space);
    pthread_cond_destroy(&j->progress);
    free(j->firsts);
    free(j->group);
    free(j);
}

void journal_status(struct journal *j, struct journal_status *ret)
{
    bool admits = journal_admits(j);
    bool stalled = atomic_load(&j->writing_since_ms) != 0;
    pthread_mutex_lock(&j->mu);
    *ret = (struct journal_status){.ok = admits,
                                   .first_index = j->nfirsts > 0 ? j->firsts[0] : 0,
                                   .next_index = j->next_index,
                                   .outbox_seq = j->outbox_seq,
                                   .syncs = j->syncs,
                                   .entries = j->entries,
                                   .free_bytes = j->active_free + (j->next == NEXT_READY ? j->segment_bytes : 0),
                                   .cut_bytes = j->cut_bytes,
                                   .was_closed = j->was_closed};
    snprintf(ret->reason, sizeof ret->reason, "%s",
             j->reason[0]             ? j->reason
             : !admits && stalled     ? "the disk does not answer"
             : !admits                ? "no journal space but the reserve"
                                      : "");
    pthread_mutex_unlock(&j->mu);
}

uint64_t journal_outbox_seq(struct journal *j)
{
    pthread_mutex_lock(&j->mu);
    uint64_t seq = j->outbox_seq;
    pthread_mutex_unlock(&j->mu);
    return seq;
}

bool journal_wait(struct journal *j, uint64_t index, int timeout_ms)
{
    const struct timespec until = wait_until(timeout_ms);
    int rc = 0;
    pthread_mutex_lock(&j->mu);
    j->waiters++;
    while (j->next_index <= index && rc == 0)
        rc = pthread_cond_timedwait(&j->progress, &j->mu, &until);
    j->waiters--;
    bool there = j->next_index > index;
    pthread_mutex_unlock(&j->mu);
    return there;
}
