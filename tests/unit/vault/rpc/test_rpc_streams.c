/* Streams against the fake service: both ways and one way, failed and cancelled in the middle, and their cap. */
#include "tests/unit/vault/rpc/fixture.h"

static void stream_open(struct fixture *f, struct client_call *c, const char *method)
{
    grpc_op ops[2], status;
    size_t n;

    client_call_begin(&f->cl, c, method, CLIENT_PATIENCE_MS);
    n = client_ops_open(c, ops, NULL, 0);
    client_batch(c, ops, 1, STEP_OPENED);
    client_until(c, STEP_OPENED);
    client_batch(c, ops + 1, n - 1, STEP_HEADERS);
    status = client_op_status(c);
    client_batch(c, &status, 1, STEP_STATUS);
}

static void stream_say(struct client_call *c, const char *text)
{
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    grpc_byte_buffer *bb = client_buffer(bytes_str(text));

    op.data.send_message.send_message = bb;
    client_batch(c, &op, 1, STEP_SAID);
    grpc_byte_buffer_destroy(bb);
}

static void stream_hear_start(struct client_call *c)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};

    op.data.recv_message.recv_message = &c->received;
    client_batch(c, &op, 1, STEP_HEARD);
}

static void stream_close_start(struct client_call *c)
{
    grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};

    client_batch(c, &op, 1, STEP_CLOSED);
}

static void hear(struct client_call *c, char text[64])
{
    stream_hear_start(c);
    client_until(c, STEP_HEARD);
    client_text(c->received, text, 64);
    grpc_byte_buffer_destroy(c->received);
    c->received = NULL;
}

static void a_chat_echoes_until_it_is_closed(void **state)
{
    struct fixture *f = *state;
    struct client_call c;
    char said[24], heard[64];

    stream_open(f, &c, "/test.Echo/Chat");
    for (int i = 0; i < 100; i++) {
        snprintf(said, sizeof(said), "line %d", i);
        stream_say(&c, said);
        hear(&c, heard);
        assert_string_equal(heard, said);
        client_until(&c, STEP_SAID);
    }
    stream_close_start(&c);
    client_until(&c, STEP_STATUS);
    assert_int_equal(c.status, GRPC_STATUS_OK);
    client_until(&c, STEP_CLOSED);
    client_call_end(&c);
    assert_int_equal(atomic_load(&fake.half_closed), 1);
    assert_int_equal(atomic_load(&fake.cancelled), 0);
}

/* The client talks ahead: order and lockstep must hold. */
static void a_chat_that_talks_ahead_keeps_its_order(void **state)
{
    struct fixture *f = *state;
    struct client_call c;
    char said[24], heard[64];

    stream_open(f, &c, "/test.Echo/Chat");
    for (int i = 0; i < 20; i++) {
        snprintf(said, sizeof(said), "%d", i);
        stream_say(&c, said);
        client_until(&c, STEP_SAID);
    }
    stream_close_start(&c);
    client_until(&c, STEP_CLOSED);
    for (int i = 0; i < 20; i++) {
        snprintf(said, sizeof(said), "%d", i);
        hear(&c, heard);
        assert_string_equal(heard, said);
    }
    hear(&c, heard);
    assert_string_equal(heard, "");
    client_until(&c, STEP_STATUS);
    assert_int_equal(c.status, GRPC_STATUS_OK);
    client_call_end(&c);
}

static void a_chat_can_fail_in_the_middle(void **state)
{
    struct fixture *f = *state;
    struct client_call c;

    stream_open(f, &c, "/test.Echo/Chat");
    stream_say(&c, "!04");
    client_until(&c, STEP_STATUS);
    assert_int_equal(c.status, GRPC_STATUS_PERMISSION_DENIED);
    check_details(&c, GRPC_STATUS_PERMISSION_DENIED, true);
    client_until(&c, STEP_SAID);
    client_call_end(&c);
}

