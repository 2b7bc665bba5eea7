/* What fsck asks of the journal: is every record there, in order, whole, and does it open? */
#include "kms/audit/event.h"
#include "kms/audit/internal.h"
#include "kms/crypto/kdf.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LEAF_TAG_AT = 25, LEAF_HASH_AT = 57, NONCE_BYTES = 32 };

static void report(struct journal_checking *c, uint64_t index, const char *what)
{
    char text[400];
    snprintf(text, sizeof text, "journal record %llu: %s", (unsigned long long)index, what);
    c->report(c->user, text);
}

static void check_event(struct journal_checking *c, uint64_t index, const uint8_t *leaf, struct bytes plain)
{
    uint8_t hash[32];
    struct audit_event ev;
    struct err why = {0};
    sha256(&plain, 1, hash);
    if (!bytes_ct_equal(hash, leaf + LEAF_HASH_AT, sizeof hash))
        report(c, index, "the leaf is not a commitment to this event");
    else if (event_decode(BYTES(plain.p + NONCE_BYTES, plain.n - NONCE_BYTES), &ev, &why).failed)
        report(c, index, "the event cannot be read");
    else if (c->event)
        c->event(c->user, &ev);
}

static RESULT check_record(struct journal_checking *c, const struct frame *f, struct err *e)
{
    struct err why = {0};
    const uint8_t *leaf = f->payload.p;
    if (f->payload.n < JOURNAL_LEAF_BYTES + AEAD_OVERHEAD + NONCE_BYTES) {
        report(c, f->index, "too short");
        return ok();
    }
    const struct aead_key *key = c->key(c->user, leaf + LEAF_TAG_AT, &why);
    if (!key && why.code == ERR_UNAVAILABLE) {
        *e = why;
        return (struct result){1};
    }
    if (!key && why.reason && strcmp(why.reason, JOURNAL_CHECK_ERASED) == 0) {
        c->erased++;
        return ok();
    }
    if (!key) {
        report(c, f->index, why.code == ERR_NOT_FOUND ? JOURNAL_CHECK_NO_TENANT : why.detail);
        return ok();
    }
    size_t n = f->payload.n - JOURNAL_LEAF_BYTES - AEAD_OVERHEAD;
    uint8_t *plain = malloc(n);
    INVARIANT(plain);
    struct bytes sealed = BYTES(leaf + JOURNAL_LEAF_BYTES, f->payload.n - JOURNAL_LEAF_BYTES);
    if (aead_open(key, 0, BYTES(leaf, JOURNAL_LEAF_BYTES), sealed, plain, &why).failed)
        report(c, f->index, "the body does not open under its tenant's key");
    else
        check_event(c, f->index, leaf, BYTES(plain, n));
    wipe(plain, n);
    free(plain);
    return ok();
}

/* Good frames in order, up to the first that is not. */
static RESULT check_frames(struct journal *j, struct journal_checking *c, struct window *w, bool *ret_closed, struct err *e)
{
    struct frame f;
    enum frame_found found;
    j->off = SEGMENT_HEADER_BYTES;
    while ((found = frame_at(w, j->off, &f)) == FRAME_GOOD && f.index == j->next_index && f.payload.n) {
        if (f.outbox_seq && f.outbox_seq != j->outbox_seq + 1)
            report(c, f.index, "its outbox sequence does not follow on the last one");
        if (f.outbox_seq)
            j->outbox_seq = f.outbox_seq;
        size_t size = f.size;
        TRY(check_record(c, &f, e));
        j->next_index++;
        c->records++;
        j->off += size;
    }
    if (found == FRAME_IO)
        FAIL(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "the journal cannot be read at %llu", (unsigned long long)j->off);
    *ret_closed = found == FRAME_GOOD && f.index == j->next_index && f.payload.n == 0;
    return ok();
}

static RESULT check_end(struct journal *j, struct journal_checking *c, struct window *w, bool closed, struct err *e)
{
    struct err why = {0};
    uint64_t dirty_to = 0;
    if (journal_judge_rest(j, w, &dirty_to, &why).failed) {
        if (why.code == ERR_UNAVAILABLE) {
            *e = why;
            return (struct result){1};
        }
        report(c, j->next_index, why.detail);
    } else if (!closed && dirty_to > j->off) {
        c->torn_bytes = dirty_to - j->off;
    }
    return ok();
}

static RESULT check_window(struct journal *j, struct journal_checking *c, size_t i, struct window *w, struct err *e)
{
    bool closed = false;
    TRY(check_frames(j, c, w, &closed, e));
    if (i + 1 == j->nfirsts)
        return check_end(j, c, w, closed, e);
    if (j->next_index != j->firsts[i + 1])
        report(c, j->next_index, "missing or damaged: the file ends before the next one begins");
    return ok();
}

static RESULT check_file(struct journal *j, struct journal_checking *c, size_t i, struct err *e)
{
    struct segment_header h;
    struct window w;
    struct err why = {0};
    int fd = -1;
    if (journal_open_file(j, i, O_RDONLY, &h, &fd, &why).failed) {
        if (why.code == ERR_UNAVAILABLE) {
            *e = why;
            return (struct result){1};
        }
        report(c, j->firsts[i], why.detail);
        return ok();
    }
    if (i && h.outbox_seq != j->outbox_seq)
        report(c, h.first_index, "its file does not go on where the one before ends");
    j->next_index = h.first_index;
    j->outbox_seq = h.outbox_seq;
    window_init(&w, fd, h.file_bytes);
    struct result r = check_window(j, c, i, &w, e);
    window_release(&w);
    close(fd);
    c->files++;
    return r;
}

RESULT journal_check(const struct journal_options *o, struct journal_checking *c, struct err *e)
{
    struct journal *j = journal_alloc(o);
    struct result r = journal_list(j, e);
    for (size_t i = 0; !r.failed && i < j->nfirsts; i++)
        r = check_file(j, c, i, e);
    c->next_index = j->next_index;
    c->outbox_seq = j->outbox_seq;
    journal_close(j);
    return r;
}
