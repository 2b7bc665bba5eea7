/* The server: settings, queues, threads, start and stop. */
#include "vault/rpc/internal.h"

#include "base/log.h"
#include "base/thread.h"

#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static void log_from_grpc(gpr_log_func_args *a)
{
    enum log_level level = a->severity == GPR_LOG_SEVERITY_ERROR ? LOG_WARN : LOG_DEBUG;

    log_event(level, "grpc", LF_STR("text", a->message), LF_STR("file", a->file), LF_INT("line", a->line));
}

void rpc_process_prepare(void)
{
    char name[128];

    for (char **v = environ; v != NULL && *v != NULL;) {
        size_t n = strcspn(*v, "=");
        if (strncmp(*v, "GRPC_", 5) != 0 || n >= sizeof(name)) {
            v++;
            continue;
        }
        memcpy(name, *v, n);
        name[n] = '\0';
        unsetenv(name); /* the list has moved up: look at the same place again */
    }
    gpr_set_log_function(log_from_grpc);
    gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
}

static grpc_arg int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value};
}

/* MEASURED 4. What gRPC bounds here is the second line: the front's policer counts by itself. */
static grpc_server *create_server(uint64_t streams_per_connection)
{
    grpc_resource_quota *quota = grpc_resource_quota_create("calls");
    grpc_arg args[] = {
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, CALL_REQUEST_MAX),
        int_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
        int_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0),
        int_arg(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, RPC_STREAM_WINDOW_BYTES),
        int_arg(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, RPC_MAX_FRAME_BYTES),
        int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, (int)streams_per_connection),
        int_arg(GRPC_ARG_MAX_METADATA_SIZE, RPC_MAX_METADATA_BYTES),
        int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, RPC_MIN_RECV_PING_MS),
        int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0),
        {.type = GRPC_ARG_POINTER,
         .key = (char *)(uintptr_t)GRPC_ARG_RESOURCE_QUOTA,
         .value.pointer = {quota, grpc_resource_quota_arg_vtable()}},
    };
    grpc_channel_args list = {sizeof(args) / sizeof(args[0]), args};
    grpc_server *server;

    grpc_resource_quota_resize(quota, RPC_QUOTA_BYTES);
    server = grpc_server_create(&list, NULL);
    grpc_resource_quota_unref(quota);
    return server;
}

static RESULT register_hot(struct rpc_server *s, struct err *e)
{
    size_t n;
    const struct rpc_row *const *rows = table_rows(&n);

    for (size_t i = 0; i < n; i++) {
        if (!rows[i]->hot)
            continue;
        if (s->nhot == RPC_HOT_MAX)
            FAIL(e, ERR_INTERNAL, "TOO_MANY_HOT_ROWS", "more than %d", RPC_HOT_MAX);
        s->hot[s->nhot++] = (struct hot_method){
            rows[i],
            grpc_server_register_method(s->grpc, rows[i]->path, NULL, GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER, 0),
        };
    }
    return ok();
}

static RESULT bind_socket(struct rpc_server *s, const char *path, struct err *e)
{
    char address[256];
    grpc_server_credentials *insecure;
    int bound;

    /* gRPC cuts an over-long unix path without a word */
    if (snprintf(address, sizeof(address), "unix:%s", path) >= 5 + 107)
        FAIL(e, ERR_UNAVAILABLE, "SOCKET_PATH", "%s is too long for a unix socket: set run_dir to a shorter path", path);
    insecure = grpc_insecure_server_credentials_create();
    bound = grpc_server_add_http2_port(s->grpc, address, insecure);
    grpc_server_credentials_release(insecure);
    if (bound == 0)
        FAIL(e, ERR_UNAVAILABLE, "SOCKET_BIND", "cannot listen on %s", address);
    /* Its folder is the gate: 0700, or 0710 with the front's group where the front has a user of its own. */
    if (chmod(path, 0666) != 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "SOCKET_BIND", "%s", path);
    return ok();
}

