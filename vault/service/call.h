/*
 * Purpose: one call from its first byte to its answer, free of any transport: what vault/rpc gives, what handlers see,
 *          and what comes back. The pipeline of DESIGN section 3 runs behind call_message().
 * Owns:    a call owns its arena (wiped at the end), its identity reference, its journal entry, its encoded answer.
 * Threads: one thread owns a call at a time; hand-overs: transport -> slow lane -> audit thread -> transport, each through
 *          a queue with its own lock. call_cancel alone may come from any thread at any time.
 * Errors:  c->err holds the outcome; vault/rpc/status.c maps it. The sink hears exactly one answer for each message.
 * Limits:  CALL_REQUEST_MAX a message, CALL_ARENA_MAX memory of a call, CALL_ITEMS_MAX items of a batch.
 * Secrets: plaintext lives only in the arena and in `out`, both wiped; keys stay in kms/keyring.
 */
#ifndef VAULT_SERVICE_CALL_H
#define VAULT_SERVICE_CALL_H

#include "base/arena.h"
#include "base/clock.h"
#include "kms/audit/event.h"
#include "kms/audit/journal.h"
#include "kms/authn/authn.h"
#include "kms/name/name.h"
#include "vault/service/table.h"

#include <stdatomic.h>

enum { CALL_REQUEST_MAX = 262144, CALL_ARENA_MAX = 8 << 20, CALL_ITEMS_MAX = 1000, CALL_META_MAX = 128 };

struct service; /* vault/service/service.h: everything that outlives a call */
struct call;

/* What the transport knows when a call begins. Views must live until call_new returns (they are copied). */
struct call_start {
    const struct rpc_row *row;
    struct authn_conn *conn;      /* NULL: unknown connection (answered UNAUTHENTICATED). The call takes a reference. */
    struct bytes request_id;      /* metadata x-request-id: at most CALL_META_MAX clean characters, else dropped */
    struct bytes idempotency_key; /* metadata claviger-idempotency-key */
    struct bytes trace_parent;    /* metadata traceparent */
    struct bytes request_params;  /* metadata x-goog-request-params (never trusted) */
    int64_t deadline_boot_ms;     /* clock_boot_ms at which the caller gives up */
};

/* One answer. For a unary call: final, with a message when code is ERR_NONE. For streams: messages, then a final one. */
struct call_out {
    bool has_message;
    bool final;
    struct bytes message;         /* encoded protobuf; valid until call_sent */
    const struct err *err;        /* NULL or the failure: status, ErrorInfo, BadRequest are made from it */
    bool has_receipt;             /* trailer claviger-receipt: origin index leaf-hash */
    struct receipt receipt;
    bool has_event_id;            /* trailer claviger-event: a committed change whose event is not in the journal yet */
    uint8_t event_id[16];
    uint64_t retry_after_ms;      /* > 0: RetryInfo */
};
/* answer runs on whichever thread finished the step: a worker, a slow-lane thread or the audit thread. It must not block. */
struct call_sink {
    void (*answer)(struct call *c, const struct call_out *out, void *user);
    void *user;
};

struct call *call_new(struct service *s, const struct call_start *start, struct call_sink sink); /* never NULL */
/* A message arrived (unary: the request). Copies nothing: bytes must stay valid until the answer. Leads to one answer. */
void call_message(struct call *c, struct bytes untrusted_message);
/* Streams: begins a server stream after its request (call_message did), or says that the client half-closed. */
void call_half_close(struct call *c);
/* The transport has sent the last answer: its memory may go; a stream may produce its next (answer is called again). */
void call_sent(struct call *c);
void call_cancel(struct call *c); /* any thread: client gone or deadline passed; the pipeline stops at its next step */
void call_free(struct call *c);   /* after the final answer was sent, or after cancellation once no answer is pending */

/* ---- what handlers see ------------------------------------------------------------------------------------------ */
struct resource {
    struct name name;
    const char *action;       /* NULL: the row's */
    bool denied;              /* batch items: decided one by one */
    const char *rule;
};

struct call {
    struct service *svc;
    const struct rpc_row *row;
    struct call_sink sink;
    struct arena arena;
    struct authn_conn *conn;
    struct identity id;
    const struct policy_set *policy; /* the set that decided */
    int64_t start_boot_ns, start_wall_ns, deadline_boot_ms;
    char request_id[CALL_META_MAX + 1], idempotency_key[CALL_META_MAX + 1], trace_parent[CALL_META_MAX + 1];
    atomic_bool cancelled;
    bool may_block;           /* slow lane: store, HSM and waiting are allowed */
    bool token_away;          /* it failed in this message: not asked again for the items that follow */
    struct resource *resources;
    size_t nresources;
    struct audit_event ev;    /* handlers fill key_version, items, before, after */
    struct event_use *uses;   /* what this message did with which key version (crypt.c): for the event, and counted with it */
    size_t nuses, uses_room;
    uint64_t outbox_seq;      /* set by call_commit: the event is already durable in the store */
    struct err err;
    const void *request;      /* decoded message */
    void *stream;             /* a stream's own state (arena or heap: its close step frees it) */
    struct call_private *priv;
};
bool call_is_cancelled(const struct call *c); /* cancelled or past its deadline */
const char *call_resource_text(const struct call *c); /* canonical name of the first resource; "" for the instance */
const struct clock *call_clock(const struct call *c);

struct store_txn;
/* Commits a mutation with its event and idempotency record in one transaction; resp is what will be answered. */
RESULT call_commit(struct call *c, struct store_txn *txn, const ProtobufCMessage *resp, struct err *e);
/* A response message of the row's type, zeroed and initialised, in the arena. */
void *call_response(struct call *c);
void *call_new_message(struct call *c, const ProtobufCMessageDescriptor *d);
/* Bytes field helpers: views into or copies in the arena. */
static inline ProtobufCBinaryData pb_view(struct bytes b) { return (ProtobufCBinaryData){b.n, (uint8_t *)(uintptr_t)b.p}; }
static inline struct bytes pb_bytes(ProtobufCBinaryData d) { return (struct bytes){d.data, d.len}; }
ProtobufCBinaryData call_text(struct call *c, const char *s); /* copy in the arena */

#endif
