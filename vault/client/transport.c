#include "vault/client/transport.h"

#include "base/clock.h"
#include "vault/client/error.h"
#include "vault/client/wire.h"

#include <stdlib.h>
#include <string.h>

struct rpc {
    struct wire w;
    struct rpc_options o;
    char *path, *key; /* copies: retries outlive the caller's strings */
    grpc_slice request;
    grpc_byte_buffer *answer;
    int64_t deadline_ms; /* boot clock */
    unsigned attempts;
};

static void rpc_attempt(struct rpc *r)
{
    int64_t left_ms = r->deadline_ms - clock_boot_ms(&clock_system);
    gpr_timespec deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(left_ms, GPR_TIMESPAN));
    wire_open(&r->w, r->w.t, r->path, r->key, deadline);
    grpc_byte_buffer *request = grpc_raw_byte_buffer_create(&r->request, 1);
    r->answer = NULL;
    grpc_op ops[6] = {0};
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].data.send_initial_metadata.count = r->w.nmeta;
    ops[0].data.send_initial_metadata.metadata = r->w.meta;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = request;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &r->w.initial;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &r->answer;
    ops[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[5].data.recv_status_on_client.trailing_metadata = &r->w.trailing;
    ops[5].data.recv_status_on_client.status = &r->w.status;
    ops[5].data.recv_status_on_client.status_details = &r->w.details;
    wire_start(&r->w, ops, 6, r);
    grpc_byte_buffer_destroy(request); /* gRPC took its own reference */
    r->attempts++;
}

struct rpc *rpc_start(struct transport *t, const struct rpc_options *o, const ProtobufCMessage *req)
{
    struct rpc *r = calloc(1, sizeof *r);
    INVARIANT(r);
    r->o = *o;
    r->path = strdup(o->path);
    r->key = o->idempotency_key ? strdup(o->idempotency_key) : NULL;
    INVARIANT(r->path && (r->key || !o->idempotency_key));
    r->w.t = t;
    r->request = wire_pack(req);
    r->deadline_ms = clock_boot_ms(&clock_system) + (o->timeout_ms ? o->timeout_ms : t->timeout_ms);
    wire_new_request_id(r->w.request_id);
    rpc_attempt(r);
    return r;
}

static bool should_retry(struct rpc *r)
{
    if (r->w.status != GRPC_STATUS_UNAVAILABLE || !r->o.retry || r->attempts >= r->w.t->max_attempts)
        return false;
    struct claviger_error e = {0};
    (void)wire_failure(&r->w, &e);
    return wire_back_off(r->attempts, e.retry_after_ms, r->deadline_ms);
}

static void rpc_free(struct rpc *r)
{
    if (r->answer)
        grpc_byte_buffer_destroy(r->answer);
    wire_close(&r->w);
    grpc_slice_unref(r->request);
    free(r->path);
    free(r->key);
    free(r);
}

static struct result rpc_outcome(struct rpc *r, const ProtobufCMessageDescriptor *answer, struct arena *a,
                                 ProtobufCMessage **ret, struct claviger_error *e)
{
    if (r->w.status != GRPC_STATUS_OK)
        return wire_failure(&r->w, e);
    if (!r->answer)
        return client_fail(e, CLAVIGER_INTERNAL, "BAD_ANSWER", "the server sent OK without a message");
    return wire_unpack(r->answer, answer, a, ret, e);
}

RESULT rpc_finish(struct rpc *r, const ProtobufCMessageDescriptor *answer, struct arena *a, ProtobufCMessage **ret,
                  struct claviger_error *e)
{
    INVARIANT(wire_wait(&r->w, r)); /* a batch with RECV_STATUS always completes well; the status says how it went */
    while (should_retry(r)) {
        if (r->answer)
            grpc_byte_buffer_destroy(r->answer);
        wire_close(&r->w);
        rpc_attempt(r);
        INVARIANT(wire_wait(&r->w, r));
    }
    struct result res = rpc_outcome(r, answer, a, ret, e);
    rpc_free(r);
    return res;
}

RESULT rpc_unary(struct transport *t, const struct rpc_options *o, const ProtobufCMessage *req,
                 const ProtobufCMessageDescriptor *answer, struct arena *a, ProtobufCMessage **ret, struct claviger_error *e)
{
    return rpc_finish(rpc_start(t, o, req), answer, a, ret, e);
}
