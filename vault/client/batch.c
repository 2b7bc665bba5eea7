#include "vault/client/internal.h"

#include "claviger/envelope/v1/envelope.pb-c.h"

#include <stdlib.h>
#include <string.h>

struct batch {
    struct rpc *rpc;
    bool encrypt;
    struct claviger_item *items;
    size_t n;
    char first_failure[128]; /* in words */
};

RESULT items_check(const struct claviger_item *items, size_t n, size_t extra, struct claviger_error *e)
{
    if (n == 0 || n > CLAVIGER_BATCH_MAX)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_BATCH", "a batch has 1 to %d items, not %zu", CLAVIGER_BATCH_MAX, n);
    size_t total = 0;
    for (size_t i = 0; i < n; i++) {
        TRY(binding_check(&items[i].binding, true, e));
        total += items[i].in_len + items[i].binding.aad_len;
        for (size_t j = 0; j < items[i].binding.context_len; j++)
            total += strlen(items[i].binding.context[j].key) + strlen(items[i].binding.context[j].value);
        if (total > CLAVIGER_BATCH_BYTES_MAX + extra)
            return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_BATCH", "a batch holds %d bytes at most",
                               CLAVIGER_BATCH_BYTES_MAX);
    }
    return ok();
}

void items_clear(struct claviger_item *items, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        items[i].out = (struct claviger_buffer){0};
        items[i].code = CLAVIGER_OK;
        items[i].reason[0] = 0;
        items[i].version = items[i].source_version = 0;
    }
}

RESULT items_outcome(size_t n, size_t failed, const char *first, struct claviger_error *e)
{
    if (failed > 0 && n == 1 && *first)
        return client_fail(e, CLAVIGER_ABORTED, "ITEMS_FAILED", "%s", first);
    if (failed > 0)
        return client_fail(e, CLAVIGER_ABORTED, "ITEMS_FAILED", "%zu of %zu items failed; the first: %s", failed, n, first);
    return ok();
}

/* EncryptItem and DecryptItem are the same but for the name of their first field; so are the two requests but for their items' type. */
typedef Claviger__Envelope__V1__EncryptItem Item;
typedef Claviger__Envelope__V1__BatchEncryptRequest Request;
_Static_assert(sizeof(Item) == sizeof(Claviger__Envelope__V1__DecryptItem), "items differ");
_Static_assert(offsetof(Item, plaintext) == offsetof(Claviger__Envelope__V1__DecryptItem, ciphertext), "items differ");
_Static_assert(offsetof(Item, context) == offsetof(Claviger__Envelope__V1__DecryptItem, context), "items differ");
_Static_assert(sizeof(Request) == sizeof(Claviger__Envelope__V1__BatchDecryptRequest), "requests differ");
_Static_assert(offsetof(Request, items) == offsetof(Claviger__Envelope__V1__BatchDecryptRequest, items), "requests differ");

static const struct way {
    const char *path;
    const ProtobufCMessageDescriptor *request, *item, *pair;
} encrypting = {"/claviger.envelope.v1.Envelope/BatchEncrypt", &claviger__envelope__v1__batch_encrypt_request__descriptor,
                &claviger__envelope__v1__encrypt_item__descriptor, &claviger__envelope__v1__encrypt_item__context_entry__descriptor},
  decrypting = {"/claviger.envelope.v1.Envelope/BatchDecrypt", &claviger__envelope__v1__batch_decrypt_request__descriptor,
                &claviger__envelope__v1__decrypt_item__descriptor, &claviger__envelope__v1__decrypt_item__context_entry__descriptor};

static struct rpc *start(struct transport *t, const struct way *w, const char *key, const struct claviger_item *items, size_t n,
                         struct arena *a)
{
    Request q;
    Item **list = arena_alloc(a, n * sizeof *list), *all = arena_alloc(a, n * sizeof *all);
    INVARIANT(list && all);
    for (size_t i = 0; i < n; i++) {
        protobuf_c_message_init(w->item, &all[i]);
        all[i].plaintext = pb_of(BYTES(items[i].in, items[i].in_len));
        all[i].additional_authenticated_data = binding_aad(&items[i].binding);
        all[i].context = (void *)binding_entries(&items[i].binding, w->pair, a, &all[i].n_context);
        list[i] = &all[i];
    }
    protobuf_c_message_init(w->request, &q);
    q.name = pb_of(bytes_str(key));
    q.items = list;
    q.n_items = n;
    struct rpc_options o = {.path = w->path, .retry = true};
    return rpc_start(t, &o, &q.base);
}

