/* The states of a tenant: every move that there is, every one that there is not, and what the clock and a suspension do to its keys. */
#include "tests/unit/vault/service/tenant_fixture.h"

enum { NONE = 0, OUTSIDE = 6 };

/* From each state to each: the whole square, as docs/API.md draws it. */
static void the_table(void **state)
{
    (void)state;
    static const char *const to[] = {
        [NONE] = "", [TENANT_ACTIVE] = "SD", [TENANT_SUSPENDED] = "AD", [TENANT_DELETED] = "ASP", [TENANT_PURGING] = "G", [TENANT_PURGED] = "", [OUTSIDE] = "",
    };
    static const char letters[] = {[NONE] = '-', [TENANT_ACTIVE] = 'A', [TENANT_SUSPENDED] = 'S', [TENANT_DELETED] = 'D', [TENANT_PURGING] = 'P',
                                   [TENANT_PURGED] = 'G', [OUTSIDE] = '-'};
    for (unsigned from = NONE; from <= OUTSIDE; from++)
        for (unsigned next = NONE; next <= OUTSIDE; next++)
            assert_int_equal(sm_can(&tenant_machine, from, next), strchr(to[from], letters[next]) != NULL && letters[next] != '-');
    assert_string_equal(sm_name(&tenant_machine, TENANT_SUSPENDED), "SUSPENDED");
    assert_string_equal(sm_name(&tenant_machine, OUTSIDE), "?");
}

/* A tenant that has come to `is`, by way of `was` where that is DELETED or PURGING. */
static void bring(struct fixture *f, const char *name, enum tenant_state is, enum tenant_state was)
{
    tenant_make(f, name);
    if (is == TENANT_SUSPENDED || was == TENANT_SUSPENDED)
        tenant_to(f, name, TENANT_SUSPENDED, 0);
    if (is >= TENANT_DELETED)
        tenant_to(f, name, TENANT_DELETED, T0 + 30 * DAY);
    if (is == TENANT_PURGING)
        tenant_to(f, name, TENANT_PURGING, 0);
}

/* Every state against every move, at the store: what is refused changes nothing, what is not changes what it should. */
static void every_move(void **state)
{
    static const struct {
        enum tenant_state is, was;
        const char *may; /* A S D P */
    } starts[] = {{TENANT_ACTIVE, 0, "SD"},
                  {TENANT_SUSPENDED, 0, "AD"},
                  {TENANT_DELETED, TENANT_ACTIVE, "AP"}, /* restored to what it was, and to nothing else */
                  {TENANT_DELETED, TENANT_SUSPENDED, "SP"},
                  {TENANT_PURGING, TENANT_ACTIVE, ""},
                  {TENANT_PURGING, TENANT_SUSPENDED, ""}};
    static const char letters[] = "-ASDPG";
    struct fixture *f = *state;
    char name[32];
    unsigned refused = 0, done = 0;
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++)
        for (unsigned to = TENANT_ACTIVE; to <= TENANT_PURGED; to++) {
            (void)snprintf(name, sizeof name, "tenant-%zu-%u", i, to);
            bring(f, name, starts[i].is, starts[i].was);
            const struct tenant before = tenant_now(f, name);
            const struct tenant_move m = {.to = (enum tenant_state)to, .purge_ns = T0 + 90 * DAY, .by = BYTES_LIT("somebody")};
            const size_t purges = queued(f, DUE_PURGE), returns = queued(f, DUE_RETURN);
            if (strchr(starts[i].may, letters[to]) == NULL) {
                assert_fails(tenant_try(f, name, &m, &f->e), ERR_STATE, "TENANT_STATE");
                const struct tenant after = tenant_now(f, name);
                assert_memory_equal(&after, &before, sizeof before);
                assert_int_equal(queued(f, DUE_PURGE), purges);
                refused++;
                continue;
            }
            assert_ok(tenant_try(f, name, &m, &f->e));
            const struct tenant after = tenant_now(f, name);
            const bool deleted = to == TENANT_DELETED || to == TENANT_PURGING;
            assert_int_equal(after.state, to);
            assert_int_equal(after.was, to == TENANT_DELETED ? before.state : to == TENANT_PURGING ? before.was : 0);
            assert_true((after.purge_ns != 0) == deleted && (after.deleted_ns != 0) == deleted);
            assert_string_equal(after.deleted_by, to == TENANT_DELETED ? "somebody" : to == TENANT_PURGING ? "admin" : "");
            assert_int_equal(queued(f, DUE_PURGE), purges + (to == TENANT_DELETED) - (before.state == TENANT_DELETED && !deleted));
            assert_int_equal(queued(f, DUE_RETURN), returns + (to == TENANT_ACTIVE));
            assert_memory_equal(after.id, before.id, sizeof after.id);
            done++;
        }
    assert_int_equal(refused, 22);
    assert_int_equal(done, 8);
}

