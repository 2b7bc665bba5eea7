/* google.cloud.kms.v1: key rings. */
#include "vault/service/kms_view.h"
#include "vault/service/listing.h"
#include "vault/service/rows.h"

typedef Google__Cloud__Kms__V1__CreateKeyRingRequest CreateRequest;
typedef Google__Cloud__Kms__V1__GetKeyRingRequest GetRequest;
typedef Google__Cloud__Kms__V1__ListKeyRingsRequest ListRequest;
typedef Google__Cloud__Kms__V1__ListKeyRingsResponse ListResponse;

static void view_ring(struct call *c, const struct keyring_ring *m, KeyRing *r)
{
    r->name = pb_view(m->name);
    r->create_time = field_time(c, m->created_ns);
}

static struct result create_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    const CreateRequest *q = (const CreateRequest *)req;
    return field_child(c, q->parent, NAME_LOCATION, "parent", q->key_ring_id, "key_ring_id", e);
}

static struct result create(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    KeyRing *r = call_response(c);
    struct keyring_ring m;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    TRY(keyring_ring_create(c->svc->keyring, &c->resources[0].name, txn, &c->arena, &m, e));
    view_ring(c, &m, r);
    TRY(call_commit(c, txn, &r->base, e));
    *resp = &r->base;
    return ok();
}

static struct result get_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const GetRequest *)req)->name, 1u << NAME_KEYRING, "name", e);
}

static struct result get(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    KeyRing *r = call_response(c);
    struct keyring_ring m;
    TRY(keyring_ring_get(c->svc->keyring, &c->resources[0].name, &c->arena, &m, e));
    view_ring(c, &m, r);
    *resp = &r->base;
    return ok();
}

static struct result list_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const ListRequest *)req)->parent, 1u << NAME_LOCATION, "parent", e);
}

/* One page: rows are looked at until the page is full, the list ends, or enough have been looked at; then there is a token. */
static RESULT fill(struct call *c, struct listing *l, ListResponse *r, struct err *e)
{
    struct bytes after = l->after;
    size_t looked = 0, got;
    r->key_rings = arena_alloc(&c->arena, l->page * sizeof *r->key_rings);
    INVARIANT(r->key_rings != NULL);
    do {
        struct keyring_ring *rows;
        TRY(keyring_ring_list(c->svc->keyring, &c->resources[0].name, after, l->descending, VIEW_CHUNK, &c->arena, &rows, &got, e));
        for (size_t i = 0; i < got; i++) {
            if (r->n_key_rings == l->page) {
                r->next_page_token = listing_token(c, l, after);
                return ok();
            }
            after = view_last_segment(rows[i].name);
            if (!listing_match_name(l, rows[i].name))
                continue;
            KeyRing *m = r->key_rings[r->n_key_rings++] = call_new_message(c, &google__cloud__kms__v1__key_ring__descriptor);
            INVARIANT(m != NULL);
            view_ring(c, &rows[i], m);
        }
        looked += got;
    } while (listing_goes_on(c, got, VIEW_CHUNK, looked));
    if (got == VIEW_CHUNK)
        r->next_page_token = listing_token(c, l, after);
    return ok();
}

static struct result list(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const ListRequest *q = (const ListRequest *)req;
    ListResponse *r = call_response(c);
    struct listing l;
    TRY(listing_parse(c, q->page_size, q->page_token, q->filter, q->order_by, (struct bytes){0}, 1u << TERM_NAME, &l, e));
    TRY(fill(c, &l, r, e));
    TRY(view_total(c, &l, NAME_KEYRING, &r->total_size, e));
    *resp = &r->base;
    return ok();
}

static const struct rpc_row rows[] = {
    {KMS_CHANGE, .path = KMS_SERVICE "CreateKeyRing", KMS_MESSAGES(create_key_ring_request, key_ring), .action = "kms.keyRings.create",
     .resources = create_resources, .handle = create},
    {KMS_READ, .path = KMS_SERVICE "GetKeyRing", KMS_MESSAGES(get_key_ring_request, key_ring), .action = "kms.keyRings.get",
     .resources = get_resources, .handle = get},
    {KMS_READ, .path = KMS_SERVICE "ListKeyRings", KMS_MESSAGES(list_key_rings_request, list_key_rings_response),
     .action = "kms.keyRings.list", .resources = list_resources, .handle = list},
};
const struct row_list rows_kms_rings = {rows, sizeof rows / sizeof rows[0]};
