/* Counting what keys are used for: exactly what is in the journal, over deaths at any point, tables that are full, and many threads. */
#include "tests/unit/vault/service/life.h"

#include "kms/crypto/kdf.h"
#include "vault/service/guard.h"
#include "vault/service/metering.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

enum { THREADS = 8, VERSIONS = 12, PRINCIPALS = 3, SEGMENT = 16 << 20 };
static const char *const who[PRINCIPALS] = {"acme-orders", "acme-billing", "acme-support"};

struct mx {
    struct life *life;
    char dir[96];
    struct journal *j;
    struct metering *m;
    struct tenant_ref *t;
    size_t rows_max;
    _Atomic uint64_t expected[VERSIONS][EVENT_USE_UNWRAP + 1], durable, submitted;
    struct err e;
};

static void open_journal(struct mx *f)
{
    const struct journal_options jo = {.dir = f->dir, .origin = "claviger/node1", .segment_bytes = SEGMENT, .reserve_bytes = 1 << 16, .clock = &clock_system,
                                       .instance = "instance-16byte"};
    assert_ok(journal_open(&jo, &f->j, &f->e));
}

/* start false: a metering that is not heard of again: all that it counts dies with it. */
static void begin(struct mx *f, bool start)
{
    if (f->life->s.store == NULL)
        life_open(f->life);
    open_journal(f);
    assert_ok(keyring_tenant_hold(f->life->s.keyring, BYTES_LIT("acme"), true, &f->t, &f->e));
    const struct metering_options o = {.store = f->life->s.store, .journal = f->j, .keyring = f->life->s.keyring, .clock = &f->life->clock.c,
                                       .rows_max = f->rows_max};
    assert_ok(metering_new(&o, &f->m, &f->e));
    if (start)
        metering_start(f->m);
}

static void end(struct mx *f)
{
    metering_stop(f->m);
    journal_close(f->j);
    metering_free(f->m);
    tenant_ref_drop(f->t);
    life_close(f->life);
    f->m = NULL;
    f->j = NULL;
    f->t = NULL;
}

static int start(void **state)
{
    struct mx *f = calloc(1, sizeof *f);
    void *life;
    assert_int_equal(life_start(&life), 0);
    f->life = life;
    f->rows_max = EVENT_USES_MAX;
    (void)snprintf(f->dir, sizeof f->dir, "%s-journal", f->life->dir);
    *state = f;
    return 0;
}

static int stop(void **state)
{
    struct mx *f = *state;
    void *life = f->life;
    if (f->m != NULL)
        end(f);
    kms_empty(f->dir);
    assert_int_equal(rmdir(f->dir), 0);
    free(f);
    return life_stop(&life);
}

/* ---- calls, as the pipeline makes them ---- */
struct use_call {
    struct journal_entry en;
    struct mx *f;
    struct event_use use[3];
    size_t n;
    const char *principal;
    int64_t at_ns;
};

static struct event_use use_of(unsigned version, enum event_use_what what, uint64_t items)
{
    struct event_use u = {.what = what, .items = items, .primary = 1};
    struct bytes field = BYTES(&version, sizeof version);
    uint8_t hash[32];
    sha256(&field, 1, hash);
    memcpy(u.kvid, hash, sizeof u.kvid);
    return u;
}

static void durable(struct journal_entry *en, const struct err *failed)
{
    struct use_call *c = (struct use_call *)en;
    struct mx *f = c->f;
    assert_null(failed);
    metering_count(f->m, en->receipt.index, tenant_ref_info(f->t)->id, bytes_str(c->principal), c->at_ns, c->use, c->n);
    free(c);
    atomic_fetch_add(&f->durable, 1);
}

static void submit(struct mx *f, struct use_call *c, const char *outcome)
{
    struct audit_event ev = {.time_unix_ns = c->at_ns, .principal = bytes_str(c->principal), .outcome = bytes_str(outcome), .use = c->use, .nuse = c->n};
    CLEANUP(buf_release) struct buf b;
    struct err e = {0};
    buf_init(&b, EVENT_LONGEST);
    c->en.done = durable;
    c->f = f;
    journal_next_event_id(f->j, ev.id);
    event_encode(&ev, &b);
    atomic_fetch_add(&f->submitted, 1);
    assert_false(journal_submit(f->j, &c->en, tenant_ref_audit(f->t), ev.id, ev.time_unix_ns, buf_bytes(&b), &e).failed);
}

static void call(struct mx *f, unsigned version, unsigned i)
{
    struct use_call *c = calloc(1, sizeof *c);
    c->principal = who[i % PRINCIPALS];
    c->at_ns = T0 + (int64_t)i;
    c->n = 1 + i % 3;
    for (size_t k = 0; k < c->n; k++) {
        const unsigned v = (version + (unsigned)k) % VERSIONS;
        c->use[k] = use_of(v, (enum event_use_what)(1 + (i + k) % 4), 1 + i % 5);
        atomic_fetch_add(&f->expected[v][c->use[k].what], c->use[k].items);
    }
    submit(f, c, "ok");
}

