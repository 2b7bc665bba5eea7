#include "tests/unit/kms/audit/fixture.h"

#include <signal.h>
#include <sys/wait.h>

static void test_leaf_and_receipt(void **state)
{
    struct jx *f = *state;
    struct jx_entry x;
    struct journal_record *rec;
    size_t n;
    uint8_t id[16] = "event id 16 byte", hash[32];
    const uint8_t zero = 0;
    jx_entry_init(&x);
    assert_ok(journal_submit(f->j, &x.en, &f->tenant, id, 0x0102030405060708, BYTES_LIT("hello"), &f->e));
    jx_await(&x);
    assert_false(x.failed);
    assert_int_equal(x.en.receipt.index, 0);
    assert_ok(journal_read(f->j, 0, 10, &f->a, &rec, &n, &f->e));
    assert_int_equal(n, 1);
    assert_int_equal(rec[0].leaf[0], 1);
    assert_memory_equal(rec[0].leaf + 1, id, 16);
    assert_memory_equal(rec[0].leaf + 17, "\1\2\3\4\5\6\7\x08", 8);
    assert_memory_equal(rec[0].leaf + 25, f->tenant.tag, 32);
    struct bytes parts[] = {BYTES(&zero, 1), BYTES(rec[0].leaf, JOURNAL_LEAF_BYTES)};
    sha256(parts, 2, hash);
    assert_memory_equal(hash, x.en.receipt.leaf_hash, 32);
    uint8_t plain[64];
    assert_int_equal(rec[0].sealed_body.n, AEAD_OVERHEAD + 32 + 5);
    assert_ok(aead_open(f->key, 0, BYTES(rec[0].leaf, JOURNAL_LEAF_BYTES), rec[0].sealed_body, plain, &f->e));
    assert_memory_equal(plain + 32, "hello", 5);
    rec[0].leaf[20] ^= 1; /* a body under another leaf does not open */
    assert_true(aead_open(f->key, 0, BYTES(rec[0].leaf, JOURNAL_LEAF_BYTES), rec[0].sealed_body, plain, &f->e).failed);
}

static void test_refuses_bad_events(void **state)
{
    struct jx *f = *state;
    struct jx_entry x;
    static uint8_t big[EVENT_LONGEST + 1];
    jx_entry_init(&x);
    assert_fails(journal_submit(f->j, &x.en, &f->tenant, big, 0, BYTES(big, 0), &f->e), ERR_OUT_OF_RANGE, "AUDIT_EVENT");
    assert_fails(journal_submit(f->j, &x.en, &f->tenant, big, 0, BYTES(big, sizeof big), &f->e), ERR_OUT_OF_RANGE,
                    "AUDIT_EVENT");
    assert_ok(journal_submit(f->j, &x.en, &f->tenant, big, 0, BYTES(big, EVENT_LONGEST), &f->e));
    jx_await(&x);
    assert_false(x.failed);
    struct journal_record *rec;
    size_t n;
    static uint8_t plain[EVENT_LONGEST + 32];
    assert_ok(journal_read(f->j, 0, 1, &f->a, &rec, &n, &f->e));
    assert_ok(aead_open(f->key, 0, BYTES(rec[0].leaf, JOURNAL_LEAF_BYTES), rec[0].sealed_body, plain, &f->e));
    assert_memory_equal(plain + 32, big, EVENT_LONGEST);
}

