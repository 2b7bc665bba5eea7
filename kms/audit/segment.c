#include "kms/audit/segment.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char header_magic[8] = "CLVJRNL1";
enum { HEADER_FORMAT = 1, HEADER_CRC_AT = SEGMENT_HEADER_BYTES - 4 };

void segment_header_put(const struct segment_header *h, uint8_t out[SEGMENT_HEADER_BYTES])
{
    INVARIANT(h->origin.n <= SEGMENT_ORIGIN_MAX);
    memset(out, 0, SEGMENT_HEADER_BYTES);
    memcpy(out, header_magic, 8);
    put_be32(out + 8, HEADER_FORMAT);
    memcpy(out + 12, h->instance, 16);
    put_be64(out + 28, h->first_index);
    put_be64(out + 36, h->before_first);
    put_be64(out + 44, h->outbox_seq);
    put_be64(out + 52, h->file_bytes);
    put_be64(out + 60, (uint64_t)h->created_unix_ns);
    out[68] = (uint8_t)h->origin.n;
    memcpy(out + 69, h->origin.p, h->origin.n);
    put_be32(out + HEADER_CRC_AT, crc32c(BYTES(out, HEADER_CRC_AT)));
}

bool segment_header_parse(const uint8_t in[SEGMENT_HEADER_BYTES], struct segment_header *ret)
{
    if (memcmp(in, header_magic, 8) != 0 || get_be32(in + 8) != HEADER_FORMAT || in[68] > SEGMENT_ORIGIN_MAX ||
        get_be32(in + HEADER_CRC_AT) != crc32c(BYTES(in, HEADER_CRC_AT)))
        return false;
    memcpy(ret->instance, in + 12, 16);
    ret->first_index = get_be64(in + 28);
    ret->before_first = get_be64(in + 36);
    ret->outbox_seq = get_be64(in + 44);
    ret->file_bytes = get_be64(in + 52);
    ret->created_unix_ns = (int64_t)get_be64(in + 60);
    ret->origin = BYTES(in + 69, in[68]);
    return true;
}

void frame_finish(uint8_t *frame, uint64_t index, uint64_t outbox_seq, uint32_t place)
{
    uint32_t crc = get_be32(frame + FRAME_CRC_AT);
    put_be32(frame, FRAME_MAGIC);
    put_be64(frame + 8, index);
    put_be64(frame + 16, outbox_seq);
    put_be32(frame + 24, place);
    put_be32(frame + FRAME_CRC_AT, crc32c_extend(crc, BYTES(frame, FRAME_CRC_AT)));
}

void window_init(struct window *w, int fd, uint64_t file_bytes)
{
    *w = (struct window){.fd = fd, .file_bytes = file_bytes, .p = malloc(WINDOW_BYTES)};
    INVARIANT(w->p);
}

void window_release(struct window *w)
{
    free(w->p);
    w->p = NULL;
}

static bool fill(struct window *w, uint64_t at)
{
    w->at = at;
    w->n = 0;
    while (w->n < WINDOW_BYTES && at + w->n < w->file_bytes) {
        ssize_t got = pread(w->fd, w->p + w->n, WINDOW_BYTES - w->n, (off_t)(at + w->n));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return false;
        if (got == 0)
            break; /* shorter than its header says: the caller sees too few bytes */
        w->n += (size_t)got;
    }
    return true;
}

const uint8_t *window_view(struct window *w, uint64_t at, size_t n, bool *io_failed)
{
    *io_failed = false;
    if (n > WINDOW_BYTES || at > w->file_bytes || n > w->file_bytes - at)
        return NULL;
    if ((at < w->at || at + n > w->at + w->n) && !fill(w, at)) {
        *io_failed = true;
        return NULL;
    }
    return at + n <= w->at + w->n ? w->p + (at - w->at) : NULL;
}

enum frame_found frame_at(struct window *w, uint64_t at, struct frame *ret)
{
    static const uint8_t zeros[FRAME_HEADER_BYTES];
    bool io = false;
    const uint8_t *h = window_view(w, at, FRAME_HEADER_BYTES, &io);
    if (!h)
        return io ? FRAME_IO : FRAME_ZERO; /* no room for a frame: the end as well */
    if (memcmp(h, zeros, sizeof zeros) == 0)
        return FRAME_ZERO;
    size_t payload_n = get_be32(h + FRAME_LENGTH_AT), size = frame_size(payload_n);
    if (get_be32(h) != FRAME_MAGIC || payload_n > FRAME_MAX || size > FRAME_MAX)
        return FRAME_BAD;
    h = window_view(w, at, size, &io);
    if (!h)
        return io ? FRAME_IO : FRAME_BAD;
    uint32_t crc = crc32c(BYTES(h + FRAME_HEADER_BYTES, payload_n));
    if (crc32c_extend(crc, BYTES(h, FRAME_CRC_AT)) != get_be32(h + FRAME_CRC_AT))
        return FRAME_BAD;
    *ret = (struct frame){.index = get_be64(h + 8), .outbox_seq = get_be64(h + 16), .place = get_be32(h + 24),
                          .payload = BYTES(h + FRAME_HEADER_BYTES, payload_n), .size = size};
    return ret->place <= ret->index ? FRAME_GOOD : FRAME_BAD;
}
