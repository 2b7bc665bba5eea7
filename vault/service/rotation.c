#include "vault/service/rotation.h"

#include "vault/service/act.h"
#include "vault/service/kms_view.h"
#include "vault/service/service.h"

enum { CALL_BYTES = 1 << 20 };
#define UNSERVED_NS ((int64_t)3600 * NS_PER_SECOND)

int64_t rotation_next(int64_t due_ns, int64_t period_s, int64_t now_ns)
{
    int64_t missed;
    if (period_s == 0)
        return 0;
    missed = now_ns > due_ns ? (now_ns / NS_PER_SECOND - due_ns / NS_PER_SECOND) / period_s : 0;
    return due_ns + (missed + 1) * period_s * NS_PER_SECOND;
}

/* A tenant that is suspended or deleted: its keys leave the queue until it is ACTIVE again (DUE_RETURN), unless it is that by now. */
static RESULT leave_alone(struct service *s, const struct due *d, const struct tenant_ref *t, struct err *e)
{
    static const uint8_t no_tenant[STORE_TENANT_BYTES];
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(s->store);
    const struct tenant *is = tenant_ref_info(t);
    uint64_t seq;
    due_move(txn, d->what, d->name, d->at_ns, 0);
    store_txn_check(txn, REC_TENANT, no_tenant, bytes_str(is->name), is->revision);
    return store_txn_commit(txn, &seq, e);
}

/* A location that this daemon is not to serve, for as long as its configuration says so. */
static RESULT put_off(struct service *s, const struct due *d, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(s->store);
    uint64_t seq;
    due_move(txn, d->what, d->name, d->at_ns, clock_wall_ns(s->clock) + UNSERVED_NS);
    return store_txn_commit(txn, &seq, e);
}

static RESULT rotate(struct service *s, const struct due *d, const struct name *n, struct keyring_key *m, struct arena *a, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(s->store);
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    struct act act = {.principal = "system:rotation", .action = "kms.cryptoKeys.rotate", .resource = d->name};
    struct keyring_version v;
    TRY(keyring_tenant_hold(s->keyring, n->tenant, true, &t, e));
    if (!tenant_ref_info(t)->served)
        return put_off(s, d, e);
    if (tenant_ref_info(t)->state != TENANT_ACTIVE)
        return leave_alone(s, d, t, e);
    act.before = view_key_json(a, m);
    m->next_rotation_ns = rotation_next(m->next_rotation_ns, m->rotation_period_s, clock_wall_ns(s->clock));
    due_move(txn, d->what, d->name, d->at_ns, 0); /* where it was put off, that is not the key's own time */
    TRY(keyring_key_rotate(s->keyring, n, m, txn, a, &v, e));
    act.after = view_key_json(a, m);
    act.key_version = v.name;
    TRY(act_commit(txn, s->clock, t, &act, e));
    keyring_changed(s->keyring, n);
    return ok();
}

RESULT rotation_due(void *user, const struct due *d, struct err *e)
{
    struct service *s = user;
    CLEANUP(arena_release) struct arena a;
    struct keyring_key m;
    struct name n;
    struct err why = {0};
    arena_init(&a, CALL_BYTES);
    TRY(name_parse(d->name, NAME_CRYPTOKEY, "name", &n, e));
    if (keyring_key_get(s->keyring, &n, &a, &m, &why).failed)
        return due_drop_gone(s->store, d, &why, e);
    if (m.next_rotation_ns == 0 || m.next_rotation_ns > clock_wall_ns(s->clock))
        return due_drop(s->store, d, e);
    return rotate(s, d, &n, &m, &a, e);
}
