#include "vault/service/master_steps.h"

#include "base/log.h"
#include "vault/service/act.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { JSON_MAX = 512, RESOURCE_MAX = 32 };

/* What a step works on: the records as they were read, the transaction, and what goes on record. */
struct step {
    struct master_steps *x;
    struct moving v;
    struct masters masters;
    struct store_txn *txn;
    char resource[RESOURCE_MAX], before[JSON_MAX], after[JSON_MAX];
    struct master_step *ret;
};

static void step_release(struct step *t)
{
    store_txn_free(t->txn);
}

void master_steps_release(struct master_steps *x)
{
    rekey_release(&x->rekey);
}

static RESULT step_begin(struct step *t, struct err *e)
{
    TRY(moving_read(t->x->s->store, &t->v, e));
    TRY(masters_read(t->x->s->store, &t->masters, e));
    /* What the keyring takes for current must be what the records say, also where its reading them failed after a commit: tenants are
     * moved to it, and the proof is about it. */
    if (!keyring_master_is(t->x->s->keyring, masters_current(&t->masters)))
        TRY(keyring_master_changed(t->x->s->keyring, e));
    if (t->v.state >= MOVING_MOVING && keyring_master(t->x->s->keyring) != t->v.to)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "the rotation is to master %u, and another is current", t->v.to);
    t->txn = store_txn_new(t->x->s->store);
    return ok();
}

static int64_t now(const struct step *t)
{
    return clock_wall_ns(t->x->s->clock);
}

static const char *state_of(const struct step *t)
{
    return sm_name(&moving_machine, t->v.state);
}

/* The event of this step; what stands in before and after is the caller's JSON. */
static RESULT step_commit(struct step *t, const char *action, uint32_t version, const struct tenant_ref *tenant, uint64_t items, struct err *e)
{
    (void)snprintf(t->resource, sizeof t->resource, "masters/%u", version);
    const struct act act = {.principal = "system:master",
                            .action = action,
                            .resource = bytes_str(t->resource),
                            .before = bytes_str(t->before),
                            .after = bytes_str(t->after),
                            .items = items};
    t->ret->done = t->v.done;
    t->ret->more = true;
    return act_commit(t->txn, t->x->s->clock, tenant, &act, e);
}

/* ---- MAKING: the object on the token ---- */
/* An object of that number is of a making that was cut short: nothing was ever wrapped under it, and it may be half made. */
static RESULT make_object(struct step *t, struct err *e)
{
    struct hsm *h = t->x->s->hsm;
    struct err why = {0};
    if (!hsm_generate(h, HSM_MASTER, t->v.to, &why).failed)
        return ok();
    if (why.code != ERR_EXISTS) {
        *e = why;
        return (struct result){1};
    }
    TRY(hsm_destroy(h, HSM_MASTER, t->v.to, e));
    return hsm_generate(h, HSM_MASTER, t->v.to, e);
}

static RESULT making(struct step *t, struct err *e)
{
    TRY(make_object(t, e));
    const struct master born = {.version = t->v.to, .state = MASTER_BORN, .made_ns = now(t), .revision = STORE_ABSENT};
    (void)snprintf(t->before, sizeof t->before, "{\"rotation\":\"%s\"}", state_of(t));
    TRY(moving_to(&t->v, MOVING_SAVING, now(t), e));
    (void)snprintf(t->after, sizeof t->after, "{\"rotation\":\"%s\",\"master\":\"BORN\"}", state_of(t));
    master_put(t->txn, &born);
    moving_put(t->txn, &t->v);
    return step_commit(t, "masters.make", t->v.to, NULL, 0, e);
}

