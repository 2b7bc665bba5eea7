/* claviger.envelope.v1: Wrap, Unwrap, GenerateDataKey, Rewrap: one key at a time. */
#include "vault/service/crypt.h"
#include "vault/service/rows.h"

#include "base/rng.h"
#include "claviger/envelope/v1/envelope.pb-c.h"

typedef Claviger__Envelope__V1__WrapRequest WrapRequest;
typedef Claviger__Envelope__V1__WrapResponse WrapResponse;
typedef Claviger__Envelope__V1__UnwrapRequest UnwrapRequest;
typedef Claviger__Envelope__V1__UnwrapResponse UnwrapResponse;
typedef Claviger__Envelope__V1__GenerateDataKeyRequest DataKeyRequest;
typedef Claviger__Envelope__V1__GenerateDataKeyResponse DataKeyResponse;
typedef Claviger__Envelope__V1__RewrapRequest RewrapRequest;
typedef Claviger__Envelope__V1__RewrapResponse RewrapResponse;

enum { WRAPPED_KEY_MAX = 1024, AAD_BUF_MAX = FIELD_BYTES_MAX + 64 };
#define CONTEXT(q) (ProtobufCMessage *const *)(q)->context, (q)->n_context
static const ProtobufCBinaryData no_bytes;

static struct result wrap_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const WrapRequest *)req)->name, 1u << NAME_CRYPTOKEY | 1u << NAME_VERSION, "name", e);
}

static struct result wrap(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const WrapRequest *q = (const WrapRequest *)req;
    WrapResponse *r = call_response(c);
    CLEANUP(crypt_key_release) struct crypt_key k = {0};
    TRY(crypt_key_for_seal(c, &c->resources[0].name, KEY_USE_WRAP, &k, e));
    struct bytes plain = pb_bytes(q->plaintext_key), sealed;
    bool verified;
    if (plain.n == 0 || plain.n > WRAPPED_KEY_MAX)
        return err_field(e, "plaintext_key", "1 to 1024 bytes: wrap keys, encrypt data");
    TRY(field_check_crc32c(q->plaintext_key_crc32c, plain, "plaintext_key_crc32c", &verified, e));
    CLEANUP(buf_release) struct buf aad;
    buf_init(&aad, AAD_BUF_MAX);
    TRY(field_aad(CONTEXT(q), no_bytes, &aad, e));
    TRY(crypt_seal(c, &k, KEY_USE_WRAP, buf_bytes(&aad), plain, &sealed, e));
    r->name = crypt_version_name(c, &k);
    r->wrapped_key = pb_view(sealed);
    r->wrapped_key_crc32c = field_crc32c(c, sealed);
    r->verified_plaintext_key_crc32c = verified;
    *resp = &r->base;
    return ok();
}

static struct result unwrap_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const UnwrapRequest *)req)->name, 1u << NAME_CRYPTOKEY, "name", e);
}

static struct result unwrap(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const UnwrapRequest *q = (const UnwrapRequest *)req;
    UnwrapResponse *r = call_response(c);
    const struct name *n = &c->resources[0].name;
    struct bytes sealed = pb_bytes(q->wrapped_key), plain;
    bool verified;
    TRY(keyring_key_exists(c->svc->keyring, n, c->may_block, e));
    TRY(field_check_crc32c(q->wrapped_key_crc32c, sealed, "wrapped_key_crc32c", &verified, e));
    CLEANUP(buf_release) struct buf aad;
    buf_init(&aad, AAD_BUF_MAX);
    TRY(field_aad(CONTEXT(q), no_bytes, &aad, e));
    CLEANUP(crypt_key_release) struct crypt_key k = {0};
    TRY(crypt_open(c, n, KEY_USE_WRAP, buf_bytes(&aad), sealed, &k, &plain, e));
    r->name = crypt_version_name(c, &k);
    r->plaintext_key = pb_view(plain);
    r->plaintext_key_crc32c = field_crc32c(c, plain);
    r->used_primary = k.view.is_primary;
    *resp = &r->base;
    return ok();
}

static struct result data_key_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const DataKeyRequest *)req)->name, 1u << NAME_CRYPTOKEY | 1u << NAME_VERSION, "name", e);
}

static bool data_key_size_ok(uint32_t n)
{
    return n == 16 || n == 24 || n == 32 || n == 48 || n == 64;
}

