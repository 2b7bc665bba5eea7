/* Parts of a store, or all of it, put back from before a change of its seal epoch, or edited; and what acceptance and fsck make of it. */
#include "tests/unit/kms/store/sealed.h"

/* old.db at epoch 4, store.db and new.db at 5; closed. */
static void make_two(struct fx *f)
{
    put_rows(f, 30);
    assert_ok(fx_seal(f, 4, "changed"));
    (void)fx_reseal_all(f, 100);
    fx_close(f);
    copy_db(f, "store.db", "old.db");
    fx_open(f);
    assert_ok(fx_seal(f, 5, "changed"));
    fx_close(f);
    copy_db(f, "store.db", "new.db");
}

static void test_parts_put_back(void **state)
{
    struct fx *f = *state;
    static const struct {
        const char *sql, *reason, *says;
    } parts[] = {
        {"UPDATE identity SET epoch = (SELECT epoch FROM o.identity), seal = (SELECT seal FROM o.identity)", "STORE_STALE",
         "identity is of seal epoch 4, its root of 5"},
        {"DELETE FROM root; INSERT INTO root SELECT * FROM o.root", "STORE_STALE", "identity is of seal epoch 5, its root of 4"},
        {"UPDATE bucket SET digest = (SELECT digest FROM o.bucket b WHERE b.n = bucket.n), entries = (SELECT entries FROM o.bucket b WHERE"
         " b.n = bucket.n) WHERE n = (SELECT min(b.n) FROM bucket b JOIN o.bucket c ON b.n = c.n WHERE b.digest <> c.digest)",
         "STORE_STALE", "the buckets are not those of epoch"},
        {"DELETE FROM root", "STORE_STALE", "root record is gone"},
        {"UPDATE root SET seal = 4", "STORE_STALE", "root record does not open"},
        {"UPDATE root SET seal = 9", "STORE_STALE", "root record does not open"},
    };
    make_two(f);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        put_back(f, "old.db", parts[i].sql);
        refused(f, ERR_DATA_LOSS, parts[i].reason, parts[i].says);
        (void)fsck(f);
        assert_true(i == 0 ? findings == 1 : findings > 0); /* all else is under the root's epoch, and as it should be */
        copy_db(f, "new.db", "store.db");
    }
    edit(f, "UPDATE identity SET epoch = 4"); /* one column alone */
    refused(f, ERR_STATE, "STORE_FOREIGN", "another seal secret");
    edit(f, "UPDATE identity SET epoch = 9");
    refused(f, ERR_DATA_LOSS, "SEAL_ABSENT", "newest seal secret on the token is of 5");
    copy_db(f, "new.db", "store.db");
    fx_open(f);
    expect_rows(f, 30);
    finish(f);
    fx_close(f);
    copy_db(f, "store.db", "last.db");
    put_back(f, "old.db", parts[0].sql); /* and with its secret gone */
    refused(f, ERR_DATA_LOSS, "SEAL_ABSENT", "seal secret of epoch 4");
    copy_db(f, "last.db", "store.db");
    put_back(f, "old.db", parts[1].sql);
    refused(f, ERR_DATA_LOSS, "STORE_STALE", "seal secret of epoch 4");
    copy_db(f, "last.db", "store.db");
    fx_open(f);
    expect_rows(f, 30);
}

/* The whole of it, from before the change: the floor is of a later epoch than the copy, and can be read. */
static void test_older_copy(void **state)
{
    struct fx *f = *state;
    make_two(f);
    copy_db(f, "old.db", "store.db");
    refused(f, ERR_STATE, "STORE_ROLLED_BACK", "it is an older copy");
    assert_true(place.n > 4 && get_be32(place.value) == 5);
    (void)fsck(f);
    assert_true(findings == 1 && strstr(last_finding, "it is an older copy"));
    f->o.anchor = NULL; /* the control: without a floor it opens, at its own epoch */
    fx_open(f);
    assert_int_equal(store_seal_epoch(f->s), 4);
    expect_rows(f, 30);
    fx_close(f);
    f->o.anchor = &place.io;
    f->destroyed = 4; /* and never, once its secret is gone */
    refused(f, ERR_DATA_LOSS, "SEAL_ABSENT", "seal secret of epoch 4");
    f->o.anchor = NULL;
    refused(f, ERR_DATA_LOSS, "SEAL_ABSENT", "seal secret of epoch 4");
    f->o.anchor = &place.io;
    f->destroyed = 0;
    copy_db(f, "new.db", "store.db");
    fx_open(f);
}

