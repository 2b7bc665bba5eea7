/*
 * Purpose: tenants with keys and versions, what each seals, and the rotation of a secret on the token over them, a step at a time
 *          (life.h: fake clock, stand-in token): asked for as a caller would, run until it rests, looked at.
 * Owns:    nothing. Threads: one. Errors: a failed set-up fails the test. Limits: as life.h. Secrets: none worth keeping.
 */
#ifndef TESTS_UNIT_VAULT_SERVICE_MOVING_FIXTURE_H
#define TESTS_UNIT_VAULT_SERVICE_MOVING_FIXTURE_H

#include "tests/unit/vault/service/life.h"

#include "vault/service/mover.h"
#include "vault/service/moving_steps.h"

enum { TENANTS = 3, KEYS = 5, VERSIONS = 30, STEPS_MAX = 4000 };
static const char *const tenants[TENANTS] = {"acme", "beta", "gamma"};

/* ---- what there is to move ---- */
static inline void make_tenant(struct life *f, const char *name)
{
    struct tenant t;
    struct keyring_ring r;
    char text[96];
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(keyring_tenant_create(f->s.keyring, bytes_str(name), BYTES_LIT("eu"), BYTES_LIT(""), txn, &t, &f->e));
    life_commit(f, txn);
    (void)snprintf(text, sizeof text, "projects/%s/locations/eu/keyRings/pii", name);
    const struct name ring = life_name(text, NAME_KEYRING);
    txn = store_txn_new(f->s.store);
    assert_ok(keyring_ring_create(f->s.keyring, &ring, txn, &f->a, &r, &f->e));
    life_commit(f, txn);
}

static inline const char *key_name(struct life *f, const char *tenant, unsigned key)
{
    return arena_printf(&f->a, "projects/%s/locations/eu/keyRings/pii/cryptoKeys/k%02u", tenant, key);
}

static inline const char *version_name(struct life *f, const char *tenant, unsigned key, unsigned version)
{
    return arena_printf(&f->a, "%s/cryptoKeyVersions/%u", key_name(f, tenant, key), version);
}

static inline void add_version(struct life *f, const char *tenant, unsigned key)
{
    const struct name n = life_name(key_name(f, tenant, key), NAME_CRYPTOKEY);
    struct keyring_key m = life_read(f, key_name(f, tenant, key));
    struct keyring_version v;
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(keyring_key_rotate(f->s.keyring, &n, &m, txn, &f->a, &v, &f->e));
    life_commit(f, txn);
    keyring_changed(f->s.keyring, &n);
}

static inline void fill(struct life *f, unsigned versions)
{
    make_tenant(f, tenants[1]);
    make_tenant(f, tenants[2]);
    for (unsigned t = 0; t < TENANTS; t++)
        for (unsigned k = 0; k < KEYS; k++) {
            life_key(f, key_name(f, tenants[t], k), 0, 0);
            for (unsigned v = 1; v < versions; v++)
                add_version(f, tenants[t], k);
        }
}

static inline void set_state(struct life *f, const char *name, enum version_state to)
{
    struct keyring_version v;
    const struct name n = life_name(name, NAME_VERSION);
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(keyring_version_get(f->s.keyring, &n, &f->a, &v, &f->e));
    const enum version_state from = v.state;
    v.state = to;
    v.destroy_ns = to == VERSION_DESTROY_SCHEDULED ? T0 + 400 * DAY : 0;
    assert_ok(keyring_version_put(f->s.keyring, &n, &v, from, txn, &f->e));
    life_commit(f, txn);
    keyring_changed(f->s.keyring, &n);
}

/* ---- what keys are, told by what they seal: the same before and after ---- */
struct probe {
    const char *key;
    uint8_t kvid[FORMAT_KVID_BYTES], sealed[FORMAT_OVERHEAD + 4];
};

static inline struct probe seal_with(struct life *f, const char *key, unsigned version)
{
    struct probe s = {.key = key};
    struct key_handle *h;
    struct key_view v;
    struct name n = life_name(key, NAME_CRYPTOKEY);
    n.kind = NAME_VERSION;
    n.version = version;
    assert_ok(keyring_use_encrypt(f->s.keyring, &n, KEY_USE_ENCRYPT, true, &h, &v, &f->e));
    memcpy(s.kvid, v.kvid, sizeof s.kvid);
    envelope_seal(v.aead, FORMAT_ENCRYPTED, v.kvid, NULL, BYTES_LIT("aad1"), BYTES_LIT("jane"), s.sealed);
    key_handle_unref(h);
    return s;
}

