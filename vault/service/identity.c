/* claviger.identity.v1: registered principals. */
#include "vault/service/admin.h"
#include "vault/service/fields.h"
#include "vault/service/listing.h"
#include "vault/service/rows.h"

#include "claviger/identity/v1/identity.pb-c.h"

#include <string.h>

typedef Claviger__Identity__V1__Principal Principal;
typedef Claviger__Identity__V1__CreatePrincipalRequest CreateRequest;
typedef Claviger__Identity__V1__GetPrincipalRequest GetRequest;
typedef Claviger__Identity__V1__ListPrincipalsRequest ListRequest;
typedef Claviger__Identity__V1__ListPrincipalsResponse ListResponse;
typedef Claviger__Identity__V1__UpdatePrincipalRequest UpdateRequest;
#define STATE(s) CLAVIGER__IDENTITY__V1__PRINCIPAL__STATE__##s
#define PREFIX "principals/"

static void view(struct call *c, const struct admin_principal *p, Principal *r)
{
    char *name = arena_printf(&c->arena, PREFIX "%s", p->p.name);
    INVARIANT(name != NULL);
    r->name = pb_view(bytes_str(name));
    if (p->p.tenant[0] != 0)
        r->tenant = pb_view(bytes_str(arena_printf(&c->arena, "projects/%s", p->p.tenant)));
    r->san = call_text(c, p->p.san);
    r->state = p->p.state == PRINCIPAL_ACTIVE ? STATE(ACTIVE) : STATE(DISABLED);
    r->create_time = field_time(c, p->created_ns);
    r->expire_time = field_time(c, p->p.until_unix_ns);
}

static struct bytes event_text(struct call *c, const struct admin_principal *p)
{
    return bytes_str(arena_printf(&c->arena, "{\"principal\":\"%s\",\"tenant\":\"%s\",\"state\":\"%s\"}", p->p.name, p->p.tenant,
                                  p->p.state == PRINCIPAL_ACTIVE ? "ACTIVE" : "DISABLED"));
}

/* "principals/x" -> x */
static RESULT id_of(ProtobufCBinaryData name, struct bytes *ret, struct err *e)
{
    size_t n = strlen(PREFIX);
    if (name.len <= n || memcmp(name.data, PREFIX, n) != 0 || name.len - n > AUTHN_PRINCIPAL_MAX)
        return err_field(e, "name", "principals/{principal}");
    *ret = BYTES(name.data + n, name.len - n);
    return ok();
}

/* Principals of a tenant are acted on in that tenant; the event and the decision name it. */
static struct result any_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    (void)req;
    return field_instance(c, e);
}

static RESULT take_tenant(struct call *c, ProtobufCBinaryData tenant, struct principal *p, struct err *e)
{
    if (tenant.len == 0)
        return ok();
    struct name n;
    struct tenant t;
    TRY(name_parse(pb_bytes(tenant), NAME_TENANT, "principal.tenant", &n, e));
    TRY(keyring_tenant_read(c->svc->keyring, n.tenant, &t, e));
    if (t.state >= TENANT_DELETED) /* nobody comes to what is on its way out */
        FAIL(e, ERR_STATE, "TENANT_DELETED", "tenant %s is %s", t.name, sm_name(&tenant_machine, t.state));
    memcpy(p->tenant, t.name, sizeof p->tenant);
    return ok();
}

static RESULT commit_principal(struct call *c, const struct admin_principal *p, uint64_t expected, Principal *r, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    TRY(admin_principal_put(c->svc->admin, p, expected, txn, e));
    if (p->p.state == PRINCIPAL_DISABLED)
        store_txn_urgent(txn); /* must not come back with an older copy of the store */
    view(c, p, r);
    c->ev.after = event_text(c, p);
    TRY(call_commit(c, txn, &r->base, e));
    admin_refresh(c->svc->admin); /* before the answer: the next call sees it */
    return ok();
}

static struct result create(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const CreateRequest *q = (const CreateRequest *)req;
    Principal *r = call_response(c);
    struct admin_principal p = {.created_ns = clock_wall_ns(call_clock(c)), .p.state = PRINCIPAL_ACTIVE};
    if (q->principal == NULL)
        return err_field(e, "principal", "is required: it says tenant and SAN");
    if (q->principal_id.len == 0 || q->principal_id.len >= sizeof p.p.name)
        return err_field(e, "principal_id", "1 to 128 of a-z, 0-9, . _ and -, beginning with a letter");
    if (q->principal->san.len >= sizeof p.p.san)
        return err_field(e, "principal.san", "too long");
    memcpy(p.p.name, q->principal_id.data, q->principal_id.len);
    if (q->principal->san.len > 0)
        memcpy(p.p.san, q->principal->san.data, q->principal->san.len);
    TRY(take_tenant(c, q->principal->tenant, &p.p, e));
    TRY(commit_principal(c, &p, STORE_ABSENT, r, e));
    *resp = &r->base;
    return ok();
}

