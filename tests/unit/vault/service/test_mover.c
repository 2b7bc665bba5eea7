/* The thread that moves things to another secret on the token: its tables and records, its pace. */
#include "tests/unit/vault/service/moving_fixture.h"

#include <stdatomic.h>
#include <time.h>

static void tables(void **state)
{
    (void)state;
    static const unsigned moves[][2] = {{MOVING_IDLE, MOVING_MAKING},    {MOVING_MAKING, MOVING_SAVING},  {MOVING_SAVING, MOVING_MOVING},
                                        {MOVING_MOVING, MOVING_PAUSED},  {MOVING_PAUSED, MOVING_MOVING},  {MOVING_MOVING, MOVING_PROVING},
                                        {MOVING_PROVING, MOVING_MOVING}, {MOVING_PROVING, MOVING_IDLE}};
    static const unsigned lives[][2] = {{SECRET_BORN, SECRET_CURRENT},    {SECRET_CURRENT, SECRET_RETIRING},  {SECRET_RETIRING, SECRET_RETIRED},
                                        {SECRET_RETIRED, SECRET_DESTROYING}, {SECRET_DESTROYING, SECRET_RETIRED}, {SECRET_DESTROYING, SECRET_DESTROYED},
                                        {SECRET_DESTROYED, SECRET_DESTROYING}};
    struct err e;
    for (unsigned from = 0; from < 8; from++)
        for (unsigned to = 0; to < 8; to++) {
            bool can_move = false, can_live = false;
            for (size_t i = 0; i < sizeof moves / sizeof *moves; i++)
                can_move |= moves[i][0] == from && moves[i][1] == to;
            for (size_t i = 0; i < sizeof lives / sizeof *lives; i++)
                can_live |= lives[i][0] == from && lives[i][1] == to;
            struct moving v = {.state = from};
            unsigned m = from;
            e = (struct err){0};
            assert_true(moving_to(&v, (enum moving_state)to, 5, &e).failed == !can_move);
            assert_int_equal(v.state, can_move ? to : from);
            assert_true(can_move || (e.code == ERR_STATE && strcmp(e.reason, "ILLEGAL_TRANSITION") == 0 && v.since_ns == 0));
            assert_true(sm_move(&token_secret_machine, &m, to, &e).failed == !can_live);
            assert_int_equal(m, can_live ? to : from);
        }
}

/* So many a second, and a quarter of that while there is traffic. */
static void at_a_pace(void **state)
{
    struct life *f = *state;
    const struct mover_options o = {.s = &f->s, .master_pace = 64, .seal_pace = 64};
    fill(f, VERSIONS);
    ask(f, HSM_MASTER, 2);
    struct mover *m = mover_new(&o);
    uint64_t passed[2];
    for (unsigned busy = 0; busy < 2; busy++) {
        atomic_store(&f->s.calls_in_flight, busy ? MOVER_BUSY : 0);
        const uint64_t before = moving_of(f, HSM_MASTER).done;
        for (unsigned i = 0; i < (busy ? 100 : 20); i++) { /* two seconds, ten seconds */
            while (mover_step(m) == MOVER_AGAIN)
                continue;
            fake_clock_advance(&f->clock, SECOND / 10);
        }
        passed[busy] = moving_of(f, HSM_MASTER).done - before;
    }
    assert_in_range(passed[0], 64, 4 * 64);  /* what it began with, and two seconds' worth */
    assert_in_range(passed[1], 64, 5 * 64);
    assert_int_equal(moving_of(f, HSM_MASTER).state, MOVING_MOVING);
    struct moving v = moving_of(f, HSM_MASTER);
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(moving_to(&v, MOVING_PAUSED, 1, &f->e));
    moving_put(txn, &v);
    life_commit(f, txn);
    atomic_store(&f->s.calls_in_flight, 0);
    fake_clock_advance(&f->clock, 1000 * SECOND);
    assert_int_equal(mover_step(m), MOVER_REST);
    assert_int_equal(moving_of(f, HSM_MASTER).done, v.done);
    mover_free(m);
}