/* ---- SAVING: never used before it is backed up; then current ---- */
static bool holds_master(const char *holds, uint32_t version)
{
    char word[32];
    const size_t n = (size_t)snprintf(word, sizeof word, "master-%u", version);
    for (const char *at = holds; (at = strstr(at, word)) != NULL; at += n)
        if ((at == holds || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0'))
            return true;
    return false;
}

/* A backup's name has the second in which it was made: in the same one there can be no other. */
static RESULT back_up(struct step *t, struct hsm_backup *ret, struct err *e)
{
    const struct timespec second = {.tv_sec = 1};
    struct err why = {0};
    if (!hsm_backup(t->x->s->hsm, ret, &why).failed)
        return ok();
    if (why.code == ERR_EXISTS && nanosleep(&second, NULL) == 0)
        return hsm_backup(t->x->s->hsm, ret, e);
    *e = why;
    return (struct result){1};
}

static RESULT save(struct step *t, enum instance_backup *ret_kind, struct hsm_backup *ret, struct err *e)
{
    struct hsm_status st;
    TRY(hsm_probe(t->x->s->hsm, &st, e));
    if (!st.logged_in)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token is away");
    *ret_kind = INSTANCE_BACKUP_VERIFIED;
    if (st.copyable) {
        TRY(back_up(t, ret, e));
        if (!holds_master(ret->holds, t->v.to))
            FAIL(e, ERR_DATA_LOSS, "HSM_BACKUP", "the token's backup lacks master %u: it holds %s", t->v.to, ret->holds);
        return ok();
    }
    if (!t->v.cloned)
        FAIL(e, ERR_STATE, "MASTER_NOT_CLONED", "the token is no files that kmsd could back up: clone it by its vendor's tool, then say so: "
             "kmsctl master rotate --token-cloned");
    *ret_kind = INSTANCE_BACKUP_VENDOR_CLONE;
    *ret = (struct hsm_backup){.made_unix_s = clock_unix_s(t->x->s->clock)};
    (void)snprintf(ret->serial, sizeof ret->serial, "%s", st.serial);
    return ok();
}

/* A backup of the token names each master that lies on it: none of them may go before it has expired. */
static void put_saved(struct masters *all, int64_t now_ns, struct store_txn *txn)
{
    for (size_t i = 0; i < all->n; i++) {
        if (all->all[i].state == MASTER_DESTROYED)
            continue;
        all->all[i].saved_ns = now_ns;
        master_put(txn, &all->all[i]);
    }
}

/* The one that was current is being left, the new one is; and the backup holds each that is on the token. */
static RESULT switch_current(struct step *t, struct err *e)
{
    struct master *old = masters_current(&t->masters), *new = masters_find(&t->masters, t->v.to);
    if (old == NULL || new == NULL)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "master %u is to become current, and the records do not fit", t->v.to);
    TRY(sm_move(&master_machine, &old->state, MASTER_RETIRING, e));
    TRY(sm_move(&master_machine, &new->state, MASTER_CURRENT, e));
    put_saved(&t->masters, now(t), t->txn);
    return ok();
}

static RESULT saving(struct step *t, struct err *e)
{
    enum instance_backup kind;
    struct hsm_backup b;
    const struct master *old = masters_current(&t->masters);
    TRY(save(t, &kind, &b, e));
    (void)snprintf(t->before, sizeof t->before, "{\"rotation\":\"%s\",\"current\":%u}", state_of(t), old != NULL ? old->version : 0);
    TRY(switch_current(t, e));
    moving_restart(&t->v);
    t->v.done = 0;
    t->v.cloned = false;
    TRY(keyring_rekey_count(t->x->s->keyring, &t->v.total, e));
    TRY(moving_to(&t->v, MOVING_MOVING, now(t), e));
    (void)snprintf(t->after, sizeof t->after, "{\"rotation\":\"%s\",\"current\":%u,\"backup\":\"%s\",\"versions\":%llu}", state_of(t), t->v.to,
                   kind == INSTANCE_BACKUP_VERIFIED ? "verified" : "vendor clone", (unsigned long long)t->v.total);
    instance_backup_put(t->txn, kind, &b, STORE_ANY);
    moving_put(t->txn, &t->v);
    TRY(step_commit(t, "masters.use", t->v.to, NULL, 0, e));
    return keyring_master_changed(t->x->s->keyring, e);
}

/* ---- MOVING: tenant by tenant, page by page ---- */
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
    t->v.done += r->seen;
    if (t->v.total < t->v.done)
        t->v.total = t->v.done;
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
    TRY(step_commit(t, "masters.move", t->v.to, held, r->moved, e));
    keyring_rekeyed(t->x->s->keyring, bytes_str(tenant));
    return ok();
}

