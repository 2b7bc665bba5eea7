/* claviger.tenants.v1: suspend, resume, delete, restore. What follows from a state is in the pipeline (check_tenant) and the keeper. */
#include "vault/service/rows.h"
#include "vault/service/tenant_view.h"

typedef Claviger__Tenants__V1__SuspendTenantRequest SuspendRequest;
typedef Claviger__Tenants__V1__ResumeTenantRequest ResumeRequest;
typedef Claviger__Tenants__V1__DeleteTenantRequest DeleteRequest;
typedef Claviger__Tenants__V1__RestoreTenantRequest RestoreRequest;
#define NS_PER_SECOND INT64_C(1000000000)

/* The tenant as it stands, in one of these states, and the one that the caller has looked at. */
static RESULT read_tenant(struct call *c, unsigned states, ProtobufCBinaryData etag, struct tenant *ret, struct err *e)
{
    char now[TENANT_ETAG_BYTES];
    TRY(keyring_tenant_read(c->svc->keyring, c->resources[0].name.tenant, ret, e));
    if ((states >> ret->state & 1) == 0)
        FAIL(e, ERR_STATE, "TENANT_STATE", "tenant %s is %s", ret->name, sm_name(&tenant_machine, ret->state));
    tenant_etag(ret, now);
    if (etag.len > 0 && !bytes_equal(pb_bytes(etag), bytes_str(now))) /* banned-ok: public: who may ask reads it */
        FAIL(e, ERR_CONFLICT, "TENANT_CHANGED", "tenant %s has etag %s", ret->name, now);
    return ok();
}

static RESULT move(struct call *c, struct tenant *t, const struct tenant_move *m, ProtobufCMessage **resp, struct err *e)
{
    Claviger__Tenants__V1__Tenant *r = call_response(c);
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    c->ev.before = tenant_json(&c->arena, t);
    TRY(keyring_tenant_move(c->svc->keyring, t, m, txn, e));
    if (m->to != TENANT_ACTIVE)
        store_txn_urgent(txn); /* must not come back with an older copy of the store */
    tenant_view(c, t, r);
    c->ev.after = tenant_json(&c->arena, t);
    TRY(call_commit(c, txn, &r->base, e));
    keyring_tenant_forget(c->svc->keyring, bytes_str(t->name)); /* before the answer: the next call sees it */
    *resp = &r->base;
    return ok();
}

static struct result suspend_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const SuspendRequest *)req)->name, 1u << NAME_TENANT, "name", e);
}

static struct result suspend(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    struct tenant t;
    TRY(read_tenant(c, 1u << TENANT_ACTIVE, ((const SuspendRequest *)req)->etag, &t, e));
    return move(c, &t, &(struct tenant_move){.to = TENANT_SUSPENDED}, resp, e);
}

static struct result resume_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const ResumeRequest *)req)->name, 1u << NAME_TENANT, "name", e);
}

static struct result resume(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    struct tenant t;
    TRY(read_tenant(c, 1u << TENANT_SUSPENDED, ((const ResumeRequest *)req)->etag, &t, e));
    return move(c, &t, &(struct tenant_move){.to = TENANT_ACTIVE}, resp, e);
}

static struct result delete_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const DeleteRequest *)req)->name, 1u << NAME_TENANT, "name", e);
}

static struct result delete_tenant(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const DeleteRequest *q = (const DeleteRequest *)req;
    const Google__Protobuf__Duration *d = q->retention;
    struct tenant t;
    TRY(read_tenant(c, 1u << TENANT_ACTIVE | 1u << TENANT_SUSPENDED, q->etag, &t, e));
    if (d == NULL || d->nanos != 0 || (d->seconds != TENANT_RETENTION_SHORT_S && d->seconds != TENANT_RETENTION_LONG_S))
        return err_field(e, "retention", "30 or 90 days");
    if (q->etag.len == 0)
        return err_field(e, "etag", "is required: of the tenant as you have read it");
    const struct tenant_move m = {.to = TENANT_DELETED,
                                  .purge_ns = clock_wall_ns(call_clock(c)) + d->seconds * NS_PER_SECOND,
                                  .by = bytes_str(c->id.principal->name)};
    return move(c, &t, &m, resp, e);
}

static struct result restore_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const RestoreRequest *)req)->name, 1u << NAME_TENANT, "name", e);
}

static struct result restore(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    struct tenant t;
    TRY(read_tenant(c, 1u << TENANT_DELETED, ((const RestoreRequest *)req)->etag, &t, e));
    return move(c, &t, &(struct tenant_move){.to = (enum tenant_state)t.was}, resp, e);
}

#define MOVE .kind = RPC_UNARY, TENANTS_CONTROL, .audit = AUDIT_CHANGE, .mutation = true, .reaches_closed = true
static const struct rpc_row rows[] = {
    {MOVE, .path = TENANTS_SERVICE "SuspendTenant", TENANTS_MESSAGES(suspend_tenant_request, tenant), .action = "tenants.suspend",
     .resources = suspend_resources, .handle = suspend},
    {MOVE, .path = TENANTS_SERVICE "ResumeTenant", TENANTS_MESSAGES(resume_tenant_request, tenant), .action = "tenants.resume",
     .resources = resume_resources, .handle = resume},
    {MOVE, .path = TENANTS_SERVICE "DeleteTenant", TENANTS_MESSAGES(delete_tenant_request, tenant), .action = "tenants.delete",
     .destructive = true, .resources = delete_resources, .handle = delete_tenant},
    {MOVE, .path = TENANTS_SERVICE "RestoreTenant", TENANTS_MESSAGES(restore_tenant_request, tenant), .action = "tenants.restore",
     .resources = restore_resources, .handle = restore},
};
const struct row_list rows_tenant_moves = {rows, sizeof rows / sizeof rows[0]};