static void all_durable(struct mx *f)
{
    struct journal_status st;
    while (atomic_load(&f->durable) < atomic_load(&f->submitted)) {
        journal_status(f->j, &st);
        (void)journal_wait(f->j, st.next_index, 10);
    }
}

/* To each version in turn, until their events are durable. */
static void many_calls(struct mx *f, unsigned n, unsigned from)
{
    for (unsigned i = 0; i < n; i++)
        call(f, i % VERSIONS, from + i);
    all_durable(f);
}

static void expect(struct mx *f)
{
    struct usage u;
    for (unsigned v = 0; v < VERSIONS; v++) {
        const struct event_use x = use_of(v, EVENT_USE_ENCRYPT, 1);
        assert_ok(usage_read(f->life->s.store, tenant_ref_info(f->t)->id, x.kvid, &f->life->a, &u, &f->e));
        for (int what = EVENT_USE_ENCRYPT; what <= EVENT_USE_UNWRAP; what++)
            if (u.items[what] != atomic_load(&f->expected[v][what]))
                fail_msg("version %u, %d: %llu of %llu", v, what, (unsigned long long)u.items[what], (unsigned long long)f->expected[v][what]);
    }
}

/* ---- tests ---- */
struct worker {
    struct mx *f;
    unsigned from, calls;
    pthread_t thread;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    for (unsigned i = 0; i < w->calls; i++)
        call(w->f, (w->from + i) % VERSIONS, w->from * 7919 + i);
    return NULL;
}

static void from_many_threads(struct mx *f, unsigned calls)
{
    struct worker w[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct worker){.f = f, .from = i, .calls = calls};
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < 20; i++) { /* while they work */
        struct err e = {0};
        assert_false(metering_sync(f->m, &e).failed);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(w[i].thread, NULL);
    all_durable(f);
}

static void eight_threads(void **state)
{
    struct mx *f = *state;
    struct metering_status st;
    begin(f, true);
    from_many_threads(f, 2000);
    assert_ok(metering_sync(f->m, &f->e));
    expect(f);
    metering_status(f->m, &st);
    assert_true(st.complete && st.counted_to == THREADS * 2000 && st.began_ns == 0);
    end(f);
    begin(f, true); /* in order ended, in order begun */
    assert_ok(metering_sync(f->m, &f->e));
    expect(f);
}

/* What is refused, what failed, and what is nobody's is no use. */
static void what_does_not_count(void **state)
{
    struct mx *f = *state;
    begin(f, true);
    call(f, 1, 1);
    for (int i = 0; i < 3; i++) {
        struct use_call *c = calloc(1, sizeof *c);
        c->principal = who[0];
        c->at_ns = T0;
        submit(f, c, i == 0 ? "refused" : i == 1 ? "error" : "ok");
    }
    all_durable(f);
    assert_ok(metering_sync(f->m, &f->e));
    expect(f);
}

/* Killed with everything in memory, at several points; what had been kept is not counted again. */
static void over_deaths(void **state)
{
    struct mx *f = *state;
    for (unsigned round = 0; round < 6; round++) {
        const bool keeps = round % 2 == 0;
        begin(f, keeps);
        if (keeps)
            assert_ok(metering_sync(f->m, &f->e)); /* what the death before left */
        many_calls(f, 300, round * 1000);
        if (keeps) {
            assert_ok(metering_sync(f->m, &f->e));
            expect(f);
        }
        if (!keeps) { /* as if killed: nothing is stopped, nothing kept */
            struct usage_mark mark;
            assert_ok(usage_mark_read(f->life->s.store, &mark, &f->e));
            assert_true(mark.counted_to == round * 300);
        }
        end(f);
    }
    begin(f, true);
    assert_ok(metering_sync(f->m, &f->e));
    expect(f);
}

/* More versions between two looks than a table holds: what found no room is counted from the journal. */
static void a_full_table(void **state)
{
    struct mx *f = *state;
    enum { CALLS = 3 * EVENT_USES_MAX };
    struct metering_status st;
    begin(f, false);
    for (unsigned i = 0; i < CALLS; i++) {
        struct use_call *c = calloc(1, sizeof *c);
        c->principal = who[0];
        c->at_ns = T0;
        c->n = 1;
        c->use[0] = use_of(1000 + i, EVENT_USE_DECRYPT, 1);
        submit(f, c, "ok");
        if (i % 100 == 0)
            call(f, i % VERSIONS, i);
    }
    all_durable(f);
    metering_start(f->m);
    assert_ok(metering_sync(f->m, &f->e));
    metering_status(f->m, &st);
    assert_true(st.complete);
    expect(f);
    for (unsigned i = 0; i < CALLS; i++) {
        const struct event_use x = use_of(1000 + i, EVENT_USE_DECRYPT, 1);
        CLEANUP(arena_release) struct arena a;
        struct usage u;
        arena_init(&a, 1 << 20);
        assert_ok(usage_read(f->life->s.store, tenant_ref_info(f->t)->id, x.kvid, &a, &u, &f->e));
        assert_int_equal(u.items[EVENT_USE_DECRYPT], 1);
    }
}

