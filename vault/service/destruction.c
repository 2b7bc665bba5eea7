#include "vault/service/destruction.h"

#include "vault/service/act.h"
#include "vault/service/certificate.h"
#include "vault/service/kms_view.h"

#include <string.h>

enum { CALL_BYTES = 1 << 20 };

static struct bytes after_json(struct arena *a, const struct keyring_version *m, const uint8_t sha256[32])
{
    char hex[65];
    hex_encode(sha256, 32, hex);
    /* The state comes first: kmsd accept-rollback reads it there (revoked.c). */
    return bytes_str(arena_printf(a, "{\"state\":\"%s\",\"certificate\":\"sha256:%s\"}", version_state_name(m->state), hex));
}

/* The version as it is now and was asked to be; already: it is destroyed, by an accepted rollback, and only has no certificate. */
static RESULT destroy(struct service *s, const struct due *d, const struct name *n, struct keyring_version *m, bool already, struct arena *a,
                      struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(s->store);
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    struct act act = {.principal = "system:destruction", .action = "kms.cryptoKeyVersions.erase", .resource = d->name, .key_version = d->name};
    const enum version_state from = m->state;
    uint8_t sha256[32];
    TRY(keyring_tenant_hold(s->keyring, n->tenant, true, &t, e));
    act.before = view_version_json(a, m);
    if (!already) {
        m->state = VERSION_DESTROYED;
        m->destroyed_ns = clock_wall_ns(s->clock);
        TRY(keyring_version_put(s->keyring, n, m, from, txn, e));
    } else {
        keyring_version_gone(s->keyring, t, m, txn); /* its key may be on the token still, or again */
    }
    due_move(txn, d->what, d->name, d->at_ns, 0); /* where it was put off, that is not the version's own time */
    struct certificate c = {.kind = CERTIFICATE_VERSION, .name = d->name, .created_ns = m->created_ns, .requested_ns = m->asked_ns,
                            .due_ns = m->destroy_ns, .destroyed_ns = m->destroyed_ns, .requested_by = m->asked_by, .on_token = m->protection == PROTECTION_HSM};
    memcpy(c.tenant_id, tenant_ref_info(t)->id, sizeof c.tenant_id);
    memcpy(c.kvid, m->kvid, sizeof c.kvid);
    certificate_put(s, txn, &c, sha256);
    act.after = after_json(a, m, sha256);
    TRY(act_commit(txn, s->clock, t, &act, e));
    keyring_changed(s->keyring, n);
    return ok();
}

RESULT destruction_due(void *user, const struct due *d, struct err *e)
{
    struct service *s = user;
    CLEANUP(arena_release) struct arena a;
    struct keyring_version m;
    struct name n;
    struct err why = {0};
    arena_init(&a, CALL_BYTES);
    TRY(name_parse(d->name, NAME_VERSION, "name", &n, e));
    if (keyring_version_get(s->keyring, &n, &a, &m, &why).failed)
        return due_drop_gone(s->store, d, &why, e);
    if (m.state == VERSION_DESTROYED) {
        bool there;
        TRY(certificate_there(s, &n, &there, e));
        return there ? due_drop(s->store, d, e) : destroy(s, d, &n, &m, true, &a, e);
    }
    if (m.state != VERSION_DESTROY_SCHEDULED || m.destroy_ns > clock_wall_ns(s->clock))
        return due_drop(s->store, d, e);
    return destroy(s, d, &n, &m, false, &a, e);
}
