/* Steps 8 and 9: the event, the gate, the answer. */
#include "vault/service/pipeline.h"

#include "base/log.h"
#include "vault/service/metering.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RETRY_AFTER_MS = 1000, SOURCE_MAX = 100 };

const struct audit_tenant *pipeline_audit_tenant(struct call *c)
{
    return c->priv->tenant != NULL ? tenant_ref_audit(c->priv->tenant) : keyring_system_audit(c->svc->keyring);
}

static const char *outcome_of(const struct call *c, const struct err *failed)
{
    if (failed == NULL)
        return "ok";
    if (failed->code == ERR_DENIED)
        return "denied";
    return c->priv->phase < PHASE_AUTHORIZE || c->priv->closed ? "refused" : "error";
}

void pipeline_event(struct call *c, const struct err *failed, struct buf *out)
{
    struct audit_event *ev = &c->ev;
    ev->time_unix_ns = clock_wall_ns(c->svc->clock);
    if (c->id.principal != NULL) {
        ev->principal = bytes_str(c->id.principal->name);
        ev->auth_method = bytes_str(c->id.auth_method);
        ev->tenant = bytes_str(c->id.principal->tenant);
        ev->listener = c->id.listener;
        ev->certificate = BYTES(c->id.cert_sha256, sizeof c->id.cert_sha256);
    }
    if (c->conn != NULL)
        ev->address = authn_conn_address(c->conn);
    if (c->conn != NULL && c->id.principal == NULL) {
        ev->listener = authn_conn_listener(c->conn);
        ev->certificate = authn_conn_certificate(c->conn);
    }
    if (failed != NULL && failed->code == ERR_UNAUTHENTICATED)
        ev->cause = bytes_str(failed->detail);
    if (c->priv->tenant != NULL)
        ev->active_tenant = bytes_str(tenant_ref_info(c->priv->tenant)->name);
    ev->action = bytes_str(c->row->action);
    ev->resource = bytes_str(c->priv->resource_text);
    ev->outcome = bytes_str(outcome_of(c, failed));
    ev->code = bytes_str(failed != NULL ? err_name(failed->code) + strlen("ERR_") : "OK");
    ev->reason = bytes_str(failed != NULL ? failed->reason : c->priv->replayed ? "IDEMPOTENT_REPLAY" : NULL);
    if (c->policy != NULL) {
        ev->rule = bytes_str(c->priv->rule);
        ev->policy_digest = BYTES(c->priv->policy_digest, sizeof c->priv->policy_digest);
    }
    ev->request_id = bytes_str(c->request_id);
    ev->trace_id = bytes_str(c->trace_parent);
    ev->duration_ns = (uint64_t)(clock_boot_ns(c->svc->clock) - c->start_boot_ns);
    if (c->row->per_item)
        ev->items = c->nresources;
    ev->use = c->uses;
    ev->nuse = failed == NULL ? c->nuses : 0;
    event_encode(ev, out);
}

void pipeline_deliver(struct call *c)
{
    struct call_private *p = c->priv;
    bool failed = c->err.code != ERR_NONE;
    struct call_out out = {
        .has_message = !failed && p->encoded.p != NULL,
        .final = failed || c->row->kind == RPC_UNARY || p->finished,
        .message = failed ? (struct bytes){0} : p->encoded,
        .err = failed ? &c->err : NULL,
        .has_receipt = p->has_receipt,
        .receipt = p->receipt,
        .has_event_id = p->has_event_id,
    };
    if (p->has_event_id) {
        uint8_t incarnation[16];
        store_incarnation(c->svc->store, incarnation);
        event_outbox_id(incarnation, c->outbox_seq, out.event_id);
    }
    if (c->err.code == ERR_UNAVAILABLE || c->err.code == ERR_EXHAUSTED)
        out.retry_after_ms = RETRY_AFTER_MS;
    if (out.final)
        p->finished = true;
    c->sink.answer(c, &out, c->sink.user);
}

