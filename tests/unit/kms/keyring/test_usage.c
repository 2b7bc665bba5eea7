/* Usage: the table, and what becomes of its rows in the records, whatever comes in between. */
#include "kms/keyring/keyring.h"
#include "kms/keyring/usage.h"

#include "kms/crypto/kdf.h"
#include "tests/unit/kms/testing.h"

#include <stdlib.h>
#include <time.h>

#define SECOND INT64_C(1000000000)

struct ux {
    char dir[64];
    struct fake_clock clock;
    struct store_options so;
    struct store *s;
    struct usage_table *t;
    struct usage_mark mark;
    struct arena a;
    struct err e;
};
static const uint8_t acme[16] = "acme", globex[16] = "globex";

/* There is such a tenant: of others nothing is kept. */
static void tenant_there(struct ux *f, const uint8_t id[16], const char *name)
{
    struct store_txn *txn = store_txn_new(f->s);
    uint64_t seq;
    const struct record by_id = {.kind = REC_TENANT_ID, .id = BYTES(id, 16), .body = bytes_str(name)}, row = {.kind = REC_TENANT, .id = bytes_str(name), .state = TENANT_ACTIVE, .body = BYTES_LIT("its body")};
    store_txn_put(txn, &by_id, STORE_ABSENT);
    store_txn_put(txn, &row, STORE_ABSENT);
    assert_ok(store_txn_commit(txn, &seq, &f->e));
    store_txn_free(txn);
}

static int start(void **state)
{
    struct ux *f = calloc(1, sizeof *f);
    *f = (struct ux){.dir = "/tmp/clv-usage-XXXXXX"};
    assert_non_null(mkdtemp(f->dir));
    fake_clock_init(&f->clock, 1800000000 * SECOND, 5 * SECOND);
    f->so = (struct store_options){.dir = f->dir, .clock = &f->clock.c, .instance = "instance-16byte", .store_key = kms_store_key, .epoch = 1, .readers = 2};
    assert_ok(store_create(&f->so, &f->e));
    assert_ok(store_open(&f->so, &f->s, &f->e));
    tenant_there(f, acme, "acme");
    tenant_there(f, globex, "globex");
    f->t = usage_table_new(8192);
    arena_init(&f->a, 64 << 20);
    *state = f;
    return 0;
}

static int stop(void **state)
{
    struct ux *f = *state;
    usage_table_free(f->t);
    store_close(f->s);
    kms_empty(f->dir);
    assert_int_equal(rmdir(f->dir), 0);
    arena_release(&f->a);
    free(f);
    return 0;
}

static struct event_use use_of(unsigned version, enum event_use_what what, uint64_t items, uint32_t primary)
{
    struct event_use u = {.what = what, .items = items, .primary = primary};
    struct bytes field = BYTES(&version, sizeof version);
    uint8_t hash[32];
    sha256(&field, 1, hash); /* kvids are random */
    memcpy(u.kvid, hash, sizeof u.kvid);
    return u;
}

static void used(struct ux *f, const uint8_t *tenant, const char *who, int64_t at_ns, struct event_use u)
{
    usage_table_add(f->t, &(struct usage_use){.tenant = tenant, .principal = bytes_str(who), .at_ns = at_ns, .use = &u});
}

static void merge(struct ux *f, uint64_t upto)
{
    assert_ok(usage_merge(f->s, f->t, &f->mark, upto, NULL, NULL, &f->e));
    usage_table_clear(f->t);
    assert_true(f->mark.counted_to == upto);
}

static struct usage of(struct ux *f, const uint8_t *tenant, unsigned version)
{
    const struct event_use u = use_of(version, EVENT_USE_ENCRYPT, 1, 0);
    struct usage got;
    assert_ok(usage_read(f->s, tenant, u.kvid, &f->a, &got, &f->e));
    return got;
}

