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

static void add(struct rig *r, const void *p, size_t n)
{
    assert_true(r->n + n <= sizeof r->bytes);
    if (p == NULL)
        memset(r->bytes + r->n, 0, n);
    else
        memcpy(r->bytes + r->n, p, n);
    r->n += n;
}

static void add_header(struct rig *r, uint8_t type, uint8_t flags, uint32_t stream, size_t length)
{
    uint8_t h[FRAME_HEADER_BYTES] = {(uint8_t)(length >> 16), (uint8_t)(length >> 8), (uint8_t)length, type, flags};
    put_be32(h + 5, stream);
    add(r, h, sizeof h);
}

static void add_frame(struct rig *r, uint8_t type, uint8_t flags, uint32_t stream, const void *payload, size_t length)
{
    add_header(r, type, flags, stream, length);
    add(r, payload, length);
}

/* Offers what was added; what was not consumed stays for the next time. */
static enum policer_verdict feed(struct rig *r)
{
    enum policer_verdict v = policer_client(&r->p, r->now_ms, r->bytes, r->n, &r->span);
    memmove(r->bytes, r->bytes + r->span.used, r->n - r->span.used);
    r->n -= r->span.used;
    r->kept += r->span.keep;
    return v;
}

static void passes(struct rig *r)
{
    assert_int_equal(feed(r), POLICER_PASS);
    assert_int_equal(r->n, 0);
}

static void is_cut(struct rig *r, enum frame_error code, const char *why)
{
    assert_int_equal(feed(r), POLICER_CUT);
    assert_string_equal(r->p.why, why);
    assert_int_equal(r->p.code, code);
    assert_int_equal(feed(r), POLICER_CUT); /* for good */
}

static void server_frame(struct rig *r, uint8_t type, uint8_t flags, uint32_t stream, size_t length)
{
    uint8_t f[64] = {0};
    f[2] = (uint8_t)length;
    f[3] = type;
    f[4] = flags;
    put_be32(f + 5, stream);
    size_t n = FRAME_HEADER_BYTES + length;
    assert_int_equal(policer_server(&r->p, r->now_ms, f, n, false), n);
}

static void begin(struct rig *r)
{
    r->n = r->kept = 0;
    r->now_ms = 1000000;
    policer_init(&r->p, STREAMS, r->now_ms);
}

static void open_preface(struct rig *r)
{
    begin(r);
    add(r, FRAME_PREFACE, FRAME_PREFACE_BYTES);
    add_frame(r, FRAME_SETTINGS, 0, 0, NULL, 0);
    passes(r);
}

static void open_acked(struct rig *r)
{
    open_preface(r);
    server_frame(r, FRAME_SETTINGS, 0, 0, 6);
    add_frame(r, FRAME_SETTINGS, FRAME_ACK, 0, NULL, 0);
    passes(r);
}

static void add_call(struct rig *r, uint32_t id) /* HEADERS with END_HEADERS, no END_STREAM */
{
    add_frame(r, FRAME_HEADERS, FRAME_END_HEADERS, id, "\x83", 1);
}

static struct rig rig; /* too large for some stacks */

static void test_preface(void **state)
{
    (void)state;
    struct rig *r = &rig;
    for (size_t i = 0; i < FRAME_PREFACE_BYTES; i++) {
        begin(r);
        add(r, FRAME_PREFACE, FRAME_PREFACE_BYTES);
        r->bytes[i] ^= 1;
        is_cut(r, FRAME_PROTOCOL_ERROR, "not HTTP/2");
        assert_int_equal(r->kept, i);
    }
    begin(r);
    add(r, FRAME_PREFACE, FRAME_PREFACE_BYTES);
    passes(r);
    assert_false(policer_started(&r->p));
    add_frame(r, FRAME_PING, 0, 0, NULL, 8);
    is_cut(r, FRAME_PROTOCOL_ERROR, "the first frame is not SETTINGS");
    open_preface(r);
    assert_true(policer_started(&r->p));
    assert_int_equal(r->kept, FRAME_PREFACE_BYTES + FRAME_HEADER_BYTES);
    begin(r);
    add(r, FRAME_PREFACE, FRAME_PREFACE_BYTES);
    add_frame(r, FRAME_SETTINGS, FRAME_ACK, 0, NULL, 0);
    is_cut(r, FRAME_SIZE_ERROR, "malformed SETTINGS");
}

