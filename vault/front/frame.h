/*
 * Purpose: the little of HTTP/2 framing (RFC 9113, sections 3.4, 4.1, 6) that the front reads and writes.
 * Owns:    nothing. Threads: pure. Errors: none.
 * Errors:  none: any 9 bytes are a frame header.
 * Limits:  FRAME_HEADER_BYTES a header, FRAME_GOAWAY_BYTES a GOAWAY without debug data.
 * Secrets: none.
 */
#ifndef FRONT_FRAME_H
#define FRONT_FRAME_H

#include "base/bytes.h"

enum { FRAME_HEADER_BYTES = 9, FRAME_GOAWAY_BYTES = 17, FRAME_PREFACE_BYTES = 24, FRAME_LAST_ID_ANY = 0x7fffffff };
#define FRAME_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

enum frame_type {
    FRAME_DATA,
    FRAME_HEADERS,
    FRAME_PRIORITY,
    FRAME_RST_STREAM,
    FRAME_SETTINGS,
    FRAME_PUSH_PROMISE,
    FRAME_PING,
    FRAME_GOAWAY,
    FRAME_WINDOW_UPDATE,
    FRAME_CONTINUATION,
};
enum frame_flag { FRAME_END_STREAM = 0x1, FRAME_ACK = 0x1, FRAME_END_HEADERS = 0x4, FRAME_PADDED = 0x8 };
enum frame_error {
    FRAME_NO_ERROR = 0x0,
    FRAME_PROTOCOL_ERROR = 0x1,
    FRAME_SETTINGS_TIMEOUT = 0x4,
    FRAME_STREAM_CLOSED = 0x5,
    FRAME_SIZE_ERROR = 0x6,
    FRAME_ENHANCE_YOUR_CALM = 0xb,
};

struct frame {
    uint32_t length;
    uint32_t stream; /* reserved bit cleared, as a receiver must */
    uint8_t type, flags;
};

static inline struct frame frame_parse(const uint8_t h[FRAME_HEADER_BYTES])
{
    return (struct frame){
        .length = (uint32_t)h[0] << 16 | (uint32_t)h[1] << 8 | h[2],
        .type = h[3],
        .flags = h[4],
        .stream = get_be32(h + 5) & 0x7fffffffu,
    };
}

static inline void frame_goaway(uint32_t last_id, enum frame_error code, uint8_t out[FRAME_GOAWAY_BYTES])
{
    static const uint8_t head[FRAME_HEADER_BYTES] = {0, 0, 8, FRAME_GOAWAY};
    for (unsigned i = 0; i < FRAME_HEADER_BYTES; i++)
        out[i] = head[i];
    put_be32(out + 9, last_id);
    put_be32(out + 13, (uint32_t)code);
}

#endif
