/* claviger.envelope.v1: batches and streams of items. Each item has its own decision and its own status: one bad item never
 * fails the rest. A stream's message is a batch; its answer leaves when its event is durable. */
#include "vault/service/crypt.h"
#include "vault/service/items.h"
#include "vault/service/rows.h"

typedef Claviger__Envelope__V1__EncryptItem EncryptItem;
typedef Claviger__Envelope__V1__EncryptResult EncryptResult;
typedef Claviger__Envelope__V1__DecryptItem DecryptItem;
typedef Claviger__Envelope__V1__DecryptResult DecryptResult;
typedef Claviger__Envelope__V1__BatchEncryptRequest EncryptRequest;
typedef Claviger__Envelope__V1__BatchDecryptRequest DecryptRequest;

/* ---- resources: one an item; items without a name share the request's ---------------------------------------------- */
static ProtobufCBinaryData encrypt_item_name(const void *q, size_t i)
{
    return ((const EncryptRequest *)q)->items[i]->name;
}

static ProtobufCBinaryData decrypt_item_name(const void *q, size_t i)
{
    return ((const DecryptRequest *)q)->items[i]->name;
}

static struct result encrypt_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    const EncryptRequest *q = (const EncryptRequest *)req; /* the stream's message begins with the same fields */
    return items_resources(c, q->name, q->n_items, encrypt_item_name, q, 1u << NAME_CRYPTOKEY | 1u << NAME_VERSION, e);
}

static struct result decrypt_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    const DecryptRequest *q = (const DecryptRequest *)req;
    return items_resources(c, q->name, q->n_items, decrypt_item_name, q, 1u << NAME_CRYPTOKEY, e);
}

/* ---- items --------------------------------------------------------------------------------------------------------- */
struct batch {
    EncryptItem *const *encrypt; /* one of the two */
    DecryptItem *const *decrypt;
    struct crypt_key key;        /* kept while the name stays the same */
    const struct name *key_name; /* equal names point to one: what crypt re-uses the key by */
    struct buf aad;
    ProtobufCBinaryData version_name; /* of the last item */
};

static void batch_release(struct batch *b)
{
    crypt_key_release(&b->key);
    buf_release(&b->aad);
}

/* The version name is copied once for a run of items under one version. */
static ProtobufCBinaryData run_name(struct call *c, struct batch *b)
{
    if (b->version_name.data == NULL || !bytes_equal(pb_bytes(b->version_name), b->key.view.version_name))
        b->version_name = crypt_version_name(c, &b->key);
    return b->version_name;
}

static RESULT encrypt_one(struct call *c, void *batch, size_t i, void *result, struct err *e)
{
    struct batch *b = batch;
    const struct resource *res = &c->resources[i];
    const EncryptItem *item = b->encrypt[i];
    EncryptResult *r = result;
    const struct name *n = items_same_name(&b->key_name, &res->name);
    TRY(item_allowed(res, e));
    TRY(crypt_key_for_seal(c, n, KEY_USE_ENCRYPT, &b->key, e));
    struct bytes plain = pb_bytes(item->plaintext), sealed;
    TRY(field_check_size(plain, FIELD_BYTES_MAX, "plaintext", e));
    b->aad.n = 0; /* public data: no need to wipe between items */
    TRY(field_aad((ProtobufCMessage *const *)item->context, item->n_context, item->additional_authenticated_data, &b->aad, e));
    TRY(crypt_seal(c, &b->key, KEY_USE_ENCRYPT, buf_bytes(&b->aad), plain, &sealed, e));
    r->ciphertext = pb_view(sealed);
    r->name = run_name(c, b);
    return ok();
}

static RESULT decrypt_one(struct call *c, void *batch, size_t i, void *result, struct err *e)
{
    struct batch *b = batch;
    const struct resource *res = &c->resources[i];
    const DecryptItem *item = b->decrypt[i];
    DecryptResult *r = result;
    const struct name *n = items_same_name(&b->key_name, &res->name);
    struct bytes sealed = pb_bytes(item->ciphertext), plain;
    TRY(item_allowed(res, e));
    TRY(field_check_size(sealed, FIELD_BYTES_MAX + FORMAT_OVERHEAD, "ciphertext", e));
    b->aad.n = 0;
    TRY(field_aad((ProtobufCMessage *const *)item->context, item->n_context, item->additional_authenticated_data, &b->aad, e));
    TRY(crypt_open(c, n, KEY_USE_ENCRYPT, buf_bytes(&b->aad), sealed, &b->key, &plain, e));
    r->plaintext = pb_view(plain);
    r->name = run_name(c, b);
    return ok();
}

