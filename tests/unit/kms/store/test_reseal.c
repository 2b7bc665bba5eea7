/* A change of the seal epoch: under traffic, cut short at any point, and how fast. */
#include "tests/unit/kms/store/sealed.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

/* ---- under traffic ---- */
enum { WRITERS = 4, ROUNDS = 150 };
struct writer {
    struct fx *f;
    int number;
    bool failed;
    struct err e;
};
/* Each on a counter of its own, by compare-and-set, and a row that comes and goes: nobody but the move could be in its way. */
static void *write_on(void *arg)
{
    struct writer *w = arg;
    char counter[24], gone[24];
    snprintf(counter, sizeof counter, "counter %d", w->number);
    snprintf(gone, sizeof gone, "gone %d", w->number);
    for (uint64_t n = 1; n <= ROUNDS && !w->failed; n++) {
        struct record c = fx_rec(REC_META, TA, counter, "x"), g = fx_rec(REC_PRINCIPAL, TB, gone, "x");
        struct store_txn *t = store_txn_new(w->f->s);
        c.revision = n;
        store_txn_put(t, &c, n - 1);
        if (n % 2)
            store_txn_put(t, &g, STORE_ABSENT);
        else
            store_txn_delete(t, REC_PRINCIPAL, TB, g.id, 1);
        store_txn_event(t, TA, bytes_str(counter));
        w->failed = store_txn_commit(t, NULL, &w->e).failed;
        store_txn_free(t);
    }
    return NULL;
}
static void *read_on(void *arg)
{
    struct writer *w = arg;
    char id[ROW_ID];
    for (int i = 0; i < 10 * ROUNDS && !w->failed; i++) {
        struct arena a;
        struct record r = row(id, i % 50), out;
        arena_init(&a, 1 << 20);
        w->failed = store_get(w->f->s, r.kind, r.tenant, bytes_str(id), &a, &out, &w->e).failed || out.revision != 1;
        arena_release(&a);
    }
    return NULL;
}
static atomic_uint seen;
static void count_change(void *user, enum rec_kind kind, const uint8_t tenant[16], struct bytes id)
{
    (void)user, (void)kind, (void)tenant, (void)id;
    atomic_fetch_add(&seen, 1);
}
static void test_under_traffic(void **state)
{
    struct fx *f = *state;
    pthread_t th[WRITERS + 1];
    struct writer w[WRITERS + 1];
    struct record out;
    put_rows(f, 50);
    atomic_store(&seen, 0);
    store_watch(f->s, 0, count_change, NULL);
    for (int i = 0; i <= WRITERS; i++) {
        w[i] = (struct writer){.f = f, .number = i};
        assert_int_equal(pthread_create(&th[i], NULL, i < WRITERS ? write_on : read_on, &w[i]), 0);
    }
    for (uint32_t epoch = 4; epoch <= 8; epoch++) {
        assert_ok(fx_seal(f, epoch, "changed"));
        assert_true(fx_reseal_all(f, 7) > 0);
        assert_int_equal(fx_older(f), 0); /* one pass is enough: whoever writes meanwhile writes under the new one */
        assert_ok(store_outbox_trim(f->s, UINT64_MAX, &f->e));
        assert_int_equal(fx_prove(f).left, 0);
        f->destroyed = epoch - 1;
    }
    for (int i = 0; i <= WRITERS; i++) {
        pthread_join(th[i], NULL);
        if (w[i].failed)
            f->e = w[i].e;
        assert_ok((struct result){w[i].failed});
    }
    assert_int_equal(atomic_load(&seen), WRITERS * ROUNDS * 2); /* what they wrote, and nothing that was only moved */
    for (int i = 0; i < WRITERS; i++) {
        char id[24];
        snprintf(id, sizeof id, "counter %d", i);
        assert_ok(fx_get(f, REC_META, TA, id, &out));
        assert_int_equal(out.revision, ROUNDS);
    }
    expect_rows(f, 50);
    assert_int_equal(store_outbox_last(f->s), WRITERS * ROUNDS + 5);
    assert_int_equal(fsck(f).older, 0);
    assert_int_equal(findings, 0);
    fx_open(f);
}