static RESULT to_proving(struct step *t, struct err *e)
{
    (void)snprintf(t->before, sizeof t->before, "{\"rotation\":\"%s\"}", state_of(t));
    t->v.total = t->v.done;
    TRY(moving_to(&t->v, MOVING_PROVING, now(t), e));
    (void)snprintf(t->after, sizeof t->after, "{\"rotation\":\"%s\",\"tenants\":%llu,\"versions\":%llu}", state_of(t),
                   (unsigned long long)t->v.tenants, (unsigned long long)t->v.done);
    moving_put(t->txn, &t->v);
    return step_commit(t, "masters.moved", t->v.to, NULL, 0, e);
}

static RESULT move(struct step *t, struct err *e)
{
    for (;;) {
        bool found = t->v.inside;
        if (t->x->stop != NULL && t->x->stop(t->x->user))
            FAIL(e, ERR_CANCELLED, NULL, "stopping");
        if (!found)
            TRY(next_tenant(t, &found, e));
        if (!found)
            return to_proving(t, e);
        TRY(page(t, e));
        if (t->x->rekey.changed)
            return commit_page(t, e);
        if (t->x->rekey.end)
            leave_tenant(t);
    }
}

/* ---- PROVING: nothing names another master any more ---- */
static RESULT retire(struct step *t, const struct rekey_proof *p, struct err *e)
{
    uint32_t version = 0;
    for (size_t i = 0; i < t->masters.n; i++) {
        struct master *m = &t->masters.all[i];
        if (m->state != MASTER_RETIRING)
            continue;
        TRY(sm_move(&master_machine, &m->state, MASTER_RETIRED, e));
        m->retired_ns = now(t);
        version = m->version;
        master_put(t->txn, m);
    }
    (void)snprintf(t->before, sizeof t->before, "{\"rotation\":\"%s\",\"master\":\"RETIRING\"}", state_of(t));
    TRY(moving_to(&t->v, MOVING_IDLE, now(t), e));
    (void)snprintf(t->after, sizeof t->after, "{\"rotation\":\"%s\",\"master\":\"RETIRED\",\"tenants\":%llu,\"versions\":%llu,\"under_another_master\":0}",
                   state_of(t), (unsigned long long)p->tenants, (unsigned long long)p->versions);
    moving_put(t->txn, &t->v);
    return step_commit(t, "masters.retire", version, NULL, 0, e);
}

static RESULT prove(struct step *t, struct err *e)
{
    struct rekey_proof p;
    TRY(keyring_rekey_prove(t->x->s->keyring, 0, t->x->stop, t->x->user, &p, e));
    if (p.left == 0)
        return retire(t, &p, e);
    (void)snprintf(t->before, sizeof t->before, "{\"rotation\":\"%s\"}", state_of(t));
    TRY(moving_to(&t->v, MOVING_MOVING, now(t), e));
    moving_restart(&t->v);
    (void)snprintf(t->after, sizeof t->after, "{\"rotation\":\"%s\",\"under_another_master\":%llu}", state_of(t), (unsigned long long)p.left);
    moving_put(t->txn, &t->v);
    TRY(step_commit(t, "masters.prove", t->v.to, NULL, 0, e));
    t->ret->more = false;
    FAIL(e, ERR_STATE, "MASTER_STILL_NEEDED", "%llu records are under another master than %u, the first is %.120s", (unsigned long long)p.left,
         t->v.to, p.first);
}

