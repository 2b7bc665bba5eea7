/* Which keys of level HSM no backup of the token has yet, from their making to a backup or their end; and a backup's place on record. */
#include "tests/unit/vault/service/moving_fixture.h"
#include "vault/service/token_backup.h"

#include <stdatomic.h>

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

/* ---- a backup ---- */
static struct store_txn *put(struct life *f, struct token_backup *b)
{
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(token_backup_put(f->s.store, txn, b, NULL, clock_wall_ns(&f->clock.c), &f->e));
    return txn;
}

static void on_record(struct life *f, struct token_backup *b)
{
    life_commit(f, put(f, b));
    token_backup_done(&f->s, b);
    assert_ok(keyring_master_changed(f->s.keyring, &f->e));
}

static uint64_t warned_of(struct life *f)
{
    token_backup_look(&f->s);
    return atomic_load(&f->s.keys_unsaved);
}

static void what_was_there_is_saved(void **state)
{
    struct life *f = *state;
    CLEANUP(token_backup_release) struct token_backup b = {0};
    enum instance_backup kind;
    struct hsm_backup read;
    make(f, KEY, PROTECTION_HSM);
    rotate(f, KEY);
    assert_int_equal(warned_of(f), 2);
    fake_clock_advance(&f->clock, DAY);
    assert_ok(token_backup_make(&f->s, false, &b, &f->e));
    assert_true(b.kind == INSTANCE_BACKUP_VERIFIED && b.b.keys == 2 && b.first.n == 2 && b.absent == 0);
    assert_int_equal(warned_of(f), 2); /* not before it is on record */
    on_record(f, &b);
    assert_int_equal(warned_of(f), 0);
    assert_int_equal(secret_of(f, HSM_MASTER, 1).saved_ns, clock_wall_ns(&f->clock.c));
    assert_int_equal(secret_of(f, HSM_SEAL, 1).saved_ns, clock_wall_ns(&f->clock.c));
    assert_ok(instance_backup_read(f->s.store, &kind, &read, &f->e));
    assert_true(kind == INSTANCE_BACKUP_VERIFIED && read.keys == 2 && read.made_unix_s == b.b.made_unix_s);
    assert_string_equal(read.holds, b.b.holds);
    assert_string_equal(read.path, b.b.path);
    assert_string_equal(read.serial, b.b.serial);
    make_tenant(f, "beta"); /* the current master's row is another, and that is known */
    life_close(f);
    life_open(f);
    assert_int_equal(warned_of(f), 0);
}

/* A key that is made while the copy is made, or before it is on record: it may be in it or not, and counts as not. */
static void not_what_came_meanwhile(void **state)
{
    struct life *f = *state;
    CLEANUP(token_backup_release) struct token_backup b = {0};
    make(f, KEY, PROTECTION_HSM);
    assert_ok(token_backup_make(&f->s, false, &b, &f->e));
    make(f, LIFE_RING "/cryptoKeys/late", PROTECTION_HSM);
    on_record(f, &b);
    assert_int_equal(warned_of(f), 1);
    CLEANUP(token_backup_release) struct token_backup next = {0};
    assert_ok(token_backup_make(&f->s, false, &next, &f->e));
    assert_true(next.first.n == 1 && next.b.keys == 2);
    on_record(f, &next);
    assert_int_equal(warned_of(f), 0);
}

/* Nothing of a backup whose answer was lost, or which could not be put on record, is believed. */
static void not_what_nobody_knows_of(void **state)
{
    struct life *f = *state;
    struct token_backup b = {0};
    struct err e = {0};
    uint64_t seq;
    make(f, KEY, PROTECTION_HSM);
    f->hsm->dies_in = 1;
    assert_true(token_backup_make(&f->s, false, &b, &e).failed);
    assert_true(e.code == ERR_UNAVAILABLE && f->hsm->backups == 1 && b.first.kvid == NULL);
    f->hsm->away = true;
    e = (struct err){0};
    assert_true(token_backup_make(&f->s, false, &b, &e).failed);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    f->hsm->away = false;
    assert_int_equal(warned_of(f), 1);
    assert_ok(token_backup_make(&f->s, false, &b, &f->e));
    struct store_txn *first = put(f, &b), *second = put(f, &b);
    life_commit(f, first);
    e = (struct err){0};
    assert_true(store_txn_commit(second, &seq, &e).failed); /* the rows of the secrets are others by now: read again, put again */
    assert_int_equal(e.code, ERR_CONFLICT);
    store_txn_free(second);
    life_commit(f, put(f, &b));
    token_backup_release(&b);
    assert_int_equal(warned_of(f), 0);
}

