/* The other yardstick: a plain gRPC core server with gRPC's own TLS and required client certificates, nothing of ours in it.
 *     echo_tls ca.pem server.pem server.key threads        prints its port, runs until stdin closes */
#include "tests/bench/echo.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ARMED = 32, THREADS_MAX = 64, PEM_MAX = 65536 };

struct echo { /* one call: armed, then answered by one batch */
    grpc_call *call;
    grpc_metadata_array md;
    gpr_timespec deadline;
    grpc_byte_buffer *request, *reply;
    int cancelled;
    bool answered;
};
struct server {
    grpc_server *grpc;
    grpc_completion_queue *cq;
    void *method;
};

static void arm(struct server *s)
{
    struct echo *c = calloc(1, sizeof(*c));

    INVARIANT(c != NULL);
    grpc_metadata_array_init(&c->md);
    INVARIANT(grpc_server_request_registered_call(s->grpc, s->method, &c->call, &c->deadline, &c->md, &c->request, s->cq, s->cq,
                                                  c) == GRPC_CALL_OK);
}

static void done(struct echo *c)
{
    grpc_metadata_array_destroy(&c->md);
    grpc_byte_buffer_destroy(c->request);
    grpc_byte_buffer_destroy(c->reply);
    if (c->call != NULL)
        grpc_call_unref(c->call);
    free(c);
}

static size_t wanted(grpc_byte_buffer *request)
{
    grpc_byte_buffer_reader r;
    grpc_slice all;
    size_t n;

    if (request == NULL || !grpc_byte_buffer_reader_init(&r, request))
        return 0;
    all = grpc_byte_buffer_reader_readall(&r);
    n = echo_reply_bytes(BYTES(GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all)));
    grpc_slice_unref(all);
    grpc_byte_buffer_reader_destroy(&r);
    return n;
}

static void answer(struct echo *c)
{
    size_t n = wanted(c->request);
    grpc_slice s = grpc_slice_malloc(n);
    grpc_op ops[4] = {0};

    memset(GRPC_SLICE_START_PTR(s), 0, n);
    c->reply = grpc_raw_byte_buffer_create(&s, 1);
    grpc_slice_unref(s);
    c->answered = true;
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = c->reply;
    ops[2].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    ops[3].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    ops[3].data.recv_close_on_server.cancelled = &c->cancelled;
    INVARIANT(grpc_call_start_batch(c->call, ops, 4, c, NULL) == GRPC_CALL_OK);
}

static void *run(void *server)
{
    struct server *s = server;

    for (;;) {
        grpc_event ev = grpc_completion_queue_next(s->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        struct echo *c = ev.tag;
        if (ev.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        if (c == NULL)
            continue;
        if (!ev.success || c->answered) {
            done(c);
            continue;
        }
        arm(s);
        answer(c);
    }
}

static char *read_pem(const char *path)
{
    FILE *f = fopen(path, "r");
    char *text = calloc(1, PEM_MAX);

    if (f == NULL || text == NULL || fread(text, 1, PEM_MAX - 1, f) == 0) {
        fprintf(stderr, "echo_tls: cannot read %s\n", path);
        exit(1);
    }
    fclose(f);
    return text;
}

static int bind_tls(grpc_server *s, char **argv)
{
    grpc_ssl_pem_key_cert_pair pair = {read_pem(argv[3]), read_pem(argv[2])};
    char *ca = read_pem(argv[1]);
    grpc_server_credentials *creds = grpc_ssl_server_credentials_create_ex(
        ca, &pair, 1, GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY, NULL);
    int port = grpc_server_add_http2_port(s, "127.0.0.1:0", creds);

    grpc_server_credentials_release(creds);
    return port;
}

int main(int argc, char **argv)
{
    struct server s;
    pthread_t threads[THREADS_MAX];
    long n = argc == 5 ? strtol(argv[4], NULL, 10) : 0;
    int port;
    char c;

    if (n < 1 || n > THREADS_MAX) {
        fprintf(stderr, "usage: echo_tls ca.pem server.pem server.key threads\n");
        return 2;
    }
    grpc_init();
    s.cq = grpc_completion_queue_create_for_next(NULL);
    s.grpc = grpc_server_create(NULL, NULL);
    grpc_server_register_completion_queue(s.grpc, s.cq, NULL);
    s.method = grpc_server_register_method(s.grpc, ECHO_PATH, NULL, GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER, 0);
    port = bind_tls(s.grpc, argv);
    INVARIANT(port > 0);
    grpc_server_start(s.grpc);
    for (int i = 0; i < ARMED; i++)
        arm(&s);
    for (long i = 0; i < n; i++)
        INVARIANT(pthread_create(&threads[i], NULL, run, &s) == 0);
    printf("%d\n", port);
    fflush(stdout);
    while (read(0, &c, 1) > 0)
        ;
    _exit(0);
}
