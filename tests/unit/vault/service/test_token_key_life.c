/* Keys of protection level HSM: made on the token and in the store together or not at all, rotated by schedule there, and gone from both
 * when they are destroyed. The token is the stand-in. */
#include "tests/unit/vault/service/token_fixture.h"

/* ---- made together or not at all --------------------------------------------------------------------------------------- */
static void left_behind(struct life *f, size_t keep)
{
    struct audit_event ev = {0};
    assert_int_equal(stand_in_keys(f->hsm), keep + 1);
    assert_int_equal(queued(f, DUE_HSM_UNFINISHED), 1);
    steps(f, 2);
    assert_int_equal(stand_in_keys(f->hsm), keep + 1); /* it might still be under way */
    fake_clock_advance(&f->clock, (UNFINISHED_S + 1) * SECOND);
    steps(f, 4);
    assert_int_equal(stand_in_keys(f->hsm), keep);
    assert_int_equal(queued(f, DUE_HSM_UNFINISHED) + queued(f, DUE_HSM_REMOVAL), 0);
    assert_int_equal(life_events(f, "system:token", &ev), 1);
    assert_true(bytes_equal(ev.action, BYTES_LIT("kms.tokenKeys.remove")) && ev.resource.n == 32);
}

static void the_answer_is_lost(void **state)
{
    struct life *f = *state;
    struct store_txn *txn = store_txn_new(f->s.store);
    struct err e = {0};
    f->hsm->dies_after_making = true;
    assert_true(create(f, KEY, txn, &e).failed);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    store_txn_free(txn);
    f->hsm->dies_after_making = false;
    left_behind(f, 0);
    token_key(f, KEY); /* nothing of it is in the way */
    steps(f, 3);
    assert_int_equal(stand_in_keys(f->hsm), 1);
}

static void killed_before_the_commit(void **state)
{
    struct life *f = *state;
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(create(f, KEY, txn, &f->e));
    store_txn_free(txn);
    life_close(f);
    life_open(f);
    left_behind(f, 0);
}

static void the_loser_of_a_race(void **state)
{
    struct life *f = *state;
    const struct name n = life_name(KEY, NAME_CRYPTOKEY);
    struct keyring_version one, two;
    struct err e = {0};
    uint64_t seq;
    token_key(f, KEY);
    struct store_txn *a = store_txn_new(f->s.store), *b = store_txn_new(f->s.store);
    assert_ok(keyring_version_create(f->s.keyring, &n, a, &f->a, &one, &f->e));
    assert_ok(keyring_version_create(f->s.keyring, &n, b, &f->a, &two, &f->e));
    life_commit(f, a);
    assert_true(store_txn_commit(b, &seq, &e).failed);
    assert_int_equal(e.code, ERR_CONFLICT);
    store_txn_free(b);
    left_behind(f, 2);
    assert_memory_equal(version(f, KEY "/cryptoKeyVersions/2").kvid, one.kvid, 16);
    assert_non_null(stand_in_key(f->hsm, one.kvid));
    assert_null(stand_in_key(f->hsm, two.kvid));
}

/* A creation that took so long that its object was condemned does not commit: a version without its key would be worse than none. */
static void too_late_to_commit(void **state)
{
    struct life *f = *state;
    struct store_txn *txn = store_txn_new(f->s.store);
    struct err e = {0};
    uint64_t seq;
    assert_ok(create(f, KEY, txn, &f->e));
    fake_clock_advance(&f->clock, (UNFINISHED_S + 1) * SECOND);
    f->hsm->away = true;
    steps(f, 1);
    assert_int_equal(stand_in_keys(f->hsm), 1); /* condemned, and not yet removed */
    assert_true(store_txn_commit(txn, &seq, &e).failed);
    assert_int_equal(e.code, ERR_CONFLICT);
    store_txn_free(txn);
    f->hsm->away = false;
    fake_clock_advance(&f->clock, (DUE_RETRY_MAX_S + 1) * SECOND);
    steps(f, 3);
    assert_int_equal(stand_in_keys(f->hsm), 0);
}

