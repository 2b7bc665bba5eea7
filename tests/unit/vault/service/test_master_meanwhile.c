/* Rotation of the master while others work: nothing is lost, nothing is left behind, nothing goes that is needed. */
#include "tests/unit/vault/service/moving_fixture.h"

/* Versions are made, disabled and destroyed, and a tenant is made, between the steps: nothing is lost, nothing is left behind. */
static void what_changes_meanwhile(void **state)
{
    struct life *f = *state;
    struct keyring_version v;
    fill(f, VERSIONS);
    struct probe *seals = seal_all(f, VERSIONS);
    ask(f, HSM_MASTER, 2);
    unsigned steps = 0;
    while (moving_of(f, HSM_MASTER).state != MOVING_IDLE) {
        (void)run(f, 1);
        if (steps == 3)
            make_tenant(f, "delta");
        if (steps >= 3 && steps < 3 + VERSIONS - 2) {
            const unsigned n = steps - 2;
            add_version(f, tenants[steps % TENANTS], steps % KEYS);
            set_state(f, version_name(f, tenants[steps % TENANTS], 0, n), VERSION_DISABLED);
            set_state(f, version_name(f, tenants[(steps + 1) % TENANTS], 1, n), VERSION_DESTROY_SCHEDULED);
            if (steps % 2 == 0)
                set_state(f, version_name(f, tenants[(steps + 1) % TENANTS], 1, n), VERSION_DESTROYED);
        }
        steps++;
        assert_true(steps < 500);
    }
    assert_true(steps > 10);
    assert_int_equal(left_under(f, 0, NULL), 0);
    f->hsm->there[HSM_MASTER][1] = false;
    reopen(f);
    size_t opened = 0, refused = 0;
    for (size_t i = 0; i < (size_t)TENANTS * KEYS * VERSIONS; i++) {
        f->e = (struct err){0};
        if (!open_with(f, &seals[i], &f->e).failed)
            opened++;
        else
            refused += f->e.code == ERR_STATE;
    }
    assert_int_equal(opened + refused, TENANTS * KEYS * VERSIONS);
    assert_true(refused >= 10 && opened > 300);
    const struct name destroyed = life_name(version_name(f, tenants[(4 + 1) % TENANTS], 1, 2), NAME_VERSION);
    assert_ok(keyring_version_get(f->s.keyring, &destroyed, &f->a, &v, &f->e));
    assert_int_equal(v.state, VERSION_DESTROYED);
    assert_int_equal(v.wrapped.n, 0);
}

/* What began under the old master before a tenant moved, and commits after: refused, and right when it is done again. */
static void who_was_on_the_way(void **state)
{
    struct life *f = *state;
    const struct name key = life_name(key_name(f, "acme", 0), NAME_CRYPTOKEY), version = life_name(version_name(f, "acme", 0, 1), NAME_VERSION);
    struct keyring_key m;
    struct keyring_version v, late;
    struct tenant t;
    uint64_t seq;
    life_key(f, key_name(f, "acme", 0), 0, 0);
    struct store_txn *make = store_txn_new(f->s.store), *disable = store_txn_new(f->s.store), *tenant = store_txn_new(f->s.store);
    m = life_read(f, key_name(f, "acme", 0));
    assert_ok(keyring_key_rotate(f->s.keyring, &key, &m, make, &f->a, &v, &f->e));
    assert_ok(keyring_version_get(f->s.keyring, &version, &f->a, &late, &f->e));
    late.state = VERSION_DISABLED;
    assert_ok(keyring_version_put(f->s.keyring, &version, &late, VERSION_ENABLED, disable, &f->e));
    assert_ok(keyring_tenant_create(f->s.keyring, BYTES_LIT("epsilon"), BYTES_LIT("eu"), BYTES_LIT(""), tenant, &t, &f->e));
    ask(f, HSM_MASTER, 2);
    run(f, 0);
    assert_int_equal(moving_of(f, HSM_MASTER).state, MOVING_IDLE);
    assert_fails(store_txn_commit(make, &seq, &f->e), ERR_CONFLICT, NULL);
    assert_fails(store_txn_commit(disable, &seq, &f->e), ERR_CONFLICT, NULL);
    assert_fails(store_txn_commit(tenant, &seq, &f->e), ERR_CONFLICT, NULL);
    store_txn_free(make);
    store_txn_free(disable);
    store_txn_free(tenant);
    add_version(f, "acme", 0);
    make_tenant(f, "epsilon");
    set_state(f, version_name(f, "acme", 0, 1), VERSION_DISABLED);
    assert_int_equal(left_under(f, 0, NULL), 0);
}

/* A version that is made between the reading of a step and its commit is left behind by neither. */
static void what_is_made_in_between(void **state)
{
    struct life *f = *state;
    struct rekey r = {0};
    unsigned steps = 0;
    life_key(f, key_name(f, "acme", 0), 0, 0);
    ask(f, HSM_MASTER, 2);
    (void)run(f, 2); /* made and current */
    assert_int_equal(keyring_master(f->s.keyring), 2);
    for (; !r.end; steps++) {
        struct store_txn *txn = store_txn_new(f->s.store);
        assert_ok(keyring_rekey(f->s.keyring, BYTES_LIT("acme"), &r, txn, &f->e));
        add_version(f, "acme", 0);
        life_commit(f, txn);
        keyring_rekeyed(f->s.keyring, BYTES_LIT("acme"));
    }
    rekey_release(&r);
    assert_int_equal(steps, 2);
    assert_int_equal(left_under(f, 1, NULL), 0);
    run(f, 0);
    assert_int_equal(moving_of(f, HSM_MASTER).state, MOVING_IDLE);
    f->hsm->there[HSM_MASTER][1] = false;
    reopen(f);
    for (unsigned v = 1; v <= 3; v++)
        (void)seal_with(f, key_name(f, "acme", 0), v);
}

