#include "vault/client/transport.h"

#include "base/clock.h"
#include "base/rng.h"
#include "vault/client/error.h"
#include "vault/client/pem.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BACKOFF_FIRST_MS = 100, BACKOFF_MAX_MS = 1600, REQUEST_ID_BYTES = 16, REQUEST_ID_TEXT = 2 * REQUEST_ID_BYTES + 1 };

struct transport {
    grpc_channel *channel;
    uint32_t timeout_ms, max_attempts;
};

/* What one call needs whatever its shape. The tags of its batches are the addresses of the flags that name them. */
struct wire {
    struct transport *t;
    grpc_completion_queue *cq;
    grpc_call *call;
    char request_id[REQUEST_ID_TEXT];
    grpc_metadata meta[2];
    size_t nmeta;
    grpc_metadata_array initial, trailing;
    grpc_status_code status;
    grpc_slice details;
};

struct rpc {
    struct wire w;
    struct rpc_options o;
    char *path, *key; /* copies: retries outlive the caller's strings */
    grpc_slice request;
    grpc_byte_buffer *answer;
    int64_t deadline_ms; /* boot clock */
    unsigned attempts;
};

struct stream {
    struct wire w;
    bool finished; /* status has been read */
    char tag_initial, tag_status, tag_send, tag_recv;
};

/* ---- channel ---------------------------------------------------------------------------------------------------------- */

static grpc_arg arg_int(const char *key, int v)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = v};
}