static void test_settings_ack(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_preface(r);
    assert_int_equal(policer_deadline(&r->p), 0);
    server_frame(r, FRAME_SETTINGS, 0, 0, 6);
    assert_int_equal(policer_deadline(&r->p), r->now_ms + POLICER_ACK_MS);
    assert_int_equal(policer_tick(&r->p, r->now_ms + POLICER_ACK_MS - 1), POLICER_PASS);
    server_frame(r, FRAME_SETTINGS, FRAME_ACK, 0, 0); /* theirs does not count */
    struct policer late = r->p;
    assert_int_equal(policer_tick(&late, r->now_ms + POLICER_ACK_MS), POLICER_CUT);
    assert_int_equal(late.code, FRAME_SETTINGS_TIMEOUT);
    assert_true(late.mistake);
    add_frame(r, FRAME_SETTINGS, FRAME_ACK, 0, NULL, 0);
    passes(r);
    assert_int_equal(policer_deadline(&r->p), 0);
    assert_int_equal(policer_tick(&r->p, r->now_ms + 10 * POLICER_ACK_MS), POLICER_PASS);
}

static void test_streams_before_ack(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_preface(r);
    server_frame(r, FRAME_SETTINGS, 0, 0, 6);
    for (uint32_t i = 0; i < POLICER_STREAMS_BEFORE_ACK; i++)
        add_call(r, 1 + 2 * i);
    passes(r);
    struct policer before = r->p;
    add_call(r, 1 + 2 * POLICER_STREAMS_BEFORE_ACK);
    is_cut(r, FRAME_ENHANCE_YOUR_CALM, "streams opened without acknowledging SETTINGS");
    r->p = before;
    r->n = 0;
    add_frame(r, FRAME_SETTINGS, FRAME_ACK, 0, NULL, 0);
    add_call(r, 1 + 2 * POLICER_STREAMS_BEFORE_ACK);
    passes(r);
}

static void test_open_streams(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    for (uint32_t i = 0; i < STREAMS; i++)
        add_call(r, 1 + 2 * i);
    passes(r);
    assert_int_equal(policer_open_streams(&r->p), STREAMS);
    add_call(r, 1 + 2 * STREAMS);
    assert_int_equal(feed(r), POLICER_WAIT);
    assert_int_equal(r->span.used, 0);
    assert_true(r->span.wait_ms > 0 && r->span.wait_ms <= POLICER_EXCESS_MS);
    /* a place: one stream ends from both sides */
    struct rig *other = r;
    struct policer full = r->p;
    server_frame(r, FRAME_RST_STREAM, 0, 7, 4);
    passes(other);
    assert_int_equal(policer_open_streams(&r->p), STREAMS);
    /* or none in time */
    r->p = full;
    r->n = 0;
    add_call(r, 1 + 2 * STREAMS);
    r->now_ms += POLICER_EXCESS_MS - 1;
    assert_int_equal(feed(r), POLICER_WAIT);
    r->now_ms += 1;
    is_cut(r, FRAME_ENHANCE_YOUR_CALM, "too many open streams");
}

/* What its address has left binds as the connection's own limit does, and room that comes back is used. */
static void test_streams_of_the_address(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    policer_set_room(&r->p, 2, 0);
    add_call(r, 1);
    add_call(r, 3);
    passes(r);
    add_call(r, 5);
    assert_int_equal(feed(r), POLICER_WAIT);
    r->now_ms += POLICER_EXCESS_MS - 1;
    policer_set_room(&r->p, 1, 0);
    passes(r);
    add_call(r, 7);
    policer_set_room(&r->p, 0, 0);
    assert_int_equal(feed(r), POLICER_WAIT); /* a new wait, not the rest of the old one */
    r->now_ms += POLICER_EXCESS_MS;
    is_cut(r, FRAME_ENHANCE_YOUR_CALM, "too many open streams");
}