RESULT batch_start(struct transport *t, const char *key, bool encrypt, struct claviger_item *items, size_t n, struct batch **ret,
                   struct claviger_error *e)
{
    TRY(items_check(items, n, encrypt ? 0 : 32768, e)); /* ciphertexts are longer than what they hold: the server's limit is on the message */
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    struct batch *b = calloc(1, sizeof *b);
    INVARIANT(b);
    b->encrypt = encrypt;
    b->items = items;
    b->n = n;
    b->rpc = start(t, encrypt ? &encrypting : &decrypting, key, items, n, &a);
    *ret = b;
    return ok();
}

static struct result take_item(struct batch *b, size_t i, ProtobufCBinaryData out, const Claviger__Envelope__V1__ItemStatus *st,
                               size_t *failed, struct claviger_error *e)
{
    struct claviger_item *item = &b->items[i];
    item->code = st ? client_known_code(st->code) : CLAVIGER_OK;
    if (item->code == CLAVIGER_OK)
        return buffer_from(pb_bytes_of(out), &item->out, e);
    client_copy_text(item->reason, sizeof item->reason, pb_bytes_of(st->reason));
    if ((*failed)++ == 0)
        client_copy_text(b->first_failure, sizeof b->first_failure, pb_bytes_of(st->message));
    return ok();
}

static struct result take_items(struct batch *b, const ProtobufCMessage *m, size_t *failed, struct claviger_error *e)
{
    const Claviger__Envelope__V1__BatchEncryptResponse *enc = (const void *)m;
    const Claviger__Envelope__V1__BatchDecryptResponse *dec = (const void *)m;
    size_t n = b->encrypt ? enc->n_results : dec->n_results;
    if (n != b->n)
        return client_fail(e, CLAVIGER_INTERNAL, "BAD_ANSWER", "%zu items were sent and %zu came back", b->n, n);
    for (size_t i = 0; i < n; i++) {
        if (b->encrypt)
            TRY(take_item(b, i, enc->results[i]->ciphertext, enc->results[i]->status, failed, e));
        if (!b->encrypt)
            TRY(take_item(b, i, dec->results[i]->plaintext, dec->results[i]->status, failed, e));
    }
    return ok();
}

static struct result finish(struct batch *b, struct arena *a, struct claviger_error *e)
{
    const ProtobufCMessageDescriptor *d = b->encrypt ? &claviger__envelope__v1__batch_encrypt_response__descriptor
                                                     : &claviger__envelope__v1__batch_decrypt_response__descriptor;
    ProtobufCMessage *m = NULL;
    TRY(rpc_finish(b->rpc, d, a, &m, e));
    size_t failed = 0;
    struct result r = take_items(b, m, &failed, e);
    if (r.failed) {
        claviger_items_free(b->items, b->n);
        return r;
    }
    return items_outcome(b->n, failed, b->first_failure, e);
}

RESULT batch_finish(struct batch *b, struct claviger_error *e)
{
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    items_clear(b->items, b->n);
    struct result r = finish(b, &a, e);
    free(b);
    return r;
}

static int run(struct claviger *c, const char *key, bool encrypt, struct claviger_item *items, size_t n, struct claviger_error *error)
{
    struct claviger_error e;
    struct batch *b = NULL;
    struct result r = batch_start(c->transport, key, encrypt, items, n, &b, &e);
    if (!r.failed)
        r = batch_finish(b, &e);
    return client_return(r, &e, error);
}

int claviger_encrypt_batch(struct claviger *c, const char *key, struct claviger_item *items, size_t items_len,
                           struct claviger_error *error)
{
    return run(c, key, true, items, items_len, error);
}

int claviger_decrypt_batch(struct claviger *c, const char *key, struct claviger_item *items, size_t items_len,
                           struct claviger_error *error)
{
    return run(c, key, false, items, items_len, error);
}

void claviger_items_free(struct claviger_item *items, size_t items_len)
{
    for (size_t i = 0; i < items_len; i++)
        claviger_buffer_free(&items[i].out);
}
