/* claviger.lifecycle.v1: what happens to a key besides being used. */
#include "vault/service/kms_view.h"
#include "vault/service/rows.h"

#include "claviger/lifecycle/v1/lifecycle.pb-c.h"

typedef Claviger__Lifecycle__V1__RotateKeyRequest RotateRequest;
typedef Claviger__Lifecycle__V1__RotateKeyResponse RotateResponse;

static struct result rotate_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const RotateRequest *)req)->name, 1u << NAME_CRYPTOKEY, "name", e);
}

static ProtobufCBinaryData version_name(struct call *c, uint32_t number)
{
    struct name n = c->resources[0].name;
    char text[NAME_MAX_BYTES];
    n.kind = NAME_VERSION;
    n.version = number;
    (void)name_format(&n, text);
    return number == 0 ? (ProtobufCBinaryData){0} : call_text(c, text);
}

static struct result rotate(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    const struct name *n = &c->resources[0].name;
    RotateResponse *r = call_response(c);
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    struct keyring_key m;
    struct keyring_version v;
    TRY(keyring_key_get(c->svc->keyring, n, &c->arena, &m, e));
    c->ev.before = view_key_json(&c->arena, &m);
    r->replaced = version_name(c, m.primary);
    TRY(keyring_key_rotate(c->svc->keyring, n, &m, txn, &c->arena, &v, e));
    r->name = pb_view(v.name);
    c->ev.key_version = v.name;
    c->ev.after = view_key_json(&c->arena, &m);
    TRY(call_commit(c, txn, &r->base, e));
    keyring_changed(c->svc->keyring, n);
    *resp = &r->base;
    return ok();
}

#define SERVICE "/claviger.lifecycle.v1.Lifecycle/"
#define M(q, r) .request = &claviger__lifecycle__v1__##q##__descriptor, .response = &claviger__lifecycle__v1__##r##__descriptor
static const struct rpc_row rows[] = {
    {KMS_CHANGE, .path = SERVICE "RotateKey", M(rotate_key_request, rotate_key_response), .action = "kms.cryptoKeys.rotate",
     .resources = rotate_resources, .handle = rotate},
};
const struct row_list rows_lifecycle = {rows, sizeof rows / sizeof rows[0]};
