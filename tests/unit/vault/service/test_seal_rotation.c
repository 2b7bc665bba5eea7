/* Rotation and destruction of the seal secret, over a fake clock and a stand-in token: everything is sealed anew, whoever dies in between;
 * nothing goes that is needed, nothing stays that is not. */
#include "tests/unit/vault/service/seal_fixture.h"

#include <sqlite3.h>
#include <sys/stat.h>

enum { FEW = 4 };

/* The database edited by hand, as somebody with the file would; the store is closed. */
static int edit(struct life *f, const char *text)
{
    sqlite3 *h;
    char path[128];
    (void)snprintf(path, sizeof path, "%s/store.db", f->dir);
    assert_int_equal(sqlite3_open(path, &h), SQLITE_OK);
    assert_int_equal(sqlite3_exec(h, text, NULL, NULL, NULL), SQLITE_OK);
    const int n = sqlite3_changes(h);
    assert_int_equal(sqlite3_close(h), SQLITE_OK);
    return n;
}

static void everything_is_sealed_anew(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    uint64_t older;
    fill(f, FEW);
    struct probe *probes = seal_all(f, FEW), before = probes[0];
    ask(f, HSM_SEAL, 2);
    (void)turn(f, 2); /* made, and current */
    assert_int_equal(store_seal_epoch(f->s.store), 2);
    assert_int_equal(moving_of(f, HSM_SEAL).state, MOVING_MOVING);
    assert_ok(store_reseal_count(f->s.store, &older, &f->e));
    assert_true(older > TENANTS * KEYS * FEW && left(f) >= older); /* a proof that can fail */
    (void)turn(f, 0);
    const struct moving v = moving_of(f, HSM_SEAL);
    assert_true(v.state == MOVING_IDLE && v.done == older && v.total == older && v.broken == 0);
    assert_int_equal(secret_of(f, HSM_SEAL, 1).state, SECRET_RETIRED);
    assert_int_equal(secret_of(f, HSM_SEAL, 2).state, SECRET_CURRENT);
    assert_true(secret_of(f, HSM_SEAL, 1).retired_ns > T0 && secret_of(f, HSM_SEAL, 2).used_ns > T0 && secret_of(f, HSM_MASTER, 1).saved_ns > T0);
    assert_int_equal(secret_of(f, HSM_MASTER, 1).state, SECRET_CURRENT);
    assert_int_equal(left(f), 0);
    (void)life_events(f, "system:seal", &ev);
    assert_true(bytes_equal(ev.action, BYTES_LIT("seals.retire")) && bytes_equal(ev.resource, BYTES_LIT("seals/1")));
    assert_non_null(memmem(ev.before.p, ev.before.n, "\"seal\":\"RETIRING\"", 17));
    assert_non_null(memmem(ev.after.p, ev.after.n, "\"under_another_seal\":0", 22));
    open_all(f, probes, FEW);
    end_of(f, 1);
    assert_int_equal(secret_of(f, HSM_SEAL, 1).state, SECRET_DESTROYED);
    assert_false(f->hsm->there[HSM_SEAL][1]);
    assert_int_equal(f->hsm->backups, 2);
    (void)life_events(f, "system:seal", &ev);
    assert_true(bytes_equal(ev.action, BYTES_LIT("seals.destroy")));
    assert_non_null(memmem(ev.after.p, ev.after.n, "\"seal\":\"DESTROYED\"", 18));
    reopen(f);
    open_all(f, probes, FEW);
    before.sealed[sizeof before.sealed - 1] ^= 1; /* the twin: an opening that can fail */
    assert_fails(open_with(f, &before, &f->e), ERR_CIPHERTEXT, NULL);
    rotate_to(f, 3); /* and once more */
    reopen(f);
    open_all(f, probes, FEW);
    add_version(f, tenants[0], 0);
    assert_int_equal(left(f), 0);
}

