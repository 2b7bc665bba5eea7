/*
 * Purpose: a small gRPC core client for tests of the transport: unary calls, streams step by step, status and details.
 * Owns: channel and queue; a call, until every batch of it has ended: gRPC writes into the call until then, and a call on a
 *       frame that has returned would be somebody else's memory.
 * Threads: one. Errors: a step that does not complete in 2 min fails the test. Limits: none. Secrets: none.
 */
#ifndef TESTS_UNIT_VAULT_RPC_CLIENT_H
#define TESTS_UNIT_VAULT_RPC_CLIENT_H

#include "base/bytes.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <string.h>

enum { CLIENT_PATIENCE_MS = 60000 }; /* of a machine that has other work, too */

struct client {
    grpc_channel *channel;
    grpc_completion_queue *cq;
};
enum client_step { STEP_OPENED, STEP_HEADERS, STEP_STATUS, STEP_SAID, STEP_HEARD, STEP_CLOSED, STEP_UNARY, STEPS };
struct client_call;
struct client_tag {
    struct client_call *c;
    enum client_step step;
};
struct client_call {
    struct client *cl;
    struct client_tag tags[STEPS];
    unsigned pending, ended, failed; /* bits of steps: under way; over and not yet waited for; over, not well */
    grpc_call *call;
    grpc_metadata_array headers, trailers;
    grpc_status_code status;
    grpc_slice message;
    grpc_byte_buffer *received;
};

static inline void client_open(struct client *cl, const char *socket_path)
{
    char target[256];
    grpc_channel_credentials *insecure = grpc_insecure_credentials_create();

    grpc_init();
    snprintf(target, sizeof(target), "unix:%s", socket_path);
    cl->channel = grpc_channel_create(target, insecure, NULL);
    cl->cq = grpc_completion_queue_create_for_next(NULL);
    grpc_channel_credentials_release(insecure);
}

static inline void client_close(struct client *cl)
{
    grpc_channel_destroy(cl->channel);
    grpc_completion_queue_shutdown(cl->cq);
    while (grpc_completion_queue_next(cl->cq, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type != GRPC_QUEUE_SHUTDOWN)
        ;
    grpc_completion_queue_destroy(cl->cq);
    grpc_shutdown();
}

static inline gpr_timespec client_after_ms(int64_t ms)
{
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
}

/* Waits for the next event, of whichever call. */
static inline void client_wait(struct client *cl)
{
    grpc_event ev = grpc_completion_queue_next(cl->cq, client_after_ms(2 * CLIENT_PATIENCE_MS), NULL);
    struct client_tag *tag = ev.tag;
    unsigned bit;

    INVARIANT(ev.type == GRPC_OP_COMPLETE);
    bit = 1U << tag->step;
    INVARIANT((tag->c->pending & bit) != 0);
    tag->c->pending &= ~bit;
    tag->c->ended |= bit;
    tag->c->failed = ev.success ? tag->c->failed & ~bit : tag->c->failed | bit;
}

/* Runs events until this step of the call is over; true when it went well. */
static inline bool client_until(struct client_call *c, enum client_step step)
{
    unsigned bit = 1U << step;

    while ((c->ended & bit) == 0)
        client_wait(c->cl);
    c->ended &= ~bit;
    return (c->failed & bit) == 0;
}

static inline void client_call_begin(struct client *cl, struct client_call *c, const char *method, int64_t deadline_ms)
{
    memset(c, 0, sizeof(*c));
    c->cl = cl;
    grpc_metadata_array_init(&c->headers);
    grpc_metadata_array_init(&c->trailers);
    c->call = grpc_channel_create_call(cl->channel, NULL, GRPC_PROPAGATE_DEFAULTS, cl->cq, grpc_slice_from_static_string(method),
                                       NULL, deadline_ms > 0 ? client_after_ms(deadline_ms) : gpr_inf_future(GPR_CLOCK_MONOTONIC),
                                       NULL);
}

static inline void client_call_end(struct client_call *c)
{
    while (c->pending != 0)
        client_wait(c->cl);
    grpc_metadata_array_destroy(&c->headers);
    grpc_metadata_array_destroy(&c->trailers);
    grpc_slice_unref(c->message);
    grpc_byte_buffer_destroy(c->received);
    grpc_call_unref(c->call);
}

static inline void client_batch(struct client_call *c, const grpc_op *ops, size_t n, enum client_step step)
{
    INVARIANT((c->pending & 1U << step) == 0);
    c->pending |= 1U << step;
    c->tags[step] = (struct client_tag){c, step};
    INVARIANT(grpc_call_start_batch(c->call, ops, n, &c->tags[step], NULL) == GRPC_CALL_OK);
}

static inline grpc_byte_buffer *client_buffer(struct bytes m)
{
    grpc_slice s = grpc_slice_from_copied_buffer((const char *)m.p, m.n);
    grpc_byte_buffer *bb = grpc_raw_byte_buffer_create(&s, 1);

    grpc_slice_unref(s);
    return bb;
}

static inline size_t client_ops_open(struct client_call *c, grpc_op *ops, grpc_metadata *md, size_t nmd)
{
    memset(ops, 0, 2 * sizeof(*ops));
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].data.send_initial_metadata.count = nmd;
    ops[0].data.send_initial_metadata.metadata = md;
    ops[1].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &c->headers;
    return 2;
}

static inline grpc_op client_op_status(struct client_call *c)
{
    grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};

    op.data.recv_status_on_client.trailing_metadata = &c->trailers;
    op.data.recv_status_on_client.status = &c->status;
    op.data.recv_status_on_client.status_details = &c->message;
    return op;
}

/* One unary call, started; its one event says that it is over. */
static inline void client_unary_start(struct client_call *c, struct bytes request, grpc_metadata *md, size_t nmd)
{
    grpc_op ops[6];
    size_t n = client_ops_open(c, ops, md, nmd);
    grpc_byte_buffer *bb = client_buffer(request);

    ops[n] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE};
    ops[n++].data.send_message.send_message = bb;
    ops[n++] = (grpc_op){.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
    ops[n] = (grpc_op){.op = GRPC_OP_RECV_MESSAGE};
    ops[n++].data.recv_message.recv_message = &c->received;
    ops[n++] = client_op_status(c);
    client_batch(c, ops, n, STEP_UNARY);
    grpc_byte_buffer_destroy(bb);
}

/* What came, as text ("" when nothing did); valid until the next call of this. */
static inline size_t client_text(grpc_byte_buffer *bb, char *out, size_t max)
{
    grpc_byte_buffer_reader r;
    grpc_slice s;
    size_t n;

    out[0] = '\0';
    if (bb == NULL || !grpc_byte_buffer_reader_init(&r, bb))
        return 0;
    s = grpc_byte_buffer_reader_readall(&r);
    n = GRPC_SLICE_LENGTH(s);
    memcpy(out, GRPC_SLICE_START_PTR(s), n < max ? n : max - 1);
    out[n < max ? n : max - 1] = '\0';
    grpc_slice_unref(s);
    grpc_byte_buffer_reader_destroy(&r);
    return n;
}

static inline struct bytes client_trailer(const struct client_call *c, const char *key)
{
    for (size_t i = 0; i < c->trailers.count; i++)
        if (grpc_slice_str_cmp(c->trailers.metadata[i].key, key) == 0)
            return BYTES(GRPC_SLICE_START_PTR(c->trailers.metadata[i].value), GRPC_SLICE_LENGTH(c->trailers.metadata[i].value));
    return (struct bytes){0};
}

#endif
