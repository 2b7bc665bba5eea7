/* The end of a tenant, cut short: by death after each of its transactions, half done before the eyes of fsck, or undone by an older store. */
#include "tests/unit/vault/service/purge_fixture.h"

#include <sys/wait.h>

static void die(void *user, enum rec_kind kind, const uint8_t tenant[16], struct bytes id)
{
    (void)user, (void)kind, (void)tenant, (void)id;
    _exit(9);
}

/* A process that dies, as by kill -9, when the first transaction it makes is on the disk; 0: there was none to make. */
static int one_transaction(struct fixture *f)
{
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        fixture_open(f);
        store_watch(f->l->s.store, 7, die, NULL);
        struct keeper *k = keeper_of(f);
        struct tenant t;
        struct err e = {0};
        for (unsigned looks = 0; looks < 300 && !keyring_tenant_read(f->l->s.keyring, BYTES_LIT("acme"), &t, &e).failed; looks++) {
            struct journal_status js;
            journal_status(f->l->s.journal, &js);
            keeper_step(k);
            fake_clock_advance(&f->l->clock, SECOND);
            (void)journal_wait(f->l->s.journal, js.next_index, 10);
        }
        _exit(e.code == ERR_NOT_FOUND ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void over_deaths(void **state)
{
    struct fixture *f = *state;
    uint64_t erased;
    unsigned deaths = 0;
    int how;
    furnish(f);
    const struct tenant t = tenant_now(f, "acme");
    tenant_to(f, "acme", TENANT_DELETED, T0 + 30 * DAY);
    fixture_close(f);
    fake_clock_advance(&f->l->clock, 30 * DAY);
    while ((how = one_transaction(f)) == 9)
        assert_true(++deaths < 200);
    assert_int_equal(how, 0);
    /* begin, two pages of people, two of versions, one each of rings, keys, repeats and due times, and the end */
    assert_true(deaths >= 9);
    fixture_open(f);
    nothing_is_left(f, t.id);
    the_other_is_whole(f);
    says(certificate(f), "\nkey-rings: 1\nkeys: 40\nversions: 200\nprincipals: 300\ntoken-objects: 0\n");
    relayed(f);
    const struct seen s = read_log(f, &erased);
    assert_int_equal(s.findings, 0);
    assert_int_equal(s.purged, 1);
    assert_int_equal(erased, 1);
}

static void count_finding(void *user, const char *text)
{
    print_message("%s\n", text);
    ++*(unsigned *)user;
}

/* fsck of a store in which a purge was interrupted, at each page: what is half gone is not damage. Its twin: the same rows gone from a
 * tenant that is ACTIVE. */
static void fsck_in_between(void **state)
{
    struct fixture *f = *state;
    unsigned findings = 0, pages = 0;
    struct keyring_check c = {.report = count_finding, .user = &findings};
    bool more = true;
    furnish(f);
    const struct tenant t = tenant_now(f, "acme");
    tenant_to(f, "acme", TENANT_DELETED, T0 + 30 * DAY);
    tenant_to(f, "acme", TENANT_PURGING, 0);
    for (; more; pages++) {
        assert_ok(keyring_purge_rows(f->l->s.keyring, BYTES_LIT("acme"), &more, &f->e));
        assert_ok(keyring_check(f->l->s.keyring, &c, &f->e));
        assert_int_equal(findings, 0);
    }
    assert_true(pages > 4 && rows_of(f, REC_CRYPTOKEY, t.id) == 0);
    const struct name version = life_name(GLOBEX_KEY "/cryptoKeyVersions/1", NAME_VERSION);
    const struct model_id id = model_id_of(&version);
    struct store_txn *txn = store_txn_new(f->l->s.store);
    store_txn_delete(txn, REC_VERSION, tenant_now(f, "globex").id, model_id_bytes(&id), STORE_ANY);
    life_commit(f->l, txn);
    assert_ok(keyring_check(f->l->s.keyring, &c, &f->e));
    assert_int_equal(findings, 1);
}

/* An older store is accepted: the tenant that was purged since is PURGING in it, is queued again, and goes again. */
static void again_after_a_rollback(void **state)
{
    struct fixture *f = *state;
    static const uint8_t none[16];
    CLEANUP(buf_release) struct buf body;
    struct record r;
    bool changed;
    buf_init(&body, 4096);
    furnish(f);
    const struct tenant t = tenant_now(f, "acme");
    assert_ok(store_get(f->l->s.store, REC_TENANT, none, BYTES_LIT("acme"), &f->l->a, &r, &f->e));
    assert_ok(keyring_tenant_as_revoked(&r, TENANT_PURGED, clock_wall_ns(&f->l->clock.c), &body, &changed, &f->e));
    assert_true(changed);
    struct store_txn *txn = store_txn_new(f->l->s.store);
    store_txn_put(txn, &r, r.revision);
    life_commit(f->l, txn);
    keyring_tenant_forget(f->l->s.keyring, BYTES_LIT("acme"));
    assert_int_equal(queued(f, DUE_PURGE), 0);
    assert_ok(keyring_requeue(f->l->s.keyring, &f->e)); /* as at the start under a new incarnation */
    assert_int_equal(queued(f, DUE_PURGE), 1);
    assert_fails(tenant_try(f, "acme", &(struct tenant_move){.to = TENANT_ACTIVE}, &f->e), ERR_STATE, "TENANT_STATE");
    fake_clock_advance(&f->l->clock, SECOND);
    purge_out(f, "acme");
    nothing_is_left(f, t.id);
    the_other_is_whole(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIFE(over_deaths),
        LIFE(fsck_in_between),
        LIFE(again_after_a_rollback),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
