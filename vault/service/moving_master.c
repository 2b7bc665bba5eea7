/* What moves when the master rotates: tenant by tenant, page by page, to a KEK that the new one gives. */
#include "vault/service/moving_kind.h"

#include <stdio.h>
#include <string.h>

/* Also where the keyring's reading of the records failed after a commit: tenants are moved to what it takes for current, and the proof is
 * about it. */
static RESULT agree(struct step *t, struct err *e)
{
    struct keyring *k = t->x->s->keyring;
    if (!keyring_master_is(k, token_secrets_current(&t->all)))
        TRY(keyring_master_changed(k, e));
    if (t->v.state >= MOVING_MOVING && keyring_master(k) != t->v.to)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "the rotation is to master %u, and another is current", t->v.to);
    return ok();
}

static RESULT begin(struct step *t, struct err *e)
{
    return keyring_rekey_count(t->x->s->keyring, &t->v.total, e);
}

/* ---- tenant by tenant ---- */
static RESULT next_tenant(struct step *t, bool *ret_found, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct tenant *next;
    size_t n;
    arena_init(&a, 1 << 20);
    TRY(keyring_tenant_list(t->x->s->keyring, bytes_str(t->v.tenant), 1, &a, &next, &n, e));
    *ret_found = n > 0;
    if (n == 0)
        return ok();
    memcpy(t->v.tenant, next->name, sizeof t->v.tenant);
    t->v.inside = true;
    t->v.after_n = 0;
    t->v.broken = 0;
    return ok();
}

static void leave_tenant(struct step *t)
{
    t->v.inside = false;
    t->v.after_n = 0;
    t->v.tenants++;
}

/* One page of the tenant under way, into the step's transaction. */
static RESULT page(struct step *t, struct err *e)
{
    struct rekey *r = &t->x->rekey;
    struct err why = {0};
    memcpy(r->after, t->v.after, t->v.after_n);
    r->after_n = t->v.after_n;
    r->broken = t->v.broken;
    if (keyring_rekey(t->x->s->keyring, bytes_str(t->v.tenant), r, t->txn, &why).failed) {
        rekey_release(r);
        if (why.code != ERR_NOT_FOUND) {
            *e = why;
            return (struct result){1};
        }
        r->changed = false; /* the tenant was purged meanwhile */
        r->end = true;
        r->seen = r->moved = 0;
    }
    memcpy(t->v.after, r->after, r->after_n);
    t->v.after_n = r->after_n;
    t->v.broken = r->broken;
    step_passed(t, r->seen);
    return ok();
}

static RESULT commit_page(struct step *t, struct err *e)
{
    const struct rekey *r = &t->x->rekey;
    CLEANUP(tenant_ref_dropp) struct tenant_ref *held = NULL;
    char tenant[sizeof t->v.tenant];
    memcpy(tenant, t->v.tenant, sizeof tenant);
    (void)snprintf(t->before, sizeof t->before, "{\"master\":%u}", r->from);
    (void)snprintf(t->after, sizeof t->after, "{\"master\":%u,\"versions\":%u,\"done\":%s}", t->v.to, r->moved, r->end && r->broken == 0 ? "true" : "false");
    TRY(keyring_tenant_hold(t->x->s->keyring, bytes_str(tenant), true, &held, e));
    if (r->end)
        leave_tenant(t);
    moving_put(t->txn, &t->v);
    t->ret->moved = r->moved;
    TRY(step_commit(t, "move", t->v.to, held, r->moved, e));
    keyring_rekeyed(t->x->s->keyring, bytes_str(tenant));
    return ok();
}

static RESULT move(struct step *t, struct err *e)
{
    for (;;) {
        bool found = t->v.inside;
        TRY(step_going(t, e));
        if (!found)
            TRY(next_tenant(t, &found, e));
        if (!found)
            return step_to_proving(t, e);
        TRY(page(t, e));
        if (t->x->rekey.changed)
            return commit_page(t, e);
        if (t->x->rekey.end)
            leave_tenant(t);
    }
}

/* ---- the proof ---- */
static RESULT prove(struct step *t, uint32_t version, struct moving_proof *ret, struct err *e)
{
    struct rekey_proof p;
    TRY(keyring_rekey_prove(t->x->s->keyring, version, t->x->stop, t->x->user, &p, e));
    *ret = (struct moving_proof){.left = p.left};
    memcpy(ret->first, p.first, sizeof ret->first);
    (void)snprintf(ret->counts, sizeof ret->counts, "\"tenants\":%llu,\"versions\":%llu", (unsigned long long)p.tenants,
                   (unsigned long long)p.versions);
    return ok();
}

const struct moving_kind moving_master = {.object = HSM_MASTER, .principal = "system:master", .area = "masters", .rows = "versions",
                                          .agree = agree, .begin = begin, .move = move, .prove = prove};
