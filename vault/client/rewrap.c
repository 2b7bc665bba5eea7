/* Rewrapping many: in one call, or batch after batch through a stream that mends itself. */
#include "vault/client/internal.h"

#include "base/clock.h"
#include "claviger/envelope/v1/envelope.pb-c.h"
#include "vault/client/wire.h"

#include <stdlib.h>
#include <string.h>

#define ENVELOPE "/claviger.envelope.v1.Envelope/"
enum { CIPHERTEXT_EXTRA = 24576 }; /* over CLAVIGER_BATCH_BYTES_MAX; the rest of a message is for checksums, tags and lengths */

typedef Claviger__Envelope__V1__RewrapItem Item;
typedef Claviger__Envelope__V1__RewrapResult Result;

/* ---- items to messages and back ------------------------------------------------------------------------------------------- */

static Item **item_messages(const struct claviger_item *items, size_t n, struct arena *a)
{
    Item **list = arena_alloc(a, n * sizeof *list), *all = arena_alloc(a, n * sizeof *all);
    INVARIANT(list && all);
    for (size_t i = 0; i < n; i++) {
        struct bytes in = BYTES(items[i].in, items[i].in_len);
        claviger__envelope__v1__rewrap_item__init(&all[i]);
        all[i].ciphertext = pb_of(in);
        all[i].ciphertext_crc32c = crc_of(in, a);
        all[i].additional_authenticated_data = binding_aad(&items[i].binding);
        all[i].context = (void *)binding_entries(&items[i].binding, &claviger__envelope__v1__rewrap_item__context_entry__descriptor,
                                                 a, &all[i].n_context);
        list[i] = &all[i];
    }
    return list;
}

static struct result take_result(struct claviger_item *item, const Result *r, struct claviger_error *e)
{
    if (r->status) {
        item->code = client_known_code(r->status->code);
        client_copy_text(item->reason, sizeof item->reason, pb_bytes_of(r->status->reason));
    }
    if (item->code != CLAVIGER_OK)
        return ok();
    TRY(crc_check(r->ciphertext, r->ciphertext_crc32c, e));
    item->version = r->version;
    item->source_version = r->source_version;
    return buffer_from(pb_bytes_of(r->ciphertext), &item->out, e);
}

static struct result take_results(struct claviger_item *items, size_t n, Result *const *results, size_t got, struct claviger_error *e)
{
    if (got != n)
        return client_fail(e, CLAVIGER_INTERNAL, "BAD_ANSWER", "%zu items were sent and %zu came back", n, got);
    size_t failed = 0;
    char first[128] = "";
    items_clear(items, n);
    for (size_t i = 0; i < n; i++) {
        struct result r = take_result(&items[i], results[i], e);
        if (r.failed) { /* the batch as a whole: nothing of it is handed out */
            claviger_items_free(items, i);
            items_clear(items, n);
            return r;
        }
        if (items[i].code != CLAVIGER_OK && failed++ == 0)
            client_copy_text(first, sizeof first, pb_bytes_of(results[i]->status->message));
    }
    return items_outcome(n, failed, first, e);
}

/* ---- one call ---------------------------------------------------------------------------------------------------------------- */

static struct result rewrap_batch(struct transport *t, const char *key, struct claviger_item *items, size_t n, struct claviger_error *e)
{
    TRY(items_check(items, n, CIPHERTEXT_EXTRA, e));
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    Claviger__Envelope__V1__BatchRewrapRequest q = CLAVIGER__ENVELOPE__V1__BATCH_REWRAP_REQUEST__INIT;
    q.name = pb_of(bytes_str(key));
    q.items = item_messages(items, n, &a);
    q.n_items = n;
    struct rpc_options o = {.path = ENVELOPE "BatchRewrap", .retry = true};
    ProtobufCMessage *m = NULL;
    items_clear(items, n);
    TRY(rpc_unary(t, &o, &q.base, &claviger__envelope__v1__batch_rewrap_response__descriptor, &a, &m, e));
    const Claviger__Envelope__V1__BatchRewrapResponse *p = (const void *)m;
    return take_results(items, n, p->results, p->n_results, e);
}

int claviger_rewrap_batch(struct claviger *c, const char *key, struct claviger_item *items, size_t items_len,
                          struct claviger_error *error)
{
    struct claviger_error e;
    return client_return(rewrap_batch(c->transport, key, items, items_len, &e), &e, error);
}

/* ---- a stream ---------------------------------------------------------------------------------------------------------------- */

struct waiting { /* for its answer */
    struct claviger_item *items;
    size_t n;
    bool sent; /* through the stream that is open now */
};

struct claviger_rewrap_stream {
    struct transport *t;
    char *key;
    struct stream *s; /* NULL: none is open */
    struct waiting ring[CLAVIGER_REWRAP_WINDOW];
    size_t head, filled;
    uint64_t sequence; /* of the oldest unanswered batch; echoed */
};

static struct waiting *waiting_at(struct claviger_rewrap_stream *r, size_t i)
{
    return &r->ring[(r->head + i) % CLAVIGER_REWRAP_WINDOW];
}

static void drop_stream(struct claviger_rewrap_stream *r)
{
    stream_close(r->s);
    r->s = NULL;
    for (size_t i = 0; i < r->filled; i++)
        waiting_at(r, i)->sent = false;
}

