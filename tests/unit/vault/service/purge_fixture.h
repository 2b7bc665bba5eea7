/*
 * Purpose: what the tests of a tenant's end share: acme with something of every kind beside globex, what must be gone and what must be
 *          whole afterwards, and what the log says of it.
 * Owns:    nothing. Threads: one. Errors: a failed check fails the test. Limits: KEYS, VERSIONS, PEOPLE and REPEATS of acme.
 * Secrets: none worth keeping.
 */
#ifndef TESTS_UNIT_VAULT_SERVICE_PURGE_FIXTURE_H
#define TESTS_UNIT_VAULT_SERVICE_PURGE_FIXTURE_H

#include "tests/unit/vault/service/tenant_fixture.h"

enum { KEYS = 40, VERSIONS = 5, PEOPLE = 300, REPEATS = 20 };
#define GLOBEX_KEY "projects/globex/locations/eu/keyRings/pii/cryptoKeys/email"

static inline void add_versions(struct fixture *f, const char *key, unsigned n)
{
    const struct name name = life_name(key, NAME_CRYPTOKEY);
    for (unsigned i = 0; i < n; i++) {
        struct keyring_key m = life_read(f->l, key);
        struct keyring_version v;
        struct store_txn *txn = store_txn_new(f->l->s.store);
        assert_ok(keyring_key_rotate(f->l->s.keyring, &name, &m, txn, &f->l->a, &v, &f->e));
        life_commit(f->l, txn);
        keyring_changed(f->l->s.keyring, &name);
    }
}

static inline void repeats(struct fixture *f, const uint8_t tenant[16])
{
    struct store_txn *txn = store_txn_new(f->l->s.store);
    for (int i = 0; i < REPEATS; i++) {
        char id[32];
        (void)snprintf(id, sizeof id, "%031d", i);
        struct record r = {.kind = REC_IDEMPOTENCY, .id = BYTES(id, 31), .body = BYTES_LIT("an answer"), .time_unix_ns = T0};
        memcpy(r.tenant, tenant, sizeof r.tenant);
        store_txn_put(txn, &r, STORE_ANY);
    }
    life_commit(f->l, txn);
}

static inline void budget(struct fixture *f, const uint8_t tenant[16])
{
    struct store_txn *txn = store_txn_new(f->l->s.store);
    const struct record r = {.kind = REC_BUDGET, .id = BYTES(tenant, 16), .body = BYTES_LIT("................................")};
    store_txn_put(txn, &r, STORE_ANY);
    life_commit(f->l, txn);
}

/* acme with something of every kind, beside globex with the same names of rings and keys. */
static inline void furnish(struct fixture *f)
{
    char name[128];
    struct keyring_ring r;
    const struct name ring = life_name("projects/globex/locations/eu/keyRings/pii", NAME_KEYRING);
    tenant_make(f, "globex");
    struct store_txn *txn = store_txn_new(f->l->s.store);
    assert_ok(keyring_ring_create(f->l->s.keyring, &ring, txn, &f->l->a, &r, &f->e));
    life_commit(f->l, txn);
    life_key(f->l, GLOBEX_KEY, 7 * DAY_S, T0 + 3650 * DAY);
    for (int i = 0; i < KEYS; i++) {
        (void)snprintf(name, sizeof name, LIFE_RING "/cryptoKeys/k%02d", i);
        life_key(f->l, name, 7 * DAY_S, T0 + 3650 * DAY + i);
        add_versions(f, name, VERSIONS - 1);
    }
    (void)life_schedule(f->l, LIFE_RING "/cryptoKeys/k00/cryptoKeyVersions/1", T0 + 3650 * DAY);
    for (int i = 0; i < PEOPLE; i++) {
        (void)snprintf(name, sizeof name, "acme-%03d", i);
        principal_make(f, name, "acme");
        (void)snprintf(name, sizeof name, "globex-%03d", i);
        if (i < 3)
            principal_make(f, name, "globex");
    }
    principal_make(f, "operator", "");
    repeats(f, tenant_now(f, "acme").id);
    repeats(f, tenant_now(f, "globex").id);
    budget(f, tenant_now(f, "acme").id);
    budget(f, tenant_now(f, "globex").id);
}

static inline size_t principals_of(struct fixture *f, const char *tenant)
{
    struct store_scan q = {.kind = REC_PRINCIPAL, .limit = 10000};
    struct record *rows;
    size_t n, count = 0;
    assert_ok(store_scan(f->l->s.store, &q, &f->l->a, &rows, &n, &f->e));
    for (size_t i = 0; i < n; i++)
        count += memmem(rows[i].body.p, rows[i].body.n, tenant, strlen(tenant)) != NULL;
    return count;
}