static void a_token_that_is_no_files(void **state)
{
    struct life *f = *state;
    CLEANUP(token_backup_release) struct token_backup b = {0};
    enum instance_backup kind;
    struct hsm_backup read;
    struct err e = {0};
    f->hsm->no_files = true;
    make(f, KEY, PROTECTION_HSM);
    assert_true(token_backup_make(&f->s, false, &b, &e).failed);
    assert_int_equal(e.code, ERR_STATE);
    assert_string_equal(e.reason, "TOKEN_NOT_CLONED");
    assert_int_equal(warned_of(f), 1);
    assert_ok(token_backup_make(&f->s, true, &b, &f->e));
    assert_true(b.kind == INSTANCE_BACKUP_VENDOR_CLONE && b.b.keys == 1 && f->hsm->backups == 0);
    on_record(f, &b);
    assert_int_equal(warned_of(f), 0);
    assert_ok(instance_backup_read(f->s.store, &kind, &read, &f->e));
    assert_true(kind == INSTANCE_BACKUP_VENDOR_CLONE && read.keys == 1 && read.path[0] == 0 && read.holds[0] == 0);
}

/* Lost with a token before any backup had it: counted, and no reason to warn for ever of what another backup cannot mend. */
static void a_key_that_is_nowhere(void **state)
{
    struct life *f = *state;
    CLEANUP(token_backup_release) struct token_backup b = {0};
    make(f, KEY, PROTECTION_HSM);
    make(f, LIFE_RING "/cryptoKeys/other", PROTECTION_HSM);
    assert_ok(hsm_key_destroy(f->hsm, f->hsm->keys[0].kvid, &f->e));
    assert_ok(token_backup_make(&f->s, false, &b, &f->e));
    assert_true(b.first.n == 2 && b.absent == 1 && b.b.keys == 1);
    on_record(f, &b);
    assert_int_equal(warned_of(f), 0);
}

/* More than one transaction takes, and a death between two: the rest is warned of, and saved by the next. */
static void more_than_a_transaction(void **state)
{
    struct life *f = *state;
    CLEANUP(token_backup_release) struct token_backup b = {0}, next = {0};
    enum { MANY = 2500, PAGE = 500 };
    for (int i = 0; i < MANY; i += PAGE) {
        struct store_txn *txn = store_txn_new(f->s.store);
        for (int k = i; k < i + PAGE; k++) {
            const uint8_t kvid[HSM_KVID_BYTES] = {1, (uint8_t)(k >> 8), (uint8_t)k};
            unsaved_put(txn, kvid, T0);
        }
        life_commit(f, txn);
    }
    assert_int_equal(warned_of(f), MANY);
    assert_ok(token_backup_make(&f->s, false, &b, &f->e));
    assert_true(b.first.n == MANY && b.absent == MANY);
    life_commit(f, put(f, &b));
    const uint64_t left = warned_of(f);
    assert_true(left > 0 && left < MANY); /* and here somebody dies */
    assert_ok(token_backup_make(&f->s, false, &next, &f->e));
    assert_int_equal(next.first.n, left);
    on_record(f, &next);
    assert_int_equal(warned_of(f), 0);
}

/* A rotation backs the token up by itself: nobody needs to do it again. */
static void saved_by_a_rotation(void **state)
{
    struct life *f = *state;
    make(f, KEY, PROTECTION_HSM);
    assert_int_equal(warned_of(f), 1);
    ask(f, HSM_MASTER, 2);
    run(f, 0);
    assert_int_equal(moving_of(f, HSM_MASTER).state, MOVING_IDLE);
    assert_int_equal(atomic_load(&f->s.keys_unsaved), 0);
    assert_int_equal(warned_of(f), 0);
}

static void a_record_that_is_not_ours(void **state)
{
    struct life *f = *state;
    enum instance_backup kind;
    struct hsm_backup b;
    static const char *const bodies[] = {"\1", "\2\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0", "\1\3\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0"};
    static const size_t lengths[] = {1, 20, 20};
    for (size_t i = 0; i < 3; i++) {
        struct err e = {0};
        struct store_txn *txn = store_txn_new(f->s.store);
        const struct record r = {.kind = REC_META, .id = BYTES_LIT("token-backup"), .body = BYTES(bodies[i], lengths[i])};
        store_txn_put(txn, &r, STORE_ANY);
        life_commit(f, txn);
        assert_true(instance_backup_read(f->s.store, &kind, &b, &e).failed);
        assert_int_equal(e.code, ERR_DATA_LOSS);
    }
}

int main(void)
{
#define LIFE(t) cmocka_unit_test_setup_teardown(t, life_start, life_stop)
    const struct CMUnitTest tests[] = {
        LIFE(from_the_making_to_the_end),
        LIFE(not_what_never_was),
        LIFE(many_rows),
        LIFE(what_was_there_is_saved),
        LIFE(not_what_came_meanwhile),
        LIFE(not_what_nobody_knows_of),
        LIFE(a_token_that_is_no_files),
        LIFE(a_key_that_is_nowhere),
        LIFE(more_than_a_transaction),
        LIFE(saved_by_a_rotation),
        LIFE(a_record_that_is_not_ours),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