/* Each step is on record as before and after, under its own principal. */
static void on_record(void **state)
{
    struct life *f = *state;
    static const char *const steps[][3] = {{"seals.make", "{\"rotation\":\"MAKING\"}", "{\"rotation\":\"SAVING\",\"seal\":\"BORN\"}"},
                                           {"seals.use", "{\"rotation\":\"SAVING\",\"current\":1}", "{\"rotation\":\"MOVING\",\"current\":2,\"backup\":\"verified\"}"},
                                           {"seals.move", "{\"seal\":1}", "{\"seal\":2,\"rows\":"},
                                           {"seals.moved", "{\"rotation\":\"MOVING\"}", "{\"rotation\":\"PROVING\",\"rows\":"},
                                           {"seals.retire", "{\"rotation\":\"PROVING\",\"seal\":\"RETIRING\"}", "{\"rotation\":\"IDLE\",\"seal\":\"RETIRED\",\"rows\":"},
                                           {"seals.destroy", "{\"seal\":\"DESTROYING\"}", "{\"seal\":\"DESTROYED\",\"rows\":"}};
    ask(f, HSM_SEAL, 2);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct audit_event ev = {0};
        if (i == 5)
            doom(f, HSM_SEAL, 1);
        take_events(f);
        (void)run(f, 1);
        (void)life_events(f, "system:seal", &ev);
        assert_true(bytes_equal(ev.action, bytes_str(steps[i][0])));
        assert_true(bytes_equal(ev.before, bytes_str(steps[i][1])));
        assert_true(ev.after.n >= strlen(steps[i][2]) && memcmp(ev.after.p, steps[i][2], strlen(steps[i][2])) == 0);
    }
}

/* Killed after each single transaction. */
static void killed_after_each_step(void **state)
{
    struct life *f = *state;
    unsigned deaths = 0;
    uint64_t done = 0;
    fill(f, VERSIONS);
    struct probe *probes = seal_all(f, VERSIONS);
    ask(f, HSM_SEAL, 2);
    while (moving_of(f, HSM_SEAL).state != MOVING_IDLE) {
        (void)turn(f, 1);
        reopen(f);
        deaths++;
        const struct moving v = moving_of(f, HSM_SEAL);
        assert_int_equal(store_seal_epoch(f->s.store), v.state < MOVING_MOVING && v.state != MOVING_IDLE ? 1 : 2);
        if (v.state == MOVING_MOVING) {
            assert_true(v.done >= done);
            done = v.done;
        }
        open_all(f, probes, VERSIONS);
        assert_true(deaths < 100);
    }
    assert_true(deaths >= 7);
    assert_int_equal(left(f), 0);
    doom(f, HSM_SEAL, 1);
    while (secret_of(f, HSM_SEAL, 1).state != SECRET_DESTROYED) {
        take_events(f);
        (void)run(f, 1);
        reopen(f);
    }
    open_all(f, probes, VERSIONS);
}

/* The token's answer is lost, its effect is not, at each call in turn; and core is killed there too. */
static void killed_at_each_token_call(void **state)
{
    struct life *f = *state;
    unsigned died = 0;
    fill(f, 2);
    struct probe *probes = seal_all(f, 2);
    for (uint32_t to = 2; to < 12; to++) {
        ask(f, HSM_SEAL, to);
        f->hsm->dies_in = to - 1;
        (void)turn(f, 0);
        died += f->hsm->dies_in == 0;
        f->hsm->dies_in = 0;
        reopen(f);
        fake_clock_advance(&f->clock, MOVER_RETRY_MS * SECOND / 1000);
        (void)turn(f, 0);
        assert_int_equal(moving_of(f, HSM_SEAL).state, MOVING_IDLE);
        assert_int_equal(store_seal_epoch(f->s.store), to);
        doom(f, HSM_SEAL, to - 1);
        f->hsm->dies_in = to % 3;
        take_events(f);
        (void)run(f, 1);
        f->hsm->dies_in = 0;
        reopen(f);
        take_events(f);
        (void)run(f, 0);
        assert_int_equal(secret_of(f, HSM_SEAL, to - 1).state, SECRET_DESTROYED);
        assert_false(f->hsm->there[HSM_SEAL][to - 1]);
        open_all(f, probes, 2);
    }
    assert_true(died >= 3);
}

/* Never used before it is backed up; a token that is no files waits for somebody's word. */
static void saved_before_use(void **state)
{
    struct life *f = *state;
    struct mover_status st;
    struct mover *m = made_and_not_saved(f, HSM_SEAL);
    mover_status(m, HSM_MASTER, &st);
    assert_false(st.failing);
    assert_int_equal(store_seal_epoch(f->s.store), 1);
    reopen(f); /* a secret on the token that is not used is not used */
    assert_int_equal(store_seal_epoch(f->s.store), 1);
    mover_free(m);
    say_cloned(f, HSM_SEAL);
    (void)turn(f, 0);
    assert_int_equal(store_seal_epoch(f->s.store), 2);
    assert_int_equal(moving_of(f, HSM_SEAL).state, MOVING_IDLE);
    assert_false(moving_of(f, HSM_SEAL).cloned);
}

