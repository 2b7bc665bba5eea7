/* The transport against a fake service: unary calls, every way one can end early, caps, drain, who is calling. */
#include "tests/unit/vault/rpc/fixture.h"

#include <grpc/grpc_posix.h>
#include <sys/socket.h>
#include <sys/un.h>

static void unary_calls_answer(void **state)
{
    struct fixture *f = *state;
    static const char *const methods[] = {"/test.Echo/Hot", "/test.Echo/Hot2", "/test.Echo/Slow"};
    char reply[64];

    for (size_t i = 0; i < 3; i++) {
        struct client_call c;
        struct bytes receipt;
        assert_int_equal(unary(f, methods[i], "hello", &c, reply), GRPC_STATUS_OK);
        assert_string_equal(reply, "hello");
        receipt = client_trailer(&c, "claviger-receipt");
        assert_int_equal(receipt.n, strlen("test/n1 42 ") + 64);
        assert_memory_equal(receipt.p, "test/n1 42 abab", 15);
        assert_int_equal(client_trailer(&c, "grpc-status-details-bin").n, 0);
        client_call_end(&c);
    }
}

static void errors_carry_their_details_and_nothing_private(void **state)
{
    struct fixture *f = *state;
    static const char *const methods[] = {"/test.Echo/Hot", "/test.Echo/Slow"};
    char reply[64], text[16];

    for (int code = ERR_INVALID; code <= ERR_INTERNAL; code++) {
        struct client_call c;
        char *message;
        grpc_status_code want = (grpc_status_code)status_code((enum err_code)code);
        snprintf(text, sizeof(text), "!%02d", code);
        assert_int_equal(unary(f, methods[code % 2], text, &c, reply), want);
        assert_string_equal(reply, "");
        check_details(&c, want, true);
        message = grpc_slice_to_c_string(c.message);
        assert_non_null(strstr(message, err_phrase((enum err_code)code)));
        assert_null(strstr(message, "private"));
        gpr_free(message);
        assert_int_equal(client_trailer(&c, "claviger-receipt").n, 0);
        client_call_end(&c);
    }
}

static void no_row_means_unimplemented(void **state)
{
    struct fixture *f = *state;
    static const char *const paths[] = {"/test.Echo/None", "/", "/test.Echo/Hot/", "/google.cloud.kms.v1.KeyManagementService/Encrypt"};
    char reply[64], longest[600];

    for (size_t i = 0; i < 4; i++) {
        struct client_call c;
        assert_int_equal(unary(f, paths[i], "x", &c, reply), GRPC_STATUS_UNIMPLEMENTED);
        client_call_end(&c);
    }
    memset(longest, 'a', sizeof(longest) - 1);
    longest[0] = '/';
    longest[sizeof(longest) - 1] = '\0';
    struct client_call c;
    assert_int_equal(unary(f, longest, "x", &c, reply), GRPC_STATUS_UNIMPLEMENTED);
    client_call_end(&c);
    assert_int_equal(atomic_load(&fake.live_calls), 0);
}

static void metadata_and_deadline_arrive(void **state)
{
    struct fixture *f = *state;
    struct client_call c;
    struct fake_last seen;
    grpc_metadata md = {.key = grpc_slice_from_static_string("x-request-id"), .value = grpc_slice_from_static_string("req-7")};

    client_call_begin(&f->cl, &c, "/test.Echo/Hot", CLIENT_PATIENCE_MS);
    client_unary_start(&c, BYTES_LIT("x"), &md, 1);
    client_wait(&f->cl);
    client_call_end(&c);
    seen = fake_last();
    assert_string_equal(seen.request_id, "req-7");
    assert_in_range(seen.deadline_left_ms, CLIENT_PATIENCE_MS / 2, CLIENT_PATIENCE_MS + 100);
    client_call_begin(&f->cl, &c, "/test.Echo/Slow", 0); /* none given: ours */
    client_unary_start(&c, BYTES_LIT("x"), NULL, 0);
    client_wait(&f->cl);
    client_call_end(&c);
    seen = fake_last();
    assert_string_equal(seen.request_id, "");
    assert_in_range(seen.deadline_left_ms, 30000, 60100);
}

