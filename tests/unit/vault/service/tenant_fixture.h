/*
 * Purpose: what the tests of a tenant's life share: life.h with a journal and its relay, a tenant with something of every kind in it, and
 *          moves of its state.
 * Owns:    a second folder, for the journal. Threads: one, and the relay's. Errors: a failed set-up fails the test. Limits: one at a time.
 * Secrets: none worth keeping.
 */
#ifndef TESTS_UNIT_VAULT_SERVICE_TENANT_FIXTURE_H
#define TESTS_UNIT_VAULT_SERVICE_TENANT_FIXTURE_H

#include "tests/unit/vault/service/life.h"

#include "kms/keyring/model.h"
#include "vault/service/act.h"
#include "vault/service/admin.h"
#include "vault/service/destruction.h"
#include "vault/service/rotation.h"
#include "vault/service/tenant_life.h"

#define ACME_KEY LIFE_RING "/cryptoKeys/email"

struct fixture {
    struct life *l;
    struct err e; /* assert_ok and assert_fails */
    char log[64];
    struct tenant_ref *held;
};

static const struct audit_tenant *fixture_audit(void *user, const uint8_t id[16])
{
    struct fixture *f = user;
    static const uint8_t none[16];
    struct err e = {0};
    if (memcmp(id, none, sizeof none) == 0)
        return keyring_system_audit(f->l->s.keyring);
    tenant_ref_drop(f->held);
    f->held = NULL;
    return keyring_tenant_hold_by_id(f->l->s.keyring, id, &f->held, &e).failed ? NULL : tenant_ref_audit(f->held);
}

static inline struct journal_options fixture_log(const struct fixture *f)
{
    return (struct journal_options){.dir = f->log, .origin = "claviger/node1", .segment_bytes = 1 << 20, .reserve_bytes = 1 << 18,
                                    .clock = &f->l->clock.c, .instance = "instance-16byte"};
}

static inline void fixture_open(struct fixture *f)
{
    const struct relay_hooks hooks = {.tenant = fixture_audit, .user = f};
    const struct journal_options o = fixture_log(f);
    life_open(f->l);
    assert_ok(journal_open(&o, &f->l->s.journal, &f->e));
    assert_ok(relay_start(f->l->s.journal, f->l->s.store, &hooks, &f->l->s.relay, &f->e));
}

static inline void fixture_close(struct fixture *f)
{
    relay_stop(f->l->s.relay);
    journal_close(f->l->s.journal);
    tenant_ref_drop(f->held);
    f->held = NULL;
    life_close(f->l);
}

static inline int fixture_start(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    void *l;
    assert_non_null(f);
    assert_int_equal(life_start(&l), 0);
    *f = (struct fixture){.l = l, .log = "/tmp/clv-life-log-XXXXXX"};
    assert_non_null(mkdtemp(f->log));
    life_close(f->l);
    fixture_open(f);
    *state = f;
    return 0;
}

static inline int fixture_stop(void **state)
{
    struct fixture *f = *state;
    void *l = f->l;
    fixture_close(f);
    life_open(f->l);
    kms_empty(f->log);
    assert_int_equal(rmdir(f->log), 0);
    free(f);
    return life_stop(&l);
}

/* ---- what a tenant has ---- */
static inline struct tenant tenant_now(struct fixture *f, const char *name)
{
    struct tenant t;
    assert_ok(keyring_tenant_read(f->l->s.keyring, bytes_str(name), &t, &f->e));
    return t;
}

/* As the handlers do it: the change and its event, sealed as the tenant's own. */
static inline struct result tenant_try(struct fixture *f, const char *name, const struct tenant_move *m, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(f->l->s.store);
    CLEANUP(tenant_ref_dropp) struct tenant_ref *held = NULL;
    struct tenant t = tenant_now(f, name);
    struct act act = {.principal = "admin", .action = "tenants.move", .resource = BYTES_LIT("projects/acme"), .before = tenant_json(&f->l->a, &t)};
    assert_ok(keyring_tenant_hold(f->l->s.keyring, bytes_str(name), true, &held, &f->e));
    TRY(keyring_tenant_move(f->l->s.keyring, &t, m, txn, e));
    act.after = tenant_json(&f->l->a, &t);
    TRY(act_commit(txn, &f->l->clock.c, held, &act, e));
    keyring_tenant_forget(f->l->s.keyring, bytes_str(name));
    return ok();
}

