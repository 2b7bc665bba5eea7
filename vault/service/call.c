/* A call's life, and what handlers ask of it. */
#include "vault/service/call.h"

#include "vault/service/pipeline.h"

#include "base/text.h"

#include <stdlib.h>
#include <string.h>

enum { DEADLINE_DEFAULT_MS = 60000 };

/* Metadata is kept only when it is clean: a request id is for people to search by, not a place to smuggle bytes. */
static bool keep_meta(char out[CALL_META_MAX + 1], struct bytes in)
{
    out[0] = 0;
    if (in.n > CALL_META_MAX)
        return false;
    for (size_t i = 0; i < in.n; i++)
        if (in.p[i] < 0x21 || in.p[i] > 0x7e)
            return false;
    if (in.n > 0)
        memcpy(out, in.p, in.n);
    out[in.n] = 0;
    return true;
}

struct call *call_new(struct service *s, const struct call_start *start, struct call_sink sink)
{
    struct call *c = calloc(1, sizeof *c + sizeof *c->priv);
    INVARIANT(c != NULL);
    c->priv = (struct call_private *)(c + 1);
    c->priv->call = c;
    c->svc = s;
    c->row = start->row;
    c->sink = sink;
    arena_init(&c->arena, CALL_ARENA_MAX);
    c->conn = start->conn != NULL ? authn_conn_ref(start->conn) : NULL;
    c->start_boot_ns = clock_boot_ns(s->clock);
    c->start_wall_ns = clock_wall_ns(s->clock);
    c->deadline_boot_ms = start->deadline_boot_ms > 0 ? start->deadline_boot_ms : c->start_boot_ns / 1000000 + DEADLINE_DEFAULT_MS;
    (void)keep_meta(c->request_id, start->request_id);
    (void)keep_meta(c->trace_parent, start->trace_parent);
    c->priv->idempotency_unusable = !keep_meta(c->idempotency_key, start->idempotency_key);
    atomic_fetch_add_explicit(&s->calls_in_flight, 1, memory_order_relaxed);
    return c;
}

void call_message(struct call *c, struct bytes untrusted_message)
{
    c->priv->raw = untrusted_message;
    if (c->row->kind == RPC_UNARY)
        pipeline_run(c);
    else
        stream_message(c);
}

void call_half_close(struct call *c)
{
    stream_half_close(c);
}

void call_sent(struct call *c)
{
    if (c->row->kind != RPC_UNARY)
        stream_sent(c);
}

void call_cancel(struct call *c)
{
    atomic_store_explicit(&c->cancelled, true, memory_order_release);
}

bool call_is_cancelled(const struct call *c)
{
    return atomic_load_explicit(&c->cancelled, memory_order_acquire) || clock_boot_ms(c->svc->clock) >= c->deadline_boot_ms;
}

void call_free(struct call *c)
{
    struct service *s = c->svc;
    if (c->row->kind != RPC_UNARY && c->priv->opened)
        c->row->stream->close(c);
    tenant_ref_drop(c->priv->tenant);
    policy_unref((struct policy_set *)(uintptr_t)c->policy);
    authn_identity_release(&c->id);
    authn_conn_unref(c->conn);
    arena_release(&c->arena);
    arena_release(&c->priv->request_arena);
    free(c);
    atomic_fetch_sub_explicit(&s->calls_in_flight, 1, memory_order_relaxed);
}

const char *call_resource_text(const struct call *c)
{
    return c->priv->resource_text;
}

const struct clock *call_clock(const struct call *c)
{
    return c->svc->clock;
}

void *call_new_message(struct call *c, const ProtobufCMessageDescriptor *d)
{
    void *m = arena_zalloc(&c->arena, d->sizeof_message);
    if (m != NULL)
        protobuf_c_message_init(d, m);
    return m;
}

void *call_response(struct call *c)
{
    void *m = call_new_message(c, c->row->response);
    INVARIANT(m != NULL); /* answers are bounded well below the arena's limit */
    return m;
}

ProtobufCBinaryData call_text(struct call *c, const char *s)
{
    size_t n = strlen(s);
    char *copy = arena_dup(&c->arena, s, n + 1);
    INVARIANT(copy != NULL);
    return (ProtobufCBinaryData){n, (uint8_t *)copy};
}

RESULT call_commit(struct call *c, struct store_txn *txn, const ProtobufCMessage *resp, struct err *e)
{
    CLEANUP(buf_release) struct buf event;
    buf_init(&event, EVENT_MAX_BYTES);
    memset(c->ev.id, 0, sizeof c->ev.id); /* the outbox gives it: its sequence is known at the commit */
    pipeline_event(c, NULL, &event);
    const struct audit_tenant *t = pipeline_audit_tenant(c);
    store_txn_event(txn, t->id, buf_bytes(&event));
    if (c->idempotency_key[0] != 0)
        idempotency_put(c, resp, txn);
    return store_txn_commit(txn, &c->outbox_seq, e);
}