/* A visit comes between groups: every event before its index has been told, none from there on, and it takes no index. */
struct visitor {
    struct jx_entry x;
    _Atomic uint64_t *told;
    uint64_t told_then;
};
struct told {
    struct journal_entry en;
    _Atomic uint64_t *told;
};
static void on_visit(struct journal_entry *en, const struct err *failed)
{
    struct visitor *v = (struct visitor *)en;
    v->told_then = atomic_load(v->told);
    jx_done(en, failed);
}
static void on_told(struct journal_entry *en, const struct err *failed)
{
    struct told *t = (struct told *)en;
    assert_null(failed);
    assert_true(en->receipt.index == atomic_fetch_add(t->told, 1));
}
static void test_visits(void **state)
{
    struct jx *f = *state;
    enum { ROUNDS = 200, EACH = 7 };
    static struct told all[ROUNDS][EACH];
    static struct visitor v[ROUNDS];
    _Atomic uint64_t told = 0;
    uint8_t id[16];
    for (int i = 0; i < ROUNDS; i++) {
        for (int k = 0; k < EACH; k++) {
            all[i][k] = (struct told){.en.done = on_told, .told = &told};
            journal_next_event_id(f->j, id);
            assert_ok(journal_submit(f->j, &all[i][k].en, &f->tenant, id, 1, BYTES_LIT("x"), &f->e));
        }
        jx_entry_init(&v[i].x);
        v[i].x.en.done = on_visit;
        v[i].told = &told;
        journal_visit(f->j, &v[i].x.en);
    }
    for (int i = 0; i < ROUNDS; i++) {
        jx_await(&v[i].x);
        assert_false(v[i].x.failed);
        assert_true(v[i].x.en.receipt.index == v[i].told_then);
    }
    assert_false(jx_write(f, "last", false, NULL).failed);
    assert_true(atomic_load(&told) == ROUNDS * EACH);
    assert_int_equal(jx_next(f), ROUNDS * EACH + 1); /* visits took none */
}

static void test_reopen_goes_on(void **state)
{
    struct jx *f = *state;
    struct journal_status st;
    uint8_t a[16], b[16];
    jx_fill(f, 20, "n");
    journal_next_event_id(f->j, a);
    jx_close(f);
    jx_open(f);
    journal_next_event_id(f->j, b);
    assert_memory_not_equal(a, b, 8); /* another source after each start */
    assert_int_equal(a[0] & 0x80, 0);
    journal_status(f->j, &st);
    assert_int_equal(st.next_index, 20);
    assert_true(st.was_closed && st.ok);
    assert_int_equal(st.cut_bytes, 0);
    jx_fill(f, 5, "n");
    jx_expect(f, 0, 25, "n");
    jx_expect(f, 23, 2, "n");
}

static void test_files_change(void **state)
{
    struct jx *f = *state;
    char path[128];
    unsigned files = 0;
    enum { N = 3000 };
    jx_fill(f, N, "n");
    for (uint64_t i = 0; i < N; i++) {
        struct stat sb;
        jx_segment(f, i, path);
        if (stat(path, &sb) != 0)
            continue;
        files++;
        assert_int_equal(sb.st_size, JX_SEGMENT);
        assert_int_equal(sb.st_mode & 0777, 0600);
    }
    assert_true(files >= 3);
    jx_expect(f, 0, N, "n");
    jx_expect(f, 1500, 10, "n"); /* back, not from the cursor */
    jx_close(f);
    jx_open(f);
    assert_int_equal(jx_next(f), N);
    jx_fill(f, 10, "n");
    jx_expect(f, N - 5, 15, "n");
}

static off_t record_offset(const struct jx *f, uint64_t first, uint64_t index)
{
    char path[128];
    struct window w;
    struct frame fr;
    uint64_t at = SEGMENT_HEADER_BYTES;
    jx_segment(f, first, path);
    int fd = open(path, O_RDONLY);
    window_init(&w, fd, JX_SEGMENT);
    while (frame_at(&w, at, &fr) == FRAME_GOOD && fr.index != index)
        at += fr.size;
    window_release(&w);
    close(fd);
    return (off_t)at;
}
static void damage(const struct jx *f, uint64_t first, off_t at, size_t n, bool zero)
{
    char path[128];
    uint8_t b[4096];
    assert_true(n <= sizeof b);
    jx_segment(f, first, path);
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, b, n, at), (ssize_t)n);
    for (size_t i = 0; i < n; i++)
        b[i] = zero ? 0 : b[i] ^ 0x40;
    assert_int_equal(pwrite(fd, b, n, at), (ssize_t)n);
    close(fd);
}

