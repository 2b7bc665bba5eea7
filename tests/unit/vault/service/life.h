/*
 * Purpose: a real store and keyring over a stand-in token (tests/unit/kms/token.h) and a fake clock: what the service does by itself,
 *          over years in milliseconds, and after being closed and opened again at any point.
 * Owns:    a folder, removed by life_stop. Threads: one. Errors: a failed set-up fails the test. Limits: one at a time.
 * Secrets: none worth keeping.
 */
#ifndef TESTS_UNIT_VAULT_SERVICE_LIFE_H
#define TESTS_UNIT_VAULT_SERVICE_LIFE_H

#include "base/text.h"
#include "kms/audit/event.h"
#include "tests/unit/kms/token.h"
#include "vault/service/certificate.h"
#include "vault/service/keeper.h"
#include "vault/service/service.h"

#include <unistd.h>

enum { DAY_S = 24 * 3600, LIFE_TOKEN_KEYS = 40 };
#define SECOND INT64_C(1000000000)
#define DAY (DAY_S * SECOND)
#define T0 (INT64_C(1800000000) * SECOND) /* 2027-01-15T08:00:00Z */
#define LIFE_RING "projects/acme/locations/eu/keyRings/pii"

struct life {
    char dir[64];
    struct fake_clock clock;
    struct hsm *hsm;
    struct service s; /* store, keyring and clock of it, and what a test adds */
    struct config config; /* zeros but for what a test sets */
    struct store_options so;
    struct arena a;
    struct err e;
};

static struct result life_store_key(void *user, uint32_t epoch, struct secret **ret, struct err *e)
{
    uint8_t input[4];
    put_be32(input, epoch);
    return hsm_derive(user, HSM_SEAL, epoch, BYTES(input, sizeof input), ret, e);
}

static inline void life_open(struct life *f)
{
    struct keyring_options ko = {.hsm = f->hsm, .clock = &f->clock.c, .instance = "instance-16byte", .cache_max = 64, .cache_ttl_ms = 3600 * 1000, .locations = "eu",
                                 .token_keys_max = LIFE_TOKEN_KEYS};
    f->so.epoch = stand_in_newest(f->hsm, HSM_SEAL);
    assert_ok(store_open(&f->so, &f->s.store, &f->e));
    ko.store = f->s.store;
    assert_ok(keyring_new(&ko, &f->s.keyring, &f->e));
    f->s.clock = &f->clock.c;
    f->s.hsm = f->hsm;
    f->s.config = &f->config;
    f->s.instance = (struct instance){.id = "instance-16byte", .seal_newest = f->so.epoch, .audit_version = 1, .origin = "claviger/node1", .hsm = f->hsm};
    assert_ok(certificate_key(&f->s, &f->e));
}

static inline void life_close(struct life *f)
{
    keyring_free(f->s.keyring);
    store_close(f->s.store);
    f->s = (struct service){0};
}

static inline void life_commit(struct life *f, struct store_txn *txn)
{
    uint64_t seq;
    assert_ok(store_txn_commit(txn, &seq, &f->e));
    store_txn_free(txn);
}

static inline struct name life_name(const char *text, enum name_kind kind)
{
    struct name n;
    struct err e = {0};
    assert_false(name_parse(bytes_str(text), kind, "name", &n, &e).failed);
    return n;
}

/* Tenant acme in eu, with the ring pii. */
static inline int life_start(void **state)
{
    struct life *f = calloc(1, sizeof *f);
    assert_non_null(f);
    *f = (struct life){.dir = "/tmp/clv-life-XXXXXX"};
    assert_non_null(mkdtemp(f->dir));
    fake_clock_init(&f->clock, T0, 5 * SECOND);
    arena_init(&f->a, 64 << 20);
    assert_ok(hsm_client_new(-1, 0, &f->hsm, &f->e));
    f->so = (struct store_options){.dir = f->dir, .clock = &f->clock.c, .instance = "instance-16byte", .store_key = life_store_key, .user = f->hsm,
                                   .epoch = 1, .readers = 2};
    assert_ok(store_create(&f->so, &f->e));
    struct store *s;
    assert_ok(store_open(&f->so, &s, &f->e));
    struct store_txn *txn = store_txn_new(s);
    bool any;
    assert_ok(keyring_init_records(txn, T0, &f->e));
    assert_ok(instance_records(s, T0, txn, &any, &f->e));
    assert_true(any);
    life_commit(f, txn);
    store_close(s);
    life_open(f);
    struct tenant t;
    struct keyring_ring r;
    txn = store_txn_new(f->s.store);
    assert_ok(keyring_tenant_create(f->s.keyring, BYTES_LIT("acme"), BYTES_LIT("eu"), BYTES_LIT(""), txn, &t, &f->e));
    life_commit(f, txn);
    const struct name ring = life_name(LIFE_RING, NAME_KEYRING);
    txn = store_txn_new(f->s.store);
    assert_ok(keyring_ring_create(f->s.keyring, &ring, txn, &f->a, &r, &f->e));
    life_commit(f, txn);
    *state = f;
    return 0;
}

static inline int life_stop(void **state)
{
    struct life *f = *state;
    life_close(f);
    hsm_free(f->hsm);
    arena_release(&f->a);
    kms_empty(f->dir);
    assert_int_equal(rmdir(f->dir), 0);
    free(f);
    return 0;
}

static inline void life_key(struct life *f, const char *name, int64_t period_s, int64_t next_ns)
{
    const struct keyring_key want = {.rotation_period_s = period_s, .next_rotation_ns = next_ns, .destroy_delay_s = 30 * DAY_S};
    struct keyring_key m;
    struct keyring_version v;
    const struct name n = life_name(name, NAME_CRYPTOKEY);
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(keyring_key_create(f->s.keyring, &n, &want, true, txn, &f->a, &m, &v, &f->e));
    life_commit(f, txn);
}

static inline struct keyring_key life_read(struct life *f, const char *name)
{
    struct keyring_key m;
    const struct name n = life_name(name, NAME_CRYPTOKEY);
    assert_ok(keyring_key_get(f->s.keyring, &n, &f->a, &m, &f->e));
    return m;
}

/* A version that is enabled, to be destroyed at that time. */
static inline struct keyring_version life_schedule(struct life *f, const char *name, int64_t at_ns)
{
    struct keyring_version v;
    const struct name n = life_name(name, NAME_VERSION);
    struct store_txn *txn = store_txn_new(f->s.store);
    assert_ok(keyring_version_get(f->s.keyring, &n, &f->a, &v, &f->e));
    v.state = VERSION_DESTROY_SCHEDULED;
    v.destroy_ns = at_ns;
    assert_ok(keyring_version_put(f->s.keyring, &n, &v, VERSION_ENABLED, txn, &f->e));
    life_commit(f, txn);
    return v;
}

/* Events by that principal, in the outbox; *ret_last is the newest of them (views into the arena). */
static inline size_t life_events(struct life *f, const char *principal, struct audit_event *ret_last)
{
    struct outbox_event *all;
    size_t n, count = 0;
    assert_ok(store_outbox_read(f->s.store, 0, 100000, &f->a, &all, &n, &f->e));
    for (size_t i = 0; i < n; i++) {
        struct audit_event ev;
        assert_ok(event_decode(all[i].event, &ev, &f->e));
        if (!bytes_equal(ev.principal, bytes_str(principal)))
            continue;
        *ret_last = ev;
        count++;
    }
    return count;
}

#endif