static void adds_up(void **state)
{
    struct ux *f = *state;
    struct usage u = of(f, acme, 1);
    assert_true(u.last_ns == 0 && u.ncallers == 0 && !u.more && u.items[EVENT_USE_ENCRYPT] == 0);
    used(f, acme, "orders", 10, use_of(1, EVENT_USE_ENCRYPT, 1, 1));
    used(f, acme, "orders", 12, use_of(1, EVENT_USE_ENCRYPT, 1000, 1));
    used(f, acme, "billing", 11, use_of(1, EVENT_USE_DECRYPT, 7, 1));
    used(f, acme, "orders", 9, use_of(1, EVENT_USE_WRAP, 2, 1)); /* events are not in order of time */
    used(f, acme, "orders", 13, use_of(2, EVENT_USE_UNWRAP, 3, 1));
    used(f, globex, "orders2", 99, use_of(3, EVENT_USE_UNWRAP, 5, 1));
    assert_int_equal(usage_table_rows(f->t), 4);
    merge(f, 6);
    used(f, acme, "orders", 20, use_of(1, EVENT_USE_DECRYPT, 1, 1));
    merge(f, 7);
    u = of(f, acme, 1);
    assert_true(u.items[EVENT_USE_ENCRYPT] == 1001 && u.items[EVENT_USE_DECRYPT] == 8 && u.items[EVENT_USE_WRAP] == 2 && u.items[EVENT_USE_UNWRAP] == 0);
    assert_true(u.last_ns == 20 && u.ncallers == 2 && !u.more && u.counted_to == 7);
    assert_true(bytes_equal(u.callers[0].name, BYTES_LIT("orders")) && u.callers[0].last_ns == 20);
    assert_true(bytes_equal(u.callers[1].name, BYTES_LIT("billing")) && u.callers[1].last_ns == 11);
    u = of(f, acme, 2);
    assert_true(u.items[EVENT_USE_UNWRAP] == 3 && u.last_ns == 13 && u.counted_to == 6);
    u = of(f, globex, 3);
    assert_true(u.items[EVENT_USE_UNWRAP] == 5 && u.ncallers == 1);
    u = of(f, acme, 3); /* a kvid of another tenant is another version's */
    assert_true(u.items[EVENT_USE_UNWRAP] == 0 && u.ncallers == 0);
}

/* Exact up to sixty-four; from then on the latest, and that there were more. */
static void callers(void **state)
{
    struct ux *f = *state;
    char who[32];
    for (int i = 0; i < USAGE_CALLERS_MAX; i++) {
        (void)snprintf(who, sizeof who, "p%03d", i);
        used(f, acme, who, 100 + i, use_of(1, EVENT_USE_DECRYPT, 1, 1));
        if (i % 10 == 9)
            merge(f, (uint64_t)i + 1);
    }
    merge(f, 100);
    struct usage u = of(f, acme, 1);
    assert_true(u.ncallers == USAGE_CALLERS_MAX && !u.more);
    for (int i = 0; i < USAGE_CALLERS_MAX; i++)
        assert_true(u.callers[i].last_ns == 100 + USAGE_CALLERS_MAX - 1 - i);
    used(f, acme, "p000", 500, use_of(1, EVENT_USE_DECRYPT, 1, 1)); /* one who is known already */
    merge(f, 101);
    u = of(f, acme, 1);
    assert_true(u.ncallers == USAGE_CALLERS_MAX && !u.more && bytes_equal(u.callers[0].name, BYTES_LIT("p000")));
    used(f, acme, "late", 600, use_of(1, EVENT_USE_DECRYPT, 1, 1));
    merge(f, 102);
    u = of(f, acme, 1);
    assert_true(u.ncallers == USAGE_CALLERS_MAX && u.more && bytes_equal(u.callers[0].name, BYTES_LIT("late")));
    for (size_t i = 0; i < u.ncallers; i++)
        assert_false(bytes_equal(u.callers[i].name, BYTES_LIT("p001"))); /* the one seen least lately made room */
    assert_true(u.items[EVENT_USE_DECRYPT] == USAGE_CALLERS_MAX + 2);
}

static uint64_t during(const struct usage *u, uint32_t primary)
{
    for (int i = 0; i < 2; i++)
        if (u->during[i].primary == primary)
            return u->during[i].opened;
    return 0;
}

