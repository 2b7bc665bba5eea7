/*
 * Purpose: what every backend of kms/store/store.h must do, as cmocka tests on a struct fx: a backend's test file lists
 *          CONFORMANCE_TESTS.
 * Owns: nothing. Threads: the tests start and join their own. Errors: exact codes are asserted.
 * Limits: only the contract is used, no SQL. Secrets: none.
 */
#ifndef TESTS_UNIT_KMS_STORE_CONFORMANCE_H
#define TESTS_UNIT_KMS_STORE_CONFORMANCE_H

#include "tests/unit/kms/store/fixture.h"

#include <pthread.h>

static void conf_put_get(void **state)
{
    struct fx *f = *state;
    struct record in = fx_rec(REC_TENANT, T0, "acme", "body one"), out;
    assert_fails(fx_get(f, REC_TENANT, T0, "acme", &out), ERR_NOT_FOUND, NULL);
    assert_ok(fx_put(f, &in, STORE_ABSENT, NULL));
    assert_ok(fx_get(f, REC_TENANT, T0, "acme", &out));
    assert_int_equal(out.kind, REC_TENANT);
    assert_int_equal(out.revision, 1);
    assert_int_equal(out.state, 4);
    assert_int_equal(out.time_unix_ns, 1234567);
    assert_int_equal(out.count, 9);
    assert_bytes(out.id, "acme");
    assert_bytes(out.name, "acme");
    assert_bytes(out.body, "body one");
    in.body = BYTES(NULL, 0); /* an empty body and the extremes of each column survive */
    in.name = BYTES(NULL, 0);
    in.state = UINT32_MAX;
    in.time_unix_ns = INT64_MIN;
    in.count = INT64_MAX;
    assert_ok(fx_put(f, &in, 1, NULL));
    assert_ok(fx_get(f, REC_TENANT, T0, "acme", &out));
    assert_int_equal(out.revision, 2);
    assert_int_equal(out.body.n, 0);
    assert_int_equal(out.name.n, 0);
    assert_true(out.state == UINT32_MAX && out.time_unix_ns == INT64_MIN && out.count == INT64_MAX);
    assert_fails(fx_get(f, REC_TENANT, TA, "acme", &out), ERR_NOT_FOUND, NULL); /* another tenant's key space */
    assert_fails(fx_get(f, REC_KEYRING, T0, "acme", &out), ERR_NOT_FOUND, NULL);
}

static void conf_compare_and_set(void **state)
{
    struct fx *f = *state;
    struct record r = fx_rec(REC_TENANT, T0, "acme", "1"), out;
    assert_fails(fx_put(f, &r, 1, NULL), ERR_CONFLICT, NULL);
    assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
    assert_fails(fx_put(f, &r, STORE_ABSENT, NULL), ERR_EXISTS, NULL);
    assert_fails(fx_put(f, &r, 2, NULL), ERR_CONFLICT, NULL);
    assert_ok(fx_put(f, &r, 1, NULL));
    assert_ok(fx_put(f, &r, STORE_ANY, NULL));
    assert_ok(fx_get(f, REC_TENANT, T0, "acme", &out));
    assert_int_equal(out.revision, 3);

    struct store_txn *t = store_txn_new(f->s);
    store_txn_delete(t, REC_TENANT, T0, bytes_str("acme"), 2);
    assert_fails(store_txn_commit(t, NULL, &f->e), ERR_CONFLICT, NULL);
    store_txn_free(t);
    t = store_txn_new(f->s);
    store_txn_delete(t, REC_TENANT, T0, bytes_str("acme"), 3);
    store_txn_delete(t, REC_TENANT, T0, bytes_str("never was"), STORE_ANY);
    assert_ok(store_txn_commit(t, NULL, &f->e));
    store_txn_free(t);
    assert_fails(fx_get(f, REC_TENANT, T0, "acme", &out), ERR_NOT_FOUND, NULL);
}