/* A mark that is gone: all is there to be counted again, and what is counted stays so. */
static void a_lost_mark(void **state)
{
    struct mx *f = *state;
    uint64_t seq;
    static const uint8_t none[16];
    begin(f, true);
    many_calls(f, 100, 0);
    end(f);
    life_open(f->life);
    struct store_txn *txn = store_txn_new(f->life->s.store);
    struct record *rows;
    size_t n;
    assert_ok(store_scan(f->life->s.store, &(struct store_scan){.kind = REC_USAGE, .limit = 1000, .all_tenants = true}, &f->life->a, &rows, &n, &f->e));
    assert_int_equal(n, VERSIONS + 1);
    for (size_t i = 0; i < n; i++)
        if (memcmp(rows[i].tenant, none, sizeof none) == 0 || i % 2 == 0)
            store_txn_delete(txn, REC_USAGE, rows[i].tenant, rows[i].id, STORE_ANY);
    assert_ok(store_txn_commit(txn, &seq, &f->e));
    store_txn_free(txn);
    begin(f, true);
    assert_ok(metering_sync(f->m, &f->e));
    expect(f);
}

/* What is counted is complete, and says that it is since now only. */
static void counts_from_here(struct mx *f)
{
    struct metering_status st;
    begin(f, true);
    many_calls(f, 50, 0);
    assert_ok(metering_sync(f->m, &f->e));
    expect(f);
    metering_status(f->m, &st);
    assert_true(st.complete && st.began_ns == clock_wall_ns(&f->life->clock.c));
}

/* A mark that is not ours: the service starts, figures go on, and say since when they are certain. */
static void a_damaged_mark(void **state)
{
    struct mx *f = *state;
    uint64_t seq;
    begin(f, true);
    many_calls(f, 50, 0);
    end(f);
    life_open(f->life);
    struct store_txn *txn = store_txn_new(f->life->s.store);
    store_txn_put(txn, &(struct record){.kind = REC_USAGE, .id = BYTES_LIT("mark"), .body = BYTES_LIT("?")}, STORE_ANY);
    assert_ok(store_txn_commit(txn, &seq, &f->e));
    store_txn_free(txn);
    counts_from_here(f);
}

/* Another journal in the place of the one that was counted: figures go on, and say since when they are certain. */
static void another_journal(void **state)
{
    struct mx *f = *state;
    begin(f, true);
    many_calls(f, 50, 0);
    end(f);
    kms_empty(f->dir);
    counts_from_here(f);
}

/* After its end nobody can say what was used: who must know is told so. */
static void nobody_counts(void **state)
{
    struct mx *f = *state;
    begin(f, true);
    metering_stop(f->m);
    assert_fails(metering_sync(f->m, &f->e), ERR_UNAVAILABLE, "USAGE_UNKNOWN");
}

static void last_use(void **state)
{
    (void)state;
    const struct usage never = {0}, once = {.last_ns = T0};
    assert_true(guard_last_use(&never, T0 - DAY, 0) == 0);
    assert_true(guard_last_use(&never, T0 - DAY, T0) == T0);      /* it may have been used before anybody counted */
    assert_true(guard_last_use(&never, T0 + DAY, T0) == 0);       /* made since: all its uses are known */
    assert_true(guard_last_use(&once, T0 - DAY, 0) == T0);
    assert_true(guard_last_use(&once, T0 - 2 * DAY, T0 - DAY) == T0);
    assert_true(guard_last_use(&once, T0 - DAY, T0 + DAY) == T0 + DAY);
    const struct usage lost = {.last_ns = T0, .since_ns = T0 + 1};
    assert_true(guard_last_use(&lost, T0 - DAY, 0) == T0 + 1 && guard_last_use(&lost, T0 + 2, 0) == T0);
}

#define M(test) cmocka_unit_test_setup_teardown(test, start, stop)
int main(void)
{
    const struct CMUnitTest tests[] = {
        M(eight_threads), M(what_does_not_count), M(over_deaths), M(a_full_table), M(a_lost_mark), M(a_damaged_mark), M(another_journal), M(nobody_counts), cmocka_unit_test(last_use),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
