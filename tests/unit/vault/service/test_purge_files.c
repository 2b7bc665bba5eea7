/* The end of a tenant that is large; what of it the files of the store still show when its certificate is signed; and what comes late. */
#include "tests/unit/vault/service/in_files.h"
#include "tests/unit/vault/service/purge_fixture.h"

#include "kms/keyring/usage.h"

/* More times than one transaction takes rows, with another's among them: the pages do not come out even. */
static void more_due_than_a_transaction_takes(void **state)
{
    struct fixture *f = *state;
    enum { TIMES = STORE_TXN_MAX + 300, SOME = 2000 };
    char name[128];
    tenant_make(f, "globex");
    for (int i = 0; i < TIMES;) {
        struct store_txn *txn = store_txn_new(f->l->s.store);
        for (int end = i + SOME; i < TIMES && i < end; i++) {
            (void)snprintf(name, sizeof name, LIFE_RING "/cryptoKeys/k%05d", i);
            due_move(txn, DUE_ROTATION, bytes_str(name), 0, T0 + 3650 * DAY + i);
        }
        life_commit(f->l, txn);
    }
    life_key(f->l, ACME_KEY, 7 * DAY_S, T0 + 3650 * DAY);
    struct store_txn *txn = store_txn_new(f->l->s.store);
    due_move(txn, DUE_ROTATION, BYTES_LIT(GLOBEX_KEY), 0, T0 + 3650 * DAY + 1);
    life_commit(f->l, txn);
    const struct tenant t = tenant_now(f, "acme");
    tenant_to(f, "acme", TENANT_DELETED, T0 + 30 * DAY);
    assert_int_equal(queued(f, DUE_ROTATION), TIMES + 2);
    fake_clock_advance(&f->l->clock, 30 * DAY);
    purge_out(f, "acme");
    nothing_is_left(f, t.id);
    assert_int_equal(queued(f, DUE_ROTATION), 1);
}

/* When the certificate is signed, salt, audit key and wrapped keys are in no file, the store's log included. */
static void in_no_file_once_it_is_signed(void **state)
{
    struct fixture *f = *state;
    struct bodies gone = {.n = 0}, alive = {.n = 0};
    const struct keeper_task sign = {DUE_CERTIFICATE, certificate_due};
    const struct keeper_options o = {.store = f->l->s.store, .clock = &f->l->clock.c, .pace = 1000, .tasks = &sign, .ntasks = 1, .user = &f->l->s};
    unsigned files;
    furnish(f);
    bodies_collect(f->l, REC_TENANT, "projects/acme", &gone);
    bodies_collect(f->l, REC_VERSION, "projects/acme/%", &gone);
    assert_int_equal(gone.n, 1 + KEYS * VERSIONS);
    assert_int_equal(bodies_found_all(f->l, &gone, &files), gone.n); /* they can be found at all */
    tenant_to(f, "acme", TENANT_DELETED, T0 + 30 * DAY);
    bodies_collect(f->l, REC_TENANT, "projects/acme", &gone);
    bodies_collect(f->l, REC_TENANT, "projects/globex", &alive);
    bodies_collect(f->l, REC_VERSION, "projects/globex/%", &alive);
    fake_clock_advance(&f->l->clock, 30 * DAY);
    purge_out(f, "acme");
    struct keeper *k = keeper_new(&o);
    keeper_step(k);
    keeper_free(k);
    assert_int_equal(f->l->hsm->signed_count, 1);
    assert_int_equal(bodies_found(f->l, &gone, &files), 0);
    assert_int_equal(bodies_found_all(f->l, &alive, &files), alive.n);
}

/* Two versions were destroyed before; one of them has its certificate, the other's was never signed, and goes with the tenant: of the
 * three that there were the tenant's certificate counts two. */