/* What waits for a person is tried every few seconds, and told every ten minutes. */
static void tells_of_it_now_and_then(void **state)
{
    struct life *f = *state;
    const struct mover_options o = {.s = &f->s, .master_pace = 64, .seal_pace = 64};
    struct mover_status st;
    f->hsm->no_files = true;
    ask(f, HSM_MASTER, 2);
    struct mover *m = mover_new(&o);
    for (unsigned s = 0; s < 2 * MOVER_SAY_MS / 1000; s++) {
        (void)mover_step(m);
        mover_status(m, HSM_MASTER, &st);
        if (st.failing && st.told == 1 && s == MOVER_SAY_MS / 1000 / 2) { /* another failure is told at once */
            assert_non_null(strstr(st.why, "TOKEN_NOT_CLONED"));
            f->hsm->away = true;
        }
        fake_clock_advance(&f->clock, SECOND);
    }
    assert_non_null(strstr(st.why, "HSM_UNAVAILABLE"));
    assert_int_equal(st.told, 3); /* cloned; away, which is told again after ten minutes */
    f->hsm->away = f->hsm->no_files = false;
    while (mover_step(m) != MOVER_REST)
        fake_clock_advance(&f->clock, SECOND);
    fake_clock_advance(&f->clock, MOVER_RETRY_MS / 1000 * SECOND);
    run(f, 0);
    mover_status(m, HSM_MASTER, &st);
    assert_int_equal(st.told, 3);
    mover_free(m);
}

/* The thread, by the real clock, while others look at it and wake it, and keys are used. */
static void by_its_own_thread(void **state)
{
    struct life *f = *state;
    struct mover_status st;
    const struct timespec moment = {.tv_nsec = 1000000};
    fill(f, 4);
    struct probe *seals = seal_all(f, 4);
    f->s.clock = &clock_system;
    const struct mover_options o = {.s = &f->s, .master_pace = 100000, .seal_pace = 100000};
    struct mover *m = mover_new(&o);
    const int64_t end_ms = clock_boot_ms(&clock_system) + 60000;
    mover_start(m);
    ask(f, HSM_MASTER, 2);
    mover_wake(m);
    while (moving_of(f, HSM_MASTER).state != MOVING_IDLE || keyring_master(f->s.keyring) != 2) {
        assert_true(clock_boot_ms(&clock_system) < end_ms);
        mover_status(m, HSM_MASTER, &st);
        assert_false(st.failing);
        open_all(f, seals, 4);
        nanosleep(&moment, NULL);
    }
    assert_true(mover_steady(m)); /* it has looked at the clock by now */
    mover_free(m);
    assert_int_equal(left_under(f, 0, NULL), 0);
}

/* A store from before masters had records goes on as it is. */
static void records(void **state)
{
    struct life *f = *state;
    struct token_secrets all;
    struct record r = {.kind = REC_META, .id = BYTES_LIT("master-1"), .body = BYTES_LIT("token")};
    struct store_txn *txn = store_txn_new(f->s.store);
    store_txn_put(txn, &r, STORE_ANY);
    life_commit(f, txn);
    reopen(f);
    assert_int_equal(keyring_master(f->s.keyring), 1);
    life_key(f, key_name(f, "acme", 0), 0, 0);
    ask(f, HSM_MASTER, 2);
    run(f, 0);
    assert_int_equal(keyring_master(f->s.keyring), 2);
    assert_ok(token_secrets_read(f->s.store, HSM_MASTER, &all, &f->e));
    assert_int_equal(all.n, 2);
    static const char *const bad[] = {"", "\1", "\1\2\1", "tokens", "\2\2\1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        r.body = bytes_str(bad[i]);
        txn = store_txn_new(f->s.store);
        store_txn_put(txn, &r, STORE_ANY);
        life_commit(f, txn);
        assert_fails(token_secrets_read(f->s.store, HSM_MASTER, &all, &f->e), ERR_DATA_LOSS, "RECORD_MALFORMED");
    }
    r.id = BYTES_LIT("moving-master");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct moving v;
        r.body = bytes_str(bad[i]);
        txn = store_txn_new(f->s.store);
        store_txn_put(txn, &r, STORE_ANY);
        life_commit(f, txn);
        assert_fails(moving_read(f->s.store, HSM_MASTER, &v, &f->e), ERR_DATA_LOSS, "RECORD_MALFORMED");
    }
}

#define LIFE(test) cmocka_unit_test_setup_teardown(test, life_start, life_stop)
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables),
        LIFE(at_a_pace),
        LIFE(tells_of_it_now_and_then),
        LIFE(by_its_own_thread),
        LIFE(records),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
