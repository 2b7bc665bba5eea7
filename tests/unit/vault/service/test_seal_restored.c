/* The rotation of the seal secret where store or token were put back from before: nothing that may still be needed goes, nothing waits for ever,
 * and what was destroyed stays destroyed. */
#include "tests/unit/vault/service/seal_fixture.h"
#include "vault/service/review.h"
#include "vault/service/token_backup.h"

#include <sys/stat.h>

/* The trouble that the next step ends in. */
static const char *trouble(struct life *f)
{
    const struct mover_options o = {.s = &f->s, .master_pace = 1000000, .seal_pace = 1000000};
    struct mover *m = mover_new(&o);
    struct mover_status st;
    take_events(f);
    (void)mover_step(m);
    mover_status(m, HSM_SEAL, &st);
    mover_free(m);
    return st.failing ? arena_printf(&f->a, "%s", st.why) : "";
}

static void set_cloned(struct life *f)
{
    struct moving v = moving_of(f, HSM_SEAL);
    struct store_txn *txn = store_txn_new(f->s.store);
    v.cloned = true;
    moving_put(txn, &v);
    life_commit(f, txn);
}

/* Made, not yet in a backup, and the token is lost: the one that is put back from the backup does not have it. */
static void born_and_lost(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    fill(f, 2);
    struct probe *probes = seal_all(f, 2);
    ask(f, HSM_SEAL, 2);
    (void)turn(f, 1);
    assert_int_equal(moving_of(f, HSM_SEAL).state, MOVING_SAVING);
    f->hsm->there[HSM_SEAL][2] = false;
    reopen(f);
    (void)turn(f, 1);
    (void)life_events(f, "system:seal", &ev);
    assert_true(bytes_equal(ev.action, BYTES_LIT("seals.make")) && memmem(ev.before.p, ev.before.n, "\"seal\":\"absent\"", 15) != NULL);
    assert_true(f->hsm->there[HSM_SEAL][2] && f->hsm->backups == 0);
    (void)turn(f, 0);
    assert_int_equal(moving_of(f, HSM_SEAL).state, MOVING_IDLE);
    assert_true(store_seal_epoch(f->s.store) == 2 && f->hsm->backups == 1);
    reopen(f);
    open_all(f, probes, 2);
    assert_int_equal(left(f), 0);
}

/* The same where somebody's word stands for a backup: it was about the one that is lost. */
static void cloned_and_lost(void **state)
{
    struct life *f = *state;
    f->hsm->no_files = true;
    ask(f, HSM_SEAL, 2);
    (void)turn(f, 1);
    set_cloned(f);
    f->hsm->there[HSM_SEAL][2] = false;
    for (unsigned i = 0; i < 3; i++) { /* dying at every point */
        reopen(f);
        (void)turn(f, 1);
    }
    assert_true(f->hsm->there[HSM_SEAL][2] && !moving_of(f, HSM_SEAL).cloned);
    assert_non_null(strstr(trouble(f), "TOKEN_NOT_CLONED"));
    assert_int_equal(store_seal_epoch(f->s.store), 1);
    set_cloned(f); /* the twin: said of this one */
    (void)turn(f, 0);
    assert_int_equal(store_seal_epoch(f->s.store), 2);
}

/* A backup that was made and lacks it is none: nothing comes under it, and no record says that it was saved. */
static void not_in_the_backup(void **state)
{
    struct life *f = *state;
    struct token_backup b;
    ask(f, HSM_SEAL, 2);
    (void)turn(f, 1);
    f->hsm->backup_lacks = 2;
    assert_non_null(strstr(trouble(f), "HSM_BACKUP"));
    assert_int_equal(f->hsm->backups, 1);
    assert_true(store_seal_epoch(f->s.store) == 1 && secret_of(f, HSM_SEAL, 2).state == SECRET_BORN);
    assert_ok(token_backup_make(&f->s, false, &b, &f->e)); /* nor by one that somebody asks for meanwhile */
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(token_backup_put(f->s.store, txn, &b, NULL, T0 + DAY, &f->e));
    life_commit(f, txn);
    token_backup_release(&b);
    assert_true(secret_of(f, HSM_SEAL, 2).saved_ns == 0 && secret_of(f, HSM_SEAL, 1).saved_ns == T0 + DAY);
    f->hsm->backup_lacks = 0; /* the twin */
    fake_clock_advance(&f->clock, MOVER_RETRY_MS * SECOND / 1000);
    (void)turn(f, 0);
    assert_int_equal(store_seal_epoch(f->s.store), 2);
    assert_true(secret_of(f, HSM_SEAL, 2).saved_ns > T0);
}

