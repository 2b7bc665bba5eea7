/*
 * Calls of the generic pool: streams, and unary calls as streams of one message. At most one receive and one send under way;
 * the next message may arrive while the answer before it leaves, but is handled only after that.
 *
 *   receiving --message--> held --(no answer due, nothing being sent)--> call_message --> answer_due
 *   answer_due --sink.answer--> send_busy (and the next receive) --sent--> call_sent --> held ...
 *
 * "life" is dropped once: when the last batch is sent, or on cancellation when nothing is due.
 */
#include "vault/rpc/internal.h"

static void start(struct rcall *rc, const grpc_op *op, enum rpc_op tag)
{
    rcall_ref(rc);
    INVARIANT(grpc_call_start_batch(rc->gc, op, 1, tag_give(&rc->tags[tag]), NULL) == GRPC_CALL_OK);
}

static void receive(struct rcall *rc)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};

    op.data.recv_message.recv_message = &rc->received;
    rc->receiving = true;
    start(rc, &op, OP_RECV);
}

void stream_begin(struct rcall *rc)
{
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};

    op.data.recv_close_on_server.cancelled = &rc->closed_cancelled;
    rc->close_started = true;
    rcall_ref(rc); /* both batches may complete before we are done here */
    start(rc, &op, OP_CLOSE);
    pthread_mutex_lock(&rc->lock);
    receive(rc);
    pthread_mutex_unlock(&rc->lock);
    rcall_unref(rc);
}

static void no_message(struct rcall *rc)
{
    struct err e = {0};
    struct call_out out = {.final = true, .err = &e};

    (void)err_set(&e, ERR_INVALID, "NO_MESSAGE", __FILE__, __LINE__, "the call was closed without a request");
    stream_answer(NULL, &out, rc);
}

/* Does the next thing that is possible. Called without the lock, after every change. */
static void pump(struct rcall *rc)
{
    grpc_byte_buffer *bb = NULL;
    bool close = false, drop = false;

    pthread_mutex_lock(&rc->lock);
    if (!rc->answer_due && !rc->send_busy && !rc->ended) {
        if (rc->cancelled) {
            rc->ended = drop = true;
        } else if (rc->held != NULL) {
            bb = rc->held;
            rc->held = NULL;
        } else if (rc->held_close) {
            rc->held_close = false;
            close = true;
        }
        rc->answer_due = bb != NULL || close;
    }
    pthread_mutex_unlock(&rc->lock);
    if (bb != NULL)
        call_message(rcall_call(rc), rcall_take_message(rc, bb));
    else if (close && rc->row->kind == RPC_BIDI)
        call_half_close(rcall_call(rc));
    else if (close)
        no_message(rc);
    if (drop)
        rcall_unref(rc);
}

void stream_received(struct rcall *rc, bool ok)
{
    pthread_mutex_lock(&rc->lock);
    rc->receiving = false;
    if (ok && rc->received != NULL) {
        rc->held = rc->received;
        rc->received = NULL;
    } else {
        rc->half_closed = rc->held_close = true;
    }
    pthread_mutex_unlock(&rc->lock);
    pump(rc);
    rcall_unref(rc);
}

void stream_answer(struct call *c, const struct call_out *out, void *user)
{
    struct rcall *rc = user;

    (void)c;
    pthread_mutex_lock(&rc->lock);
    INVARIANT(rc->answer_due && !rc->send_busy && !rc->ended);
    rc->answer_due = false;
    rc->send_busy = true;
    rc->ended = out->final;
    if (!out->final) {
        rcall_ref(rc);
        if (rc->row->kind == RPC_BIDI && !rc->half_closed && !rc->receiving && rc->held == NULL)
            receive(rc);
    }
    rcall_send(rc, out);
    pthread_mutex_unlock(&rc->lock);
}

void stream_send_done(struct rcall *rc, bool ok)
{
    struct call *c = atomic_load_explicit(&rc->c, memory_order_acquire);
    bool final;

    pthread_mutex_lock(&rc->lock);
    rcall_sent(rc);
    final = rc->ended;
    rc->send_busy = false;
    rc->cancelled = rc->cancelled || !ok;
    /* a server stream goes on by itself until its last answer, which comes after cancellation too */
    rc->answer_due = !final && rc->row->kind == RPC_SERVER_STREAM;
    pthread_mutex_unlock(&rc->lock);
    if (!final) {
        if (!ok)
            call_cancel(c);
        call_sent(c);
        pump(rc);
    }
    rcall_unref(rc);
}

void stream_closed(struct rcall *rc)
{
    struct call *c = atomic_load_explicit(&rc->c, memory_order_acquire);

    if (rc->closed_cancelled) {
        if (c != NULL)
            call_cancel(c);
        pthread_mutex_lock(&rc->lock);
        rc->cancelled = true;
        pthread_mutex_unlock(&rc->lock);
        pump(rc);
    }
    rcall_unref(rc);
}