/* A token that is away, at every point, for as long as it likes: only what needs it waits. */
static void while_the_token_is_away(void **state)
{
    struct life *f = *state;
    unsigned rounds = 0;
    fill(f, 2);
    ask(f, HSM_SEAL, 2);
    while (moving_of(f, HSM_SEAL).state != MOVING_IDLE) {
        const unsigned was = moving_of(f, HSM_SEAL).state;
        f->hsm->away = true;
        take_events(f);
        (void)run(f, 1);
        assert_true(moving_of(f, HSM_SEAL).state == was || was == MOVING_MOVING || was == MOVING_PROVING);
        f->hsm->away = false;
        fake_clock_advance(&f->clock, MOVER_RETRY_MS * SECOND / 1000);
        (void)turn(f, 1);
        assert_true(rounds++ < 100);
    }
    reopen(f);
    assert_int_equal(left(f), 0);
}

/* A row that does not open keeps the old secret, and is named; mended, it is moved. */
static void one_that_is_broken(void **state)
{
    static const char *const spoil = "UPDATE record SET body = CAST(substr(body, 1, length(body) - 1) || x'%s' AS BLOB) WHERE kind = 5 AND name = "
                                     "(SELECT max(name) FROM record WHERE kind = 5)";
    struct life *f = *state;
    struct mover_status st;
    char text[256], was[3];
    fill(f, 2);
    life_close(f);
    sqlite3 *h;
    sqlite3_stmt *q;
    (void)snprintf(text, sizeof text, "%s/store.db", f->dir);
    assert_int_equal(sqlite3_open(text, &h), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(h, "SELECT hex(substr(body, -1)) FROM record WHERE kind = 5 ORDER BY name DESC LIMIT 1", -1, &q, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    (void)snprintf(was, sizeof was, "%s", (const char *)sqlite3_column_text(q, 0));
    assert_int_equal(sqlite3_finalize(q), SQLITE_OK);
    assert_int_equal(sqlite3_close(h), SQLITE_OK);
    (void)snprintf(text, sizeof text, spoil, strcmp(was, "00") == 0 ? "01" : "00");
    assert_int_equal(edit(f, text), 1);
    life_open(f);
    const struct mover_options o = {.s = &f->s, .master_pace = 1000000, .seal_pace = 1000000};
    struct mover *m = mover_new(&o);
    ask(f, HSM_SEAL, 2);
    do {
        take_events(f);
        fake_clock_advance(&f->clock, SECOND);
    } while (mover_step(m) == MOVER_AGAIN);
    mover_status(m, HSM_SEAL, &st);
    assert_true(st.failing && strstr(st.why, "TOKEN_SECRET_NEEDED") != NULL && strstr(st.why, "eu/pii/k04/") != NULL);
    assert_int_equal(moving_of(f, HSM_SEAL).state, MOVING_MOVING);
    assert_int_equal(secret_of(f, HSM_SEAL, 1).state, SECRET_RETIRING);
    assert_int_equal(left(f), 1);
    mover_free(m);
    (void)turn(f, 9); /* again and again: it stays so */
    assert_int_equal(secret_of(f, HSM_SEAL, 1).state, SECRET_RETIRING);
    life_close(f);
    (void)snprintf(text, sizeof text, spoil, was);
    assert_int_equal(edit(f, text), 1);
    life_open(f);
    fake_clock_advance(&f->clock, MOVER_PROVE_MS * SECOND / 1000);
    (void)turn(f, 0);
    assert_int_equal(secret_of(f, HSM_SEAL, 1).state, SECRET_RETIRED);
    assert_int_equal(left(f), 0);
}

/* Nothing is moved while it is paused; what is written meanwhile is under the new one. */
static void paused(void **state)
{
    struct life *f = *state;
    fill(f, 10);
    ask(f, HSM_SEAL, 2);
    (void)turn(f, 3);
    struct moving v = moving_of(f, HSM_SEAL);
    assert_true(v.state == MOVING_MOVING && v.done > 0 && v.done < v.total);
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(moving_to(&v, MOVING_PAUSED, 1, &f->e));
    moving_put(txn, &v);
    life_commit(f, txn);
    fake_clock_advance(&f->clock, 1000 * SECOND);
    (void)turn(f, 0);
    assert_int_equal(moving_of(f, HSM_SEAL).done, v.done);
    const uint64_t was = left(f);
    assert_true(was > 0);
    add_version(f, tenants[0], 0); /* its key's row was under the old one perhaps: never one more */
    assert_true(left(f) <= was);
    v = moving_of(f, HSM_SEAL);
    txn = store_txn_new(f->s.store);
    assert_ok(moving_to(&v, MOVING_MOVING, 1, &f->e));
    moving_put(txn, &v);
    life_commit(f, txn);
    (void)turn(f, 0);
    assert_int_equal(moving_of(f, HSM_SEAL).state, MOVING_IDLE);
    assert_int_equal(left(f), 0);
}

/* With its retirement the log goes too: not even there is anything under it. */
static void the_log_is_cut_off(void **state)
{
    struct life *f = *state;
    char log[128];
    struct stat st;
    (void)snprintf(log, sizeof log, "%s/store.db-wal", f->dir);
    assert_ok(store_await_erased(f->s.store, STORE_ERASE_WAIT_MS, &f->e)); /* what is cut off at each start is */
    fill(f, 2);
    ask(f, HSM_SEAL, 2);
    while (moving_of(f, HSM_SEAL).state != MOVING_PROVING)
        (void)turn(f, 1);
    take_events(f);
    (void)run(f, 1);
    assert_int_equal(moving_of(f, HSM_SEAL).state, MOVING_IDLE);
    assert_ok(store_await_erased(f->s.store, STORE_ERASE_WAIT_MS, &f->e));
    assert_true(stat(log, &st) == 0 && st.st_size == 0);
}

/* Neither waits for the other. */
static void both_at_once(void **state)
{
    struct life *f = *state;
    fill(f, 10);
    struct probe *probes = seal_all(f, 10);
    ask(f, HSM_MASTER, 2);
    ask(f, HSM_SEAL, 2);
    for (unsigned n = 0; moving_of(f, HSM_MASTER).state != MOVING_IDLE || moving_of(f, HSM_SEAL).state != MOVING_IDLE; n++) {
        take_events(f);
        (void)run(f, 1);
        assert_true(n < 200);
    }
    assert_int_equal(left_under(f, 1, NULL), 0);
    assert_int_equal(left(f), 0);
    end_of(f, 1);
    doom(f, HSM_MASTER, 1);
    (void)run(f, 0);
    assert_true(!f->hsm->there[HSM_SEAL][1] && !f->hsm->there[HSM_MASTER][1]);
    reopen(f);
    open_all(f, probes, 10);
}

/* What a client holds of a list outlives every seal secret. */
static void page_tokens_live_on(void **state)
{
    struct life *f = *state;
    uint8_t sealed[AEAD_OVERHEAD + 4], out[4];
    struct aead_key *k, *other;
    uint8_t raw[32] = {7};
    struct secret *s;
    assert_ok(instance_token_key(f->s.store, &k, &f->e));
    aead_seal(k, (struct bytes){0}, BYTES_LIT("query"), BYTES_LIT("last"), sealed);
    aead_key_free(k);
    rotate_to(f, 2);
    end_of(f, 1);
    reopen(f);
    assert_ok(instance_token_key(f->s.store, &k, &f->e));
    assert_ok(aead_open(k, 0, BYTES_LIT("query"), BYTES(sealed, sizeof sealed), out, &f->e));
    assert_memory_equal(out, "last", 4);
    aead_key_free(k);
    assert_ok(secret_from(raw, sizeof raw, &s, &f->e)); /* the twin: by another key it does not open */
    struct bytes fields[] = {BYTES_LIT("token"), {NULL, 0}};
    assert_ok(aead_key_derive(s, KDF_STORE, fields, 2, 1, &other, &f->e));
    assert_fails(aead_open(other, 0, BYTES_LIT("query"), BYTES(sealed, sizeof sealed), out, &f->e), ERR_CIPHERTEXT, NULL);
    aead_key_free(other);
    secret_free(s);
}

/* A copy of the store from before opens while the secret is there, and never again once it is not. */
static void an_older_copy(void **state)
{
    struct life *f = *state;
    char from[128], to[128];
    life_close(f);
    (void)snprintf(from, sizeof from, "%s/store.db", f->dir);
    (void)snprintf(to, sizeof to, "%s/older.db", f->dir);
    assert_int_equal(link(from, to), 0); /* the file as it is now: SQLite would write into it, so a copy takes its name */
    assert_int_equal(unlink(from), 0);
    FILE *in = fopen(to, "re"), *out = fopen(from, "we");
    static uint8_t all[4 << 20];
    const size_t n = fread(all, 1, sizeof all, in);
    assert_true(n > 0 && n < sizeof all && fwrite(all, 1, n, out) == n);
    assert_int_equal(fclose(in) + fclose(out), 0);
    assert_int_equal(chmod(from, 0600), 0);
    life_open(f);
    rotate_to(f, 2);
    end_of(f, 1);
    life_close(f);
    assert_int_equal(rename(to, from), 0);
    f->so.epoch = 2;
    struct store *s;
    assert_fails(store_open(&f->so, &s, &f->e), ERR_DATA_LOSS, "SEAL_ABSENT");
    f->hsm->there[HSM_SEAL][1] = true; /* the twin: with the secret it does */
    life_open(f);
    assert_int_equal(store_seal_epoch(f->s.store), 1);
}

/* Asked for and not possible: what is in the way is named, the secret stays, and it is not tried by itself again and again. */
static void not_destroyed_while_anything_is_unknown(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    fill(f, 2);
    rotate_to(f, 2);
    life_close(f);
    assert_int_equal(edit(f, "UPDATE record SET body = x'00' WHERE kind = 5 AND name = (SELECT max(name) FROM record WHERE kind = 5)"), 1);
    life_open(f);
    f->config.seal_period = 30 * UINT64_C(86400000);
    fake_clock_advance(&f->clock, SECOND);
    const struct mover_options o = {.s = &f->s, .master_pace = 1000000, .seal_pace = 1000000};
    struct mover *m = mover_new(&o);
    for (unsigned minutes = 0; minutes < 50; minutes++) {
        take_events(f);
        while (mover_step(m) == MOVER_AGAIN)
            take_events(f);
        fake_clock_advance(&f->clock, 60 * SECOND);
    }
    struct mover_status st;
    assert_int_equal(secret_of(f, HSM_SEAL, 1).state, SECRET_RETIRED);
    assert_true(f->hsm->there[HSM_SEAL][1]);
    (void)life_events(f, "system:seal", &ev);
    assert_true(bytes_equal(ev.action, BYTES_LIT("seals.destroy")));
    assert_non_null(memmem(ev.after.p, ev.after.n, "\"under_it\":1", 12));
    mover_status(m, HSM_SEAL, &st);
    const uint64_t seq = store_outbox_last(f->s.store);
    take_events(f);
    (void)mover_step(m);
    assert_int_equal(store_outbox_last(f->s.store), seq);
    mover_free(m);
}

/* The records and the store must agree before anything is moved or proven. */
static void records_that_do_not_fit(void **state)
{
    struct life *f = *state;
    struct mover_status st;
    bool any;
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(instance_records(f->s.store, T0, txn, &any, &f->e));
    assert_false(any); /* all there since the first start */
    store_txn_free(txn);
    struct token_secret one = secret_of(f, HSM_SEAL, 1), two = one;
    txn = store_txn_new(f->s.store);
    one.state = SECRET_RETIRED;
    two.version = 2;
    two.revision = STORE_ABSENT;
    token_secret_put(txn, &one);
    token_secret_put(txn, &two);
    life_commit(f, txn);
    const struct mover_options o = {.s = &f->s, .master_pace = 1000, .seal_pace = 1000};
    struct mover *m = mover_new(&o);
    assert_int_equal(mover_step(m), MOVER_REST);
    mover_status(m, HSM_SEAL, &st);
    assert_true(st.failing && strstr(st.why, "RECORD_MALFORMED") != NULL);
    mover_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIFE(everything_is_sealed_anew),
        LIFE(on_record),
        LIFE(killed_after_each_step),
        LIFE(killed_at_each_token_call),
        LIFE(saved_before_use),
        LIFE(while_the_token_is_away),
        LIFE(one_that_is_broken),
        LIFE(paused),
        LIFE(the_log_is_cut_off),
        LIFE(both_at_once),
        LIFE(page_tokens_live_on),
        LIFE(an_older_copy),
        LIFE(not_destroyed_while_anything_is_unknown),
        LIFE(records_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
