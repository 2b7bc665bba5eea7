/*
 * Purpose: what the journal's own files share: its state, and the disk operations between them.
 * Owns:    struct journal. Threads: named at each field: the audit thread's own, or under `mu`.
 * Errors:  disk failures become ERR_UNAVAILABLE "AUDIT_UNAVAILABLE". Limits: GROUP_BYTES a group.
 * Secrets: none: records are sealed on the submitting thread before they get here.
 */
#ifndef KMS_AUDIT_INTERNAL_H
#define KMS_AUDIT_INTERNAL_H

#include "kms/audit/journal.h"
#include "kms/audit/segment.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { GROUP_BYTES = 1 << 20, JOURNAL_PATH_MAX = 4096 + 64, JOURNAL_RETRY_MS = 200 };

/* record_n of an entry without a record. */
enum posted { POSTED_DURABLE, POSTED_FAILED, POSTED_VISIT };

/* The file after the active one, made ahead of time by the space thread:
 *   IDLE (not needed yet) -> WANTED -> READY -> IDLE (taken);  WANTED -> FAILED -> READY, by itself, when there is space again. */
enum next_state { NEXT_IDLE, NEXT_WANTED, NEXT_READY, NEXT_FAILED };

struct journal {
    char dir[4096];
    char origin[JOURNAL_ORIGIN_MAX + 1];
    uint8_t instance[16];
    uint64_t segment_bytes, reserve_bytes;
    const struct clock *clock;
    struct journal_io io;
    int lock_fd;
    pthread_t audit_thread, space_thread;
    bool audit_runs, space_runs;
    uint64_t event_source; /* of journal_next_event_id */
    atomic_uint_fast64_t event_count;
    _Atomic int64_t writing_since_ms; /* boot time at which the write under way began; 0: none */

    /* audit thread (and open, before it runs) */
    int fd;
    uint64_t off;                /* where the next frame goes */
    uint8_t *group;              /* GROUP_BYTES */
    struct journal_entry *taken; /* out of the queue, not yet written */
    uint64_t spoilt_bytes;       /* after a failed write: what must be zeroed at `off` before anything is written again */
    bool dir_dirty;              /* a rename is not known to be durable */

    pthread_mutex_t mu;
    pthread_cond_t work;     /* to the audit thread */
    pthread_cond_t space;    /* to and from the space thread */
    pthread_cond_t progress; /* next_index moved: journal_wait */
    struct journal_entry *head, **tail;
    size_t queued, queued_bytes;
    bool audit_sleeps, stop, stop_space, failing;
    unsigned waiters;
    char reason[128];
    enum next_state next;
    int next_fd;
    uint64_t next_index, outbox_seq, syncs, entries;
    uint64_t active_free, active_bytes;
    uint64_t cut_bytes;
    bool was_closed;
    uint64_t *firsts; /* first index of each file, ascending; the last is the active one */
    size_t nfirsts;
    struct { /* where the last read ended: a tail goes on from there */
        uint64_t first, index, off;
    } cursor;
};

void journal_segment_path(const struct journal *j, uint64_t first, char out[JOURNAL_PATH_MAX]);
void journal_part_path(const struct journal *j, char out[JOURNAL_PATH_MAX]);

/* ---- disk.c ---- */
RESULT disk_write(struct journal *j, int fd, const void *p, size_t n, uint64_t at, struct err *e);
RESULT disk_zero(struct journal *j, int fd, uint64_t at, uint64_t n, struct err *e);
RESULT disk_sync(struct journal *j, int fd, struct err *e);
RESULT disk_sync_dir(struct journal *j, struct err *e);
RESULT disk_prealloc(struct journal *j, int *ret_fd, struct err *e); /* the part file, zeroed and synced */
/* Makes the part file in `fd` the active segment, first index = next_index. On failure the caller still owns fd, unless
 * j->fd == fd: then only the directory is not durable yet (dir_dirty). */
RESULT disk_roll(struct journal *j, int fd, struct err *e);

/* ---- recover.c ---- */
RESULT journal_recover(struct journal *j, struct err *e); /* finds the files, the end and the indexes; makes the first file */

struct journal *journal_alloc(const struct journal_options *o); /* journal.c: neither files nor threads yet */
RESULT journal_list(struct journal *j, struct err *e); /* fills firsts */
RESULT journal_open_file(struct journal *j, size_t i, int flags, struct segment_header *ret, int *ret_fd, struct err *e);
/* What stands behind the last good record: torn (up to *ret_dirty_to), or, with an error, damaged. */
RESULT journal_judge_rest(struct journal *j, struct window *w, uint64_t *ret_dirty_to, struct err *e);

/* ---- space.c ---- */
void *space_main(void *journal);
void space_want_locked(struct journal *j); /* asks for the next file when the active one runs low */

/* ---- writer.c ---- */
void *audit_main(void *journal);

/* ---- submit.c ---- */
/* Runs done on the audit thread without writing anything; used where a result is known already. `failed`: with
 * AUDIT_UNAVAILABLE. */
void journal_post(struct journal *j, struct journal_entry *en, bool failed);
/* journal_submit for the relay: outbox_seq must be the successor of the one before it in the journal. */
RESULT journal_submit_outbox(struct journal *j, struct journal_entry *en, const struct audit_tenant *t,
                             const uint8_t event_id[16], int64_t time_unix_ns, struct bytes event, uint64_t outbox_seq,
                             struct err *e);

#endif
