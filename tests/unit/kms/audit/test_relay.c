#include "kms/audit/internal.h"
#include "kms/store/store.h"
#include "tests/unit/kms/audit/fixture.h"

struct rx {
    struct jx jx;
    char store_dir[64];
    struct store_options so;
    struct store *s;
    struct relay *r;
    atomic_bool no_key;
};

static const struct audit_tenant *tenant(void *user, const uint8_t id[16])
{
    struct rx *x = user;
    (void)id;
    return atomic_load(&x->no_key) ? NULL : &x->jx.tenant;
}
static struct result relay_up(struct rx *x)
{
    struct relay_hooks h = {tenant, x};
    return relay_start(x->jx.j, x->s, &h, &x->r, &x->jx.e);
}
static void relay_down(struct rx *x)
{
    relay_stop(x->r);
    x->r = NULL;
}

static int setup(void **state)
{
    static struct rx x;
    memset(&x, 0, sizeof x);
    jx_init(&x.jx);
    jx_open(&x.jx);
    memcpy(x.store_dir, "/tmp/clv-relay-XXXXXX", 22);
    assert_non_null(mkdtemp(x.store_dir));
    x.so = (struct store_options){.dir = x.store_dir, .clock = &clock_system, .instance = "instance-16bytes", .store_key = kms_store_key,
                                  .epoch = 1, .readers = 2};
    assert_false(store_create(&x.so, &x.jx.e).failed);
    assert_false(store_open(&x.so, &x.s, &x.jx.e).failed);
    *state = &x;
    return 0;
}
static void remove_store(struct rx *x)
{
    store_close(x->s);
    x->s = NULL;
    kms_empty(x->store_dir);
}
static int teardown(void **state)
{
    struct rx *x = *state;
    relay_stop(x->r);
    remove_store(x);
    rmdir(x->store_dir);
    jx_stop(&x->jx);
    return 0;
}

static uint64_t change(struct rx *x, const char *id)
{
    static const uint8_t t0[16];
    struct record r = {.kind = REC_META, .id = bytes_str(id)};
    struct audit_event ev = {.time_unix_ns = 77, .resource = bytes_str(id)};
    CLEANUP(buf_release) struct buf bytes;
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(x->s);
    uint64_t seq = 0;
    buf_init(&bytes, EVENT_MAX_BYTES);
    event_encode(&ev, &bytes);
    store_txn_put(t, &r, STORE_ANY);
    store_txn_event(t, t0, buf_bytes(&bytes));
    assert_false(store_txn_commit(t, &seq, &x->jx.e).failed);
    return seq;
}
static void await_durable(struct rx *x, uint64_t seq, struct jx_entry *w)
{
    jx_entry_init(w);
    relay_when_durable(x->r, seq, &w->en);
    jx_await(w);
}
/* Index i of the journal holds outbox event i + 1, once, with its id and its name. */
static void expect_all(struct rx *x, uint64_t n)
{
    struct journal_record *rec;
    size_t got;
    uint8_t incarnation[16];
    store_incarnation(x->s, incarnation);
    assert_false(journal_read(x->jx.j, 0, 100000, &x->jx.a, &rec, &got, &x->jx.e).failed);
    assert_int_equal(got, n);
    for (uint64_t i = 0; i < n; i++) {
        uint8_t plain[9000], id[16];
        char want[32];
        struct audit_event ev;
        assert_false(
            aead_open(x->jx.key, 0, BYTES(rec[i].leaf, JOURNAL_LEAF_BYTES), rec[i].sealed_body, plain, &x->jx.e).failed);
        assert_false(event_decode(BYTES(plain + 32, rec[i].sealed_body.n - AEAD_OVERHEAD - 32), &ev, &x->jx.e).failed);
        event_outbox_id(incarnation, i + 1, id);
        assert_true(id[0] & 0x80);
        assert_memory_equal(ev.id, id, 16);
        assert_memory_equal(rec[i].leaf + 1, id, 16);
        assert_int_equal(get_be64(rec[i].leaf + 17), 77);
        snprintf(want, sizeof want, "e%llu", (unsigned long long)(i + 1));
        assert_true(bytes_equal(ev.resource, bytes_str(want)));
    }
}
static void changes(struct rx *x, uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i <= to; i++) {
        char id[32];
        snprintf(id, sizeof id, "e%llu", (unsigned long long)i);
        assert_int_equal(change(x, id), i);
    }
}

static void test_copies_and_answers(void **state)
{
    struct rx *x = *state;
    struct jx_entry w;
    changes(x, 1, 3); /* before it starts */
    assert_false(relay_up(x).failed);
    await_durable(x, 3, &w);
    assert_false(w.failed);
    assert_int_equal(w.en.receipt.index, 2);
    changes(x, 4, 300); /* over a batch */
    await_durable(x, 300, &w);
    assert_false(w.failed);
    assert_int_equal(w.en.receipt.index, 299);
    await_durable(x, 17, &w); /* long durable: its receipt is still at hand */
    assert_false(w.failed);
    assert_int_equal(w.en.receipt.index, 16);
    expect_all(x, 300);
    assert_int_equal(journal_outbox_seq(x->jx.j), 300);
}