static void conf_check_guards(void **state)
{
    struct fx *f = *state;
    struct record tenant = fx_rec(REC_TENANT, T0, "acme", "t"), key = fx_rec(REC_CRYPTOKEY, TA, "key", "k"), out;
    static const struct {
        uint64_t expected;
        enum err_code code;
        const char *id;
    } cases[] = {{1, ERR_NONE, "acme"},          {STORE_ANY, ERR_NONE, "acme"},      {STORE_ABSENT, ERR_NONE, "none"},
                 {2, ERR_CONFLICT, "acme"},      {STORE_ABSENT, ERR_EXISTS, "acme"}, {STORE_ANY, ERR_NOT_FOUND, "none"},
                 {1, ERR_CONFLICT, "none"}};
    assert_ok(fx_put(f, &tenant, STORE_ABSENT, NULL));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct store_txn *t = store_txn_new(f->s);
        store_txn_put(t, &key, STORE_ABSENT);
        store_txn_check(t, REC_TENANT, T0, bytes_str(cases[i].id), cases[i].expected);
        f->e = (struct err){0};
        assert_int_equal(store_txn_commit(t, NULL, &f->e).failed, cases[i].code != ERR_NONE);
        assert_int_equal(f->e.code, cases[i].code);
        store_txn_free(t);
        if (cases[i].code != ERR_NONE) { /* the put that came first is undone with it */
            assert_fails(fx_get(f, REC_CRYPTOKEY, TA, "key", &out), ERR_NOT_FOUND, NULL);
            continue;
        }
        t = store_txn_new(f->s);
        store_txn_delete(t, REC_CRYPTOKEY, TA, bytes_str("key"), 1);
        assert_ok(store_txn_commit(t, NULL, &f->e));
        store_txn_free(t);
    }
    assert_ok(fx_get(f, REC_TENANT, T0, "acme", &out));
    assert_int_equal(out.revision, 1); /* a check writes nothing */
}

static void conf_sees_itself(void **state)
{
    struct fx *f = *state;
    struct record r = fx_rec(REC_META, T0, "twice", "1"), out;
    struct store_txn *t = store_txn_new(f->s);
    store_txn_put(t, &r, STORE_ABSENT);
    r.body = bytes_str("2");
    store_txn_put(t, &r, 1);
    assert_ok(store_txn_commit(t, NULL, &f->e));
    store_txn_free(t);
    assert_ok(fx_get(f, REC_META, T0, "twice", &out));
    assert_int_equal(out.revision, 2);
    assert_bytes(out.body, "2");
}

static void conf_limits(void **state)
{
    struct fx *f = *state;
    uint8_t *big = calloc(1, STORE_BODY_MAX + 1);
    struct record r = fx_rec(REC_META, T0, "x", ""), out;
    r.body = BYTES(big, STORE_BODY_MAX + 1);
    assert_fails(fx_put(f, &r, STORE_ABSENT, NULL), ERR_OUT_OF_RANGE, "STORE_LIMIT");
    r.body.n = STORE_BODY_MAX;
    r.id = BYTES(big, STORE_ID_MAX + 1);
    assert_fails(fx_put(f, &r, STORE_ABSENT, NULL), ERR_OUT_OF_RANGE, "STORE_LIMIT");
    r.id.n = 0;
    assert_fails(fx_put(f, &r, STORE_ABSENT, NULL), ERR_OUT_OF_RANGE, "STORE_LIMIT");
    r.id.n = STORE_ID_MAX;
    r.name = BYTES(big, STORE_NAME_MAX + 1);
    assert_fails(fx_put(f, &r, STORE_ABSENT, NULL), ERR_OUT_OF_RANGE, "STORE_LIMIT");
    r.name.n = STORE_NAME_MAX;
    assert_ok(fx_put(f, &r, STORE_ABSENT, NULL)); /* all limits at once, none passed */
    assert_ok(store_get(f->s, REC_META, T0, r.id, &f->a, &out, &f->e));
    assert_int_equal(out.body.n, STORE_BODY_MAX);

    struct store_txn *t = store_txn_new(f->s);
    for (int i = 0; i <= STORE_TXN_MAX; i++)
        store_txn_check(t, REC_META, T0, bytes_str("none"), STORE_ABSENT);
    assert_fails(store_txn_commit(t, NULL, &f->e), ERR_OUT_OF_RANGE, "STORE_LIMIT");
    store_txn_free(t);
    t = store_txn_new(f->s);
    store_txn_event(t, T0, bytes_str("one"));
    store_txn_event(t, T0, bytes_str("two"));
    assert_fails(store_txn_commit(t, NULL, &f->e), ERR_OUT_OF_RANGE, "STORE_LIMIT");
    store_txn_free(t);
    t = store_txn_new(f->s);
    store_txn_event(t, T0, BYTES(big, STORE_EVENT_MAX + 1));
    assert_fails(store_txn_commit(t, NULL, &f->e), ERR_OUT_OF_RANGE, "STORE_LIMIT");
    store_txn_free(t);

    struct arena small;
    arena_init(&small, 8192);
    assert_fails(store_get(f->s, REC_META, T0, r.id, &small, &out, &f->e), ERR_EXHAUSTED, NULL);
    arena_release(&small);
    free(big);
}