/* More than one TCP read and one slice: the request must come out whole. */
static void large_requests_come_out_whole_and_too_large_ones_do_not(void **state)
{
    struct fixture *f = *state;
    uint8_t *big = malloc(CALL_REQUEST_MAX + 1);
    char *back = malloc(CALL_REQUEST_MAX + 1);
    struct client_call c;

    for (size_t i = 0; i <= CALL_REQUEST_MAX; i++)
        big[i] = (uint8_t)('a' + i % 23);
    client_call_begin(&f->cl, &c, "/test.Echo/Hot", CLIENT_PATIENCE_MS);
    client_unary_start(&c, BYTES(big, CALL_REQUEST_MAX), NULL, 0);
    client_wait(&f->cl);
    assert_int_equal(c.status, GRPC_STATUS_OK);
    assert_int_equal(client_text(c.received, back, CALL_REQUEST_MAX + 1), CALL_REQUEST_MAX);
    assert_memory_equal(back, big, CALL_REQUEST_MAX);
    client_call_end(&c);
    for (int slow = 0; slow < 2; slow++) {
        client_call_begin(&f->cl, &c, slow ? "/test.Echo/Slow" : "/test.Echo/Hot", CLIENT_PATIENCE_MS);
        client_unary_start(&c, BYTES(big, CALL_REQUEST_MAX + 1), NULL, 0);
        client_wait(&f->cl);
        assert_int_equal(c.status, GRPC_STATUS_RESOURCE_EXHAUSTED);
        client_call_end(&c);
    }
    free(big);
    free(back);
}

static void a_cancelled_call_is_told_and_freed(void **state)
{
    struct fixture *f = *state;
    struct client_call c;

    client_call_begin(&f->cl, &c, "/test.Echo/Hang", CLIENT_PATIENCE_MS);
    client_unary_start(&c, BYTES_LIT("x"), NULL, 0);
    wait_for(&fake.live_calls, 1);
    grpc_call_cancel(c.call, NULL);
    client_wait(&f->cl);
    assert_int_equal(c.status, GRPC_STATUS_CANCELLED);
    client_call_end(&c);
    wait_for(&fake.cancelled, 1);
    wait_for(&fake.live_calls, 0);
}

static void a_deadline_ends_a_call_on_both_sides(void **state)
{
    struct fixture *f = *state;
    struct client_call c;

    /* On a busy machine a short deadline may pass before the call has arrived: then the server has nothing to end. */
    for (int64_t ms = 50; atomic_load(&fake.arrived) == 0; ms *= 2) {
        assert_true(ms < CLIENT_PATIENCE_MS);
        client_call_begin(&f->cl, &c, "/test.Echo/Hang", ms);
        client_unary_start(&c, BYTES_LIT("x"), NULL, 0);
        client_wait(&f->cl);
        assert_int_equal(c.status, GRPC_STATUS_DEADLINE_EXCEEDED);
        client_call_end(&c);
    }
    for (int i = 0; i < CLIENT_PATIENCE_MS && atomic_load(&fake.cancelled) != atomic_load(&fake.arrived); i++)
        usleep(1000);
    assert_int_equal(atomic_load(&fake.cancelled), atomic_load(&fake.arrived));
    wait_for(&fake.live_calls, 0);
}

