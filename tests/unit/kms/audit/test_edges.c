/* Every way in which an append can go wrong, one at a time: the journal's own functions, called on this thread, with the system's
 * calls answered by the test (WRAP_ in tests/tests.mk). What the journal does about them as a whole is test_faults.c's. */
#include "kms/audit/internal.h"
#include "tests/unit/kms/audit/fixture.h"

/* ---- the system's calls: the Nth from now fails with that errno, 0: none ------------------------------------------------- */
enum call { OPEN, FSYNC, RENAME, ACCESS, FALLOCATE, PWRITE, FDATASYNC, CALLS };
static struct {
    unsigned nth;
    int error; /* -1: no progress (pwrite), or a file that is there (access) */
} fault[CALLS];
static unsigned happened;

static int fails(enum call c)
{
    if (fault[c].nth == 0 || --fault[c].nth > 0)
        return 0;
    happened++;
    errno = fault[c].error;
    return fault[c].error;
}
static void arm(enum call c, unsigned nth, int error)
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
static ssize_t edge_pwrite(void *user, int fd, const void *p, size_t n, off_t at)
{
    (void)user;
    int error = fails(PWRITE);
    return error < 0 ? 0 : error ? -1 : pwrite(fd, p, n, at);
}
static int edge_sync(void *user, int fd)
{
    (void)user;
    return fails(FDATASYNC) ? -1 : fdatasync(fd);
}

/* ---- a journal without threads --------------------------------------------------------------------------------------------- */
static struct jx fx;
static struct journal *j;

static void make(uint64_t segment_bytes)
{
    memset(fault, 0, sizeof fault);
    jx_init(&fx);
    fx.io = (struct journal_io){jx_io_open, edge_pwrite, edge_sync, &fx};
    fx.o.segment_bytes = segment_bytes;
    j = journal_alloc(&fx.o);
    assert_false(journal_recover(j, &fx.e).failed);
    j->next = NEXT_IDLE;
}
static void drop(void)
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
static void one_done(struct journal_entry *en, const struct err *failed)
{
    struct one *x = (struct one *)en;
    x->outcome = failed ? REFUSED : DURABLE;
    if (x->post)
        journal_post(j, x->post, true);
    if (x->last)
        j->stop = true;
}
static void submit(struct one *x, size_t bytes, bool reserve)
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
static void work(bool stop)
{
    j->stop = stop;
    audit_main(j);
}

/* One record is there, so that the next file has another name. */
static void begin(void)
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

/* ---- the disk --------------------------------------------------------------------------------------------------------------- */
static void interrupted_calls_are_made_again(void **state)
{
    (void)state;
    make(JX_SEGMENT);
    arm(PWRITE, 1, EINTR);
    assert_false(disk_write(j, j->fd, "abcd", 4, j->off, &fx.e).failed);
    assert_int_equal(happened, 1);
    char back[4];
    assert_int_equal(pread(j->fd, back, 4, (off_t)j->off), 4);
    assert_memory_equal(back, "abcd", 4);
    assert_false(disk_zero(j, j->fd, j->off, 4, &fx.e).failed);
    arm(FDATASYNC, 1, EINTR);
    assert_false(disk_sync(j, j->fd, &fx.e).failed);
    assert_int_equal(happened, 1);
    arm(PWRITE, 1, -1); /* a disk that takes nothing and says nothing */
    assert_unavailable(disk_write(j, j->fd, "abcd", 4, j->off, &fx.e));
    drop();
}

static void a_folder_that_cannot_be_synced(void **state)
{
    (void)state;
    make(JX_SEGMENT);
    arm(OPEN, 1, EACCES);
    assert_unavailable(disk_sync_dir(j, &fx.e));
    arm(FSYNC, 1, EIO);
    assert_unavailable(disk_sync_dir(j, &fx.e));
    assert_false(disk_sync_dir(j, &fx.e).failed);
    drop();
}

static bool part_is_there(void)
{
    char path[JOURNAL_PATH_MAX];
    journal_part_path(j, path);
    return __real_access(path, F_OK) == 0;
}