/* ---- a master that is to be destroyed ---- */
static RESULT give_up_destroying(struct step *t, struct master *m, const struct rekey_proof *p, struct err *e)
{
    (void)snprintf(t->before, sizeof t->before, "{\"master\":\"DESTROYING\"}");
    TRY(sm_move(&master_machine, &m->state, MASTER_RETIRED, e));
    m->forfeit_ns = 0;
    m->forfeit_by[0] = '\0';
    (void)snprintf(t->after, sizeof t->after, "{\"master\":\"RETIRED\",\"under_it\":%llu}", (unsigned long long)p->left);
    master_put(t->txn, m);
    TRY(step_commit(t, "masters.destroy", m->version, NULL, 0, e));
    t->ret->more = false;
    FAIL(e, ERR_STATE, "MASTER_STILL_NEEDED", "%llu records are under master %u, the first is %.120s: it was not destroyed",
         (unsigned long long)p->left, m->version, p->first);
}

/* The token without it is another token: what is needed of it now is backed up once more. */
static void save_again(struct step *t, uint32_t version)
{
    struct hsm_status st;
    struct hsm_backup b;
    struct err why = {0};
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(t->x->s->store);
    struct masters all;
    uint64_t seq;
    if (hsm_probe(t->x->s->hsm, &st, &why).failed || !st.copyable)
        return;
    if (!back_up(t, &b, &why).failed && !masters_read(t->x->s->store, &all, &why).failed) {
        instance_backup_put(txn, INSTANCE_BACKUP_VERIFIED, &b, STORE_ANY);
        put_saved(&all, now(t), txn);
        if (!store_txn_commit(txn, &seq, &why).failed && !keyring_master_changed(t->x->s->keyring, &why).failed) {
            log_event(LOG_INFO, "a master was destroyed; backups of the token from before still hold it", LF_INT("master", version), LF_STR("backup", b.path));
            return;
        }
    }
    log_event(LOG_WARN, "a master was destroyed, and the token was not backed up again", LF_INT("master", version), LF_ERR(&why));
}

static RESULT destroy(struct step *t, struct master *m, struct err *e)
{
    struct rekey_proof p;
    struct err why = {0};
    TRY(keyring_rekey_prove(t->x->s->keyring, m->version, t->x->stop, t->x->user, &p, e));
    if (p.left > 0)
        return give_up_destroying(t, m, &p, e);
    if (hsm_destroy(t->x->s->hsm, HSM_MASTER, m->version, &why).failed && why.code != ERR_NOT_FOUND) { /* not there: we did, and died */
        *e = why;
        return (struct result){1};
    }
    (void)snprintf(t->before, sizeof t->before, "{\"master\":\"DESTROYING\"}");
    TRY(sm_move(&master_machine, &m->state, MASTER_DESTROYED, e));
    m->destroyed_ns = now(t);
    (void)snprintf(t->after, sizeof t->after, "{\"master\":\"DESTROYED\",\"tenants\":%llu,\"versions\":%llu,\"under_it\":0}",
                   (unsigned long long)p.tenants, (unsigned long long)p.versions);
    master_put(t->txn, m);
    store_txn_urgent(t->txn); /* an older copy of the store would take it for there */
    TRY(step_commit(t, "masters.destroy", m->version, NULL, 0, e));
    save_again(t, m->version);
    return ok();
}

static struct master *to_destroy(struct masters *all)
{
    for (size_t i = 0; i < all->n; i++)
        if (all->all[i].state == MASTER_DESTROYING)
            return &all->all[i];
    return NULL;
}

/* ---- whichever is next ---- */
RESULT master_step(struct master_steps *x, struct master_step *ret, struct err *e)
{
    typedef RESULT step_fn(struct step * t, struct err * e);
    static step_fn *const steps[] = {[MOVING_MAKING] = making, [MOVING_SAVING] = saving, [MOVING_MOVING] = move, [MOVING_PROVING] = prove,
                                     [MOVING_IDLE] = NULL, [MOVING_PAUSED] = NULL};
    CLEANUP(step_release) struct step t = {.x = x, .ret = ret};
    *ret = (struct master_step){0};
    TRY(step_begin(&t, e));
    ret->done = t.v.done;
    struct master *doomed = to_destroy(&t.masters);
    if (doomed != NULL)
        return destroy(&t, doomed, e);
    return steps[t.v.state] != NULL ? steps[t.v.state](&t, e) : ok();
}