static void test_unfinished_messages(void **state)
{
    (void)state;
    struct rig *r = &rig;
    uint8_t part[5 + 1000] = {0, 0, 0, 0x10, 0}; /* a quarter of a message */
    open_acked(r);
    add_call(r, 1);
    add_call(r, 3);
    add_frame(r, FRAME_DATA, 0, 1, part, sizeof part);
    passes(r);
    assert_int_equal(r->p.unfinished, 1000 + POLICER_FRAME_COST);
    policer_set_room(&r->p, 100, sizeof part + POLICER_FRAME_COST - 1);
    add_frame(r, FRAME_DATA, 0, 3, part, sizeof part);
    assert_int_equal(feed(r), POLICER_WAIT);
    struct policer waiting = r->p;
    policer_set_room(&r->p, 100, sizeof part + POLICER_FRAME_COST); /* another connection has finished one */
    passes(r);
    assert_int_equal(r->p.unfinished, 2000 + 2 * POLICER_FRAME_COST);
    policer_set_room(&r->p, 100, 0);
    add_frame(r, FRAME_DATA, 0, 1, NULL, 4096 - 1000); /* the end of a message always passes */
    passes(r);
    assert_int_equal(r->p.unfinished, 1000 + POLICER_FRAME_COST);
    add_frame(r, FRAME_RST_STREAM, 0, 3, NULL, 4); /* and so does giving one up */
    passes(r);
    assert_int_equal(r->p.unfinished, 0);
    assert_int_equal(r->p.undone, 1);
    r->p = waiting;
    add_frame(r, FRAME_DATA, 0, 3, part, sizeof part);
    r->now_ms += POLICER_EXCESS_MS;
    is_cut(r, FRAME_ENHANCE_YOUR_CALM, "too much of messages not finished");
}

/* Core keeps what a frame brings and what it takes to keep it: small frames are dearer than they look. */
static void test_frames_of_unfinished_messages(void **state)
{
    (void)state;
    struct rig *r = &rig;
    enum { CRUMBS = 100 };
    open_acked(r);
    add_call(r, 1);
    add_frame(r, FRAME_DATA, 0, 1, "\0\0\0\x10\0" "123456789012", 17);
    for (int i = 1; i < CRUMBS; i++)
        add_frame(r, FRAME_DATA, 0, 1, NULL, 17);
    passes(r);
    assert_int_equal(r->p.unfinished, CRUMBS * (17 + POLICER_FRAME_COST) - 5);
    policer_set_room(&r->p, 100, 17 + POLICER_FRAME_COST - 1);
    add_frame(r, FRAME_DATA, 0, 1, NULL, 17);
    assert_int_equal(feed(r), POLICER_WAIT);
    policer_set_room(&r->p, 100, 17 + POLICER_FRAME_COST);
    passes(r);
    add_frame(r, FRAME_DATA, 0, 1, NULL, 4096 + 5 - 17 * (CRUMBS + 1)); /* whole: nothing of it is left */
    passes(r);
    assert_int_equal(r->p.unfinished, 0);
}