static void nothing_is_made_for_a_name_that_is_taken(void **state)
{
    struct life *f = *state;
    struct store_txn *txn = store_txn_new(f->s.store);
    struct err e = {0};
    token_key(f, KEY);
    assert_true(create(f, KEY, txn, &e).failed);
    assert_int_equal(e.code, ERR_EXISTS);
    assert_int_equal(f->hsm->keys_made, 1);
    f->hsm->away = true;
    e = (struct err){0};
    assert_true(create(f, LIFE_RING "/cryptoKeys/other", txn, &e).failed);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    f->hsm->away = false;
    store_txn_free(txn);
    fake_clock_advance(&f->clock, (UNFINISHED_S + 1) * SECOND);
    steps(f, 4); /* announced, never made: nothing to remove, and that is what is on record */
    struct audit_event ev = {0};
    assert_int_equal(queued(f, DUE_HSM_UNFINISHED) + queued(f, DUE_HSM_REMOVAL), 0);
    assert_int_equal(life_events(f, "system:token", &ev), 1);
    assert_true(bytes_equal(ev.after, BYTES_LIT("{\"token\":\"absent\"}")));
    assert_int_equal(f->hsm->keys_destroyed, 0);
}

/* ---- the end ------------------------------------------------------------------------------------------------------------ */
struct findings {
    char text[512];
    unsigned n;
};
static void finding(void *user, const char *text)
{
    struct findings *x = user;
    x->n++;
    (void)snprintf(x->text, sizeof x->text, "%s", text);
}

static unsigned examine(struct life *f, const char *want)
{
    struct findings x = {.n = 0};
    struct keyring_check c = {.report = finding, .user = &x};
    assert_ok(keyring_check(f->s.keyring, &c, &f->e));
    if (want != NULL)
        assert_non_null(strstr(x.text, want));
    return x.n;
}

static void move(struct life *f, const char *name, enum version_state to)
{
    struct keyring_version v = version(f, name);
    const struct name n = life_name(name, NAME_VERSION);
    const enum version_state from = v.state;
    struct store_txn *txn = store_txn_new(f->s.store);
    v.state = to;
    v.destroy_ns = T0 + 30 * DAY;
    v.destroyed_ns = to == VERSION_DESTROYED ? T0 + 30 * DAY : 0;
    assert_ok(keyring_version_put(f->s.keyring, &n, &v, from, txn, &f->e));
    life_commit(f, txn);
    keyring_changed(f->s.keyring, &n);
}

/* The token is everybody's: one tenant has its share of it, and what it destroys is free again. */
static void a_tenant_has_its_share(void **state)
{
    struct life *f = *state;
    char name[sizeof KEY + 16];
    token_key(f, KEY);
    for (unsigned i = 1; i < LIFE_TOKEN_KEYS; i++) {
        (void)snprintf(name, sizeof name, KEY "%u", i);
        token_key(f, name);
    }
    for (unsigned tries = 0; tries < 2; tries++) {
        struct store_txn *txn = store_txn_new(f->s.store);
        struct err e = {0};
        assert_true(create(f, KEY "more", txn, &e).failed);
        assert_int_equal(e.code, ERR_EXHAUSTED);
        assert_string_equal(e.reason, "TENANT_TOKEN_KEYS");
        store_txn_free(txn);
        assert_int_equal(f->hsm->keys_made, LIFE_TOKEN_KEYS); /* refused before anything is made */
        assert_int_equal(queued(f, DUE_HSM_UNFINISHED), 0);
        move(f, KEY "/cryptoKeyVersions/1", tries == 0 ? VERSION_DISABLED : VERSION_DESTROY_SCHEDULED); /* that is not gone */
    }
    struct keyring_key m = life_read(f, KEY "1");
    const struct name n = life_name(KEY "1", NAME_CRYPTOKEY);
    struct keyring_version v;
    struct err e = {0};
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_true(keyring_key_rotate(f->s.keyring, &n, &m, txn, &f->a, &v, &e).failed);
    assert_string_equal(e.reason, "TENANT_TOKEN_KEYS");
    assert_int_equal(m.newest, 1);
    assert_true(keyring_version_create(f->s.keyring, &n, txn, &f->a, &v, &e).failed);
    assert_string_equal(e.reason, "TENANT_TOKEN_KEYS");
    store_txn_free(txn);
    txn = store_txn_new(f->s.store);
    due_move(txn, DUE_EXHAUSTION, BYTES_LIT(KEY "1/cryptoKeyVersions/1"), 0, clock_wall_ns(&f->clock.c));
    life_commit(f, txn);
    steps(f, 3);
    assert_int_equal(life_read(f, KEY "1").primary, 2); /* whose nonces run out is replaced all the same: else it would stop */
    move(f, KEY "1/cryptoKeyVersions/1", VERSION_DESTROY_SCHEDULED);
    move(f, KEY "1/cryptoKeyVersions/1", VERSION_DESTROYED);
    move(f, KEY "/cryptoKeyVersions/1", VERSION_DESTROYED);
    token_key(f, KEY "more");
}

