/* Rotation by schedule, over years of a fake clock: once for each due time, after any pause, after any death; and what is not due. */
#include "tests/unit/vault/service/life.h"

#include "vault/service/rotation.h"

#define KEY LIFE_RING "/cryptoKeys/email"
enum { WEEK_S = 7 * DAY_S };
static const struct keeper_task tasks[] = {{DUE_ROTATION, rotation_due}};

static struct keeper *keeper_of(struct life *f, uint64_t pace, uint64_t settle_ms)
{
    const struct keeper_options o = {.store = f->s.store, .clock = &f->clock.c, .pace = pace, .settle_ms = settle_ms, .tasks = tasks, .ntasks = 1, .user = &f->s};
    return keeper_new(&o);
}

static size_t queued(struct life *f, int64_t until_ns)
{
    struct due *all;
    size_t n;
    assert_ok(due_read(f->s.store, (struct bytes){0}, until_ns, 1000, &f->a, &all, &n, &f->e));
    return n;
}

static struct result requeue(void *user, struct err *e)
{
    return keyring_requeue(((struct service *)user)->keyring, e);
}

static void series(void **state)
{
    (void)state;
    assert_true(rotation_next(T0, DAY_S, T0) == T0 + DAY);
    assert_true(rotation_next(T0, DAY_S, T0 + DAY - SECOND) == T0 + DAY);
    assert_true(rotation_next(T0, DAY_S, T0 + DAY) == T0 + 2 * DAY);
    assert_true(rotation_next(T0, DAY_S, T0 + 1000 * DAY + SECOND) == T0 + 1001 * DAY);
    assert_true(rotation_next(T0, 0, T0 + DAY) == 0);
    assert_true(rotation_next(T0 + 5, WEEK_S, T0) == T0 + 5 + 7 * DAY); /* the clock went back: still later than what was due */
}

/* Ten years of weeks; one rotation each, in the order of time, each on record with before and after. */
static void ten_years(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    life_key(f, KEY, WEEK_S, T0 + 7 * DAY);
    struct keeper *k = keeper_of(f, 20, 0);
    for (unsigned week = 1; week <= 522; week++) {
        fake_clock_advance(&f->clock, 7 * DAY - SECOND);
        keeper_step(k);
        assert_int_equal(life_read(f, KEY).newest, week);
        fake_clock_advance(&f->clock, SECOND);
        keeper_step(k);
        keeper_step(k);
        const struct keyring_key m = life_read(f, KEY);
        assert_int_equal(m.newest, week + 1);
        assert_int_equal(m.primary, week + 1);
        assert_true(m.next_rotation_ns == T0 + (int64_t)(week + 1) * 7 * DAY);
        assert_int_equal(queued(f, INT64_MAX), 1);
    }
    assert_int_equal(life_events(f, "system:rotation", &ev), 522);
    assert_true(bytes_equal(ev.action, BYTES_LIT("kms.cryptoKeys.rotate")) && bytes_equal(ev.resource, BYTES_LIT(KEY)));
    assert_true(bytes_equal(ev.key_version, BYTES_LIT(KEY "/cryptoKeyVersions/523")));
    assert_true(bytes_equal(ev.active_tenant, BYTES_LIT("acme")));
    assert_true(memmem(ev.before.p, ev.before.n, "\"primary\":522,", 14) != NULL && memmem(ev.after.p, ev.after.n, "\"primary\":523,", 14) != NULL);
    keeper_free(k);
}

/* A year away: one rotation, not fifty-two, and the day of the week is kept. */
static void after_a_year_away(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    life_key(f, KEY, WEEK_S, T0 + 7 * DAY);
    life_close(f);
    fake_clock_advance(&f->clock, 365 * DAY);
    life_open(f);
    struct keeper *k = keeper_of(f, 20, 0);
    keeper_step(k);
    keeper_step(k);
    const struct keyring_key m = life_read(f, KEY);
    assert_int_equal(m.newest, 2);
    assert_true(m.next_rotation_ns == T0 + 53 * 7 * DAY);
    assert_int_equal(life_events(f, "system:rotation", &ev), 1);
    keeper_free(k);
}