static void test_streams_end_from_both_sides(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    add_call(r, 1);
    add_frame(r, FRAME_HEADERS, FRAME_END_HEADERS | FRAME_END_STREAM, 3, "\x83", 1);
    add_call(r, 5);
    add_call(r, 7);
    passes(r);
    server_frame(r, FRAME_HEADERS, FRAME_END_HEADERS | FRAME_END_STREAM, 1, 1);
    assert_int_equal(policer_open_streams(&r->p), 4); /* the client has not ended */
    add_frame(r, FRAME_DATA, FRAME_END_STREAM, 1, NULL, 0);
    passes(r);
    assert_int_equal(policer_open_streams(&r->p), 3);
    server_frame(r, FRAME_DATA, FRAME_END_STREAM, 3, 20);
    assert_int_equal(policer_open_streams(&r->p), 2);
    add_frame(r, FRAME_RST_STREAM, 0, 5, NULL, 4);
    passes(r);
    assert_int_equal(policer_open_streams(&r->p), 1);
    server_frame(r, FRAME_HEADERS, FRAME_END_HEADERS | FRAME_END_STREAM, 7, 1);
    server_frame(r, FRAME_RST_STREAM, 0, 7, 4);
    assert_int_equal(policer_open_streams(&r->p), 0);
    /* frames that were under way are a race, not a breach */
    add_frame(r, FRAME_DATA, FRAME_END_STREAM, 7, "\0\0\0\0\1x", 6);
    add_frame(r, FRAME_RST_STREAM, 0, 7, NULL, 4);
    add_frame(r, FRAME_WINDOW_UPDATE, 0, 7, NULL, 4);
    passes(r);
    add_frame(r, FRAME_DATA, 0, 9, NULL, 20);
    is_cut(r, FRAME_PROTOCOL_ERROR, "a frame on a stream that was never opened");
}

/* A call whose deadline passes before its HEADERS leave: gRPC's clients reset its stream all the same. */
static void test_reset_before_headers(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    add_call(r, 1);
    passes(r);
    size_t kept = r->kept;
    add_frame(r, FRAME_RST_STREAM, 0, 3, NULL, 4);
    passes(r);
    assert_int_equal(r->kept, kept); /* the core never hears of it */
    assert_int_equal(policer_open_streams(&r->p), 1);
    add_call(r, 5);
    passes(r);
    assert_int_equal(policer_open_streams(&r->p), 2);
    for (int i = 0; i < 3000; i++) /* its twin: as many as one likes is still too many */
        add_frame(r, FRAME_RST_STREAM, 0, 7, NULL, 4);
    assert_int_equal(feed(r), POLICER_WAIT);
}

static void test_no_data_after_the_end(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    add_call(r, 1);
    add_frame(r, FRAME_DATA, FRAME_END_STREAM, 1, "\0\0\0\0\1x", 6);
    passes(r);
    struct policer before = r->p;
    add_frame(r, FRAME_DATA, 0, 1, NULL, 20);
    is_cut(r, FRAME_STREAM_CLOSED, "DATA after the end of a stream");
    r->p = before;
    r->n = 0;
    add_frame(r, FRAME_HEADERS, FRAME_END_HEADERS | FRAME_END_STREAM, 1, "\x83", 1);
    is_cut(r, FRAME_STREAM_CLOSED, "HEADERS in the middle or after the end of a stream");
}

