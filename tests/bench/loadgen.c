/*
 * Load over mutual TLS, closed loop: a fixed number of calls in flight, each slot begins its next call when its last one has
 * been answered. Prints one JSON line: calls per second, latency percentiles, errors, server CPU a call.
 *
 *     loadgen --target 127.0.0.1:7443 --ca ca.pem --cert c.pem --key c.key --method wrap|encrypt|decrypt|unwrap|echo
 *             [--name KEY] [--bytes 64] [--reply 300] [--inflight 64] [--connections 1] [--seconds 3] [--warmup 1]
 *             [--pids 12,34]
 *
 * For decrypt and unwrap one ciphertext is made first. echo sends as many bytes as a wrap of the same --bytes and --name, and
 * asks for --reply bytes back. One thread: it must not take the server's cores (the machine's report says how much it took).
 */
#include "tests/bench/echo.h"

#include <claviger/envelope/v1/envelope.pb-c.h>
#include <getopt.h>
#include <google/cloud/kms/v1/service.pb-c.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS_MAX = 1024, CONNECTIONS_MAX = 64, PEM_MAX = 65536, BUCKETS_PER_OCTAVE = 64, OCTAVES = 40, CALL_TIMEOUT_S = 20 };

struct options {
    const char *target, *ca, *cert, *key, *method, *name, *pids;
    long bytes, reply, inflight, connections, seconds, warmup;
};

struct work { /* what is sent, again and again */
    const char *path;
    uint8_t request[2 * ECHO_MAX_BYTES];
    size_t n;
};

struct slot {
    grpc_call *call;
    grpc_metadata_array headers, trailers;
    grpc_byte_buffer *reply;
    grpc_status_code status;
    grpc_slice details;
    int64_t began_ns;
    size_t connection;
};

struct generator {
    const struct options *o;
    struct work work;
    grpc_completion_queue *cq;
    grpc_channel *channel[CONNECTIONS_MAX];
    void *method[CONNECTIONS_MAX];
    grpc_slice request;
    struct slot slot[SLOTS_MAX];
    uint64_t histogram[OCTAVES * BUCKETS_PER_OCTAVE];
    uint64_t calls, errors;
    size_t reply_bytes;
    grpc_status_code last_error;
};

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "loadgen: %s\n", what);
    exit(1);
}

/* ---- numbers ---- */
static size_t bucket_of(int64_t ns)
{
    uint64_t v = ns > 0 ? (uint64_t)ns : 1;
    unsigned octave = 63U - (unsigned)__builtin_clzll(v);

    if (octave < 6)
        return (size_t)v;
    return (octave - 5) * BUCKETS_PER_OCTAVE + (size_t)((v >> (octave - 6)) & (BUCKETS_PER_OCTAVE - 1));
}

static double bucket_us(size_t b)
{
    size_t octave = b / BUCKETS_PER_OCTAVE;
    double at = (double)(b % BUCKETS_PER_OCTAVE);

    if (octave == 0)
        return at / 1e3;
    return (BUCKETS_PER_OCTAVE + at + 0.5) * (double)(1ULL << (octave - 1)) / 1e3;
}

static double percentile_us(const struct generator *g, double p)
{
    uint64_t want = (uint64_t)((double)g->calls * p), seen = 0;

    for (size_t b = 0; b < OCTAVES * BUCKETS_PER_OCTAVE; b++)
        if ((seen += g->histogram[b]) > want)
            return bucket_us(b);
    return 0;
}

/* utime and stime of the processes in the list, in seconds. */
static double cpu_of(const char *pids)
{
    char path[64], line[1024];
    double ticks = 0;

    for (const char *p = pids; p != NULL && *p != '\0'; p = strchr(p, ',') != NULL ? strchr(p, ',') + 1 : NULL) {
        uint64_t user = 0, sys = 0;
        FILE *f;
        snprintf(path, sizeof(path), "/proc/%ld/stat", strtol(p, NULL, 10));
        f = fopen(path, "r");
        if (f == NULL || fgets(line, sizeof(line), f) == NULL)
            die("cannot read a server's /proc/PID/stat");
        fclose(f);
        if (sscanf(strrchr(line, ')') + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64, &user, &sys) != 2)
            die("cannot parse /proc/PID/stat");
        ticks += (double)(user + sys);
    }
    return ticks / (double)sysconf(_SC_CLK_TCK);
}

