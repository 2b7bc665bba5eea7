/* Each frame, header block and message by itself: what is malformed, too large or out of place is cut. */
#include "tests/unit/vault/front/rig.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_data_after_the_end),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_wrong_streams),
        cmocka_unit_test(test_header_blocks),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests_name("policer frames", tests, NULL, NULL);
}