static grpc_channel *channel_new(const struct transport_options *o, const struct pem_files *pem)
{
    grpc_arg args[12];
    size_t n = 0;
    args[n++] = arg_int(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, TRANSPORT_RECEIVE_MAX);
    args[n++] = arg_int(GRPC_ARG_ENABLE_RETRIES, 0);                /* ours know what may be repeated */
    args[n++] = arg_int(GRPC_ARG_ENABLE_HTTP_PROXY, 0);             /* no environment decides where keys travel */
    args[n++] = arg_int(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
    args[n++] = arg_int(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1);
    args[n++] = arg_int(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, BACKOFF_FIRST_MS);
    args[n++] = arg_int(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 3000); /* also the longest wait for one connection attempt */
    args[n++] = arg_int(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
    args[n++] = arg_int(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1); /* two clients in a process never share a connection */
    args[n++] = arg_int(GRPC_ARG_ENABLE_CHANNELZ, 0);
    if (o->server_name)
        args[n++] = (grpc_arg){.type = GRPC_ARG_STRING, .key = (char *)(uintptr_t)GRPC_SSL_TARGET_NAME_OVERRIDE_ARG,
                               .value.string = (char *)(uintptr_t)o->server_name};
    grpc_channel_args list = {n, args};
    grpc_ssl_pem_key_cert_pair pair = {.private_key = pem->key, .cert_chain = pem->cert};
    grpc_channel_credentials *creds = grpc_ssl_credentials_create(pem->ca, &pair, NULL, NULL);
    grpc_channel *ch = grpc_channel_create(o->endpoint, creds, &list);
    grpc_channel_credentials_release(creds);
    return ch;
}

RESULT transport_open(const struct transport_options *o, struct transport **ret, struct claviger_error *e)
{
    CLEANUP(pem_release) struct pem_files pem = {0};
    TRY(pem_load(o->ca_file, o->cert_file, o->key_file, &pem, e));
    struct transport *t = calloc(1, sizeof *t);
    INVARIANT(t);
    t->timeout_ms = o->timeout_ms;
    t->max_attempts = o->max_attempts;
    grpc_init();
    t->channel = channel_new(o, &pem);
    INVARIANT(t->channel);
    *ret = t;
    return ok();
}

void transport_close(struct transport *t)
{
    if (!t)
        return;
    grpc_channel_destroy(t->channel);
    grpc_shutdown();
    free(t);
}

/* ---- what every call does ---------------------------------------------------------------------------------------------- */

static void add_meta(struct wire *w, const char *key, const char *value)
{
    w->meta[w->nmeta++] = (grpc_metadata){.key = grpc_slice_from_static_string(key),
                                          .value = grpc_slice_from_copied_string(value)};
}

static void wire_open(struct wire *w, struct transport *t, const char *path, const char *idempotency_key, gpr_timespec deadline)
{
    w->t = t;
    w->cq = grpc_completion_queue_create_for_pluck(NULL);
    grpc_slice method = grpc_slice_from_copied_string(path);
    w->call = grpc_channel_create_call(t->channel, NULL, GRPC_PROPAGATE_DEFAULTS, w->cq, method, NULL, deadline, NULL);
    grpc_slice_unref(method);
    INVARIANT(w->call);
    w->nmeta = 0;
    add_meta(w, "x-request-id", w->request_id);
    if (idempotency_key)
        add_meta(w, "claviger-idempotency-key", idempotency_key);
    grpc_metadata_array_init(&w->initial);
    grpc_metadata_array_init(&w->trailing);
    w->details = grpc_empty_slice();
}

static void wire_close(struct wire *w)
{
    grpc_call_unref(w->call);
    for (size_t i = 0; i < w->nmeta; i++)
        grpc_slice_unref(w->meta[i].value);
    grpc_metadata_array_destroy(&w->initial);
    grpc_metadata_array_destroy(&w->trailing);
    grpc_slice_unref(w->details);
    grpc_completion_queue_shutdown(w->cq);
    grpc_completion_queue_destroy(w->cq);
    w->call = NULL;
}

static void wire_start(struct wire *w, const grpc_op *ops, size_t n, void *tag)
{
    /* anything but OK is a wrong batch of ours, never an event */
    INVARIANT(grpc_call_start_batch(w->call, ops, n, tag, NULL) == GRPC_CALL_OK);
}

static bool wire_wait(struct wire *w, void *tag)
{
    grpc_event ev = grpc_completion_queue_pluck(w->cq, tag, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    return ev.type == GRPC_OP_COMPLETE && ev.success != 0;
}

static struct bytes slice_bytes(const grpc_slice *s)
{
    return BYTES(GRPC_SLICE_START_PTR(*s), GRPC_SLICE_LENGTH(*s));
}

static struct result wire_failure(const struct wire *w, struct claviger_error *e)
{
    struct bytes details = {0};
    for (size_t i = 0; i < w->trailing.count; i++) {
        if (bytes_equal(slice_bytes(&w->trailing.metadata[i].key), BYTES_LIT("grpc-status-details-bin")))
            details = slice_bytes(&w->trailing.metadata[i].value);
    }
    return client_fail_status(e, (int)w->status, slice_bytes(&w->details), details, w->request_id);
}

static void wipe_and_free(void *p, size_t n)
{
    wipe(p, n);
    free(p);
}

static grpc_slice pack(const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *p = malloc(n ? n : 1);
    INVARIANT(p);
    protobuf_c_message_pack(m, p);
    return grpc_slice_new_with_len(p, n, wipe_and_free);
}

static void *arena_for_pb(void *a, size_t n)
{
    return arena_alloc(a, n);
}

static void not_freed(void *a, void *p)
{
    (void)a;
    (void)p;
}

static struct result unpack(grpc_byte_buffer *b, const ProtobufCMessageDescriptor *d, struct arena *a, ProtobufCMessage **ret,
                            struct claviger_error *e)
{
    grpc_byte_buffer_reader r;
    if (!grpc_byte_buffer_reader_init(&r, b))
        return client_fail(e, CLAVIGER_INTERNAL, "BAD_ANSWER", "the answer cannot be read");
    grpc_slice all = grpc_byte_buffer_reader_readall(&r);
    grpc_byte_buffer_reader_destroy(&r);
    ProtobufCAllocator mem = {.alloc = arena_for_pb, .free = not_freed, .allocator_data = a};
    ProtobufCMessage *m = protobuf_c_message_unpack(d, &mem, GRPC_SLICE_LENGTH(all), GRPC_SLICE_START_PTR(all));
    wipe(GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all)); /* readall made this copy for us alone */
    grpc_slice_unref(all);
    if (!m)
        return client_fail(e, CLAVIGER_INTERNAL, "BAD_ANSWER", "the answer is not a %s", d->name);
    *ret = m;
    return ok();
}

/* ---- unary ------------------------------------------------------------------------------------------------------------- */

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

static void new_request_id(char out[REQUEST_ID_TEXT])
{
    uint8_t id[REQUEST_ID_BYTES];
    rng_fill(&rng_system, id, sizeof id);
    hex_encode(id, sizeof id, out);
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
    r->request = pack(req);
    r->deadline_ms = clock_boot_ms(&clock_system) + (o->timeout_ms ? o->timeout_ms : t->timeout_ms);
    new_request_id(r->w.request_id);
    rpc_attempt(r);
    return r;
}

/* Exponential with full jitter, so that clients of a restarted server do not come back in step. False: no time is left. */
static bool back_off(const struct rpc *r, uint64_t asked_ms)
{
    uint64_t ceiling = BACKOFF_FIRST_MS;
    for (unsigned i = 1; i < r->attempts && ceiling < BACKOFF_MAX_MS; i++)
        ceiling *= 2;
    uint64_t draw;
    rng_fill(&rng_system, &draw, sizeof draw);
    uint64_t wait_ms = ceiling / 2 + draw % (ceiling / 2 + 1);
    if (wait_ms < asked_ms)
        wait_ms = asked_ms;
    if (clock_boot_ms(&clock_system) + (int64_t)wait_ms >= r->deadline_ms)
        return false;
    struct timespec ts = {(time_t)(wait_ms / 1000), (long)(wait_ms % 1000) * 1000000};
    while (nanosleep(&ts, &ts) != 0) {
    }
    return true;
}

static bool should_retry(struct rpc *r)
{
    if (r->w.status != GRPC_STATUS_UNAVAILABLE || !r->o.retry || r->attempts >= r->w.t->max_attempts)
        return false;
    struct claviger_error e = {0};
    (void)wire_failure(&r->w, &e);
    return back_off(r, e.retry_after_ms);
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
    return unpack(r->answer, answer, a, ret, e);
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

/* ---- streams ------------------------------------------------------------------------------------------------------------ */

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

RESULT stream_open(struct transport *t, const struct rpc_options *o, struct stream **ret, struct claviger_error *e)
{
    struct stream *s = calloc(1, sizeof *s);
    INVARIANT(s);
    new_request_id(s->w.request_id);
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (o->timeout_ms)
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(o->timeout_ms, GPR_TIMESPAN));
    wire_open(&s->w, t, o->path, o->idempotency_key, deadline);
    stream_begin(s);
    grpc_op op = {.op = GRPC_OP_SEND_INITIAL_METADATA};
    op.data.send_initial_metadata.count = s->w.nmeta;
    op.data.send_initial_metadata.metadata = s->w.meta;
    wire_start(&s->w, &op, 1, &s->tag_send);
    if (!wire_wait(&s->w, &s->tag_send)) {
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
    grpc_slice packed = pack(m);
    grpc_byte_buffer *b = grpc_raw_byte_buffer_create(&packed, 1);
    grpc_slice_unref(packed);
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    op.data.send_message.send_message = b;
    wire_start(&s->w, &op, 1, &s->tag_send);
    bool sent = wire_wait(&s->w, &s->tag_send);
    grpc_byte_buffer_destroy(b);
    return sent ? ok() : stream_failure(s, e);
}

RESULT stream_half_close(struct stream *s, struct claviger_error *e)
{
    if (s->finished)
        return stream_failure(s, e);
    grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
    wire_start(&s->w, &op, 1, &s->tag_send);
    return wire_wait(&s->w, &s->tag_send) ? ok() : stream_failure(s, e);
}

RESULT stream_recv(struct stream *s, const ProtobufCMessageDescriptor *answer, struct arena *a, ProtobufCMessage **ret,
                   struct claviger_error *e)
{
    grpc_byte_buffer *b = NULL;
    if (!s->finished) {
        grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
        op.data.recv_message.recv_message = &b;
        wire_start(&s->w, &op, 1, &s->tag_recv);
        (void)wire_wait(&s->w, &s->tag_recv); /* no message, for whatever cause: the status tells */
    }
    if (b) {
        struct result r = unpack(b, answer, a, ret, e);
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
    wire_close(&s->w);
    free(s);
}
