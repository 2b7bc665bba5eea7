/* Stands in for kmsd-core beside a copy of kmsd: `kmsd accept-rollback --reason FROM-TO` then puts keys of these numbers, each with a first
 * version, into tenant acme's store, as CreateCryptoKey would but without its pipeline. What is made is real: every key decrypts. */
#include "base/child.h"
#include "base/text.h"
#include "kms/crypto/cipher.h"
#include "kms/keyring/keyring.h"
#include "vault/service/floor.h"
#include "vault/service/instance.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { WAIT_MS = 10000, BATCH = 200, RING_KEYS = 1000, SLOTS = 40000 };

struct fill {
    struct child child;
    struct hsm *hsm;
    struct instance in;
    struct store *store;
    struct keyring *keyring;
    uint8_t packet[CHILD_BUF_BYTES];
};

static RESULT channel(struct fill *f, uint64_t *ret_from, uint64_t *ret_to, struct err *e)
{
    struct chan_msg m;
    TRY(child_expect(&f->child, IPC_HSM_CHANNEL, 1, WAIT_MS, f->packet, sizeof f->packet, &m, e));
    TRY(hsm_client_new(m.fds[0], f->child.config->hsm_timeout, &f->hsm, e));
    TRY(child_expect(&f->child, IPC_OFFLINE, 0, WAIT_MS, f->packet, sizeof f->packet, &m, e));
    struct reader in = reader_of(m.body);
    (void)reader_u8(&in);
    struct bytes range = reader_v16(&in);
    size_t dash = 0;
    while (dash < range.n && range.p[dash] != '-')
        dash++;
    if (dash == range.n || !text_parse_u64(BYTES(range.p, dash), 10000000, ret_from) || *ret_from % RING_KEYS != 0 ||
        !text_parse_u64(BYTES(range.p + dash + 1, range.n - dash - 1), 10000000, ret_to))
        FAIL(e, ERR_INVALID, NULL, "--reason must be FROM-TO, FROM a multiple of %d", RING_KEYS);
    return ok();
}

static RESULT open_all(struct fill *f, struct floor *floor, struct err *e)
{
    const struct config *c = f->child.config;
    TRY(instance_load(c, f->hsm, &f->in, e));
    struct store_options so = instance_store_options(&f->in, c, &clock_system);
    floor_init(floor, c, f->hsm);
    so.anchor = &floor->io;
    TRY(store_open(&so, &f->store, e));
    struct keyring_options ko = instance_keyring_options(&f->in, c, &clock_system, f->store);
    return keyring_new(&ko, &f->keyring, e);
}

static RESULT ring(struct fill *f, uint64_t n, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(f->store);
    struct keyring_ring made;
    struct name name;
    char text[200];
    arena_init(&a, 1 << 20);
    snprintf(text, sizeof text, "projects/acme/locations/eu/keyRings/fill-%06llu", (unsigned long long)(n / RING_KEYS));
    TRY(name_parse(bytes_str(text), NAME_KEYRING, "name", &name, e));
    TRY(keyring_ring_create(f->keyring, &name, t, &a, &made, e));
    return store_txn_commit(t, NULL, e);
}

static RESULT batch(struct fill *f, uint64_t from, uint64_t to, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(f->store);
    arena_init(&a, 64 << 20);
    for (uint64_t i = from; i < to; i++) {
        const struct keyring_key want = {.destroy_delay_s = 30 * 24 * 3600};
        struct keyring_key made;
        struct keyring_version first;
        struct name name;
        char text[200];
        snprintf(text, sizeof text, "projects/acme/locations/eu/keyRings/fill-%06llu/cryptoKeys/key-%09llu",
                 (unsigned long long)(i / RING_KEYS), (unsigned long long)i);
        TRY(name_parse(bytes_str(text), NAME_CRYPTOKEY, "name", &name, e));
        TRY(keyring_key_create(f->keyring, &name, &want, true, t, &a, &made, &first, e));
    }
    return store_txn_commit(t, NULL, e);
}

static RESULT fill(struct fill *f, struct err *e)
{
    struct floor floor;
    uint64_t from = 0, to = 0;
    char text[64];
    TRY(secret_slab_init(SLOTS, e));
    TRY(cipher_memory_init(64, e));
    TRY(channel(f, &from, &to, e));
    TRY(open_all(f, &floor, e));
    for (uint64_t i = from; i < to; i += BATCH) {
        if (i % RING_KEYS == 0)
            TRY(ring(f, i, e));
        TRY(batch(f, i, i + BATCH < to ? i + BATCH : to, e));
    }
    keyring_free(f->keyring);
    store_close(f->store);
    snprintf(text, sizeof text, "filled with %llu keys", (unsigned long long)(to - from));
    return child_ready(&f->child, text, e);
}

int main(void)
{
    static struct fill f;
    struct err e = {0};
    if (child_start("core", &f.child, &e).failed)
        return child_start_failed("core", &e);
    if (fill(&f, &e).failed)
        child_fatal(&f.child, &e);
    _exit(0);
}
