/* The database is edited by hand, as somebody with the file would: each edit is refused when the row is read. */
#include "tests/unit/kms/store/edit.h"

#include "kms/crypto/aead.h"

static const char *const other_tenant = "x'b102030405060708090a0b0c0d0e0f10'";

static void two_rows(struct fx *f)
{
    struct record a = fx_rec(REC_CRYPTOKEY, TA, "a", "body of a"), b = fx_rec(REC_CRYPTOKEY, TA, "b", "body of b");
    assert_ok(fx_put(f, &a, STORE_ABSENT, NULL));
    assert_ok(fx_put(f, &b, STORE_ABSENT, NULL));
}

static void test_each_column(void **state)
{
    struct fx *f = *state;
    static const struct {
        const char *set;
        const char *id;
        enum rec_kind kind;
    } edits[] = {
        {"kind = 5", "a", REC_VERSION},  {"id = x'7a'", "z", REC_CRYPTOKEY},
        {"revision = 2", "a", REC_CRYPTOKEY}, {"revision = -1", "a", REC_CRYPTOKEY},
        {"name = x'62'", "a", REC_CRYPTOKEY}, {"name = x''", "a", REC_CRYPTOKEY},
        {"state = 1", "a", REC_CRYPTOKEY}, {"state = -1", "a", REC_CRYPTOKEY},
        {"state = 4294967300", "a", REC_CRYPTOKEY}, /* 4, if it were cut to 32 bits */
        {"time = time + 1", "a", REC_CRYPTOKEY}, {"count = count + 1", "a", REC_CRYPTOKEY},
        {"epoch = 2", "a", REC_CRYPTOKEY}, {"epoch = 4", "a", REC_CRYPTOKEY}, {"epoch = 0", "a", REC_CRYPTOKEY},
        {"epoch = 4294967299", "a", REC_CRYPTOKEY}, /* 3, if cut */
        {"body = x''", "a", REC_CRYPTOKEY}, {"body = substr(body, 1, length(body) - 1)", "a", REC_CRYPTOKEY},
        {"body = CAST(x'02' || substr(body, 2) AS BLOB)", "a", REC_CRYPTOKEY},
        {"name = zeroblob(321)", "a", REC_CRYPTOKEY},
    };
    two_rows(f);
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        char sql[256];
        struct record out, *rows;
        size_t n;
        struct store_scan q = {.kind = edits[i].kind, .limit = 10};
        memcpy(q.tenant, TA, 16);
        edit(f, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT * FROM record WHERE id = x'61'");
        snprintf(sql, sizeof sql, "UPDATE record SET %s WHERE id = x'61'", edits[i].set);
        assert_int_equal(edit(f, sql), 1);
        assert_fails(fx_get(f, edits[i].kind, TA, edits[i].id, &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
        assert_fails(store_scan(f->s, &q, &f->a, &rows, &n, &f->e), ERR_DATA_LOSS, "RECORD_TAMPERED");
        assert_ok(fx_get(f, REC_CRYPTOKEY, TA, "b", &out)); /* its neighbour is not concerned */
        edit(f, "DELETE FROM record WHERE id IN (x'61', x'7a'); INSERT INTO record SELECT * FROM kept; DROP TABLE kept");
        assert_ok(fx_get(f, REC_CRYPTOKEY, TA, "a", &out)); /* and put back as it was, it opens */
        assert_bytes(out.body, "body of a");
    }
}

static void test_every_byte_of_a_body(void **state)
{
    struct fx *f = *state;
    struct record out;
    two_rows(f);
    for (int i = 1; i <= 1 + AEAD_OVERHEAD + 9; i += 3) {
        char sql[300];
        /* the byte becomes another one: 'Z' or, where it is 'Z', 'Y' */
        snprintf(sql, sizeof sql,
                 "CREATE TABLE kept AS SELECT body FROM record WHERE id = x'61';"
                 "UPDATE record SET body = CAST(substr(body, 1, %d) || iif(substr(body, %d, 1) = x'5a', x'59', x'5a') ||"
                 " substr(body, %d) AS BLOB) WHERE id = x'61'",
                 i - 1, i, i + 1);
        edit(f, sql);
        assert_fails(fx_get(f, REC_CRYPTOKEY, TA, "a", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
        edit(f, "UPDATE record SET body = (SELECT body FROM kept) WHERE id = x'61'; DROP TABLE kept");
    }
    assert_ok(fx_get(f, REC_CRYPTOKEY, TA, "a", &out));
}

static void test_swapped_bodies(void **state)
{
    struct fx *f = *state;
    struct record out;
    two_rows(f);
    edit(f, "CREATE TABLE t AS SELECT id, body FROM record;"
            "UPDATE record SET body = (SELECT body FROM t WHERE t.id <> record.id); DROP TABLE t");
    assert_fails(fx_get(f, REC_CRYPTOKEY, TA, "a", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
    assert_fails(fx_get(f, REC_CRYPTOKEY, TA, "b", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
}

static void test_copied_rows(void **state)
{
    struct fx *f = *state;
    struct record out;
    char sql[400];
    two_rows(f);
    edit(f, "INSERT INTO record SELECT kind, tenant, x'63', revision, name, state, time, count, epoch, body FROM record"
            " WHERE id = x'61'");
    assert_fails(fx_get(f, REC_CRYPTOKEY, TA, "c", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
    snprintf(sql, sizeof sql,
             "INSERT INTO record SELECT kind, %s, id, revision, name, state, time, count, epoch, body FROM record"
             " WHERE id = x'61'", other_tenant);
    edit(f, sql);
    assert_fails(fx_get(f, REC_CRYPTOKEY, TB, "a", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
    edit(f, "INSERT INTO record SELECT 3, tenant, id, revision, name, state, time, count, epoch, body FROM record"
            " WHERE id = x'61' AND tenant < x'b1'");
    assert_fails(fx_get(f, REC_KEYRING, TA, "a", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
    struct store_scan q = {.kind = REC_CRYPTOKEY, .limit = 10, .all_tenants = true};
    struct record *rows;
    size_t n;
    assert_fails(store_scan(f->s, &q, &f->a, &rows, &n, &f->e), ERR_DATA_LOSS, "RECORD_TAMPERED");
}

/* A revoked thing made valid again: the old body under the new revision's number. */
static void test_replayed_revision(void **state)
{
    struct fx *f = *state;
    struct record r = fx_rec(REC_PRINCIPAL, TA, "p", "enabled"), out;
    assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
    edit(f, "CREATE TABLE old AS SELECT * FROM record");
    r.body = bytes_str("revoked");
    assert_ok(fx_put(f, &r, 1, NULL));
    edit(f, "UPDATE record SET body = (SELECT body FROM old)");
    assert_fails(fx_get(f, REC_PRINCIPAL, TA, "p", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
}

static void test_another_store(void **state)
{
    struct fx *f = *state, other;
    struct record out, a = fx_rec(REC_CRYPTOKEY, TA, "a", "body of a");
    char sql[300];
    two_rows(f);
    fx_start(&other); /* the same instance and seal secret: only the incarnation differs */
    assert_false(fx_put(&other, &a, STORE_ABSENT, NULL).failed);
    fx_close(&other);
    snprintf(sql, sizeof sql,
             "ATTACH '%s/store.db' AS o; UPDATE record SET body = (SELECT body FROM o.record) WHERE id = x'61'", other.dir);
    edit(f, sql);
    assert_fails(fx_get(f, REC_CRYPTOKEY, TA, "a", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
    fx_stop(&other);
    fx_close(f);
    edit(f, "UPDATE identity SET incarnation = randomblob(16)");
    struct store *s = NULL;
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_FOREIGN");
}

static void test_outbox(void **state)
{
    struct fx *f = *state;
    struct record r = fx_rec(REC_META, TA, "x", "");
    struct outbox_event *ev;
    size_t n;
    static const struct {
        const char *edit, *undo, *reason;
    } edits[] = {
        {"UPDATE outbox SET tenant = x'b102030405060708090a0b0c0d0e0f10' WHERE seq = 2", "tenant", "RECORD_TAMPERED"},
        {"UPDATE outbox SET epoch = 9 WHERE seq = 2", "epoch", "RECORD_TAMPERED"},
        {"UPDATE outbox SET body = (SELECT body FROM kept WHERE seq = 1) WHERE seq = 2", "body", "RECORD_TAMPERED"},
        {"UPDATE outbox SET seq = 9 WHERE seq = 3", "seq", "RECORD_TAMPERED"},
        {"DELETE FROM outbox WHERE seq = 2", "row", "OUTBOX_GAP"},
    };
    for (uint64_t i = 0; i < 3; i++)
        assert_ok(fx_put(f, &r, i, "event"));
    edit(f, "CREATE TABLE kept AS SELECT * FROM outbox");
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        assert_int_equal(edit(f, edits[i].edit), 1);
        assert_fails(store_outbox_read(f->s, 0, 10, &f->a, &ev, &n, &f->e), ERR_DATA_LOSS, edits[i].reason);
        edit(f, "DELETE FROM outbox; INSERT INTO outbox SELECT * FROM kept");
        assert_ok(store_outbox_read(f->s, 0, 10, &f->a, &ev, &n, &f->e));
        assert_int_equal(n, 3);
    }
}

/* A made-up epoch must not make the HSM derive keys. */
static void test_no_key_for_a_future_epoch(void **state)
{
    struct fx *f = *state;
    struct record out;
    two_rows(f);
    unsigned asked = atomic_load(&f->keys_asked);
    edit(f, "UPDATE record SET epoch = 1000");
    assert_fails(fx_get(f, REC_CRYPTOKEY, TA, "a", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
    assert_int_equal(atomic_load(&f->keys_asked), asked);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fx_setup, fx_teardown)
    const struct CMUnitTest tests[] = {
        T(test_each_column),  T(test_every_byte_of_a_body), T(test_swapped_bodies), T(test_copied_rows), T(test_replayed_revision),
        T(test_another_store), T(test_outbox),              T(test_no_key_for_a_future_epoch),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