/* A token without the secret that the store is under is no token to make new ones on, or to back up in the place of the right one. */
static void not_this_stores_token(void **state)
{
    struct life *f = *state;
    struct token_backup b = {0};
    struct err e = {0};
    rotate_to(f, 2);
    ask(f, HSM_SEAL, 3);
    const unsigned backups = f->hsm->backups;
    f->hsm->there[HSM_SEAL][2] = false;
    assert_true(token_backup_make(&f->s, false, &b, &e).failed);
    assert_true(e.code == ERR_STATE && strcmp(e.reason, "SEAL_ABSENT") == 0);
    assert_non_null(strstr(trouble(f), "SEAL_ABSENT"));
    assert_false(f->hsm->there[HSM_SEAL][3]);
    assert_int_equal(f->hsm->backups, backups);
    f->hsm->there[HSM_SEAL][2] = true; /* the twin: the right one is back */
    fake_clock_advance(&f->clock, MOVER_RETRY_MS * SECOND / 1000);
    (void)turn(f, 0);
    assert_int_equal(store_seal_epoch(f->s.store), 3);
    f->hsm->there[HSM_MASTER][1] = false;
    e = (struct err){0};
    assert_true(token_backup_make(&f->s, false, &b, &e).failed);
    assert_true(e.code == ERR_STATE && strcmp(e.reason, "KEY_MASTER_GONE") == 0);
    f->hsm->there[HSM_MASTER][1] = true;
    assert_ok(token_backup_make(&f->s, false, &b, &f->e));
    token_backup_release(&b);
}

/* ---- an older copy of the store, accepted ---- */
static void file_copy(struct life *f, const char *from, const char *to)
{
    static uint8_t all[4 << 20];
    char a[128], b[128];
    (void)snprintf(a, sizeof a, "%s/%s", f->dir, from);
    (void)snprintf(b, sizeof b, "%s/%s", f->dir, to);
    FILE *in = fopen(a, "re"), *out = fopen(b, "we");
    assert_true(in != NULL && out != NULL);
    const size_t n = fread(all, 1, sizeof all, in);
    assert_true(n > 0 && n < sizeof all && fwrite(all, 1, n, out) == n);
    assert_int_equal(fclose(in) + fclose(out), 0);
    assert_int_equal(chmod(b, 0600), 0);
}

static void copy_store(struct life *f)
{
    life_close(f);
    file_copy(f, "store.db", "older.db");
    life_open(f);
}

struct accepted {
    struct buf body;
    unsigned given_up;
    bool amends;
};

static struct result amend(void *user, struct record *r, bool *ret_changed, struct err *e)
{
    struct accepted *a = user;
    (void)e;
    *ret_changed = false;
    if (a->amends)
        moving_as_given_up(r, &a->body, ret_changed);
    a->given_up += *ret_changed;
    return ok();
}

/* As kmsd accept-rollback does; returns how many rotations were given up. */
static unsigned put_back_and_accept(struct life *f, bool amends)
{
    struct accepted mine = {.amends = amends};
    CLEANUP(buf_release) struct buf note;
    struct store_acceptance a = {.amend = amend, .user = &mine, .event = BYTES_LIT("event"), .journal_outbox_seq = 100000};
    const struct review_note said = {.made_unix_ns = T0, .reason = "the disk was lost", .reviewed = true};
    life_close(f);
    file_copy(f, "older.db", "store.db");
    buf_init(&mine.body, STORE_BODY_MAX);
    buf_init(&note, 4096);
    review_note_put(&said, &note);
    a.note = buf_bytes(&note);
    f->so.epoch = stand_in_newest(f->hsm, HSM_SEAL);
    assert_ok(store_accept(&f->so, &a, &f->e));
    buf_release(&mine.body);
    life_open(f);
    return mine.given_up;
}

