/* The seal secret rotates and ends by itself, year after year, and only by a steady clock. */
#include "tests/unit/vault/service/seal_fixture.h"

#define HOURS(n) ((n) * 3600 * SECOND)

struct years {
    unsigned rotations, ended;
    int64_t longest_ns, soonest_end_ns, latest_end_ns; /* of a secret's use; from its retirement to its end */
    unsigned most_on_token;
};

static void look(struct life *f, struct years *y, uint32_t *epoch, int64_t *since, int64_t retired[STAND_IN_VERSIONS])
{
    const int64_t now = clock_wall_ns(&f->clock.c);
    unsigned there = 0;
    struct token_secrets all;
    assert_ok(token_secrets_read(f->s.store, HSM_SEAL, &all, &f->e));
    for (size_t i = 0; i < all.n; i++) {
        const struct token_secret *s = &all.all[i];
        if (s->state == SECRET_RETIRED && retired[s->version] == 0)
            retired[s->version] = s->retired_ns;
        if (s->state != SECRET_DESTROYED || retired[s->version] < 0)
            continue;
        const int64_t took = s->destroyed_ns - retired[s->version];
        y->soonest_end_ns = y->ended == 0 || took < y->soonest_end_ns ? took : y->soonest_end_ns;
        y->latest_end_ns = took > y->latest_end_ns ? took : y->latest_end_ns;
        y->ended++;
        retired[s->version] = -1;
        assert_false(f->hsm->there[HSM_SEAL][s->version]);
    }
    for (uint32_t v = 1; v < STAND_IN_VERSIONS; v++)
        there += f->hsm->there[HSM_SEAL][v];
    y->most_on_token = there > y->most_on_token ? there : y->most_on_token;
    if (store_seal_epoch(f->s.store) == *epoch)
        return;
    assert_int_equal(store_seal_epoch(f->s.store), *epoch + 1);
    y->longest_ns = now - *since > y->longest_ns ? now - *since : y->longest_ns;
    *since = now;
    ++*epoch;
    y->rotations++;
}

/* Six years in twelve-hour steps: one rotation a period, each old one ended in time and none before its time, as many rows as there may be. */
static void year_after_year(void **state)
{
    struct life *f = *state;
    struct years y = {0};
    static int64_t retired[STAND_IN_VERSIONS];
    uint32_t epoch = 1;
    int64_t since = T0;
    struct token_secrets all;
    f->config.seal_period = 30 * UINT64_C(86400000);
    f->config.backup_retention = 35 * UINT64_C(86400000);
    const struct mover_options o = {.s = &f->s, .master_pace = 1000000, .seal_pace = 1000000, .settle_ms = 600000};
    struct mover *m = mover_new(&o);
    memset(retired, 0, sizeof retired);
    for (unsigned step = 0; step < 3 * 1461; step++) {
        do {
            take_events(f);
            fake_clock_advance(&f->clock, SECOND / 100);
        } while (mover_step(m) == MOVER_AGAIN);
        look(f, &y, &epoch, &since, retired);
        fake_clock_advance(&f->clock, HOURS(12));
        if (step == 2000) { /* and a new process in between */
            mover_free(m);
            reopen(f);
            m = mover_new(&o);
        }
    }
    mover_free(m);
    assert_int_equal(y.rotations, 73); /* 2,191.5 days */
    assert_true(y.longest_ns >= 30 * DAY && y.longest_ns <= 30 * DAY + HOURS(13));
    assert_true(y.soonest_end_ns >= 35 * DAY && y.latest_end_ns <= 35 * DAY + HOURS(13));
    assert_in_range(y.ended, 71, 72);
    assert_true(y.most_on_token <= 3);
    assert_ok(token_secrets_read(f->s.store, HSM_SEAL, &all, &f->e));
    assert_int_equal(all.n, TOKEN_SECRETS_MAX); /* the oldest that are gone are forgotten */
    assert_int_equal(left(f), 0);
    assert_string_equal(moving_of(f, HSM_SEAL).by, "system:seal");
}

/* A clock that jumps begins and ends nothing, until it has gone steadily for long enough. */
static void only_by_a_steady_clock(void **state)
{
    struct life *f = *state;
    const struct mover_options o = {.s = &f->s, .master_pace = 1000000, .seal_pace = 1000000, .settle_ms = 600000};
    struct mover *m = mover_new(&o);
    f->config.seal_period = 30 * UINT64_C(86400000);
    f->config.backup_retention = 35 * UINT64_C(86400000);
    fake_clock_step_wall(&f->clock, 400 * DAY);
    for (unsigned s = 0; s < 590; s += 10) {
        assert_int_equal(mover_step(m), MOVER_REST);
        fake_clock_advance(&f->clock, 10 * SECOND);
    }
    assert_int_equal(moving_of(f, HSM_SEAL).to, 0);
    fake_clock_step_wall(&f->clock, -400 * DAY); /* it was wrong: nothing has come of it */
    for (unsigned s = 0; s < 1200; s += 10) {
        assert_int_equal(mover_step(m), MOVER_REST);
        fake_clock_advance(&f->clock, 10 * SECOND);
    }
    assert_int_equal(moving_of(f, HSM_SEAL).to, 0);
    fake_clock_step_wall(&f->clock, 400 * DAY); /* the twin: this time it stays so */
    for (unsigned s = 0; s < 620; s += 10) {
        take_events(f);
        while (mover_step(m) == MOVER_AGAIN)
            take_events(f);
        fake_clock_advance(&f->clock, 10 * SECOND);
    }
    assert_int_equal(moving_of(f, HSM_SEAL).state, MOVING_IDLE);
    assert_int_equal(store_seal_epoch(f->s.store), 2);
    assert_int_equal(secret_of(f, HSM_SEAL, 1).state, SECRET_RETIRED); /* its backups have just begun to expire */
    mover_free(m);
}

/* 0: neither a rotation nor an end by itself, however long. */
static void by_hand_only(void **state)
{
    struct life *f = *state;
    rotate_to(f, 2);
    fake_clock_advance(&f->clock, 1000 * DAY);
    (void)turn(f, 0);
    assert_int_equal(store_seal_epoch(f->s.store), 2);
    assert_int_equal(secret_of(f, HSM_SEAL, 1).state, SECRET_RETIRED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIFE(year_after_year),
        LIFE(only_by_a_steady_clock),
        LIFE(by_hand_only),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
