/* The end of a tenant: everything of it goes and nothing else, over any death, counted once; its log adds up and tells nothing; its name may
 * be given again and opens nothing of old. */
#include "kms/keyring/unsaved.h"
#include "tests/unit/vault/service/purge_fixture.h"

static void everything_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    uint64_t erased;
    furnish(f);
    const struct tenant t = tenant_now(f, "acme");
    tenant_to(f, "acme", TENANT_SUSPENDED, 0);
    tenant_to(f, "acme", TENANT_DELETED, T0 + 30 * DAY);
    relayed(f);
    struct seen before = read_log(f, &erased);
    assert_int_equal(before.moves, 2);
    assert_int_equal(erased, 0);
    assert_true(principals_of(f, "acme") == PEOPLE && rows_of(f, REC_VERSION, t.id) == KEYS * VERSIONS);
    fake_clock_advance(&f->l->clock, 31 * DAY);
    purge_out(f, "acme");
    nothing_is_left(f, t.id);
    the_other_is_whole(f);
    const struct bytes text = certificate(f);
    says(text, "\nkind: tenant\nname: projects/acme\n");
    assert_null(memmem(text.p, text.n, "copies of the token that were made before", 41)); /* it had no key there */
    says(text, "\nkey-rings: 1\nkeys: 40\nversions: 200\nprincipals: 300\ntoken-objects: 0\n");
    says(text, "\nrequested: 2027-01-15T08:00:00Z\nrequested-by: admin\ndue: 2027-02-14T08:00:00Z\n");
    relayed(f);
    const struct seen after = read_log(f, &erased);
    assert_int_equal(after.findings, 0);
    assert_int_equal(after.moves, 0); /* sealed under a key that is gone */
    assert_int_equal(erased, 2);
    assert_int_equal(after.purged, 1);
    assert_true(strstr(after.last, "\"state\":\"PURGING\"") != NULL && strstr(after.last, "| {\"tenant\":\"acme\"") != NULL);
    struct outbox_event *all;
    size_t n;
    assert_ok(store_outbox_read(f->l->s.store, 0, 10000, &f->l->a, &all, &n, &f->e));
    for (size_t i = 0; i < n; i++)
        assert_memory_not_equal(all[i].tenant, t.id, sizeof t.id);
}

/* A tag that no tenant and no tombstone has is a finding still: what is missing is not taken for what was purged. */
static void missing_is_not_purged(void **state)
{
    struct fixture *f = *state;
    static const uint8_t none[16];
    uint64_t erased;
    tenant_make(f, "other");
    const struct tenant t = tenant_now(f, "other");
    tenant_to(f, "other", TENANT_SUSPENDED, 0);
    relayed(f);
    struct store_txn *txn = store_txn_new(f->l->s.store);
    store_txn_delete(txn, REC_TENANT, none, BYTES_LIT("other"), STORE_ANY);
    store_txn_delete(txn, REC_TENANT_ID, none, BYTES(t.id, 16), STORE_ANY);
    life_commit(f->l, txn);
    keyring_tenant_forget(f->l->s.keyring, BYTES_LIT("other"));
    const struct seen s = read_log(f, &erased);
    assert_int_equal(s.findings, 1);
    assert_int_equal(erased, 0);
    assert_fails(keyring_tombstone(f->l->s.keyring, t.id, &f->e), ERR_NOT_FOUND, NULL);
}

