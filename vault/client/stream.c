#include "vault/client/transport.h"

#include "base/clock.h"
#include "vault/client/error.h"
#include "vault/client/wire.h"

#include <stdlib.h>

struct stream {
    struct wire w;
    bool finished;  /* status has been read */
    bool receiving; /* the next answer is asked for already */
    grpc_byte_buffer *answer;
    uint32_t patience_ms; /* 0: for ever */
    char tag_initial, tag_status, tag_send, tag_recv;
};

static void stream_begin(struct stream *s)
{
    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    status.data.recv_status_on_client.trailing_metadata = &s->w.trailing;
    status.data.recv_status_on_client.status = &s->w.status;
    status.data.recv_status_on_client.status_details = &s->w.details;
    wire_start(&s->w, &status, 1, &s->tag_status);
    grpc_op initial = {.op = GRPC_OP_RECV_INITIAL_METADATA};
    initial.data.recv_initial_metadata.recv_initial_metadata = &s->w.initial;
    wire_start(&s->w, &initial, 1, &s->tag_initial);
}

static struct result stream_failure(struct stream *s, struct claviger_error *e)
{
    if (!s->finished) {
        INVARIANT(wire_wait(&s->w, &s->tag_status));
        s->finished = true;
    }
    if (s->w.status == GRPC_STATUS_OK)
        return client_fail(e, CLAVIGER_UNAVAILABLE, "STREAM_ENDED", "the server ended the stream early");
    return wire_failure(&s->w, e);
}

static bool stream_wait(struct stream *s, void *tag)
{
    return s->patience_ms ? wire_wait_until(&s->w, tag, clock_boot_ms(&clock_system) + s->patience_ms) : wire_wait(&s->w, tag);
}

RESULT stream_open(struct transport *t, const struct rpc_options *o, struct stream **ret, struct claviger_error *e)
{
    struct stream *s = calloc(1, sizeof *s);
    INVARIANT(s);
    wire_new_request_id(s->w.request_id);
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (o->timeout_ms)
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(o->timeout_ms, GPR_TIMESPAN));
    wire_open(&s->w, t, o->path, o->idempotency_key, deadline);
    stream_begin(s);
    grpc_op op = {.op = GRPC_OP_SEND_INITIAL_METADATA};
    op.data.send_initial_metadata.count = s->w.nmeta;
    op.data.send_initial_metadata.metadata = s->w.meta;
    wire_start(&s->w, &op, 1, &s->tag_send);
    s->patience_ms = o->patience_ms;
    if (!stream_wait(s, &s->tag_send)) {
        struct result r = stream_failure(s, e);
        stream_close(s);
        return r;
    }
    *ret = s;
    return ok();
}

RESULT stream_send(struct stream *s, const ProtobufCMessage *m, struct claviger_error *e)
{
    if (s->finished)
        return stream_failure(s, e);
    grpc_slice packed = wire_pack(m);
    grpc_byte_buffer *b = grpc_raw_byte_buffer_create(&packed, 1);
    grpc_slice_unref(packed);
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    op.data.send_message.send_message = b;
    wire_start(&s->w, &op, 1, &s->tag_send);
    bool sent = stream_wait(s, &s->tag_send);
    grpc_byte_buffer_destroy(b);
    return sent ? ok() : stream_failure(s, e);
}

RESULT stream_half_close(struct stream *s, struct claviger_error *e)
{
    if (s->finished)
        return stream_failure(s, e);
    grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
    wire_start(&s->w, &op, 1, &s->tag_send);
    return stream_wait(s, &s->tag_send) ? ok() : stream_failure(s, e);
}

void stream_recv_start(struct stream *s)
{
    if (s->finished || s->receiving)
        return;
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &s->answer;
    s->receiving = true;
    wire_start(&s->w, &op, 1, &s->tag_recv);
}

RESULT stream_recv(struct stream *s, const ProtobufCMessageDescriptor *answer, struct arena *a, ProtobufCMessage **ret,
                   struct claviger_error *e)
{
    stream_recv_start(s);
    if (s->receiving)
        (void)stream_wait(s, &s->tag_recv); /* no message, for whatever cause: the status tells */
    s->receiving = false;
    grpc_byte_buffer *b = s->answer;
    s->answer = NULL;
    if (b) {
        struct result r = wire_unpack(b, answer, a, ret, e);
        grpc_byte_buffer_destroy(b);
        return r;
    }
    if (!s->finished) {
        INVARIANT(wire_wait(&s->w, &s->tag_status));
        s->finished = true;
    }
    if (s->w.status != GRPC_STATUS_OK)
        return wire_failure(&s->w, e);
    *ret = NULL;
    return ok();
}

void stream_cancel(struct stream *s)
{
    (void)grpc_call_cancel(s->w.call, NULL);
}

void stream_close(struct stream *s)
{
    if (!s)
        return;
    if (!s->finished) {
        (void)grpc_call_cancel(s->w.call, NULL);
        INVARIANT(wire_wait(&s->w, &s->tag_status));
    }
    (void)wire_wait(&s->w, &s->tag_initial);
    if (s->receiving)
        (void)wire_wait(&s->w, &s->tag_recv);
    if (s->answer)
        grpc_byte_buffer_destroy(s->answer);
    wire_close(&s->w);
    free(s);
}
