/* Which keys of level HSM no backup of the token has yet, from their making to a backup or their end. */
#include "kms/keyring/unsaved.h"
#include "tests/unit/vault/service/life.h"

#define KEY LIFE_RING "/cryptoKeys/card"

static struct result create(struct life *f, const char *name, enum protection level, struct store_txn *txn, struct err *e)
{
    const struct keyring_key want = {.destroy_delay_s = 30 * DAY_S, .protection = level};
    struct keyring_key m;
    struct keyring_version v;
    const struct name n = life_name(name, NAME_CRYPTOKEY);
    return keyring_key_create(f->s.keyring, &n, &want, true, txn, &f->a, &m, &v, e);
}

static void make(struct life *f, const char *name, enum protection level)
{
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(create(f, name, level, txn, &f->e));
    life_commit(f, txn);
}

static void rotate(struct life *f, const char *name)
{
    struct keyring_version v;
    struct keyring_key m = life_read(f, name);
    const struct name n = life_name(name, NAME_CRYPTOKEY);
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(keyring_key_rotate(f->s.keyring, &n, &m, txn, &f->a, &v, &f->e));
    life_commit(f, txn);
    keyring_changed(f->s.keyring, &n);
}

static void destroy(struct life *f, const char *name)
{
    struct keyring_version v;
    const struct name n = life_name(name, NAME_VERSION);
    for (int day = 0; day < 2; day++) {
        struct store_txn *txn = store_txn_new(f->s.store);
        assert_ok(keyring_version_get(f->s.keyring, &n, &f->a, &v, &f->e));
        const enum version_state from = v.state;
        v.state = day == 0 ? VERSION_DESTROY_SCHEDULED : VERSION_DESTROYED;
        v.destroy_ns = T0 + 30 * DAY;
        v.destroyed_ns = day == 0 ? 0 : T0 + 30 * DAY;
        assert_ok(keyring_version_put(f->s.keyring, &n, &v, from, txn, &f->e));
        life_commit(f, txn);
        keyring_changed(f->s.keyring, &n);
    }
}

/* As the rows say, counted in two ways. */
static size_t unsaved(struct life *f)
{
    struct unsaved u;
    uint64_t n = 99;
    assert_ok(unsaved_count(f->s.store, &n, &f->e));
    assert_ok(unsaved_read(f->s.store, &u, &f->e));
    assert_int_equal(u.n, n);
    for (size_t i = 0; i < u.n; i++)
        assert_non_null(stand_in_key(f->hsm, u.kvid[i]));
    unsaved_release(&u);
    return n;
}

/* ---- rows ---- */
static void from_the_making_to_the_end(void **state)
{
    struct life *f = *state;
    assert_int_equal(unsaved(f), 0);
    make(f, LIFE_RING "/cryptoKeys/soft", PROTECTION_SOFTWARE); /* the store has it */
    assert_int_equal(unsaved(f), 0);
    make(f, KEY, PROTECTION_HSM);
    assert_int_equal(unsaved(f), 1);
    rotate(f, KEY);
    assert_int_equal(unsaved(f), 2);
    rotate(f, LIFE_RING "/cryptoKeys/soft");
    life_close(f);
    life_open(f);
    assert_int_equal(unsaved(f), 2);
    destroy(f, KEY "/cryptoKeyVersions/1");
    assert_int_equal(unsaved(f), 1);
}

/* A making that did not commit has no version: its objects are the daemon's to remove, and nothing to be saved. */
static void not_what_never_was(void **state)
{
    struct life *f = *state;
    struct err e = {0};
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(create(f, KEY, PROTECTION_HSM, txn, &f->e));
    store_txn_free(txn);
    f->hsm->dies_after_making = true;
    txn = store_txn_new(f->s.store);
    assert_true(create(f, KEY, PROTECTION_HSM, txn, &e).failed);
    store_txn_free(txn);
    assert_int_equal(stand_in_keys(f->hsm), 2);
    assert_int_equal(unsaved(f), 0);
}

/* Pages of them, in order, and a row that is none. */
static void many_rows(void **state)
{
    struct life *f = *state;
    enum { MANY = 1300 };
    struct unsaved u;
    struct err e = {0};
    for (int i = 0; i < MANY; i += 100) {
        struct store_txn *txn = store_txn_new(f->s.store);
        for (int k = i; k < i + 100; k++) {
            uint8_t kvid[HSM_KVID_BYTES] = {(uint8_t)(k * 7), (uint8_t)k, (uint8_t)(k >> 8)};
            unsaved_put(txn, kvid, T0);
        }
        life_commit(f, txn);
    }
    assert_ok(unsaved_read(f->s.store, &u, &f->e));
    assert_int_equal(u.n, MANY);
    for (size_t i = 1; i < u.n; i++)
        assert_true(memcmp(u.kvid[i - 1], u.kvid[i], HSM_KVID_BYTES) < 0);
    unsaved_release(&u);
    struct store_txn *txn = store_txn_new(f->s.store);
    const struct record r = {.kind = REC_UNSAVED, .id = BYTES_LIT("short"), .body = BYTES_LIT("\1")};
    store_txn_put(txn, &r, STORE_ABSENT);
    life_commit(f, txn);
    assert_true(unsaved_read(f->s.store, &u, &e).failed);
    assert_int_equal(e.code, ERR_DATA_LOSS);
    assert_string_equal(e.reason, "RECORD_MALFORMED");
    assert_null(u.kvid);
}

int main(void)
{
#define LIFE(t) cmocka_unit_test_setup_teardown(t, life_start, life_stop)
    const struct CMUnitTest tests[] = {
        LIFE(from_the_making_to_the_end),
        LIFE(not_what_never_was),
        LIFE(many_rows),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
