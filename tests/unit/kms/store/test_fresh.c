/* Rows that are authentic and yet not the truth: deleted, put back, older. Each is found where it is read or built upon. */
#include "tests/unit/kms/store/edit.h"

#include "kms/store/fresh.h"

static void three(struct fx *f)
{
    for (int i = 0; i < 3; i++) {
        struct record r = fx_rec(REC_PRINCIPAL, T0, (const char *[]){"alice", "bob", "carol"}[i], "active");
        assert_ok(fx_put(f, &r, STORE_ABSENT, "event"));
    }
}
static struct result scan(struct fx *f, enum rec_kind kind, bool down, size_t limit, size_t *ret_n)
{
    struct record *rows;
    struct store_scan q = {.kind = kind, .limit = limit, .descending = down};
    return store_scan(f->s, &q, &f->a, &rows, ret_n, &f->e);
}
#define BOB "kind = 7 AND id = CAST('bob' AS BLOB)"

static void test_deleted(void **state)
{
    struct fx *f = *state;
    struct record out, bob = fx_rec(REC_PRINCIPAL, T0, "bob", "again");
    size_t n;
    three(f);
    assert_fails(fx_get(f, REC_PRINCIPAL, T0, "dave", &out), ERR_NOT_FOUND, NULL); /* never was: proven, no alarm */
    assert_int_equal(edit(f, "CREATE TABLE kept AS SELECT * FROM record; DELETE FROM record WHERE " BOB), 1);
    assert_fails(fx_get(f, REC_PRINCIPAL, T0, "bob", &out), ERR_DATA_LOSS, "STORE_STALE");
    assert_non_null(strstr(f->e.detail, "principal \"bob\""));
    assert_fails(scan(f, REC_PRINCIPAL, false, 10, &n), ERR_DATA_LOSS, "STORE_STALE");
    assert_fails(scan(f, REC_PRINCIPAL, true, 10, &n), ERR_DATA_LOSS, "STORE_STALE");
    assert_fails(scan(f, REC_PRINCIPAL, false, 2, &n), ERR_DATA_LOSS, "STORE_STALE");
    assert_ok(scan(f, REC_PRINCIPAL, false, 1, &n)); /* alice alone: nothing of it is concerned */
    assert_ok(fx_get(f, REC_PRINCIPAL, T0, "carol", &out));
    assert_fails(fx_put(f, &bob, STORE_ABSENT, "e"), ERR_DATA_LOSS, "STORE_STALE"); /* nor can its place be taken */
    assert_fails(fx_put(f, &bob, STORE_ANY, "e"), ERR_DATA_LOSS, "STORE_STALE");
    edit(f, "DELETE FROM record; INSERT INTO record SELECT * FROM kept");
    assert_ok(fx_get(f, REC_PRINCIPAL, T0, "bob", &out));
    assert_ok(fx_put(f, &bob, 1, "e"));
    assert_ok(scan(f, REC_PRINCIPAL, true, 10, &n));
    assert_int_equal(n, 3);
}

static void test_first_and_last_deleted(void **state)
{
    struct fx *f = *state;
    size_t n;
    three(f);
    edit(f, "CREATE TABLE kept AS SELECT * FROM record; DELETE FROM record WHERE kind = 7 AND id = CAST('alice' AS BLOB)");
    assert_fails(scan(f, REC_PRINCIPAL, false, 10, &n), ERR_DATA_LOSS, "STORE_STALE");
    edit(f, "DELETE FROM record; INSERT INTO record SELECT * FROM kept; DELETE FROM record WHERE id = CAST('carol' AS BLOB)");
    assert_fails(scan(f, REC_PRINCIPAL, false, 10, &n), ERR_DATA_LOSS, "STORE_STALE");
    assert_fails(scan(f, REC_PRINCIPAL, true, 1, &n), ERR_DATA_LOSS, "STORE_STALE"); /* the newest policy is asked for like this */
    edit(f, "DELETE FROM record");
    assert_fails(scan(f, REC_PRINCIPAL, false, 10, &n), ERR_DATA_LOSS, "STORE_STALE");
    edit(f, "INSERT INTO record SELECT * FROM kept");
    assert_ok(scan(f, REC_PRINCIPAL, false, 10, &n));
}

