/*
 * Purpose: a store in a fresh folder for each test, and short words for reading and writing rows.
 * Owns: the folder, removed by fx_stop. Threads: as the store. Errors: a failed set-up fails the test.
 * Limits: one fixture at a time. Secrets: a fixed test key for each epoch, from the slab.
 */
#ifndef TESTS_UNIT_KMS_STORE_FIXTURE_H
#define TESTS_UNIT_KMS_STORE_FIXTURE_H

#include "kms/store/store.h"
#include "tests/unit/kms/testing.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct fx {
    char dir[64];
    struct store_options o;
    struct store *s;
    struct arena a;
    struct err e;
    uint8_t key_salt;       /* another seal secret when changed */
    bool no_key;            /* the HSM is away */
    uint32_t destroyed;     /* seal secrets of epochs up to this one are gone from the token */
    atomic_uint keys_asked, oldest_asked; /* how often; the lowest epoch, 0: none since it was set to that */
};
static const uint8_t T0[16] = {0};
static const uint8_t TA[16] = {0xa1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
static const uint8_t TB[16] = {0xb1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

static struct result fx_key(void *user, uint32_t epoch, struct secret **ret, struct err *e)
{
    struct fx *f = user;
    uint8_t k[32];
    atomic_fetch_add(&f->keys_asked, 1);
    unsigned oldest = atomic_load(&f->oldest_asked);
    if (oldest == 0 || epoch < oldest)
        atomic_store(&f->oldest_asked, epoch);
    if (f->no_key)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "test");
    if (epoch <= f->destroyed)
        FAIL(e, ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", "test");
    memset(k, (int)(epoch * 7 + f->key_salt), sizeof k);
    return secret_from(k, sizeof k, ret, e);
}
static inline void fx_init(struct fx *f)
{
    *f = (struct fx){.dir = "/tmp/clv-store-XXXXXX"};
    assert_non_null(mkdtemp(f->dir));
    f->o = (struct store_options){.dir = f->dir, .clock = &clock_system, .instance = "instance-16bytes", .store_key = fx_key,
                                  .user = f, .epoch = 3, .readers = 2};
    arena_init(&f->a, 64 << 20);
}
static inline void fx_open(struct fx *f)
{
    if (store_open(&f->o, &f->s, &f->e).failed) {
        char text[512];
        fail_msg("open: %s", err_log_text(&f->e, text, sizeof text));
    }
}
static inline void fx_start(struct fx *f)
{
    fx_init(f);
    assert_false(store_create(&f->o, &f->e).failed);
    fx_open(f);
}
static inline void fx_close(struct fx *f)
{
    store_close(f->s);
    f->s = NULL;
}
static inline void fx_remove(struct fx *f)
{
    kms_empty(f->dir);
    rmdir(f->dir);
}
static inline void fx_stop(struct fx *f)
{
    fx_close(f);
    arena_release(&f->a);
    fx_remove(f);
}
/* Of each test, where it wants nothing more. */
static inline int fx_setup(void **state)
{
    static struct fx f;
    fx_start(&f);
    *state = &f;
    return 0;
}
static inline int fx_teardown(void **state)
{
    fx_stop(*state);
    return 0;
}
static inline struct record fx_rec(enum rec_kind kind, const uint8_t tenant[16], const char *id, const char *body)
{
    struct record r = {.kind = kind, .id = bytes_str(id), .name = bytes_str(id), .state = 4, .time_unix_ns = 1234567, .count = 9,
                       .body = bytes_str(body)};
    memcpy(r.tenant, tenant, 16);
    return r;
}
static inline struct result fx_put(struct fx *f, const struct record *r, uint64_t expected, const char *event)
{
    struct store_txn *t = store_txn_new(f->s);
    uint64_t seq = 0;
    store_txn_put(t, r, expected);
    if (event)
        store_txn_event(t, r->tenant, bytes_str(event));
    struct result res = store_txn_commit(t, &seq, &f->e);
    store_txn_free(t);
    return res;
}
static inline struct result fx_get(struct fx *f, enum rec_kind kind, const uint8_t tenant[16], const char *id,
                                   struct record *ret)
{
    return store_get(f->s, kind, tenant, bytes_str(id), &f->a, ret, &f->e);
}
/* ---- a change of the seal epoch ---- */
static inline struct result fx_seal(struct fx *f, uint32_t epoch, const char *event)
{
    struct store_txn *t = store_txn_new(f->s);
    struct result r = store_txn_seal(t, epoch, &f->e);
    f->o.epoch = epoch > f->o.epoch ? epoch : f->o.epoch; /* the token has it */
    if (event)
        store_txn_event(t, T0, bytes_str(event));
    if (!r.failed)
        r = store_txn_commit(t, NULL, &f->e);
    store_txn_free(t);
    return r;
}
/* One page; false: it was the last. */
static inline bool fx_reseal(struct fx *f, struct store_reseal *at)
{
    struct store_txn *t = store_txn_new(f->s);
    assert_false(store_reseal(f->s, at, t, &f->e).failed);
    assert_false(store_txn_commit(t, NULL, &f->e).failed);
    store_txn_free(t);
    return !at->end;
}
/* All of them; how many were moved. */
static inline uint64_t fx_reseal_all(struct fx *f, uint32_t limit)
{
    struct store_reseal at = {.limit = limit};
    uint64_t moved = 0;
    bool more = true;
    for (; more; moved += at.rows)
        more = fx_reseal(f, &at);
    return moved;
}
static inline uint64_t fx_older(struct fx *f)
{
    uint64_t n = 0;
    assert_false(store_reseal_count(f->s, &n, &f->e).failed);
    return n;
}
static inline struct store_seal_proof fx_prove(struct fx *f)
{
    struct store_seal_proof p = {.left = 99};
    if (store_seal_prove(f->s, NULL, NULL, &p, &f->e).failed) {
        char text[512];
        fail_msg("prove: %s", err_log_text(&f->e, text, sizeof text));
    }
    return p;
}
#define assert_bytes(b, text) assert_true(bytes_equal((b), bytes_str(text)))

#endif
