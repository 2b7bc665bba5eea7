#include "kms/audit/internal.h"

#include "base/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ZERO_CHUNK = 1 << 18, PREALLOC_STEP = 1 << 21 };
static const uint8_t zeros[ZERO_CHUNK];

void journal_segment_path(const struct journal *j, uint64_t first, char out[JOURNAL_PATH_MAX])
{
    snprintf(out, JOURNAL_PATH_MAX, "%s/journal-%020llu.log", j->dir, (unsigned long long)first);
}

void journal_part_path(const struct journal *j, char out[JOURNAL_PATH_MAX])
{
    snprintf(out, JOURNAL_PATH_MAX, "%s/journal-next.part", j->dir);
}

RESULT disk_write(struct journal *j, int fd, const void *p, size_t n, uint64_t at, struct err *e)
{
    const uint8_t *from = p;
    while (n) {
        ssize_t w = j->io.pwrite(j->io.user, fd, from, n, (off_t)at);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            FAIL_ERRNO(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "journal write of %zu bytes", n);
        if (w == 0)
            FAIL(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "journal write made no progress");
        from += w;
        n -= (size_t)w;
        at += (uint64_t)w;
    }
    return ok();
}

RESULT disk_zero(struct journal *j, int fd, uint64_t at, uint64_t n, struct err *e)
{
    for (uint64_t left = n; left;) {
        size_t part = left < ZERO_CHUNK ? (size_t)left : ZERO_CHUNK;
        TRY(disk_write(j, fd, zeros, part, at, e));
        at += part;
        left -= part;
    }
    return ok();
}

RESULT disk_sync(struct journal *j, int fd, struct err *e)
{
    int rc;
    while ((rc = j->io.fdatasync(j->io.user, fd)) != 0 && errno == EINTR)
        ;
    if (rc != 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "journal fdatasync");
    return ok();
}

RESULT disk_sync_dir(struct journal *j, struct err *e)
{
    return dir_sync(j->dir, "AUDIT_UNAVAILABLE", e);
}

static RESULT fill_part(struct journal *j, int fd, struct err *e)
{
    /* Asks for the room first: a full disk is then found without writing most of a file again on each retry. Zeros are written
     * in any case: fdatasync of merely allocated extents is slower, and a file system may not know fallocate. */
    if (fallocate(fd, 0, 0, (off_t)j->segment_bytes) != 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "no room for the next journal file");
    /* In steps, each synced: a whole file of dirty pages at once would stand before the active file's next fdatasync. */
    for (uint64_t at = 0; at < j->segment_bytes; at += PREALLOC_STEP) {
        uint64_t left = j->segment_bytes - at;
        TRY(disk_zero(j, fd, at, left < PREALLOC_STEP ? left : PREALLOC_STEP, e));
        TRY(disk_sync(j, fd, e));
    }
    return ok();
}

RESULT disk_prealloc(struct journal *j, int *ret_fd, struct err *e)
{
    char path[JOURNAL_PATH_MAX];
    journal_part_path(j, path);
    unlink(path);
    int fd = j->io.open(j->io.user, path, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "create %s", path);
    struct result r = fill_part(j, fd, e);
    if (r.failed) {
        close(fd);
        unlink(path); /* half a file would keep the little space there is from the store */
        return r;
    }
    *ret_fd = fd;
    return ok();
}

/* Under mu: readers look these up. */
static void adopt(struct journal *j, int fd)
{
    pthread_mutex_lock(&j->mu);
    j->firsts = reallocarray(j->firsts, j->nfirsts + 1, sizeof *j->firsts);
    INVARIANT(j->firsts);
    j->firsts[j->nfirsts++] = j->next_index;
    j->active_bytes = j->segment_bytes;
    j->active_free = j->segment_bytes - SEGMENT_HEADER_BYTES;
    pthread_mutex_unlock(&j->mu);
    if (j->fd >= 0)
        close(j->fd);
    j->fd = fd;
    j->off = SEGMENT_HEADER_BYTES;
}

RESULT disk_roll(struct journal *j, int fd, struct err *e)
{
    char part[JOURNAL_PATH_MAX], path[JOURNAL_PATH_MAX];
    uint8_t header[SEGMENT_HEADER_BYTES];
    struct segment_header h = {.first_index = j->next_index,
                               .before_first = j->nfirsts ? j->firsts[j->nfirsts - 1] : UINT64_MAX,
                               .outbox_seq = j->outbox_seq,
                               .file_bytes = j->segment_bytes,
                               .created_unix_ns = clock_wall_ns(j->clock),
                               .origin = bytes_str(j->origin)};
    memcpy(h.instance, j->instance, 16);
    segment_header_put(&h, header);
    TRY(disk_write(j, fd, header, sizeof header, 0, e));
    TRY(disk_sync(j, fd, e));
    journal_part_path(j, part);
    journal_segment_path(j, j->next_index, path);
    if (access(path, F_OK) == 0)
        FAIL(e, ERR_DATA_LOSS, "JOURNAL_DAMAGED", "%s exists already", path);
    if (rename(part, path) != 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "name %s", path);
    adopt(j, fd);
    j->dir_dirty = true;
    TRY(disk_sync_dir(j, e));
    j->dir_dirty = false;
    return ok();
}
