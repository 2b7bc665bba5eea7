#include "vault/service/offline.h"

#include "base/log.h"
#include "kms/audit/event.h"
#include "vault/service/floor.h"

#include <stdio.h>
#include <string.h>

enum { NOTE_FORMAT = 1 };
static const uint8_t no_tenant[STORE_TENANT_BYTES];

/* ---- REC_META "rollback": u8 1, u8 reviewed, i64 time, v16 reason ---- */
static void note_put(const struct rollback_note *n, struct buf *out)
{
    buf_put_u8(out, NOTE_FORMAT);
    buf_put_u8(out, n->reviewed);
    buf_put_u64(out, (uint64_t)n->time_unix_ns);
    buf_put_v16(out, bytes_str(n->reason));
}

static RESULT note_parse(struct bytes body, struct rollback_note *ret, struct err *e)
{
    struct reader in = reader_of(body);
    struct rollback_note n = {0};
    uint8_t format = reader_u8(&in);
    n.reviewed = reader_u8(&in) != 0;
    n.time_unix_ns = (int64_t)reader_u64(&in);
    struct bytes reason = reader_v16(&in);
    if (format != NOTE_FORMAT || !reader_done(&in) || reason.n > OFFLINE_REASON_MAX)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "the note of the accepted rollback is not ours");
    memcpy(n.reason, reason.p, reason.n);
    *ret = n;
    return ok();
}

static RESULT note_read(struct store *s, struct arena *a, struct rollback_note *ret, uint64_t *ret_revision, struct err *e)
{
    struct record r;
    TRY(store_get(s, REC_META, no_tenant, bytes_str(STORE_ROLLBACK_ID), a, &r, e));
    *ret_revision = r.revision;
    return note_parse(r.body, ret, e);
}

RESULT rollback_note_get(struct store *s, struct rollback_note *ret, bool *ret_found, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct err why = {0};
    uint64_t revision;
    arena_init(&a, 65536);
    *ret_found = !note_read(s, &a, ret, &revision, &why).failed;
    if (*ret_found || why.code == ERR_NOT_FOUND)
        return ok();
    *e = why;
    return (struct result){1};
}

static void event_of(const char *action, int64_t now_ns, const char *reason, const char *what, struct buf *out)
{
    struct audit_event ev = {.time_unix_ns = now_ns, .principal = bytes_str("system:offline"), .action = bytes_str(action),
                             .outcome = bytes_str("ok"), .code = bytes_str("OK"), .reason = bytes_str(reason), .after = bytes_str(what)};
    event_encode(&ev, out);
}

/* ---- accept-rollback ---- */
static void name_unreadable(void *user, enum rec_kind kind, const char *id)
{
    const struct offline_out *out = user;
    char text[256];
    snprintf(text, sizeof text, "does not open, and stays refused: %s \"%s\"", store_kind_name(kind), id);
    out->line(out->user, text);
}

/* The journal is opened as the daemon would, so that its end is known and a torn tail is gone. */
static RESULT journal_end(const struct service_options *o, const struct instance *in, struct store_acceptance *a, struct err *e)
{
    struct journal_options jo = {.dir = in->journal_dir, .origin = in->origin, .segment_bytes = o->config->journal_segment_bytes,
                                 .reserve_bytes = o->config->journal_reserve_bytes, .clock = o->clock};
    struct journal *j = NULL;
    struct journal_status js;
    memcpy(jo.instance, in->id, sizeof jo.instance);
    TRY(journal_open(&jo, &j, e));
    journal_status(j, &js);
    a->journal_outbox_seq = journal_outbox_seq(j);
    a->journal_next_index = js.next_index;
    journal_close(j);
    return ok();
}

