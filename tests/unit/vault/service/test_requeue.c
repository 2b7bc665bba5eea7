/* The queue of what is due, made complete after an acceptance of the store as it stood: rows that do not open are left out and named, and
 * keep nothing else from being done; what is done already is not queued again. */
#include "tests/unit/vault/service/life.h"

#include "kms/keyring/model.h"
#include "vault/service/destruction.h"
#include "vault/service/rotation.h"

#include <sqlite3.h>

#define KEY(x) LIFE_RING "/cryptoKeys/" x
static const struct keeper_task tasks[] = {{DUE_ROTATION, rotation_due}, {DUE_DESTRUCTION, destruction_due}, {DUE_CERTIFICATE, certificate_due}};

static struct result requeue(void *user, struct err *e)
{
    return keyring_requeue(((struct service *)user)->keyring, e);
}

static struct keeper *keeper_of(struct life *f)
{
    const struct keeper_options o = {.store = f->s.store, .clock = &f->clock.c, .pace = 1000, .prepare = requeue, .tasks = tasks,
                                     .ntasks = sizeof tasks / sizeof tasks[0], .user = &f->s};
    return keeper_new(&o);
}

static size_t queued(struct life *f, enum due_what what)
{
    struct due *all;
    size_t n, count = 0;
    assert_ok(due_look(f->s.store, (struct bytes){0}, INT64_MAX, 1000, &f->a, &all, &n, &f->e));
    for (size_t i = 0; i < n; i++)
        count += all[i].what == what;
    return count;
}

static void unqueue(struct life *f)
{
    struct due *all;
    size_t n;
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(due_read(f->s.store, (struct bytes){0}, INT64_MAX, 1000, &f->a, &all, &n, &f->e));
    for (size_t i = 0; i < n; i++)
        due_move(txn, all[i].what, all[i].name, all[i].at_ns, 0);
    life_commit(f, txn);
}

static void count_unreadable(void *user, enum rec_kind kind, const char *id)
{
    (void)kind, (void)id;
    ++*(unsigned *)user;
}