static void only_as_it_was_read(void **state)
{
    struct fixture *f = *state;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(f->l->s.store), *late = store_txn_new(f->l->s.store);
    struct tenant a = tenant_now(f, "acme"), b = a;
    uint64_t seq;
    const struct tenant_move suspend = {.to = TENANT_SUSPENDED};
    assert_ok(keyring_tenant_move(f->l->s.keyring, &a, &suspend, txn, &f->e));
    assert_ok(keyring_tenant_move(f->l->s.keyring, &b, &suspend, late, &f->e)); /* at once */
    assert_ok(store_txn_commit(txn, &seq, &f->e));
    assert_fails(store_txn_commit(late, &seq, &f->e), ERR_CONFLICT, NULL);
    b = a;
    b.revision--;
    assert_fails(keyring_tenant_move(f->l->s.keyring, &b, &(struct tenant_move){.to = TENANT_ACTIVE}, late, &f->e), ERR_CONFLICT, NULL);
    assert_int_equal(tenant_now(f, "acme").revision, a.revision);
}

/* Thirty and ninety days, to the second; restored one second before, and then never. */
static void until_the_day(void **state)
{
    struct fixture *f = *state;
    struct tenant t;
    tenant_make(f, "thirty");
    tenant_make(f, "ninety");
    tenant_make(f, "restored");
    tenant_to(f, "thirty", TENANT_DELETED, T0 + 30 * DAY);
    tenant_to(f, "ninety", TENANT_DELETED, T0 + 90 * DAY);
    tenant_to(f, "restored", TENANT_DELETED, T0 + 30 * DAY);
    fixture_close(f);
    fake_clock_advance(&f->l->clock, 30 * DAY - SECOND);
    fixture_open(f);
    struct keeper *k = keeper_of(f);
    keeper_step(k);
    assert_int_equal(tenant_now(f, "thirty").state, TENANT_DELETED);
    tenant_to(f, "restored", TENANT_ACTIVE, 0);
    keeper_free(k);
    fake_clock_advance(&f->l->clock, SECOND);
    purge_out(f, "thirty");
    assert_int_equal(tenant_now(f, "ninety").state, TENANT_DELETED);
    fake_clock_advance(&f->l->clock, 60 * DAY);
    purge_out(f, "ninety");
    fake_clock_advance(&f->l->clock, 3650 * DAY);
    k = keeper_of(f);
    keeper_step(k);
    keeper_free(k);
    assert_int_equal(tenant_now(f, "restored").state, TENANT_ACTIVE);
    assert_int_equal(queued(f, DUE_PURGE), 0);
    assert_fails(keyring_tenant_read(f->l->s.keyring, BYTES_LIT("thirty"), &t, &f->e), ERR_NOT_FOUND, NULL);
}

