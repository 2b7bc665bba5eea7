#include "kms/audit/event.h"
#include "kms/audit/internal.h"
#include "kms/crypto/kdf.h"
#include "kms/crypto/nonce.h"

#include <stdlib.h>
#include <string.h>

enum { NONCE_BYTES = 32, LEAF_VERSION = 1 };

/* Leaf and sealed body, in the place they will have in the file. */
static void build_record(struct journal_entry *en, const struct audit_tenant *t, const uint8_t event_id[16],
                         int64_t time_unix_ns, struct bytes event)
{
    uint8_t usual[NONCE_BYTES + EVENT_MAX_BYTES], *plain = usual; /* the rare long one has a block of its own */
    const uint8_t leaf_prefix = 0;
    size_t plain_n = NONCE_BYTES + event.n, payload_n = JOURNAL_LEAF_BYTES + AEAD_OVERHEAD + plain_n;
    size_t size = frame_size(payload_n);
    uint8_t *frame = malloc(size);
    if (event.n > EVENT_MAX_BYTES)
        plain = malloc(plain_n);
    INVARIANT(frame && plain);
    memset(frame + size - 8, 0, 8); /* padding; only a few bytes of it may be */
    uint8_t *leaf = frame + FRAME_HEADER_BYTES;
    /* Two short draws: one of this length would make the source draw from the kernel before and after, as it does for what may
     * become a key. That is 1.5 us an event, for a value that only hides. */
    nonce_fill(plain, NONCE_BYTES / 2);
    nonce_fill(plain + NONCE_BYTES / 2, NONCE_BYTES / 2);
    memcpy(plain + NONCE_BYTES, event.p, event.n);
    leaf[0] = LEAF_VERSION;
    memcpy(leaf + 1, event_id, 16);
    put_be64(leaf + 17, (uint64_t)time_unix_ns);
    memcpy(leaf + 25, t->tag, 32);
    struct bytes nonce_and_event = BYTES(plain, plain_n);
    sha256(&nonce_and_event, 1, leaf + 57);
    struct bytes hashed[] = {BYTES(&leaf_prefix, 1), BYTES(leaf, JOURNAL_LEAF_BYTES)};
    sha256(hashed, 2, en->receipt.leaf_hash);
    aead_seal(t->key, BYTES(NULL, 0), BYTES(leaf, JOURNAL_LEAF_BYTES), nonce_and_event, leaf + JOURNAL_LEAF_BYTES);
    wipe(plain, NONCE_BYTES); /* the nonce keeps a guessable event from being found by its hash */
    if (plain != usual)
        free(plain);
    put_be32(frame + FRAME_LENGTH_AT, (uint32_t)payload_n);
    put_be32(frame + FRAME_CRC_AT, crc32c(BYTES(leaf, payload_n)));
    en->record = frame;
    en->record_n = size;
}

static uint64_t free_locked(const struct journal *j)
{
    uint64_t next = j->next == NEXT_READY ? j->segment_bytes - SEGMENT_HEADER_BYTES : 0;
    return j->active_free + next;
}

static bool stalled(struct journal *j)
{
    int64_t since = atomic_load_explicit(&j->writing_since_ms, memory_order_relaxed);
    return since && clock_boot_ms(j->clock) - since > JOURNAL_STALL_MS;
}

/* While the next file is being made it is taken as made: a pause in the queue, not a refusal. What it holds against the reserve
 * is judged again by the audit thread, with what there really is. */
static bool room_locked(const struct journal *j, size_t n, bool reserve)
{
    uint64_t need = j->queued_bytes + n + (reserve ? 0 : j->reserve_bytes);
    return j->next == NEXT_WANTED || need <= free_locked(j);
}

static bool admits(struct journal *j, bool reserve)
{
    pthread_mutex_lock(&j->mu);
    bool yes = !j->failing && room_locked(j, FRAME_MAX, reserve);
    pthread_mutex_unlock(&j->mu);
    return yes && !stalled(j);
}

bool journal_admits(struct journal *j)
{
    return admits(j, false);
}

bool journal_admits_reserve(struct journal *j)
{
    return admits(j, true);
}

static RESULT check_locked(struct journal *j, const struct journal_entry *en, struct err *e)
{
    if (j->failing)
        FAIL(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "%s", j->reason);
    if (j->stop)
        FAIL(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "the journal is closing");
    /* Else a call that was refused because the disk hangs would wait for that disk to hear it. The relay paces itself. */
    if (en->outbox_seq == 0 && stalled(j))
        FAIL(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "the disk does not answer");
    if (j->queued >= JOURNAL_QUEUE_MAX || j->queued_bytes + en->record_n > JOURNAL_QUEUE_MAX_BYTES)
        FAIL(e, ERR_EXHAUSTED, "AUDIT_QUEUE", "%zu events wait for the disk", j->queued);
    if (!room_locked(j, en->record_n, en->reserve))
        FAIL(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "the journal is full: %s", j->reason);
    return ok();
}

static void enqueue_locked(struct journal *j, struct journal_entry *en)
{
    en->next = NULL;
    *j->tail = en;
    j->tail = &en->next;
    if (j->audit_sleeps) {
        j->audit_sleeps = false;
        pthread_cond_signal(&j->work);
    }
}

RESULT journal_submit_outbox(struct journal *j, struct journal_entry *en, const struct audit_tenant *t,
                             const uint8_t event_id[16], int64_t time_unix_ns, struct bytes event, uint64_t outbox_seq,
                             struct err *e)
{
    if (event.n == 0 || event.n > EVENT_LONGEST)
        FAIL(e, ERR_OUT_OF_RANGE, "AUDIT_EVENT", "event of %zu bytes", event.n);
    build_record(en, t, event_id, time_unix_ns, event);
    en->outbox_seq = outbox_seq;
    pthread_mutex_lock(&j->mu);
    struct result r = check_locked(j, en, e);
    if (!r.failed) {
        j->queued++;
        j->queued_bytes += en->record_n;
        enqueue_locked(j, en);
    }
    pthread_mutex_unlock(&j->mu);
    if (r.failed) {
        free(en->record);
        en->record = NULL;
    }
    return r;
}

RESULT journal_submit(struct journal *j, struct journal_entry *en, const struct audit_tenant *t, const uint8_t event_id[16],
                      int64_t time_unix_ns, struct bytes event, struct err *e)
{
    return journal_submit_outbox(j, en, t, event_id, time_unix_ns, event, 0, e);
}

static void post(struct journal *j, struct journal_entry *en, enum posted what)
{
    en->record = NULL;
    en->record_n = what;
    pthread_mutex_lock(&j->mu);
    INVARIANT(!j->stop);
    enqueue_locked(j, en);
    pthread_mutex_unlock(&j->mu);
}

void journal_post(struct journal *j, struct journal_entry *en, bool failed)
{
    post(j, en, failed ? POSTED_FAILED : POSTED_DURABLE);
}

void journal_visit(struct journal *j, struct journal_entry *en)
{
    post(j, en, POSTED_VISIT);
}

void journal_next_event_id(struct journal *j, uint8_t out[16])
{
    put_be64(out, j->event_source);
    put_be64(out + 8, atomic_fetch_add_explicit(&j->event_count, 1, memory_order_relaxed));
}