static void conf_expect_ids(struct fx *f, struct store_scan q, const char *want /* first bytes of ids in hex pairs, joined */)
{
    struct record *rows = NULL;
    size_t n = 0;
    char got[256] = "";
    assert_ok(store_scan(f->s, &q, &f->a, &rows, &n, &f->e));
    for (size_t i = 0; i < n; i++) {
        char hex[64];
        hex_encode(rows[i].id.p, rows[i].id.n, hex);
        strcat(strcat(got, i ? " " : ""), hex);
    }
    assert_string_equal(got, want);
}

static void conf_scan(void **state)
{
    struct fx *f = *state;
    static const char *const ids[] = {"61", "6100", "6161", "61ff", "61ffff", "62", "ff", "ffff"};
    for (size_t i = 0; i < 8; i++) {
        uint8_t id[8];
        struct record r = fx_rec(REC_CRYPTOKEY, TA, "x", ids[i]);
        r.id = BYTES(id, strlen(ids[i]) / 2);
        assert_true(hex_decode(bytes_str(ids[i]), id, r.id.n));
        assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
        if (i == 3) { /* strangers around it */
            memcpy(r.tenant, TB, 16);
            assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
            r.kind = REC_KEYRING;
            assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
        }
    }
    struct store_scan q = {.kind = REC_CRYPTOKEY, .limit = 100};
    memcpy(q.tenant, TA, 16);
    conf_expect_ids(f, q, "61 6100 6161 61ff 61ffff 62 ff ffff");
    q.prefix = BYTES("a", 1);
    conf_expect_ids(f, q, "61 6100 6161 61ff 61ffff");
    q.limit = 2;
    conf_expect_ids(f, q, "61 6100");
    q.after = BYTES("a\0", 2);
    conf_expect_ids(f, q, "6161 61ff");
    q.after = BYTES("a\xff", 2);
    conf_expect_ids(f, q, "61ffff");
    q.after = BYTES("b", 1); /* behind the prefix */
    conf_expect_ids(f, q, "");
    q.after = BYTES("A", 1); /* before it */
    conf_expect_ids(f, q, "61 6100");
    q.descending = true;
    q.after = BYTES(NULL, 0);
    conf_expect_ids(f, q, "61ffff 61ff");
    q.after = BYTES("a\xff", 2);
    q.limit = 9;
    conf_expect_ids(f, q, "6161 6100 61");
    q.after = BYTES("A", 1);
    conf_expect_ids(f, q, "");
    q.after = BYTES(NULL, 0);
    q.prefix = BYTES("\xff", 1); /* no successor */
    conf_expect_ids(f, q, "ffff ff");
    q.descending = false;
    conf_expect_ids(f, q, "ff ffff");
    q.limit = 0;
    conf_expect_ids(f, q, "");
    uint8_t longest[STORE_ID_MAX + 1];
    memset(longest, 0xff, sizeof longest);
    q.limit = 9;
    q.prefix = BYTES(longest, STORE_ID_MAX);
    conf_expect_ids(f, q, "");
    struct record *rows;
    size_t n;
    q.prefix.n++;
    assert_fails(store_scan(f->s, &q, &f->a, &rows, &n, &f->e), ERR_INVALID, "STORE_LIMIT");
}

static void conf_scan_all_tenants(void **state)
{
    struct fx *f = *state;
    struct record b = fx_rec(REC_PRINCIPAL, TB, "p1", ""), a2 = fx_rec(REC_PRINCIPAL, TA, "p2", ""),
                  a1 = fx_rec(REC_PRINCIPAL, TA, "p1", ""), z = fx_rec(REC_PRINCIPAL, T0, "zz", "");
    const struct record *all[] = {&b, &a2, &a1, &z};
    struct store_scan q = {.kind = REC_PRINCIPAL, .limit = 9, .all_tenants = true};
    for (int i = 0; i < 4; i++)
        assert_ok(fx_put(f, all[i], STORE_ABSENT, NULL));
    conf_expect_ids(f, q, "7a7a 7031 7032 7031");
    q.prefix = bytes_str("p");
    conf_expect_ids(f, q, "7031 7032 7031");
    memcpy(q.after_tenant, TA, 16);
    q.after = bytes_str("p1");
    q.limit = 1;
    conf_expect_ids(f, q, "7032");
    q.after = bytes_str("p2");
    conf_expect_ids(f, q, "7031");
    struct record *rows;
    size_t n;
    q.descending = true;
    assert_fails(store_scan(f->s, &q, &f->a, &rows, &n, &f->e), ERR_INVALID, "STORE_LIMIT");
}

