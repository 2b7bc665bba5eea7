#include "vault/service/offline.h"

#include "base/log.h"
#include "base/text.h"
#include "kms/audit/event.h"
#include "vault/service/floor.h"
#include "vault/service/moving.h"
#include "vault/service/recovery.h"
#include "vault/service/revoked.h"

#include <stdio.h>
#include <string.h>

static const uint8_t no_tenant[STORE_TENANT_BYTES];

static void event_of(const char *action, int64_t now_ns, const char *reason, const char *what, struct buf *out)
{
    struct audit_event ev = {.time_unix_ns = now_ns, .principal = bytes_str("system:offline"), .action = bytes_str(action),
                             .outcome = bytes_str("ok"), .code = bytes_str("OK"), .reason = bytes_str(reason), .after = bytes_str(what)};
    event_encode(&ev, out);
}

const struct aead_key *offline_journal_key(struct keyring *k, struct tenant_ref **held, const uint8_t tag[32], struct err *e)
{
    const struct audit_tenant *system = keyring_system_audit(k);
    if (bytes_ct_equal(system->tag, tag, 32))
        return system->key;
    if (*held != NULL && bytes_ct_equal(tenant_ref_audit(*held)->tag, tag, 32))
        return tenant_ref_audit(*held)->key;
    struct tenant_ref *t = NULL;
    if (keyring_tenant_hold_by_tag(k, tag, &t, e).failed)
        return NULL;
    tenant_ref_drop(*held);
    *held = t;
    return tenant_ref_audit(t)->key;
}

/* ---- accept-rollback ---- */
struct accepting {
    const struct service_options *o;
    const struct offline_out *out;
    struct store_acceptance a;
    struct review_note note;
    struct revoked *revoked;
    struct revoked_facts facts;
    struct buf event, body, moving;
    uint64_t counters;  /* of nonces, put near their end: these are among the amended rows, too, as the next */
    uint64_t waiting;   /* destructions and purges that are put off */
    uint64_t given_up;  /* rotations of a secret on the token */
    const char *closed; /* why nobody can say what was revoked, or NULL */
};

static void release(struct accepting *p)
{
    revoked_free(p->revoked);
    buf_release(&p->event);
    buf_release(&p->body);
    buf_release(&p->moving);
}

static void name_unreadable(void *user, enum rec_kind kind, const char *id)
{
    const struct offline_out *out = ((struct accepting *)user)->out;
    char text[256];
    snprintf(text, sizeof text, "does not open, and stays refused: %s \"%s\"", store_kind_name(kind), id);
    out->line(out->user, text);
}

static struct result amend(void *user, struct record *r, bool *ret_changed, struct err *e)
{
    struct accepting *p = user;
    CLEANUP(buf_release) struct buf text;
    buf_init(&text, STORE_NAME_MAX + 128);
    bool waits;
    moving_as_given_up(r, &p->moving, ret_changed);
    if (*ret_changed) {
        p->given_up++;
        buf_putf(&text, "is given up, because the secret that it was about to make may have been made since: the rotation in %.*s", (int)r->id.n,
                 (const char *)r->id.p);
        p->out->line(p->out->user, buf_cstr(&text));
        return ok();
    }
    TRY(revoked_amend(p->revoked, r, p->note.made_unix_ns, ret_changed, &waits, &text, e));
    p->counters += *ret_changed && r->kind == REC_GCM;
    p->waiting += waits;
    if (*ret_changed && r->kind != REC_GCM)
        p->out->line(p->out->user, buf_cstr(&text));
    return ok();
}

/* The journal is a witness of everything only when it is itself the newest there ever was. */
static const char *doubt(const struct accepting *p)
{
    if (!p->a.floor_found)
        return "there is no anchor of this store to compare with";
    if (p->facts.journal_next < p->a.floor_journal || p->facts.journal_seq < p->a.floor_outbox)
        return "the journal is older than the anchor too";
    if (p->facts.unread > 0)
        return "the journal has records that cannot be read";
    if (p->facts.store_policy < p->facts.policy_version)
        return "the policy is older than the last one that was applied";
    return NULL;
}