/* What was opened since the last rotation begins anew with each; a straggler of the one before does no harm. */
static void since_the_rotation(void **state)
{
    struct ux *f = *state;
    used(f, acme, "a", 1, use_of(1, EVENT_USE_DECRYPT, 10, 1));
    used(f, acme, "a", 1, use_of(1, EVENT_USE_ENCRYPT, 5, 1));
    merge(f, 1);
    struct usage u = of(f, acme, 1);
    assert_true(during(&u, 1) == 10 && during(&u, 2) == 0);
    used(f, acme, "a", 2, use_of(1, EVENT_USE_DECRYPT, 1, 2));
    used(f, acme, "b", 2, use_of(1, EVENT_USE_UNWRAP, 2, 2));
    used(f, acme, "a", 2, use_of(1, EVENT_USE_DECRYPT, 4, 1)); /* was under way */
    merge(f, 2);
    u = of(f, acme, 1);
    assert_true(during(&u, 1) == 14 && during(&u, 2) == 3);
    used(f, acme, "a", 3, use_of(1, EVENT_USE_DECRYPT, 9, 3));
    merge(f, 3);
    u = of(f, acme, 1);
    assert_true(during(&u, 3) == 9 && during(&u, 2) == 3 && during(&u, 1) == 0);
    assert_true(u.items[EVENT_USE_DECRYPT] == 24 && u.items[EVENT_USE_UNWRAP] == 2);
}

enum { MANY = 3 * USAGE_BATCH + 5 };
static void use_many(struct ux *f)
{
    for (unsigned i = 0; i < MANY; i++)
        used(f, acme, "a", 10, use_of(i, EVENT_USE_ENCRYPT, i + 1, 1));
}
static void expect_many(struct ux *f, uint64_t times)
{
    for (unsigned i = 0; i < MANY; i++) {
        const struct usage u = of(f, acme, i);
        if (u.items[EVENT_USE_ENCRYPT] != (i + 1) * times)
            fail_msg("version %u: %llu", i, (unsigned long long)u.items[EVENT_USE_ENCRYPT]);
    }
}
static void count_pauses(void *user)
{
    ++*(unsigned *)user;
}

/* Death after each number of transactions: the mark says up to where the records may be ahead, and the same again completes it. */
static void death_between_two_transactions(void **state)
{
    struct ux *f = *state;
    unsigned pauses = 0;
    uint64_t rounds = 0;
    for (unsigned part = 0; part <= MANY; part += USAGE_BATCH, rounds++) {
        const struct usage_mark before = f->mark;
        const uint64_t upto = before.counted_to + 10;
        for (unsigned i = 0; i < part; i++) /* what the transactions before the death did */
            used(f, acme, "a", 10, use_of(i, EVENT_USE_ENCRYPT, i + 1, 1));
        merge(f, upto);
        f->mark = (struct usage_mark){.counted_to = before.counted_to, .under_way = upto};
        assert_ok(usage_mark_put(f->s, &f->mark, &f->e));
        store_close(f->s);
        assert_ok(store_open(&f->so, &f->s, &f->e));
        assert_ok(usage_mark_read(f->s, &f->mark, &f->e));
        assert_true(f->mark.counted_to == before.counted_to && f->mark.under_way == upto);
        use_many(f);
        assert_ok(usage_merge(f->s, f->t, &f->mark, upto, count_pauses, &pauses, &f->e));
        usage_table_clear(f->t);
        expect_many(f, rounds + 1);
    }
    assert_int_equal(pauses, 3 * rounds);
    assert_true(rounds == 4 && f->mark.counted_to == 40);
}

/* A journal that begins anew gives the same indexes again: they are others, and count. */
static void another_series(void **state)
{
    struct ux *f = *state;
    used(f, acme, "a", 10, use_of(1, EVENT_USE_ENCRYPT, 3, 1));
    merge(f, 1000);
    f->mark = (struct usage_mark){.series = 1};
    used(f, acme, "a", 11, use_of(1, EVENT_USE_ENCRYPT, 4, 1));
    merge(f, 5);
    struct usage u = of(f, acme, 1);
    assert_true(u.items[EVENT_USE_ENCRYPT] == 7 && u.series == 1 && u.counted_to == 5);
}