static void shut_down(struct rpc_server *s)
{
    pthread_mutex_lock(&s->idle_lock);
    s->shut = true;
    pthread_cond_broadcast(&s->idle);
    pthread_mutex_unlock(&s->idle_lock);
}

static void drain_queue(struct rpc_server *s, grpc_completion_queue *cq)
{
    for (;;) {
        grpc_event ev = grpc_completion_queue_next(cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (ev.type == GRPC_QUEUE_SHUTDOWN)
            return;
        if (ev.tag == NULL) /* the server's own shutdown notice */
            shut_down(s);
        else
            rcall_event(ev.tag, ev.success != 0);
    }
}

static void *fast_main(void *server)
{
    drain_queue(server, ((struct rpc_server *)server)->fast);
    return NULL;
}

static void *slow_main(void *server)
{
    drain_queue(server, ((struct rpc_server *)server)->slow);
    return NULL;
}

static void arm_all(struct rpc_server *s)
{
    for (size_t i = 0; i < s->nhot; i++)
        for (int j = 0; j < RPC_HOT_ARMED; j++)
            rcall_arm(s, &s->hot[i]);
    for (int j = 0; j < RPC_GENERIC_ARMED; j++)
        rcall_arm(s, NULL);
}

static RESULT start_threads(struct rpc_server *s, unsigned fast_workers, struct err *e)
{
    s->workers = calloc(fast_workers + 1, sizeof(s->workers[0]));
    INVARIANT(s->workers != NULL);
    for (; s->nworkers <= fast_workers; s->nworkers++)
        TRY(s->nworkers < fast_workers ? thread_spawn(&s->workers[s->nworkers], "rpc-fast", fast_main, s, e)
                                       : thread_spawn(&s->workers[s->nworkers], "rpc-slow", slow_main, s, e));
    TRY(thread_spawn(&s->sweeper, "rpc-sweep", sweep_main, s, e));
    s->sweeping = true;
    return ok();
}

static struct rpc_server *server_new(const struct rpc_options *o)
{
    struct rpc_server *s = aligned_alloc(64, sizeof(*s));

    INVARIANT(s != NULL);
    memset(s, 0, sizeof(*s));
    s->svc = o->service;
    s->clock = o->service->clock;
    s->max_calls = o->max_calls_in_flight;
    s->max_streams = o->max_streams;
    if (o->service->config != NULL)
        snprintf(s->origin, sizeof(s->origin), "%s/%s", o->service->config->cluster_name, o->service->config->node_name);
    pthread_mutex_init(&s->idle_lock, NULL);
    wait_cond_init(&s->idle);
    wait_cond_init(&s->stop);
    for (size_t i = 0; i < RPC_SHARDS; i++) {
        pthread_mutex_init(&s->shards[i].lock, NULL);
        s->shards[i].list.next = s->shards[i].list.prev = &s->shards[i].list;
    }
    return s;
}

RESULT rpc_server_start(const struct rpc_options *o, struct rpc_server **ret, struct err *e)
{
    struct rpc_server *s = server_new(o);
    struct result done;

    grpc_init();
    s->fast = grpc_completion_queue_create_for_next(NULL);
    s->slow = grpc_completion_queue_create_for_next(NULL);
    s->grpc = create_server(o->max_streams_per_connection != 0 ? o->max_streams_per_connection : RPC_MAX_STREAMS_PER_CONNECTION);
    grpc_server_register_completion_queue(s->grpc, s->fast, NULL);
    grpc_server_register_completion_queue(s->grpc, s->slow, NULL);
    done = register_hot(s, e);
    if (!done.failed)
        done = bind_socket(s, o->socket_path, e);
    if (!done.failed) {
        grpc_server_start(s->grpc);
        arm_all(s);
        done = start_threads(s, o->fast_workers, e);
    }
    if (done.failed) {
        (void)rpc_server_stop(s, 0);
        return done;
    }
    *ret = s;
    return ok();
}

/* Nothing in flight; `shut`: and gRPC has said that nothing more will come. Calls that it had published already may stand in a
 * queue where in_flight does not count them yet; their batches need the queues. */
static bool is_idle(const struct rpc_server *s, bool shut)
{
    return atomic_load(&s->in_flight) == 0 && (!shut || s->shut || s->nworkers == 0);
}

/* True when it is so by then. */
static bool wait_idle(struct rpc_server *s, bool shut, uint64_t timeout_ms)
{
    const struct timespec until = wait_until((int64_t)timeout_ms);
    bool idle;

    pthread_mutex_lock(&s->idle_lock);
    while (!is_idle(s, shut))
        if (pthread_cond_timedwait(&s->idle, &s->idle_lock, &until) != 0)
            break;
    idle = is_idle(s, shut);
    pthread_mutex_unlock(&s->idle_lock);
    return idle;
}

static void join_all(struct rpc_server *s)
{
    pthread_mutex_lock(&s->idle_lock);
    s->stopping = true;
    pthread_cond_broadcast(&s->stop);
    pthread_mutex_unlock(&s->idle_lock);
    if (s->sweeping)
        pthread_join(s->sweeper, NULL);
    grpc_completion_queue_shutdown(s->fast);
    grpc_completion_queue_shutdown(s->slow);
    for (size_t i = 0; i < s->nworkers; i++)
        pthread_join(s->workers[i], NULL);
    if (s->nworkers == 0) { /* start failed: the armed requests come back here */
        drain_queue(s, s->fast);
        drain_queue(s, s->slow);
    }
}

bool rpc_server_stop(struct rpc_server *s, uint64_t timeout_ms)
{
    enum { STRAY_MS = 100, CANCELLED_MS = 2000 };

    if (s == NULL)
        return true;
    front_channel_stop(s->front);
    s->front = NULL;
    atomic_store(&s->closed, true);
    grpc_server_shutdown_and_notify(s->grpc, s->slow, NULL);
    /* gRPC loses a call whose message comes while it shuts down: it neither hands it out nor ends it */
    if (!wait_idle(s, false, timeout_ms) || !wait_idle(s, true, STRAY_MS))
        grpc_server_cancel_all_calls(s->grpc);
    if (!wait_idle(s, true, CANCELLED_MS)) {
        /* a step that never answers: its memory must stay, and the process is about to end */
        log_event(LOG_ERROR, "calls did not end at shutdown", LF_INT("calls", atomic_load(&s->in_flight)));
        return false;
    }
    join_all(s);
    grpc_server_destroy(s->grpc);
    grpc_completion_queue_destroy(s->fast);
    grpc_completion_queue_destroy(s->slow);
    /* gRPC itself stays up until the process ends: once a write has had to wait, its shutdown waits for a poller that sleeps
     * for ten seconds (1.51, tcp_posix.cc), which is longer than a stop may take. */
    for (size_t i = 0; i < RPC_SHARDS; i++)
        pthread_mutex_destroy(&s->shards[i].lock);
    pthread_mutex_destroy(&s->idle_lock);
    pthread_cond_destroy(&s->idle);
    pthread_cond_destroy(&s->stop);
    free(s->workers);
    free(s);
    return true;
}

RESULT rpc_server_front_channel(struct rpc_server *s, int fd, struct err *e)
{
    front_channel_stop(s->front);
    s->front = NULL;
    TRY(front_channel_start(s->svc->authn, fd, &s->front, e));
    front_channel_mirror(s->front, s->svc->traffic);
    return ok();
}

void rpc_server_load(const struct rpc_server *s, uint64_t *ret_calls, uint64_t *ret_streams)
{
    *ret_calls = atomic_load(&s->in_flight);
    *ret_streams = atomic_load(&s->streams);
}