/* A token put back from before the last secret was made has an older floor, or one of a secret it does not know. */
static void test_floor_of_another_time(void **state)
{
    struct fx *f = *state;
    struct floor_copy old;
    change_of_epoch(f, true, &old);
    assert_int_equal(get_be32(place.value), 4);
    floor_back(&old); /* a floor of an epoch that is gone: not "none was ever written" */
    refused(f, ERR_STATE, "STORE_ROLLED_BACK", "seal secret of epoch 3");
    f->destroyed = 0; /* while its secret was there it was but a lower floor */
    fx_open(f);
    fx_close(f);
    assert_int_equal(get_be32(place.value), 4);
    /* The anchor has moved to a file, and comes back to the token, where the one of then still lies: the newer one counts. */
    memcpy(place.other, old.value, sizeof place.other);
    place.other_n = old.n;
    f->destroyed = 3;
    place.io.place = STORE_ANCHOR_FILE;
    fx_open(f);
    fx_close(f);
    struct place at_token = place;
    memcpy(place.value, at_token.other, sizeof place.value);
    place.n = at_token.other_n;
    memcpy(place.other, at_token.value, sizeof place.other);
    place.other_n = at_token.n;
    place.io.place = STORE_ANCHOR_TOKEN;
    fx_open(f);
    assert_int_equal(get_be32(place.value), 4);
    expect_rows(f, 5);
}

#define ROW_BACK(id) "DELETE FROM record WHERE id = CAST('" id "' AS BLOB); INSERT INTO record SELECT * FROM o.record WHERE id = CAST('" id "' AS BLOB)"
static void test_rows_put_back(void **state)
{
    struct fx *f = *state;
    struct record out;
    char id[ROW_ID];
    put_rows(f, 12);
    keep(f, "old.db");
    struct record fact = row(id, 1), budget = row(id, 5);
    fact.id = fact.name = bytes_str("row-1");
    budget.id = budget.name = bytes_str("row-5");
    fact.body = budget.body = bytes_str("newer");
    assert_ok(fx_put(f, &fact, 1, NULL));
    assert_ok(fx_put(f, &budget, 1, NULL));
    assert_ok(fx_seal(f, 4, "changed"));
    put_back(f, "old.db", ROW_BACK("row-1")); /* authentic, of the right epoch, and not the truth: it is not sealed in as that */
    assert_int_equal(fx_reseal_all(f, 100), 12);
    assert_int_equal(fx_older(f), 1);
    assert_fails(fx_get(f, REC_META, TA, "row-1", &out), ERR_DATA_LOSS, "STORE_STALE");
    assert_int_equal(proof_names(f, 1, "instance fact \"row-1\" is of seal epoch 3"), 11);
    assert_int_equal(fx_reseal_all(f, 100), 1);
    assert_int_equal(fx_older(f), 1);
    fact.body = bytes_str("mended");
    assert_fails(fx_put(f, &fact, 1, NULL), ERR_DATA_LOSS, "STORE_STALE");
    edit(f, "DELETE FROM record WHERE id = CAST('row-1' AS BLOB)");
    struct store_seal_proof p = fx_prove(f);
    assert_true(p.left == 0 && p.rows == 11);
    /* From here on nothing is of epoch 3: what says so has no way to the token. */
    atomic_store(&f->oldest_asked, 0);
    put_back(f, "old.db", ROW_BACK("row-2") "; " ROW_BACK("row-10")); /* of a kind that is covered, and of one that is not */
    assert_fails(fx_get(f, REC_TENANT, TA, "row-2", &out), ERR_DATA_LOSS, "STORE_STALE");
    assert_fails(fx_get(f, REC_BUDGET, TA, "row-10", &out), ERR_DATA_LOSS, "STORE_STALE");
    assert_int_equal(fx_reseal_all(f, 100), 0);
    p = fx_prove(f);
    assert_true(p.left == 2 && p.rows == 9);
    assert_int_equal(atomic_load(&f->oldest_asked), 4); /* the identity's key, for the proof */
    f->destroyed = 3;
    fx_close(f);
    fx_open(f);
    assert_fails(fx_get(f, REC_TENANT, TA, "row-2", &out), ERR_DATA_LOSS, "SEAL_ABSENT");
    assert_fails(fx_get(f, REC_BUDGET, TA, "row-10", &out), ERR_DATA_LOSS, "SEAL_ABSENT");
    assert_int_equal(fsck(f).older, 2);
    assert_true(told == 0 && findings > 0);
    fx_open(f);
}