/* The name goes to somebody new: another id, nothing of old opens, and its log is its own. */
static void the_name_again(void **state)
{
    struct fixture *f = *state;
    static const uint8_t none[16];
    const struct name key = life_name(ACME_KEY, NAME_CRYPTOKEY), ring = life_name(LIFE_RING, NAME_KEYRING);
    struct keyring_version old, now;
    struct keyring_ring r;
    struct record row;
    uint8_t kvid[FORMAT_KVID_BYTES], wrapped[256];
    uint64_t erased;
    life_key(f->l, ACME_KEY, 0, 0);
    const struct name version = life_name(ACME_KEY "/cryptoKeyVersions/1", NAME_VERSION);
    assert_ok(keyring_version_get(f->l->s.keyring, &version, &f->l->a, &old, &f->e));
    memcpy(kvid, old.kvid, sizeof kvid);
    const size_t wrapped_n = old.wrapped.n;
    memcpy(wrapped, old.wrapped.p, wrapped_n);
    const struct tenant was = tenant_now(f, "acme");
    principal_make(f, "acme-orders", "acme");
    tenant_to(f, "acme", TENANT_DELETED, T0 + 30 * DAY);
    struct store_txn *txn = store_txn_new(f->l->s.store);
    struct tenant t;
    assert_ok(keyring_tenant_create(f->l->s.keyring, BYTES_LIT("acme"), BYTES_LIT("eu"), BYTES_LIT(""), txn, &t, &f->e));
    uint64_t seq;
    assert_fails(store_txn_commit(txn, &seq, &f->e), ERR_EXISTS, NULL); /* deleted is not gone */
    store_txn_free(txn);
    fake_clock_advance(&f->l->clock, 30 * DAY);
    purge_out(f, "acme");

    tenant_make(f, "acme");
    const struct tenant is = tenant_now(f, "acme");
    assert_memory_not_equal(is.id, was.id, sizeof is.id);
    txn = store_txn_new(f->l->s.store);
    assert_ok(keyring_ring_create(f->l->s.keyring, &ring, txn, &f->l->a, &r, &f->e));
    life_commit(f->l, txn);
    life_key(f->l, ACME_KEY, 0, 0);
    principal_make(f, "acme-orders", "acme"); /* its name and its SAN are free again */
    CLEANUP(key_handle_unrefp) struct key_handle *h = NULL;
    struct key_view view;
    assert_fails(keyring_use_decrypt(f->l->s.keyring, &key, KEY_USE_ENCRYPT, kvid, true, &h, &view, &f->e), ERR_CIPHERTEXT, NULL);
    /* Whoever kept the wrapped key, and writes it into the row of the new version with its kvid, has a row that does not unwrap. */
    assert_ok(keyring_version_get(f->l->s.keyring, &version, &f->l->a, &now, &f->e));
    memcpy(now.kvid, kvid, sizeof kvid);
    now.wrapped = BYTES(wrapped, wrapped_n);
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, 4096);
    model_version_put(&now, &body);
    const struct model_id id = model_id_of(&version);
    assert_ok(store_get(f->l->s.store, REC_VERSION, is.id, model_id_bytes(&id), &f->l->a, &row, &f->e));
    row.body = buf_bytes(&body);
    txn = store_txn_new(f->l->s.store);
    store_txn_put(txn, &row, row.revision);
    life_commit(f->l, txn);
    keyring_changed(f->l->s.keyring, &key);
    assert_fails(keyring_use_encrypt(f->l->s.keyring, &key, KEY_USE_ENCRYPT, true, &h, &view, &f->e), ERR_DATA_LOSS, "KEY_UNWRAP_FAILED");
    (void)none;
    tenant_to(f, "acme", TENANT_SUSPENDED, 0);
    relayed(f);
    const struct seen s = read_log(f, &erased);
    assert_int_equal(s.findings, 0);
    assert_int_equal(s.moves, 1); /* of the new one */
    assert_int_equal(erased, 1);  /* of the old one */
}

/* Half way is not the end: while a row is there, the salt is too, and no certificate. */
static void not_before_it_is_empty(void **state)
{
    struct fixture *f = *state;
    const struct tenant t = tenant_now(f, "acme");
    struct keyring_toll lost;
    struct tenant gone;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(f->l->s.store);
    assert_fails(keyring_purge_end(f->l->s.keyring, BYTES_LIT("acme"), txn, &gone, &lost, &f->e), ERR_STATE, "TENANT_STATE");
    bool more;
    assert_fails(keyring_purge_rows(f->l->s.keyring, BYTES_LIT("acme"), &more, &f->e), ERR_STATE, "TENANT_STATE");
    assert_int_equal(rows_of(f, REC_KEYRING, t.id), 1);
    tenant_to(f, "acme", TENANT_DELETED, T0 + 30 * DAY);
    assert_fails(keyring_purge_rows(f->l->s.keyring, BYTES_LIT("acme"), &more, &f->e), ERR_STATE, "TENANT_STATE");
    tenant_to(f, "acme", TENANT_PURGING, 0);
    assert_fails(keyring_purge_end(f->l->s.keyring, BYTES_LIT("acme"), txn, &gone, &lost, &f->e), ERR_STATE, "TENANT_NOT_EMPTY");
    assert_ok(keyring_purge_rows(f->l->s.keyring, BYTES_LIT("acme"), &more, &f->e));
    assert_true(more);
    assert_ok(keyring_purge_rows(f->l->s.keyring, BYTES_LIT("acme"), &more, &f->e));
    assert_false(more);
    assert_ok(keyring_purge_end(f->l->s.keyring, BYTES_LIT("acme"), txn, &gone, &lost, &f->e));
    assert_int_equal(lost.rings, 1);
}