static RESULT accept(const struct service_options *o, const struct instance *in, const struct rollback_note *note,
                     const struct offline_out *out, struct buf *ret_text, struct err *e)
{
    CLEANUP(buf_release) struct buf event;
    CLEANUP(buf_release) struct buf body;
    struct floor floor;
    struct store_acceptance a = {.unreadable = name_unreadable, .user = (void *)(uintptr_t)out};
    struct store_options so = instance_store_options(in, o->config, o->clock);
    floor_init(&floor, o->config, o->hsm);
    so.anchor = &floor.io;
    buf_init(&event, EVENT_MAX_BYTES);
    buf_init(&body, OFFLINE_REASON_MAX + 64);
    event_of("system.rollback.accept", note->time_unix_ns, "ROLLBACK_ACCEPTED", note->reason, &event);
    note_put(note, &body);
    a.event = buf_bytes(&event);
    a.note = buf_bytes(&body);
    TRY(journal_end(o, in, &a, e));
    TRY(store_accept(&so, &a, e));
    log_event(LOG_WARN, "an older store was accepted", LF_STR("reason", note->reason), LF_INT("store_epoch", a.old_epoch),
              LF_INT("floor_epoch", a.floor_epoch), LF_INT("new_epoch", a.new_epoch), LF_INT("unreadable", a.unreadable_rows));
    buf_putf(ret_text, "accepted the store of epoch %llu (the anchor saw %llu): a new incarnation, %llu rows sealed again, %llu do not "
             "open. It is on the record, and in the health until kmsd review-rollback",
             (unsigned long long)a.old_epoch, (unsigned long long)a.floor_epoch, (unsigned long long)a.rows,
             (unsigned long long)a.unreadable_rows);
    return ok();
}

/* ---- review-rollback ---- */
static RESULT mark_reviewed(struct store *s, const struct rollback_note *review, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    CLEANUP(buf_release) struct buf event;
    CLEANUP(buf_release) struct buf body;
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(s);
    struct rollback_note note;
    struct err why = {0};
    uint64_t revision;
    arena_init(&a, 65536);
    buf_init(&event, EVENT_MAX_BYTES);
    buf_init(&body, OFFLINE_REASON_MAX + 64);
    if (note_read(s, &a, &note, &revision, &why).failed) {
        if (why.code == ERR_NOT_FOUND)
            FAIL(e, ERR_NOT_FOUND, "NO_ROLLBACK", "no rollback was ever accepted here: there is nothing to review");
        *e = why;
        return (struct result){1};
    }
    note.reviewed = true;
    note_put(&note, &body);
    struct record r = {.kind = REC_META, .id = bytes_str(STORE_ROLLBACK_ID), .time_unix_ns = note.time_unix_ns, .body = buf_bytes(&body)};
    event_of("system.rollback.review", review->time_unix_ns, "ROLLBACK_REVIEWED", review->reason, &event);
    store_txn_put(t, &r, revision);
    store_txn_event(t, no_tenant, buf_bytes(&event));
    return store_txn_commit(t, NULL, e);
}

static RESULT review(const struct service_options *o, const struct instance *in, const struct rollback_note *note,
                     struct buf *ret_text, struct err *e)
{
    struct floor floor;
    struct store *s = NULL;
    struct store_options so = instance_store_options(in, o->config, o->clock);
    floor_init(&floor, o->config, o->hsm);
    so.anchor = &floor.io;
    TRY(store_open(&so, &s, e));
    struct result r = mark_reviewed(s, note, e);
    store_close(s);
    if (!r.failed)
        buf_put_str(ret_text, "the accepted rollback is reviewed: health no longer shows it");
    return r;
}

RESULT service_offline(const struct service_options *o, enum offline_task task, struct bytes reason, const struct offline_out *out,
                       struct buf *ret_text, struct err *e)
{
    struct instance in;
    struct rollback_note note = {.time_unix_ns = clock_wall_ns(o->clock)};
    if (task != OFFLINE_FSCK && (reason.n == 0 || reason.n > OFFLINE_REASON_MAX))
        FAIL(e, ERR_INVALID, "REASON", "--reason must be 1 to %d characters", OFFLINE_REASON_MAX);
    memcpy(note.reason, reason.n ? reason.p : (const uint8_t *)"", reason.n);
    TRY(instance_load(o->config, o->hsm, &in, e));
    switch (task) {
    case OFFLINE_ACCEPT:
        return accept(o, &in, &note, out, ret_text, e);
    case OFFLINE_REVIEW:
        return review(o, &in, &note, ret_text, e);
    case OFFLINE_FSCK:
        return fsck_run(o, &in, out, ret_text, e);
    }
    FAIL(e, ERR_INTERNAL, NULL, "task %d", (int)task);
}
