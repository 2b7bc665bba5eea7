/* Registered principals are all held in memory: how many there may be is asked when one is made, and never keeps a start from coming up. */
#include "tests/unit/vault/service/life.h"

#undef DAY /* the certificates have one of seconds */
#include "tests/unit/kms/authn/certs.h"
#include "vault/service/admin.h"

enum { MAX = 3 };
#define DOMAIN "life.test"

struct fixture {
    struct life *l;
    struct authn *authn;
    struct admin *admin;
    struct err e;
};

static struct bytes document(struct fixture *f, const char *path)
{
    char *text = arena_alloc(&f->l->a, 65536);
    FILE *in = fopen(path, "r");
    assert_non_null(in);
    const size_t n = fread(text, 1, 65536, in);
    fclose(in);
    assert_in_range(n, 1, 65535);
    return BYTES(text, n);
}

static void open_admin(struct fixture *f, uint64_t max)
{
    const struct admin_options o = {.store = f->l->s.store, .authn = f->authn, .clock = &f->l->clock.c, .trust_domain = DOMAIN, .principals_max = max};
    admin_free(f->admin);
    f->admin = NULL;
    assert_ok(admin_open(&o, &f->admin, &f->e));
}

static struct result make(struct fixture *f, unsigned i, enum principal_state state, uint64_t expected)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(f->l->s.store);
    struct admin_principal p = {.created_ns = T0, .p.state = state};
    uint64_t seq;
    (void)snprintf(p.p.name, sizeof p.p.name, "acme-%u", i);
    (void)snprintf(p.p.tenant, sizeof p.p.tenant, "acme");
    (void)snprintf(p.p.san, sizeof p.p.san, "spiffe://" DOMAIN "/acme-%u", i);
    TRY(admin_principal_put(f->admin, &p, expected, txn, &f->e));
    TRY(store_txn_commit(txn, &seq, &f->e));
    admin_refresh(f->admin);
    assert_true(admin_current(f->admin));
    return ok();
}

static void as_many_as_there_may_be(void **state)
{
    struct fixture on_stack = {.l = *state}, *f = &on_stack;
    struct cert root = cert_make(CA_SPEC("root", NULL));
    char pem[16384];
    const struct authn_options ao = {.clock = &f->l->clock.c, .ca_pem = certs_pem(pem, sizeof pem, &root, 1), .trust_domain = DOMAIN};
    const struct policy_doc docs[] = {{.name = "roles.yaml", .yaml = document(f, "policies/roles.yaml")},
                                      {.name = "bindings.yaml", .yaml = document(f, "policies/bindings.yaml")}};
    struct store_txn *txn = store_txn_new(f->l->s.store);
    assert_ok(authn_new(&ao, &f->authn, &f->e));
    admin_policy_first(docs, 2, BYTES_LIT("admin"), T0, txn);
    life_commit(f->l, txn);
    open_admin(f, MAX);
    for (unsigned i = 0; i < MAX; i++)
        assert_ok(make(f, i, PRINCIPAL_ACTIVE, STORE_ABSENT));
    assert_fails(make(f, MAX, PRINCIPAL_ACTIVE, STORE_ABSENT), ERR_EXHAUSTED, "TOO_MANY_PRINCIPALS");
    assert_ok(make(f, 0, PRINCIPAL_DISABLED, 1)); /* who is there can be changed */
    assert_ok(make(f, 0, PRINCIPAL_ACTIVE, 2));
    open_admin(f, MAX - 1); /* more of them than it would have let in */
    assert_true(admin_current(f->admin));
    open_admin(f, 0);
    assert_ok(make(f, MAX, PRINCIPAL_ACTIVE, STORE_ABSENT));
    admin_free(f->admin);
    authn_free(f->authn);
    cert_free(&root);
}

#define LIFE(test) cmocka_unit_test_setup_teardown(test, life_start, life_stop)
int main(void)
{
    const struct CMUnitTest tests[] = {LIFE(as_many_as_there_may_be)};
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
