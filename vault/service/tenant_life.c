#include "vault/service/tenant_life.h"

#include "base/log.h"
#include "base/text.h"
#include "vault/service/act.h"
#include "vault/service/admin.h"
#include "vault/service/certificate.h"
#include "vault/service/service.h"

#include <string.h>

enum { CALL_BYTES = 1 << 20, OUTBOX_PAGE = 256, OUTBOX_BYTES = 16 << 20 };
#define PRINCIPAL "system:purge"

struct bytes tenant_json(struct arena *a, const struct tenant *t)
{
    char id[33], purge[TEXT_RFC3339_BYTES] = "";
    hex_encode(t->id, sizeof t->id, id);
    if (t->purge_ns != 0)
        text_format_rfc3339(t->purge_ns, purge);
    return bytes_str(arena_printf(a, "{\"tenant\":\"%s\",\"id\":\"%s\",\"state\":\"%s\",\"purge_time\":\"%s\"}", t->name, id,
                                  sm_name(&tenant_machine, t->state), purge));
}

/* ---- purge ---- */
struct purge {
    struct service *s;
    const struct due *due;
    struct name name;
    struct tenant t;
    struct arena a;
    unsigned steps;
};

static void release(struct purge *p)
{
    arena_release(&p->a);
}

/* On the system's record, not on the tenant's own: that one ends with it. */
static RESULT commit(struct purge *p, struct store_txn *txn, struct bytes before, struct bytes after, struct err *e)
{
    const struct act act = {.principal = PRINCIPAL, .action = "tenants.purge", .resource = p->due->name, .before = before, .after = after};
    p->steps++;
    return act_commit(txn, p->s->clock, NULL, &act, e);
}

static RESULT begin(struct purge *p, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(p->s->store);
    const struct bytes before = tenant_json(&p->a, &p->t);
    due_move(txn, DUE_PURGE, p->due->name, p->due->at_ns, p->t.purge_ns); /* where it was put off, back to its own time */
    TRY(keyring_tenant_move(p->s->keyring, &p->t, &(struct tenant_move){.to = TENANT_PURGING}, txn, e));
    store_txn_urgent(txn); /* must not come back with an older copy of the store */
    TRY(commit(p, txn, before, tenant_json(&p->a, &p->t), e));
    keyring_tenant_forget(p->s->keyring, p->name.tenant);
    return ok();
}

static RESULT principals(struct purge *p, bool *ret_more, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(p->s->store);
    struct keyring_toll lost = {0};
    uint64_t seq;
    TRY(admin_principals_remove(p->s->store, p->name.tenant, txn, &lost.principals, e));
    *ret_more = lost.principals > 0;
    if (!*ret_more)
        return ok();
    p->steps++;
    TRY(keyring_purge_count(p->s->keyring, p->name.tenant, &lost, txn, e));
    TRY(store_txn_commit(txn, &seq, e));
    if (p->s->admin != NULL)
        admin_refresh(p->s->admin);
    return ok();
}

static RESULT rows(struct purge *p, bool *ret_more, struct err *e)
{
    p->steps++;
    TRY(keyring_purge_rows(p->s->keyring, p->name.tenant, ret_more, e));
    return *ret_more ? ok() : keyring_purge_due(p->s->keyring, p->name.tenant, ret_more, e);
}

/* The last outbox event that is to be sealed with the tenant's audit key; 0: none. */
static RESULT last_event(struct purge *p, uint64_t *ret, struct err *e)
{
    uint64_t after = 0;
    size_t n = OUTBOX_PAGE;
    *ret = 0;
    while (n == OUTBOX_PAGE) {
        CLEANUP(arena_release) struct arena a;
        struct outbox_event *all;
        arena_init(&a, OUTBOX_BYTES);
        TRY(store_outbox_read(p->s->store, after, OUTBOX_PAGE, &a, &all, &n, e));
        for (size_t i = 0; i < n; i++) {
            after = all[i].seq;
            if (memcmp(all[i].tenant, p->t.id, sizeof p->t.id) == 0)
                *ret = all[i].seq;
        }
    }
    return ok();
}

/* Its audit key goes when all that it was to seal is in the journal, and its id stands in no row of the outbox. *ret_more: not yet. */
static RESULT events(struct purge *p, bool *ret_more, struct err *e)
{
    uint64_t last, kept;
    TRY(last_event(p, &last, e));
    *ret_more = last > 0;
    if (last == 0 || last > journal_outbox_seq(p->s->journal))
        return ok();
    if (last == store_outbox_last(p->s->store)) { /* the newest row stays in the outbox: it must be another's */
        CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(p->s->store);
        return commit(p, txn, (struct bytes){0}, tenant_json(&p->a, &p->t), e);
    }
    TRY(store_outbox_trim(p->s->store, last, e));
    TRY(last_event(p, &kept, e));
    *ret_more = kept > 0;
    return ok();
}