static RESULT encrypt_items(struct call *c, EncryptItem *const *items, size_t n, EncryptResult ***ret, uint32_t *ret_failed,
                            struct err *e)
{
    CLEANUP(batch_release) struct batch b = {.encrypt = items};
    const struct items_work w = {.one = encrypt_one, .batch = &b, .result = &claviger__envelope__v1__encrypt_result__descriptor,
                                 .status = offsetof(EncryptResult, status)};
    buf_init(&b.aad, ITEM_AAD_MAX);
    return items_each(c, &w, n, ret, ret_failed, e);
}

static RESULT decrypt_items(struct call *c, DecryptItem *const *items, size_t n, DecryptResult ***ret, uint32_t *ret_failed,
                            struct err *e)
{
    CLEANUP(batch_release) struct batch b = {.decrypt = items};
    const struct items_work w = {.one = decrypt_one, .batch = &b, .result = &claviger__envelope__v1__decrypt_result__descriptor,
                                 .status = offsetof(DecryptResult, status)};
    buf_init(&b.aad, ITEM_AAD_MAX);
    return items_each(c, &w, n, ret, ret_failed, e);
}

/* ---- unary ----------------------------------------------------------------------------------------------------------- */
static struct result batch_encrypt(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const EncryptRequest *q = (const EncryptRequest *)req;
    Claviger__Envelope__V1__BatchEncryptResponse *r = call_response(c);
    TRY(encrypt_items(c, q->items, q->n_items, &r->results, &r->failed, e));
    r->n_results = q->n_items;
    *resp = &r->base;
    return ok();
}

static struct result batch_decrypt(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const DecryptRequest *q = (const DecryptRequest *)req;
    Claviger__Envelope__V1__BatchDecryptResponse *r = call_response(c);
    TRY(decrypt_items(c, q->items, q->n_items, &r->results, &r->failed, e));
    r->n_results = q->n_items;
    *resp = &r->base;
    return ok();
}

/* ---- streams: c->stream is the name given first, as text ---------------------------------------------------------------- */
static struct result stream_encrypt(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const Claviger__Envelope__V1__EncryptStreamRequest *q = (const Claviger__Envelope__V1__EncryptStreamRequest *)req;
    Claviger__Envelope__V1__EncryptStreamResponse *r = call_response(c);
    TRY(encrypt_items(c, q->items, q->n_items, &r->results, &r->failed, e));
    items_remember_name(c, q->name);
    r->n_results = q->n_items;
    r->sequence = q->sequence;
    *resp = &r->base;
    return ok();
}

static struct result stream_decrypt(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const Claviger__Envelope__V1__DecryptStreamRequest *q = (const Claviger__Envelope__V1__DecryptStreamRequest *)req;
    Claviger__Envelope__V1__DecryptStreamResponse *r = call_response(c);
    TRY(decrypt_items(c, q->items, q->n_items, &r->results, &r->failed, e));
    items_remember_name(c, q->name);
    r->n_results = q->n_items;
    r->sequence = q->sequence;
    *resp = &r->base;
    return ok();
}

static const struct rpc_stream encrypt_stream = {.message = stream_encrypt, .close = items_stream_close};
static const struct rpc_stream decrypt_stream = {.message = stream_decrypt, .close = items_stream_close};

/* The extractors read both a batch's and a stream's request: they begin alike (checked where it would go unnoticed). */
_Static_assert(offsetof(EncryptRequest, items) == offsetof(Claviger__Envelope__V1__EncryptStreamRequest, items), "layout");
_Static_assert(offsetof(DecryptRequest, items) == offsetof(Claviger__Envelope__V1__DecryptStreamRequest, items), "layout");

#define SERVICE "/claviger.envelope.v1.Envelope/"
#define MESSAGES(m) .request = &claviger__envelope__v1__##m##_request__descriptor, .response = &claviger__envelope__v1__##m##_response__descriptor
#define ITEMS .plane = PLANE_DATA, .per_item = true, .audit = AUDIT_USE, .limit = LIMIT_DATA, .lane = LANE_FAST
static const struct rpc_row rows[] = {
    {ITEMS, .kind = RPC_UNARY, .path = SERVICE "BatchEncrypt", MESSAGES(batch_encrypt), .action = "envelope.encrypt", .hot = true,
     .resources = encrypt_resources, .handle = batch_encrypt},
    {ITEMS, .kind = RPC_UNARY, .path = SERVICE "BatchDecrypt", MESSAGES(batch_decrypt), .action = "envelope.decrypt", .hot = true,
     .resources = decrypt_resources, .handle = batch_decrypt},
    {ITEMS, .kind = RPC_BIDI, .path = SERVICE "EncryptStream", MESSAGES(encrypt_stream), .action = "envelope.encrypt",
     .resources = encrypt_resources, .stream = &encrypt_stream},
    {ITEMS, .kind = RPC_BIDI, .path = SERVICE "DecryptStream", MESSAGES(decrypt_stream), .action = "envelope.decrypt",
     .resources = decrypt_resources, .stream = &decrypt_stream},
};
const struct row_list rows_envelope_batch = {rows, sizeof rows / sizeof rows[0]};