/* The next file: no room, by any name; or a write or sync that fails. Then half a file would be in the way. */
static void a_next_file_that_cannot_be_made(void **state)
{
    (void)state;
    static const int full[] = {ENOSPC, EDQUOT, EFBIG};
    int fd = -1;
    make(JX_SEGMENT);
    for (size_t i = 0; i < 3; i++) {
        arm(FALLOCATE, 1, full[i]);
        assert_unavailable(disk_prealloc(j, &fd, &fx.e));
        assert_false(part_is_there());
    }
    arm(PWRITE, 1, ENOSPC);
    assert_unavailable(disk_prealloc(j, &fd, &fx.e));
    assert_false(part_is_there());
    arm(FDATASYNC, 1, EIO);
    assert_unavailable(disk_prealloc(j, &fd, &fx.e));
    assert_false(part_is_there());
    arm(FALLOCATE, 1, EOPNOTSUPP); /* a file system without it: zeros are written all the same */
    assert_false(disk_prealloc(j, &fd, &fx.e).failed);
    assert_int_equal(happened, 1);
    assert_int_equal(lseek(fd, 0, SEEK_END), JX_SEGMENT);
    close(fd);
    drop();
}

/* Changing to it, step by step: until it has its name the old file goes on. */
static void a_change_of_files_that_fails(void **state)
{
    (void)state;
    static const struct {
        enum call c;
        int error;
        enum err_code code;
    } steps[] = {{PWRITE, EIO, ERR_UNAVAILABLE}, {FDATASYNC, EIO, ERR_UNAVAILABLE}, {ACCESS, -1, ERR_DATA_LOSS},
                 {RENAME, EIO, ERR_UNAVAILABLE}};
    int fd = -1;
    make(JX_SEGMENT);
    begin();
    int old = j->fd;
    assert_false(disk_prealloc(j, &fd, &fx.e).failed);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        arm(steps[i].c, 1, steps[i].error);
        fx.e = (struct err){0};
        assert_true(disk_roll(j, fd, &fx.e).failed);
        assert_int_equal(fx.e.code, steps[i].code);
        assert_int_equal(happened, 1);
        assert_int_equal(j->fd, old);
        assert_false(j->dir_dirty);
        assert_true(part_is_there());
    }
    arm(FSYNC, 1, EIO); /* it has its name, but who knows for how long */
    assert_unavailable(disk_roll(j, fd, &fx.e));
    assert_int_equal(j->fd, fd);
    assert_true(j->dir_dirty);
    drop();
}

/* ---- the audit thread ------------------------------------------------------------------------------------------------------- */
static void more_than_a_group_is_two(void **state)
{
    (void)state;
    static struct one x[1000];
    size_t n = 0;
    memset(x, 0, sizeof x);
    make(8 << 20);
    while (j->queued_bytes < 2 * (size_t)GROUP_BYTES) /* until it cannot be one */
        submit(&x[n++], EVENT_MAX_BYTES, false);
    work(true);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(x[i].outcome, DURABLE);
    assert_true(j->syncs >= 3);
    drop();
}

/* The first group fails: the second was never written, and is refused with it. */
static void who_waits_behind_a_failure_is_refused_too(void **state)
{
    (void)state;
    static struct one x[1000];
    size_t n = 0;
    memset(x, 0, sizeof x);
    make(8 << 20);
    while (j->queued_bytes < 2 * (size_t)GROUP_BYTES)
        submit(&x[n++], EVENT_MAX_BYTES, false);
    arm(FDATASYNC, 1, EIO);
    work(true);
    assert_int_equal(happened, 1);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(x[i].outcome, REFUSED);
    assert_int_equal(j->queued, 0);
    assert_int_equal(j->queued_bytes, 0);
    assert_true(j->failing);
    assert_int_equal(j->next_index, 0);
    drop();
}

static void nothing_is_taken_while_it_closes(void **state)
{
    (void)state;
    struct one x = {.en.done = one_done};
    uint8_t id[16] = {0};
    make(JX_SEGMENT);
    j->stop = true;
    happened = 1;
    assert_unavailable(journal_submit(j, &x.en, &fx.tenant, id, 42, BYTES_LIT("late"), &fx.e));
    assert_null(x.en.record);
    drop();
}