/* A cached key is not touched; a cached tenant from before leads nobody astray. */
static void who_holds_a_key(void **state)
{
    struct life *f = *state;
    struct tenant_ref *stale;
    fill(f, 2);
    struct probe seal = seal_with(f, key_name(f, "acme", 0), 1), cold = seal_with(f, key_name(f, "beta", 1), 2);
    struct key_handle *h;
    struct key_view v;
    const struct name n = life_name(seal.key, NAME_CRYPTOKEY);
    reopen(f);
    assert_ok(keyring_use_decrypt(f->s.keyring, &n, KEY_USE_ENCRYPT, seal.kvid, true, &h, &v, &f->e));
    assert_ok(keyring_tenant_hold(f->s.keyring, BYTES_LIT("beta"), true, &stale, &f->e));
    ask(f, HSM_MASTER, 2);
    run(f, 0);
    const unsigned derived = f->hsm->derived;
    assert_ok(open_with(f, &seal, &f->e));
    assert_int_equal(f->hsm->derived, derived); /* it was still there */
    key_handle_unref(h);
    assert_ok(open_with(f, &cold, &f->e));
    tenant_ref_drop(stale);
}

/* A version that does not unwrap holds up nothing but the retirement, which says what is left. */
static void one_that_is_broken(void **state)
{
    struct life *f = *state;
    struct mover_status st;
    struct record r;
    fill(f, 4);
    /* Its wrapped key becomes another's: behind a good seal, and of no use. */
    struct tenant t;
    assert_ok(keyring_tenant_get(f->s.keyring, BYTES_LIT("beta"), true, &t, &f->e));
    const struct store_scan q = {.kind = REC_VERSION, .limit = 2};
    struct store_scan beta = q;
    memcpy(beta.tenant, t.id, sizeof beta.tenant);
    struct record *rows;
    size_t n;
    assert_ok(store_scan(f->s.store, &beta, &f->a, &rows, &n, &f->e));
    r = rows[0];
    uint8_t *body = arena_dup(&f->a, r.body.p, r.body.n);
    memcpy(body + r.body.n - 20, rows[1].body.p + rows[1].body.n - 20, 20);
    r.body = BYTES(body, r.body.n);
    struct store_txn *txn = store_txn_new(f->s.store);
    store_txn_put(txn, &r, rows[0].revision);
    life_commit(f, txn);

    const struct mover_options o = {.s = &f->s, .master_pace = 1000000, .seal_pace = 1000000};
    struct mover *m = mover_new(&o);
    ask(f, HSM_MASTER, 2);
    while (mover_step(m) == MOVER_AGAIN)
        fake_clock_advance(&f->clock, SECOND / 100);
    mover_status(m, HSM_MASTER, &st);
    assert_true(st.failing && strstr(st.why, "TOKEN_SECRET_NEEDED") != NULL && strstr(st.why, "projects/beta") != NULL);
    assert_int_equal(moving_of(f, HSM_MASTER).state, MOVING_MOVING);
    assert_int_equal(secret_of(f, HSM_MASTER, 1).state, SECRET_RETIRING);
    assert_int_equal(left_under(f, 1, NULL), 2); /* the version, and its tenant's check value */
    set_state(f, arena_strdup(&f->a, r.name), VERSION_DESTROY_SCHEDULED);
    set_state(f, arena_strdup(&f->a, r.name), VERSION_DESTROYED);
    fake_clock_advance(&f->clock, MOVER_PROVE_MS * SECOND / 1000);
    while (mover_step(m) == MOVER_AGAIN)
        fake_clock_advance(&f->clock, SECOND / 100);
    assert_int_equal(moving_of(f, HSM_MASTER).state, MOVING_IDLE);
    assert_int_equal(secret_of(f, HSM_MASTER, 1).state, SECRET_RETIRED);
    mover_free(m);
}

/* Asked for and not possible: what is under it is named, and the secret stays. */
static void not_destroyed_while_needed(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    struct token_secrets all;
    fill(f, 2);
    ask(f, HSM_MASTER, 2);
    run(f, 0);
    /* As an older store that was accepted would have it: its records say retired, and its versions are under it. */
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(token_secrets_read(f->s.store, HSM_MASTER, &all, &f->e));
    token_secrets_find(&all, 1)->state = SECRET_CURRENT;
    token_secrets_find(&all, 2)->state = SECRET_DESTROYING;
    token_secret_put(txn, token_secrets_find(&all, 1));
    token_secret_put(txn, token_secrets_find(&all, 2));
    life_commit(f, txn);
    reopen(f);
    (void)run(f, 0);
    assert_int_equal(secret_of(f, HSM_MASTER, 2).state, SECRET_RETIRED);
    assert_true(f->hsm->there[HSM_MASTER][2]);
    (void)life_events(f, "system:master", &ev);
    assert_non_null(memmem(ev.after.p, ev.after.n, "\"under_it\":33", 13)); /* 30 versions, 3 tenants */
}

#define LIFE(test) cmocka_unit_test_setup_teardown(test, life_start, life_stop)
int main(void)
{
    const struct CMUnitTest tests[] = {
        LIFE(what_changes_meanwhile),
        LIFE(who_was_on_the_way),
        LIFE(what_is_made_in_between),
        LIFE(who_holds_a_key),
        LIFE(one_that_is_broken),
        LIFE(not_destroyed_while_needed),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
