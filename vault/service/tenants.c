/* claviger.tenants.v1: create, get, list, and how a tenant looks. */
#include "vault/service/listing.h"
#include "vault/service/rows.h"
#include "vault/service/tenant_view.h"

#include "base/text.h"

#include <stdio.h>

typedef Claviger__Tenants__V1__Tenant Tenant;
typedef Claviger__Tenants__V1__CreateTenantRequest CreateRequest;
typedef Claviger__Tenants__V1__GetTenantRequest GetRequest;
typedef Claviger__Tenants__V1__ListTenantsRequest ListRequest;
typedef Claviger__Tenants__V1__ListTenantsResponse ListResponse;

void tenant_etag(const struct tenant *t, char out[TENANT_ETAG_BYTES])
{
    (void)snprintf(out, TENANT_ETAG_BYTES, "%08x-%llu", (unsigned)get_be32(t->id), (unsigned long long)t->revision);
}

void tenant_view(struct call *c, const struct tenant *t, Tenant *r)
{
    char etag[TENANT_ETAG_BYTES];
    char full[NAME_MAX_BYTES];
    struct name n = {.kind = NAME_TENANT, .tenant = bytes_str(t->name)};
    name_format(&n, full);
    r->name = call_text(c, full);
    r->location = call_text(c, t->location);
    r->display_name = call_text(c, t->display_name);
    r->create_time = field_time(c, t->created_ns);
    r->state = (Claviger__Tenants__V1__Tenant__State)t->state; /* the same numbers, on purpose */
    r->delete_time = field_time(c, t->deleted_ns);
    r->purge_time = field_time(c, t->purge_ns);
    tenant_etag(t, etag);
    r->etag = call_text(c, etag);
}

static struct result create_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    const CreateRequest *q = (const CreateRequest *)req;
    struct bytes id = pb_bytes(q->tenant_id);
    if (!name_valid_id(id, NAME_TENANT))
        return err_field(e, "tenant_id", "2 to 63 of a-z, 0-9 and -, beginning with a letter, not ending with -");
    TRY(field_instance(c, e)); /* it does not exist yet: making one is an act on the instance */
    return ok();
}

static struct result create(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const CreateRequest *q = (const CreateRequest *)req;
    Tenant *r = call_response(c);
    if (q->tenant == NULL)
        return err_field(e, "tenant", "is required: it says the location");
    if (!text_is_clean_utf8(pb_bytes(q->tenant->display_name)))
        return err_field(e, "tenant.display_name", "must be UTF-8 without control characters");
    struct tenant t;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    TRY(keyring_tenant_create(c->svc->keyring, pb_bytes(q->tenant_id), pb_bytes(q->tenant->location),
                              pb_bytes(q->tenant->display_name), txn, &t, e));
    tenant_view(c, &t, r);
    c->ev.after = bytes_str(arena_printf(&c->arena, "{\"tenant\":\"%s\",\"location\":\"%s\"}", t.name, t.location));
    TRY(call_commit(c, txn, &r->base, e));
    *resp = &r->base;
    return ok();
}

static struct result get_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const GetRequest *)req)->name, 1u << NAME_TENANT, "name", e);
}

static struct result get(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    Tenant *r = call_response(c);
    struct tenant t;
    TRY(keyring_tenant_read(c->svc->keyring, c->resources[0].name.tenant, &t, e));
    tenant_view(c, &t, r);
    *resp = &r->base;
    return ok();
}

static struct result list_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    (void)req;
    return field_instance(c, e);
}

static struct result list(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    static const ProtobufCBinaryData none;
    const ListRequest *q = (const ListRequest *)req;
    ListResponse *r = call_response(c);
    struct listing l;
    TRY(listing_parse(c, q->page_size, q->page_token, none, none, (struct bytes){0}, 0, &l, e));
    struct tenant *rows;
    size_t n;
    TRY(keyring_tenant_list(c->svc->keyring, l.after, l.page + 1, &c->arena, &rows, &n, e));
    size_t page = n > l.page ? l.page : n;
    r->tenants = arena_alloc(&c->arena, (page + 1) * sizeof *r->tenants);
    INVARIANT(r->tenants != NULL);
    for (; r->n_tenants < page; r->n_tenants++) {
        Tenant *t = call_new_message(c, &claviger__tenants__v1__tenant__descriptor);
        INVARIANT(t != NULL);
        tenant_view(c, &rows[r->n_tenants], t);
        r->tenants[r->n_tenants] = t;
    }
    if (n > l.page)
        r->next_page_token = listing_token(c, &l, bytes_str(rows[page - 1].name));
    *resp = &r->base;
    return ok();
}

#define M(q, r) TENANTS_MESSAGES(q, r)
#define CONTROL .kind = RPC_UNARY, TENANTS_CONTROL
static const struct rpc_row rows[] = {
    {CONTROL, .path = TENANTS_SERVICE "CreateTenant", M(create_tenant_request, tenant), .action = "tenants.create", .audit = AUDIT_CHANGE,
     .mutation = true, .resources = create_resources, .handle = create},
    {CONTROL, .path = TENANTS_SERVICE "GetTenant", M(get_tenant_request, tenant), .action = "tenants.get", .audit = AUDIT_READ,
     .reaches_closed = true, .resources = get_resources, .handle = get},
    {CONTROL, .path = TENANTS_SERVICE "ListTenants", M(list_tenants_request, list_tenants_response), .action = "tenants.list",
     .audit = AUDIT_READ, .resources = list_resources, .handle = list},
};
const struct row_list rows_tenants = {rows, sizeof rows / sizeof rows[0]};