/* A row that leads to a time that the tenant does not have any more takes nothing with it. */
static void a_row_only_leads(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn = store_txn_new(f->l->s.store);
    due_move(txn, DUE_PURGE, BYTES_LIT("projects/acme"), 0, T0 + DAY);
    due_move(txn, DUE_PURGE, BYTES_LIT("projects/nobody"), 0, T0 + DAY);
    due_move(txn, DUE_RETURN, BYTES_LIT("projects/nobody"), 0, T0 + DAY);
    life_commit(f->l, txn);
    tenant_make(f, "later");
    tenant_to(f, "later", TENANT_DELETED, T0 + 90 * DAY);
    txn = store_txn_new(f->l->s.store);
    due_move(txn, DUE_PURGE, BYTES_LIT("projects/later"), 0, T0 + DAY);
    life_commit(f->l, txn);
    fake_clock_advance(&f->l->clock, 2 * DAY);
    struct keeper *k = keeper_of(f);
    keeper_step(k);
    keeper_free(k);
    assert_int_equal(tenant_now(f, "acme").state, TENANT_ACTIVE);
    assert_int_equal(tenant_now(f, "later").state, TENANT_DELETED);
    assert_int_equal(queued(f, DUE_PURGE), 1); /* its own */
    assert_int_equal(queued(f, DUE_RETURN), 0);
}

/* Keys of a suspended tenant do not rotate; when it is back, what fell due meanwhile does, once, and keeps its series. */
static void rotation_waits(void **state)
{
    struct fixture *f = *state;
    static const enum tenant_state closed[] = {TENANT_SUSPENDED, TENANT_DELETED};
    life_key(f->l, ACME_KEY, 7 * DAY_S, T0 + 7 * DAY);
    for (unsigned i = 0; i < 2; i++) {
        const uint32_t newest = life_read(f->l, ACME_KEY).newest;
        tenant_to(f, "acme", closed[i], T0 + 3650 * DAY);
        fake_clock_advance(&f->l->clock, 30 * DAY);
        struct keeper *k = keeper_of(f);
        keeper_step(k);
        keeper_step(k);
        assert_int_equal(life_read(f->l, ACME_KEY).newest, newest);
        assert_int_equal(queued(f, DUE_ROTATION), 0); /* it costs nothing while it lasts */
        keeper_free(k);
        fixture_close(f);
        fixture_open(f);
        tenant_to(f, "acme", TENANT_ACTIVE, 0);
        k = keeper_of(f);
        for (unsigned looks = 0; looks < 4; looks++) {
            fake_clock_advance(&f->l->clock, SECOND);
            keeper_step(k);
        }
        const struct keyring_key m = life_read(f->l, ACME_KEY);
        assert_int_equal(m.newest, newest + 1);
        assert_true(m.next_rotation_ns > clock_wall_ns(&f->l->clock.c) && (m.next_rotation_ns - T0) % (7 * DAY) == 0);
        assert_int_equal(queued(f, DUE_ROTATION), 1);
        assert_int_equal(queued(f, DUE_RETURN), 0);
        keeper_free(k);
    }
}

/* What was to be destroyed is, in whatever state its tenant is: nothing is kept longer than was asked. */
static void destructions_go_on(void **state)
{
    struct fixture *f = *state;
    static const enum tenant_state closed[] = {TENANT_SUSPENDED, TENANT_DELETED};
    char key[96], name[128];
    for (unsigned i = 0; i < 2; i++) {
        struct keyring_version v;
        (void)snprintf(key, sizeof key, LIFE_RING "/cryptoKeys/k%u", i);
        (void)snprintf(name, sizeof name, "%s/cryptoKeyVersions/1", key);
        life_key(f->l, key, 0, 0);
        const struct name n = life_name(name, NAME_VERSION);
        (void)life_schedule(f->l, name, clock_wall_ns(&f->l->clock.c) + DAY);
        tenant_to(f, "acme", closed[i], T0 + 90 * DAY);
        struct keeper *k = keeper_of(f);
        fake_clock_advance(&f->l->clock, DAY - SECOND);
        keeper_step(k);
        assert_ok(keyring_version_get(f->l->s.keyring, &n, &f->l->a, &v, &f->e));
        assert_int_equal(v.state, VERSION_DESTROY_SCHEDULED);
        fake_clock_advance(&f->l->clock, SECOND);
        keeper_step(k);
        assert_ok(keyring_version_get(f->l->s.keyring, &n, &f->l->a, &v, &f->e));
        assert_int_equal(v.state, VERSION_DESTROYED);
        assert_int_equal(v.wrapped.n, 0);
        keeper_free(k);
    }
}

