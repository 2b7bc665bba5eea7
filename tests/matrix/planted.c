/* Two RPCs that nobody has told the matrix about, put behind the real table with --wrap=table_rows. Good is as any other read; Leaky
 * makes the mistake that the matrix is there for: it looks whether the thing is there before the caller is bound to a tenant. */
#include "vault/service/fields.h"
#include "vault/service/rows.h"

#include "google/cloud/kms/v1/service.pb-c.h"

typedef Google__Cloud__Kms__V1__GetCryptoKeyRequest Request;
typedef Google__Cloud__Kms__V1__CryptoKey CryptoKey;

static struct result resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const Request *)req)->name, 1u << NAME_CRYPTOKEY, "name", e);
}

static struct result leaky_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    struct keyring_key m;
    TRY(resources(c, req, e));
    return keyring_key_get(c->svc->keyring, &c->resources[0].name, &c->arena, &m, e);
}

static struct result get(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    struct keyring_key m;
    CryptoKey *r = call_response(c);
    TRY(keyring_key_get(c->svc->keyring, &c->resources[0].name, &c->arena, &m, e));
    r->name = ((const Request *)req)->name;
    *resp = &r->base;
    return ok();
}

#define SERVICE "/claviger.planted.v1.Planted/"
#define ROW                                                                                                                         \
    .kind = RPC_UNARY, .plane = PLANE_CONTROL, .limit = LIMIT_CONTROL, .lane = LANE_SLOW, .audit = AUDIT_READ,                          \
    .action = "kms.cryptoKeys.get", .request = &google__cloud__kms__v1__get_crypto_key_request__descriptor,                         \
    .response = &google__cloud__kms__v1__crypto_key__descriptor, .handle = get
static const struct rpc_row good = {ROW, .path = SERVICE "Good", .resources = resources};
static const struct rpc_row leaky = {ROW, .path = SERVICE "Leaky", .resources = leaky_resources};

const struct rpc_row *const *__real_table_rows(size_t *ret_n);
const struct rpc_row *const *__wrap_table_rows(size_t *ret_n);
const struct rpc_row *const *__wrap_table_rows(size_t *ret_n)
{
    static const struct rpc_row *all[RPC_ROWS_MAX];
    size_t n;
    const struct rpc_row *const *real = __real_table_rows(&n);
    INVARIANT(n + 2 <= RPC_ROWS_MAX);
    for (size_t i = 0; i < n; i++)
        all[i] = real[i];
    all[n] = &good;
    all[n + 1] = &leaky;
    *ret_n = n + 2;
    return all;
}
