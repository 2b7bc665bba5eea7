/* The whole store put back: only a second place can know. And the way on: acceptance, which nothing of the future survives. */
#include "tests/unit/kms/store/anchored.h"

static void put(struct fx *f, const char *body, uint64_t expected, bool urgent)
{
    struct record r = fx_rec(REC_PRINCIPAL, T0, "bob", body);
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(f->s);
    store_txn_put(t, &r, expected);
    store_txn_event(t, T0, bytes_str("event"));
    if (urgent)
        store_txn_urgent(t);
    assert_ok(store_txn_commit(t, NULL, &f->e));
}
static unsigned puts_now(void)
{
    pthread_mutex_lock(&place.mu);
    unsigned n = place.puts;
    pthread_mutex_unlock(&place.mu);
    return n;
}

static void test_urgent_is_covered_at_once(void **state)
{
    struct fx *f = *state;
    struct store_anchor_status st;
    put(f, "active", STORE_ABSENT, false);
    unsigned before = puts_now();
    put(f, "revoked", 1, true);
    assert_true(puts_now() > before);
    store_anchor_status(f->s, &st);
    assert_int_equal(st.floor_epoch, st.epoch);
    assert_false(st.failing);
    place.broken = true; /* committed all the same, and health says that the floor is behind */
    put(f, "revoked again", 2, true);
    store_anchor_status(f->s, &st);
    assert_true(st.failing && st.floor_epoch < st.epoch && st.why[0]);
    place.broken = false;
    put(f, "revoked again", 3, true);
    store_anchor_status(f->s, &st);
    assert_true(!st.failing && st.floor_epoch == st.epoch);
}

static void test_older_copy(void **state)
{
    struct fx *f = *state;
    struct store *s = NULL;
    struct record out;
    put(f, "active", STORE_ABSENT, false);
    fx_close(f);
    copy_db(f, "store.db", "old.db");
    fx_open(f);
    put(f, "revoked", 1, false);
    fx_close(f); /* an orderly end writes the floor */
    copy_db(f, "store.db", "new.db");
    copy_db(f, "old.db", "store.db");
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_ROLLED_BACK");
    assert_non_null(strstr(f->e.detail, "kmsd accept-rollback"));
    f->o.anchor = NULL; /* the control: without a second place nobody could know */
    fx_open(f);
    assert_ok(fx_get(f, REC_PRINCIPAL, T0, "bob", &out));
    assert_bytes(out.body, "active");
    fx_close(f);
    f->o.anchor = &place.io;
    copy_db(f, "new.db", "store.db");
    fx_open(f);
}

static void test_anchor_gone_or_broken(void **state)
{
    struct fx *f = *state;
    struct store *s = NULL;
    put(f, "active", STORE_ABSENT, false);
    fx_close(f);
    place.n = 0; /* a token put back from before there was an anchor: a lower floor, and a new one at once */
    fx_open(f);
    fx_close(f);
    assert_true(place.n > 0);
    copy_db(f, "store.db", "old.db");
    fx_open(f);
    put(f, "revoked", 1, true);
    fx_close(f);
    copy_db(f, "store.db", "new.db");
    copy_db(f, "old.db", "store.db");
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_ROLLED_BACK");
    copy_db(f, "new.db", "store.db");
    place.value[40] ^= 1;
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_ROLLED_BACK");
    place.value[40] ^= 1;
    place.broken = true;
    assert_fails(store_open(&f->o, &s, &f->e), ERR_UNAVAILABLE, "HSM_UNAVAILABLE");
    place.broken = false;
    fx_open(f);
}

/* Schema 1 put back, so that the next open builds the buckets from whatever rows there are. */
static void test_no_way_back_to_schema_1(void **state)
{
    struct fx *f = *state;
    struct store *s = NULL;
    put(f, "active", STORE_ABSENT, false);
    put(f, "revoked", 1, false);
    fx_close(f);
    edit(f, "DROP TABLE bucket; DROP TABLE root; DELETE FROM migration WHERE number = 2; PRAGMA user_version = 1");
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_ROLLED_BACK");
    f->o.anchor = NULL;
    fx_open(f); /* the control */
}

static void test_moved(void **state)
{
    struct fx *f = *state;
    struct store *s = NULL;
    put(f, "active", STORE_ABSENT, false);
    fx_close(f);
    copy_db(f, "store.db", "old.db");
    fx_open(f);
    put(f, "revoked", 1, false);
    fx_close(f);
    memcpy(place.other, place.value, sizeof place.other);
    place.other_n = place.n;
    place.n = 0;
    place.io.place = STORE_ANCHOR_FILE;
    copy_db(f, "store.db", "new.db");
    copy_db(f, "old.db", "store.db"); /* the move is no way around the floor */
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_ROLLED_BACK");
    assert_int_equal(place.n, 0);
    copy_db(f, "new.db", "store.db");
    fx_open(f);
    assert_true(place.n > 0);
    fx_close(f);
    place.other_n = 0;
    fx_open(f); /* the file alone is asked from now on */
    fx_close(f);
    place.n = 0;
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_ROLLED_BACK");
}