static struct result get(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    Principal *r = call_response(c);
    struct bytes id;
    struct admin_principal p;
    TRY(id_of(((const GetRequest *)req)->name, &id, e));
    TRY(admin_principal_get(c->svc->admin, id, &c->arena, &p, e));
    view(c, &p, r);
    *resp = &r->base;
    return ok();
}

static RESULT fill(struct call *c, struct listing *l, struct bytes tenant, ListResponse *r, struct err *e)
{
    struct bytes after = l->after;
    size_t looked = 0, got;
    enum { CHUNK = 200 };
    r->principals = arena_alloc(&c->arena, l->page * sizeof *r->principals);
    INVARIANT(r->principals != NULL);
    do {
        struct admin_principal *rows;
        TRY(admin_principal_list(c->svc->admin, after, CHUNK, &c->arena, &rows, &got, e));
        for (size_t i = 0; i < got; i++) {
            if (r->n_principals == l->page) {
                r->next_page_token = listing_token(c, l, after);
                return ok();
            }
            after = bytes_str(rows[i].p.name);
            if (tenant.n > 0 && !bytes_equal(tenant, bytes_str(rows[i].p.tenant)))
                continue;
            Principal *p = call_new_message(c, &claviger__identity__v1__principal__descriptor);
            INVARIANT(p != NULL);
            view(c, &rows[i], p);
            r->principals[r->n_principals++] = p;
        }
        looked += got;
    } while (listing_goes_on(c, got, CHUNK, looked));
    if (got == CHUNK)
        r->next_page_token = listing_token(c, l, after);
    return ok();
}

static struct result list(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    static const ProtobufCBinaryData none;
    const ListRequest *q = (const ListRequest *)req;
    ListResponse *r = call_response(c);
    struct name tenant = {.kind = NAME_NONE};
    if (q->tenant.len > 0) { /* of a tenant that is not there there is no list, not an empty one */
        struct tenant there;
        TRY(name_parse(pb_bytes(q->tenant), NAME_TENANT, "tenant", &tenant, e));
        TRY(keyring_tenant_get(c->svc->keyring, tenant.tenant, true, &there, e));
    }
    struct listing l;
    TRY(listing_parse(c, q->page_size, q->page_token, none, none, pb_bytes(q->tenant), 0, &l, e));
    TRY(fill(c, &l, tenant.tenant, r, e));
    *resp = &r->base;
    return ok();
}

static struct result update(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    static const char *const known[] = {"state", NULL};
    const UpdateRequest *q = (const UpdateRequest *)req;
    Principal *r = call_response(c);
    struct bytes id;
    struct admin_principal p;
    if (q->principal == NULL)
        return err_field(e, "principal", "is required");
    TRY(id_of(q->principal->name, &id, e));
    TRY(admin_principal_get(c->svc->admin, id, &c->arena, &p, e));
    TRY(field_mask_check(q->update_mask, known, e));
    if (q->principal->state != STATE(ACTIVE) && q->principal->state != STATE(DISABLED))
        return err_field(e, "principal.state", "ACTIVE or DISABLED");
    if (bytes_equal(id, bytes_str(c->id.principal->name)) && q->principal->state == STATE(DISABLED))
        FAIL(e, ERR_STATE, "OWN_PRINCIPAL", "%s would lock itself out", p.p.name);
    if (p.p.recovery && q->principal->state == STATE(ACTIVE))
        FAIL(e, ERR_STATE, "RECOVERY_ENDS", "%s is a recovery administrator: it can be ended, and not let in again", p.p.name);
    c->ev.before = event_text(c, &p);
    p.p.state = q->principal->state == STATE(ACTIVE) ? PRINCIPAL_ACTIVE : PRINCIPAL_DISABLED;
    TRY(commit_principal(c, &p, p.p.revision, r, e));
    *resp = &r->base;
    return ok();
}

#define SERVICE "/claviger.identity.v1.Identity/"
#define M(q, r) .request = &claviger__identity__v1__##q##__descriptor, .response = &claviger__identity__v1__##r##__descriptor
#define CONTROL .kind = RPC_UNARY, .plane = PLANE_CONTROL, .limit = LIMIT_CONTROL, .lane = LANE_SLOW, .resources = any_resources
static const struct rpc_row rows[] = {
    {CONTROL, .path = SERVICE "CreatePrincipal", M(create_principal_request, principal), .action = "identity.principals.create",
     .audit = AUDIT_CHANGE, .mutation = true, .handle = create},
    {CONTROL, .path = SERVICE "GetPrincipal", M(get_principal_request, principal), .action = "identity.principals.get",
     .audit = AUDIT_READ, .handle = get},
    {CONTROL, .path = SERVICE "ListPrincipals", M(list_principals_request, list_principals_response),
     .action = "identity.principals.list", .audit = AUDIT_READ, .handle = list},
    {CONTROL, .path = SERVICE "UpdatePrincipal", M(update_principal_request, principal), .action = "identity.principals.update",
     .audit = AUDIT_CHANGE, .mutation = true, .handle = update},
};
const struct row_list rows_identity = {rows, sizeof rows / sizeof rows[0]};