/* The file is full and nobody has asked for the next one yet: the audit thread asks and waits for it. */
static void the_next_file_is_asked_for(void **state)
{
    (void)state;
    struct one x = {.last = true};
    pthread_t space;
    make(JX_SEGMENT);
    begin();
    submit(&x, 1000, true);
    j->off = j->active_bytes - 100;
    j->next = NEXT_IDLE;
    assert_int_equal(pthread_create(&space, NULL, space_main, j), 0);
    work(false);
    pthread_mutex_lock(&j->mu);
    j->stop_space = true;
    pthread_cond_broadcast(&j->space);
    pthread_mutex_unlock(&j->mu);
    assert_int_equal(pthread_join(space, NULL), 0);
    assert_int_equal(x.outcome, DURABLE);
    assert_int_equal(j->nfirsts, 2);
    drop();
}

/* Room there is, but it is the reserve's: also when the next file is ready. */
static void the_reserve_is_kept_over_a_change_of_files(void **state)
{
    (void)state;
    struct one x = {0}, y = {.last = true};
    make(JX_SEGMENT);
    begin();
    j->next = NEXT_WANTED; /* taken in while the next file is being made */
    submit(&x, 1000, false);
    submit(&y, 1000, true);
    assert_false(disk_prealloc(j, &j->next_fd, &fx.e).failed);
    j->next = NEXT_READY;
    j->off = j->active_bytes - 100;
    j->reserve_bytes = j->segment_bytes;
    work(false);
    assert_int_equal(x.outcome, REFUSED);
    assert_int_equal(y.outcome, DURABLE);
    drop();
}

/* A change of files that fails: refused, repaired, and then the same entry's like is taken. */
static void change_fails(enum call c, int error)
{
    struct one x = {0}, posted = {.en.done = one_done, .last = true};
    make(JX_SEGMENT);
    begin();
    submit(&x, 1000, false);
    assert_false(disk_prealloc(j, &j->next_fd, &fx.e).failed);
    j->next = NEXT_READY;
    j->off = j->active_bytes - 100;
    x.post = &posted.en; /* so that the thread goes round once more and repairs */
    arm(c, 1, error);
    work(false);
    assert_int_equal(happened, 1);
    assert_int_equal(x.outcome, REFUSED);
    assert_int_equal(posted.outcome, REFUSED);
    assert_false(j->failing);
    assert_false(j->dir_dirty);
    struct one again = {.last = true};
    j->stop = false;
    submit(&again, 1000, false);
    work(false);
    assert_int_equal(again.outcome, DURABLE);
    drop();
}
static void a_failed_change_is_mended(void **state)
{
    (void)state;
    change_fails(RENAME, EIO);
    change_fails(FSYNC, EIO);
}

/* What was not synced is zeroed before anything else is written; when even that fails, nothing is. */
static struct one meanwhile;
static void fail_the_zeroing(struct journal_entry *en, const struct err *failed)
{
    (void)en;
    (void)failed;
    arm(PWRITE, 1, EIO);
    journal_post(j, &meanwhile.en, true);
}
static void a_spoilt_region_that_cannot_be_zeroed(void **state)
{
    (void)state;
    struct one x = {0}, again = {.last = true};
    meanwhile = (struct one){.en.done = one_done, .last = true};
    make(JX_SEGMENT);
    begin();
    submit(&x, 1000, false);
    x.en.done = fail_the_zeroing;
    arm(FDATASYNC, 1, EIO);
    work(false);
    assert_int_equal(happened, 1);
    assert_int_equal(meanwhile.outcome, REFUSED);
    assert_true(j->failing && j->spoilt_bytes > 1000);
    j->stop = false;
    meanwhile = (struct one){.en.done = one_done, .last = true};
    journal_post(j, &meanwhile.en, false);
    work(false);
    assert_false(j->failing || j->spoilt_bytes);
    j->stop = false;
    submit(&again, 1000, false);
    work(false);
    assert_int_equal(again.outcome, DURABLE);
    assert_int_equal(j->next_index, 2);
    drop();
}