/* Keys of level HSM: their objects go from the token, also where the version's own removal was still to come; with the token away nothing
 * goes, it is due still, and it says why. */
static void off_the_token(void **state)
{
    struct fixture *f = *state;
    struct keyring_key m;
    struct keyring_version v;
    uint64_t unsaved;
    char name[128];
    for (int i = 0; i < 8; i++) {
        (void)snprintf(name, sizeof name, LIFE_RING "/cryptoKeys/h%d", i);
        const struct keyring_key want = {.destroy_delay_s = 30 * DAY_S, .protection = PROTECTION_HSM};
        const struct name n = life_name(name, NAME_CRYPTOKEY);
        struct store_txn *txn = store_txn_new(f->l->s.store);
        assert_ok(keyring_key_create(f->l->s.keyring, &n, &want, true, txn, &f->l->a, &m, &v, &f->e));
        life_commit(f->l, txn);
    }
    life_key(f->l, ACME_KEY, 0, 0);
    assert_int_equal(stand_in_keys(f->l->hsm), 8);
    assert_ok(unsaved_count(f->l->s.store, &unsaved, &f->e));
    assert_int_equal(unsaved, 8);
    tenant_to(f, "acme", TENANT_DELETED, T0 + 30 * DAY);
    fake_clock_advance(&f->l->clock, 30 * DAY);
    struct keeper *k = keeper_of(f);
    struct keeper_status st;
    f->l->hsm->away = true;
    for (int i = 0; i < 5; i++) {
        fake_clock_advance(&f->l->clock, SECOND);
        keeper_step(k);
    }
    keeper_status(k, &st);
    assert_true(st.failing && strstr(st.why, "HSM_UNAVAILABLE") != NULL);
    assert_int_equal(tenant_now(f, "acme").state, TENANT_PURGING);
    assert_int_equal(rows_of(f, REC_VERSION, tenant_now(f, "acme").id), 9);
    assert_int_equal(stand_in_keys(f->l->hsm), 8);
    f->l->hsm->away = false;
    const uint8_t *first = f->l->hsm->keys[0].kvid; /* somebody died when this one was gone and its row was not */
    assert_ok(hsm_key_destroy(f->l->hsm, first, &f->e));
    fake_clock_advance(&f->l->clock, DUE_RETRY_MAX_S * SECOND);
    keeper_free(k);
    purge_out(f, "acme");
    assert_int_equal(stand_in_keys(f->l->hsm), 0);
    assert_ok(unsaved_count(f->l->s.store, &unsaved, &f->e));
    assert_int_equal(unsaved, 0);
    says(certificate(f), "\nkeys: 9\nversions: 9\nprincipals: 0\ntoken-objects: 8\n");
    says(certificate(f), "; copies of the token that were made before still hold its keys");
}

/* ---- a record copied elsewhere ---- */
static void put_row(struct fixture *f, struct record *r)
{
    struct store_txn *txn = store_txn_new(f->l->s.store);
    store_txn_put(txn, r, STORE_ANY);
    life_commit(f->l, txn);
}

static void use(struct fixture *f, const char *key, const char *reason)
{
    struct key_handle *h = NULL;
    struct key_view view;
    const struct name n = life_name(key, NAME_CRYPTOKEY);
    if (reason != NULL)
        assert_fails(keyring_use_encrypt(f->l->s.keyring, &n, KEY_USE_ENCRYPT, true, &h, &view, &f->e), ERR_DATA_LOSS, reason);
    else
        assert_ok(keyring_use_encrypt(f->l->s.keyring, &n, KEY_USE_ENCRYPT, true, &h, &view, &f->e));
    key_handle_unref(h);
    keyring_tenant_forget(f->l->s.keyring, BYTES_LIT("acme"));
}

