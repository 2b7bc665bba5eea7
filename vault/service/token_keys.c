#include "vault/service/token_keys.h"

#include "vault/service/act.h"
#include "vault/service/kms_view.h"
#include "vault/service/service.h"

enum { CALL_BYTES = 1 << 20 };

/* ---- half of the nonces are used ---- */
static RESULT replace(struct service *s, const struct due *d, const struct name *key, struct keyring_key *m, const struct tenant_ref *t,
                      struct arena *a, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(s->store);
    const struct bytes resource = m->name;
    struct act act = {.principal = "system:rotation", .action = "kms.cryptoKeys.rotate", .resource = resource};
    struct keyring_version v;
    act.before = view_key_json(a, m);
    due_move(txn, d->what, d->name, d->at_ns, 0);
    TRY(keyring_key_replace(s->keyring, key, m, txn, a, &v, e)); /* its own schedule goes on as it was */
    act.after = view_key_json(a, m);
    act.key_version = v.name;
    TRY(act_commit(txn, s->clock, t, &act, e));
    keyring_changed(s->keyring, key);
    return ok();
}

/* Another version is primary by now: nobody seals with this one but who names it, and that ends at its limit. Where nobody may seal at
 * all (a tenant that is suspended) nothing is urgent: the next block of nonces leads here again. */
RESULT token_key_exhausted(void *user, const struct due *d, struct err *e)
{
    struct service *s = user;
    CLEANUP(arena_release) struct arena a;
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    struct name n;
    struct keyring_key m;
    struct err why = {0};
    arena_init(&a, CALL_BYTES);
    TRY(name_parse(d->name, NAME_VERSION, "name", &n, e));
    const struct name key = name_truncate(&n, NAME_CRYPTOKEY);
    if (keyring_tenant_hold(s->keyring, n.tenant, true, &t, &why).failed || keyring_key_get(s->keyring, &key, &a, &m, &why).failed)
        return due_drop_gone(s->store, d, &why, e);
    if (m.primary != n.version || tenant_ref_info(t)->state != TENANT_ACTIVE || !tenant_ref_info(t)->served)
        return due_drop(s->store, d, e);
    return replace(s, d, &key, &m, t, &a, e);
}

/* ---- objects that are to go ---- */
RESULT token_key_unfinished(void *user, const struct due *d, struct err *e)
{
    struct service *s = user;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(s->store);
    uint64_t seq;
    keyring_token_condemn(txn, d, clock_wall_ns(s->clock));
    return store_txn_commit(txn, &seq, e);
}

RESULT token_key_removal(void *user, const struct due *d, struct err *e)
{
    struct service *s = user;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(s->store);
    struct act act = {.principal = "system:token", .action = "kms.tokenKeys.remove", .resource = d->name};
    uint8_t kvid[HSM_KVID_BYTES];
    struct err why = {0};
    if (!keyring_token_kvid(d, kvid))
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "a row of what is to be removed from the token names no key");
    act.after = BYTES_LIT("{\"token\":\"removed\"}");
    if (hsm_key_destroy(s->hsm, kvid, &why).failed) {
        if (why.code != ERR_NOT_FOUND) {
            *e = why;
            return (struct result){1};
        }
        act.after = BYTES_LIT("{\"token\":\"absent\"}"); /* never made; or removed by us, who died before it was on record */
    }
    due_move(txn, d->what, d->name, d->at_ns, 0);
    act.before = BYTES_LIT("{\"token\":\"key\"}");
    return act_commit(txn, s->clock, NULL, &act, e);
}
