/*
 * Purpose: what unary calls (transport.c) and streams (stream.c) do the same way with gRPC core: the call and its queue, metadata,
 *          waiting, messages to bytes and back, the status as an error.
 * Owns:    a wire owns its call and completion queue from wire_open to wire_close.
 * Threads: as transport.h. Errors: as transport.h; a batch that gRPC refuses is INVARIANT.
 * Limits:  as transport.h. Secrets: packed requests are wiped when their last reference goes, answers as soon as they are decoded.
 */
#ifndef VAULT_CLIENT_WIRE_H
#define VAULT_CLIENT_WIRE_H

#include "vault/client/transport.h"

#include <grpc/grpc.h>
#include <grpc/support/time.h>

enum { REQUEST_ID_BYTES = 16, REQUEST_ID_TEXT = 2 * REQUEST_ID_BYTES + 1, RECONNECT_FIRST_MS = 100 };

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

void wire_new_request_id(char out[REQUEST_ID_TEXT]);
/* w->request_id is set already: it is the same for every attempt. */
void wire_open(struct wire *w, struct transport *t, const char *path, const char *idempotency_key, gpr_timespec deadline);
void wire_close(struct wire *w);
void wire_start(struct wire *w, const grpc_op *ops, size_t n, void *tag);
bool wire_wait(struct wire *w, void *tag);
bool wire_wait_until(struct wire *w, void *tag, int64_t deadline_ms); /* boot clock; past it the call is ended: DEADLINE_EXCEEDED */
/* Waits before the next attempt, after so many and as long as the server asked for. False: no time is left before the deadline
 * (boot clock). */
bool wire_back_off(unsigned attempts, uint64_t asked_ms, int64_t deadline_ms);
struct result wire_failure(const struct wire *w, struct claviger_error *e);
grpc_slice wire_pack(const ProtobufCMessage *m);
struct result wire_unpack(grpc_byte_buffer *b, const ProtobufCMessageDescriptor *d, struct arena *a, ProtobufCMessage **ret,
                          struct claviger_error *e);

#endif