static double own_cpu(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* ---- channels and calls ---- */
static char *read_pem(const char *path)
{
    FILE *f = path != NULL ? fopen(path, "r") : NULL;
    char *text = calloc(1, PEM_MAX);

    if (f == NULL || text == NULL || fread(text, 1, PEM_MAX - 1, f) == 0)
        die("cannot read a PEM file (--ca, --cert, --key)");
    fclose(f);
    return text;
}

static void connect_all(struct generator *g)
{
    char *ca = read_pem(g->o->ca);
    grpc_ssl_pem_key_cert_pair pair = {read_pem(g->o->key), read_pem(g->o->cert)};
    grpc_arg own = {.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, .value.integer = 1};
    grpc_channel_args args = {1, &own}; /* or all channels would share one connection */
    grpc_channel_credentials *creds = grpc_ssl_credentials_create_ex(ca, &pair, NULL, NULL);

    for (long i = 0; i < g->o->connections; i++)
        g->channel[i] = grpc_channel_create(g->o->target, creds, &args);
    grpc_channel_credentials_release(creds);
}

static void register_method(struct generator *g)
{
    for (long i = 0; i < g->o->connections; i++)
        g->method[i] = grpc_channel_register_call(g->channel[i], g->work.path, NULL, NULL);
    g->request = grpc_slice_from_copied_buffer((const char *)g->work.request, g->work.n);
}

static void begin(struct generator *g, struct slot *s)
{
    grpc_slice req = grpc_slice_ref(g->request);
    grpc_byte_buffer *bb = grpc_raw_byte_buffer_create(&req, 1);
    grpc_op ops[6] = {0};

    grpc_slice_unref(req);
    grpc_metadata_array_init(&s->headers);
    grpc_metadata_array_init(&s->trailers);
    s->reply = NULL;
    s->began_ns = now_ns();
    s->call = grpc_channel_create_registered_call(g->channel[s->connection], NULL, GRPC_PROPAGATE_DEFAULTS, g->cq,
                                                  g->method[s->connection],
                                                  gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_seconds(CALL_TIMEOUT_S, GPR_TIMESPAN)),
                                                  NULL);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = bb;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &s->headers;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &s->reply;
    ops[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[5].data.recv_status_on_client.trailing_metadata = &s->trailers;
    ops[5].data.recv_status_on_client.status = &s->status;
    ops[5].data.recv_status_on_client.status_details = &s->details;
    if (grpc_call_start_batch(s->call, ops, 6, s, NULL) != GRPC_CALL_OK)
        die("cannot start a call");
    grpc_byte_buffer_destroy(bb);
}

static void finish(struct generator *g, struct slot *s, bool measured)
{
    int64_t took = now_ns() - s->began_ns;

    if (s->status != GRPC_STATUS_OK) {
        g->errors++;
        g->last_error = s->status;
    } else if (measured) {
        g->histogram[bucket_of(took)]++;
        g->calls++;
        g->reply_bytes = grpc_byte_buffer_length(s->reply);
    }
    grpc_metadata_array_destroy(&s->headers);
    grpc_metadata_array_destroy(&s->trailers);
    grpc_slice_unref(s->details);
    grpc_byte_buffer_destroy(s->reply);
    grpc_call_unref(s->call);
}

static struct slot *next(struct generator *g)
{
    grpc_event ev = grpc_completion_queue_next(g->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);

    if (ev.type != GRPC_OP_COMPLETE)
        die("the queue ended");
    return ev.tag;
}

/* ---- requests ---- */
static ProtobufCBinaryData text(const char *s)
{
    return (ProtobufCBinaryData){strlen(s), (uint8_t *)(uintptr_t)s};
}

static void pack(struct work *w, const char *path, const ProtobufCMessage *m)
{
    w->path = path;
    if (protobuf_c_message_get_packed_size(m) > sizeof(w->request))
        die("--bytes is too large");
    w->n = protobuf_c_message_pack(m, w->request);
}

static void pack_wrap(struct work *w, const struct options *o)
{
    static uint8_t plain[ECHO_MAX_BYTES];
    Claviger__Envelope__V1__WrapRequest m = CLAVIGER__ENVELOPE__V1__WRAP_REQUEST__INIT;

    memset(plain, 'p', sizeof(plain));
    m.name = text(o->name);
    m.plaintext_key = (ProtobufCBinaryData){(size_t)o->bytes, plain};
    pack(w, "/claviger.envelope.v1.Envelope/Wrap", &m.base);
}

static void pack_encrypt(struct work *w, const struct options *o)
{
    static uint8_t plain[ECHO_MAX_BYTES];
    Google__Cloud__Kms__V1__EncryptRequest m = GOOGLE__CLOUD__KMS__V1__ENCRYPT_REQUEST__INIT;

    memset(plain, 'p', sizeof(plain));
    m.name = text(o->name);
    m.plaintext = (ProtobufCBinaryData){(size_t)o->bytes, plain};
    pack(w, "/google.cloud.kms.v1.KeyManagementService/Encrypt", &m.base);
}

/* One call whose answer becomes the next request: Encrypt for decrypt, Wrap for unwrap. */
static void pack_reverse(struct generator *g, bool wrap)
{
    struct slot *s = &g->slot[0];
    grpc_byte_buffer_reader r;
    grpc_slice all;

    (wrap ? pack_wrap : pack_encrypt)(&g->work, g->o);
    register_method(g);
    begin(g, s);
    (void)next(g);
    if (s->status != GRPC_STATUS_OK || s->reply == NULL || !grpc_byte_buffer_reader_init(&r, s->reply))
        die("the ciphertext to work on could not be made");
    all = grpc_byte_buffer_reader_readall(&r);
    grpc_byte_buffer_reader_destroy(&r);
    if (wrap) {
        Claviger__Envelope__V1__WrapResponse *a =
            claviger__envelope__v1__wrap_response__unpack(NULL, GRPC_SLICE_LENGTH(all), GRPC_SLICE_START_PTR(all));
        Claviger__Envelope__V1__UnwrapRequest m = CLAVIGER__ENVELOPE__V1__UNWRAP_REQUEST__INIT;
        m.name = text(g->o->name);
        m.wrapped_key = a->wrapped_key;
        pack(&g->work, "/claviger.envelope.v1.Envelope/Unwrap", &m.base);
    } else {
        Google__Cloud__Kms__V1__EncryptResponse *a =
            google__cloud__kms__v1__encrypt_response__unpack(NULL, GRPC_SLICE_LENGTH(all), GRPC_SLICE_START_PTR(all));
        Google__Cloud__Kms__V1__DecryptRequest m = GOOGLE__CLOUD__KMS__V1__DECRYPT_REQUEST__INIT;
        m.name = text(g->o->name);
        m.ciphertext = a->ciphertext;
        pack(&g->work, "/google.cloud.kms.v1.KeyManagementService/Decrypt", &m.base);
    }
    grpc_slice_unref(all);
    finish(g, s, false);
}

static void choose_work(struct generator *g)
{
    const char *m = g->o->method;

    if (strcmp(m, "wrap") == 0) {
        pack_wrap(&g->work, g->o);
    } else if (strcmp(m, "encrypt") == 0) {
        pack_encrypt(&g->work, g->o);
    } else if (strcmp(m, "unwrap") == 0 || strcmp(m, "decrypt") == 0) {
        pack_reverse(g, m[0] == 'u');
    } else if (strcmp(m, "echo") == 0) {
        pack_wrap(&g->work, g->o);
        g->work.path = ECHO_PATH;
        put_be32(g->work.request, (uint32_t)g->o->reply);
    } else {
        die("--method is wrap, unwrap, encrypt, decrypt or echo");
    }
    register_method(g);
}

/* ---- the run ---- */
static void run(struct generator *g)
{
    const struct options *o = g->o;
    int64_t begin_ns, end_ns, began, ended;
    double server, own;
    long open = o->inflight;

    for (long i = 0; i < o->inflight; i++) {
        g->slot[i].connection = (size_t)(i % o->connections);
        begin(g, &g->slot[i]);
    }
    begin_ns = now_ns() + o->warmup * 1000000000;
    while (now_ns() < begin_ns) {
        struct slot *s = next(g);
        finish(g, s, false);
        begin(g, s);
    }
    g->errors = 0;
    server = cpu_of(o->pids);
    own = own_cpu();
    began = now_ns();
    end_ns = began + o->seconds * 1000000000;
    while (now_ns() < end_ns) {
        struct slot *s = next(g);
        finish(g, s, true);
        begin(g, s);
    }
    ended = now_ns();
    server = cpu_of(o->pids) - server;
    own = own_cpu() - own;
    printf("{\"method\": \"%s\", \"inflight\": %ld, \"connections\": %ld, \"calls\": %" PRIu64 ", \"errors\": %" PRIu64
           ", \"last_error\": %d, \"rps\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"server_cpu_us\": %.2f, "
           "\"client_cpu_us\": %.2f, \"request_bytes\": %zu, \"reply_bytes\": %zu}\n",
           o->method, o->inflight, o->connections, g->calls, g->errors, (int)g->last_error,
           (double)g->calls * 1e9 / (double)(ended - began), percentile_us(g, 0.50), percentile_us(g, 0.99), percentile_us(g, 0.999),
           server * 1e6 / (double)(g->calls + 1), own * 1e6 / (double)(g->calls + 1), g->work.n, g->reply_bytes);
    fflush(stdout);
    while (open-- > 0)
        finish(g, next(g), false);
}

static void parse(int argc, char **argv, struct options *o)
{
    static const struct option names[] = {
        {"target", 1, NULL, 't'}, {"ca", 1, NULL, 'a'},       {"cert", 1, NULL, 'c'},        {"key", 1, NULL, 'k'},
        {"method", 1, NULL, 'm'}, {"name", 1, NULL, 'n'},     {"bytes", 1, NULL, 'b'},       {"reply", 1, NULL, 'r'},
        {"pids", 1, NULL, 'p'},   {"inflight", 1, NULL, 'i'}, {"connections", 1, NULL, 'C'}, {"seconds", 1, NULL, 's'},
        {"warmup", 1, NULL, 'w'}, {0},
    };
    int c;

    *o = (struct options){.name = "", .method = "", .bytes = 64, .reply = 300, .inflight = 64, .connections = 1, .seconds = 3, .warmup = 1};
    while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (c) {
        case 't': o->target = optarg; break;
        case 'a': o->ca = optarg; break;
        case 'c': o->cert = optarg; break;
        case 'k': o->key = optarg; break;
        case 'm': o->method = optarg; break;
        case 'n': o->name = optarg; break;
        case 'p': o->pids = optarg; break;
        case 'b': o->bytes = strtol(optarg, NULL, 10); break;
        case 'r': o->reply = strtol(optarg, NULL, 10); break;
        case 'i': o->inflight = strtol(optarg, NULL, 10); break;
        case 'C': o->connections = strtol(optarg, NULL, 10); break;
        case 's': o->seconds = strtol(optarg, NULL, 10); break;
        case 'w': o->warmup = strtol(optarg, NULL, 10); break;
        default: die("unknown option (see the top of loadgen.c)");
        }
    }
    if (o->target == NULL || o->inflight < 1 || o->inflight > SLOTS_MAX || o->connections < 1 || o->connections > CONNECTIONS_MAX ||
        o->bytes < 4 || o->bytes > ECHO_MAX_BYTES || o->reply < 0 || o->reply > ECHO_MAX_BYTES)
        die("--target is needed, and each number has its limit (see the top of loadgen.c)");
}

int main(int argc, char **argv)
{
    static struct generator g;
    struct options o;

    parse(argc, argv, &o);
    g.o = &o;
    grpc_init();
    g.cq = grpc_completion_queue_create_for_next(NULL);
    connect_all(&g);
    choose_work(&g);
    run(&g);
    _exit(g.calls == 0 || g.errors > 0 ? 1 : 0);
}
