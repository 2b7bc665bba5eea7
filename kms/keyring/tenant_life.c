/* The life of a tenant: which state follows which, and the puts of a move. What follows from a state is asked in vault/service. */
#include "kms/keyring/internal.h"

#include "base/text.h"

static const struct sm_state tenant_states[] = {
    [TENANT_ACTIVE] = {"ACTIVE", 1u << TENANT_SUSPENDED | 1u << TENANT_DELETED},
    [TENANT_SUSPENDED] = {"SUSPENDED", 1u << TENANT_ACTIVE | 1u << TENANT_DELETED},
    [TENANT_DELETED] = {"DELETED", 1u << TENANT_ACTIVE | 1u << TENANT_SUSPENDED | 1u << TENANT_PURGING},
    [TENANT_PURGING] = {"PURGING", 1u << TENANT_PURGED},
    [TENANT_PURGED] = {"PURGED", 0},
};
const struct sm_table tenant_machine = {"a tenant", tenant_states, sizeof tenant_states / sizeof tenant_states[0]};

static bool may_move(const struct tenant *t, enum tenant_state to)
{
    const bool restore = t->state == TENANT_DELETED && (to == TENANT_ACTIVE || to == TENANT_SUSPENDED);
    return to != TENANT_PURGED && sm_can(&tenant_machine, t->state, to) && (!restore || to == t->was);
}

/* The fields as they are after the move. */
static RESULT apply(struct tenant *t, const struct tenant_move *m, int64_t now_ns, struct err *e)
{
    if (m->to == TENANT_DELETED) {
        INVARIANT(m->purge_ns > 0);
        if (!text_copy(m->by, t->deleted_by, sizeof t->deleted_by))
            FAIL(e, ERR_INTERNAL, NULL, "the name of who asked has %zu bytes", m->by.n);
        t->was = t->state;
        t->deleted_ns = now_ns;
        t->purge_ns = m->purge_ns;
    } else if (m->to != TENANT_PURGING) {
        t->was = 0;
        t->deleted_ns = t->purge_ns = 0;
        memset(t->deleted_by, 0, sizeof t->deleted_by);
    }
    t->state = m->to;
    return ok();
}

RESULT keyring_tenant_move(struct keyring *k, struct tenant *t, const struct tenant_move *m, struct store_txn *txn, struct err *e)
{
    CLEANUP(model_tenant_wipe) struct model_tenant now = {0};
    char full[NAME_MAX_BYTES];
    const int64_t time_ns = clock_wall_ns(k->clock);
    TRY(tenant_row(k, bytes_str(t->name), &now, e));
    if (now.t.revision != t->revision || memcmp(now.t.id, t->id, sizeof t->id) != 0)
        FAIL(e, ERR_CONFLICT, NULL, "tenant %s was changed meanwhile", t->name);
    if (!may_move(&now.t, m->to))
        FAIL(e, ERR_STATE, "TENANT_STATE", "tenant %s cannot go from %s to %s", t->name, sm_name(&tenant_machine, now.t.state),
             sm_name(&tenant_machine, m->to));
    const struct bytes name = tenant_full_name(bytes_str(t->name), full);
    const int64_t queued_ns = now.t.purge_ns;
    TRY(apply(&now.t, m, time_ns, e));
    tenant_row_put(txn, &now, now.t.revision);
    due_move(txn, DUE_PURGE, name, queued_ns, now.t.purge_ns);
    if (m->to == TENANT_ACTIVE)
        due_move(txn, DUE_RETURN, name, 0, time_ns);
    now.t.revision++;
    *t = now.t;
    return ok();
}

/* ---- after an older store was accepted ---- */
RESULT keyring_tenant_row_id(const struct record *r, uint8_t id[16], struct err *e)
{
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
    TRY(model_tenant_get(r, &m, e));
    memcpy(id, m.t.id, sizeof m.t.id);
    return ok();
}

RESULT keyring_tenant_as_revoked(struct record *r, enum tenant_state to, int64_t now_ns, struct buf *body, bool *ret_changed,
                                 struct err *e)
{
    enum { RETENTION_S = 90 * 24 * 3600 }; /* the longer of the two: later than meant is harmless, earlier is not */
    const int64_t least_ns = now_ns + (int64_t)RETENTION_S * 1000000000;
    CLEANUP(model_tenant_wipe) struct model_tenant m = {0};
    TRY(model_tenant_get(r, &m, e));
    *ret_changed = to > m.t.state; /* towards less only: the states stand in that order */
    if (*ret_changed && to >= TENANT_DELETED && m.t.state < TENANT_DELETED) {
        m.t.was = m.t.state;
        m.t.deleted_ns = now_ns;
    }
    if (*ret_changed)
        m.t.state = to >= TENANT_PURGING ? TENANT_PURGING : to;
    if (*ret_changed && m.t.state == TENANT_PURGING)
        m.t.purge_ns = now_ns; /* what the store of then had of it goes again */
    if (m.t.state == TENANT_DELETED && m.t.purge_ns < least_ns) {
        m.t.purge_ns = least_ns;
        *ret_changed = true;
    }
    if (!*ret_changed)
        return ok();
    model_tenant_put(&m, body);
    r->state = m.t.state;
    r->body = buf_bytes(body);
    return ok();
}
