/* Steps 1 to 7: from bytes to a handled request. */
#include "vault/service/pipeline.h"

#include "vault/service/admin.h"
#include "vault/service/decode.h"
#include "vault/service/recovery.h"
#include "vault/service/review.h"

#include <string.h>

enum { RACES_MAX = 8 };

static RESULT step_decode(struct call *c, struct err *e)
{
    if (c->request != NULL)
        return ok();
    ProtobufCMessage *m;
    TRY(decode_message(c->row->request, c->priv->raw, &c->arena, &m, e));
    c->request = m;
    return ok();
}

static RESULT step_authenticate(struct call *c, struct err *e)
{
    if (c->conn == NULL)
        FAIL(e, ERR_UNAUTHENTICATED, "UNKNOWN_CONNECTION", "the connection was not announced by the front");
    authn_identity_release(&c->id);
    c->id = (struct identity){0};
    return authn_call(c->svc->authn, c->conn, &c->id, e);
}

static struct bytes own_tenant(const struct call *c)
{
    return bytes_str(c->id.principal != NULL ? c->id.principal->tenant : "");
}

/* Another tenant's name is refused here, before anything is looked up: identical whether or not it exists. */
static bool foreign(const struct call *c, const struct name *n)
{
    struct bytes own = own_tenant(c);
    return own.n > 0 && n->kind != NAME_NONE && !bytes_equal(own, n->tenant);
}

/* The tenant acted in: the first resource's, else the caller's. Its audit key seals the event. An unknown tenant's events
 * are the system's. */
static RESULT hold_tenant(struct call *c, struct err *e)
{
    struct bytes name = own_tenant(c);
    struct tenant_ref *now = NULL;
    struct err why = {0};
    if (name.n == 0 && c->nresources > 0 && c->resources[0].name.kind != NAME_NONE)
        name = c->resources[0].name.tenant;
    if (name.n > 0 && keyring_tenant_hold(c->svc->keyring, name, c->may_block, &now, &why).failed && why.code != ERR_NOT_FOUND) {
        *e = why;
        return (struct result){1};
    }
    tenant_ref_drop(c->priv->tenant); /* asked anew for each message of a stream: it may be another, or in another state */
    c->priv->tenant = now;
    return ok();
}

static RESULT step_resolve(struct call *c, struct err *e)
{
    c->resources = NULL;
    c->nresources = 0;
    TRY(c->row->resources(c, c->request, e));
    INVARIANT(c->nresources > 0);
    if (c->resources[0].name.kind != NAME_NONE)
        name_format(&c->resources[0].name, c->priv->resource_text);
    return hold_tenant(c, e);
}

static RESULT step_limit(struct call *c, struct err *e)
{
    if (c->priv->limited)
        return ok();
    c->priv->limited = true;
    uint64_t items = c->row->per_item ? c->nresources : 1;
    TRY(limiter_take(c->svc->limiter, bytes_str(c->id.principal->name), items, e));
    if (c->row->plane != PLANE_DATA || c->priv->tenant == NULL)
        return ok();
    TRY(budget_take(c->svc->budgets, tenant_ref_info(c->priv->tenant)->id, items, e));
    c->priv->budget_taken = items;
    return ok();
}

static void decide(struct call *c, struct resource *r)
{
    if (foreign(c, &r->name)) {
        r->denied = true;
        r->rule = "tenant-boundary";
        return;
    }
    struct policy_question q = {
        .principal = bytes_str(c->id.principal->name),
        .principal_tenant = own_tenant(c),
        .action = r->action != NULL ? r->action : c->row->action,
        .resource = &r->name,
    };
    struct policy_decision d = c->id.principal->recovery ? recovery_decide(q.action) : policy_decide(c->policy, &q);
    r->denied = !d.allowed;
    r->rule = d.rule;
}

/* What closes the service to a caller who is known, before policy is asked. */
static RESULT check_open(struct call *c, struct err *e)
{
    bool recovery = c->id.principal->recovery;
    if (!admin_current(c->svc->admin))
        FAIL(e, ERR_UNAVAILABLE, "POLICY_STALE", "a committed change of policy or principals is not loaded yet");
    if (recovery && journal_outbox_seq(c->svc->journal) < c->svc->outbox_at_start)
        FAIL(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "that this administrator was made is not in the journal yet");
    if (!recovery && reviews_closed(c->svc->reviews))
        FAIL(e, ERR_UNAVAILABLE, "ROLLBACK_UNREVIEWED", "an older store was accepted, and what was revoked since is not known");
    return ok();
}

