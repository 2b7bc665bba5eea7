/* One call from its arrival to its end: what is common, and the hot path. */
#include "vault/rpc/internal.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/support/alloc.h>
#include <stdlib.h>
#include <string.h>

void rcall_ref(struct rcall *rc)
{
    ref_take(&rc->refs);
}

static void uncount(struct rpc_server *s, const struct rcall *rc)
{
    bool stream = rc->row != NULL && rc->row->kind != RPC_UNARY;

    atomic_fetch_sub(&s->callers[rc->caller].calls, 1);
    atomic_fetch_sub(&s->callers[rc->caller].streams, stream);
    atomic_fetch_sub(&s->streams, stream);
    if (atomic_fetch_sub(&s->in_flight, 1) == 1 && atomic_load(&s->closed)) {
        pthread_mutex_lock(&s->idle_lock);
        pthread_cond_broadcast(&s->idle);
        pthread_mutex_unlock(&s->idle_lock);
    }
}

static void rcall_destroy(struct rcall *rc)
{
    struct rpc_server *s = rc->srv;
    struct call *c = atomic_load_explicit(&rc->c, memory_order_acquire);
    bool counted = rc->counted;

    if (counted)
        sweep_remove(rc);
    if (c != NULL)
        call_free(c);
    if (rc->has_message)
        grpc_slice_unref(rc->message);
    grpc_byte_buffer_destroy(rc->received);
    grpc_byte_buffer_destroy(rc->held);
    rcall_sent(rc);
    grpc_metadata_array_destroy(&rc->metadata);
    grpc_call_details_destroy(&rc->details);
    if (rc->gc != NULL)
        grpc_call_unref(rc->gc);
    pthread_mutex_destroy(&rc->lock);
    authn_conn_unref(rc->conn);
    if (counted)
        uncount(s, rc); /* last: the server may go once nothing is in flight */
    free(rc);
}

void rcall_unref(struct rcall *rc)
{
    if (ref_drop(&rc->refs))
        rcall_destroy(rc);
}

struct bytes rcall_take_message(struct rcall *rc, grpc_byte_buffer *bb)
{
    grpc_byte_buffer_reader reader;

    if (rc->has_message)
        grpc_slice_unref(rc->message);
    rc->has_message = true;
    if (bb->type == GRPC_BB_RAW && bb->data.raw.compression == GRPC_COMPRESS_NONE &&
        bb->data.raw.slice_buffer.count == 1) { /* nearly always: no copy */
        rc->message = grpc_slice_ref(bb->data.raw.slice_buffer.slices[0]);
    } else {
        INVARIANT(grpc_byte_buffer_reader_init(&reader, bb));
        rc->message = grpc_byte_buffer_reader_readall(&reader);
        grpc_byte_buffer_reader_destroy(&reader);
    }
    grpc_byte_buffer_destroy(bb);
    return BYTES(GRPC_SLICE_START_PTR(rc->message), GRPC_SLICE_LENGTH(rc->message));
}

static struct bytes slice_bytes(const grpc_slice *s)
{
    return BYTES(GRPC_SLICE_START_PTR(*s), GRPC_SLICE_LENGTH(*s));
}

/* The few headers that mean something to us; the length of each is judged by call_new. */
static void read_metadata(const grpc_metadata_array *md, struct call_start *start)
{
    for (size_t i = 0; i < md->count; i++) {
        struct bytes key = slice_bytes(&md->metadata[i].key), value = slice_bytes(&md->metadata[i].value);
        if (bytes_equal(key, BYTES_LIT("x-request-id")))
            start->request_id = value;
        else if (bytes_equal(key, BYTES_LIT("claviger-idempotency-key")))
            start->idempotency_key = value;
        else if (bytes_equal(key, BYTES_LIT("traceparent")))
            start->trace_parent = value;
        else if (bytes_equal(key, BYTES_LIT("x-goog-request-params")))
            start->request_params = value;
    }
}

static struct authn_conn *conn_of(const struct rcall *rc)
{
    char *peer = grpc_call_get_peer(rc->gc);
    struct authn_conn *conn = authn_conn_by_peer(rc->srv->svc->authn, peer);

    gpr_free(peer);
    return conn;
}

/* Hot calls: one answer, always the last, on the queue their workers share. */
static void hot_answer(struct call *c, const struct call_out *out, void *user)
{
    (void)c;
    rcall_send(user, out);
}

struct call *rcall_call(struct rcall *rc)
{
    struct call *c = atomic_load_explicit(&rc->c, memory_order_acquire);
    struct call_start start = {.row = rc->row, .deadline_boot_ms = rc->deadline_boot_ms};
    struct call_sink sink = {rc->hot != NULL ? hot_answer : stream_answer, rc};

    if (c != NULL)
        return c;
    read_metadata(&rc->metadata, &start);
    start.conn = rc->conn;
    c = call_new(rc->srv->svc, &start, sink);
    atomic_store_explicit(&rc->c, c, memory_order_release);
    return c;
}