/* A table that was full, cleared, filled again: no row of before, and none lost. */
static void full_and_again(void **state)
{
    struct ux *f = *state;
    usage_table_free(f->t);
    f->t = usage_table_new(5000);
    for (int round = 1; round <= 3; round++) {
        assert_true(usage_table_room(f->t, 5000) && !usage_table_room(f->t, 5001));
        for (unsigned i = 0; i < 5000; i++)
            used(f, acme, "a", round, use_of(i, EVENT_USE_ENCRYPT, 1, 1));
        for (unsigned i = 0; i < 5000; i++)
            used(f, acme, "a", round, use_of(i, EVENT_USE_DECRYPT, 1, 1));
        assert_true(usage_table_rows(f->t) == 5000 && !usage_table_room(f->t, 1));
        merge(f, (uint64_t)round);
        used(f, acme, "b", round, use_of(17, EVENT_USE_WRAP, 1, 1)); /* a nearly empty one is cleared another way */
        assert_int_equal(usage_table_rows(f->t), 1);
        usage_table_clear(f->t);
    }
    for (unsigned i = 0; i < 5000; i += 7) {
        const struct usage u = of(f, acme, i);
        assert_true(u.items[EVENT_USE_ENCRYPT] == 3 && u.items[EVENT_USE_DECRYPT] == 3 && u.items[EVENT_USE_WRAP] == 0 && u.ncallers == 1);
    }
}

static void not_ours(void **state)
{
    struct ux *f = *state;
    const struct event_use v = use_of(1, EVENT_USE_ENCRYPT, 1, 1);
    struct usage u;
    uint64_t seq;
    used(f, acme, "orders", 10, v);
    merge(f, 6);
    struct record r;
    assert_ok(store_get(f->s, REC_USAGE, acme, BYTES(v.kvid, sizeof v.kvid), &f->a, &r, &f->e));
    uint8_t *body = arena_dup(&f->a, r.body.p, r.body.n);
    const struct {
        size_t at, cut;
        uint8_t value;
    } wrong[] = {{0, 0, 2}, {85, 0, 2}, {86, 0, 65}, {86, 0, 2}, {0, 1, 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const uint8_t was = body[wrong[i].at];
        body[wrong[i].at] = wrong[i].value;
        r.body = BYTES(body, 87 + 8 + 2 + 6 - wrong[i].cut);
        struct store_txn *txn = store_txn_new(f->s);
        store_txn_put(txn, &r, STORE_ANY);
        assert_ok(store_txn_commit(txn, &seq, &f->e));
        store_txn_free(txn);
        assert_fails(usage_read(f->s, acme, v.kvid, &f->a, &u, &f->e), ERR_DATA_LOSS, "RECORD_MALFORMED");
        body[wrong[i].at] = was;
    }
    used(f, acme, "billing", 20, v); /* the counting goes on, of all and of this one; and it says since when */
    used(f, acme, "billing", 15, use_of(2, EVENT_USE_WRAP, 1, 1));
    merge(f, 8);
    u = of(f, acme, 1);
    assert_true(u.items[EVENT_USE_ENCRYPT] == 1 && u.since_ns == 20 && u.ncallers == 1);
    u = of(f, acme, 2);
    assert_true(u.items[EVENT_USE_WRAP] == 1 && u.since_ns == 0);
}

/* What the audit thread does for each call; the figure is printed, and only an absurd one fails. */
static void speed(void **state)
{
    struct ux *f = *state;
    enum { ROUNDS = 40, CALLS = 50000, VERSIONS = 200 };
    static const char *const who[] = {"acme-orders", "acme-billing", "acme-support-desk", "acme-warehouse"};
    struct event_use all[VERSIONS];
    double best = 1e18;
    for (unsigned i = 0; i < VERSIONS; i++)
        all[i] = use_of(i, EVENT_USE_DECRYPT, 1, 1);
    for (int round = 0; round < ROUNDS; round++) { /* the machine has other work, too */
        struct timespec a, b;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
        for (unsigned i = 0; i < CALLS; i++)
            used(f, acme, who[i % 4], i, all[i % VERSIONS]);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
        const double ns = ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / CALLS;
        best = ns < best ? ns : best;
    }
    printf("%-60s %6.1f ns\n", "a use counted, 200 versions, 4 principals", best);
    assert_true(best < 20000);
    assert_int_equal(usage_table_rows(f->t), VERSIONS);
}

#define T(test) cmocka_unit_test_setup_teardown(test, start, stop)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(adds_up), T(callers), T(since_the_rotation), T(death_between_two_transactions), T(another_series), T(full_and_again), T(not_ours), T(speed),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