/* The copy is from the moment in which the number was chosen; since then a secret of that number was made, and the store came under it. Who accepts
 * the copy must be able to go back: the newer store still opens. */
static void about_to_make(void **state)
{
    struct life *f = *state;
    fill(f, 2);
    ask(f, HSM_SEAL, 2);
    copy_store(f);
    (void)turn(f, 0);
    assert_int_equal(store_seal_epoch(f->s.store), 2);
    life_close(f);
    file_copy(f, "store.db", "newer.db");
    life_open(f);
    const unsigned destroyed = f->hsm->destroyed;
    assert_int_equal(put_back_and_accept(f, true), 1);
    assert_int_equal(moving_of(f, HSM_SEAL).state, MOVING_IDLE);
    (void)turn(f, 0);
    assert_int_equal(f->hsm->destroyed, destroyed);
    assert_int_equal(store_seal_epoch(f->s.store), 1);
    life_close(f);
    file_copy(f, "newer.db", "store.db");
    life_open(f);
    assert_int_equal(store_seal_epoch(f->s.store), 2);
    assert_int_equal(left(f), 0);
    assert_int_equal(put_back_and_accept(f, false), 0); /* the twin: else it is taken for half made, and goes */
    (void)turn(f, 1);
    assert_int_equal(f->hsm->destroyed, destroyed + 1);
}

static void begin_rotation(struct life *f)
{
    struct moving v = moving_of(f, HSM_SEAL);
    struct token_secrets all;
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(token_secrets_read(f->s.store, HSM_SEAL, &all, &f->e));
    assert_ok(moving_begin(&f->s, &v, &all, "admin", txn, &f->e));
    life_commit(f, txn);
}

/* A secret of the future that was given up lies on the token, and no record speaks of it: it goes in its time all the same, or copies of the store
 * from there could be opened for ever. */
static void of_the_future_given_up(void **state)
{
    struct life *f = *state;
    struct token_secrets all;
    fill(f, 2);
    copy_store(f);
    rotate_to(f, 2);
    rotate_to(f, 3);
    assert_int_equal(put_back_and_accept(f, true), 0);
    f->hsm->there[HSM_SEAL][2] = false; /* of two, one is gone */
    begin_rotation(f);
    assert_int_equal(moving_of(f, HSM_SEAL).to, 4);
    assert_ok(token_secrets_read(f->s.store, HSM_SEAL, &all, &f->e));
    assert_int_equal(all.n, 2);
    assert_true(secret_of(f, HSM_SEAL, 3).state == SECRET_RETIRED && secret_of(f, HSM_SEAL, 3).retired_ns > T0 && secret_of(f, HSM_SEAL, 3).unsure);
    (void)turn(f, 1); /* that time is sure now */
    assert_false(secret_of(f, HSM_SEAL, 3).unsure);
    (void)turn(f, 0);
    assert_int_equal(store_seal_epoch(f->s.store), 4);
    end_of(f, 3);
    assert_false(f->hsm->there[HSM_SEAL][3]);
    assert_int_equal(secret_of(f, HSM_SEAL, 3).state, SECRET_DESTROYED);
    reopen(f);
    assert_int_equal(left(f), 0);
}

/* The twin: nothing was accepted here, so a secret that nobody knows is perhaps another's. */
static void of_nobody_knows_whom(void **state)
{
    struct life *f = *state;
    struct token_secrets all;
    f->hsm->there[HSM_SEAL][2] = true;
    begin_rotation(f);
    assert_ok(token_secrets_read(f->s.store, HSM_SEAL, &all, &f->e));
    assert_int_equal(all.n, 1);
    (void)turn(f, 0);
    assert_int_equal(store_seal_epoch(f->s.store), 3);
    assert_true(f->hsm->there[HSM_SEAL][2]);
}