static void conf_outbox(void **state)
{
    struct fx *f = *state;
    struct record r = fx_rec(REC_META, TA, "x", "1");
    struct outbox_event *ev;
    size_t n;
    assert_int_equal(store_outbox_last(f->s), 0);
    for (int i = 0; i < 5; i++) {
        char text[24];
        snprintf(text, sizeof text, "event %d", i + 1);
        assert_ok(fx_put(f, &r, (uint64_t)i, text));
        assert_fails(fx_put(f, &r, 99, "refused"), ERR_CONFLICT, NULL); /* takes no sequence */
    }
    assert_int_equal(store_outbox_last(f->s), 5);
    assert_ok(store_outbox_read(f->s, 0, 100, &f->a, &ev, &n, &f->e));
    assert_int_equal(n, 5);
    assert_int_equal(ev[0].seq, 1);
    assert_bytes(ev[4].event, "event 5");
    assert_memory_equal(ev[4].tenant, TA, 16);
    assert_ok(store_outbox_read(f->s, 2, 2, &f->a, &ev, &n, &f->e));
    assert_int_equal(n, 2);
    assert_int_equal(ev[0].seq, 3);
    assert_ok(store_outbox_trim(f->s, 3, &f->e));
    assert_ok(store_outbox_read(f->s, 0, 100, &f->a, &ev, &n, &f->e));
    assert_int_equal(n, 2);
    assert_int_equal(ev[0].seq, 4);
    assert_ok(store_outbox_trim(f->s, UINT64_MAX, &f->e)); /* everything, and no sequence is given twice */
    fx_close(f);
    fx_open(f);
    assert_int_equal(store_outbox_last(f->s), 5);
    assert_ok(fx_put(f, &r, STORE_ANY, "event 6"));
    assert_ok(store_outbox_read(f->s, 5, 100, &f->a, &ev, &n, &f->e));
    assert_int_equal(n, 1);
    assert_int_equal(ev[0].seq, 6);
}

struct conf_seen {
    unsigned changes;
    uint64_t woken;
    char last[32];
    uint8_t tenant[16];
};
static void conf_on_change(void *user, enum rec_kind kind, const uint8_t tenant[16], struct bytes id)
{
    struct conf_seen *seen = user;
    seen->changes++;
    snprintf(seen->last, sizeof seen->last, "%d:%.*s", (int)kind, (int)id.n, (const char *)id.p);
    memcpy(seen->tenant, tenant, 16);
}
static void conf_on_event(void *user, uint64_t seq)
{
    ((struct conf_seen *)user)->woken = seq;
}
static void conf_watch(void **state)
{
    struct fx *f = *state;
    struct conf_seen seen = {0};
    struct record r = fx_rec(REC_POLICY, TB, "p", "1");
    store_watch(f->s, 7, conf_on_change, &seen);
    store_set_outbox_waker(f->s, conf_on_event, &seen);
    assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
    assert_int_equal(seen.changes, 1); /* before commit returned */
    assert_string_equal(seen.last, "8:p");
    assert_memory_equal(seen.tenant, TB, 16);
    assert_int_equal(seen.woken, 0);
    assert_ok(fx_put(f, &r, 1, "e"));
    assert_int_equal(seen.changes, 2);
    assert_int_equal(seen.woken, 1);
    assert_fails(fx_put(f, &r, 1, "e"), ERR_CONFLICT, NULL);
    assert_int_equal(seen.changes, 2); /* nothing happened, nobody is told */
    assert_int_equal(seen.woken, 1);
    struct store_txn *t = store_txn_new(f->s);
    store_txn_check(t, REC_POLICY, TB, bytes_str("p"), 2);
    assert_ok(store_txn_commit(t, NULL, &f->e));
    store_txn_free(t);
    assert_int_equal(seen.changes, 2);
    store_watch(f->s, 7, NULL, NULL);
    store_set_outbox_waker(f->s, NULL, NULL);
    assert_ok(fx_put(f, &r, 2, "e"));
    assert_int_equal(seen.changes, 2);
}