static unsigned unreadable;
static void count_unreadable(void *user, enum rec_kind kind, const char *id)
{
    (void)user, (void)kind, (void)id;
    unreadable++;
}
static struct store_acceptance acceptance(uint64_t journal_seq)
{
    return (struct store_acceptance){.journal_outbox_seq = journal_seq, .journal_next_index = journal_seq, .event = bytes_str("accepted"),
                                     .note = bytes_str("why"), .unreadable = count_unreadable};
}

static void test_accept(void **state)
{
    struct fx *f = *state;
    struct store *s = NULL;
    struct record out;
    struct outbox_event *ev;
    uint8_t before[16], after[16];
    size_t n;
    put(f, "active", STORE_ABSENT, false); /* event 1 */
    store_incarnation(f->s, before);
    fx_close(f);
    copy_db(f, "store.db", "old.db");
    fx_open(f);
    put(f, "later", 1, false);
    put(f, "last", 2, false); /* events 2 and 3: the journal has them */
    fx_close(f);
    copy_db(f, "store.db", "new.db");
    copy_db(f, "old.db", "store.db");
    struct store_acceptance a = acceptance(3);
    assert_ok(store_accept(&f->o, &a, &f->e));
    assert_int_equal(a.unreadable_rows, 0);
    assert_true(a.rows == 1 && a.new_epoch > a.floor_epoch && a.floor_epoch > a.old_epoch);
    fx_open(f);
    store_incarnation(f->s, after);
    assert_memory_not_equal(before, after, 16);
    assert_ok(fx_get(f, REC_PRINCIPAL, T0, "bob", &out));
    assert_bytes(out.body, "active");
    assert_ok(fx_get(f, REC_META, T0, STORE_ROLLBACK_ID, &out));
    assert_bytes(out.body, "why");
    assert_ok(store_outbox_read(f->s, 3, 10, &f->a, &ev, &n, &f->e)); /* behind what the journal has */
    assert_true(n == 1 && ev[0].seq == 4);
    assert_bytes(ev[0].event, "accepted");
    put(f, "on", 1, false);
    /* A row of the future that was given up: sealed by us, of a higher revision, and worth nothing. */
    char sql[300];
    snprintf(sql, sizeof sql, "ATTACH '%s/new.db' AS o; DELETE FROM record WHERE kind = 7; INSERT INTO record SELECT * FROM o.record", f->dir);
    edit(f, sql);
    assert_fails(fx_get(f, REC_PRINCIPAL, T0, "bob", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
    fx_close(f);
    copy_db(f, "new.db", "store.db"); /* the whole of it neither */
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_ROLLED_BACK");
    copy_db(f, "old.db", "store.db");
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_ROLLED_BACK");
}

/* What somebody else knows of the rows is taken over with the acceptance, as one more revision; the floor is known before the note
 * is written; and a floor of another incarnation is none. */
struct knowing {
    struct store_acceptance *a;
    unsigned asked, told;
    bool refuse;
};
static struct result disable_bob(void *user, struct record *r, bool *ret_changed, struct err *e)
{
    struct knowing *k = user;
    k->asked++;
    if (k->refuse)
        FAIL(e, ERR_INTERNAL, NULL, "test");
    *ret_changed = bytes_equal(r->id, BYTES_LIT("bob"));
    if (*ret_changed) {
        r->body = BYTES_LIT("disabled");
        r->state = 2;
    }
    return ok();
}
static void floor_told(void *user)
{
    struct knowing *k = user;
    k->told++;
    k->a->note = k->a->floor_found ? BYTES_LIT("with a floor") : BYTES_LIT("without one");
}

static void test_accept_with_knowledge(void **state)
{
    struct fx *f = *state;
    struct record out, alice = fx_rec(REC_PRINCIPAL, T0, "alice", "active");
    struct knowing k = {0};
    put(f, "active", STORE_ABSENT, false);
    assert_ok(fx_put(f, &alice, STORE_ABSENT, "event"));
    fx_close(f);
    copy_db(f, "store.db", "old.db");
    struct store_acceptance a = acceptance(2);
    a.amend = disable_bob;
    a.floor_known = floor_told;
    a.user = &k;
    k = (struct knowing){.a = &a, .refuse = true};
    assert_fails(store_accept(&f->o, &a, &f->e), ERR_INTERNAL, NULL); /* and nothing has happened */
    fx_open(f);
    assert_ok(fx_get(f, REC_PRINCIPAL, T0, "bob", &out));
    assert_true(out.revision == 1 && out.state == 4);
    fx_close(f);
    a = acceptance(2);
    a.amend = disable_bob;
    a.floor_known = floor_told;
    a.user = &k;
    k = (struct knowing){.a = &a};
    assert_ok(store_accept(&f->o, &a, &f->e));
    assert_true(k.asked == 2 && k.told == 1 && a.rows == 2 && a.amended_rows == 1 && a.unreadable_rows == 0 && a.floor_found && a.floor_outbox == 2);
    fx_open(f);
    assert_ok(fx_get(f, REC_PRINCIPAL, T0, "bob", &out));
    assert_true(out.revision == 2 && out.state == 2);
    assert_bytes(out.body, "disabled");
    assert_ok(fx_get(f, REC_PRINCIPAL, T0, "alice", &out));
    assert_true(out.revision == 1);
    assert_ok(fx_get(f, REC_META, T0, STORE_ROLLBACK_ID, &out));
    assert_bytes(out.body, "with a floor");
    fx_close(f);
    copy_db(f, "old.db", "store.db"); /* from before the acceptance: the floor is not this copy's */
    a = acceptance(3);
    a.floor_known = floor_told;
    a.user = &k;
    k = (struct knowing){.a = &a};
    assert_ok(store_accept(&f->o, &a, &f->e));
    assert_true(!a.floor_found && a.amended_rows == 0);
    fx_open(f);
    assert_ok(fx_get(f, REC_META, T0, STORE_ROLLBACK_ID, &out));
    assert_bytes(out.body, "without one");
}

/* A journal that grows by itself: the floor follows at the end, and at once with the next commit. */
static uint64_t grown(void *user)
{
    return *(uint64_t *)user;
}
static void test_the_journal_alone_grows(void **state)
{
    struct fx *f = *state;
    struct store_anchor_status st;
    uint64_t journal = 5;
    put(f, "active", STORE_ABSENT, true);
    store_anchor_journal(f->s, grown, &journal);
    put(f, "again", 1, true);
    unsigned before = puts_now();
    journal = 9;
    store_anchor_journal(f->s, NULL, NULL); /* asked for the last time: the journal is closed before the store */
    fx_close(f);
    assert_int_equal(puts_now(), before + 1);
    fx_open(f);
    store_anchor_status(f->s, &st);
    assert_int_equal(st.floor_journal, 9);
    before = puts_now();
    fx_close(f);
    assert_int_equal(puts_now(), before); /* nothing has grown */
    fx_open(f);
}

/* A damaged store is accepted as it stands: what does not open is named and stays refused. */
static void test_accept_damaged(void **state)
{
    struct fx *f = *state;
    struct store *s = NULL;
    struct record out, alice = fx_rec(REC_PRINCIPAL, T0, "alice", "active");
    put(f, "active", STORE_ABSENT, false);
    assert_ok(fx_put(f, &alice, STORE_ABSENT, "event"));
    fx_close(f);
    edit(f, "UPDATE record SET state = 9 WHERE id = CAST('bob' AS BLOB); DELETE FROM root");
    assert_fails(store_open(&f->o, &s, &f->e), ERR_DATA_LOSS, "STORE_STALE");
    unreadable = 0;
    struct store_acceptance a = acceptance(0); /* nothing of the outbox was journalled: it is kept */
    assert_ok(store_accept(&f->o, &a, &f->e));
    assert_true(unreadable == 1 && a.unreadable_rows == 1 && a.rows == 1);
    fx_open(f);
    assert_ok(fx_get(f, REC_PRINCIPAL, T0, "alice", &out));
    assert_fails(fx_get(f, REC_PRINCIPAL, T0, "bob", &out), ERR_DATA_LOSS, "RECORD_TAMPERED");
    assert_int_equal(store_outbox_last(f->s), 3);
}

static void test_accept_refusals(void **state)
{
    struct fx *f = *state;
    struct store_acceptance a = acceptance(0);
    assert_fails(store_accept(&f->o, &a, &f->e), ERR_STATE, "STORE_BUSY");
    fx_close(f);
    f->no_key = true;
    assert_fails(store_accept(&f->o, &a, &f->e), ERR_UNAVAILABLE, "HSM_UNAVAILABLE");
    f->no_key = false;
    f->key_salt = 1;
    assert_fails(store_accept(&f->o, &a, &f->e), ERR_STATE, "STORE_FOREIGN");
    f->key_salt = 0;
    fx_open(f); /* none of them changed it */
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_urgent_is_covered_at_once), T(test_older_copy), T(test_anchor_gone_or_broken), T(test_no_way_back_to_schema_1),
        T(test_moved),                     T(test_accept),     T(test_accept_damaged),        T(test_accept_refusals),
        T(test_accept_with_knowledge), T(test_the_journal_alone_grows),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