static struct result data_key(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const DataKeyRequest *q = (const DataKeyRequest *)req;
    DataKeyResponse *r = call_response(c);
    CLEANUP(crypt_key_release) struct crypt_key k = {0};
    TRY(crypt_key_for_seal(c, &c->resources[0].name, KEY_USE_WRAP, &k, e));
    uint32_t n = q->key_bytes == 0 ? 32 : q->key_bytes;
    if (!data_key_size_ok(n))
        return err_field(e, "key_bytes", "16, 24, 32, 48 or 64");
    CLEANUP(buf_release) struct buf aad;
    buf_init(&aad, AAD_BUF_MAX);
    TRY(field_aad(CONTEXT(q), no_bytes, &aad, e));
    uint8_t *key = arena_alloc(&c->arena, n); /* the client's key, not ours: wiped with the call */
    INVARIANT(key != NULL);
    if (k.view.protection == PROTECTION_HSM)
        TRY(hsm_random(c->svc->hsm, key, n, e)); /* mixed with the kernel's there */
    else
        rng_fill(&rng_system, key, n);
    struct bytes sealed;
    TRY(crypt_seal(c, &k, KEY_USE_WRAP, buf_bytes(&aad), BYTES(key, n), &sealed, e));
    r->name = crypt_version_name(c, &k);
    r->wrapped_key = pb_view(sealed);
    r->wrapped_key_crc32c = field_crc32c(c, sealed);
    if (!q->wrapped_only) {
        r->plaintext_key = (ProtobufCBinaryData){n, key};
        r->plaintext_key_crc32c = field_crc32c(c, BYTES(key, n));
    }
    *resp = &r->base;
    return ok();
}

static struct result rewrap_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const RewrapRequest *)req)->name, 1u << NAME_CRYPTOKEY, "name", e);
}

/* The plaintext exists only in the arena between open and seal; no field of the answer can carry it. */
static struct result rewrap(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const RewrapRequest *q = (const RewrapRequest *)req;
    RewrapResponse *r = call_response(c);
    const struct name *n = &c->resources[0].name;
    struct bytes sealed = pb_bytes(q->ciphertext), again;
    bool verified;
    TRY(keyring_key_exists(c->svc->keyring, n, c->may_block, e));
    TRY(field_check_size(sealed, FIELD_BYTES_MAX + FORMAT_OVERHEAD, "ciphertext", e));
    TRY(field_check_crc32c(q->ciphertext_crc32c, sealed, "ciphertext_crc32c", &verified, e));
    CLEANUP(buf_release) struct buf aad;
    buf_init(&aad, AAD_BUF_MAX);
    TRY(field_aad(CONTEXT(q), q->additional_authenticated_data, &aad, e));
    CLEANUP(crypt_key_release) struct crypt_key old = {0}, new = {0};
    TRY(crypt_rewrap(c, n, buf_bytes(&aad), sealed, &old, &new, &again, e));
    r->source_name = crypt_version_name(c, &old);
    r->name = crypt_version_name(c, &new);
    r->already_newest = old.view.version == new.view.version;
    r->ciphertext = pb_view(again);
    r->ciphertext_crc32c = field_crc32c(c, again);
    *resp = &r->base;
    return ok();
}

#define SERVICE "/claviger.envelope.v1.Envelope/"
#define MESSAGES(m) .request = &claviger__envelope__v1__##m##_request__descriptor, .response = &claviger__envelope__v1__##m##_response__descriptor
#define FAST .kind = RPC_UNARY, .plane = PLANE_DATA, .audit = AUDIT_USE, .limit = LIMIT_DATA, .lane = LANE_FAST, .hot = true
static const struct rpc_row rows[] = {
    {FAST, .path = SERVICE "Wrap", MESSAGES(wrap), .action = "envelope.wrap", .resources = wrap_resources, .handle = wrap},
    {FAST, .path = SERVICE "Unwrap", MESSAGES(unwrap), .action = "envelope.unwrap", .resources = unwrap_resources, .handle = unwrap},
    {FAST, .path = SERVICE "GenerateDataKey", MESSAGES(generate_data_key), .action = "envelope.generateDataKey",
     .resources = data_key_resources, .handle = data_key},
    {FAST, .path = SERVICE "Rewrap", MESSAGES(rewrap), .action = "envelope.rewrap", .resources = rewrap_resources, .handle = rewrap},
};
const struct row_list rows_envelope = {rows, sizeof rows / sizeof rows[0]};
