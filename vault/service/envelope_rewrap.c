/* claviger.envelope.v1: rewrapping in batches and streams, for a client that moves its data to a key's newest version. Data and
 * wrapped keys alike. What is on the newest version is opened all the same, so that the answer says it is good, and returned as it
 * was: a campaign that is run again writes nothing anew. */
#include "vault/service/crypt.h"
#include "vault/service/items.h"
#include "vault/service/rows.h"

typedef Claviger__Envelope__V1__RewrapItem RewrapItem;
typedef Claviger__Envelope__V1__RewrapResult RewrapResult;
typedef Claviger__Envelope__V1__BatchRewrapRequest BatchRequest;
typedef Claviger__Envelope__V1__RewrapStreamRequest StreamRequest;

static ProtobufCBinaryData item_name(const void *q, size_t i)
{
    return ((const BatchRequest *)q)->items[i]->name;
}

static struct result resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    const BatchRequest *q = (const BatchRequest *)req; /* the stream's message begins with the same fields */
    return items_resources(c, q->name, q->n_items, item_name, q, 1u << NAME_CRYPTOKEY, e);
}

/* ---- items --------------------------------------------------------------------------------------------------------- */
struct batch {
    RewrapItem *const *items;
    struct crypt_key from, to;   /* kept while name, version and use stay the same */
    const struct name *key_name; /* equal names point to one: what crypt re-uses a key by */
    const struct name *found;    /* the one that is known to exist */
    struct buf aad;
};

static void batch_release(struct batch *b)
{
    crypt_key_release(&b->from);
    crypt_key_release(&b->to);
    buf_release(&b->aad);
}

/* The key's existence before any field of the item, as in Rewrap. */
static RESULT key_exists(struct call *c, struct batch *b, const struct name *n, struct err *e)
{
    if (b->found == n)
        return ok();
    TRY(keyring_key_exists(c->svc->keyring, n, c->may_block, e));
    b->found = n;
    return ok();
}

/* The event names the version that the last item is under now; the name is copied once for a run of them. */
static void tell_version(struct call *c, const struct crypt_key *to)
{
    if (!bytes_equal(c->ev.key_version, to->view.version_name))
        (void)crypt_version_name(c, to);
}

static RESULT rewrap_one(struct call *c, void *batch, size_t i, void *result, struct err *e)
{
    struct batch *b = batch;
    const struct resource *res = &c->resources[i];
    const RewrapItem *item = b->items[i];
    RewrapResult *r = result;
    const struct name *n = items_same_name(&b->key_name, &res->name);
    struct bytes sealed = pb_bytes(item->ciphertext), again;
    bool verified;
    TRY(item_allowed(res, e));
    TRY(key_exists(c, b, n, e));
    TRY(field_check_size(sealed, FIELD_BYTES_MAX + FORMAT_OVERHEAD, "ciphertext", e));
    TRY(field_check_crc32c(item->ciphertext_crc32c, sealed, "ciphertext_crc32c", &verified, e));
    b->aad.n = 0; /* public data: no need to wipe between items */
    TRY(field_aad((ProtobufCMessage *const *)item->context, item->n_context, item->additional_authenticated_data, &b->aad, e));
    TRY(crypt_rewrap(c, n, buf_bytes(&b->aad), sealed, &b->from, &b->to, &again, e));
    tell_version(c, &b->to);
    r->ciphertext = pb_view(again);
    r->ciphertext_crc32c = field_crc32c(c, again);
    r->source_version = b->from.view.version;
    r->version = b->to.view.version;
    r->already_newest = r->source_version == r->version;
    return ok();
}

static RESULT rewrap_items(struct call *c, RewrapItem *const *items, size_t n, RewrapResult ***ret, uint32_t *ret_failed, struct err *e)
{
    CLEANUP(batch_release) struct batch b = {.items = items};
    const struct items_work w = {.one = rewrap_one, .batch = &b, .result = &claviger__envelope__v1__rewrap_result__descriptor,
                                 .status = offsetof(RewrapResult, status)};
    buf_init(&b.aad, ITEM_AAD_MAX);
    return items_each(c, &w, n, ret, ret_failed, e);
}

/* ---- one message -------------------------------------------------------------------------------------------------------- */
static struct result batch_rewrap(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const BatchRequest *q = (const BatchRequest *)req;
    Claviger__Envelope__V1__BatchRewrapResponse *r = call_response(c);
    TRY(rewrap_items(c, q->items, q->n_items, &r->results, &r->failed, e));
    r->n_results = q->n_items;
    *resp = &r->base;
    return ok();
}

static struct result stream_rewrap(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const StreamRequest *q = (const StreamRequest *)req;
    Claviger__Envelope__V1__RewrapStreamResponse *r = call_response(c);
    TRY(rewrap_items(c, q->items, q->n_items, &r->results, &r->failed, e));
    items_remember_name(c, q->name);
    r->n_results = q->n_items;
    r->sequence = q->sequence;
    *resp = &r->base;
    return ok();
}

static const struct rpc_stream rewrap_stream = {.message = stream_rewrap, .close = items_stream_close};
_Static_assert(offsetof(BatchRequest, items) == offsetof(StreamRequest, items), "layout");

#define SERVICE "/claviger.envelope.v1.Envelope/"
#define MESSAGES(m) .request = &claviger__envelope__v1__##m##_request__descriptor, .response = &claviger__envelope__v1__##m##_response__descriptor
#define ITEMS .plane = PLANE_DATA, .per_item = true, .audit = AUDIT_USE, .limit = LIMIT_DATA, .lane = LANE_FAST, .action = "envelope.rewrap", \
              .resources = resources
static const struct rpc_row rows[] = {
    {ITEMS, .kind = RPC_UNARY, .path = SERVICE "BatchRewrap", MESSAGES(batch_rewrap), .handle = batch_rewrap},
    {ITEMS, .kind = RPC_BIDI, .path = SERVICE "RewrapStream", MESSAGES(rewrap_stream), .stream = &rewrap_stream},
};
const struct row_list rows_envelope_rewrap = {rows, sizeof rows / sizeof rows[0]};