/* More than this is not held in memory, in number or in bytes. */
static void the_queue_has_its_bounds(void **state)
{
    (void)state;
    struct one x = {.en.done = one_done};
    uint8_t id[16] = {0};
    make(JX_SEGMENT);
    j->next = NEXT_WANTED; /* space is not what is short */
    for (int by_bytes = 0; by_bytes < 2; by_bytes++) {
        j->queued = by_bytes ? 1 : JOURNAL_QUEUE_MAX;
        j->queued_bytes = by_bytes ? JOURNAL_QUEUE_MAX_BYTES : 100;
        fx.e = (struct err){0};
        assert_true(journal_submit(j, &x.en, &fx.tenant, id, 42, BYTES_LIT("one more"), &fx.e).failed);
        assert_int_equal(fx.e.code, ERR_EXHAUSTED);
        assert_string_equal(fx.e.reason, "AUDIT_QUEUE");
    }
    j->queued = JOURNAL_QUEUE_MAX - 1;
    j->queued_bytes = 100;
    submit(&x, 10, false);
    work(true);
    assert_int_equal(x.outcome, DURABLE);
    assert_true(journal_admits_reserve(j));
    drop();
}

static struct one still_failing;
static void fail_once_more(struct journal_entry *en, const struct err *failed)
{
    (void)en;
    (void)failed;
    arm(FSYNC, 1, EIO); /* the repair's own sync of the folder */
    journal_post(j, &still_failing.en, false);
}

/* The repair fails as well: who was posted meanwhile hears their own result, and the next round tries again. */
static void a_repair_that_fails_is_tried_again(void **state)
{
    (void)state;
    struct one x = {0};
    still_failing = (struct one){.en.done = one_done, .last = true};
    make(JX_SEGMENT);
    begin();
    submit(&x, 1000, false);
    x.en.done = fail_once_more;
    assert_false(disk_prealloc(j, &j->next_fd, &fx.e).failed);
    j->next = NEXT_READY;
    j->off = j->active_bytes - 100;
    arm(FSYNC, 1, EIO);
    work(false);
    assert_int_equal(happened, 1);
    assert_int_equal(still_failing.outcome, DURABLE);
    assert_true(j->failing && j->dir_dirty); /* no round was left */
    struct one wake = {.en.done = one_done, .last = true};
    j->stop = false;
    journal_post(j, &wake.en, false);
    j->next = NEXT_FAILED;
    snprintf(j->reason, sizeof j->reason, "the next file: no room");
    work(false);
    assert_false(j->failing || j->dir_dirty);
    assert_string_equal(j->reason, "the next file: no room"); /* that one is still so */
    drop();
}

/* ---- the mark of an orderly close ------------------------------------------------------------------------------------------- */
static bool marked(void)
{
    struct window w;
    struct frame f;
    window_init(&w, j->fd, j->active_bytes);
    bool good = frame_at(&w, j->off, &f) == FRAME_GOOD && f.payload.n == 0;
    window_release(&w);
    return good;
}
static void the_closing_mark(void **state)
{
    (void)state;
    make(JX_SEGMENT);
    work(true);
    assert_true(marked());
    assert_false(disk_zero(j, j->fd, j->off, FRAME_HEADER_BYTES, &fx.e).failed);
    arm(PWRITE, 1, EIO);
    work(true);
    assert_int_equal(happened, 1);
    assert_false(marked());
    arm(FDATASYNC, 1, EIO); /* it is there; whether it stays is not known, and it is only a help */
    work(true);
    assert_int_equal(happened, 1);
    assert_false(disk_zero(j, j->fd, j->off, FRAME_HEADER_BYTES, &fx.e).failed);
    j->failing = true;
    work(true);
    assert_false(marked());
    j->failing = false;
    j->off = j->active_bytes - FRAME_HEADER_BYTES + 1; /* no room for it */
    work(true);
    j->off = SEGMENT_HEADER_BYTES;
    assert_false(marked());
    drop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(interrupted_calls_are_made_again),
        cmocka_unit_test(a_folder_that_cannot_be_synced),
        cmocka_unit_test(a_next_file_that_cannot_be_made),
        cmocka_unit_test(a_change_of_files_that_fails),
        cmocka_unit_test(more_than_a_group_is_two),
        cmocka_unit_test(who_waits_behind_a_failure_is_refused_too),
        cmocka_unit_test(nothing_is_taken_while_it_closes),
        cmocka_unit_test(the_next_file_is_asked_for),
        cmocka_unit_test(the_reserve_is_kept_over_a_change_of_files),
        cmocka_unit_test(a_failed_change_is_mended),
        cmocka_unit_test(a_repair_that_fails_is_tried_again),
        cmocka_unit_test(a_spoilt_region_that_cannot_be_zeroed),
        cmocka_unit_test(the_queue_has_its_bounds),
        cmocka_unit_test(the_closing_mark),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