/* ---- an older copy of the token ---- */
static void steps(struct life *f, struct mover *m, unsigned minutes)
{
    for (unsigned i = 0; i < minutes; i++) {
        take_events(f);
        while (mover_step(m) == MOVER_AGAIN)
            take_events(f);
        fake_clock_advance(&f->clock, 60 * SECOND);
    }
}

/* What was destroyed is there again, with an older token: it goes again, on record, and not before somebody could put back the store, too. */
static void destroyed_and_back(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    const struct mover_options o = {.s = &f->s, .master_pace = 1000000, .seal_pace = 1000000};
    rotate_to(f, 2);
    rotate_to(f, 3);
    end_of(f, 1);
    end_of(f, 2);
    const struct token_secret was = secret_of(f, HSM_SEAL, 1);
    f->hsm->there[HSM_SEAL][1] = f->hsm->there[HSM_SEAL][2] = true;
    struct mover *m = mover_new(&o);
    steps(f, m, 55);
    assert_true(f->hsm->there[HSM_SEAL][1] && f->hsm->there[HSM_SEAL][2]);
    f->hsm->away = true; /* nor by a token that cannot be asked */
    steps(f, m, 10);
    f->hsm->away = false;
    assert_true(f->hsm->there[HSM_SEAL][1] && secret_of(f, HSM_SEAL, 1).state == SECRET_DESTROYED);
    const unsigned backups = f->hsm->backups;
    steps(f, m, 61);
    assert_false(f->hsm->there[HSM_SEAL][1] || f->hsm->there[HSM_SEAL][2]);
    assert_true(secret_of(f, HSM_SEAL, 1).state == SECRET_DESTROYED && secret_of(f, HSM_SEAL, 1).destroyed_ns > was.destroyed_ns);
    assert_int_equal(f->hsm->backups, backups + 2);
    (void)life_events(f, "system:seal", &ev);
    assert_true(bytes_equal(ev.action, BYTES_LIT("seals.destroy")) && bytes_equal(ev.resource, BYTES_LIT("seals/2")));
    const uint64_t seq = store_outbox_last(f->s.store);
    steps(f, m, 130); /* the twin: where nothing is back, nothing happens */
    assert_int_equal(store_outbox_last(f->s.store), seq);
    assert_true(f->hsm->there[HSM_SEAL][3] && f->hsm->there[HSM_MASTER][1]);
    mover_free(m);
}

/* ---- clocks ---- */
/* The machine came up years behind, and a rotation ended before its clock was set: the secret counts as retired when the clock has gone steadily,
 * or backups of yesterday would have expired at once. */
static void retired_by_a_clock_that_was_behind(void **state)
{
    struct life *f = *state;
    const struct mover_options o = {.s = &f->s, .master_pace = 1000000, .seal_pace = 1000000, .settle_ms = 600000};
    struct mover *m = mover_new(&o);
    f->config.seal_period = 30 * UINT64_C(86400000);
    f->config.backup_retention = 35 * UINT64_C(86400000);
    fake_clock_step_wall(&f->clock, -2000 * DAY);
    ask(f, HSM_SEAL, 2);
    steps(f, m, 5);
    assert_true(secret_of(f, HSM_SEAL, 1).state == SECRET_RETIRED && secret_of(f, HSM_SEAL, 1).unsure);
    assert_true(secret_of(f, HSM_SEAL, 1).retired_ns < T0 - 1000 * DAY);
    fake_clock_step_wall(&f->clock, 2000 * DAY);
    mover_free(m);
    reopen(f);
    m = mover_new(&o);
    steps(f, m, 30);
    assert_true(f->hsm->there[HSM_SEAL][1]);
    assert_true(secret_of(f, HSM_SEAL, 1).state == SECRET_RETIRED && !secret_of(f, HSM_SEAL, 1).unsure);
    assert_in_range(secret_of(f, HSM_SEAL, 1).retired_ns, T0, T0 + DAY);
    for (unsigned day = 0; day < 34; day++) {
        fake_clock_advance(&f->clock, DAY - 120 * SECOND);
        steps(f, m, 2);
    }
    assert_true(f->hsm->there[HSM_SEAL][1]);
    fake_clock_advance(&f->clock, 2 * DAY); /* the twin: and then it goes */
    steps(f, m, 2);
    assert_int_equal(secret_of(f, HSM_SEAL, 1).state, SECRET_DESTROYED);
    mover_free(m);
}

