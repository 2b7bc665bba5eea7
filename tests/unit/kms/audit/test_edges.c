/* Every way in which an append can go wrong, one at a time: the audit thread's work, done by this one. What the journal does about them as
 * a whole is test_faults.c's. */
#include "tests/unit/kms/audit/edges.h"

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
