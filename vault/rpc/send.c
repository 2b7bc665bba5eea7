/* The batch that carries an answer. */
#include "vault/rpc/internal.h"

#include <stdio.h>
#include <string.h>

static grpc_slice receipt_text(const struct rpc_server *s, const struct receipt *r)
{
    char hash[2 * sizeof(r->leaf_hash) + 1], text[RPC_RECEIPT_MAX];
    int n;

    hex_encode(r->leaf_hash, sizeof(r->leaf_hash), hash);
    n = snprintf(text, sizeof(text), "%s %llu %s", s->origin, (unsigned long long)r->index, hash);
    INVARIANT(n > 0 && (size_t)n < sizeof(text));
    return grpc_slice_from_copied_buffer(text, (size_t)n);
}

static size_t make_trailers(struct rcall *rc, const struct call_out *out)
{
    size_t n = 0;

    if (out->has_receipt)
        rc->trailers[n++] = (grpc_metadata){.key = grpc_slice_from_static_string("claviger-receipt"),
                                            .value = receipt_text(rc->srv, &out->receipt)};
    if (out->has_event_id) {
        char id[2 * sizeof(out->event_id) + 1];
        hex_encode(out->event_id, sizeof(out->event_id), id);
        rc->trailers[n++] = (grpc_metadata){.key = grpc_slice_from_static_string("claviger-event"),
                                            .value = grpc_slice_from_copied_string(id)};
    }
    if (out->err != NULL) {
        CLEANUP(buf_release) struct buf details;
        buf_init(&details, STATUS_DETAILS_MAX + STATUS_TEXT_MAX + 256);
        status_details(out->err, out->retry_after_ms, &details);
        rc->trailers[n++] = (grpc_metadata){.key = grpc_slice_from_static_string("grpc-status-details-bin"),
                                            .value = grpc_slice_from_copied_buffer((const char *)details.p, details.n)};
    }
    return n;
}

static grpc_byte_buffer *message_buffer(struct bytes m)
{
    grpc_slice s = grpc_slice_from_copied_buffer((const char *)m.p, m.n);
    grpc_byte_buffer *bb = grpc_raw_byte_buffer_create(&s, 1);

    grpc_slice_unref(s);
    return bb;
}

void rcall_send(struct rcall *rc, const struct call_out *out)
{
    char text[STATUS_TEXT_MAX];
    grpc_slice words = grpc_empty_slice();
    grpc_op ops[4] = {0}, *op = ops;

    if (!rc->headers_sent) {
        (op++)->op = GRPC_OP_SEND_INITIAL_METADATA;
        rc->headers_sent = true;
    }
    if (out->has_message) {
        rc->sending = message_buffer(out->message);
        op->op = GRPC_OP_SEND_MESSAGE;
        (op++)->data.send_message.send_message = rc->sending;
    }
    if (out->final) {
        op->op = GRPC_OP_SEND_STATUS_FROM_SERVER;
        op->data.send_status_from_server.trailing_metadata_count = make_trailers(rc, out);
        op->data.send_status_from_server.trailing_metadata = rc->trailers;
        op->data.send_status_from_server.status =
            (grpc_status_code)status_code(out->err != NULL ? out->err->code : ERR_NONE);
        if (out->err != NULL) {
            words = grpc_slice_from_copied_string(err_public(out->err, text, sizeof(text)));
            op->data.send_status_from_server.status_details = &words;
        }
        op++;
        if (!rc->close_started) { /* gRPC keeps a call until somebody asks how it ended */
            op->op = GRPC_OP_RECV_CLOSE_ON_SERVER;
            (op++)->data.recv_close_on_server.cancelled = &rc->closed_cancelled;
        }
        atomic_store_explicit(&rc->final_boot_ms, clock_boot_ms(rc->srv->clock), memory_order_relaxed);
    }
    /* the batch may be complete, and rc gone, before this call returns */
    INVARIANT(grpc_call_start_batch(rc->gc, ops, (size_t)(op - ops), tag_give(&rc->tags[OP_SEND]), NULL) == GRPC_CALL_OK);
    grpc_slice_unref(words);
}

void rcall_sent(struct rcall *rc)
{
    grpc_byte_buffer_destroy(rc->sending);
    rc->sending = NULL;
    for (size_t i = 0; i < RPC_TRAILERS_MAX; i++) {
        grpc_slice_unref(rc->trailers[i].value); /* keys are static; a slice never set is empty */
        rc->trailers[i] = (grpc_metadata){0};
    }
}
