/* Rotation and destruction of the master, over a fake clock and a stand-in token: everything moves, whoever dies in between; nothing is used before
 * it is saved. */
#include "tests/unit/vault/service/moving_fixture.h"

/* Three tenants, 450 versions; the record says how far it is; then the old master goes, and everything still opens. */
static void everything_moves(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    uint64_t versions;
    fill(f, VERSIONS);
    struct probe *seals = seal_all(f, VERSIONS);
    struct probe before = seals[0];
    ask(f, HSM_MASTER, 2);
    run(f, 0);
    assert_int_equal(moving_of(f, HSM_MASTER).state, MOVING_IDLE);
    assert_int_equal(moving_of(f, HSM_MASTER).done, TENANTS * KEYS * VERSIONS);
    assert_int_equal(moving_of(f, HSM_MASTER).total, TENANTS * KEYS * VERSIONS);
    assert_int_equal(moving_of(f, HSM_MASTER).tenants, TENANTS);
    assert_int_equal(keyring_master(f->s.keyring), 2);
    assert_int_equal(secret_of(f, HSM_MASTER, 1).state, SECRET_RETIRED);
    assert_int_equal(secret_of(f, HSM_MASTER, 2).state, SECRET_CURRENT);
    assert_true(secret_of(f, HSM_MASTER, 1).retired_ns > T0 && secret_of(f, HSM_MASTER, 1).saved_ns >= T0 && secret_of(f, HSM_MASTER, 2).made_ns >= T0);
    assert_int_equal(left_under(f, 1, &versions), 0);
    assert_int_equal(versions, TENANTS * KEYS * VERSIONS);
    assert_int_equal(left_under(f, 0, NULL), 0);
    open_all(f, seals, VERSIONS);
    assert_int_equal(f->hsm->generated, 1);
    assert_int_equal(f->hsm->backups, 1);
    const size_t events = life_events(f, "system:master", &ev);
    assert_true(bytes_equal(ev.action, BYTES_LIT("masters.retire")) && bytes_equal(ev.resource, BYTES_LIT("masters/1")));
    assert_non_null(memmem(ev.after.p, ev.after.n, "\"versions\":450,\"under_another_master\":0", 38));
    assert_true(events >= 4 + (TENANTS * KEYS * VERSIONS + REKEY_PAGE - 1) / REKEY_PAGE);
    doom(f, HSM_MASTER, 1);
    run(f, 0);
    assert_int_equal(secret_of(f, HSM_MASTER, 1).state, SECRET_DESTROYED);
    assert_false(f->hsm->there[HSM_MASTER][1]);
    assert_int_equal(f->hsm->backups, 2);
    (void)life_events(f, "system:master", &ev);
    assert_true(bytes_equal(ev.action, BYTES_LIT("masters.destroy")));
    assert_non_null(memmem(ev.after.p, ev.after.n, "\"master\":\"DESTROYED\"", 20));
    reopen(f);
    open_all(f, seals, VERSIONS);
    before.sealed[sizeof before.sealed - 1] ^= 1; /* the twin: an opening that can fail */
    assert_fails(open_with(f, &before, &f->e), ERR_CIPHERTEXT, NULL);
    ask(f, HSM_MASTER, 3); /* and once more */
    run(f, 0);
    assert_int_equal(keyring_master(f->s.keyring), 3);
    open_all(f, seals, VERSIONS);
    ask(f, HSM_MASTER, 4);
    run(f, 0);
    const int64_t saved = secret_of(f, HSM_MASTER, 3).saved_ns;
    fake_clock_advance(&f->clock, DAY);
    doom(f, HSM_MASTER, 2);
    run(f, 0);
    assert_int_equal(secret_of(f, HSM_MASTER, 2).state, SECRET_DESTROYED);
    assert_true(secret_of(f, HSM_MASTER, 3).saved_ns >= saved + DAY); /* that backup has it */
    assert_true(secret_of(f, HSM_MASTER, 2).saved_ns < saved + DAY);
    assert_true(keyring_master_is(f->s.keyring, &(struct token_secret){.version = 4, .revision = secret_of(f, HSM_MASTER, 4).revision}));
    make_tenant(f, "omega"); /* which relies on it */
    assert_int_equal(left_under(f, 0, NULL), 0);
}

/* The records name a current master that the keyring has not heard of: nothing is moved or proven before it has. */
static void a_keyring_that_has_not_heard(void **state)
{
    struct life *f = *state;
    struct token_secrets all;
    fill(f, 2);
    ask(f, HSM_MASTER, 2);
    (void)run(f, 1); /* on the token; then as if core's reading had failed after the commit that made it current */
    struct store_txn *txn = store_txn_new(f->s.store);
    struct moving v = moving_of(f, HSM_MASTER);
    assert_ok(token_secrets_read(f->s.store, HSM_MASTER, &all, &f->e));
    token_secrets_find(&all, 1)->state = SECRET_RETIRING;
    token_secrets_find(&all, 2)->state = SECRET_CURRENT;
    token_secret_put(txn, token_secrets_find(&all, 1));
    token_secret_put(txn, token_secrets_find(&all, 2));
    assert_ok(moving_to(&v, MOVING_MOVING, 1, &f->e));
    moving_put(txn, &v);
    life_commit(f, txn);
    assert_int_equal(keyring_master(f->s.keyring), 1);
    run(f, 0);
    assert_int_equal(keyring_master(f->s.keyring), 2);
    assert_int_equal(moving_of(f, HSM_MASTER).state, MOVING_IDLE);
    assert_int_equal(moving_of(f, HSM_MASTER).done, TENANTS * KEYS * 2);
    assert_int_equal(left_under(f, 1, NULL), 0);
}