static void withhold(struct call *c)
{
    if (c->priv->encoded.n > 0)
        wipe((void *)(uintptr_t)c->priv->encoded.p, c->priv->encoded.n);
    c->priv->encoded = (struct bytes){0};
    (void)err_set(&c->err, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", __FILE__, __LINE__, "the event is not durable");
    struct health h = {0};
    health_add(&h, CONDITION_AUDIT_UNAVAILABLE, ""); /* the whole of health has locks that this thread may hold */
    pipeline_say_why(c, &h, &c->err);
}

/* Exactly what the event says. */
static void count_uses(struct call *c, uint64_t index)
{
    if (c->nuses > 0 && c->err.code == ERR_NONE)
        metering_count(c->svc->metering, index, tenant_ref_info(c->priv->tenant)->id, bytes_str(c->id.principal->name), c->ev.time_unix_ns,
                       c->uses, c->nuses);
}

/* Audit thread. A mutation that is committed stays committed: its event is in the outbox and will be journalled; the answer
 * is then OK with the event's id in place of a receipt. Anything else whose event is not durable is withheld. */
static void audit_done(struct journal_entry *en, const struct err *failed)
{
    struct call_private *p = (struct call_private *)((char *)en - offsetof(struct call_private, entry));
    struct call *c = p->call;
    if (failed == NULL) {
        count_uses(c, en->receipt.index);
        p->receipt = en->receipt;
        p->has_receipt = en->receipt.index != UINT64_MAX; /* durable so long ago that the relay forgot where */
    } else if (c->outbox_seq == 0) {
        withhold(c);
    }
    p->has_event_id = c->outbox_seq != 0 && !p->has_receipt;
    pipeline_deliver(c);
}

/* An entry nobody waits for: it frees itself. Nothing was answered on the strength of it; the journal reports its own trouble. */
static void detached_done(struct journal_entry *en, const struct err *failed)
{
    (void)failed;
    free(en);
}

RESULT pipeline_submit_detached(struct service *s, const struct audit_tenant *t, const struct audit_event *ev, struct bytes event,
                                struct err *e)
{
    struct journal_entry *en = calloc(1, sizeof *en);
    INVARIANT(en != NULL);
    en->done = detached_done;
    struct result done = journal_submit(s->journal, en, t, ev->id, ev->time_unix_ns, event, e);
    if (done.failed)
        free(en);
    return done;
}

/* Refusals before authorisation, and repeats, never wait for the disk. */
static void record_refusal(struct call *c)
{
    CLEANUP(buf_release) struct buf event;
    buf_init(&event, EVENT_MAX_BYTES);
    journal_next_event_id(c->svc->journal, c->ev.id);
    pipeline_event(c, &c->err, &event);
    struct err why = {0};
    (void)pipeline_submit_detached(c->svc, pipeline_audit_tenant(c), &c->ev, buf_bytes(&event), &why).failed;
}

/* Who is refused: the principal where it is known, else "addr:" and the address (the front sends it without a port). */
static struct bytes source_of(const struct call *c, char out[SOURCE_MAX])
{
    if (c->id.principal != NULL)
        return bytes_str(c->id.principal->name);
    struct bytes a = c->conn != NULL ? authn_conn_address(c->conn) : bytes_str("unknown");
    int len = snprintf(out, SOURCE_MAX, SOURCE_ADDRESS "%.*s", (int)a.n, (const char *)a.p);
    return BYTES(out, (size_t)len < SOURCE_MAX ? (size_t)len : SOURCE_MAX - 1);
}

static void log_failure(const struct call *c)
{
    if (c->err.code == ERR_DATA_LOSS)
        atomic_fetch_add(&c->svc->damaged, 1);
    enum log_level level = c->err.code == ERR_INTERNAL || c->err.code == ERR_DATA_LOSS ? LOG_ERROR : LOG_DEBUG;
    log_event(level, "call failed", LF_STR("method", c->row->path), LF_STR("request_id", c->request_id), LF_ERR(&c->err));
}

static void park(struct call *c)
{
    struct call_private *p = c->priv;
    p->entry = (struct journal_entry){.done = audit_done, .reserve = c->row->audit == AUDIT_CHANGE};
    if (c->outbox_seq != 0) {
        relay_when_durable(c->svc->relay, c->outbox_seq, &p->entry);
        return;
    }
    CLEANUP(buf_release) struct buf event;
    buf_init(&event, EVENT_LONGEST);
    journal_next_event_id(c->svc->journal, c->ev.id);
    pipeline_event(c, c->err.code != ERR_NONE ? &c->err : NULL, &event);
    struct err why = {0};
    if (journal_submit(c->svc->journal, &p->entry, pipeline_audit_tenant(c), c->ev.id, c->ev.time_unix_ns, buf_bytes(&event), &why)
            .failed) {
        withhold(c);
        pipeline_deliver(c);
    }
}

/* A reservation goes back when nothing was done. A decryption that failed was done: else guessing would be free. */
static void settle_budget(struct call *c)
{
    struct call_private *p = c->priv;
    if (p->budget_taken > 0 && p->tenant != NULL && c->err.code != ERR_NONE && c->err.code != ERR_CIPHERTEXT)
        budget_refund(c->svc->budgets, tenant_ref_info(p->tenant)->id, p->budget_taken);
    p->budget_taken = 0;
}

void pipeline_conclude(struct call *c)
{
    bool failed = c->err.code != ERR_NONE;
    settle_budget(c);
    if (failed)
        log_failure(c);
    if (c->row->plane == PLANE_PUBLIC) {
        pipeline_deliver(c);
        return;
    }
    bool refused = failed && (c->priv->phase < PHASE_AUTHORIZE || c->err.code == ERR_DENIED || c->priv->closed);
    if (refused) {
        char source[SOURCE_MAX];
        if (refusals_full(c->svc->refusals, source_of(c, source), c->row->action, err_name(c->err.code) + strlen("ERR_"), c->err.reason != NULL ? c->err.reason : ""))
            record_refusal(c);
        pipeline_deliver(c);
        return;
    }
#ifdef CLV_BENCH_AUDIT_OFF /* a bench build only: what the gate costs (make bench) */
    if (c->row->audit == AUDIT_USE) {
        pipeline_deliver(c);
        return;
    }
#endif
    park(c);
}
