/* The life of a connection and its streams: how each begins, how many there may be, how each ends. */
#include "tests/unit/vault/front/rig.h"

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
        cmocka_unit_test(test_goaway_drops_newer_streams),
        cmocka_unit_test(test_boundaries),
    };
    return cmocka_run_group_tests_name("policer", tests, NULL, NULL);
}