static void test_older_revision(void **state)
{
    struct fx *f = *state;
    struct record out, bob = fx_rec(REC_PRINCIPAL, T0, "bob", "revoked");
    size_t n;
    three(f);
    edit(f, "CREATE TABLE old AS SELECT * FROM record WHERE " BOB);
    assert_ok(fx_put(f, &bob, 1, "revoke"));
    assert_int_equal(edit(f, "DELETE FROM record WHERE " BOB "; INSERT INTO record SELECT * FROM old"), 1);
    assert_fails(fx_get(f, REC_PRINCIPAL, T0, "bob", &out), ERR_DATA_LOSS, "STORE_STALE");
    assert_non_null(strstr(f->e.detail, "bob"));
    assert_fails(scan(f, REC_PRINCIPAL, false, 10, &n), ERR_DATA_LOSS, "STORE_STALE");
    assert_fails(fx_put(f, &bob, 1, "e"), ERR_DATA_LOSS, "STORE_STALE");
    fx_close(f);
    fx_open(f); /* and it stays so */
    assert_fails(fx_get(f, REC_PRINCIPAL, T0, "bob", &out), ERR_DATA_LOSS, "STORE_STALE");
}

/* What we deleted and made anew is at revision 1 again: only the seal tells the two apart. */
static void test_put_back_after_delete(void **state)
{
    struct fx *f = *state;
    struct record out, bob = fx_rec(REC_PRINCIPAL, T0, "bob", "other");
    size_t n;
    three(f);
    edit(f, "CREATE TABLE old AS SELECT * FROM record WHERE " BOB);
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(f->s);
    store_txn_delete(t, REC_PRINCIPAL, T0, bytes_str("bob"), 1);
    assert_ok(store_txn_commit(t, NULL, &f->e));
    assert_fails(fx_get(f, REC_PRINCIPAL, T0, "bob", &out), ERR_NOT_FOUND, NULL);
    assert_ok(scan(f, REC_PRINCIPAL, false, 10, &n));
    assert_int_equal(n, 2);
    edit(f, "INSERT INTO record SELECT * FROM old");
    assert_fails(fx_get(f, REC_PRINCIPAL, T0, "bob", &out), ERR_DATA_LOSS, "STORE_STALE");
    assert_fails(scan(f, REC_PRINCIPAL, false, 10, &n), ERR_DATA_LOSS, "STORE_STALE");
    edit(f, "DELETE FROM record WHERE " BOB);
    assert_ok(fx_put(f, &bob, STORE_ABSENT, "e"));
    edit(f, "DELETE FROM record WHERE " BOB "; INSERT INTO record SELECT * FROM old");
    assert_fails(fx_get(f, REC_PRINCIPAL, T0, "bob", &out), ERR_DATA_LOSS, "STORE_STALE");
}

/* A row put in between two ranges is in nobody's range but its own. */
static void test_put_in_beside(void **state)
{
    struct fx *f = *state;
    struct record *rows, r;
    size_t n;
    for (int i = 0; i < 3; i++) {
        r = fx_rec(REC_VERSION, TA, (const char *[]){"a1", "c1", "e1"}[i], "x");
        assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
    }
    edit(f, "INSERT INTO record SELECT kind, tenant, CAST('b1' AS BLOB), revision, name, state, time, count, epoch, body FROM record"
            " WHERE id = CAST('a1' AS BLOB); INSERT INTO record SELECT kind, tenant, CAST('f1' AS BLOB), revision, name, state, time,"
            " count, epoch, body FROM record WHERE id = CAST('a1' AS BLOB)");
    for (int i = 0; i < 6; i++) {
        struct store_scan q = {.kind = REC_VERSION, .limit = 10, .prefix = bytes_str((const char *[]){"a", "c", "e", "d", "b", "f"}[i])};
        memcpy(q.tenant, TA, 16);
        struct result done = store_scan(f->s, &q, &f->a, &rows, &n, &f->e);
        assert_int_equal(done.failed, i >= 4);
        if (i < 4)
            assert_int_equal(n, i < 3);
    }
}