static void destroyed_on_the_token_too(void **state)
{
    struct life *f = *state;
    token_key(f, KEY);
    token_key(f, LIFE_RING "/cryptoKeys/stays");
    const struct record r = counter(f);
    struct record none;
    struct err e = {0};
    assert_int_equal(examine(f, NULL), 0);
    move(f, KEY "/cryptoKeyVersions/1", VERSION_DESTROY_SCHEDULED);
    assert_int_equal(stand_in_keys(f->hsm), 2);
    f->hsm->away = true; /* on the day */
    move(f, KEY "/cryptoKeyVersions/1", VERSION_DESTROYED);
    steps(f, 2);
    assert_int_equal(stand_in_keys(f->hsm), 2);
    f->hsm->away = false;
    fake_clock_advance(&f->clock, (DUE_RETRY_MAX_S + 1) * SECOND);
    steps(f, 2);
    assert_int_equal(stand_in_keys(f->hsm), 1);
    assert_int_equal(version(f, KEY "/cryptoKeyVersions/1").check.n, 0);
    assert_true(store_get(f->s.store, REC_GCM, r.tenant, r.id, &f->a, &none, &e).failed);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    assert_int_equal(examine(f, NULL), 0);
}

/* Removed, and dead before it was on record: whoever comes after finds nothing, and says so. No effect is without its event. */
static void removed_by_one_who_died(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    token_key(f, KEY);
    const struct keyring_version v = version(f, KEY "/cryptoKeyVersions/1");
    move(f, KEY "/cryptoKeyVersions/1", VERSION_DESTROY_SCHEDULED);
    move(f, KEY "/cryptoKeyVersions/1", VERSION_DESTROYED);
    assert_ok(hsm_key_destroy(f->hsm, v.kvid, &f->e));
    life_close(f);
    life_open(f);
    steps(f, 4);
    assert_int_equal(queued(f, DUE_HSM_REMOVAL), 0);
    assert_int_equal(life_events(f, "system:token", &ev), 1);
    assert_true(bytes_equal(ev.after, BYTES_LIT("{\"token\":\"absent\"}")));
}