/* The closed store, with bytes of these rows turned, taken for the truth: a new incarnation. */
static void accept_damaged(struct life *f, const char *rows)
{
    char path[128], sql[256];
    unsigned unreadable = 0;
    sqlite3 *db;
    struct store_acceptance a = {.event = BYTES_LIT("accepted"), .note = BYTES_LIT("why"), .unreadable = count_unreadable, .user = &unreadable};
    a.journal_outbox_seq = store_outbox_last(f->s.store);
    life_close(f);
    (void)snprintf(path, sizeof path, "%s/store.db", f->dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    (void)snprintf(sql, sizeof sql, "UPDATE record SET body = randomblob(length(body)) WHERE %s", rows);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    const int changed = sqlite3_changes(db);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    assert_ok(store_accept(&f->so, &a, &f->e));
    assert_int_equal(unreadable, changed);
    assert_int_equal(a.unreadable_rows, changed);
    life_open(f);
}

/* One key's row is damaged, and one version's: of those nothing is known. All others have their times. */
static void damaged_rows_hold_up_no_other(void **state)
{
    struct life *f = *state;
    struct keeper_status st;
    static const char *const keys[] = {KEY("a"), KEY("b"), KEY("c"), KEY("d")};
    for (size_t i = 0; i < 4; i++)
        life_key(f, keys[i], 7 * DAY_S, T0 + 7 * DAY);
    unqueue(f);
    accept_damaged(f, "(kind = 4 AND CAST(name AS TEXT) LIKE '%/b') OR (kind = 5 AND CAST(name AS TEXT) LIKE '%/c/cryptoKeyVersions/1')");
    fake_clock_advance(&f->clock, 7 * DAY);
    struct keeper *k = keeper_of(f);
    keeper_step(k);
    keeper_status(k, &st);
    assert_int_equal(st.done, 3);
    assert_false(st.failing);
    assert_int_equal(life_read(f, keys[0]).primary, 2);
    assert_int_equal(life_read(f, keys[2]).primary, 2); /* its old version is lost, the key is not */
    assert_int_equal(life_read(f, keys[3]).primary, 2);
    const struct name b = life_name(keys[1], NAME_CRYPTOKEY);
    struct keyring_key m;
    assert_fails(keyring_key_get(f->s.keyring, &b, &f->a, &m, &f->e), ERR_DATA_LOSS, "RECORD_TAMPERED");
    assert_int_equal(queued(f, DUE_ROTATION), 3);
    keeper_free(k);
}

/* A row of the queue itself: what stands behind it is done, and it is told as long as it is there. */
static void a_damaged_row_of_the_queue(void **state)
{
    struct life *f = *state;
    struct keeper_status st;
    char where[80];
    struct due *all;
    size_t n;
    life_key(f, KEY("a"), 7 * DAY_S, T0 + 7 * DAY);
    struct store_txn *txn = store_txn_new(f->s.store);
    due_move(txn, DUE_ROTATION, BYTES_LIT(KEY("gone")), 0, T0 + DAY); /* before it in the queue */
    life_commit(f, txn);
    (void)snprintf(where, sizeof where, "kind = 12 AND time = %lld", (long long)(T0 + DAY));
    accept_damaged(f, where);
    assert_fails(due_read(f->s.store, (struct bytes){0}, INT64_MAX, 10, &f->a, &all, &n, &f->e), ERR_DATA_LOSS, "RECORD_TAMPERED");
    assert_ok(due_look(f->s.store, (struct bytes){0}, INT64_MAX, 10, &f->a, &all, &n, &f->e));
    assert_true(n == 2 && all[0].broken && all[0].id.n == DUE_ID_BYTES && !all[1].broken);
    fake_clock_advance(&f->clock, 7 * DAY);
    struct keeper_options o = {.store = f->s.store, .clock = &f->clock.c, .pace = 1000, .tasks = tasks, .ntasks = sizeof tasks / sizeof tasks[0], .user = &f->s};
    struct keeper *k = keeper_new(&o);
    keeper_step(k);
    assert_int_equal(life_read(f, KEY("a")).primary, 2);
    for (int i = 0; i < 3; i++) {
        fake_clock_advance(&f->clock, 3600 * SECOND);
        keeper_step(k);
        keeper_status(k, &st);
        assert_true(st.failing && strstr(st.why, "does not open") != NULL && st.failed == 0 && st.done == 1);
    }
    keeper_free(k);
    /* Once the queue is made complete it goes: what it led to is found by the records. */
    assert_ok(keyring_requeue(f->s.keyring, &f->e));
    assert_ok(due_read(f->s.store, (struct bytes){0}, INT64_MAX, 10, &f->a, &all, &n, &f->e));
    assert_true(n == 1 && bytes_equal(all[0].name, BYTES_LIT(KEY("a"))));
}

/* The one version of a new key, whose destruction is due just now. */
static struct keyring_version a_day_after_asking(struct life *f)
{
    life_key(f, KEY("a"), 0, 0);
    const struct keyring_version v = life_schedule(f, KEY("a") "/cryptoKeyVersions/1", T0 + DAY);
    fake_clock_advance(&f->clock, DAY);
    return v;
}

/* What is destroyed and has its certificate has nothing to wait for; without one it is queued (test_destruction.c). */
static void what_is_done_is_not_queued(void **state)
{
    struct life *f = *state;
    (void)a_day_after_asking(f);
    struct keeper *k = keeper_of(f);
    keeper_step(k);
    keeper_step(k);
    keeper_free(k);
    assert_int_equal(f->hsm->signed_count, 1);
    accept_damaged(f, "kind = 0");
    assert_ok(keyring_requeue(f->s.keyring, &f->e));
    assert_int_equal(queued(f, DUE_DESTRUCTION), 0);
    assert_int_equal(queued(f, DUE_CERTIFICATE), 0);
}

/* A certificate that waits for the token, and its row of the queue is damaged: it is signed all the same. */
static void a_certificate_is_signed_all_the_same(void **state)
{
    struct life *f = *state;
    const struct keyring_version v = a_day_after_asking(f);
    const struct due d = {.what = DUE_DESTRUCTION, .at_ns = T0 + DAY, .name = v.name};
    assert_ok(destruction_due(&f->s, &d, &f->e));
    assert_int_equal(queued(f, DUE_CERTIFICATE), 1);
    accept_damaged(f, "kind = 12");
    assert_int_equal(queued(f, DUE_CERTIFICATE), 0);
    struct keeper *k = keeper_of(f);
    keeper_step(k);
    keeper_free(k);
    assert_int_equal(f->hsm->signed_count, 1);
    assert_int_equal(queued(f, DUE_CERTIFICATE), 0);
}

/* A tenant's own row: whose record that is in the log is found for every other tenant all the same. */
static void a_damaged_tenant_hides_no_other(void **state)
{
    struct life *f = *state;
    struct tenant_ref *acme, *zeta, *found = NULL;
    uint8_t tags[2][32];
    struct tenant t;
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(keyring_tenant_create(f->s.keyring, BYTES_LIT("zeta"), BYTES_LIT("eu"), BYTES_LIT(""), txn, &t, &f->e)); /* behind acme */
    life_commit(f, txn);
    assert_ok(keyring_tenant_hold(f->s.keyring, BYTES_LIT("acme"), true, &acme, &f->e));
    assert_ok(keyring_tenant_hold(f->s.keyring, BYTES_LIT("zeta"), true, &zeta, &f->e));
    memcpy(tags[0], tenant_ref_audit(acme)->tag, 32);
    memcpy(tags[1], tenant_ref_audit(zeta)->tag, 32);
    tenant_ref_drop(acme);
    tenant_ref_drop(zeta);
    accept_damaged(f, "kind = 2 AND CAST(name AS TEXT) = 'projects/acme'");
    assert_ok(keyring_tenant_hold_by_tag(f->s.keyring, tags[1], &found, &f->e));
    assert_string_equal(tenant_ref_info(found)->name, "zeta");
    tenant_ref_drop(found);
    for (int i = 0; i < 2; i++) /* asked, and remembered */
        assert_fails(keyring_tenant_hold_by_tag(f->s.keyring, tags[0], &found, &f->e), ERR_NOT_FOUND, NULL);
}

/* Every state of a version in the store against every last word of the journal: never back towards more, and what is scheduled to be
 * destroyed waits for 30 days more, since the copy does not know what was restored after it. */
static void what_was_scheduled_waits(void **state)
{
    struct life *f = *state;
    static const int rank[] = {[VERSION_ENABLED] = 0, [VERSION_DISABLED] = 1, [VERSION_DESTROY_SCHEDULED] = 2, [VERSION_DESTROYED] = 3};
    const int64_t now_ns = T0 + 100 * DAY, soon = now_ns - DAY, late = now_ns + 60 * DAY;
    for (enum version_state is = VERSION_ENABLED; is <= VERSION_DESTROY_SCHEDULED; is++)
        for (enum version_state to = VERSION_ENABLED; to <= VERSION_DESTROY_SCHEDULED; to++)
            for (int far = 0; far < 2; far++) {
                CLEANUP(buf_release) struct buf body, out;
                struct keyring_version v = {.n = 1, .state = is, .protection = PROTECTION_SOFTWARE, .wrapped = is == VERSION_DESTROYED ? BYTES_LIT("") : BYTES_LIT("L2")};
                const enum version_state wanted = rank[to] > rank[is] ? to : is;
                bool changed;
                buf_init(&body, 1024);
                buf_init(&out, 1024);
                v.destroy_ns = is == VERSION_DESTROY_SCHEDULED ? (far ? late : soon) : 0;
                v.destroyed_ns = is == VERSION_DESTROYED ? T0 : 0;
                model_version_put(&v, &body);
                struct record r = {.kind = REC_VERSION, .state = is, .body = buf_bytes(&body)};
                assert_ok(keyring_version_as_revoked(&r, to, now_ns, &out, &changed, &f->e));
                assert_int_equal(changed, wanted != is || (is == VERSION_DESTROY_SCHEDULED && !far));
                assert_ok(model_version_get(&r, &v, &f->e));
                assert_int_equal(v.state, wanted);
                if (wanted == VERSION_DESTROY_SCHEDULED)
                    assert_true(v.destroy_ns == (is == VERSION_DESTROY_SCHEDULED && far ? late : now_ns + 30 * DAY));
                if (wanted == VERSION_DESTROYED)
                    assert_true(v.wrapped.n == 0 && v.destroyed_ns == (is == VERSION_DESTROYED ? T0 : now_ns));
            }
}

#define LIFE(test) cmocka_unit_test_setup_teardown(test, life_start, life_stop)
int main(void)
{
    const struct CMUnitTest tests[] = {LIFE(damaged_rows_hold_up_no_other), LIFE(a_damaged_row_of_the_queue), LIFE(what_is_done_is_not_queued), LIFE(a_certificate_is_signed_all_the_same), LIFE(what_was_scheduled_waits), LIFE(a_damaged_tenant_hides_no_other)};
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