/* Between the page and its commit: who writes or deletes the row has its way. */
static void test_written_meanwhile(void **state)
{
    struct fx *f = *state;
    char id[ROW_ID];
    struct record out;
    put_rows(f, 3); /* a budget, a fact, a tenant */
    assert_ok(fx_seal(f, 4, NULL));
    struct store_reseal at = {.limit = 10};
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(f->s);
    assert_ok(store_reseal(f->s, &at, t, &f->e));
    assert_true(at.rows == 3 && at.broken == 0 && at.end);
    struct record budget = row(id, 0);
    budget.body = bytes_str("newer");
    CLEANUP(store_txn_freep) struct store_txn *again = store_txn_new(f->s);
    store_txn_delete(again, budget.kind, budget.tenant, budget.id, 1);
    store_txn_put(again, &budget, STORE_ABSENT); /* of the same revision as before */
    assert_ok(store_txn_commit(again, NULL, &f->e));
    struct record fact = row(id, 1);
    fact.body = bytes_str("newer");
    assert_ok(fx_put(f, &fact, 1, NULL));
    CLEANUP(store_txn_freep) struct store_txn *remove = store_txn_new(f->s);
    struct record tenant = row(id, 2);
    store_txn_delete(remove, tenant.kind, tenant.tenant, tenant.id, 1);
    assert_ok(store_txn_commit(remove, NULL, &f->e));
    assert_ok(store_txn_commit(t, NULL, &f->e));
    assert_fails(fx_get(f, tenant.kind, tenant.tenant, id, &out), ERR_NOT_FOUND, NULL);
    row_id(id, 0);
    assert_ok(fx_get(f, budget.kind, budget.tenant, id, &out));
    assert_true(out.revision == 1 && bytes_equal(out.body, bytes_str("newer")));
    row_id(id, 1);
    assert_ok(fx_get(f, fact.kind, fact.tenant, id, &out));
    assert_true(out.revision == 2 && bytes_equal(out.body, bytes_str("newer")));
    finish(f);
}

/* One more change of the epoch between the page and its commit: what was sealed for the one before stays where it was. */
static void test_page_of_an_epoch_that_ended(void **state)
{
    struct fx *f = *state;
    put_rows(f, 20);
    assert_ok(fx_seal(f, 4, NULL));
    struct store_reseal at = {.limit = 10};
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(f->s);
    assert_ok(store_reseal(f->s, &at, t, &f->e));
    assert_ok(fx_seal(f, 5, NULL));
    assert_ok(store_txn_commit(t, NULL, &f->e));
    assert_int_equal(edit(f, "UPDATE record SET epoch = epoch WHERE epoch = 4"), 0); /* nothing is sealed under what has ended */
    assert_int_equal(fx_older(f), 20);
    expect_rows(f, 20);
    finish(f);
    reopen(f);
    expect_rows(f, 20);
}

/* What is refused with its transaction has not happened, also in a group with others that went through. */
static void test_refused_with_its_transaction(void **state)
{
    struct fx *f = *state;
    struct record one = fx_rec(REC_META, TA, "one", "x"), out;
    put_rows(f, 5);
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(f->s);
    assert_ok(store_txn_seal(t, 4, &f->e));
    store_txn_put(t, &one, 7);
    store_txn_event(t, T0, bytes_str("changed"));
    assert_fails(store_txn_commit(t, NULL, &f->e), ERR_CONFLICT, NULL);
    assert_int_equal(store_seal_epoch(f->s), 3);
    assert_ok(fx_put(f, &one, STORE_ABSENT, NULL));
    assert_int_equal(store_outbox_last(f->s), 0);
    assert_int_equal(fx_older(f), 0);
    f->o.epoch = 3; /* nothing in the file is of 4 */
    reopen(f);
    expect_rows(f, 5);
    assert_ok(fx_get(f, REC_META, TA, "one", &out));
    CLEANUP(store_txn_freep) struct store_txn *twice = store_txn_new(f->s);
    assert_ok(store_txn_seal(twice, 4, &f->e));
    assert_ok(store_txn_seal(twice, 5, &f->e));
    assert_fails(store_txn_commit(twice, NULL, &f->e), ERR_OUT_OF_RANGE, "STORE_LIMIT");
    assert_ok(fx_seal(f, 4, "changed"));
    assert_int_equal(fx_older(f), 6);
    finish(f);
}