static void over_the_cap_is_an_answer_not_a_silence(void **state)
{
    struct fixture *f = *state;
    struct client_call hanging[MAX_CALLS], c;
    uint64_t calls = 0, streams;
    char reply[64];

    for (int i = 0; i < MAX_CALLS; i++) {
        client_call_begin(&f->cl, &hanging[i], "/test.Echo/Hang", CLIENT_PATIENCE_MS);
        client_unary_start(&hanging[i], BYTES_LIT("x"), NULL, 0);
    }
    for (int i = 0; i < CLIENT_PATIENCE_MS && calls < MAX_CALLS; i++) {
        usleep(1000);
        rpc_server_load(f->server, &calls, &streams);
    }
    assert_int_equal(calls, MAX_CALLS);
    for (int i = 0; i < 3; i++) {
        static const char *const methods[] = {"/test.Echo/Hot", "/test.Echo/Slow", "/test.Echo/None"};
        assert_int_equal(unary(f, methods[i], "x", &c, reply), i < 2 ? GRPC_STATUS_RESOURCE_EXHAUSTED : GRPC_STATUS_UNIMPLEMENTED);
        assert_true(client_trailer(&c, "grpc-status-details-bin").n > 0);
        client_call_end(&c);
    }
    for (int i = 0; i < MAX_CALLS; i++)
        grpc_call_cancel(hanging[i].call, NULL);
    for (int i = 0; i < MAX_CALLS; i++)
        client_wait(&f->cl);
    for (int i = 0; i < MAX_CALLS; i++)
        client_call_end(&hanging[i]);
    for (int i = 0; i < CLIENT_PATIENCE_MS && calls > 0; i++) {
        usleep(1000);
        rpc_server_load(f->server, &calls, &streams);
    }
    assert_int_equal(unary(f, "/test.Echo/Hot", "again", &c, reply), GRPC_STATUS_OK);
    client_call_end(&c);
}

/* Half the places are the most that one certificate gets: the next call is refused for it, and served for another one. */
static void one_certificate_does_not_get_all_places(void **state)
{
    struct fixture *f = *state;
    struct client_call hanging[MAX_CALLS / 2], c;
    char reply[64];

    atomic_store(&fake.certificate, 1);
    for (int i = 0; i < MAX_CALLS / 2; i++) {
        client_call_begin(&f->cl, &hanging[i], "/test.Echo/Hang", CLIENT_PATIENCE_MS);
        client_unary_start(&hanging[i], BYTES_LIT("x"), NULL, 0);
    }
    wait_for(&fake.live_calls, MAX_CALLS / 2);
    for (int i = 0; i < 4; i++) {
        atomic_store(&fake.certificate, 1 + i % 2);
        assert_int_equal(unary(f, i < 2 ? "/test.Echo/Hot" : "/test.Echo/Hot2", "x", &c, reply),
                         i % 2 == 0 ? GRPC_STATUS_RESOURCE_EXHAUSTED : GRPC_STATUS_OK);
        client_call_end(&c);
    }
    for (int i = 0; i < MAX_CALLS / 2; i++)
        grpc_call_cancel(hanging[i].call, NULL);
    for (int i = 0; i < MAX_CALLS / 2; i++)
        client_wait(&f->cl);
    for (int i = 0; i < MAX_CALLS / 2; i++)
        client_call_end(&hanging[i]);
    wait_for(&fake.live_calls, 0);
    atomic_store(&fake.certificate, 1); /* and what ended counts no more */
    assert_int_equal(unary(f, "/test.Echo/Hot", "x", &c, reply), GRPC_STATUS_OK);
    client_call_end(&c);
    atomic_store(&fake.certificate, 0);
}

/* ---- many at once, the end, and who is calling ---- */
static void many_calls_at_once(void **state)
{
    struct fixture *f = *state;
    enum { ROUNDS = 400, WIDTH = MAX_CALLS };
    static const char *const methods[] = {"/test.Echo/Hot", "/test.Echo/Slow", "/test.Echo/Hot2", "/test.Echo/None"};
    struct client_call c[WIDTH];

    for (int r = 0; r < ROUNDS; r++) {
        for (int i = 0; i < WIDTH; i++) {
            client_call_begin(&f->cl, &c[i], methods[i % 4], CLIENT_PATIENCE_MS);
            client_unary_start(&c[i], BYTES_LIT("many"), NULL, 0);
        }
        for (int i = 0; i < WIDTH; i++)
            client_wait(&f->cl);
        for (int i = 0; i < WIDTH; i++) {
            /* the last round's may still be counted: then, and only then, one may be turned away */
            if (c[i].status != GRPC_STATUS_RESOURCE_EXHAUSTED)
                assert_int_equal(c[i].status, i % 4 == 3 ? GRPC_STATUS_UNIMPLEMENTED : GRPC_STATUS_OK);
            client_call_end(&c[i]);
        }
    }
}

