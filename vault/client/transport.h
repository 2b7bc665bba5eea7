/*
 * Purpose: calls over gRPC core for the library and kmsctl: unary (also several in flight), server streams and
 *          bidirectional streams, with deadlines, retries of what has no side effect, and errors read from
 *          grpc-status-details-bin. Above it nobody includes gRPC.
 * Owns:    the channel; each rpc and stream owns its call and completion queue.
 * Threads: a transport from any thread; one rpc or stream by one thread at a time.
 * Errors:  struct claviger_error, untouched on success. A connection that cannot be made is CLAVIGER_UNAVAILABLE.
 * Limits:  TRANSPORT_RECEIVE_MAX an answer; TRANSPORT_DETAILS_MAX bytes of status details are looked at.
 * Secrets: request bytes are wiped when gRPC drops them, answers are decoded into the caller's arena (wiped on release).
 */
#ifndef VAULT_CLIENT_TRANSPORT_H
#define VAULT_CLIENT_TRANSPORT_H

#include "base/arena.h"
#include "vault/client/claviger.h"

#include <protobuf-c/protobuf-c.h>

enum { TRANSPORT_RECEIVE_MAX = 4 << 20, TRANSPORT_PEM_MAX = 1 << 20, TRANSPORT_DETAILS_MAX = 8192, TRANSPORT_ARENA_MAX = 24 << 20 };

struct transport;
struct transport_options {
    const char *endpoint, *server_name; /* server_name NULL: the endpoint's host */
    const char *ca_file, *cert_file, *key_file;
    uint32_t timeout_ms, max_attempts;
};
RESULT transport_open(const struct transport_options *o, struct transport **ret, struct claviger_error *e);
void transport_close(struct transport *t); /* NULL accepted */
uint32_t transport_timeout_ms(const struct transport *t); /* of one call */

struct rpc_options {
    const char *path;            /* "/google.cloud.kms.v1.KeyManagementService/Encrypt" */
    bool retry;                  /* no side effect: may be sent again on UNAVAILABLE */
    const char *idempotency_key; /* of a mutation, or NULL */
    uint32_t timeout_ms;         /* 0: the transport's; a stream: of the whole of it, 0: for ever */
    uint32_t patience_ms;        /* a stream: how long each message may take, DEADLINE_EXCEEDED after that; 0: for ever */
};
/* One call and its answer, decoded into arena. */
RESULT rpc_unary(struct transport *t, const struct rpc_options *o, const ProtobufCMessage *req,
                 const ProtobufCMessageDescriptor *answer, struct arena *a, ProtobufCMessage **ret, struct claviger_error *e);

/* The same in two halves, so that several calls can be in flight from one thread. Every started rpc must be finished. */
struct rpc;
struct rpc *rpc_start(struct transport *t, const struct rpc_options *o, const ProtobufCMessage *req);
RESULT rpc_finish(struct rpc *r, const ProtobufCMessageDescriptor *answer, struct arena *a, ProtobufCMessage **ret,
                  struct claviger_error *e);

/* Streams. A stream lives until stream_close, which cancels it when it is still open. */
struct stream;
RESULT stream_open(struct transport *t, const struct rpc_options *o, struct stream **ret, struct claviger_error *e);
RESULT stream_send(struct stream *s, const ProtobufCMessage *m, struct claviger_error *e);
RESULT stream_half_close(struct stream *s, struct claviger_error *e); /* nothing more to send */
/* Asks for the next answer before stream_recv waits for it: a server that answers each message before it reads the next can then
 * go on while a send of ours is held up by it. Does nothing when one is asked for already. */
void stream_recv_start(struct stream *s);
/* *ret is NULL when the stream has ended well. */
RESULT stream_recv(struct stream *s, const ProtobufCMessageDescriptor *answer, struct arena *a, ProtobufCMessage **ret,
                   struct claviger_error *e);
void stream_close(struct stream *s); /* NULL accepted */
void stream_cancel(struct stream *s); /* any thread: a blocked stream_recv returns CANCELLED */

static inline ProtobufCBinaryData pb_of(struct bytes b)
{
    return (ProtobufCBinaryData){b.n, (uint8_t *)(uintptr_t)b.p};
}
static inline struct bytes pb_bytes_of(ProtobufCBinaryData d)
{
    return (struct bytes){d.data, d.len};
}

#endif