static void a_chat_that_is_cancelled_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct client_call c;
    char heard[64];

    for (int said = 0; said < 2; said++) { /* before and after its first message */
        stream_open(f, &c, "/test.Echo/Chat");
        if (said) {
            stream_say(&c, "x");
            hear(&c, heard);
            client_until(&c, STEP_SAID);
        }
        grpc_call_cancel(c.call, NULL);
        client_until(&c, STEP_STATUS);
        client_until(&c, STEP_HEADERS);
        assert_int_equal(c.status, GRPC_STATUS_CANCELLED);
        client_call_end(&c);
        wait_for(&fake.live_calls, 0);
    }
}

static void an_empty_chat_ends_well(void **state)
{
    struct fixture *f = *state;
    struct client_call c;

    stream_open(f, &c, "/test.Echo/Chat");
    stream_close_start(&c);
    client_until(&c, STEP_STATUS);
    client_until(&c, STEP_CLOSED);
    client_until(&c, STEP_HEADERS);
    assert_int_equal(c.status, GRPC_STATUS_OK);
    client_call_end(&c);
}

static void a_server_stream_counts_down(void **state)
{
    struct fixture *f = *state;
    struct client_call c;
    char heard[64], want[16];

    stream_open(f, &c, "/test.Echo/Count");
    stream_say(&c, "5");
    stream_close_start(&c);
    for (int i = 5; i > 0; i--) {
        hear(&c, heard);
        snprintf(want, sizeof(want), "%d", i);
        assert_string_equal(heard, want);
    }
    hear(&c, heard);
    client_until(&c, STEP_STATUS);
    assert_int_equal(c.status, GRPC_STATUS_OK);
    client_until(&c, STEP_SAID);
    client_until(&c, STEP_CLOSED);
    client_call_end(&c);
}

static void a_server_stream_without_a_request_is_refused(void **state)
{
    struct fixture *f = *state;
    struct client_call c;

    stream_open(f, &c, "/test.Echo/Count");
    stream_close_start(&c);
    client_until(&c, STEP_STATUS);
    client_until(&c, STEP_CLOSED);
    client_until(&c, STEP_HEADERS);
    assert_int_equal(c.status, GRPC_STATUS_INVALID_ARGUMENT);
    client_call_end(&c);
    assert_int_equal(atomic_load(&fake.live_calls), 0);
}

static void a_cancelled_server_stream_ends(void **state)
{
    struct fixture *f = *state;
    struct client_call c;
    char heard[64];

    stream_open(f, &c, "/test.Echo/Count");
    stream_say(&c, "1000000000"); /* flow control holds it */
    hear(&c, heard);
    assert_string_equal(heard, "1000000000");
    grpc_call_cancel(c.call, NULL);
    client_until(&c, STEP_STATUS);
    client_until(&c, STEP_SAID);
    client_call_end(&c);
    wait_for(&fake.live_calls, 0);
}

static void streams_have_their_own_cap(void **state)
{
    struct fixture *f = *state;
    struct client_call c[MAX_STREAMS], more;
    char heard[64], reply[64];

    for (int i = 0; i < MAX_STREAMS; i++) {
        stream_open(f, &c[i], "/test.Echo/Chat");
        stream_say(&c[i], "x");
        hear(&c[i], heard);
        client_until(&c[i], STEP_SAID);
    }
    assert_int_equal(unary(f, "/test.Echo/Chat", "x", &more, reply), GRPC_STATUS_RESOURCE_EXHAUSTED);
    client_call_end(&more);
    assert_int_equal(unary(f, "/test.Echo/Slow", "x", &more, reply), GRPC_STATUS_OK);
    client_call_end(&more);
    for (int i = 0; i < MAX_STREAMS; i++) {
        stream_close_start(&c[i]);
        client_until(&c[i], STEP_STATUS);
        client_until(&c[i], STEP_CLOSED);
        client_call_end(&c[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_chat_echoes_until_it_is_closed),
        T(a_chat_that_talks_ahead_keeps_its_order),
        T(a_chat_can_fail_in_the_middle),
        T(a_chat_that_is_cancelled_leaves_nothing),
        T(an_empty_chat_ends_well),
        T(a_server_stream_counts_down),
        T(a_server_stream_without_a_request_is_refused),
        T(a_cancelled_server_stream_ends),
        T(streams_have_their_own_cap),
    };

    rpc_process_prepare();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