/* The tenant's row, written again by somebody who has store and token, with another location: L1 is another, as its check value shows;
 * and where that is made to fit, what is wrapped does not open under it, as its name and its location are bound in too. */
static void in_another_location(void **state)
{
    struct fixture *f = *state;
    static const uint8_t none[16];
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0}, home = {0};
    CLEANUP(buf_release) struct buf body, back;
    CLEANUP(secret_freep) struct secret *l1 = NULL;
    CLEANUP(buf_release) struct buf input;
    struct record r, version;
    buf_init(&body, 4096);
    buf_init(&back, 4096);
    buf_init(&input, KDFENC_MAX_BYTES);
    life_key(f->l, ACME_KEY, 0, 0);
    use(f, ACME_KEY, NULL);
    assert_ok(store_get(f->l->s.store, REC_TENANT, none, BYTES_LIT("acme"), &f->l->a, &r, &f->e));
    assert_ok(model_tenant_get(&r, &m, &f->e));
    assert_ok(model_tenant_get(&r, &home, &f->e));
    (void)snprintf(m.t.location, sizeof m.t.location, "us");
    model_tenant_put(&m, &body);
    r.body = buf_bytes(&body);
    put_row(f, &r);
    keyring_tenant_forget(f->l->s.keyring, BYTES_LIT("acme"));
    assert_false(tenant_now(f, "acme").served); /* this daemon has eu only */
    const char moved[] = "projects/acme/locations/us/keyRings/pii/cryptoKeys/email";
    const struct name there = life_name(moved, NAME_CRYPTOKEY), first = life_name("projects/acme/locations/us/keyRings/pii/cryptoKeys/email/cryptoKeyVersions/1", NAME_VERSION);
    /* The rows of key and version under their names there. */
    static const char *const kinds[] = {ACME_KEY, ACME_KEY "/cryptoKeyVersions/1"};
    for (int i = 0; i < 2; i++) {
        const struct name was = life_name(kinds[i], i == 0 ? NAME_CRYPTOKEY : NAME_VERSION);
        const struct model_id from = model_id_of(&was), to = model_id_of(i == 0 ? &there : &first);
        char text[NAME_MAX_BYTES];
        const size_t n = name_format(i == 0 ? &there : &first, text);
        assert_ok(store_get(f->l->s.store, i == 0 ? REC_CRYPTOKEY : REC_VERSION, m.t.id, model_id_bytes(&from), &f->l->a, &version, &f->e));
        version.id = model_id_bytes(&to);
        version.name = BYTES(text, n);
        put_row(f, &version);
    }
    use(f, moved, "KEY_CHECK_FAILED");
    const struct hierarchy_tenant h = {.instance = "instance-16byte", .location = BYTES_LIT("us"), .master = m.t.master_version};
    struct hierarchy_tenant of = h;
    memcpy(of.tenant, m.t.id, sizeof of.tenant);
    hierarchy_l1_input(&of, m.salt, &input);
    assert_ok(hsm_derive(f->l->hsm, HSM_MASTER, of.master, buf_bytes(&input), &l1, &f->e));
    assert_ok(hierarchy_kcv(l1, m.keks[0].kcv, &f->e));
    model_tenant_put(&m, &back);
    r.body = buf_bytes(&back);
    put_row(f, &r);
    keyring_tenant_forget(f->l->s.keyring, BYTES_LIT("acme"));
    use(f, moved, "KEY_UNWRAP_FAILED");
    /* And home again: it was the location, and nothing else. */
    buf_reset(&body);
    model_tenant_put(&home, &body);
    r.body = buf_bytes(&body);
    put_row(f, &r);
    keyring_tenant_forget(f->l->s.keyring, BYTES_LIT("acme"));
    use(f, ACME_KEY, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIFE(everything_and_nothing_else), LIFE(missing_is_not_purged), LIFE(the_name_again),
        LIFE(not_before_it_is_empty),      LIFE(off_the_token),         LIFE(in_another_location),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