/* A clock that was years ahead, for long enough to be believed, and is set right: rotation goes on at once; what was retired then waits. */
static void used_by_a_clock_that_was_ahead(void **state)
{
    struct life *f = *state;
    struct audit_event ev = {0};
    const struct mover_options o = {.s = &f->s, .master_pace = 1000000, .seal_pace = 1000000, .settle_ms = 600000};
    struct mover *m = mover_new(&o);
    f->config.seal_period = 30 * UINT64_C(86400000);
    f->config.backup_retention = 35 * UINT64_C(86400000);
    fake_clock_step_wall(&f->clock, 3650 * DAY);
    steps(f, m, 15);
    assert_int_equal(store_seal_epoch(f->s.store), 2);
    assert_true(secret_of(f, HSM_SEAL, 2).used_ns > T0 + 3000 * DAY);
    fake_clock_step_wall(&f->clock, -3650 * DAY);
    steps(f, m, 5);
    assert_true(secret_of(f, HSM_SEAL, 2).used_ns > T0 + 3000 * DAY); /* not by a clock that has just been set */
    steps(f, m, 15);
    assert_in_range(secret_of(f, HSM_SEAL, 2).used_ns, T0, T0 + DAY);
    (void)life_events(f, "system:seal", &ev);
    assert_true(bytes_equal(ev.action, BYTES_LIT("seals.correct")) && bytes_equal(ev.resource, BYTES_LIT("seals/2")));
    assert_non_null(memmem(ev.before.p, ev.before.n, "\"since\":\"203", 12));
    for (unsigned day = 0; day < 40; day++) {
        steps(f, m, 2);
        fake_clock_advance(&f->clock, DAY - 120 * SECOND);
    }
    assert_int_equal(store_seal_epoch(f->s.store), 3); /* after the period that there is */
    assert_true(f->hsm->there[HSM_SEAL][1] && secret_of(f, HSM_SEAL, 1).state == SECRET_RETIRED);
    mover_free(m);
}

/* One that is not due keeps none of those that are. */
static void each_by_its_own_time(void **state)
{
    struct life *f = *state;
    const struct mover_options o = {.s = &f->s, .master_pace = 1000000, .seal_pace = 1000000};
    rotate_to(f, 2);
    rotate_to(f, 3);
    struct token_secret one = secret_of(f, HSM_SEAL, 1);
    struct store_txn *txn = store_txn_new(f->s.store);
    one.retired_ns += 20 * DAY;
    token_secret_put(txn, &one);
    life_commit(f, txn);
    f->config.seal_period = 30 * UINT64_C(86400000);
    f->config.backup_retention = 5 * UINT64_C(86400000);
    fake_clock_advance(&f->clock, 21 * DAY);
    struct mover *m = mover_new(&o);
    steps(f, m, 2);
    assert_int_equal(secret_of(f, HSM_SEAL, 1).state, SECRET_RETIRED);
    assert_int_equal(secret_of(f, HSM_SEAL, 2).state, SECRET_DESTROYED);
    mover_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIFE(born_and_lost),
        LIFE(cloned_and_lost),
        LIFE(not_in_the_backup),
        LIFE(not_this_stores_token),
        LIFE(about_to_make),
        LIFE(of_the_future_given_up),
        LIFE(of_nobody_knows_whom),
        LIFE(destroyed_and_back),
        LIFE(retired_by_a_clock_that_was_behind),
        LIFE(used_by_a_clock_that_was_ahead),
        LIFE(each_by_its_own_time),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
