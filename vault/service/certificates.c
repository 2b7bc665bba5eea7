/* claviger.lifecycle.v1.Certificates: what the service has to show for what it destroyed. */
#include "vault/service/certificate.h"
#include "vault/service/kms_view.h"
#include "vault/service/rows.h"

#include "claviger/lifecycle/v1/certificates.pb-c.h"

typedef Claviger__Lifecycle__V1__Certificate Certificate;
typedef Claviger__Lifecycle__V1__GetCertificateRequest GetRequest;
typedef Claviger__Lifecycle__V1__GetTenantCertificateRequest GetTenantRequest;
typedef Claviger__Lifecycle__V1__ListCertificatesRequest ListRequest;
typedef Claviger__Lifecycle__V1__ListTenantCertificatesRequest TenantsRequest;
typedef Claviger__Lifecycle__V1__ListCertificatesResponse ListResponse;

enum { PAGE_MAX = 100 }; /* a few kilobytes each */

static void view(struct call *c, const struct certificate_row *row, Certificate *r)
{
    char key[SIGNED_NOTE_KEY_TEXT_MAX];
    signed_note_key_text(&c->svc->audit_key, key);
    r->name = pb_view(row->name);
    r->destroy_time = field_time(c, row->destroyed_ns);
    r->signed_ = row->is_signed;
    r->note = pb_view(row->note);
    r->audit_key = call_text(c, key);
}

static struct result get_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const GetRequest *)req)->name, 1u << NAME_VERSION, "name", e);
}

static struct result get_tenant_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const GetTenantRequest *)req)->name, 1u << NAME_TENANT, "name", e);
}

static struct result get(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    Certificate *r = call_response(c);
    struct certificate_row row;
    TRY(certificate_get(c->svc, &c->resources[0].name, &c->arena, &row, e));
    view(c, &row, r);
    *resp = &r->base;
    return ok();
}

/* One page; parent NULL: of tenants. */
static RESULT page_of(struct call *c, const struct name *parent, int32_t page_size, ProtobufCBinaryData page_token, ProtobufCMessage **resp,
                      struct err *e)
{
    static const ProtobufCBinaryData none;
    ListResponse *r = call_response(c);
    struct certificate_row *rows;
    struct listing l;
    size_t n;
    TRY(listing_parse(c, page_size, page_token, none, none, (struct bytes){0}, 0, &l, e));
    const size_t page = l.page < PAGE_MAX ? l.page : PAGE_MAX;
    TRY(certificate_list(c->svc, parent, l.after, page + 1, &c->arena, &rows, &n, e));
    r->certificates = arena_alloc(&c->arena, (page + 1) * sizeof *r->certificates);
    INVARIANT(r->certificates != NULL);
    for (size_t i = 0; i < n && i < page; i++) {
        Certificate *one = call_new_message(c, &claviger__lifecycle__v1__certificate__descriptor);
        INVARIANT(one != NULL);
        view(c, &rows[i], one);
        r->certificates[r->n_certificates++] = one;
    }
    if (n > page)
        r->next_page_token = listing_token(c, &l, rows[page - 1].id);
    *resp = &r->base;
    return ok();
}

static struct result list_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const ListRequest *)req)->parent, 1u << NAME_LOCATION | 1u << NAME_KEYRING | 1u << NAME_CRYPTOKEY, "parent", e);
}

/* The parent is looked at first: what is not there has no empty list. */
static struct result list(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const ListRequest *q = (const ListRequest *)req;
    const struct name *parent = &c->resources[0].name;
    struct keyring_ring ring, *rings;
    struct keyring_key key;
    size_t n;
    if (parent->kind == NAME_LOCATION) /* the tenant's own, or not there */
        TRY(keyring_ring_list(c->svc->keyring, parent, (struct bytes){0}, false, 1, &c->arena, &rings, &n, e));
    if (parent->kind == NAME_KEYRING)
        TRY(keyring_ring_get(c->svc->keyring, parent, &c->arena, &ring, e));
    if (parent->kind == NAME_CRYPTOKEY)
        TRY(keyring_key_get(c->svc->keyring, parent, &c->arena, &key, e));
    return page_of(c, parent, q->page_size, q->page_token, resp, e);
}

static struct result tenants_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    (void)req;
    return field_instance(c, e);
}

static struct result tenants(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const TenantsRequest *q = (const TenantsRequest *)req;
    return page_of(c, NULL, q->page_size, q->page_token, resp, e);
}

#define SERVICE "/claviger.lifecycle.v1.Certificates/"
#define M(q, r) .request = &claviger__lifecycle__v1__##q##__descriptor, .response = &claviger__lifecycle__v1__##r##__descriptor
static const struct rpc_row rows[] = {
    {KMS_READ, .path = SERVICE "GetCertificate", M(get_certificate_request, certificate), .action = "kms.certificates.get",
     .resources = get_resources, .handle = get},
    {KMS_READ, .path = SERVICE "GetTenantCertificate", M(get_tenant_certificate_request, certificate), .action = "tenants.certificates.get",
     .reaches_closed = true, .resources = get_tenant_resources, .handle = get},
    {KMS_READ, .path = SERVICE "ListCertificates", M(list_certificates_request, list_certificates_response), .action = "kms.certificates.list",
     .resources = list_resources, .handle = list},
    {KMS_READ, .path = SERVICE "ListTenantCertificates", M(list_tenant_certificates_request, list_certificates_response),
     .action = "tenants.certificates.list", .resources = tenants_resources, .handle = tenants},
};
const struct row_list rows_certificates = {rows, sizeof rows / sizeof rows[0]};
