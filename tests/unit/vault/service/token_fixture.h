/*
 * Purpose: what the tests of keys of level HSM share: keys on the stand-in token, sealing and opening with them as the service does, and
 *          the keeper with every task that concerns them.
 * Owns:    nothing. Threads: one. Errors: a failed set-up fails the test. Limits: one key, KEY. Secrets: none worth keeping.
 */
#ifndef TESTS_UNIT_VAULT_SERVICE_TOKEN_FIXTURE_H
#define TESTS_UNIT_VAULT_SERVICE_TOKEN_FIXTURE_H

#include "tests/unit/vault/service/life.h"

#include "kms/crypto/kdf.h"
#include "vault/service/destruction.h"
#include "vault/service/rotation.h"
#include "vault/service/token_keys.h"

#define KEY LIFE_RING "/cryptoKeys/card"
enum { BLOCK = 1 << 16, UNFINISHED_S = 300 };
#define HALF (UINT64_C(1) << 31)
#define END ((UINT64_C(1) << 32) - (UINT64_C(1) << 20))
static const struct keeper_task tasks[] = {{DUE_ROTATION, rotation_due},
                                           {DUE_EXHAUSTION, token_key_exhausted},
                                           {DUE_HSM_UNFINISHED, token_key_unfinished},
                                           {DUE_HSM_REMOVAL, token_key_removal}};

static inline struct keeper *keeper_of(struct life *f)
{
    const struct keeper_options o = {.store = f->s.store, .clock = &f->clock.c, .pace = 20, .tasks = tasks, .ntasks = 4, .user = &f->s};
    return keeper_new(&o);
}

static inline void steps(struct life *f, unsigned n)
{
    struct keeper *k = keeper_of(f);
    for (unsigned i = 0; i < n; i++) {
        keeper_step(k);
        fake_clock_advance(&f->clock, SECOND / 2);
    }
    keeper_free(k);
}

static inline struct result create(struct life *f, const char *name, struct store_txn *txn, struct err *e)
{
    const struct keyring_key want = {.destroy_delay_s = 30 * DAY_S, .protection = PROTECTION_HSM};
    struct keyring_key m;
    struct keyring_version v;
    const struct name n = life_name(name, NAME_CRYPTOKEY);
    return keyring_key_create(f->s.keyring, &n, &want, true, txn, &f->a, &m, &v, e);
}

static inline void token_key(struct life *f, const char *name)
{
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(create(f, name, txn, &f->e));
    life_commit(f, txn);
}

static inline struct keyring_version version(struct life *f, const char *name)
{
    struct keyring_version v;
    const struct name n = life_name(name, NAME_VERSION);
    assert_ok(keyring_version_get(f->s.keyring, &n, &f->a, &v, &f->e));
    return v;
}

static inline enum err_code seal(struct life *f, const char *name, enum key_use use, const char *text, uint8_t *out, const char **reason)
{
    struct key_handle *h = NULL;
    struct key_view view;
    struct err e = {0};
    const struct name n = life_name(name, strstr(name, "Versions") != NULL ? NAME_VERSION : NAME_CRYPTOKEY);
    struct result r = keyring_use_encrypt(f->s.keyring, &n, use, true, &h, &view, &e);
    if (!r.failed)
        r = keyring_token_seal(f->s.keyring, h, use, BYTES_LIT("aad1x"), bytes_str(text), out, &e);
    key_handle_unref(h);
    *reason = r.failed && e.reason != NULL ? e.reason : "";
    return r.failed ? e.code : ERR_NONE;
}

static inline enum err_code open(struct life *f, const char *name, enum key_use use, const char *aad, struct bytes sealed, uint8_t *out)
{
    struct key_handle *h = NULL;
    struct key_view view;
    struct format_header head;
    struct err e = {0};
    const struct name n = life_name(name, NAME_CRYPTOKEY);
    assert_ok(format_header_parse(sealed, &head, &e));
    struct result r = keyring_use_decrypt(f->s.keyring, &n, use, head.kvid, true, &h, &view, &e);
    if (!r.failed)
        r = keyring_token_open(f->s.keyring, h, use, bytes_str(aad), sealed, out, &e);
    key_handle_unref(h);
    return r.failed ? e.code : ERR_NONE;
}

static inline size_t queued(struct life *f, enum due_what what)
{
    struct due *all;
    size_t n, of = 0;
    assert_ok(due_read(f->s.store, (struct bytes){0}, INT64_MAX, 1000, &f->a, &all, &n, &f->e));
    for (size_t i = 0; i < n; i++)
        of += all[i].what == what;
    return of;
}

static inline struct record counter(struct life *f)
{
    const struct keyring_version v = version(f, KEY "/cryptoKeyVersions/1");
    struct tenant t;
    struct record r;
    assert_ok(keyring_tenant_get(f->s.keyring, BYTES_LIT("acme"), true, &t, &f->e));
    assert_ok(store_get(f->s.store, REC_GCM, t.id, BYTES(v.kvid, sizeof v.kvid), &f->a, &r, &f->e));
    return r;
}

#define LIFE(test) cmocka_unit_test_setup_teardown(test, life_start, life_stop)

#endif
