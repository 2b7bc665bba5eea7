/* The policer alone: frames offered to it from the client's side and the server's. */
#ifndef TEST_FRONT_RIG_H
#define TEST_FRONT_RIG_H

#include "tests/unit/vault/front/testing.h"
#include "vault/front/policer.h"

#include <string.h>

enum { STREAMS = 100 };

/* A connection under test: what is sent to the policer is offered at once, and what it passed on is counted. */
struct rig {
    struct policer p;
    int64_t now_ms;
    uint8_t bytes[512 * 1024];
    size_t n, kept;
    struct policer_span span;
};

static inline void add(struct rig *r, const void *p, size_t n)
{
    assert_true(r->n + n <= sizeof r->bytes);
    if (p == NULL)
        memset(r->bytes + r->n, 0, n);
    else
        memcpy(r->bytes + r->n, p, n);
    r->n += n;
}

static inline void add_header(struct rig *r, uint8_t type, uint8_t flags, uint32_t stream, size_t length)
{
    uint8_t h[FRAME_HEADER_BYTES] = {(uint8_t)(length >> 16), (uint8_t)(length >> 8), (uint8_t)length, type, flags};
    put_be32(h + 5, stream);
    add(r, h, sizeof h);
}

static inline void add_frame(struct rig *r, uint8_t type, uint8_t flags, uint32_t stream, const void *payload, size_t length)
{
    add_header(r, type, flags, stream, length);
    add(r, payload, length);
}

/* Offers what was added; what was not consumed stays for the next time. */
static inline enum policer_verdict feed(struct rig *r)
{
    enum policer_verdict v = policer_client(&r->p, r->now_ms, r->bytes, r->n, &r->span);
    memmove(r->bytes, r->bytes + r->span.used, r->n - r->span.used);
    r->n -= r->span.used;
    r->kept += r->span.keep;
    return v;
}

static inline void passes(struct rig *r)
{
    assert_int_equal(feed(r), POLICER_PASS);
    assert_int_equal(r->n, 0);
}

static inline void is_cut(struct rig *r, enum frame_error code, const char *why)
{
    assert_int_equal(feed(r), POLICER_CUT);
    assert_string_equal(r->p.why, why);
    assert_int_equal(r->p.code, code);
    assert_int_equal(feed(r), POLICER_CUT); /* for good */
}

static inline void server_frame(struct rig *r, uint8_t type, uint8_t flags, uint32_t stream, size_t length)
{
    uint8_t f[64] = {0};
    f[2] = (uint8_t)length;
    f[3] = type;
    f[4] = flags;
    put_be32(f + 5, stream);
    size_t n = FRAME_HEADER_BYTES + length;
    assert_int_equal(policer_server(&r->p, r->now_ms, f, n, false), n);
}

static inline void begin(struct rig *r)
{
    r->n = r->kept = 0;
    r->now_ms = 1000000;
    policer_init(&r->p, STREAMS, r->now_ms);
}

static inline void open_preface(struct rig *r)
{
    begin(r);
    add(r, FRAME_PREFACE, FRAME_PREFACE_BYTES);
    add_frame(r, FRAME_SETTINGS, 0, 0, NULL, 0);
    passes(r);
}

static inline void open_acked(struct rig *r)
{
    open_preface(r);
    server_frame(r, FRAME_SETTINGS, 0, 0, 6);
    add_frame(r, FRAME_SETTINGS, FRAME_ACK, 0, NULL, 0);
    passes(r);
}

static inline void add_call(struct rig *r, uint32_t id) /* HEADERS with END_HEADERS, no END_STREAM */
{
    add_frame(r, FRAME_HEADERS, FRAME_END_HEADERS, id, "\x83", 1);
}

static inline void add_message(struct rig *r, uint32_t stream, uint8_t compressed, uint32_t length)
{
    uint8_t prefix[5] = {compressed};
    put_be32(prefix + 1, length);
    add_header(r, FRAME_DATA, 0, stream, 100);
    add(r, prefix, 5);
    add(r, NULL, 95);
}

static struct rig rig; /* too large for some stacks */

#endif
