/*
 * Purpose: the steps of DESIGN section 3 and what they share: not for handlers, not for the transport.
 * Owns:    struct call_private, one a call. Threads: the call's owner; audit_done runs on the audit thread.
 * Errors:  each step fills c->err; pipeline_conclude audits and answers whatever happened. Limits: call.h. Secrets: call.h.
 *
 *   call_message -> pipeline_run: decode, authenticate, resolve, limit, authorize, idempotency, handle   (worker or slow lane)
 *                     | ERR_WOULD_BLOCK: the same again, from resolve on, on the slow lane
 *                     v
 *                   pipeline_conclude: event -> journal or outbox; the call is parked
 *                     v
 *                   audit thread: durable -> sink.answer          not durable -> the answer is wiped, UNAVAILABLE
 */
#ifndef VAULT_SERVICE_PIPELINE_H
#define VAULT_SERVICE_PIPELINE_H

#include "vault/service/call.h"
#include "vault/service/lanes.h"
#include "vault/service/service.h"

enum call_phase { PHASE_DECODE, PHASE_AUTHENTICATE, PHASE_RESOLVE, PHASE_LIMIT, PHASE_AUTHORIZE, PHASE_HANDLE, PHASE_DONE };

struct call_private {
    struct call *call;
    enum call_phase phase;      /* the step that failed, or DONE */
    bool limited;               /* the limiter has been asked: not again on the slow lane */
    bool closed;                /* refused because its tenant is: recorded as other refusals are */
    uint8_t races;              /* how often its change lost one, and was made again */
    uint64_t budget_taken;      /* items reserved of the tenant's volume budget */
    bool opened, half_closed, waiting, finished; /* streams */
    struct bytes raw;           /* the message, transport's memory */
    struct tenant_ref *tenant;  /* active tenant, held for its audit key; NULL: the system's */
    ProtobufCMessage *response;
    struct bytes encoded;       /* in the arena */
    struct journal_entry entry;
    struct receipt receipt;
    bool has_receipt, has_event_id;
    struct lane_job job;
    uint8_t request_digest[32]; /* idempotency: what the key was first used for */
    bool replayed, idempotency_unusable; /* the latter: one was given that cannot be kept */
    char resource_text[NAME_MAX_BYTES];
    const char *rule;
    uint8_t policy_digest[32];
    bool request_kept;
    struct arena request_arena; /* server streams: the request outlives the memory of each message */
    struct call *next_waiting;  /* server streams with nothing to send */
};

/* One message through steps 1 to 9. */
void pipeline_run(struct call *c);
RESULT pipeline_authorized(struct call *c, struct err *e); /* authenticate .. authorize: again, for each outbound message */
void pipeline_conclude(struct call *c);
void pipeline_say_why(struct call *c, const struct health *h, struct err *e); /* rows that say why: what health says, as e's hint */
void pipeline_deliver(struct call *c);                /* hands the answer to the sink */
RESULT pipeline_encode(struct call *c, const ProtobufCMessage *m, struct err *e);
struct bytes pipeline_owner(const struct call *c);    /* for the slow lane: the tenant, where it is not known yet the certificate, else the address */
void pipeline_event(struct call *c, const struct err *outcome, struct buf *out); /* fills c->ev and encodes */
const struct audit_tenant *pipeline_audit_tenant(struct call *c);
/* Journals an encoded event that no answer waits for; ev gives its id and time. */
RESULT pipeline_submit_detached(struct service *s, const struct audit_tenant *t, const struct audit_event *ev, struct bytes event,
                                struct err *e);

/* Prefix of a refusal's source that is an address, not a principal. */
#define SOURCE_ADDRESS "addr:"

/* Idempotency (mutations with a key): a stored answer is replayed; a key used for another request is refused. */
RESULT idempotency_lookup(struct call *c, bool *ret_replayed, struct err *e);
/* A record's body: the answer to be given again, a view into it. ERR_INVALID: the key was first used for another request. */
RESULT idempotency_read(struct bytes body, const uint8_t request_digest[32], struct bytes *ret_answer, struct err *e);
void idempotency_put(struct call *c, const ProtobufCMessage *resp, struct store_txn *txn);

/* Streams. */
void stream_message(struct call *c);
void stream_half_close(struct call *c);
void stream_sent(struct call *c);
struct waiters; /* the service's list of server streams that wait for something to send */
struct waiters *waiters_new(void);
void waiters_free(struct waiters *w);
void waiters_wake(struct service *s, bool end); /* every 50 ms from the sweep; end: the service stops */

#endif
