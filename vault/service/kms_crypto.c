/* google.cloud.kms.v1: Encrypt, Decrypt, GenerateRandomBytes. */
#include "vault/service/crypt.h"
#include "vault/service/kms_view.h"
#include "vault/service/rows.h"

typedef Google__Cloud__Kms__V1__EncryptRequest EncryptRequest;
typedef Google__Cloud__Kms__V1__EncryptResponse EncryptResponse;
typedef Google__Cloud__Kms__V1__DecryptRequest DecryptRequest;
typedef Google__Cloud__Kms__V1__DecryptResponse DecryptResponse;
typedef Google__Cloud__Kms__V1__GenerateRandomBytesRequest RandomRequest;
typedef Google__Cloud__Kms__V1__GenerateRandomBytesResponse RandomResponse;

enum { RANDOM_MIN = 8, RANDOM_MAX = 1024 };

static struct result encrypt_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    const EncryptRequest *q = (const EncryptRequest *)req;
    return field_resource(c, q->name, 1u << NAME_CRYPTOKEY | 1u << NAME_VERSION, "name", e);
}

static struct result encrypt(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const EncryptRequest *q = (const EncryptRequest *)req;
    EncryptResponse *r = call_response(c);
    CLEANUP(crypt_key_release) struct crypt_key k = {0};
    TRY(crypt_key_for_seal(c, &c->resources[0].name, KEY_USE_ENCRYPT, &k, e));
    struct bytes plain = pb_bytes(q->plaintext), aad = pb_bytes(q->additional_authenticated_data), sealed;
    bool verified_plain, verified_aad;
    TRY(field_check_size(plain, FIELD_BYTES_MAX, "plaintext", e));
    TRY(field_check_size(aad, FIELD_BYTES_MAX, "additional_authenticated_data", e));
    TRY(field_check_crc32c(q->plaintext_crc32c, plain, "plaintext_crc32c", &verified_plain, e));
    TRY(field_check_crc32c(q->additional_authenticated_data_crc32c, aad, "additional_authenticated_data_crc32c", &verified_aad, e));
    CLEANUP(buf_release) struct buf canonical;
    buf_init(&canonical, FIELD_BYTES_MAX + 64);
    format_plain_aad(aad, &canonical);
    TRY(crypt_seal(c, &k, KEY_USE_ENCRYPT, buf_bytes(&canonical), plain, &sealed, e));
    r->name = crypt_version_name(c, &k);
    r->ciphertext = pb_view(sealed);
    r->ciphertext_crc32c = field_crc32c(c, sealed);
    r->verified_plaintext_crc32c = verified_plain;
    r->verified_additional_authenticated_data_crc32c = verified_aad;
    r->protection_level = view_protection(k.view.protection);
    *resp = &r->base;
    return ok();
}

static struct result decrypt_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    const DecryptRequest *q = (const DecryptRequest *)req;
    return field_resource(c, q->name, 1u << NAME_CRYPTOKEY, "name", e);
}

static struct result decrypt(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const DecryptRequest *q = (const DecryptRequest *)req;
    DecryptResponse *r = call_response(c);
    const struct name *n = &c->resources[0].name;
    struct bytes sealed = pb_bytes(q->ciphertext), aad = pb_bytes(q->additional_authenticated_data), plain;
    bool verified;
    TRY(keyring_key_exists(c->svc->keyring, n, c->may_block, e));
    TRY(field_check_size(sealed, FIELD_BYTES_MAX + FORMAT_OVERHEAD, "ciphertext", e));
    TRY(field_check_size(aad, FIELD_BYTES_MAX, "additional_authenticated_data", e));
    TRY(field_check_crc32c(q->ciphertext_crc32c, sealed, "ciphertext_crc32c", &verified, e));
    TRY(field_check_crc32c(q->additional_authenticated_data_crc32c, aad, "additional_authenticated_data_crc32c", &verified, e));
    CLEANUP(buf_release) struct buf canonical;
    buf_init(&canonical, FIELD_BYTES_MAX + 64);
    format_plain_aad(aad, &canonical);
    CLEANUP(crypt_key_release) struct crypt_key k = {0};
    TRY(crypt_open(c, n, KEY_USE_ENCRYPT, buf_bytes(&canonical), sealed, &k, &plain, e));
    crypt_version_name(c, &k);
    r->plaintext = pb_view(plain);
    r->plaintext_crc32c = field_crc32c(c, plain);
    r->used_primary = k.view.is_primary;
    r->protection_level = view_protection(k.view.protection);
    *resp = &r->base;
    return ok();
}

static struct result random_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    const RandomRequest *q = (const RandomRequest *)req;
    return field_resource(c, q->location, 1u << NAME_LOCATION, "location", e);
}

static struct result random_bytes(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const RandomRequest *q = (const RandomRequest *)req;
    RandomResponse *r = call_response(c);
    struct tenant t;
    TRY(keyring_tenant_get(c->svc->keyring, c->resources[0].name.tenant, c->may_block, &t, e));
    if (!bytes_equal(c->resources[0].name.location, bytes_str(t.location)))
        FAIL(e, ERR_NOT_FOUND, NULL, "the tenant is not in that location");
    if (q->length_bytes < RANDOM_MIN || q->length_bytes > RANDOM_MAX)
        return err_field(e, "length_bytes", "8 to 1024");
    if (q->protection_level != GOOGLE__CLOUD__KMS__V1__PROTECTION_LEVEL__HSM)
        return err_field(e, "protection_level", "must be HSM: the bytes come from the token");
    size_t n = (size_t)q->length_bytes;
    uint8_t *p = arena_alloc(&c->arena, n);
    INVARIANT(p != NULL);
    TRY(hsm_random(c->svc->hsm, p, n, e));
    r->data = (ProtobufCBinaryData){n, p};
    r->data_crc32c = field_crc32c(c, BYTES(p, n));
    *resp = &r->base;
    return ok();
}

#define SERVICE "/google.cloud.kms.v1.KeyManagementService/"
#define MESSAGES(q, r) .request = &google__cloud__kms__v1__##q##__descriptor, .response = &google__cloud__kms__v1__##r##__descriptor
static const struct rpc_row rows[] = {
    {.kind = RPC_UNARY, .path = SERVICE "Encrypt", MESSAGES(encrypt_request, encrypt_response), .action = "kms.cryptoKeys.encrypt",
     .plane = PLANE_DATA, .resources = encrypt_resources, .audit = AUDIT_USE, .limit = LIMIT_DATA, .lane = LANE_FAST, .hot = true,
     .handle = encrypt},
    {.kind = RPC_UNARY, .path = SERVICE "Decrypt", MESSAGES(decrypt_request, decrypt_response), .action = "kms.cryptoKeys.decrypt",
     .plane = PLANE_DATA, .resources = decrypt_resources, .audit = AUDIT_USE, .limit = LIMIT_DATA, .lane = LANE_FAST, .hot = true,
     .handle = decrypt},
    {.kind = RPC_UNARY, .path = SERVICE "GenerateRandomBytes", MESSAGES(generate_random_bytes_request, generate_random_bytes_response),
     .action = "kms.random.generate", .plane = PLANE_DATA, .resources = random_resources, .audit = AUDIT_USE, .limit = LIMIT_DATA,
     .lane = LANE_SLOW, .handle = random_bytes},
};
const struct row_list rows_kms_crypto = {rows, sizeof rows / sizeof rows[0]};