static void test_large_bodies(void **state)
{
    struct fx *f = *state;
    static char body[STORE_BODY_MAX];
    char id[ROW_ID];
    memset(body, 'x', sizeof body);
    for (int i = 0; i < 80; i++) {
        row_id(id, i);
        struct record r = fx_rec(REC_POLICY, T0, id, "");
        r.body = BYTES(body, sizeof body);
        assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
    }
    assert_ok(fx_seal(f, 4, NULL));
    struct store_reseal at = {.limit = STORE_TXN_MAX / 2};
    assert_true(fx_reseal(f, &at)); /* not all in one transaction, which would be too large */
    assert_true(at.rows > 1 && at.rows < 80);
    assert_int_equal(at.rows + fx_reseal_all(f, STORE_TXN_MAX / 2), 80);
    assert_int_equal(fx_prove(f).left, 0);
}

/* ---- cut short ---- */
static void test_reopened_at_every_point(void **state)
{
    struct fx *f = *state;
    struct store_reseal at = {.limit = 4};
    uint64_t moved = 0;
    put_rows(f, 30);
    reopen(f);
    assert_ok(fx_seal(f, 4, "changed"));
    for (bool more = true; more; moved += at.rows) {
        reopen(f);
        assert_int_equal(store_seal_epoch(f->s), 4);
        assert_int_equal(fx_older(f), 30 - moved);
        expect_rows(f, 30);
        memset(&at, 0, sizeof at); /* the cursor is not kept: rows that are moved are passed over */
        at.limit = 4;
        more = fx_reseal(f, &at);
    }
    assert_int_equal(moved, 30);
    reopen(f);
    finish(f);
    reopen(f);
    expect_rows(f, 30);
}