/* The store asks no more: event and note can be written. */
static void floor_known(void *user)
{
    struct accepting *p = user;
    p->closed = doubt(p);
    p->note.closed = p->closed != NULL;
    event_of("system.rollback.accept", p->note.made_unix_ns, p->closed != NULL ? "ROLLBACK_CLOSED" : "ROLLBACK_ACCEPTED", p->note.reason,
             &p->event);
    review_note_put(&p->note, &p->body);
    p->a.event = buf_bytes(&p->event);
    p->a.note = buf_bytes(&p->body);
}

/* The journal is opened as the daemon would, so that its end is known and a torn tail is gone. */
static RESULT journal_end(const struct service_options *o, const struct instance *in, struct store_acceptance *a, struct err *e)
{
    const struct journal_options jo = instance_journal_options(in, o->config, o->clock);
    struct journal *j = NULL;
    struct journal_status js;
    TRY(journal_open(&jo, &j, e));
    journal_status(j, &js);
    a->journal_outbox_seq = journal_outbox_seq(j);
    a->journal_next_index = js.next_index;
    journal_close(j);
    return ok();
}

static void say_accepted(const struct accepting *p, struct buf *out)
{
    const struct store_acceptance *a = &p->a;
    const uint64_t revoked = a->amended_rows - p->counters - p->waiting - p->given_up;
    log_event(LOG_WARN, "an older store was accepted", LF_STR("reason", p->note.reason), LF_INT("store_epoch", a->old_epoch),
              LF_INT("floor_epoch", a->floor_epoch), LF_INT("new_epoch", a->new_epoch), LF_INT("unreadable", a->unreadable_rows),
              LF_INT("kept_revoked", revoked), LF_INT("nonce_counters", p->counters), LF_INT("waiting", p->waiting),
              LF_STR("closed", p->closed != NULL ? p->closed : ""));
    buf_putf(out, "accepted the store of epoch %llu (the anchor saw %llu): a new incarnation, %llu rows sealed again, %llu kept revoked as "
             "the journal says, %llu do not open. ",
             (unsigned long long)a->old_epoch, (unsigned long long)a->floor_epoch, (unsigned long long)a->rows,
             (unsigned long long)revoked, (unsigned long long)a->unreadable_rows);
    if (p->waiting > 0)
        buf_putf(out, "%llu destructions of versions and purges of tenants are put off, because they may have been taken back since. ",
                 (unsigned long long)p->waiting);
    if (p->counters > 0)
        buf_putf(out, "%llu versions of level HSM are replaced when they seal again, because their nonces since are not counted here. ",
                 (unsigned long long)p->counters);
    if (p->closed != NULL)
        buf_putf(out, "Closed to all but a recovery administrator (kmsd recover-admin) until kmsctl review rollback or kmsd review-rollback:"
                 " %s, so what was revoked since may be valid here", p->closed);
    else
        buf_put_str(out, "It is on the record, and in the health until kmsctl review rollback or kmsd review-rollback");
}

static RESULT accept(const struct service_options *o, const struct instance *in, const struct review_note *note,
                     const struct offline_out *out, struct buf *ret_text, struct err *e)
{
    CLEANUP(release) struct accepting p = {.o = o, .out = out, .note = *note};
    struct floor floor;
    struct store_options so = instance_store_options(in, o->config, o->clock);
    p.a = (struct store_acceptance){.unreadable = name_unreadable, .amend = amend, .floor_known = floor_known, .user = &p};
    floor_init(&floor, o->config, o->hsm);
    so.anchor = &floor.io;
    buf_init(&p.event, EVENT_MAX_BYTES);
    buf_init(&p.moving, STORE_BODY_MAX);
    buf_init(&p.body, sizeof p.note + 64);
    TRY(journal_end(o, in, &p.a, e));
    TRY(revoked_read(o, in, &p.revoked, &p.facts, e));
    TRY(store_accept(&so, &p.a, e));
    say_accepted(&p, ret_text);
    return ok();
}