/* Back before the row was worked off: what leaves the queue is only what belongs to a tenant that is still closed. */
static void back_at_once(void **state)
{
    struct fixture *f = *state;
    life_key(f->l, ACME_KEY, 7 * DAY_S, T0 + DAY);
    tenant_to(f, "acme", TENANT_SUSPENDED, 0);
    fake_clock_advance(&f->l->clock, 2 * DAY);
    struct tenant_ref *stale;
    assert_ok(keyring_tenant_hold(f->l->s.keyring, BYTES_LIT("acme"), true, &stale, &f->e)); /* cached as it is now */
    struct tenant t = *tenant_ref_info(stale);
    struct store_txn *txn = store_txn_new(f->l->s.store);
    assert_ok(keyring_tenant_move(f->l->s.keyring, &t, &(struct tenant_move){.to = TENANT_ACTIVE}, txn, &f->e));
    life_commit(f->l, txn); /* and the cache is not told yet */
    const struct due d = {.what = DUE_ROTATION, .at_ns = T0 + DAY, .name = BYTES_LIT(ACME_KEY)};
    assert_fails(rotation_due(&f->l->s, &d, &f->e), ERR_CONFLICT, NULL);
    assert_int_equal(queued(f, DUE_ROTATION), 1);
    tenant_ref_drop(stale);
    keyring_tenant_forget(f->l->s.keyring, BYTES_LIT("acme"));
    assert_ok(rotation_due(&f->l->s, &d, &f->e));
    assert_int_equal(life_read(f->l, ACME_KEY).newest, 2);
}

/* After accept-rollback: every state in the store against every last word of the journal; never back towards more. */
static void what_the_journal_knows(void **state)
{
    struct fixture *f = *state;
    static const enum tenant_state in_store[] = {TENANT_ACTIVE, TENANT_SUSPENDED, TENANT_DELETED, TENANT_PURGING};
    for (size_t i = 0; i < 4; i++)
        for (unsigned to = TENANT_ACTIVE; to <= TENANT_PURGED; to++) {
            char name[32];
            static const uint8_t no_tenant[16];
            struct record r;
            CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
            CLEANUP(buf_release) struct buf body;
            bool changed;
            uint8_t id[16];
            buf_init(&body, 4096);
            (void)snprintf(name, sizeof name, "back-%zu-%u", i, to);
            bring(f, name, in_store[i], TENANT_SUSPENDED);
            if (in_store[i] == TENANT_ACTIVE)
                tenant_to(f, name, TENANT_ACTIVE, 0);
            assert_ok(store_get(f->l->s.store, REC_TENANT, no_tenant, bytes_str(name), &f->l->a, &r, &f->e));
            const struct tenant before = tenant_now(f, name);
            assert_ok(keyring_tenant_row_id(&r, id, &f->e));
            assert_memory_equal(id, before.id, sizeof id);
            assert_ok(keyring_tenant_as_revoked(&r, (enum tenant_state)to, T0 + DAY, &body, &changed, &f->e));
            assert_int_equal(changed, to > in_store[i] || in_store[i] == TENANT_DELETED); /* it may have been restored: it waits longer */
            if (!changed)
                continue;
            assert_ok(model_tenant_get(&r, &m, &f->e));
            const unsigned least = to > in_store[i] ? to : in_store[i];
            assert_int_equal(m.t.state, least == TENANT_PURGED ? TENANT_PURGING : least);
            if (m.t.state == TENANT_PURGING)
                assert_true(m.t.purge_ns == T0 + DAY);
            else if (m.t.state == TENANT_DELETED)
                assert_true(m.t.purge_ns == T0 + 91 * DAY);
        }
}

#define LIFE(test) cmocka_unit_test_setup_teardown(test, fixture_start, fixture_stop)
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table), LIFE(every_move),     LIFE(only_as_it_was_read), LIFE(until_the_day),
        LIFE(a_row_only_leads),      LIFE(rotation_waits), LIFE(destructions_go_on), LIFE(back_at_once),        LIFE(what_the_journal_knows),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