/* Many writers on one counter row and each on its own: every increment that was answered OK is there, none twice. */
struct conf_writer {
    struct fx *f;
    unsigned id, wins, refusals, others;
};
enum { CONF_THREADS = 8, CONF_ROUNDS = 40 };
static void *conf_write(void *arg)
{
    struct conf_writer *w = arg;
    for (unsigned i = 0; i < CONF_ROUNDS; i++) {
        struct arena a;
        struct err e = {0};
        struct record cur = {0}, own = fx_rec(REC_META, TA, "own", "x"), shared = fx_rec(REC_META, TA, "shared", "s");
        char id[16];
        snprintf(id, sizeof id, "own%u-%u", w->id, i);
        own.id = bytes_str(id);
        arena_init(&a, 1 << 20);
        bool there = !store_get(w->f->s, REC_META, TA, bytes_str("shared"), &a, &cur, &e).failed;
        struct store_txn *t = store_txn_new(w->f->s);
        store_txn_put(t, &own, STORE_ABSENT);
        store_txn_put(t, &shared, there ? cur.revision : STORE_ABSENT);
        store_txn_event(t, TA, bytes_str(id));
        if (!store_txn_commit(t, NULL, &e).failed)
            w->wins++;
        else if (e.code == ERR_CONFLICT || e.code == ERR_EXISTS)
            w->refusals++;
        else
            w->others++;
        store_txn_free(t);
        arena_release(&a);
    }
    return NULL;
}
static void conf_concurrent(void **state)
{
    struct fx *f = *state;
    pthread_t th[CONF_THREADS];
    struct conf_writer w[CONF_THREADS];
    unsigned wins = 0;
    for (unsigned i = 0; i < CONF_THREADS; i++) {
        w[i] = (struct conf_writer){.f = f, .id = i};
        assert_int_equal(pthread_create(&th[i], NULL, conf_write, &w[i]), 0);
    }
    for (unsigned i = 0; i < CONF_THREADS; i++) {
        pthread_join(th[i], NULL);
        assert_int_equal(w[i].others, 0);
        assert_int_equal(w[i].wins + w[i].refusals, CONF_ROUNDS);
        wins += w[i].wins;
    }
    struct record shared, *rows;
    struct store_scan q = {.kind = REC_META, .prefix = bytes_str("own"), .limit = 10000};
    struct outbox_event *ev;
    size_t n;
    memcpy(q.tenant, TA, 16);
    assert_ok(fx_get(f, REC_META, TA, "shared", &shared));
    assert_int_equal(shared.revision, wins);
    assert_ok(store_scan(f->s, &q, &f->a, &rows, &n, &f->e));
    assert_int_equal(n, wins); /* a refused transaction left none of its rows */
    assert_ok(store_outbox_read(f->s, 0, 10000, &f->a, &ev, &n, &f->e));
    assert_int_equal(n, wins);
    assert_int_equal(ev[n - 1].seq, wins);
}

static void conf_survives_reopen(void **state)
{
    struct fx *f = *state;
    struct record r = fx_rec(REC_TENANT, T0, "acme", "kept"), out;
    uint8_t before[16], after[16];
    assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
    store_incarnation(f->s, before);
    fx_close(f);
    fx_open(f);
    store_incarnation(f->s, after);
    assert_memory_equal(before, after, 16);
    assert_ok(fx_get(f, REC_TENANT, T0, "acme", &out));
    assert_bytes(out.body, "kept");
}

