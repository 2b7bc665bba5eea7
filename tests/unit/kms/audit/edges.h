/*
 * Purpose: a journal without threads whose system calls the test answers: the Nth of a kind fails. A test that includes this one needs
 *          WRAP_ = open fsync rename access fallocate in tests/tests.mk.
 * Owns:    one journal at a time, `j`. Threads: one: the audit thread's work is done by work(). Errors: a failed set-up fails the test.
 * Limits:  one armed fault of each kind of call. Secrets: none.
 */
#ifndef TESTS_UNIT_KMS_AUDIT_EDGES_H
#define TESTS_UNIT_KMS_AUDIT_EDGES_H

#include "kms/audit/internal.h"
#include "tests/unit/kms/audit/fixture.h"

/* ---- the system's calls: the Nth from now fails with that errno, 0: none ------------------------------------------------- */
enum call { OPEN, FSYNC, RENAME, ACCESS, FALLOCATE, PWRITE, FDATASYNC, CALLS };
static struct {
    unsigned nth;
    int error; /* -1: no progress (pwrite), or a file that is there (access) */
} fault[CALLS];
static unsigned happened;

static inline int fails(enum call c)
{
    if (fault[c].nth == 0 || --fault[c].nth > 0)
        return 0;
    happened++;
    errno = fault[c].error;
    return fault[c].error;
}
static inline void arm(enum call c, unsigned nth, int error)
{
    fault[c].nth = nth;
    fault[c].error = error;
    happened = 0;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __real_access(const char *path, int mode);
int __wrap_access(const char *path, int mode);
int __real_fallocate(int fd, int mode, off_t at, off_t n);
int __wrap_fallocate(int fd, int mode, off_t at, off_t n);
int __wrap_open(const char *path, int flags, ...)
{
    return fails(OPEN) ? -1 : __real_open(path, flags, 0600);
}
int __wrap_fsync(int fd)
{
    return fails(FSYNC) ? -1 : __real_fsync(fd);
}
int __wrap_rename(const char *from, const char *to)
{
    return fails(RENAME) ? -1 : __real_rename(from, to);
}
int __wrap_access(const char *path, int mode)
{
    return fails(ACCESS) ? 0 : __real_access(path, mode);
}
int __wrap_fallocate(int fd, int mode, off_t at, off_t n)
{
    return fails(FALLOCATE) ? -1 : __real_fallocate(fd, mode, at, n);
}
static inline ssize_t edge_pwrite(void *user, int fd, const void *p, size_t n, off_t at)
{
    (void)user;
    int error = fails(PWRITE);
    return error < 0 ? 0 : error ? -1 : pwrite(fd, p, n, at);
}
static inline int edge_sync(void *user, int fd)
{
    (void)user;
    return fails(FDATASYNC) ? -1 : fdatasync(fd);
}

/* ---- a journal without threads --------------------------------------------------------------------------------------------- */
static struct jx fx;
static struct journal *j;

static inline void make(uint64_t segment_bytes)
{
    memset(fault, 0, sizeof fault);
    jx_init(&fx);
    fx.io = (struct journal_io){jx_io_open, edge_pwrite, edge_sync, &fx};
    fx.o.segment_bytes = segment_bytes;
    j = journal_alloc(&fx.o);
    assert_false(journal_recover(j, &fx.e).failed);
    j->next = NEXT_IDLE;
}
static inline void drop(void)
{
    memset(fault, 0, sizeof fault);
    journal_close(j);
    j = fx.j = NULL;
    jx_stop(&fx);
}

struct one {
    struct journal_entry en;
    enum { WAITS, DURABLE, REFUSED } outcome;
    struct journal_entry *post; /* posted when this one is done, while the journal still takes it */
    bool last;                  /* the thread may end after it */
};
static inline void one_done(struct journal_entry *en, const struct err *failed)
{
    struct one *x = (struct one *)en;
    x->outcome = failed ? REFUSED : DURABLE;
    if (x->post)
        journal_post(j, x->post, true);
    if (x->last)
        j->stop = true;
}
static inline void submit(struct one *x, size_t bytes, bool reserve)
{
    static uint8_t big[EVENT_MAX_BYTES];
    uint8_t id[16];
    x->en.done = one_done;
    x->en.reserve = reserve;
    journal_next_event_id(j, id);
    if (journal_submit(j, &x->en, &fx.tenant, id, 42, BYTES(big, bytes), &fx.e).failed)
        fail_msg("%s", fx.e.detail);
}
/* The audit thread's work, here. It ends when nothing is left. */
static inline void work(bool stop)
{
    j->stop = stop;
    audit_main(j);
}

/* One record is there, so that the next file has another name. */
static inline void begin(void)
{
    struct one x = {0};
    submit(&x, 10, false);
    work(true);
    j->stop = false;
    assert_int_equal(x.outcome, DURABLE);
}

#define assert_unavailable(expr)                                           \
    do {                                                                   \
        fx.e = (struct err){0};                                            \
        assert_true((expr).failed);                                        \
        assert_int_equal(fx.e.code, ERR_UNAVAILABLE);                      \
        assert_string_equal(fx.e.reason, "AUDIT_UNAVAILABLE");             \
        assert_int_equal(happened, 1);                                     \
    } while (0)

#endif
