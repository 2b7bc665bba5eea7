#include "base/text.h"
#include "kms/audit/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static bool name_of_segment(const char *name, uint64_t *ret)
{
    static const char head[] = "journal-", tail[] = ".log";
    size_t n = strlen(name);
    if (n != sizeof head - 1 + 20 + sizeof tail - 1 || memcmp(name, head, sizeof head - 1) != 0 || strcmp(name + 28, tail) != 0)
        return false;
    uint64_t v = 0;
    for (const char *p = name + 8; p < name + 28; p++) {
        if (*p < '0' || *p > '9')
            return false;
        v = v * 10 + (uint64_t)(*p - '0');
    }
    *ret = v;
    return true;
}

RESULT journal_list(struct journal *j, struct err *e)
{
    DIR *d = opendir(j->dir);
    if (!d)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "open %s", j->dir);
    for (struct dirent *de; (de = readdir(d));) {
        uint64_t first;
        if (!name_of_segment(de->d_name, &first))
            continue;
        j->firsts = reallocarray(j->firsts, j->nfirsts + 1, sizeof *j->firsts);
        INVARIANT(j->firsts);
        j->firsts[j->nfirsts++] = first;
    }
    closedir(d);
    if (j->nfirsts)
        qsort(j->firsts, j->nfirsts, sizeof *j->firsts, by_number);
    return ok();
}

static RESULT check_header(struct journal *j, int fd, uint64_t first, uint64_t before, struct segment_header *ret, struct err *e)
{
    uint8_t raw[SEGMENT_HEADER_BYTES];
    struct stat st;
    if (fstat(fd, &st) != 0 || pread(fd, raw, sizeof raw, 0) != (ssize_t)sizeof raw || !segment_header_parse(raw, ret))
        FAIL(e, ERR_DATA_LOSS, "JOURNAL_DAMAGED", "the journal file of index %llu has no valid header", (unsigned long long)first);
    if (memcmp(ret->instance, j->instance, 16) != 0 || !bytes_equal(ret->origin, bytes_str(j->origin)))
        FAIL(e, ERR_STATE, "JOURNAL_FOREIGN", "the journal in %s is of origin %.*s, not of %s", j->dir, (int)ret->origin.n,
             (const char *)ret->origin.p, j->origin);
    if (ret->first_index != first || (uint64_t)st.st_size != ret->file_bytes)
        FAIL(e, ERR_DATA_LOSS, "JOURNAL_DAMAGED", "file of index %llu: header says index %llu and %llu bytes, there are %llu",
             (unsigned long long)first, (unsigned long long)ret->first_index, (unsigned long long)ret->file_bytes,
             (unsigned long long)st.st_size);
    /* The oldest files may have been archived, so the first one that is here names one that is not. */
    if (before != UINT64_MAX && ret->before_first != before)
        FAIL(e, ERR_DATA_LOSS, "JOURNAL_DAMAGED", "the journal file before index %llu is missing", (unsigned long long)first);
    ret->origin = BYTES(NULL, 0);
    return ok();
}

RESULT journal_open_file(struct journal *j, size_t i, int flags, struct segment_header *ret, int *ret_fd, struct err *e)
{
    char path[JOURNAL_PATH_MAX];
    uint64_t first = j->firsts[i];
    journal_segment_path(j, first, path);
    int fd = j->io.open(j->io.user, path, flags | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "open %s", path);
    if (check_header(j, fd, first, i ? j->firsts[i - 1] : UINT64_MAX, ret, e).failed) {
        close(fd);
        return (struct result){1};
    }
    *ret_fd = fd;
    return ok();
}

/* What stands behind the last good record, at j->off, is either a group that was being written when the power went (nothing in
 * it was acknowledged: cut it) or a damaged record that was durable. A later frame tells: it knows what was durable before it. */
RESULT journal_judge_rest(struct journal *j, struct window *w, uint64_t *ret_dirty_to, struct err *e)
{
    bool io = false;
    uint64_t dirty_to = 0;
    for (uint64_t at = j->off; at + 8 <= w->file_bytes; at += 8) {
        static const uint8_t zeros[8];
        const uint8_t *p = window_view(w, at, 8, &io);
        if (!p)
            FAIL(e, io ? ERR_UNAVAILABLE : ERR_DATA_LOSS, io ? "AUDIT_UNAVAILABLE" : "JOURNAL_DAMAGED", "read at %llu",
                 (unsigned long long)at);
        if (memcmp(p, zeros, 8) == 0)
            continue;
        dirty_to = at + 8;
        struct frame f;
        if (get_be32(p) == FRAME_MAGIC && frame_at(w, at, &f) == FRAME_GOOD && f.index - f.place > j->next_index)
            FAIL(e, ERR_DATA_LOSS, "JOURNAL_DAMAGED",
                 "record %llu at offset %llu of the last file is damaged: record %llu behind it knows it as durable",
                 (unsigned long long)j->next_index, (unsigned long long)j->off, (unsigned long long)f.index);
    }
    *ret_dirty_to = dirty_to;
    return ok();
}

static RESULT scan_active(struct journal *j, struct window *w, struct err *e)
{
    struct frame f;
    enum frame_found found;
    uint64_t dirty_to = 0;
    j->off = SEGMENT_HEADER_BYTES;
    while ((found = frame_at(w, j->off, &f)) == FRAME_GOOD && f.index == j->next_index && f.payload.n) {
        j->next_index++;
        j->off += f.size;
        if (f.outbox_seq)
            j->outbox_seq = f.outbox_seq;
    }
    if (found == FRAME_IO)
        FAIL(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "the journal cannot be read at %llu", (unsigned long long)j->off);
    j->was_closed = found == FRAME_GOOD && f.index == j->next_index;
    TRY(journal_judge_rest(j, w, &dirty_to, e));
    if (j->was_closed || dirty_to == 0)
        return ok();
    j->cut_bytes = dirty_to - j->off;
    TRY(disk_zero(j, j->fd, j->off, j->cut_bytes, e));
    return disk_sync(j, j->fd, e);
}

static RESULT recover_active(struct journal *j, struct err *e)
{
    struct segment_header h;
    struct window w;
    TRY(journal_open_file(j, j->nfirsts - 1, O_RDWR, &h, &j->fd, e));
    j->next_index = h.first_index;
    j->outbox_seq = h.outbox_seq;
    window_init(&w, j->fd, h.file_bytes);
    struct result r = scan_active(j, &w, e);
    window_release(&w);
    TRY(r);
    j->active_bytes = h.file_bytes;
    j->active_free = h.file_bytes - j->off;
    /* The last run may have died between the rename and the sync of the folder. */
    return disk_sync_dir(j, e);
}

RESULT journal_recover(struct journal *j, struct err *e)
{
    char part[JOURNAL_PATH_MAX];
    struct segment_header h;
    int fd = -1;
    journal_part_path(j, part);
    if (unlink(part) != 0 && errno != ENOENT)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "remove %s", part);
    TRY(journal_list(j, e));
    for (size_t i = 0; i + 1 < j->nfirsts; i++) {
        TRY(journal_open_file(j, i, O_RDONLY, &h, &fd, e));
        close(fd);
    }
    if (j->nfirsts)
        return recover_active(j, e);
    TRY(disk_prealloc(j, &fd, e));
    struct result r = disk_roll(j, fd, e);
    if (r.failed && j->fd != fd)
        close(fd);
    return r;
}