static void test_damaged_middle(void **state)
{
    struct jx *f = *state;
    struct journal *j = NULL;
    char at_text[64];
    jx_fill(f, 10, "n");
    jx_close(f);
    off_t at = record_offset(f, 0, 4);
    snprintf(at_text, sizeof at_text, "offset %lld", (long long)at);
    static const struct {
        int from;
        size_t n;
        bool zero;
    } ways[] = {{0, 1, false}, {5, 1, false}, {9, 1, false}, {20, 1, false}, {25, 1, false}, {30, 1, false}, {60, 1, false},
                {150, 1, false}, {0, 32, true}, {0, 200, true}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        char path[128], copy[140];
        jx_segment(f, 0, path);
        snprintf(copy, sizeof copy, "%s.copy", path);
        assert_int_equal(rename(path, copy), 0);
        char cmd[300];
        snprintf(cmd, sizeof cmd, "cp -p %s %s", copy, path);
        assert_int_equal(system(cmd), 0);
        damage(f, 0, at + ways[i].from, ways[i].n, ways[i].zero);
        assert_fails(journal_open(&f->o, &j, &f->e), ERR_DATA_LOSS, "JOURNAL_DAMAGED");
        assert_non_null(strstr(f->e.detail, at_text));
        assert_int_equal(rename(copy, path), 0);
    }
    jx_open(f); /* undamaged it opens */
    assert_int_equal(jx_next(f), 10);
}

/* The last record, after an orderly close: nothing behind it but the mark, and that is enough to know that it was durable. */
static void test_damaged_last_record(void **state)
{
    struct jx *f = *state;
    struct journal *j = NULL;
    jx_fill(f, 3, "n");
    jx_close(f);
    damage(f, 0, record_offset(f, 0, 2) + 100, 1, false);
    assert_fails(journal_open(&f->o, &j, &f->e), ERR_DATA_LOSS, "JOURNAL_DAMAGED");
}

/* A group of three that never got its fdatasync: what of it is on the disk is a prefix, a hole, or any part of it. */
static void test_torn_tail(void **state)
{
    struct jx *f = *state;
    struct journal_status st;
    for (int way = 0; way < 4; way++) {
        jx_fill(f, 5, "n");
        jx_close(f);
        uint64_t next = (uint64_t)(way + 1) * 5;
        char path[128];
        uint8_t frame[3][128] = {{0}};
        jx_segment(f, 0, path);
        int fd = open(path, O_RDWR);
        off_t at = record_offset(f, 0, next); /* over the mark */
        for (uint32_t i = 0; i < 3; i++) {
            memset(frame[i] + FRAME_HEADER_BYTES, 0xab, 96);
            put_be32(frame[i] + FRAME_LENGTH_AT, 96);
            put_be32(frame[i] + FRAME_CRC_AT, crc32c(BYTES(frame[i] + FRAME_HEADER_BYTES, 96)));
            frame_finish(frame[i], next + i, 0, i);
        }
        if (way == 0)
            memset(frame[1], 0, 128); /* a hole: 0 and 2 arrived */
        if (way == 1)
            memset(frame[0], 0, 128); /* the first one is missing */
        if (way == 2)
            frame[0][70] ^= 1;
        if (way == 3)
            memset(frame[2] + 40, 0, 88); /* half of the last */
        assert_int_equal(pwrite(fd, frame, sizeof frame, at), sizeof frame);
        close(fd);
        jx_open(f);
        journal_status(f->j, &st);
        uint64_t kept = way == 0 ? 1 : way == 3 ? 2 : 0;
        assert_int_equal(st.next_index, next + kept);
        assert_true(st.cut_bytes > 0);
        assert_false(st.was_closed);
        jx_close(f); /* for the next way: take the kept ones out again */
        fd = open(path, O_RDWR);
        static const uint8_t zeros[4096];
        assert_int_equal(pwrite(fd, zeros, sizeof zeros, at), sizeof zeros);
        close(fd);
        jx_open(f);
        assert_int_equal(jx_next(f), next);
        jx_expect(f, 0, next, "n");
    }
}