static inline struct result open_with(struct life *f, const struct probe *s, struct err *e)
{
    struct key_handle *h;
    struct key_view v;
    uint8_t out[4];
    const struct name n = life_name(s->key, NAME_CRYPTOKEY);
    TRY(keyring_use_decrypt(f->s.keyring, &n, KEY_USE_ENCRYPT, s->kvid, true, &h, &v, e));
    struct result r = envelope_open(v.aead, FORMAT_ENCRYPTED, s->kvid, BYTES_LIT("aad1"), BYTES(s->sealed, sizeof s->sealed), out, e);
    key_handle_unref(h);
    if (!r.failed)
        assert_memory_equal(out, "jane", 4);
    return r;
}

static inline struct probe *seal_all(struct life *f, unsigned versions)
{
    struct probe *all = arena_zalloc(&f->a, TENANTS * KEYS * versions * sizeof *all), *at = all;
    for (unsigned t = 0; t < TENANTS; t++)
        for (unsigned k = 0; k < KEYS; k++)
            for (unsigned v = 1; v <= versions; v++)
                *at++ = seal_with(f, key_name(f, tenants[t], k), v);
    return all;
}

static inline void open_all(struct life *f, const struct probe *all, unsigned versions)
{
    for (size_t i = 0; i < (size_t)TENANTS * KEYS * versions; i++)
        assert_ok(open_with(f, &all[i], &f->e));
}

/* ---- the rotation ---- */
static inline void ask(struct life *f, enum hsm_object kind, uint32_t to)
{
    struct moving v;
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(moving_read(f->s.store, kind, &v, &f->e));
    v = (struct moving){.kind = kind, .state = v.state, .to = to, .started_ns = clock_wall_ns(&f->clock.c), .by = "admin", .revision = v.revision};
    assert_ok(moving_to(&v, MOVING_MAKING, v.started_ns, &f->e));
    moving_put(txn, &v);
    life_commit(f, txn);
}

static inline struct moving moving_of(struct life *f, enum hsm_object kind)
{
    struct moving v;
    assert_ok(moving_read(f->s.store, kind, &v, &f->e));
    return v;
}

static inline struct token_secret secret_of(struct life *f, enum hsm_object kind, uint32_t version)
{
    struct token_secrets all;
    assert_ok(token_secrets_read(f->s.store, kind, &all, &f->e));
    const struct token_secret *m = token_secrets_find(&all, version);
    assert_non_null(m);
    return *m;
}

/* Steps until it rests; returns how many. at_most 0: all. */
static inline unsigned run(struct life *f, unsigned at_most)
{
    const struct mover_options o = {.s = &f->s, .master_pace = 1000000000, .seal_pace = 1000000000};
    struct mover *m = mover_new(&o);
    enum mover_next next = MOVER_AGAIN;
    unsigned n = 0;
    while (next != MOVER_REST && (at_most == 0 || n < at_most)) {
        next = mover_step(m);
        fake_clock_advance(&f->clock, SECOND / 100);
        n++;
        assert_true(n < STEPS_MAX);
    }
    mover_free(m);
    return n;
}

/* A rotation to 2 on a token that is no files: the secret is made, and rests unused until somebody says that it is cloned. The caller's mover. */
static inline struct mover *made_and_not_saved(struct life *f, enum hsm_object kind)
{
    const struct mover_options o = {.s = &f->s, .master_pace = 1000, .seal_pace = 1000};
    struct mover_status st;
    f->hsm->no_files = true;
    ask(f, kind, 2);
    struct mover *m = mover_new(&o);
    assert_int_equal(mover_step(m), MOVER_AGAIN);
    assert_int_equal(mover_step(m), MOVER_REST);
    mover_status(m, kind, &st);
    assert_true(st.failing && strstr(st.why, "TOKEN_NOT_CLONED") != NULL);
    assert_int_equal(secret_of(f, kind, 2).state, SECRET_BORN);
    return m;
}

static inline void say_cloned(struct life *f, enum hsm_object kind)
{
    struct moving v = moving_of(f, kind);
    struct store_txn *txn = store_txn_new(f->s.store);
    v.cloned = true;
    moving_put(txn, &v);
    life_commit(f, txn);
}

static inline void reopen(struct life *f)
{
    life_close(f);
    life_open(f);
}

static inline uint64_t left_under(struct life *f, uint32_t version, uint64_t *ret_versions)
{
    struct rekey_proof p;
    assert_ok(keyring_rekey_prove(f->s.keyring, version, NULL, NULL, &p, &f->e));
    if (ret_versions != NULL)
        *ret_versions = p.versions;
    return p.left;
}

static inline void doom(struct life *f, enum hsm_object kind, uint32_t version)
{
    struct token_secrets all;
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(token_secrets_read(f->s.store, kind, &all, &f->e));
    struct token_secret *m = token_secrets_find(&all, version);
    assert_ok(sm_move(&token_secret_machine, &m->state, SECRET_DESTROYING, &f->e));
    token_secret_put(txn, m);
    life_commit(f, txn);
}

#endif