static void counted_where_it_was_not_signed(void **state)
{
    struct fixture *f = *state;
    struct keyring_version v;
    life_key(f->l, ACME_KEY, 0, 0);
    add_versions(f, ACME_KEY, 2);
    for (unsigned i = 1; i <= 2; i++) {
        char name[160];
        (void)snprintf(name, sizeof name, ACME_KEY "/cryptoKeyVersions/%u", i);
        const struct name n = life_name(name, NAME_VERSION);
        const struct due d = {.what = DUE_DESTRUCTION, .at_ns = T0 + i * DAY, .name = bytes_str(name)};
        const struct due c = {.what = DUE_CERTIFICATE, .at_ns = T0 + DAY, .name = bytes_str(name)};
        (void)life_schedule(f->l, name, T0 + i * DAY);
        fake_clock_advance(&f->l->clock, DAY);
        assert_ok(destruction_due(&f->l->s, &d, &f->e));
        if (i == 1)
            assert_ok(certificate_due(&f->l->s, &c, &f->e));
        assert_ok(keyring_version_get(f->l->s.keyring, &n, &f->l->a, &v, &f->e));
        assert_int_equal(v.state, VERSION_DESTROYED);
    }
    assert_int_equal(f->l->hsm->signed_count, 1);
    tenant_to(f, "acme", TENANT_DELETED, T0 + 40 * DAY);
    fake_clock_advance(&f->l->clock, 40 * DAY);
    purge_out(f, "acme");
    says(certificate(f), "\nkeys: 1\nversions: 2\n");
}

/* ---- counts that come late ---- */
static void uses(struct usage_table *t, const uint8_t tenant[16], unsigned from, unsigned n)
{
    for (unsigned i = from; i < from + n; i++) {
        struct event_use u = {.what = EVENT_USE_ENCRYPT, .items = 1, .primary = 1};
        put_be32(u.kvid, i);
        usage_table_add(t, &(struct usage_use){.tenant = tenant, .principal = BYTES_LIT("acme-orders"), .at_ns = T0, .use = &u});
    }
}

static void begin_the_purge(void *user)
{
    struct fixture *f = user;
    if (tenant_now(f, "acme").state == TENANT_DELETED)
        tenant_to(f, "acme", TENANT_PURGING, 0);
}

/* What a long pause left to be counted, of a tenant whose day has come: while its purge is under way, and when it is gone, nothing of it
 * is written any more. */
static void counts_do_not_outlive_it(void **state)
{
    struct fixture *f = *state;
    struct usage_table *t = usage_table_new(4096);
    struct usage_mark m = {0};
    tenant_make(f, "globex");
    const struct tenant acme = tenant_now(f, "acme"), globex = tenant_now(f, "globex");
    tenant_to(f, "acme", TENANT_DELETED, T0 + 30 * DAY);
    uses(t, acme.id, 0, 3 * USAGE_BATCH);
    uses(t, globex.id, 5000, 10);
    assert_ok(usage_merge(f->l->s.store, t, &m, 10, begin_the_purge, f, &f->e)); /* it begins behind the first transaction */
    assert_int_equal(rows_of(f, REC_USAGE, globex.id), 10);
    assert_in_range(rows_of(f, REC_USAGE, acme.id), USAGE_BATCH - 10, USAGE_BATCH);
    fake_clock_advance(&f->l->clock, 30 * DAY);
    purge_out(f, "acme");
    nothing_is_left(f, acme.id);
    assert_ok(usage_merge(f->l->s.store, t, &m, 20, NULL, NULL, &f->e));
    nothing_is_left(f, acme.id);
    assert_true(m.counted_to == 20);
    struct usage u;
    uint8_t kvid[16] = {0};
    put_be32(kvid, 5000);
    assert_ok(usage_read(f->l->s.store, globex.id, kvid, &f->l->a, &u, &f->e));
    assert_true(u.items[EVENT_USE_ENCRYPT] == 2 && u.counted_to == 20);
    usage_table_free(t);
}

#define LIFE(test) cmocka_unit_test_setup_teardown(test, fixture_start, fixture_stop)
int main(void)
{
    const struct CMUnitTest tests[] = {LIFE(more_due_than_a_transaction_takes), LIFE(in_no_file_once_it_is_signed), LIFE(counts_do_not_outlive_it),
                                       LIFE(counted_where_it_was_not_signed)};
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