static RESULT step_authorize(struct call *c, struct err *e)
{
    TRY(check_open(c, e));
    policy_unref((struct policy_set *)(uintptr_t)c->policy);
    c->policy = admin_policy(c->svc->admin);
    policy_digest(c->policy, c->priv->policy_digest);
    size_t denied = 0;
    for (size_t i = 0; i < c->nresources; i++) {
        decide(c, &c->resources[i]);
        denied += c->resources[i].denied;
        /* the rule on record is the first refusal's, else the first permission's */
        if (i == 0 || (c->resources[i].denied && denied == 1))
            c->priv->rule = c->resources[i].rule;
    }
    if (denied == c->nresources || (denied > 0 && !c->row->per_item))
        FAIL(e, ERR_DENIED, "PERMISSION_DENIED", "rule %s", c->priv->rule);
    return ok();
}

/* A tenant that is not ACTIVE, or whose location this daemon is not to serve, is closed to its own people and to every use of its keys;
 * the platform goes on in one that is SUSPENDED as policy lets it, and in the others sees, restores and exports it. Asked after policy:
 * who is not permitted learns nothing of it. */
static RESULT check_tenant(struct call *c, struct err *e)
{
    const struct tenant *t = c->priv->tenant != NULL ? tenant_ref_info(c->priv->tenant) : NULL;
    if (t == NULL || (t->state == TENANT_ACTIVE && t->served))
        return ok();
    const bool platform = own_tenant(c).n == 0;
    if (platform && (c->row->reaches_closed || (t->state == TENANT_SUSPENDED && t->served && c->row->plane == PLANE_CONTROL)))
        return ok();
    c->priv->closed = true;
    if (t->state == TENANT_SUSPENDED)
        FAIL(e, ERR_STATE, "TENANT_SUSPENDED", "tenant %s is suspended", t->name);
    if (t->state != TENANT_ACTIVE)
        FAIL(e, ERR_STATE, "TENANT_DELETED", "tenant %s is %s", t->name, sm_name(&tenant_machine, t->state));
    FAIL(e, ERR_STATE, "LOCATION_NOT_SERVED", "tenant %s is in %s, which is none of `locations`", t->name, t->location);
}

RESULT pipeline_authorized(struct call *c, struct err *e)
{
    c->priv->closed = false;
    c->priv->phase = PHASE_AUTHENTICATE;
    TRY(step_authenticate(c, e));
    c->priv->phase = PHASE_RESOLVE;
    TRY(step_resolve(c, e));
    c->priv->phase = PHASE_LIMIT;
    TRY(step_limit(c, e));
    c->priv->phase = PHASE_AUTHORIZE;
    TRY(step_authorize(c, e));
    return check_tenant(c, e);
}

static RESULT step_admit(struct call *c, struct err *e)
{
    if (call_is_cancelled(c)) {
        if (atomic_load(&c->cancelled))
            FAIL(e, ERR_CANCELLED, NULL, "the client went away");
        FAIL(e, ERR_DEADLINE, NULL, "the deadline passed before the call was handled");
    }
    bool room = c->row->audit == AUDIT_CHANGE ? journal_admits_reserve(c->svc->journal) : journal_admits(c->svc->journal);
    if (!room)
        FAIL(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "the audit journal takes no events");
    return ok();
}

static RESULT step_handle(struct call *c, struct err *e)
{
    TRY(step_admit(c, e));
    if (c->row->mutation && c->priv->idempotency_unusable) /* ignored, it would let the caller believe that a retry is safe */
        FAIL(e, ERR_INVALID, "IDEMPOTENCY_KEY", "the idempotency key is longer than %d or not clean", CALL_META_MAX);
    if (c->row->mutation && c->idempotency_key[0] != 0) {
        TRY(idempotency_lookup(c, &c->priv->replayed, e));
        if (c->priv->replayed)
            return ok();
    }
    c->priv->response = NULL;
    c->nuses = 0; /* the fast lane may have got half way */
    rpc_handle_fn *fn = c->row->kind == RPC_UNARY ? c->row->handle : c->row->stream->message;
    struct err why = {0};
    if (fn(c, c->request, &c->priv->response, &why).failed) {
        /* Two calls with one idempotency key at once: the loser finds the winner's answer, however the winner's change made
         * it fail (exists already, changed meanwhile, or in another state now). */
        if (c->row->mutation && c->idempotency_key[0] != 0 && c->outbox_seq == 0) {
            TRY(idempotency_lookup(c, &c->priv->replayed, e));
            if (c->priv->replayed)
                return ok();
        }
        *e = why;
        return (struct result){1};
    }
    return c->priv->response != NULL ? pipeline_encode(c, c->priv->response, e) : ok();
}