/* ---- with the store open as the daemon would open it: recover-admin and the reviews ---- */
static RESULT review(struct store *s, const struct offline_request *q, enum review_what what, int64_t now_ns, struct buf *ret_text,
                     struct err *e)
{
    CLEANUP(buf_release) struct buf event;
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(s);
    struct review_note was;
    char reason[REVIEW_REASON_MAX + 1] = "";
    memcpy(reason, q->reason.p, q->reason.n);
    buf_init(&event, EVENT_MAX_BYTES);
    bool rollback = what == REVIEW_ROLLBACK;
    TRY(review_add(s, what, t, &was, e));
    event_of(rollback ? "system.rollback.review" : "system.recovery.review", now_ns,
             rollback ? "ROLLBACK_REVIEWED" : "RECOVERY_REVIEWED", reason, &event);
    store_txn_event(t, no_tenant, buf_bytes(&event));
    TRY(store_txn_commit(t, NULL, e));
    if (rollback)
        buf_put_str(ret_text, "the accepted rollback is reviewed: health no longer shows it");
    else
        buf_putf(ret_text, "recovery administrator %s is reviewed, and disabled: health no longer shows it", was.principal);
    return ok();
}

static RESULT in_store(const struct service_options *o, const struct offline_request *q, struct store *s, struct buf *ret_text,
                       struct err *e)
{
    const struct recovery_request r = {.name = q->name, .san = q->san, .reason = q->reason, .seconds = q->seconds};
    switch (q->task) {
    case IPC_RECOVER_ADMIN:
        return recovery_make(s, &r, o->config->trust_domain, o->clock, o->boot_id, ret_text, e);
    case IPC_REVIEW_ROLLBACK:
        return review(s, q, REVIEW_ROLLBACK, clock_wall_ns(o->clock), ret_text, e);
    case IPC_REVIEW_RECOVERY:
        return review(s, q, REVIEW_RECOVERY, clock_wall_ns(o->clock), ret_text, e);
    case IPC_ACCEPT_ROLLBACK:
    case IPC_FSCK:
        break;
    }
    FAIL(e, ERR_INTERNAL, NULL, "task %d", (int)q->task);
}

static RESULT with_store(const struct service_options *o, const struct instance *in, const struct offline_request *q,
                         struct buf *ret_text, struct err *e)
{
    struct floor floor;
    struct store *s = NULL;
    struct store_options so = instance_store_options(in, o->config, o->clock);
    floor_init(&floor, o->config, o->hsm);
    so.anchor = &floor.io;
    TRY(store_open(&so, &s, e));
    struct result r = in_store(o, q, s, ret_text, e);
    store_close(s);
    return r;
}

RESULT service_offline(const struct service_options *o, const struct offline_request *q, const struct offline_out *out,
                       struct buf *ret_text, struct err *e)
{
    struct instance in;
    struct review_note note = {.made_unix_ns = clock_wall_ns(o->clock)};
    if (q->task != IPC_FSCK && (q->reason.n == 0 || q->reason.n > REVIEW_REASON_MAX || !text_is_clean_utf8(q->reason)))
        FAIL(e, ERR_INVALID, "REASON", "--reason must be 1 to %d characters without control characters", REVIEW_REASON_MAX);
    memcpy(note.reason, q->reason.n ? q->reason.p : (const uint8_t *)"", q->reason.n <= REVIEW_REASON_MAX ? q->reason.n : 0);
    TRY(instance_load(o->config, o->hsm, &in, e));
    if (q->task == IPC_FSCK)
        return fsck_run(o, &in, out, ret_text, e);
    return q->task == IPC_ACCEPT_ROLLBACK ? accept(o, &in, &note, out, ret_text, e) : with_store(o, &in, q, ret_text, e);
}