static void test_resumes_exactly_once(void **state)
{
    struct rx *x = *state;
    struct jx_entry w;
    for (uint64_t round = 0; round < 5; round++) {
        assert_false(relay_up(x).failed);
        changes(x, round * 20 + 1, round * 20 + 20);
        if (round % 2)
            await_durable(x, round * 20 + 20, &w); /* in the others it is stopped in the middle */
        relay_down(x);
        jx_close(&x->jx);
        jx_open(&x->jx);
    }
    assert_false(relay_up(x).failed);
    await_durable(x, 100, &w);
    expect_all(x, 100);
}

static void test_trims_what_is_durable(void **state)
{
    struct rx *x = *state;
    struct jx_entry w;
    struct outbox_event *ev;
    size_t n = 0;
    assert_false(relay_up(x).failed);
    changes(x, 1, 700);
    await_durable(x, 700, &w);
    changes(x, 701, 702);
    await_durable(x, 702, &w);
    relay_down(x);
    assert_false(store_outbox_read(x->s, 0, 1000, &x->jx.a, &ev, &n, &x->jx.e).failed);
    assert_true(n >= 1 && n < 600);
    assert_int_equal(ev[n - 1].seq, 702);
    assert_false(relay_up(x).failed); /* a trimmed outbox still meets the journal */
    changes(x, 703, 705);
    await_durable(x, 705, &w);
    expect_all(x, 705);
}

static void test_journal_trouble(void **state)
{
    struct rx *x = *state;
    struct jx_entry w, later;
    assert_false(relay_up(x).failed);
    changes(x, 1, 5);
    await_durable(x, 5, &w);
    atomic_store(&x->jx.sync_fault, EIO);
    changes(x, 6, 8); /* the store goes on: its commit is the durability point */
    await_durable(x, 8, &w);
    assert_true(w.failed);
    assert_string_equal(w.err.reason, "AUDIT_UNAVAILABLE");
    assert_true(atomic_load(&x->jx.faults) > 0);
    assert_false(journal_admits(x->jx.j));
    atomic_store(&x->jx.sync_fault, 0);
    do
        await_durable(x, 8, &later);
    while (later.failed);
    assert_int_equal(later.en.receipt.index, 7);
    expect_all(x, 8); /* all of them, once, in order */
}

/* What keeps "exactly once" when a group fails and the next one would not: the journal takes only the successor. */
static void test_journal_takes_only_the_successor(void **state)
{
    struct rx *x = *state;
    static const struct {
        uint64_t seq;
        bool taken;
    } steps[] = {{2, false}, {1, true}, {1, false}, {3, false}, {2, true}, {3, true}};
    const uint8_t id[16] = {0x80};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct jx_entry w;
        jx_entry_init(&w);
        assert_false(
            journal_submit_outbox(x->jx.j, &w.en, &x->jx.tenant, id, 1, BYTES_LIT("e"), steps[i].seq, &x->jx.e).failed);
        jx_await(&w);
        assert_int_equal(w.failed, !steps[i].taken);
        if (w.failed)
            assert_string_equal(w.err.reason, "AUDIT_UNAVAILABLE");
        if (i == 3) { /* the rule outlives a restart */
            jx_close(&x->jx);
            jx_open(&x->jx);
        }
    }
    assert_int_equal(journal_outbox_seq(x->jx.j), 3);
    assert_int_equal(jx_next(&x->jx), 3);
}

static void test_no_audit_key(void **state)
{
    struct rx *x = *state;
    struct jx_entry w;
    atomic_store(&x->no_key, true);
    assert_false(relay_up(x).failed);
    changes(x, 1, 2);
    await_durable(x, 2, &w);
    assert_true(w.failed);
    atomic_store(&x->no_key, false);
    do
        await_durable(x, 2, &w);
    while (w.failed);
    expect_all(x, 2);
}

static void test_they_must_fit(void **state)
{
    struct rx *x = *state;
    struct jx_entry w;
    assert_false(relay_up(x).failed);
    changes(x, 1, 4);
    await_durable(x, 4, &w);
    relay_down(x);
    assert_false(store_outbox_trim(x->s, 4, &x->jx.e).failed);
    /* a journal without what the store has given away */
    struct jx other;
    jx_init(&other);
    jx_open(&other);
    struct relay_hooks h = {tenant, x};
    struct err e = {0};
    assert_true(relay_start(other.j, x->s, &h, &x->r, &e).failed);
    assert_int_equal(e.code, ERR_DATA_LOSS);
    assert_string_equal(e.reason, "JOURNAL_BEHIND");
    jx_stop(&other);
    /* a store that never made what the journal has */
    remove_store(x);
    assert_false(store_create(&x->so, &x->jx.e).failed);
    assert_false(store_open(&x->so, &x->s, &x->jx.e).failed);
    assert_true(relay_up(x).failed);
    assert_int_equal(x->jx.e.code, ERR_DATA_LOSS);
    assert_string_equal(x->jx.e.reason, "STORE_BEHIND");
    assert_null(x->r);
}

static void test_stop_answers_waiters(void **state)
{
    struct rx *x = *state;
    struct jx_entry w;
    assert_false(relay_up(x).failed);
    jx_entry_init(&w);
    relay_when_durable(x->r, 1000, &w.en); /* never comes */
    relay_down(x);
    jx_await(&w);
    assert_true(w.failed);
    assert_int_equal(w.err.code, ERR_UNAVAILABLE);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_copies_and_answers), T(test_resumes_exactly_once), T(test_trims_what_is_durable), T(test_journal_trouble),
        T(test_no_audit_key),       T(test_they_must_fit),        T(test_stop_answers_waiters),
        T(test_journal_takes_only_the_successor),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