/* Policy documents that name it: they are not edited, and whoever gets the name next would have their bindings. */
static unsigned bindings_left(struct purge *p)
{
    struct policy_set *set = p->s->admin != NULL ? admin_policy(p->s->admin) : NULL;
    struct policy_binding b;
    size_t cursor = 0;
    unsigned n = 0;
    while (set != NULL && policy_binding_next(set, p->name.tenant, &cursor, &b))
        n += bytes_equal(bytes_str(b.tenant), p->name.tenant);
    policy_unref(set);
    return n;
}

static struct bytes gone_json(struct purge *p, const struct keyring_toll *lost, unsigned bindings, const uint8_t certificate[32])
{
    char id[33], sha[65];
    hex_encode(p->t.id, sizeof p->t.id, id);
    hex_encode(certificate, 32, sha);
    return bytes_str(arena_printf(&p->a,
                                  "{\"tenant\":\"%s\",\"id\":\"%s\",\"state\":\"PURGED\",\"key_rings\":%llu,\"keys\":%llu,\"versions\":%llu,"
                                  "\"principals\":%llu,\"token_objects\":%llu,\"bindings_left\":%u,\"certificate\":\"sha256:%s\"}",
                                  p->t.name, id, (unsigned long long)lost->rings, (unsigned long long)lost->keys,
                                  (unsigned long long)lost->versions, (unsigned long long)lost->principals,
                                  (unsigned long long)lost->token_objects, bindings, sha));
}

static RESULT end(struct purge *p, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(p->s->store);
    struct keyring_toll lost;
    uint8_t sha[32];
    const struct bytes before = tenant_json(&p->a, &p->t);
    const unsigned bindings = bindings_left(p);
    TRY(keyring_purge_end(p->s->keyring, p->name.tenant, txn, &p->t, &lost, e));
    struct certificate c = {.kind = CERTIFICATE_TENANT,
                            .name = p->due->name,
                            .created_ns = p->t.created_ns,
                            .requested_ns = p->t.deleted_ns,
                            .due_ns = p->t.purge_ns,
                            .destroyed_ns = clock_wall_ns(p->s->clock),
                            .requested_by = bytes_str(p->t.deleted_by),
                            .counts = {.key_rings = lost.rings,
                                       .keys = lost.keys,
                                       .versions = lost.versions,
                                       .principals = lost.principals,
                                       .token_objects = lost.token_objects}};
    memcpy(c.tenant_id, p->t.id, sizeof c.tenant_id);
    certificate_put(p->s, txn, &c, sha);
    due_move(txn, DUE_PURGE, p->due->name, p->due->at_ns, 0);
    store_txn_urgent(txn);
    TRY(commit(p, txn, before, gone_json(p, &lost, bindings, sha), e));
    keyring_purged(p->s->keyring, &p->t);
    if (p->s->budgets != NULL)
        budget_forget(p->s->budgets, p->t.id);
    log_event(LOG_WARN, "a tenant was purged", LF_STR("tenant", p->t.name), LF_INT("keys", lost.keys), LF_INT("versions", lost.versions),
              LF_INT("principals", lost.principals), LF_INT("bindings_left", bindings));
    return ok();
}

/* What is not finished when its steps are used up stays due: the next look goes on. */
static RESULT work(struct purge *p, struct err *e)
{
    static struct result (*const takes[])(struct purge *p, bool *ret_more, struct err *e) = {principals, rows, events};
    if (p->t.state == TENANT_DELETED)
        TRY(begin(p, e));
    for (size_t i = 0; i < sizeof takes / sizeof takes[0]; i++) {
        bool more = true;
        while (more) {
            if (p->steps >= TENANT_PURGE_STEPS)
                return ok();
            TRY(takes[i](p, &more, e));
            if (takes[i] == events && more) /* the journal is not that far yet */
                return ok();
        }
    }
    return end(p, e);
}

RESULT tenant_purge_due(void *user, const struct due *d, struct err *e)
{
    CLEANUP(release) struct purge p = {.s = user, .due = d};
    struct err why = {0};
    arena_init(&p.a, CALL_BYTES);
    TRY(name_parse(d->name, NAME_TENANT, "name", &p.name, e));
    if (keyring_tenant_read(p.s->keyring, p.name.tenant, &p.t, &why).failed)
        return due_drop_gone(p.s->store, d, &why, e);
    const bool due = p.t.state == TENANT_DELETED && p.t.purge_ns <= clock_wall_ns(p.s->clock);
    return due || p.t.state == TENANT_PURGING ? work(&p, e) : due_drop(p.s->store, d, e);
}

/* ---- ACTIVE again ---- */
RESULT tenant_return_due(void *user, const struct due *d, struct err *e)
{
    struct service *s = user;
    struct tenant t;
    struct name n;
    struct err why = {0};
    TRY(name_parse(d->name, NAME_TENANT, "name", &n, e));
    if (keyring_tenant_read(s->keyring, n.tenant, &t, &why).failed && why.code != ERR_NOT_FOUND) {
        *e = why;
        return (struct result){1};
    }
    if (why.code == ERR_NONE && t.state == TENANT_ACTIVE)
        TRY(keyring_requeue_tenant(s->keyring, &t, e));
    return due_drop(s->store, d, e);
}
