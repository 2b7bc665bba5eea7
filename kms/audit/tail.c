#include "kms/audit/internal.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Where to begin, fixed under the lock; everything below `durable` never changes again, so the rest needs none. */
struct place {
    uint64_t first, next_first; /* the file, and the index the file after it begins with (all ones: it is the active one) */
    uint64_t index, off, durable;
    uint64_t file_bytes;
};

static bool locate(struct journal *j, uint64_t from, struct place *ret)
{
    pthread_mutex_lock(&j->mu);
    size_t i = 0;
    while (i + 1 < j->nfirsts && j->firsts[i + 1] <= from)
        i++;
    *ret = (struct place){.first = j->firsts[i], .next_first = i + 1 < j->nfirsts ? j->firsts[i + 1] : UINT64_MAX,
                          .index = j->firsts[i], .off = SEGMENT_HEADER_BYTES, .durable = j->next_index};
    if (j->cursor.first == ret->first && j->cursor.off && j->cursor.index <= from) {
        ret->index = j->cursor.index;
        ret->off = j->cursor.off;
    }
    bool held = from >= ret->first;
    pthread_mutex_unlock(&j->mu);
    return held;
}

static void remember(struct journal *j, const struct place *p)
{
    pthread_mutex_lock(&j->mu);
    j->cursor.first = p->first;
    j->cursor.index = p->index;
    j->cursor.off = p->off;
    pthread_mutex_unlock(&j->mu);
}

static RESULT keep(struct arena *a, const struct frame *f, struct buf *rows, bool *ret_full, struct err *e)
{
    struct journal_record r = {.index = f->index};
    if (f->payload.n < JOURNAL_LEAF_BYTES)
        FAIL(e, ERR_DATA_LOSS, "JOURNAL_DAMAGED", "record %llu is too short", (unsigned long long)f->index);
    size_t body_n = f->payload.n - JOURNAL_LEAF_BYTES;
    uint8_t *body = arena_dup(a, f->payload.p + JOURNAL_LEAF_BYTES, body_n ? body_n : 1);
    *ret_full = !body;
    if (!body && rows->n == 0)
        FAIL(e, ERR_EXHAUSTED, NULL, "no room for a record");
    if (!body)
        return ok();
    memcpy(r.leaf, f->payload.p, JOURNAL_LEAF_BYTES);
    r.sealed_body = BYTES(body, body_n);
    buf_put(rows, &r, sizeof r);
    return ok();
}

/* Records of one file. */
static RESULT read_file(struct window *w, struct place *p, uint64_t from, size_t max, struct arena *a, struct buf *rows,
                        bool *ret_full, struct err *e)
{
    uint64_t end = p->next_first < p->durable ? p->next_first : p->durable;
    while (p->index < end && !*ret_full && rows->n / sizeof(struct journal_record) < max) {
        struct frame f;
        enum frame_found found = frame_at(w, p->off, &f);
        if (found == FRAME_IO)
            FAIL(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "the journal cannot be read at %llu", (unsigned long long)p->off);
        if (found != FRAME_GOOD || f.index != p->index || f.payload.n == 0)
            FAIL(e, ERR_DATA_LOSS, "JOURNAL_DAMAGED", "record %llu at offset %llu of the file of index %llu",
                 (unsigned long long)p->index, (unsigned long long)p->off, (unsigned long long)p->first);
        if (p->index >= from)
            TRY(keep(a, &f, rows, ret_full, e));
        if (*ret_full)
            break;
        p->index++;
        p->off += f.size;
    }
    return ok();
}

static RESULT open_and_read(struct journal *j, struct place *p, uint64_t from, size_t max, struct arena *a, struct buf *rows,
                            bool *ret_full, struct err *e)
{
    char path[JOURNAL_PATH_MAX];
    struct window w;
    journal_segment_path(j, p->first, path);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "open %s", path);
    off_t size = lseek(fd, 0, SEEK_END);
    window_init(&w, fd, size < 0 ? 0 : (uint64_t)size);
    struct result r = read_file(&w, p, from, max, a, rows, ret_full, e);
    window_release(&w);
    close(fd);
    if (!r.failed)
        remember(j, p);
    return r;
}

static RESULT collect(struct journal *j, uint64_t from, size_t max, struct arena *a, struct buf *rows, struct err *e)
{
    bool full = false;
    while (!full && rows->n / sizeof(struct journal_record) < max) {
        struct place p;
        uint64_t want = from + rows->n / sizeof(struct journal_record);
        if (!locate(j, want, &p))
            FAIL(e, ERR_NOT_FOUND, NULL, "record %llu is not here any more", (unsigned long long)want);
        if (want >= p.durable)
            return ok();
        TRY(open_and_read(j, &p, want, max, a, rows, &full, e));
    }
    return ok();
}

RESULT journal_read(struct journal *j, uint64_t from, size_t max_records, struct arena *a, struct journal_record **ret,
                    size_t *ret_n, struct err *e)
{
    CLEANUP(buf_release) struct buf rows;
    buf_init(&rows, SIZE_MAX / 4);
    TRY(collect(j, from, max_records, a, &rows, e));
    struct journal_record *out = arena_dup(a, rows.n ? rows.p : (const uint8_t *)"", rows.n ? rows.n : 1);
    if (!out)
        FAIL(e, ERR_EXHAUSTED, NULL, "no room for the records");
    *ret = out;
    *ret_n = rows.n / sizeof **ret;
    return ok();
}