static void stopping_waits_then_cancels(void **state)
{
    struct fixture *f = *state;
    struct rpc_options o = {.service = &f->svc, .fast_workers = 1, .max_calls_in_flight = 8, .max_streams = 8};
    struct rpc_server *server;
    struct client cl;
    struct client_call c;
    struct err e;
    char path[80];

    snprintf(path, sizeof(path), "%s/two.sock", f->dir);
    o.socket_path = path;
    assert_false(rpc_server_start(&o, &server, &e).failed);
    client_open(&cl, path);
    client_call_begin(&cl, &c, "/test.Echo/Hang", CLIENT_PATIENCE_MS);
    client_unary_start(&c, BYTES_LIT("x"), NULL, 0);
    wait_for(&fake.live_calls, 1);
    assert_true(rpc_server_stop(server, 20));
    client_wait(&cl);
    assert_int_not_equal(c.status, GRPC_STATUS_OK);
    client_call_end(&c);
    client_close(&cl);
    assert_int_equal(atomic_load(&fake.live_calls), 0);
    unlink(path);
}

/* Calls that gRPC has published and no worker has seen yet when the server stops: they end, and their queues outlive them. */
static void stopping_while_calls_arrive(void **state)
{
    enum { ROUNDS = 60, WIDTH = 8 };
    struct fixture *f = *state;
    struct rpc_options o = {.service = &f->svc, .fast_workers = 2, .max_calls_in_flight = 64, .max_streams = 8};
    int64_t stopped;
    char path[80];

    snprintf(path, sizeof(path), "%s/two.sock", f->dir);
    o.socket_path = path;
    for (int round = 0; round < ROUNDS; round++) {
        struct rpc_server *server;
        struct client cl;
        struct client_call c[WIDTH];
        struct err e;
        assert_false(rpc_server_start(&o, &server, &e).failed);
        client_open(&cl, path);
        client_call_begin(&cl, &c[0], "/test.Echo/Hot", CLIENT_PATIENCE_MS); /* connected */
        client_unary_start(&c[0], BYTES_LIT("x"), NULL, 0);
        client_wait(&cl);
        assert_int_equal(c[0].status, GRPC_STATUS_OK);
        client_call_end(&c[0]);
        for (int i = 0; i < WIDTH; i++) {
            client_call_begin(&cl, &c[i], i % 2 == 0 ? "/test.Echo/Hot" : "/test.Echo/Slow", CLIENT_PATIENCE_MS);
            client_unary_start(&c[i], BYTES_LIT("x"), NULL, 0);
        }
        for (int spin = 0; spin < 200 * (round % 10); spin++)
            atomic_load(&fake.live_calls);
        stopped = clock_boot_ms(&clock_system);
        assert_true(rpc_server_stop(server, 60000));
        for (int i = 0; i < WIDTH; i++) {
            assert_true(client_until(&c[i], STEP_UNARY));
            if (c[i].status != GRPC_STATUS_OK)
                assert_true(c[i].status == GRPC_STATUS_UNAVAILABLE || c[i].status == GRPC_STATUS_CANCELLED);
            client_call_end(&c[i]);
        }
        assert_true(clock_boot_ms(&clock_system) - stopped < slower(CLIENT_PATIENCE_MS / 2)); /* none waited for its deadline */
        client_close(&cl);
        assert_int_equal(atomic_load(&fake.live_calls), 0);
    }
    unlink(path);
}

/* A client over a socket of the test's own making. */
static void client_over(struct client *cl, const struct fixture *f, int fd)
{
    struct sockaddr_un core = {.sun_family = AF_UNIX};
    grpc_channel_credentials *insecure;

    snprintf(core.sun_path, sizeof(core.sun_path), "%s", f->path);
    assert_int_equal(connect(fd, (void *)&core, sizeof(core)), 0);
    grpc_init();
    insecure = grpc_insecure_credentials_create();
    cl->channel = grpc_channel_create_from_fd("core", fd, insecure, NULL);
    grpc_channel_credentials_release(insecure);
    cl->cq = grpc_completion_queue_create_for_next(NULL);
}