/* Edited between the page and its commit, and mended after it: what was not put in place is not expected there. */
static void test_edited_meanwhile(void **state)
{
    struct fx *f = *state;
    put_rows(f, 6);
    assert_ok(fx_seal(f, 4, "changed"));
    struct store_reseal at = {.limit = 100};
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(f->s);
    assert_ok(store_reseal(f->s, &at, t, &f->e));
    assert_int_equal(at.rows, 6);
    assert_int_equal(edit(f, "UPDATE record SET revision = revision + 7"), 6);
    assert_ok(store_txn_commit(t, NULL, &f->e));
    assert_int_equal(edit(f, "UPDATE record SET revision = revision - 7 WHERE epoch = 3"), 6);
    expect_rows(f, 6);
    assert_int_equal(fx_reseal_all(f, 100), 6);
    finish(f);
    expect_rows(f, 6);
}

static void test_epoch_column(void **state)
{
    struct fx *f = *state;
    struct record out;
    put_rows(f, 12);
    assert_ok(fx_seal(f, 4, "changed"));
    struct store_reseal at = {.limit = 1};
    assert_true(fx_reseal(f, &at)); /* kinds in order: "row-1" is the first of the facts */
    atomic_store(&f->oldest_asked, 0);
    edit(f, "UPDATE record SET epoch = 3 WHERE epoch = 4; UPDATE record SET epoch = 4 WHERE id = CAST('row-2' AS BLOB);"
            "UPDATE record SET epoch = 5 WHERE id = CAST('row-3' AS BLOB); UPDATE record SET epoch = 0 WHERE id = CAST('row-7' AS BLOB);"
            "UPDATE record SET epoch = 4294967299 WHERE id = CAST('row-9' AS BLOB); UPDATE record SET epoch = -1 WHERE id = CAST('row-11' AS BLOB)");
    char moved[16];
    snprintf(moved, sizeof moved, "%.*s", (int)at.id_n, (const char *)at.id);
    assert_fails(store_get(f->s, (enum rec_kind)at.kind, at.tenant, BYTES(at.id, at.id_n), &f->a, &out, &f->e), ERR_DATA_LOSS, "RECORD_TAMPERED");
    assert_fails(fx_get(f, REC_TENANT, TA, "row-2", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
    assert_fails(fx_get(f, REC_META, TB, "row-3", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
    assert_fails(fx_get(f, REC_META, TA, "row-7", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
    assert_fails(fx_get(f, REC_META, TB, "row-9", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
    assert_fails(fx_get(f, REC_META, TA, "row-11", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
    assert_int_equal(atomic_load(&f->oldest_asked), 0); /* none of the numbers got to the token */
    at = (struct store_reseal){.limit = 100};
    assert_false(fx_reseal(f, &at));
    assert_true(at.rows == 6 && at.broken == 3); /* "row-7", "row-11", and the one that had been moved */
    struct store_seal_proof p = fx_prove(f);
    assert_true(p.rows == 6 && p.left == 6);
    assert_true(seal_holds(&f->s->seal, 3));
    f->e = (struct err){0};
    (void)fsck(f);
    assert_int_equal(told, 1); /* one row says 3, and does not open under it */
    assert_true(findings >= 6);
    assert_string_equal(last_told, "1 rows are sealed under epoch 3, the store is at 4");
    fx_open(f);
}

static void test_fsck_tells(void **state)
{
    struct fx *f = *state;
    put_rows(f, 10);
    assert_ok(fx_seal(f, 4, "changed"));
    struct store_reseal at = {.limit = 3};
    assert_true(fx_reseal(f, &at));
    struct store_check c = fsck(f);
    assert_true(c.older == 7 && c.seal_epoch == 4 && findings == 0 && told == 1);
    assert_string_equal(last_told, "7 rows are sealed under epoch 3, the store is at 4");
    f->destroyed = 3; /* too early */
    unsigned asked = atomic_load(&f->keys_asked);
    c = fsck(f);
    assert_true(atomic_load(&f->keys_asked) < asked + 7); /* not for each row */
    assert_true(c.older == 7 && told == 0 && findings == 1);
    assert_non_null(strstr(last_finding, "7 rows are sealed under epoch 3, the store is at 4; the secret of that epoch is not on the token"));
    assert_non_null(strstr(last_finding, "[SEAL_ABSENT]"));
    f->destroyed = 0;
    fx_open(f);
    finish(f);
    c = fsck(f);
    assert_true(c.older == 0 && told == 0 && findings == 0);
    fx_open(f);
}

static unsigned unreadable;
static void count_unreadable(void *user, enum rec_kind kind, const char *id)
{
    (void)user, (void)kind, (void)id;
    unreadable++;
}
static struct store_acceptance accept_as_is(struct fx *f)
{
    struct store_acceptance a = {.event = bytes_str("accepted"), .note = bytes_str("why"), .unreadable = count_unreadable};
    unreadable = 0;
    assert_ok(store_accept(&f->o, &a, &f->e));
    return a;
}
static void test_accepted(void **state)
{
    struct fx *f = *state;
    put_rows(f, 10);
    keep(f, "old.db");
    assert_ok(fx_seal(f, 4, "changed"));
    struct store_reseal at = {.limit = 4};
    assert_true(fx_reseal(f, &at));
    fx_close(f);
    copy_db(f, "store.db", "half.db");
    /* In the middle of a change: all is under the store's epoch then. */
    struct store_acceptance a = accept_as_is(f);
    assert_true(unreadable == 0 && a.rows == 10);
    fx_open(f);
    assert_true(store_seal_epoch(f->s) == 4 && fx_older(f) == 0);
    expect_rows(f, 10);
    fx_close(f);
    /* The same with the identity, or the root, put back: the other one is believed, since it opens. */
    static const char *const parts[] = {
        "UPDATE identity SET epoch = (SELECT epoch FROM o.identity), seal = (SELECT seal FROM o.identity)",
        "DELETE FROM root; INSERT INTO root SELECT * FROM o.root", "DELETE FROM root"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        copy_db(f, "half.db", "store.db");
        put_back(f, "old.db", parts[i]);
        a = accept_as_is(f);
        assert_true(unreadable == 0 && a.rows == 10);
        assert_int_equal(get_be32(place.value), 4);
        fx_open(f);
        assert_true(store_seal_epoch(f->s) == 4 && fx_older(f) == 0);
        expect_rows(f, 10);
        fx_close(f);
    }
    /* Neither of them says 4: the rows that are under it are opened for all that, and nothing is under what no record of it speaks of. */
    copy_db(f, "half.db", "store.db");
    put_back(f, "old.db", parts[0]);
    put_back(f, "old.db", parts[1]);
    a = accept_as_is(f);
    assert_true(unreadable == 0 && a.rows == 10);
    fx_open(f);
    assert_true(store_seal_epoch(f->s) == 3 && fx_older(f) == 0);
    expect_rows(f, 10);
    fx_close(f);
    /* A copy from before the change, and a floor from after it. */
    copy_db(f, "old.db", "store.db");
    refused(f, ERR_STATE, "STORE_ROLLED_BACK", "another incarnation");
    a = accept_as_is(f);
    assert_true(a.new_epoch > a.floor_epoch && a.floor_epoch > a.old_epoch);
    fx_open(f);
    assert_int_equal(store_seal_epoch(f->s), 3);
    expect_rows(f, 10);
    assert_ok(fx_seal(f, 4, "changed")); /* and on from there */
    finish(f);
    fx_close(f);
    copy_db(f, "old.db", "store.db"); /* which is over when the secret is gone */
    a = (struct store_acceptance){.event = bytes_str("accepted"), .note = bytes_str("why")};
    assert_fails(store_accept(&f->o, &a, &f->e), ERR_DATA_LOSS, "SEAL_ABSENT");
    copy_db(f, "half.db", "store.db"); /* rows of 3 are gone for good, the others are not */
    a = accept_as_is(f);
    assert_true(unreadable == 6 && a.rows == 4 && a.unreadable_rows == 6);
    fx_open(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SEALED_TEST(test_parts_put_back),
        SEALED_TEST(test_older_copy),
        SEALED_TEST(test_floor_of_another_time),
        SEALED_TEST(test_rows_put_back),
        SEALED_TEST(test_edited_meanwhile),
        SEALED_TEST(test_epoch_column),
        SEALED_TEST(test_fsck_tells),
        SEALED_TEST(test_accepted),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
