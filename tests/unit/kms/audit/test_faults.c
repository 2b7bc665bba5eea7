/* What the journal does when the disk does not: nothing acknowledged is lost, no index is skipped, work is refused meanwhile and
 * admitted again without a restart. Each test asserts that its fault really happened. */
#include "tests/unit/kms/audit/fixture.h"

static void await_admits(struct jx *f)
{
    struct journal_status st = {0};
    for (int i = 0; i < 1000 && !(st.ok && st.reason[0] == 0); i++) {
        journal_wait(f->j, UINT64_MAX - 1, 10); /* the journal repairs itself every 200 ms; this only passes the time */
        journal_status(f->j, &st);
    }
    assert_true(journal_admits(f->j));
}

static void write_error(struct jx *f, atomic_int *fault, int errnum)
{
    struct journal_status st;
    jx_fill(f, 5, "n");
    atomic_store(&f->faults, 0);
    atomic_store(fault, errnum);
    assert_fails(jx_write(f, "lost", false, NULL), ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE");
    assert_true(atomic_load(&f->faults) > 0);
    assert_false(journal_admits(f->j));
    assert_fails(jx_write(f, "refused", true, NULL), ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE"); /* not even the reserve */
    journal_status(f->j, &st);
    assert_false(st.ok);
    assert_true(st.reason[0] != 0);
    assert_int_equal(st.next_index, 5);
    jx_expect(f, 0, 5, "n"); /* reading goes on */
    atomic_store(fault, 0);
    await_admits(f);
    journal_status(f->j, &st);
    assert_true(st.ok && st.reason[0] == 0);
    jx_fill(f, 5, "n"); /* the failed entry's index is used, by the next one */
    jx_expect(f, 0, 10, "n");
    jx_close(f);
    jx_open(f);
    jx_expect(f, 0, 10, "n");
}
static void test_write_eio(void **state)
{
    write_error(*state, &((struct jx *)*state)->write_fault, EIO);
}
static void test_write_enospc(void **state)
{
    write_error(*state, &((struct jx *)*state)->write_fault, ENOSPC);
}
static void test_sync_eio(void **state)
{
    write_error(*state, &((struct jx *)*state)->sync_fault, EIO);
}

/* The bytes of a refused record reached the file before its sync failed; after the repair nothing of them is left, so a crash
 * now cannot bring it back. */
static void test_refused_record_does_not_return(void **state)
{
    struct jx *f = *state;
    char path[128];
    jx_fill(f, 3, "n");
    atomic_store(&f->sync_fault, EIO);
    assert_fails(jx_write(f, "ghost", false, NULL), ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE");
    atomic_store(&f->sync_fault, 0);
    await_admits(f);
    struct window w;
    struct frame fr;
    uint64_t at = SEGMENT_HEADER_BYTES;
    jx_segment(f, 0, path);
    int fd = open(path, O_RDONLY);
    window_init(&w, fd, JX_SEGMENT);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(frame_at(&w, at, &fr), FRAME_GOOD);
        at += fr.size;
    }
    assert_int_equal(frame_at(&w, at, &fr), FRAME_ZERO);
    window_release(&w);
    close(fd);
}

static void test_short_writes(void **state)
{
    struct jx *f = *state;
    atomic_store(&f->short_writes, 1);
    jx_fill(f, 20, "n");
    assert_true(atomic_load(&f->faults) > 0);
    atomic_store(&f->short_writes, 0);
    jx_expect(f, 0, 20, "n");
}

/* No next file can be made: ordinary entries stop at the reserve, the others go on until the file is really full, and all of it
 * is there afterwards. */
static void disk_full(struct jx *f, atomic_int *fault)
{
    uint64_t ordinary = 0, reserved = 0;
    char text[64];
    jx_fill(f, 10, "n");
    atomic_store(fault, ENOSPC);
    for (;;) {
        snprintf(text, sizeof text, "n%llu", (unsigned long long)jx_next(f));
        /* only the space thread meets the fault: the active file has its blocks */
        if (fault == &f->write_fault)
            atomic_store(fault, jx_next(f) < 600 ? 0 : ENOSPC);
        if (jx_write(f, text, false, NULL).failed)
            break;
        ordinary++;
    }
    assert_string_equal(f->e.reason, "AUDIT_UNAVAILABLE");
    assert_true(atomic_load(&f->faults) > 0);
    assert_true(ordinary > 100);
    assert_false(journal_admits(f->j));
    if (fault == &f->open_fault) {
        for (;;) {
            snprintf(text, sizeof text, "n%llu", (unsigned long long)jx_next(f));
            if (jx_write(f, text, true, NULL).failed)
                break;
            reserved++;
        }
        assert_string_equal(f->e.reason, "AUDIT_UNAVAILABLE");
        assert_true(reserved > JX_RESERVE / 512); /* the reserve was really there */
    }
    assert_int_equal(jx_next(f), 10 + ordinary + reserved);
    atomic_store(fault, 0);
    await_admits(f);
    jx_fill(f, 2000, "n");
    jx_expect(f, 0, 2010 + ordinary + reserved, "n");
}
static void test_disk_full_for_the_next_file(void **state)
{
    disk_full(*state, &((struct jx *)*state)->open_fault);
}
static void test_disk_full_everywhere(void **state)
{
    disk_full(*state, &((struct jx *)*state)->write_fault);
}

/* Entries taken in while the next file was being made: when that fails in the end, they do not get the reserve. */
static void test_reserve_is_kept_from_those_who_waited(void **state)
{
    struct jx *f = *state;
    enum { MANY = 1500 };
    struct jx_entry *x = calloc(MANY, sizeof *x);
    struct journal_status st;
    size_t durable = 0, refused = 0;
    char text[64];
    jx_close(f);
    atomic_store(&f->hold_create, true);
    jx_open(f);
    for (size_t i = 0; i < MANY; i++) {
        jx_entry_init(&x[i]);
        assert_ok(jx_submit(f, &x[i], "ordinary"));
    }
    atomic_store(&f->open_fault, ENOSPC);
    atomic_store(&f->hold_create, false);
    for (size_t i = 0; i < MANY; i++) {
        jx_await(&x[i]);
        durable += !x[i].failed;
        refused += x[i].failed;
    }
    assert_true(atomic_load(&f->faults) > 0);
    assert_true(durable > 100 && refused > 100);
    journal_status(f->j, &st);
    assert_int_equal(st.next_index, durable);
    assert_true(st.free_bytes >= JX_RESERVE);
    assert_false(journal_admits(f->j));
    snprintf(text, sizeof text, "n%llu", (unsigned long long)durable);
    assert_ok(jx_write(f, text, true, NULL));
    jx_expect(f, durable, 1, "n");
    atomic_store(&f->open_fault, 0);
    await_admits(f);
    free(x);
}

static void test_disk_that_hangs(void **state)
{
    struct jx *f = *state;
    struct fake_clock clock;
    struct jx_entry x, late;
    struct journal_status st;
    jx_close(f);
    fake_clock_init(&clock, 1000000000, 1000000000);
    f->o.clock = &clock.c;
    jx_open(f);
    unsigned before = atomic_load(&f->syncs);
    atomic_store(&f->hold_sync, true);
    jx_entry_init(&x);
    assert_ok(jx_submit(f, &x, "n0"));
    while (jx_next(f) == 0 && journal_admits(f->j))
        fake_clock_advance(&clock, (JOURNAL_STALL_MS + 1) * INT64_C(1000000)); /* ends once the write is under way */
    assert_false(journal_admits(f->j));
    journal_status(f->j, &st);
    assert_false(st.ok);
    assert_string_equal(st.reason, "the disk does not answer");
    /* A refusal is heard at once: its own event does not wait behind the hung write. */
    jx_entry_init(&late);
    assert_fails(jx_submit(f, &late, "late"), ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE");
    atomic_store(&f->hold_sync, false);
    jx_await(&x);
    assert_false(x.failed);
    assert_true(atomic_load(&f->syncs) > before);
    await_admits(f);
    jx_expect(f, 0, 1, "n");
}

static void test_queue_is_bounded(void **state)
{
    struct jx *f = *state;
    enum { MANY = 40 };
    struct jx_entry *x = calloc(MANY, sizeof *x);
    char *big = calloc(1, EVENT_MAX_BYTES + 1);
    unsigned taken = 0, refused = 0;
    memset(big, 'x', EVENT_MAX_BYTES);
    atomic_store(&f->hold_sync, true);
    for (int i = 0; i < MANY; i++) { /* more than both files hold: refused before it is queued, not lost after */
        jx_entry_init(&x[i]);
        if (jx_submit(f, &x[i], big).failed) {
            assert_string_equal(f->e.reason, "AUDIT_UNAVAILABLE");
            refused++;
        } else {
            taken++;
        }
    }
    atomic_store(&f->hold_sync, false);
    for (unsigned i = 0; i < MANY; i++) {
        if (i < taken) {
            jx_await(&x[i]);
            assert_false(x[i].failed);
        }
    }
    assert_int_equal(taken + refused, MANY);
    assert_true(taken > 10);
    free(x);
    free(big);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, jx_setup, jx_teardown)
    const struct CMUnitTest tests[] = {
        T(test_write_eio),
        T(test_write_enospc),
        T(test_sync_eio),
        T(test_refused_record_does_not_return),
        T(test_short_writes),
        T(test_disk_full_for_the_next_file),
        T(test_disk_full_everywhere),
        T(test_reserve_is_kept_from_those_who_waited),
        T(test_disk_that_hangs),
        T(test_queue_is_bounded),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