/* A child changes and moves on and on, and is killed: it went as far as it said, or one step further. */
static void child_moves(struct fx *f, int out)
{
    fx_open(f);
    struct store_reseal at = {.limit = 3};
    for (uint32_t epoch = store_seal_epoch(f->s) + 1;; epoch++) {
        while (fx_older(f) && fx_reseal(f, &at))
            ;
        at = (struct store_reseal){.limit = 3};
        if (fx_seal(f, epoch, "changed").failed || write(out, &epoch, sizeof epoch) != sizeof epoch)
            _exit(7);
    }
}
static void test_killed(void **state)
{
    struct fx *f = *state;
    put_rows(f, 30);
    fx_close(f);
    f->o.anchor = NULL; /* the child's floor would not be ours */
    for (int round = 0; round < 6; round++) {
        int p[2], status;
        uint32_t said = 0, newest = 0;
        assert_int_equal(pipe2(p, O_CLOEXEC), 0);
        const pid_t pid = fork();
        if (pid == 0) {
            close(p[0]);
            child_moves(f, p[1]);
        }
        close(p[1]);
        for (int i = 0; i <= round % 3; i++) {
            ssize_t n = read(p[0], &said, sizeof said);
            assert_int_equal(n, sizeof said);
        }
        kill(pid, SIGKILL);
        while (read(p[0], &newest, sizeof newest) == sizeof newest)
            said = newest;
        close(p[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        f->o.epoch = said + 1; /* on the token */
        fx_open(f);
        assert_true(store_seal_epoch(f->s) == said || store_seal_epoch(f->s) == said + 1);
        expect_rows(f, 30);
        struct store_check c = fsck(f);
        assert_int_equal(findings, 0);
        assert_int_equal(c.older > 0, told > 0);
    }
    fx_open(f);
    finish(f);
    reopen(f);
    expect_rows(f, 30);
}

static void test_token_away(void **state)
{
    struct fx *f = *state;
    struct store_seal_proof p;
    struct record out;
    char id[ROW_ID];
    put_rows(f, 10);
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(f->s);
    f->no_key = true;
    assert_fails(store_txn_seal(t, 4, &f->e), ERR_UNAVAILABLE, "HSM_UNAVAILABLE");
    f->no_key = false;
    f->destroyed = 4;
    CLEANUP(store_txn_freep) struct store_txn *t2 = store_txn_new(f->s);
    assert_fails(store_txn_seal(t2, 4, &f->e), ERR_DATA_LOSS, "SEAL_ABSENT");
    f->destroyed = 0;
    CLEANUP(store_txn_freep) struct store_txn *t3 = store_txn_new(f->s);
    assert_ok(store_txn_seal(t3, 4, &f->e));
    unsigned asked = atomic_load(&f->keys_asked);
    assert_ok(store_txn_commit(t3, NULL, &f->e)); /* never on the writer's thread */
    put_rows(f, 0);
    struct record r = row(id, 77);
    assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
    assert_int_equal(atomic_load(&f->keys_asked), asked);
    f->o.epoch = 4;
    reopen(f);
    f->no_key = true; /* the old key is not in memory now */
    struct store_reseal at = {.limit = 4};
    CLEANUP(store_txn_freep) struct store_txn *page = store_txn_new(f->s);
    assert_fails(store_reseal(f->s, &at, page, &f->e), ERR_UNAVAILABLE, "HSM_UNAVAILABLE");
    assert_fails(store_seal_prove(f->s, NULL, NULL, &p, &f->e), ERR_UNAVAILABLE, "HSM_UNAVAILABLE");
    assert_ok(fx_get(f, r.kind, r.tenant, id, &out));
    f->no_key = false;
    assert_int_equal(fx_older(f), 10);
    finish(f);
}

/* ---- how fast, and what it does to those who write: CLV_RESEAL_ROWS of them ---- */
struct meter {
    struct fx *f;
    atomic_bool stop;
    unsigned wanted, n;
    double ms[100000];
};
static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}
static void *write_and_measure(void *arg)
{
    struct meter *m = arg;
    struct err e = {0};
    while (!atomic_load(&m->stop) && m->n < m->wanted) {
        struct record r = fx_rec(REC_META, T0, "metered", "x");
        struct store_txn *t = store_txn_new(m->f->s);
        store_txn_put(t, &r, STORE_ANY);
        double before = now_ms();
        if (store_txn_commit(t, NULL, &e).failed)
            return m;
        m->ms[m->n++] = now_ms() - before;
        store_txn_free(t);
    }
    return NULL;
}
static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}
static void *failed_writer;
static void tell(struct meter *m, const char *what)
{
    assert_null(failed_writer);
    if (m->n == 0) /* on a busy machine the move may be over first */
        return;
    qsort(m->ms, m->n, sizeof *m->ms, by_size);
    printf("commits %s: %u, median %.2f ms, p99 %.2f ms, slowest %.2f ms\n", what, m->n, m->ms[m->n / 2], m->ms[m->n * 99 / 100], m->ms[m->n - 1]);
}
static void test_rate(void **state)
{
    struct fx *f = *state;
    static struct meter m;
    const char *wanted = getenv("CLV_RESEAL_ROWS");
    const int rows = wanted ? atoi(wanted) : 1000;
    char id[ROW_ID], body[600];
    pthread_t th;
    memset(body, 'b', sizeof body);
    for (int i = 0; i < rows;) {
        CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(f->s);
        for (int n = 0; n < 500 && i < rows; n++, i++) {
            row_id(id, i);
            struct record r = fx_rec(REC_VERSION, i % 2 ? TA : TB, id, "");
            r.body = BYTES(body, sizeof body);
            store_txn_put(t, &r, STORE_ABSENT);
        }
        assert_ok(store_txn_commit(t, NULL, &f->e));
    }
    for (int moving = 0; moving <= 1; moving++) {
        m = (struct meter){.f = f, .wanted = moving ? 100000 : 200};
        assert_int_equal(pthread_create(&th, NULL, write_and_measure, &m), 0);
        double before = now_ms();
        if (moving) {
            assert_ok(fx_seal(f, 4, NULL));
            assert_int_equal(fx_reseal_all(f, 128) / (uint64_t)rows, 1); /* and perhaps the metered one */
        }
        double took = now_ms() - before;
        atomic_store(&m.stop, moving);
        pthread_join(th, &failed_writer);
        tell(&m, moving ? "beside the move" : "alone");
        if (moving)
            printf("moved %d rows in %.0f ms: %.0f rows/s\n", rows, took, rows / took * 1e3);
    }
    double before = now_ms();
    assert_int_equal(fx_prove(f).left, 0);
    printf("proved in %.0f ms\n", now_ms() - before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SEALED_TEST(test_under_traffic),
        SEALED_TEST(test_written_meanwhile),
        SEALED_TEST(test_page_of_an_epoch_that_ended),
        SEALED_TEST(test_refused_with_its_transaction),
        SEALED_TEST(test_large_bodies),
        SEALED_TEST(test_reopened_at_every_point),
        SEALED_TEST(test_killed),
        SEALED_TEST(test_token_away),
        SEALED_TEST(test_rate),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