/* A hundred keys fell due together: they rotate at the pace, earliest first, and none twice; the rest waits, also over a restart. */
static void no_herd(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    char name[96];
    for (int i = 0; i < 100; i++) {
        (void)snprintf(name, sizeof name, LIFE_RING "/cryptoKeys/k%02d", i);
        life_key(f, name, WEEK_S, T0 + DAY + i * SECOND);
    }
    fake_clock_advance(&f->clock, 2 * DAY);
    struct keeper *k = keeper_of(f, 10, 0);
    keeper_step(k);
    keeper_step(k);
    assert_int_equal(life_events(f, "system:rotation", &ev), 10);
    assert_int_equal(life_read(f, LIFE_RING "/cryptoKeys/k09").newest, 2);
    assert_int_equal(life_read(f, LIFE_RING "/cryptoKeys/k10").newest, 1);
    keeper_free(k);
    life_close(f);
    life_open(f);
    k = keeper_of(f, 10, 0);
    for (int i = 0; i < 20; i++) {
        fake_clock_advance(&f->clock, SECOND / 2);
        keeper_step(k);
    }
    assert_int_equal(life_events(f, "system:rotation", &ev), 100);
    assert_int_equal(queued(f, clock_wall_ns(&f->clock.c)), 0);
    assert_int_equal(queued(f, INT64_MAX), 100);
    keeper_free(k);
}

/* The queue follows the key: a new time, none, and a row that leads nowhere any more. */
static void the_queue_follows(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    const struct name n = life_name(KEY, NAME_CRYPTOKEY);
    life_key(f, KEY, WEEK_S, T0 + 7 * DAY);
    assert_int_equal(queued(f, INT64_MAX), 1);
    struct keyring_key m = life_read(f, KEY);
    m.next_rotation_ns = T0 + 3 * DAY;
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(keyring_key_put(f->s.keyring, &n, &m, txn, &f->e));
    life_commit(f, txn);
    assert_int_equal(queued(f, T0 + 3 * DAY), 1);
    assert_int_equal(queued(f, INT64_MAX), 1);
    m = life_read(f, KEY);
    m.next_rotation_ns = m.rotation_period_s = 0;
    txn = store_txn_new(f->s.store);
    assert_ok(keyring_key_put(f->s.keyring, &n, &m, txn, &f->e));
    due_move(txn, DUE_ROTATION, BYTES_LIT(LIFE_RING "/cryptoKeys/gone"), 0, T0 + DAY); /* a key that never was */
    due_move(txn, DUE_ROTATION, BYTES_LIT(KEY), 0, T0 + DAY);                          /* a time that the key does not have */
    life_commit(f, txn);
    assert_int_equal(queued(f, INT64_MAX), 2);
    struct keeper *k = keeper_of(f, 20, 0);
    fake_clock_advance(&f->clock, 30 * DAY);
    keeper_step(k);
    assert_int_equal(queued(f, INT64_MAX), 0);
    assert_int_equal(life_read(f, KEY).newest, 1);
    assert_int_equal(life_events(f, "system:rotation", &ev), 0);
    keeper_free(k);
}

/* A store from before there was a queue, or of another incarnation: everything is put in, once. */
static void a_queue_is_made(void **state)
{
    struct life *f = *state;
    const struct keeper_options o = {.store = f->s.store, .clock = &f->clock.c, .pace = 20, .prepare = requeue, .tasks = tasks, .ntasks = 1, .user = &f->s};
    life_key(f, KEY, WEEK_S, T0 + DAY);
    life_key(f, LIFE_RING "/cryptoKeys/never", 0, 0);
    (void)life_schedule(f, KEY "/cryptoKeyVersions/1", T0 + 5 * DAY);
    struct store_txn *txn = store_txn_new(f->s.store);
    due_move(txn, DUE_ROTATION, BYTES_LIT(KEY), T0 + DAY, 0);
    due_move(txn, DUE_DESTRUCTION, BYTES_LIT(KEY "/cryptoKeyVersions/1"), T0 + 5 * DAY, 0);
    life_commit(f, txn);
    assert_int_equal(queued(f, INT64_MAX), 0);
    struct keeper *k = keeper_new(&o);
    keeper_step(k);
    assert_int_equal(queued(f, INT64_MAX), 2);
    assert_int_equal(queued(f, T0 + DAY), 1);
    assert_int_equal(life_read(f, KEY).newest, 1);
    keeper_free(k);
    txn = store_txn_new(f->s.store);
    due_move(txn, DUE_ROTATION, BYTES_LIT(KEY), T0 + DAY, 0);
    life_commit(f, txn);
    k = keeper_new(&o); /* it is known to be complete: not looked at again */
    keeper_step(k);
    assert_int_equal(queued(f, INT64_MAX), 1);
    keeper_free(k);
}

