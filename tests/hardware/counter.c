/* Stands in for kmsd-core beside a copy of kmsd: `kmsd accept-rollback --reason NAME=COUNT` then puts the counter of random nonces of that
 * version of level HSM to COUNT, as if it had sealed that much. Nobody can seal 2^31 messages in a test; the row is as kmsd writes it. */
#include "base/child.h"
#include "base/text.h"
#include "kms/crypto/cipher.h"
#include "kms/keyring/keyring.h"
#include "vault/service/floor.h"
#include "vault/service/instance.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { WAIT_MS = 10000, SLOTS = 4096, FORMAT = 1 };

struct tool {
    struct child child;
    struct hsm *hsm;
    struct instance in;
    struct floor floor;
    struct store *store;
    struct keyring *keyring;
    struct arena arena;
    uint8_t packet[CHILD_BUF_BYTES];
};

static RESULT asked(struct tool *t, struct name *ret_version, uint64_t *ret_count, struct err *e)
{
    struct chan_msg m;
    TRY(child_expect(&t->child, IPC_HSM_CHANNEL, 1, WAIT_MS, t->packet, sizeof t->packet, &m, e));
    TRY(hsm_client_new(m.fds[0], t->child.config->hsm_timeout, &t->hsm, e));
    TRY(child_expect(&t->child, IPC_OFFLINE, 0, WAIT_MS, t->packet, sizeof t->packet, &m, e));
    struct reader in = reader_of(m.body);
    (void)reader_u8(&in);
    struct bytes text = reader_v16(&in);
    size_t eq = 0;
    while (eq < text.n && text.p[eq] != '=')
        eq++;
    if (eq == text.n || !text_parse_u64(BYTES(text.p + eq + 1, text.n - eq - 1), UINT64_MAX, ret_count))
        FAIL(e, ERR_INVALID, NULL, "--reason must be NAME=COUNT");
    return name_parse(BYTES(arena_dup(&t->arena, text.p, eq), eq), NAME_VERSION, "name", ret_version, e);
}

static RESULT open_all(struct tool *t, struct err *e)
{
    const struct config *c = t->child.config;
    TRY(instance_load(c, t->hsm, &t->in, e));
    struct store_options so = instance_store_options(&t->in, c, &clock_system);
    floor_init(&t->floor, c, t->hsm);
    so.anchor = &t->floor.io;
    TRY(store_open(&so, &t->store, e));
    struct keyring_options ko = instance_keyring_options(&t->in, c, &clock_system, t->store);
    return keyring_new(&ko, &t->keyring, e);
}

static RESULT find(struct tool *t, const struct name *name, struct record *ret, struct err *e)
{
    struct keyring_version v;
    struct tenant tenant;
    TRY(keyring_tenant_read(t->keyring, name->tenant, &tenant, e));
    TRY(keyring_version_get(t->keyring, name, &t->arena, &v, e));
    return store_get(t->store, REC_GCM, tenant.id, BYTES(v.kvid, sizeof v.kvid), &t->arena, ret, e);
}

static RESULT set(struct tool *t, struct record *r, uint64_t count, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(t->store);
    uint8_t body[9] = {FORMAT};
    put_be64(body + 1, count);
    r->count = count;
    r->body = BYTES(body, sizeof body);
    store_txn_put(txn, r, r->revision);
    return store_txn_commit(txn, NULL, e);
}

static RESULT work(struct tool *t, struct err *e)
{
    struct name name;
    struct record r;
    uint64_t count = 0;
    char text[128];
    arena_init(&t->arena, 1 << 20);
    TRY(secret_slab_init(SLOTS, e));
    TRY(cipher_memory_init(64, e));
    TRY(asked(t, &name, &count, e));
    TRY(open_all(t, e));
    TRY(find(t, &name, &r, e));
    const uint64_t before = r.count;
    TRY(set(t, &r, count, e));
    keyring_free(t->keyring);
    store_close(t->store);
    snprintf(text, sizeof text, "counter %llu -> %llu", (unsigned long long)before, (unsigned long long)count);
    return child_ready(&t->child, text, e);
}

int main(void)
{
    static struct tool t;
    struct err e = {0};
    if (child_start("core", &t.child, &e).failed)
        return child_start_failed("core", &e);
    if (work(&t, &e).failed)
        child_fatal(&t.child, &e);
    _exit(0);
}