/* Ends a call that vault/service never sees. */
static void turn_away(struct rcall *rc, const struct err *why)
{
    struct call_out out = {.final = true, .err = why, .retry_after_ms = why->code == ERR_EXHAUSTED ? 1000 : 0};

    rcall_send(rc, &out);
}

static const struct rpc_row *row_of(const struct rcall *rc)
{
    char path[RPC_PATH_MAX + 1];
    size_t n = GRPC_SLICE_LENGTH(rc->details.method);

    if (n > RPC_PATH_MAX || memchr(GRPC_SLICE_START_PTR(rc->details.method), 0, n) != NULL)
        return NULL;
    memcpy(path, GRPC_SLICE_START_PTR(rc->details.method), n);
    path[n] = '\0';
    return table_find(path);
}

static size_t caller_of(const struct authn_conn *conn)
{
    struct bytes hash = conn != NULL ? authn_conn_certificate(conn) : BYTES(NULL, 0);

    return hash.n >= 2 ? 1 + get_be16(hash.p) % (RPC_CALLERS - 1) : 0;
}

/* Nobody may hold all places: answers that one client does not read must not become refusals for the others. */
static RESULT admit_caller(const struct rpc_server *s, uint64_t calls, uint64_t streams, bool stream, struct err *e)
{
    if (calls > (s->max_calls + 1) / RPC_CALLER_SHARE)
        FAIL(e, ERR_EXHAUSTED, "TOO_MANY_CALLS", "%llu calls of one certificate in flight", (unsigned long long)calls);
    if (stream && streams > (s->max_streams + 1) / RPC_CALLER_SHARE)
        FAIL(e, ERR_EXHAUSTED, "TOO_MANY_STREAMS", "%llu streams of one certificate open", (unsigned long long)streams);
    return ok();
}

/* From here on the call is counted and swept. Returns what speaks against serving it. */
static RESULT admit(struct rcall *rc, struct err *e)
{
    struct rpc_server *s = rc->srv;
    bool stream = rc->row != NULL && rc->row->kind != RPC_UNARY;
    uint64_t calls = atomic_fetch_add(&s->in_flight, 1) + 1, streams = atomic_fetch_add(&s->streams, stream) + stream;
    uint64_t own_calls, own_streams;

    rc->counted = true;
    rc->conn = conn_of(rc);
    rc->caller = caller_of(rc->conn);
    own_calls = atomic_fetch_add(&s->callers[rc->caller].calls, 1) + 1;
    own_streams = atomic_fetch_add(&s->callers[rc->caller].streams, stream) + stream;
    rc->deadline_boot_ms = rpc_deadline_boot_ms(s, rc->hot != NULL ? rc->deadline : rc->details.deadline, !stream);
    sweep_add(rc);
    if (rc->row == NULL)
        FAIL(e, ERR_UNIMPLEMENTED, "NO_SUCH_METHOD", "no row for this path");
    if (calls > s->max_calls)
        FAIL(e, ERR_EXHAUSTED, "TOO_MANY_CALLS", "%llu calls in flight", (unsigned long long)calls);
    if (stream && streams > s->max_streams)
        FAIL(e, ERR_EXHAUSTED, "TOO_MANY_STREAMS", "%llu streams open", (unsigned long long)streams);
    return rc->caller == 0 ? ok() : admit_caller(s, own_calls, own_streams, stream, e);
}

static void rcall_begin(struct rcall *rc)
{
    struct err e = {0};
    grpc_byte_buffer *bb = rc->received;

    if (rc->hot == NULL)
        rc->row = row_of(rc);
    if (admit(rc, &e).failed) {
        turn_away(rc, &e);
        return;
    }
    if (rc->hot == NULL) {
        stream_begin(rc);
        return;
    }
    if (bb == NULL) { /* announced, but its stream died before the message: nobody is left to answer */
        (void)err_set(&e, ERR_CANCELLED, NULL, __FILE__, __LINE__, "no message");
        turn_away(rc, &e);
        return;
    }
    rc->received = NULL;
    /* the answer may be under way on another thread before call_message returns: rc is not ours any more after it */
    call_message(rcall_call(rc), rcall_take_message(rc, bb));
}

void rcall_event(struct rpc_tag *tag, bool ok)
{
    struct rcall *rc;

    tag_take(tag);
    rc = tag->rc;
    switch (tag->op) {
    case OP_NEW:
        if (!ok) { /* the server is shutting down */
            rcall_unref(rc);
            return;
        }
        if (!atomic_load_explicit(&rc->srv->closed, memory_order_relaxed))
            rcall_arm(rc->srv, rc->hot);
        rcall_begin(rc);
        return;
    case OP_SEND:
        if (rc->hot == NULL && rc->close_started)
            stream_send_done(rc, ok);
        else
            rcall_unref(rc); /* the one and only batch */
        return;
    case OP_RECV:
        stream_received(rc, ok);
        return;
    case OP_CLOSE:
        stream_closed(rc);
        return;
    case OP_COUNT:
        break;
    }
    INVARIANT(false); /* a tag that no batch has */
}