/* What fails waits a minute behind what does not, says so, and is done when it can be. */
static void while_the_token_is_away(void **state)
{
    struct life *f = *state;
    struct keeper_status st;
    life_key(f, KEY, WEEK_S, T0 + DAY);
    life_close(f); /* the tenant's KEK is not in a cache */
    life_open(f);
    fake_clock_advance(&f->clock, DAY);
    struct keeper *k = keeper_of(f, 20, 0);
    f->hsm->away = true;
    keeper_step(k);
    keeper_step(k);
    keeper_status(k, &st);
    assert_int_equal(st.failed, 1);
    assert_true(st.failing && strstr(st.why, KEY) != NULL && strstr(st.why, "HSM_UNAVAILABLE") != NULL);
    assert_int_equal(life_read(f, KEY).newest, 1);
    static const int waits_s[] = {2, 4, 8, 16, 32, 60, 60, 60};
    for (size_t i = 0; i < sizeof waits_s / sizeof waits_s[0]; i++) {
        fake_clock_advance(&f->clock, waits_s[i] * SECOND - 1);
        keeper_step(k);
        keeper_status(k, &st);
        assert_int_equal(st.failed, i + 1);
        fake_clock_advance(&f->clock, 1);
        keeper_step(k);
        keeper_status(k, &st);
        assert_int_equal(st.failed, i + 2);
    }
    f->hsm->away = false;
    fake_clock_advance(&f->clock, DUE_RETRY_MAX_S * SECOND);
    keeper_step(k);
    assert_int_equal(life_read(f, KEY).newest, 2);
    assert_true(life_read(f, KEY).next_rotation_ns == T0 + 8 * DAY); /* its own time, not that of the last try */
    assert_int_equal(queued(f, INT64_MAX), 1);
    keeper_status(k, &st);
    assert_false(st.failing);
    keeper_free(k);
}

/* A clock that was just set, and one that may be wrong since the machine started, rotate nothing; one that went steadily does. */
static void only_by_a_steady_clock(void **state)
{
    struct life *f = *state;
    life_key(f, KEY, WEEK_S, T0 + DAY);
    struct keeper *k = keeper_of(f, 20, 600 * 1000);
    fake_clock_step_wall(&f->clock, 400 * DAY);
    keeper_step(k);
    fake_clock_advance(&f->clock, 599 * SECOND);
    keeper_step(k);
    assert_int_equal(life_read(f, KEY).newest, 1);
    fake_clock_step_wall(&f->clock, -400 * DAY); /* set right again */
    keeper_step(k);
    fake_clock_advance(&f->clock, 601 * SECOND);
    keeper_step(k);
    assert_int_equal(life_read(f, KEY).newest, 1);
    fake_clock_advance(&f->clock, DAY);
    keeper_step(k);
    assert_int_equal(life_read(f, KEY).newest, 2);
    assert_true(life_read(f, KEY).next_rotation_ns == T0 + 8 * DAY);
    keeper_free(k);
}

#define LIFE(test) cmocka_unit_test_setup_teardown(test, life_start, life_stop)
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(series), LIFE(ten_years),        LIFE(after_a_year_away),      LIFE(no_herd),
        LIFE(the_queue_follows),  LIFE(a_queue_is_made),  LIFE(while_the_token_is_away), LIFE(only_by_a_steady_clock),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