static inline void nothing_is_left(struct fixture *f, const uint8_t id[16])
{
    static const uint8_t none[16];
    struct record r;
    for (unsigned kind = 1; kind < 64; kind++)
        assert_int_equal(rows_of(f, (enum rec_kind)kind, id), 0);
    assert_fails(store_get(f->l->s.store, REC_TENANT_ID, none, BYTES(id, 16), &f->l->a, &r, &f->e), ERR_NOT_FOUND, NULL);
    assert_fails(store_get(f->l->s.store, REC_BUDGET, none, BYTES(id, 16), &f->l->a, &r, &f->e), ERR_NOT_FOUND, NULL);
    assert_int_equal(principals_of(f, "acme"), 0);
    assert_ok(keyring_tombstone(f->l->s.keyring, id, &f->e));
    struct due *all;
    size_t n;
    assert_ok(due_read(f->l->s.store, (struct bytes){0}, INT64_MAX, 10000, &f->l->a, &all, &n, &f->e));
    for (size_t i = 0; i < n; i++)
        assert_true(all[i].what == DUE_CERTIFICATE || memmem(all[i].name.p, all[i].name.n, "acme", 4) == NULL);
}

static inline void the_other_is_whole(struct fixture *f)
{
    static const uint8_t none[16];
    const struct name n = life_name(GLOBEX_KEY, NAME_CRYPTOKEY);
    CLEANUP(key_handle_unrefp) struct key_handle *h = NULL;
    const struct tenant t = tenant_now(f, "globex");
    struct key_view view;
    struct record r;
    assert_int_equal(t.state, TENANT_ACTIVE);
    assert_ok(keyring_use_encrypt(f->l->s.keyring, &n, KEY_USE_ENCRYPT, true, &h, &view, &f->e));
    assert_int_equal(rows_of(f, REC_IDEMPOTENCY, t.id), REPEATS);
    assert_int_equal(principals_of(f, "globex"), 3);
    assert_ok(store_get(f->l->s.store, REC_BUDGET, none, BYTES(t.id, 16), &f->l->a, &r, &f->e));
    assert_ok(store_get(f->l->s.store, REC_PRINCIPAL, none, BYTES_LIT("operator"), &f->l->a, &r, &f->e));
    assert_int_equal(queued(f, DUE_ROTATION), 1);
}

/* The one certificate of a tenant: its text, in the sealed row. */
static inline struct bytes certificate(struct fixture *f)
{
    const struct name n = {.kind = NAME_TENANT, .tenant = BYTES_LIT("acme")};
    struct certificate_row c, *all;
    size_t count;
    assert_ok(certificate_list(&f->l->s, NULL, (struct bytes){0}, 100, &f->l->a, &all, &count, &f->e));
    assert_int_equal(count, 1);
    assert_ok(certificate_get(&f->l->s, &n, &f->l->a, &c, &f->e));
    return c.note;
}

static inline void says(struct bytes text, const char *line)
{
    if (memmem(text.p, text.n, line, strlen(line)) == NULL)
        fail_msg("no line %s in %.*s", line, (int)text.n, (const char *)text.p);
}

/* Events of the system about it, in the log. */
struct seen {
    struct fixture *f;
    unsigned purging, purged, moves, findings;
    char last[600];
};

static inline const struct aead_key *key_of(void *user, const uint8_t tag[32], struct err *e)
{
    struct seen *s = user;
    const struct audit_tenant *system = keyring_system_audit(s->f->l->s.keyring);
    if (memcmp(system->tag, tag, 32) == 0)
        return system->key;
    tenant_ref_drop(s->f->held);
    s->f->held = NULL;
    return keyring_tenant_hold_by_tag(s->f->l->s.keyring, tag, &s->f->held, e).failed ? NULL : tenant_ref_audit(s->f->held)->key;
}

static inline void on_event(void *user, const struct audit_event *ev)
{
    struct seen *s = user;
    s->moves += bytes_equal(ev->action, BYTES_LIT("tenants.move"));
    if (!bytes_equal(ev->principal, BYTES_LIT("system:purge")))
        return;
    assert_true(bytes_equal(ev->action, BYTES_LIT("tenants.purge")) && bytes_equal(ev->resource, BYTES_LIT("projects/acme")));
    s->purging += memmem(ev->after.p, ev->after.n, "PURGING", 7) != NULL;
    s->purged += memmem(ev->after.p, ev->after.n, "PURGED", 6) != NULL;
    (void)snprintf(s->last, sizeof s->last, "%.*s | %.*s", (int)ev->before.n, (const char *)ev->before.p, (int)ev->after.n, (const char *)ev->after.p);
}

static inline void on_finding(void *user, const char *text)
{
    struct seen *s = user;
    s->findings++;
    print_message("%s\n", text);
}

/* fsck's view of the log; *erased: what nobody can read any more. */
static inline struct seen read_log(struct fixture *f, uint64_t *erased)
{
    struct seen s = {.f = f};
    const struct journal_options o = fixture_log(f);
    struct journal_checking c = {.report = on_finding, .event = on_event, .key = key_of, .user = &s};
    assert_ok(journal_check(&o, &c, &f->e));
    *erased = c.erased;
    return s;
}

static inline void relayed(struct fixture *f)
{
    for (unsigned i = 0; journal_outbox_seq(f->l->s.journal) < store_outbox_last(f->l->s.store); i++) {
        struct journal_status js;
        journal_status(f->l->s.journal, &js);
        (void)journal_wait(f->l->s.journal, js.next_index, 100);
        assert_true(i < 100);
    }
}

#define LIFE(test) cmocka_unit_test_setup_teardown(test, fixture_start, fixture_stop)

#endif