/* A repeat or a budget is no decision: it is sealed, but may be older. */
static void test_not_covered(void **state)
{
    struct fx *f = *state;
    struct record out, r = fx_rec(REC_IDEMPOTENCY, TA, "x", "1");
    assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
    edit(f, "DELETE FROM record");
    assert_fails(fx_get(f, REC_IDEMPOTENCY, TA, "x", &out), ERR_NOT_FOUND, NULL);
}

static void many(struct fx *f, unsigned n)
{
    for (unsigned i = 0; i < n;) {
        CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(f->s);
        for (unsigned k = 0; k < 1000 && i < n; k++, i++) {
            char id[16];
            snprintf(id, sizeof id, "k%06u", i * 7919 % 1000003);
            struct record r = fx_rec(REC_CRYPTOKEY, TA, id, "body");
            store_txn_put(t, &r, STORE_ABSENT);
        }
        assert_ok(store_txn_commit(t, NULL, &f->e));
    }
}

static void test_tables_put_back_alone(void **state)
{
    struct fx *f = *state;
    struct store *s = NULL;
    struct record out;
    static const char *const edits[] = {
        "UPDATE root SET body = (SELECT body FROM oldroot) WHERE epoch = (SELECT max(epoch) FROM root)",
        "DELETE FROM root; INSERT INTO root SELECT * FROM oldroot",
        "DELETE FROM root",
        "DELETE FROM bucket",
        /* (twenty of them: one may be superseded by a change that waits in root) */
        "UPDATE bucket SET digest = (SELECT digest FROM bucket ORDER BY n DESC LIMIT 1) WHERE n IN (SELECT n FROM bucket LIMIT 20)",
        "DELETE FROM bucket WHERE n IN (SELECT n FROM bucket LIMIT 20)",
        "INSERT INTO bucket SELECT n + 1, digest, entries FROM bucket WHERE n + 1 NOT IN (SELECT n FROM bucket) LIMIT 20",
        "UPDATE bucket SET digest = zeroblob(32) WHERE n IN (SELECT n FROM bucket LIMIT 20)",
        "UPDATE bucket SET digest = x'00' WHERE n = (SELECT n FROM bucket LIMIT 1)",
        "DELETE FROM root WHERE epoch = (SELECT max(epoch) FROM root)",
        "UPDATE root SET entries = x'00' WHERE epoch = (SELECT max(epoch) FROM root)",
        "DELETE FROM outbox WHERE seq = (SELECT max(seq) FROM outbox)",
    };
    three(f);
    edit(f, "CREATE TABLE oldroot AS SELECT * FROM root ORDER BY epoch DESC LIMIT 1");
    many(f, OVERLAY_MAX + 1000); /* so that buckets are written */
    struct record bob = fx_rec(REC_PRINCIPAL, T0, "bob", "revoked");
    assert_ok(fx_put(f, &bob, 1, "e"));
    fx_close(f);
    copy_db(f, "store.db", "good.db");
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        assert_true(edit(f, edits[i]) > 0);
        assert_fails(store_open(&f->o, &s, &f->e), ERR_DATA_LOSS, "STORE_STALE");
        copy_db(f, "good.db", "store.db");
    }
    fx_open(f);
    assert_ok(fx_get(f, REC_PRINCIPAL, T0, "bob", &out));
}

