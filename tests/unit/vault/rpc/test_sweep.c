/* What gRPC does not end by itself: a call without a deadline, and an answer that its client never makes room for. Time is a
 * fake clock's; only the sweeper's own turn of a second is waited for. */
#include "tests/unit/vault/rpc/fake_service.h"

#include "tests/unit/vault/rpc/client.h"
#include "vault/rpc/internal.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    char dir[32], path[64];
    struct fake_clock clock;
    struct service svc;
    struct rpc_server *server;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct rpc_options o = {.fast_workers = 1, .max_calls_in_flight = 8, .max_streams = 8};
    struct err e;

    snprintf(f->dir, sizeof(f->dir), "/tmp/clv-rpc-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof(f->path), "%s/core.sock", f->dir);
    fake_clock_init(&f->clock, 1000000000, 1000000000);
    f->svc = (struct service){.clock = &f->clock.c};
    o.service = &f->svc;
    o.socket_path = f->path;
    fake_start();
    assert_false(rpc_server_start(&o, &f->server, &e).failed);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    assert_true(rpc_server_stop(f->server, CLIENT_PATIENCE_MS));
    fake_stop();
    assert_int_equal(atomic_load(&fake.live_calls), 0);
    unlink(f->path);
    assert_int_equal(rmdir(f->dir), 0);
    free(f);
    return 0;
}

static void wait_live(int value)
{
    for (int i = 0; i < CLIENT_PATIENCE_MS && atomic_load(&fake.live_calls) != value; i++)
        usleep(1000);
    assert_int_equal(atomic_load(&fake.live_calls), value);
}

static void advance_ms(struct fixture *f, int64_t ms)
{
    fake_clock_advance(&f->clock, ms * 1000000);
}

static void a_call_without_a_deadline_has_ours(void **state)
{
    struct fixture *f = *state;
    struct client cl;
    struct client_call early, late;

    client_open(&cl, f->path);
    client_call_begin(&cl, &early, "/test.Echo/Hang", 0);
    client_unary_start(&early, BYTES_LIT("x"), NULL, 0);
    wait_live(1);
    advance_ms(f, RPC_UNARY_MS / 2);
    client_call_begin(&cl, &late, "/test.Echo/Hang", 0);
    client_unary_start(&late, BYTES_LIT("x"), NULL, 0);
    wait_live(2);
    advance_ms(f, RPC_UNARY_MS / 2 + 1);
    client_wait(&cl);
    assert_int_equal(early.status, GRPC_STATUS_DEADLINE_EXCEEDED);
    wait_live(1); /* the other one is not ended before its time */
    advance_ms(f, RPC_UNARY_MS / 2);
    client_wait(&cl);
    assert_int_equal(late.status, GRPC_STATUS_DEADLINE_EXCEEDED);
    wait_live(0);
    client_call_end(&early);
    client_call_end(&late);
    client_close(&cl);
}

/* ---- a client that speaks HTTP/2 by hand and never opens its window ---- */
static void put_frame(struct buf *b, uint8_t type, uint8_t flags, uint32_t stream, struct bytes payload)
{
    buf_put_u8(b, (uint8_t)(payload.n >> 16));
    buf_put_u16(b, (uint16_t)payload.n);
    buf_put_u8(b, type);
    buf_put_u8(b, flags);
    buf_put_u32(b, stream);
    buf_put_bytes(b, payload);
}

static void put_header(struct buf *b, const char *name, const char *value) /* HPACK: literal, never indexed, no Huffman */
{
    buf_put_u8(b, 0x10);
    buf_put_u8(b, (uint8_t)strlen(name));
    buf_put_str(b, name);
    buf_put_u8(b, (uint8_t)strlen(value));
    buf_put_str(b, value);
}

static int connect_raw(const struct fixture *f)
{
    struct sockaddr_un core = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(core.sun_path, sizeof(core.sun_path), "%s", f->path);
    assert_int_equal(connect(fd, (void *)&core, sizeof(core)), 0);
    return fd;
}

static void send_call(int fd, const char *path)
{
    CLEANUP(buf_release) struct buf b;
    CLEANUP(buf_release) struct buf h;

    buf_init(&b, 4096);
    buf_init(&h, 1024);
    buf_put_str(&b, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    put_frame(&b, 4, 0, 0, BYTES("\0\x04\0\0\0\0", 6)); /* SETTINGS: INITIAL_WINDOW_SIZE 0 */
    put_header(&h, ":method", "POST");
    put_header(&h, ":scheme", "http");
    put_header(&h, ":path", path);
    put_header(&h, ":authority", "core");
    put_header(&h, "te", "trailers");
    put_header(&h, "content-type", "application/grpc");
    put_frame(&b, 1, 4, 1, buf_bytes(&h));                   /* HEADERS, END_HEADERS */
    put_frame(&b, 0, 1, 1, BYTES("\0\0\0\0\x05hello", 10)); /* DATA, END_STREAM */
    assert_int_equal(write(fd, b.p, b.n), b.n);
}

/* Reads frames until one of that type on stream 1; false when the connection ends or nothing comes for 5 s. */
static bool frame_comes(int fd, uint8_t type)
{
    for (;;) {
        uint8_t head[9], rest[16384];
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, CLIENT_PATIENCE_MS) != 1 || recv(fd, head, sizeof(head), MSG_WAITALL) != sizeof(head))
            return false;
        size_t n = (size_t)head[0] << 16 | get_be16(head + 1);
        if (n > sizeof(rest) || (n > 0 && recv(fd, rest, n, MSG_WAITALL) != (ssize_t)n))
            return false;
        if (head[3] == type && get_be32(head + 5) == 1)
            return true;
    }
}

static void an_answer_nobody_reads_is_cancelled(void **state)
{
    static const char *const methods[] = {"/test.Echo/Hot", "/test.Echo/Slow"};
    enum { HEADERS = 1, RST_STREAM = 3 };
    struct fixture *f = *state;

    for (int i = 0; i < 2; i++) {
        int fd = connect_raw(f);
        send_call(fd, methods[i]);
        assert_true(frame_comes(fd, HEADERS)); /* the answer has begun, its message has no window */
        assert_int_equal(atomic_load(&fake.live_calls), 1);
        advance_ms(f, RPC_FINAL_MS + 1);
        assert_true(frame_comes(fd, RST_STREAM));
        wait_live(0);
        close(fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_call_without_a_deadline_has_ours, setup, teardown),
        cmocka_unit_test_setup_teardown(an_answer_nobody_reads_is_cancelled, setup, teardown),
    };

    rpc_process_prepare();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