static inline void tenant_to(struct fixture *f, const char *name, enum tenant_state to, int64_t purge_ns)
{
    const struct tenant_move m = {.to = to, .purge_ns = purge_ns, .by = BYTES_LIT("admin")};
    assert_ok(tenant_try(f, name, &m, &f->e));
}

static inline void tenant_make(struct fixture *f, const char *name)
{
    struct tenant t;
    struct store_txn *txn = store_txn_new(f->l->s.store);
    assert_ok(keyring_tenant_create(f->l->s.keyring, bytes_str(name), BYTES_LIT("eu"), BYTES_LIT("display"), txn, &t, &f->e));
    life_commit(f->l, txn);
}

static inline void principal_make(struct fixture *f, const char *name, const char *tenant)
{
    struct admin_principal p = {.created_ns = T0, .p.state = PRINCIPAL_ACTIVE};
    struct store_txn *txn = store_txn_new(f->l->s.store);
    (void)snprintf(p.p.name, sizeof p.p.name, "%s", name);
    (void)snprintf(p.p.tenant, sizeof p.p.tenant, "%s", tenant);
    (void)snprintf(p.p.san, sizeof p.p.san, "spiffe://life.test/%s", name);
    admin_principal_first(&p, txn);
    life_commit(f->l, txn);
}

/* ---- looking ---- */
static inline size_t rows_of(struct fixture *f, enum rec_kind kind, const uint8_t tenant[16])
{
    struct store_scan q = {.kind = kind, .limit = 100000};
    struct record *rows;
    size_t n;
    memcpy(q.tenant, tenant, sizeof q.tenant);
    assert_ok(store_scan(f->l->s.store, &q, &f->l->a, &rows, &n, &f->e));
    return n;
}

static inline size_t queued(struct fixture *f, enum due_what what)
{
    struct due *all;
    size_t n, count = 0;
    assert_ok(due_read(f->l->s.store, (struct bytes){0}, INT64_MAX, 10000, &f->l->a, &all, &n, &f->e));
    for (size_t i = 0; i < n; i++)
        count += all[i].what == what;
    return count;
}

static inline struct keeper *keeper_of(struct fixture *f)
{
    static const struct keeper_task tasks[] = {{DUE_ROTATION, rotation_due}, {DUE_DESTRUCTION, destruction_due}, {DUE_PURGE, tenant_purge_due}, {DUE_RETURN, tenant_return_due}};
    const struct keeper_options o = {.store = f->l->s.store, .clock = &f->l->clock.c, .pace = 1000, .tasks = tasks,
                                     .ntasks = sizeof tasks / sizeof tasks[0], .user = &f->l->s};
    return keeper_new(&o);
}

/* Until the tenant has no row: looks as the keeper's thread would, while the relay does its part. */
static inline void purge_out(struct fixture *f, const char *name)
{
    struct keeper *k = keeper_of(f);
    struct keeper_status st;
    struct tenant t;
    struct err e = {0};
    for (unsigned looks = 0; !keyring_tenant_read(f->l->s.keyring, bytes_str(name), &t, &e).failed; looks++) {
        struct journal_status js;
        journal_status(f->l->s.journal, &js);
        keeper_step(k);
        keeper_status(k, &st);
        if (st.failing)
            fail_msg("%s", st.why);
        assert_true(looks < 1000);
        fake_clock_advance(&f->l->clock, SECOND);
        (void)journal_wait(f->l->s.journal, js.next_index, 10);
    }
    assert_int_equal(e.code, ERR_NOT_FOUND);
    keeper_free(k);
}

#endif