static RESULT public_steps(struct call *c, struct err *e)
{
    c->priv->phase = PHASE_DECODE;
    TRY(step_decode(c, e));
    c->priv->phase = PHASE_LIMIT;
    struct bytes peer = c->conn != NULL ? authn_conn_address(c->conn) : bytes_str("unknown");
    TRY(limiter_take(c->svc->limiter, peer, 1, e));
    c->priv->phase = PHASE_HANDLE;
    if (c->row->kind == RPC_SERVER_STREAM)
        return ok();
    rpc_handle_fn *fn = c->row->kind == RPC_UNARY ? c->row->handle : c->row->stream->message;
    TRY(fn(c, c->request, &c->priv->response, e));
    return c->priv->response != NULL ? pipeline_encode(c, c->priv->response, e) : ok();
}

static RESULT steps(struct call *c, struct err *e)
{
    if (c->row->plane == PLANE_PUBLIC)
        return public_steps(c, e);
    c->priv->phase = PHASE_DECODE;
    TRY(step_decode(c, e));
    TRY(pipeline_authorized(c, e));
    c->priv->phase = PHASE_HANDLE;
    if (c->row->kind == RPC_SERVER_STREAM) /* its open has run; messages come from ready */
        return step_admit(c, e);
    return step_handle(c, e);
}

/* Who asks how the service is while it is closed to all: the refusal itself says it, to operators. */
void pipeline_say_why(struct call *c, const struct health *h, struct err *e)
{
    char text[CONDITION_TEXT_MAX];
    CLEANUP(buf_release) struct buf all;
    buf_init(&all, CONDITION_COUNT * CONDITION_TEXT_MAX);
    if (h->serving || !c->row->says_why || e->code != ERR_UNAVAILABLE || c->id.principal == NULL || c->id.principal->tenant[0] != 0)
        return;
    for (int i = 0; i < CONDITION_COUNT; i++) {
        if (!h->is[i])
            continue;
        health_text(h, (enum condition)i, text);
        buf_putf(&all, "%s%s", all.n > 0 ? " " : "", text);
    }
    if (all.n > 0)
        e->hint = arena_strdup(&c->arena, buf_bytes(&all)); /* lives until the answer is sent */
}

static void run_slow(struct lane_job *job)
{
    struct call_private *p = (struct call_private *)((char *)job - offsetof(struct call_private, job));
    struct call *c = p->call;
    c->may_block = true;
    pipeline_run(c);
}

struct bytes pipeline_owner(const struct call *c)
{
    if (c->id.principal != NULL)
        return bytes_str(c->id.principal->tenant[0] != '\0' ? c->id.principal->tenant : c->id.principal->name);
    if (c->conn == NULL)
        return BYTES_LIT("unknown");
    const struct bytes certificate = authn_conn_certificate(c->conn);
    return certificate.n > 0 ? certificate : authn_conn_address(c->conn);
}

static void to_slow_lane(struct call *c)
{
    c->priv->job.run = run_slow;
    if (lanes_submit(c->svc->lanes, pipeline_owner(c), &c->priv->job))
        return;
    (void)err_set(&c->err, ERR_EXHAUSTED, "OVERLOADED", __FILE__, __LINE__, "the slow lane's queue is full");
    pipeline_conclude(c);
}

/* Something changed between a change's reading and its commit, perhaps by what the service does by itself: it had no effect, and is made
 * again by what is there now, as its caller would. Who named what must not have changed has a reason of its own, and hears of it. */
static bool lost_race(struct call *c, const struct err *e)
{
    return c->row->mutation && c->row->kind == RPC_UNARY && e->code == ERR_CONFLICT && e->reason == NULL && c->outbox_seq == 0 &&
           c->priv->races++ < RACES_MAX;
}

void pipeline_run(struct call *c)
{
    if (c->row->lane == LANE_SLOW && !c->may_block) {
        to_slow_lane(c);
        return;
    }
    struct err e = {0};
    struct result done = steps(c, &e);
    if (done.failed && e.code == ERR_WOULD_BLOCK && !c->may_block) {
        to_slow_lane(c);
        return;
    }
    while (done.failed && lost_race(c, &e)) {
        e = (struct err){0};
        done = steps(c, &e);
    }
    if (done.failed) {
        if (c->row->says_why) {
            struct health h;
            service_health(c->svc, &h);
            pipeline_say_why(c, &h, &e);
        }
        c->err = e;
    } else {
        c->priv->phase = PHASE_DONE;
    }
    pipeline_conclude(c);
}

RESULT pipeline_encode(struct call *c, const ProtobufCMessage *m, struct err *e)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *p = arena_alloc(&c->arena, n + 1);
    if (p == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "the answer does not fit the call's memory");
    protobuf_c_message_pack(m, p);
    c->priv->encoded = BYTES(p, n);
    return ok();
}
