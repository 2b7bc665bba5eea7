/*
 * Purpose: the bytes of a journal file: a header, then frames, then zeros to the end.
 * Owns: nothing. Threads: pure; a window belongs to one thread. Errors: as named. Limits: SEGMENT_ORIGIN_MAX, FRAME_MAX.
 * Secrets: none: payloads are a commitment and a sealed body.
 *
 * Numbers are big endian. Header, 256 bytes: "CLVJRNL1" | u32 format 1 | instance[16] | u64 first index | u64 first index of
 *   the file before (all ones: none) | u64 highest outbox sequence before | u64 file bytes | i64 created, unix ns
 *   | u8 n, origin[127] | zeros | u32 CRC-32C of all before it.
 * Frame, at a multiple of 8: u32 magic | u32 payload bytes | u64 index | u64 outbox sequence (0: none)
 *   | u32 place in its group | u32 CRC-32C of payload, then of the 28 bytes before | payload | zeros to a multiple of 8.
 *   A group is what one fdatasync made durable: a frame proves that everything below (index - place) was durable when it was
 *   written. A frame without payload is the mark of an orderly close; the next frame overwrites it.
 */
#ifndef KMS_AUDIT_SEGMENT_H
#define KMS_AUDIT_SEGMENT_H

#include "base/bytes.h"

enum { SEGMENT_HEADER_BYTES = 256, SEGMENT_ORIGIN_MAX = 127, FRAME_HEADER_BYTES = 32, FRAME_LENGTH_AT = 4, FRAME_CRC_AT = 28, FRAME_MAX = 65600,
       FRAME_MAGIC = 0x434c5672, WINDOW_BYTES = 262144 };

struct segment_header {
    uint8_t instance[16];
    uint64_t first_index, before_first, outbox_seq, file_bytes;
    int64_t created_unix_ns;
    struct bytes origin;
};
void segment_header_put(const struct segment_header *h, uint8_t out[SEGMENT_HEADER_BYTES]);
bool segment_header_parse(const uint8_t in[SEGMENT_HEADER_BYTES], struct segment_header *ret); /* origin: view into in */

static inline size_t frame_size(size_t payload_n)
{
    return (FRAME_HEADER_BYTES + payload_n + 7) & ~(size_t)7;
}
/* Completes a frame whose payload, its length (at FRAME_LENGTH_AT) and its CRC (at FRAME_CRC_AT) are in place. */
void frame_finish(uint8_t *frame, uint64_t index, uint64_t outbox_seq, uint32_t place);

struct frame {
    uint64_t index, outbox_seq;
    uint32_t place;
    struct bytes payload; /* view into the window */
    size_t size;
};
enum frame_found { FRAME_GOOD, FRAME_ZERO, FRAME_BAD, FRAME_IO };

struct window { /* a moving view of one file */
    int fd;
    uint64_t file_bytes, at;
    size_t n;
    uint8_t *p;
};
void window_init(struct window *w, int fd, uint64_t file_bytes);
void window_release(struct window *w);
/* n bytes at `at` (n at most WINDOW_BYTES), or NULL when the file ends before or cannot be read (then *io_failed). */
const uint8_t *window_view(struct window *w, uint64_t at, size_t n, bool *io_failed);
enum frame_found frame_at(struct window *w, uint64_t at, struct frame *ret);

#endif