/* An accepted rollback destroys what the journal knows as destroyed; but the removal that was queued went with the given-up store. */
static void destroyed_again_on_the_token_too(void **state)
{
    static const struct keeper_task more[] = {{DUE_DESTRUCTION, destruction_due}, {DUE_HSM_REMOVAL, token_key_removal}};
    struct life *f = *state;
    CLEANUP(buf_release) struct buf body;
    const struct store_scan q = {.kind = REC_VERSION, .limit = 10, .all_tenants = true};
    struct record *rows, none;
    struct err e = {0};
    struct audit_event ev = {0};
    size_t n;
    bool changed;
    buf_init(&body, STORE_BODY_MAX);
    token_key(f, KEY);
    const struct record r = counter(f);
    assert_ok(store_scan(f->s.store, &q, &f->a, &rows, &n, &f->e));
    assert_int_equal(n, 1);
    assert_ok(keyring_version_as_revoked(&rows[0], VERSION_DESTROYED, T0, &body, &changed, &f->e));
    assert_true(changed);
    struct store_txn *txn = store_txn_new(f->s.store);
    store_txn_put(txn, &rows[0], rows[0].revision);
    life_commit(f, txn);
    assert_ok(keyring_requeue(f->s.keyring, &f->e)); /* as the first start in a new incarnation does */
    assert_int_equal(stand_in_keys(f->hsm), 1);
    assert_int_equal(examine(f, "belongs to no version"), 1);
    const struct keeper_options o = {.store = f->s.store, .clock = &f->clock.c, .pace = 20, .tasks = more, .ntasks = 2, .user = &f->s};
    struct keeper *k = keeper_new(&o);
    for (unsigned i = 0; i < 4; i++) {
        fake_clock_advance(&f->clock, SECOND);
        keeper_step(k);
    }
    keeper_free(k);
    assert_int_equal(stand_in_keys(f->hsm), 0);
    assert_true(store_get(f->s.store, REC_GCM, r.tenant, r.id, &f->a, &none, &e).failed);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    assert_int_equal(examine(f, NULL), 0);
    assert_int_equal(life_events(f, "system:token", &ev), 1);
}

static void fsck_names_what_is_missing(void **state)
{
    struct life *f = *state;
    token_key(f, KEY);
    struct stand_in_key *k = stand_in_key(f->hsm, version(f, KEY "/cryptoKeyVersions/1").kvid);
    k->aes[3] ^= 4;
    assert_int_equal(examine(f, "HSM_KNOWN_ANSWER"), 1);
    k->aes[3] ^= 4;
    assert_int_equal(examine(f, NULL), 0);
    k->there = false;
    assert_int_equal(examine(f, "KEY_OBJECT_ABSENT"), 1);
    k->there = true;
    struct stand_in_key *stray = &f->hsm->keys[STAND_IN_KEYS - 1];
    *stray = (struct stand_in_key){.there = true, .kvid = "of nobody"};
    assert_int_equal(examine(f, "belongs to no version"), 1);
    stray->there = false;
    f->hsm->away = true; /* that is no finding */
    struct findings x = {.n = 0};
    struct keyring_check c = {.report = finding, .user = &x};
    life_close(f);
    f->hsm->away = false;
    life_open(f);
    f->hsm->away = true;
    struct err e = {0};
    assert_true(keyring_check(f->s.keyring, &c, &e).failed);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    assert_int_equal(x.n, 0);
    f->hsm->away = false;
}

/* A schedule rotates it as any key, on the token. */
static void rotates_by_schedule(void **state)
{
    struct life *f = *state;
    token_key(f, KEY);
    struct keyring_key m = life_read(f, KEY);
    const struct name n = life_name(KEY, NAME_CRYPTOKEY);
    struct store_txn *txn = store_txn_new(f->s.store);
    m.rotation_period_s = 7 * DAY_S;
    m.next_rotation_ns = T0 + 7 * DAY;
    assert_ok(keyring_key_put(f->s.keyring, &n, &m, txn, &f->e));
    life_commit(f, txn);
    for (unsigned week = 1; week <= 20; week++) {
        fake_clock_advance(&f->clock, 7 * DAY);
        steps(f, 1);
        assert_int_equal(life_read(f, KEY).primary, week + 1);
    }
    assert_int_equal(stand_in_keys(f->hsm), 21);
    assert_int_equal(version(f, KEY "/cryptoKeyVersions/21").protection, PROTECTION_HSM);
    assert_int_equal(examine(f, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIFE(the_answer_is_lost),
        LIFE(killed_before_the_commit),
        LIFE(the_loser_of_a_race),
        LIFE(too_late_to_commit),
        LIFE(nothing_is_made_for_a_name_that_is_taken),
        LIFE(a_tenant_has_its_share),
        LIFE(destroyed_on_the_token_too),
        LIFE(removed_by_one_who_died),
        LIFE(destroyed_again_on_the_token_too),
        LIFE(fsck_names_what_is_missing),
        LIFE(rotates_by_schedule),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