/* Each malformed frame beside its well-formed twin. */
static void test_shapes(void **state)
{
    (void)state;
    static const struct {
        uint8_t type, flags;
        uint32_t stream;
        size_t good, bad;
        enum frame_error code;
        const char *why;
    } rows[] = {
        {FRAME_PING, 0, 0, 8, 7, FRAME_SIZE_ERROR, "malformed PING"},
        {FRAME_PING, 0, 0, 8, 9, FRAME_SIZE_ERROR, "malformed PING"},
        {FRAME_SETTINGS, 0, 0, 12, 13, FRAME_SIZE_ERROR, "malformed SETTINGS"},
        {FRAME_SETTINGS, 0, 0, POLICER_MAX_SETTINGS_BYTES, POLICER_MAX_SETTINGS_BYTES + 6, FRAME_ENHANCE_YOUR_CALM,
         "SETTINGS frame too large"},
        {FRAME_RST_STREAM, 0, 1, 4, 5, FRAME_SIZE_ERROR, "malformed RST_STREAM"},
        {FRAME_PRIORITY, 0, 1, 5, 4, FRAME_SIZE_ERROR, "malformed PRIORITY"},
        {FRAME_GOAWAY, 0, 0, 8, 7, FRAME_SIZE_ERROR, "malformed GOAWAY"},
        {FRAME_WINDOW_UPDATE, 0, 0, 4, 3, FRAME_SIZE_ERROR, "malformed WINDOW_UPDATE"},
        {0xee, 0, 0, POLICER_MAX_FRAME_BYTES, POLICER_MAX_FRAME_BYTES + 1, FRAME_SIZE_ERROR, "frame too large"},
        {FRAME_DATA, FRAME_PADDED, 1, 1, 0, FRAME_SIZE_ERROR, "padding without its length"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct rig *r = &rig;
        open_acked(r);
        add_call(r, 1);
        add_frame(r, rows[i].type, rows[i].flags, rows[i].stream, NULL, rows[i].good);
        passes(r);
        open_acked(r);
        add_call(r, 1);
        add_frame(r, rows[i].type, rows[i].flags, rows[i].stream, NULL, rows[i].bad);
        is_cut(r, rows[i].code, rows[i].why);
    }
}

static void test_wrong_streams(void **state)
{
    (void)state;
    static const struct {
        uint8_t type;
        uint32_t stream;
        size_t length;
        const char *why;
    } rows[] = {
        {FRAME_HEADERS, 0, 1, "HEADERS on a stream that is not a client's"},
        {FRAME_HEADERS, 2, 1, "HEADERS on a stream that is not a client's"},
        {FRAME_DATA, 0, 20, "DATA without a stream"},
        {FRAME_RST_STREAM, 0, 4, "malformed RST_STREAM"},
        {FRAME_RST_STREAM, 2, 4, "a frame on a stream that was never opened"},
        {FRAME_WINDOW_UPDATE, 3, 4, "a frame on a stream that was never opened"},
        {FRAME_PRIORITY, 0, 5, "malformed PRIORITY"},
        {FRAME_SETTINGS, 1, 6, "malformed SETTINGS"},
        {FRAME_PING, 1, 8, "malformed PING"},
        {FRAME_GOAWAY, 1, 8, "malformed GOAWAY"},
        {FRAME_PUSH_PROMISE, 1, 8, "PUSH_PROMISE from a client"},
        {FRAME_CONTINUATION, 1, 8, "CONTINUATION outside its header block"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct rig *r = &rig;
        open_acked(r);
        add_call(r, 1);
        passes(r);
        add_frame(r, rows[i].type, 0, rows[i].stream, NULL, rows[i].length);
        is_cut(r, FRAME_PROTOCOL_ERROR, rows[i].why);
    }
}

static void test_header_blocks(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    add_frame(r, FRAME_HEADERS, 0, 1, NULL, 16384);
    add_frame(r, FRAME_CONTINUATION, FRAME_END_HEADERS, 1, NULL, POLICER_MAX_BLOCK_BYTES - 16384);
    passes(r);
    open_acked(r);
    add_frame(r, FRAME_HEADERS, 0, 1, NULL, 16384);
    add_frame(r, FRAME_CONTINUATION, 0, 1, NULL, POLICER_MAX_BLOCK_BYTES - 16384);
    add_frame(r, FRAME_CONTINUATION, FRAME_END_HEADERS, 1, NULL, 1);
    is_cut(r, FRAME_ENHANCE_YOUR_CALM, "header block too large");
    open_acked(r);
    add_frame(r, FRAME_HEADERS, 0, 1, NULL, 1);
    for (int i = 0; i < POLICER_MAX_CONTINUATIONS; i++)
        add_frame(r, FRAME_CONTINUATION, 0, 1, NULL, 1);
    passes(r);
    struct policer before = r->p;
    add_frame(r, FRAME_CONTINUATION, FRAME_END_HEADERS, 1, NULL, 1);
    is_cut(r, FRAME_ENHANCE_YOUR_CALM, "too many CONTINUATIONs in a header block");
    r->p = before;
    r->n = 0;
    add_frame(r, FRAME_PING, 0, 0, NULL, 8);
    is_cut(r, FRAME_PROTOCOL_ERROR, "a frame inside a header block");
    open_acked(r);
    add_frame(r, FRAME_HEADERS, 0, 1, NULL, 1);
    add_frame(r, FRAME_CONTINUATION, FRAME_END_HEADERS, 3, NULL, 1);
    is_cut(r, FRAME_PROTOCOL_ERROR, "CONTINUATION outside its header block");
}

static void add_message(struct rig *r, uint32_t stream, uint8_t compressed, uint32_t length)
{
    uint8_t prefix[5] = {compressed};
    put_be32(prefix + 1, length);
    add_header(r, FRAME_DATA, 0, stream, 100);
    add(r, prefix, 5);
    add(r, NULL, 95);
}

static void test_messages(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    add_call(r, 1);
    add_message(r, 1, 0, POLICER_MAX_MESSAGE_BYTES);
    passes(r);
    open_acked(r);
    add_call(r, 1);
    add_message(r, 1, 0, POLICER_MAX_MESSAGE_BYTES + 1);
    is_cut(r, FRAME_ENHANCE_YOUR_CALM, "message too large");
    assert_true(r->p.mistake);
    open_acked(r);
    add_call(r, 1);
    add_message(r, 1, 1, 95);
    is_cut(r, FRAME_PROTOCOL_ERROR, "a compressed message");
    assert_true(r->p.mistake);
    /* the prefix of a second message, split over two frames, in a stream beside another one */
    open_acked(r);
    add_call(r, 1);
    add_call(r, 3);
    add_message(r, 1, 0, 95);
    add_frame(r, FRAME_DATA, 0, 1, "\0\0", 2);
    add_message(r, 3, 0, 200);
    passes(r);
    add_frame(r, FRAME_DATA, 0, 1, "\x7f\xff\xff", 3);
    is_cut(r, FRAME_ENHANCE_YOUR_CALM, "message too large");
    /* padding is not message */
    open_acked(r);
    add_call(r, 1);
    add_frame(r, FRAME_DATA, FRAME_PADDED, 1, "\x04\0\0\0\0\1x\1\1\1\1", 11);
    passes(r);
    add_frame(r, FRAME_DATA, FRAME_PADDED, 1, "\x0b\0\0\0\0\1x\1\1\1\1", 11);
    is_cut(r, FRAME_PROTOCOL_ERROR, "more padding than payload");
    assert_false(r->p.mistake); /* no library does this */
}

/* A budget lets its burst pass, then paces at its rate, then cuts; a pause that refills it half forgives. */
static void check_budget(enum policer_budget b, void (*one)(struct rig *r, uint32_t i), const char *why)
{
    const struct bucket_limit *l = &policer_limits[b];
    struct rig *r = &rig;
    uint32_t sent = 0;
    open_acked(r);
    int64_t left = r->p.budget[b].milli / 1000;
    for (; left > 0; left--) {
        one(r, sent++);
        passes(r);
    }
    one(r, sent++);
    assert_int_equal(feed(r), POLICER_WAIT);
    assert_true(r->span.wait_ms >= 1 && r->span.wait_ms <= 1000 / l->per_s + 1);
    r->now_ms += r->span.wait_ms;
    passes(r);
    struct policer paced = r->p;
    int64_t then = r->now_ms;
    r->now_ms += (int64_t)l->burst * 1000 / l->per_s / 2 + 1000 / l->per_s + 1;
    one(r, sent++);
    passes(r);
    assert_int_equal(r->p.budget[b].dry_ms, 0);
    r->p = paced;
    r->now_ms = then;
    unsigned passed = 0;
    for (;;) {
        one(r, sent++);
        enum policer_verdict v = feed(r);
        while (v == POLICER_WAIT) {
            r->now_ms += r->span.wait_ms;
            v = feed(r);
        }
        if (v == POLICER_CUT)
            break;
        passed++;
        assert_true(passed < l->per_s * 6);
    }
    assert_string_equal(r->p.why, why);
    assert_int_equal(r->p.code, FRAME_ENHANCE_YOUR_CALM);
    assert_true(passed >= l->per_s * 4);
}

static void one_settings(struct rig *r, uint32_t i)
{
    (void)i;
    add_frame(r, FRAME_SETTINGS, 0, 0, NULL, 6);
}

static void one_ping(struct rig *r, uint32_t i)
{
    add_frame(r, FRAME_PING, i % 2 ? FRAME_ACK : 0, 0, NULL, 8); /* an answer nobody asked for is a PING, too */
}

static void one_control(struct rig *r, uint32_t i)
{
    switch (i % 3) {
    case 0:
        add_frame(r, FRAME_WINDOW_UPDATE, 0, 0, NULL, 4);
        return;
    case 1:
        add_frame(r, FRAME_PRIORITY, 0, 1, NULL, 5);
        return;
    default:
        add_frame(r, 0x77, 0, 0, NULL, 0);
    }
}

static void one_reset(struct rig *r, uint32_t i)
{
    r->p.budget[POLICER_HEADERS].milli = 1000000; /* of interest is the other one */
    if (r->n > 0)
        return;
    add_call(r, 1 + 2 * i);
    passes(r);
    add_frame(r, FRAME_RST_STREAM, 0, 1 + 2 * i, NULL, 4);
}

static void one_header(struct rig *r, uint32_t i)
{
    /* refused by the server each time: no work was done, no credit is given */
    if (i > 0)
        server_frame(r, FRAME_RST_STREAM, 0, 2 * i - 1, 4);
    add_call(r, 1 + 2 * i);
}

static void test_budgets(void **state)
{
    (void)state;
    check_budget(POLICER_SETTINGS, one_settings, "too many SETTINGS");
    check_budget(POLICER_PING, one_ping, "too many PINGs");
    check_budget(POLICER_CONTROL, one_control, "too many control frames");
    check_budget(POLICER_RESET, one_reset, "too many streams reset");
    check_budget(POLICER_HEADERS, one_header, "too many requests begun and not completed");
}

static void test_tiny_data_is_control(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    add_call(r, 1);
    add_message(r, 1, 0, POLICER_MAX_MESSAGE_BYTES);
    passes(r);
    int64_t before = r->p.budget[POLICER_CONTROL].milli;
    add_frame(r, FRAME_DATA, 0, 1, NULL, POLICER_TINY_BYTES);
    passes(r);
    assert_int_equal(r->p.budget[POLICER_CONTROL].milli, before);
    add_frame(r, FRAME_DATA, 0, 1, NULL, POLICER_TINY_BYTES - 1);
    add_frame(r, FRAME_DATA, 0, 1, NULL, 0);
    passes(r);
    assert_int_equal(r->p.budget[POLICER_CONTROL].milli, before - 2000);
    /* empty messages by the thousand in one frame */
    add_call(r, 3);
    add_frame(r, FRAME_DATA, 0, 3, NULL, 16000);
    assert_int_equal(feed(r), POLICER_WAIT);
    assert_true(r->n > 0);
}

/* An honest client at full speed: every call completes, so nothing ever runs dry, without any time passing. */
static void test_completed_calls_pay_for_the_next(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t id = 1 + 2 * i;
        add_call(r, id);
        add_frame(r, FRAME_DATA, FRAME_END_STREAM, id, "\0\0\0\0\1x", 6);
        add_frame(r, FRAME_WINDOW_UPDATE, 0, 0, NULL, 4);
        add_frame(r, FRAME_PING, 0, 0, NULL, 8);
        passes(r);
        server_frame(r, FRAME_HEADERS, FRAME_END_HEADERS, id, 1);
        server_frame(r, FRAME_DATA, 0, id, 10);
        server_frame(r, FRAME_HEADERS, FRAME_END_HEADERS | FRAME_END_STREAM, id, 1);
    }
    assert_int_equal(policer_open_streams(&r->p), 0);
}

static void test_answers_to_the_core_are_free(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    for (int i = 0; i < 1000; i++) {
        server_frame(r, FRAME_PING, 0, 0, 8);
        server_frame(r, FRAME_SETTINGS, 0, 0, 6);
        add_frame(r, FRAME_PING, FRAME_ACK, 0, NULL, 8);
        add_frame(r, FRAME_SETTINGS, FRAME_ACK, 0, NULL, 0);
        passes(r);
    }
}

static void test_goaway_drops_newer_streams(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    add_call(r, 1);
    add_call(r, 3);
    passes(r);
    assert_int_equal(policer_goaway(&r->p), 3);
    size_t kept = r->kept;
    add_frame(r, FRAME_HEADERS, 0, 5, NULL, 10);
    add_frame(r, FRAME_CONTINUATION, FRAME_END_HEADERS, 5, NULL, 10);
    add_frame(r, FRAME_DATA, 0, 5, NULL, 100);
    add_frame(r, FRAME_WINDOW_UPDATE, 0, 5, NULL, 4);
    add_frame(r, FRAME_RST_STREAM, 0, 5, NULL, 4);
    passes(r);
    assert_int_equal(r->kept, kept);
    assert_int_equal(policer_open_streams(&r->p), 2);
    assert_int_equal(policer_goaway(&r->p), 3);
    /* between dropped frames the old streams go on, moved together in place */
    add_frame(r, FRAME_DATA, 0, 7, NULL, 100);
    add_message(r, 3, 0, 95);
    add_frame(r, FRAME_DATA, 0, 7, NULL, 100);
    assert_int_equal(policer_client(&r->p, r->now_ms, r->bytes, r->n, &r->span), POLICER_PASS);
    assert_int_equal(r->span.keep, 109);
    assert_int_equal(r->bytes[8], 3);
    r->n = 0;
    /* but no header block can follow a dropped one: compression is one state */
    add_frame(r, FRAME_HEADERS, FRAME_END_HEADERS | FRAME_END_STREAM, 3, "\x83", 1);
    is_cut(r, FRAME_PROTOCOL_ERROR, "HEADERS on an old stream after GOAWAY");
}

static void test_boundaries(void **state)
{
    (void)state;
    struct rig *r = &rig;
    open_acked(r);
    assert_true(policer_at_boundary(&r->p));
    static const uint8_t f[] = {0, 0, 2, FRAME_HEADERS, 0, 0, 0, 0, 1, 'a', 'b',
                                0, 0, 1, FRAME_CONTINUATION, FRAME_END_HEADERS, 0, 0, 0, 1, 'c',
                                0, 0, 1, FRAME_DATA, 0, 0, 0, 0, 1, 'd'};
    struct policer p = r->p;
    assert_int_equal(policer_server(&p, 0, f, 8, false), 0); /* never part of a frame header */
    assert_int_equal(policer_server(&p, 0, f, 10, false), 10);
    assert_false(policer_at_boundary(&p));
    assert_int_equal(policer_server(&p, 0, f + 10, sizeof f - 10, true), 11); /* not between HEADERS and CONTINUATION */
    assert_true(policer_at_boundary(&p));
    assert_int_equal(policer_server(&p, 0, f + 21, 10, false), 10);
    begin(r); /* and never before the core's SETTINGS */
    assert_false(policer_at_boundary(&r->p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_preface),
        cmocka_unit_test(test_settings_ack),
        cmocka_unit_test(test_streams_before_ack),
        cmocka_unit_test(test_open_streams),
        cmocka_unit_test(test_streams_of_the_address),
        cmocka_unit_test(test_unfinished_messages),
        cmocka_unit_test(test_frames_of_unfinished_messages),
        cmocka_unit_test(test_streams_end_from_both_sides),
        cmocka_unit_test(test_reset_before_headers),
        cmocka_unit_test(test_no_data_after_the_end),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_wrong_streams),
        cmocka_unit_test(test_header_blocks),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_tiny_data_is_control),
        cmocka_unit_test(test_completed_calls_pay_for_the_next),
        cmocka_unit_test(test_answers_to_the_core_are_free),
        cmocka_unit_test(test_goaway_drops_newer_streams),
        cmocka_unit_test(test_boundaries),
    };
    return cmocka_run_group_tests_name("policer", tests, NULL, NULL);
}