static int64_t count_roots(struct fx *f)
{
    struct sqlite3_stmt *st;
    struct sqlite3 *db;
    int64_t n;
    char path[4200];
    snprintf(path, sizeof path, "%s/store.db", f->dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT count(*) FROM root", -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    n = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}

/* One row that changes again and again touches few buckets: what a later open replays stays bounded all the same. */
static void test_roots_do_not_pile_up(void **state)
{
    struct fx *f = *state;
    struct record bob = fx_rec(REC_PRINCIPAL, T0, "bob", "active"), out;
    three(f);
    for (uint64_t i = 1; i <= ROOTS_MAX - 10; i++)
        assert_ok(fx_put(f, &bob, i, NULL));
    assert_true(count_roots(f) > ROOTS_MAX / 2);
    fx_close(f); /* and what an earlier run left counts */
    fx_open(f);
    for (uint64_t i = ROOTS_MAX - 9; i <= ROOTS_MAX + 20; i++)
        assert_ok(fx_put(f, &bob, i, NULL));
    assert_in_range(count_roots(f), 1, 40);
    fx_close(f);
    fx_open(f);
    assert_ok(fx_get(f, REC_PRINCIPAL, T0, "bob", &out));
    assert_int_equal(out.revision, ROOTS_MAX + 21);
}

/* An entry changed in a bucket while we run: its digest in memory knows better, for readers and for the writer. */
static void test_bucket_edited_under_us(void **state)
{
    struct fx *f = *state;
    struct record out;
    unsigned stale = 0;
    many(f, OVERLAY_MAX + 1000);
    assert_true(edit(f, "UPDATE bucket SET entries = CAST(substr(entries, 1, length(entries) - 1) || x'5a' AS BLOB)") > 100);
    for (unsigned i = 0; i < 50; i++) {
        char id[16];
        snprintf(id, sizeof id, "k%06u", i * 7919 % 1000003);
        struct record r = fx_rec(REC_CRYPTOKEY, TA, id, "new body");
        f->e = (struct err){0};
        if (!fx_get(f, REC_CRYPTOKEY, TA, id, &out).failed)
            continue; /* its bucket was not written yet: it is in memory */
        assert_string_equal(f->e.reason, "STORE_STALE");
        assert_fails(fx_put(f, &r, 1, NULL), ERR_DATA_LOSS, "STORE_STALE");
        stale++;
    }
    assert_true(stale > 0);
}

/* A store of schema 1, as it was before: opened, it is covered from then on. */
static void test_upgrade(void **state)
{
    struct fx *f = *state;
    struct record out;
    size_t n;
    three(f);
    many(f, 300);
    fx_close(f);
    edit(f, "DROP TABLE bucket; DROP TABLE root; DELETE FROM migration WHERE number = 2; PRAGMA user_version = 1");
    fx_open(f);
    assert_ok(fx_get(f, REC_PRINCIPAL, T0, "bob", &out));
    assert_ok(scan(f, REC_PRINCIPAL, false, 10, &n));
    assert_int_equal(n, 3);
    struct store_scan q = {.kind = REC_CRYPTOKEY, .limit = 1000};
    struct record *rows;
    memcpy(q.tenant, TA, 16);
    assert_ok(store_scan(f->s, &q, &f->a, &rows, &n, &f->e));
    assert_int_equal(n, 300);
    edit(f, "DELETE FROM record WHERE " BOB);
    assert_fails(fx_get(f, REC_PRINCIPAL, T0, "bob", &out), ERR_DATA_LOSS, "STORE_STALE");
}

/* Random changes, refused ones among them, against a table of what must be there; closed and opened in between. */
static void check_model(struct fx *f, const unsigned *revision, unsigned ids)
{
    struct store_scan q = {.kind = REC_VERSION, .limit = 1000};
    struct record *rows, out;
    size_t n, want = 0;
    memcpy(q.tenant, TA, 16);
    arena_reset(&f->a);
    assert_ok(store_scan(f->s, &q, &f->a, &rows, &n, &f->e));
    for (unsigned i = 0; i < ids; i++) {
        char id[16];
        snprintf(id, sizeof id, "%03u", i);
        if (!revision[i]) {
            assert_fails(fx_get(f, REC_VERSION, TA, id, &out), ERR_NOT_FOUND, NULL);
            continue;
        }
        assert_true(want < n && bytes_equal(rows[want].id, bytes_str(id)));
        assert_int_equal(rows[want++].revision, revision[i]);
        assert_ok(fx_get(f, REC_VERSION, TA, id, &out));
    }
    assert_int_equal(want, n);
    q.descending = true;
    q.limit = 3;
    assert_ok(store_scan(f->s, &q, &f->a, &rows, &n, &f->e));
}
static void test_model(void **state)
{
    struct fx *f = *state;
    enum { IDS = 60, STEPS = 600 };
    unsigned revision[IDS] = {0}, seed = 7;
    for (unsigned step = 0; step < STEPS; step++) {
        CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(f->s);
        unsigned next[IDS];
        memcpy(next, revision, sizeof next);
        seed = seed * 1103515245 + 12345;
        bool refuse = (seed >> 16) % 5 == 0;
        for (unsigned k = 0; k < 1 + (seed >> 20) % 6; k++) {
            seed = seed * 1103515245 + 12345;
            unsigned i = (seed >> 16) % IDS;
            char id[16];
            snprintf(id, sizeof id, "%03u", i);
            struct record r = fx_rec(REC_VERSION, TA, id, "b");
            if ((seed >> 8) % 3 == 0) {
                store_txn_delete(t, REC_VERSION, TA, bytes_str(id), next[i]);
                next[i] = 0;
            } else {
                store_txn_put(t, &r, next[i]++);
            }
        }
        if (refuse)
            store_txn_check(t, REC_VERSION, TA, bytes_str("000"), 77777);
        struct result done = store_txn_commit(t, NULL, &f->e);
        assert_int_equal(done.failed, refuse);
        if (!refuse)
            memcpy(revision, next, sizeof next);
        if (step % 60 == 0)
            check_model(f, revision, IDS);
        if (step % 200 == 150) {
            fx_close(f);
            fx_open(f);
        }
    }
    check_model(f, revision, IDS);
}

/* Nobody who only reads while others write ever hears that something is stale. */
struct worker {
    struct fx *f;
    int n;
    atomic_bool *stop;
};
static void *write_much(void *arg)
{
    struct worker *w = arg;
    struct err e = {0};
    for (int i = 0; i < 150; i++) {
        char id[32];
        snprintf(id, sizeof id, "%d-%d", w->n, i % 40);
        struct record r = fx_rec(REC_META, TA, id, "x");
        CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(w->f->s);
        if (i % 7 == 6)
            store_txn_delete(t, REC_META, TA, bytes_str(id), STORE_ANY);
        else
            store_txn_put(t, &r, STORE_ANY);
        assert_false(store_txn_commit(t, NULL, &e).failed);
    }
    return NULL;
}
static void *read_much(void *arg)
{
    struct worker *w = arg;
    struct arena a;
    arena_init(&a, 4 << 20);
    while (!atomic_load(w->stop)) {
        struct store_scan q = {.kind = REC_META, .limit = 50};
        struct record *rows, r;
        struct err e = {0};
        size_t n;
        memcpy(q.tenant, TA, 16);
        arena_reset(&a);
        if (store_scan(w->f->s, &q, &a, &rows, &n, &e).failed)
            fail_msg("%s", e.detail);
        if (store_get(w->f->s, REC_META, TA, bytes_str("1-3"), &a, &r, &e).failed && e.code != ERR_NOT_FOUND)
            fail_msg("%s", e.detail);
    }
    arena_release(&a);
    return NULL;
}
static void test_no_false_alarm(void **state)
{
    struct fx *f = *state;
    atomic_bool stop = false;
    pthread_t t[5];
    struct worker w[5];
    for (int i = 0; i < 5; i++) {
        w[i] = (struct worker){f, i, &stop};
        assert_int_equal(pthread_create(&t[i], NULL, i < 3 ? write_much : read_much, &w[i]), 0);
    }
    for (int i = 0; i < 5; i++) {
        if (i == 3)
            atomic_store(&stop, true);
        pthread_join(t[i], NULL);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fx_setup, fx_teardown)
    const struct CMUnitTest tests[] = {
        T(test_deleted),     T(test_first_and_last_deleted), T(test_older_revision),
        T(test_put_back_after_delete), T(test_not_covered), T(test_put_in_beside),  T(test_tables_put_back_alone),
        T(test_roots_do_not_pile_up),
        T(test_bucket_edited_under_us), T(test_upgrade),     T(test_model),
        T(test_no_false_alarm),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