/* A request that does not fit the socket wakes gRPC's own poller, and its shutdown would wait for that: see teardown. */
static void a_write_that_had_to_wait_does_not_hold_up_the_stop(void **state)
{
    struct fixture *f = *state;
    uint8_t *big = calloc(1, CALL_REQUEST_MAX);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), little = 1;
    struct client cl;
    struct client_call c;

    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &little, sizeof(little)), 0);
    client_over(&cl, f, fd);
    for (int i = 0; i < 20; i++) {
        client_call_begin(&cl, &c, "/test.Echo/Hot", CLIENT_PATIENCE_MS);
        client_unary_start(&c, BYTES(big, CALL_REQUEST_MAX), NULL, 0);
        client_wait(&cl);
        assert_int_equal(c.status, GRPC_STATUS_OK);
        client_call_end(&c);
    }
    client_close(&cl);
    free(big);
}

static void the_caller_is_named_by_its_socket(void **state)
{
    struct fixture *f = *state;
    char name[sizeof("clv-00112233445566778899aabbccddeeff")]; /* of this run only: abstract names are the machine's */
    struct sockaddr_un me = {.sun_family = AF_UNIX};
    struct client cl;
    struct client_call c;
    struct fake_last seen;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    snprintf(name, sizeof(name), "clv-00112233445566778899aabb%08x", (unsigned)getpid());
    memcpy(me.sun_path + 1, name, sizeof(name) - 1);
    assert_int_equal(bind(fd, (void *)&me, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + sizeof(name))), 0);
    client_over(&cl, f, fd);
    client_call_begin(&cl, &c, "/test.Echo/Hot", CLIENT_PATIENCE_MS);
    client_unary_start(&c, BYTES_LIT("x"), NULL, 0);
    client_wait(&cl);
    assert_int_equal(c.status, GRPC_STATUS_OK);
    client_call_end(&c);
    client_close(&cl);
    seen = fake_last();
    assert_memory_equal(seen.peer, "unix-abstract:", 14);
    assert_memory_equal(seen.peer + 14, name, sizeof(name) - 1);
}

static void a_socket_that_cannot_be_is_an_error(void **state)
{
    struct fixture *f = *state;
    struct rpc_options o = {.service = &f->svc, .fast_workers = 1, .max_calls_in_flight = 8, .max_streams = 8};
    struct rpc_server *server = NULL;
    struct err e = {0};
    char path[200];

    o.socket_path = "/nonexistent/folder/core.sock";
    assert_true(rpc_server_start(&o, &server, &e).failed);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    assert_string_equal(e.reason, "SOCKET_BIND");
    memset(path, 'x', sizeof(path) - 1);
    path[0] = '/';
    path[sizeof(path) - 1] = '\0';
    o.socket_path = path;
    assert_true(rpc_server_start(&o, &server, &e).failed);
    assert_string_equal(e.reason, "SOCKET_PATH");
    assert_null(server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(unary_calls_answer),
        T(errors_carry_their_details_and_nothing_private),
        T(no_row_means_unimplemented),
        T(metadata_and_deadline_arrive),
        T(large_requests_come_out_whole_and_too_large_ones_do_not),
        T(a_cancelled_call_is_told_and_freed),
        T(a_deadline_ends_a_call_on_both_sides),
        T(over_the_cap_is_an_answer_not_a_silence),
        T(one_certificate_does_not_get_all_places),
        T(many_calls_at_once),
        T(stopping_waits_then_cancels),
        T(stopping_while_calls_arrive),
        T(a_write_that_had_to_wait_does_not_hold_up_the_stop),
        T(the_caller_is_named_by_its_socket),
        T(a_socket_that_cannot_be_is_an_error),
    };

    rpc_process_prepare();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