static void test_files_must_fit_together(void **state)
{
    struct jx *f = *state;
    struct journal *j = NULL;
    char path[128], away[140], second[128] = "";
    assert_fails(journal_open(&f->o, &j, &f->e), ERR_STATE, "JOURNAL_BUSY");
    jx_fill(f, 2400, "n");
    jx_close(f);
    unsigned files = 0;
    uint64_t second_first = 0;
    for (uint64_t i = 0; i < 2400; i++) {
        jx_segment(f, i, path);
        if (access(path, F_OK) == 0 && files++ == 1) {
            memcpy(second, path, sizeof second);
            second_first = i;
        }
    }
    assert_true(files >= 3);
    f->o.origin = "test/node2";
    assert_fails(journal_open(&f->o, &j, &f->e), ERR_STATE, "JOURNAL_FOREIGN");
    f->o.origin = "test/node1";
    f->o.instance[3] ^= 1;
    assert_fails(journal_open(&f->o, &j, &f->e), ERR_STATE, "JOURNAL_FOREIGN");
    f->o.instance[3] ^= 1;
    snprintf(away, sizeof away, "%s.away", second);
    assert_int_equal(rename(second, away), 0);
    assert_fails(journal_open(&f->o, &j, &f->e), ERR_DATA_LOSS, "JOURNAL_DAMAGED");
    assert_int_equal(rename(away, second), 0);
    damage(f, second_first, 30, 1, false); /* its header */
    assert_fails(journal_open(&f->o, &j, &f->e), ERR_DATA_LOSS, "JOURNAL_DAMAGED");
    damage(f, second_first, 30, 1, false);
    assert_int_equal(truncate(second, 8192), 0);
    assert_fails(journal_open(&f->o, &j, &f->e), ERR_DATA_LOSS, "JOURNAL_DAMAGED");
    assert_int_equal(truncate(second, JX_SEGMENT), 0);
    jx_open(f); /* older files are read when they are asked for, and then checked */
    struct journal_record *rec;
    size_t n;
    assert_fails(journal_read(f->j, second_first, 1000, &f->a, &rec, &n, &f->e), ERR_DATA_LOSS, "JOURNAL_DAMAGED");
    jx_expect(f, 0, second_first, "n");
    jx_close(f);
    assert_int_equal(chmod(f->dir, 0777), 0);
    assert_fails(journal_open(&f->o, &j, &f->e), ERR_STATE, "JOURNAL_PERMISSIONS");
    assert_int_equal(chmod(f->dir, 0700), 0);
    jx_open(f);
}

/* Four writers, one reader that follows: done comes in index order, and the reader sees every record once. */
enum { WRITERS = 4, EACH = 400 };
struct shared {
    struct jx *f;
    atomic_uint_fast64_t next_expected, out_of_order;
};
struct counted {
    struct journal_entry en;
    struct shared *s;
};
static void count_done(struct journal_entry *en, const struct err *failed)
{
    struct shared *s = ((struct counted *)en)->s;
    if (failed || atomic_fetch_add(&s->next_expected, 1) != en->receipt.index)
        atomic_fetch_add(&s->out_of_order, 1);
}
static void *write_many(void *arg)
{
    struct shared *s = arg;
    struct counted *c = calloc(EACH, sizeof *c);
    for (int i = 0; i < EACH; i++) {
        struct err e = {0};
        uint8_t id[16];
        c[i] = (struct counted){.en.done = count_done, .s = s};
        journal_next_event_id(s->f->j, id);
        if (journal_submit(s->f->j, &c[i].en, &s->f->tenant, id, 1, BYTES(&id, 16), &e).failed)
            atomic_fetch_add(&s->out_of_order, 1);
    }
    return c;
}
static void test_many_writers_one_tail(void **state)
{
    struct jx *f = *state;
    struct shared s = {.f = f};
    pthread_t th[WRITERS];
    uint64_t seen = 0;
    struct journal_status st;
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&th[i], NULL, write_many, &s), 0);
    while (seen < WRITERS * EACH) {
        struct journal_record *rec;
        size_t n;
        assert_true(journal_wait(f->j, seen, 20000));
        assert_ok(journal_read(f->j, seen, 100, &f->a, &rec, &n, &f->e));
        assert_true(n > 0);
        for (size_t i = 0; i < n; i++) {
            uint8_t plain[64];
            assert_int_equal(rec[i].index, seen++);
            assert_ok(aead_open(f->key, 0, BYTES(rec[i].leaf, JOURNAL_LEAF_BYTES), rec[i].sealed_body, plain, &f->e));
            assert_memory_equal(plain + 32, rec[i].leaf + 1, 16);
        }
    }
    assert_false(journal_wait(f->j, seen, 1));
    void *c[WRITERS];
    for (int i = 0; i < WRITERS; i++)
        pthread_join(th[i], &c[i]);
    journal_status(f->j, &st);
    assert_int_equal(st.entries, WRITERS * EACH);
    assert_true(st.syncs < st.entries); /* grouped */
    jx_close(f); /* every done has run */
    assert_int_equal(atomic_load(&s.next_expected), WRITERS * EACH);
    assert_int_equal(atomic_load(&s.out_of_order), 0);
    for (int i = 0; i < WRITERS; i++)
        free(c[i]);
    jx_open(f);
}

