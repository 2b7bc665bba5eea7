/* The rotation of the seal secret where store or token were put back from before: nothing that may still be needed goes, nothing waits for ever,
 * and what was destroyed stays destroyed. */
#include "tests/unit/vault/service/seal_fixture.h"
#include "vault/service/token_backup.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIFE(born_and_lost),
        LIFE(cloned_and_lost),
        LIFE(not_this_stores_token),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