/* That the token has a newer secret means nothing: the store says under which it is sealed. */
static void conf_seal_epoch(void **state)
{
    struct fx *f = *state;
    struct record r = fx_rec(REC_TENANT, T0, "old", "of epoch 3"), out;
    assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
    fx_close(f);
    f->o.epoch = 4;
    fx_open(f);
    assert_int_equal(store_seal_epoch(f->s), 3);
    for (uint32_t not_above = 0; not_above <= 3; not_above++)
        assert_fails(fx_seal(f, not_above, "refused"), ERR_STATE, "SEAL_EPOCH");
    assert_int_equal(store_outbox_last(f->s), 0);
    assert_ok(fx_seal(f, 4, "sealed under 4"));
    assert_int_equal(store_seal_epoch(f->s), 4);
    assert_fails(fx_seal(f, 4, "refused"), ERR_STATE, "SEAL_EPOCH");
    r = fx_rec(REC_TENANT, T0, "new", "of epoch 4");
    assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
    fx_close(f);
    fx_open(f);
    assert_int_equal(store_seal_epoch(f->s), 4);
    unsigned asked = atomic_load(&f->keys_asked);
    f->no_key = true; /* the old epoch's key is needed now, and cannot be had */
    assert_fails(fx_get(f, REC_TENANT, T0, "old", &out), ERR_UNAVAILABLE, "HSM_UNAVAILABLE");
    f->no_key = false;
    assert_ok(fx_get(f, REC_TENANT, T0, "old", &out));
    assert_bytes(out.body, "of epoch 3");
    assert_ok(fx_get(f, REC_TENANT, T0, "new", &out));
    assert_ok(fx_get(f, REC_TENANT, T0, "old", &out));
    assert_int_equal(atomic_load(&f->keys_asked), asked + 2); /* once refused, once given, then kept */
    f->destroyed = 3;
    fx_close(f);
    fx_open(f);
    assert_fails(fx_get(f, REC_TENANT, T0, "old", &out), ERR_DATA_LOSS, "SEAL_ABSENT"); /* never: there is no such row */
    assert_fails(fx_seal(f, 3, "refused"), ERR_STATE, "SEAL_EPOCH"); /* nor is the token asked for what is no way on */
    assert_ok(fx_get(f, REC_TENANT, T0, "new", &out));
}

static void conf_reseal(void **state)
{
    struct fx *f = *state;
    struct conf_seen seen = {0};
    struct record out;
    char id[16];
    for (int i = 0; i < 25; i++) {
        snprintf(id, sizeof id, "row %d", i);
        struct record r = fx_rec(i % 5 ? REC_META : REC_IDEMPOTENCY, i % 2 ? TA : TB, id, id);
        assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
    }
    assert_int_equal(fx_older(f), 0);
    assert_ok(fx_seal(f, 4, "sealed under 4"));
    assert_int_equal(fx_older(f), 25);
    assert_int_equal(fx_prove(f).left, 25);
    store_watch(f->s, 7, conf_on_change, &seen);
    struct store_reseal at = {.limit = 10};
    assert_true(fx_reseal(f, &at));
    assert_int_equal(at.rows, 10);
    assert_int_equal(fx_older(f), 15);
    assert_int_equal(fx_reseal_all(f, 4), 15);
    assert_int_equal(fx_reseal_all(f, 4), 0);
    assert_int_equal(seen.changes, 0);
    struct store_seal_proof p = fx_prove(f);
    assert_true(p.left == 0 && p.rows == 25);
    f->destroyed = 3;
    atomic_store(&f->oldest_asked, 0);
    fx_close(f);
    fx_open(f);
    for (int i = 0; i < 25; i++) {
        snprintf(id, sizeof id, "row %d", i);
        struct record r = fx_rec(i % 5 ? REC_META : REC_IDEMPOTENCY, i % 2 ? TA : TB, id, "changed");
        assert_ok(fx_get(f, r.kind, r.tenant, id, &out));
        assert_int_equal(out.revision, 1);
        assert_true(out.state == 4 && out.count == 9 && bytes_equal(out.body, bytes_str(id)));
        assert_ok(fx_put(f, &r, 1, NULL)); /* who read it before can write it still */
    }
    assert_int_equal(fx_prove(f).left, 0);
    assert_int_equal(atomic_load(&f->oldest_asked), 4);
}

#define CONFORMANCE_TEST(name) cmocka_unit_test_setup_teardown(name, fx_setup, fx_teardown)
#define CONFORMANCE_TESTS                                                                                               \
    CONFORMANCE_TEST(conf_put_get), CONFORMANCE_TEST(conf_compare_and_set), CONFORMANCE_TEST(conf_check_guards),        \
        CONFORMANCE_TEST(conf_sees_itself), CONFORMANCE_TEST(conf_limits), CONFORMANCE_TEST(conf_scan),                 \
        CONFORMANCE_TEST(conf_scan_all_tenants), CONFORMANCE_TEST(conf_outbox), CONFORMANCE_TEST(conf_watch),           \
        CONFORMANCE_TEST(conf_concurrent), CONFORMANCE_TEST(conf_survives_reopen), CONFORMANCE_TEST(conf_seal_epoch),          \
        CONFORMANCE_TEST(conf_reseal)

#endif