/* A child writes, several entries in flight, and reports each done on a pipe; it is killed. What it reported is there. */
static int told_fd;
static void tell(struct journal_entry *en, const struct err *failed)
{
    uint64_t index = en->receipt.index;
    if (failed || write(told_fd, &index, sizeof index) != (ssize_t)sizeof index)
        _exit(8);
    free(en);
}
static void child_writes(struct jx *f, int out)
{
    struct err e = {0};
    told_fd = out;
    if (journal_open(&f->o, &f->j, &e).failed)
        _exit(9);
    for (;;) {
        struct journal_entry *en = calloc(1, sizeof *en);
        uint8_t id[16];
        en->done = tell;
        journal_next_event_id(f->j, id);
        if (journal_submit(f->j, en, &f->tenant, id, 1, BYTES(id, 16), &e).failed)
            sched_yield(); /* the queue is full: the disk is behind */
    }
}
static void test_killed_while_writing(void **state)
{
    struct jx *f = *state;
    uint64_t next = 0;
    jx_close(f);
    for (int round = 0; round < 12; round++) {
        int p[2], status;
        uint64_t told = 0;
        assert_int_equal(pipe2(p, O_CLOEXEC), 0);
        pid_t pid = fork();
        if (pid == 0) {
            close(p[0]);
            child_writes(f, p[1]);
        }
        close(p[1]);
        for (int i = 0; i < 1 + round * 150; i++) {
            assert_int_equal(read(p[0], &told, sizeof told), sizeof told);
            assert_int_equal(told, next++); /* in index order, without holes */
        }
        kill(pid, SIGKILL);
        while (read(p[0], &told, sizeof told) == (ssize_t)sizeof told)
            assert_int_equal(told, next++);
        close(p[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        jx_open(f);
        assert_true(jx_next(f) >= next);
        next = jx_next(f);
        struct journal_record *rec;
        size_t n;
        assert_ok(journal_read(f->j, 0, SIZE_MAX, &f->a, &rec, &n, &f->e));
        assert_int_equal(n, next);
        jx_close(f);
    }
    jx_open(f);
}

static void test_options(void **state)
{
    struct jx *f = *state;
    struct journal *j = NULL;
    jx_close(f);
    f->o.segment_bytes = 4096;
    assert_true(journal_open(&f->o, &j, &f->e).failed);
    assert_int_equal(f->e.code, ERR_INVALID);
    f->o.segment_bytes = JX_SEGMENT;
    f->o.reserve_bytes = 4 * JX_SEGMENT;
    assert_true(journal_open(&f->o, &j, &f->e).failed);
    assert_int_equal(f->e.code, ERR_INVALID);
    f->o.reserve_bytes = JX_RESERVE;
    jx_open(f);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, jx_setup, jx_teardown)
    const struct CMUnitTest tests[] = {
        T(test_leaf_and_receipt), T(test_refuses_bad_events), T(test_reopen_goes_on),          T(test_files_change),
        T(test_damaged_middle),   T(test_damaged_last_record), T(test_torn_tail),              T(test_files_must_fit_together),
        T(test_many_writers_one_tail), T(test_options),        T(test_visits),
        T(test_killed_while_writing),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