static struct result send_one(struct claviger_rewrap_stream *r, size_t i, struct claviger_error *e)
{
    struct waiting *w = waiting_at(r, i);
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    Claviger__Envelope__V1__RewrapStreamRequest q = CLAVIGER__ENVELOPE__V1__REWRAP_STREAM_REQUEST__INIT;
    q.name = pb_of(bytes_str(r->key));
    q.items = item_messages(w->items, w->n, &a);
    q.n_items = w->n;
    q.sequence = r->sequence + i;
    if (i > 0) /* the server reads this one when the answer before it has been taken, and nobody else is there to take it */
        stream_recv_start(r->s);
    TRY(stream_send(r->s, &q.base, e));
    w->sent = true;
    return ok();
}

/* A stream is there, and all that waits has been sent through it. */
static struct result bring_up(struct claviger_rewrap_stream *r, struct claviger_error *e)
{
    struct rpc_options o = {.path = ENVELOPE "RewrapStream", .patience_ms = r->t->timeout_ms};
    if (!r->s)
        TRY(stream_open(r->t, &o, &r->s, e));
    for (size_t i = 0; i < r->filled; i++)
        if (!waiting_at(r, i)->sent)
            TRY(send_one(r, i, e));
    return ok();
}

/* *ret_answered: the oldest batch is done, whatever became of its items. */
static struct result attempt(struct claviger_rewrap_stream *r, bool *ret_answered, struct claviger_error *e)
{
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    ProtobufCMessage *m = NULL;
    TRY(bring_up(r, e));
    TRY(stream_recv(r->s, &claviger__envelope__v1__rewrap_stream_response__descriptor, &a, &m, e));
    if (!m)
        return client_fail(e, CLAVIGER_UNAVAILABLE, "STREAM_ENDED", "the server ended the stream early");
    const Claviger__Envelope__V1__RewrapStreamResponse *p = (const void *)m;
    if (p->sequence != r->sequence)
        return client_fail(e, CLAVIGER_INTERNAL, "BAD_ANSWER", "batch %llu was answered in place of %llu",
                           (unsigned long long)p->sequence, (unsigned long long)r->sequence);
    struct waiting *w = waiting_at(r, 0);
    struct result done = take_results(w->items, w->n, p->results, p->n_results, e);
    *ret_answered = !done.failed || e->code == CLAVIGER_ABORTED;
    return done;
}

static struct result receive(struct claviger_rewrap_stream *r, struct claviger_error *e)
{
    if (r->filled == 0)
        return client_fail(e, CLAVIGER_FAILED_PRECONDITION, "NOTHING_SENT", "no batch is waiting for its answer");
    int64_t give_up_ms = clock_boot_ms(&clock_system) + r->t->timeout_ms;
    unsigned attempts = 1;
    bool answered = false;
    struct result done = attempt(r, &answered, e);
    while (!answered) {
        drop_stream(r);
        if (e->code != CLAVIGER_UNAVAILABLE || attempts >= r->t->max_attempts || !wire_back_off(attempts, e->retry_after_ms, give_up_ms))
            return done;
        attempts++;
        done = attempt(r, &answered, e);
    }
    r->head = (r->head + 1) % CLAVIGER_REWRAP_WINDOW;
    r->filled--;
    r->sequence++;
    return done;
}

static struct result send(struct claviger_rewrap_stream *r, struct claviger_item *items, size_t n, struct claviger_error *e)
{
    struct claviger_error later;
    if (r->filled == CLAVIGER_REWRAP_WINDOW)
        return client_fail(e, CLAVIGER_FAILED_PRECONDITION, "WINDOW_FULL", "%d batches are unanswered: receive one first",
                           CLAVIGER_REWRAP_WINDOW);
    TRY(items_check(items, n, CIPHERTEXT_EXTRA, e));
    items_clear(items, n);
    *waiting_at(r, r->filled++) = (struct waiting){.items = items, .n = n};
    if (bring_up(r, &later).failed)
        drop_stream(r); /* whoever receives tries again, and is told why when that fails too */
    return ok();
}

int claviger_rewrap_stream_open(struct claviger *c, const char *key, struct claviger_rewrap_stream **ret, struct claviger_error *error)
{
    struct claviger_error e;
    if (!key || !*key)
        return client_return(client_fail(&e, CLAVIGER_INVALID_ARGUMENT, "BAD_KEY", "no key is named"), &e, error);
    struct claviger_rewrap_stream *r = calloc(1, sizeof *r);
    INVARIANT(r);
    r->t = c->transport;
    r->key = strdup(key);
    INVARIANT(r->key);
    r->sequence = 1;
    *ret = r;
    return CLAVIGER_OK;
}

int claviger_rewrap_stream_send(struct claviger_rewrap_stream *s, struct claviger_item *items, size_t items_len,
                                struct claviger_error *error)
{
    struct claviger_error e;
    return client_return(send(s, items, items_len, &e), &e, error);
}

int claviger_rewrap_stream_receive(struct claviger_rewrap_stream *s, struct claviger_error *error)
{
    struct claviger_error e;
    return client_return(receive(s, &e), &e, error);
}

void claviger_rewrap_stream_close(struct claviger_rewrap_stream *s)
{
    if (!s)
        return;
    stream_close(s->s);
    free(s->key);
    free(s);
}