/* Killed after each single transaction. */
static void killed_after_each_step(void **state)
{
    struct life *f = *state;
    fill(f, 15);
    struct probe *seals = seal_all(f, 15);
    uint64_t done = 0;
    unsigned deaths = 0;
    ask(f, HSM_MASTER, 2);
    while (moving_of(f, HSM_MASTER).state != MOVING_IDLE) {
        (void)run(f, 1);
        reopen(f);
        deaths++;
        if (moving_of(f, HSM_MASTER).state == MOVING_MOVING) {
            assert_true(moving_of(f, HSM_MASTER).done >= done);
            done = moving_of(f, HSM_MASTER).done;
        }
        open_all(f, seals, 15);
        assert_true(deaths < 100);
    }
    assert_true(deaths >= 8);
    assert_int_equal(left_under(f, 1, NULL), 0);
    assert_int_equal(moving_of(f, HSM_MASTER).done, TENANTS * KEYS * 15);
    doom(f, HSM_MASTER, 1);
    while (secret_of(f, HSM_MASTER, 1).state != SECRET_DESTROYED) {
        (void)run(f, 1);
        reopen(f);
    }
    open_all(f, seals, 15);
}

/* The token's answer is lost, its effect is not, at each call in turn; and core is killed there too. */
static void killed_at_each_token_call(void **state)
{
    struct life *f = *state;
    uint32_t to = 2;
    unsigned died = 0;
    fill(f, 3);
    struct probe *seals = seal_all(f, 3);
    reopen(f);
    for (unsigned n = 1; to < 15; n++, to++) {
        ask(f, HSM_MASTER, to);
        f->hsm->dies_in = n;
        (void)run(f, 0);
        died += f->hsm->dies_in == 0;
        reopen(f);
        fake_clock_advance(&f->clock, MOVER_RETRY_MS * SECOND / 1000);
        f->hsm->dies_in = 0;
        (void)run(f, 0);
        assert_int_equal(moving_of(f, HSM_MASTER).state, MOVING_IDLE);
        assert_int_equal(keyring_master(f->s.keyring), to);
        assert_int_equal(left_under(f, 0, NULL), 0);
        doom(f, HSM_MASTER, to - 1);
        f->hsm->dies_in = n % 3;
        (void)run(f, 0);
        reopen(f);
        f->hsm->dies_in = 0;
        (void)run(f, 0);
        assert_int_equal(secret_of(f, HSM_MASTER, to - 1).state, SECRET_DESTROYED);
        assert_false(f->hsm->there[HSM_MASTER][to - 1]);
        open_all(f, seals, 3);
    }
    assert_true(died >= 10);
}

/* Never used before it is backed up; a token that is no files waits for somebody's word. */
static void saved_before_use(void **state)
{
    struct life *f = *state;
    struct mover_status st;
    life_key(f, key_name(f, "acme", 0), 0, 0);
    struct mover *m = made_and_not_saved(f, HSM_MASTER);
    assert_int_equal(keyring_master(f->s.keyring), 1);
    add_version(f, "acme", 0);
    assert_int_equal(left_under(f, 2, NULL), 0);
    assert_int_equal(mover_step(m), MOVER_REST); /* not before its time */
    say_cloned(f, HSM_MASTER);
    fake_clock_advance(&f->clock, MOVER_RETRY_MS * SECOND / 1000);
    while (mover_step(m) == MOVER_AGAIN)
        fake_clock_advance(&f->clock, SECOND);
    mover_status(m, HSM_MASTER, &st);
    assert_false(st.failing);
    assert_int_equal(keyring_master(f->s.keyring), 2);
    assert_int_equal(moving_of(f, HSM_MASTER).state, MOVING_IDLE);
    assert_false(moving_of(f, HSM_MASTER).cloned);
    mover_free(m);
}

/* A token that is away, at every point, for as long as it likes. */
static void while_the_token_is_away(void **state)
{
    struct life *f = *state;
    fill(f, 10);
    struct probe *seals = seal_all(f, 10);
    ask(f, HSM_MASTER, 2);
    unsigned rounds = 0;
    while (moving_of(f, HSM_MASTER).state != MOVING_IDLE) {
        const unsigned was = moving_of(f, HSM_MASTER).state;
        reopen(f);
        f->hsm->away = true;
        (void)run(f, 0);
        const unsigned now = moving_of(f, HSM_MASTER).state;
        assert_true(now == was || was == MOVING_MOVING || was == MOVING_PROVING); /* what needs the token does not happen */
        f->hsm->away = false;
        fake_clock_advance(&f->clock, MOVER_RETRY_MS * SECOND / 1000);
        (void)run(f, 1);
        assert_true(rounds++ < 100);
    }
    reopen(f);
    open_all(f, seals, 10);
    assert_int_equal(left_under(f, 0, NULL), 0);
}

#define LIFE(test) cmocka_unit_test_setup_teardown(test, life_start, life_stop)
int main(void)
{
    const struct CMUnitTest tests[] = {
        LIFE(everything_moves),
        LIFE(a_keyring_that_has_not_heard),
        LIFE(killed_after_each_step),
        LIFE(killed_at_each_token_call),
        LIFE(saved_before_use),
        LIFE(while_the_token_is_away),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
