/*
 * Purpose: what the files of vault/rpc share: the server, one call of it (struct rcall) and the steps between them.
 * Owns:    struct rpc_server owns queues and threads; an rcall owns its grpc_call, its buffers and its struct call.
 * Threads: an rcall's unary steps are ordered by hand-over (call.h). Streams hold rcall.lock around their state, never while
 *          they call into vault/service. A shard's lock is held around gRPC's cancel only, which calls nothing of ours.
 * Errors:  a call always ends with a status, or with its connection.
 * Limits:  below.
 * Secrets: rpc.h.
 */
#ifndef VAULT_RPC_INTERNAL_H
#define VAULT_RPC_INTERNAL_H

#include "base/ref.h"
#include "vault/rpc/front_channel.h"
#include "vault/rpc/rpc.h"
#include "vault/rpc/status.h"
#include "vault/service/service.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <pthread.h>

enum {
    RPC_HOT_MAX = 10,            /* registered methods: each outstanding tag of a queue costs every event (MEASURED 1) */
    RPC_HOT_ARMED = 32,          /* requests armed a hot method */
    RPC_GENERIC_ARMED = 8,       /* for everything else */
    RPC_FINAL_MS = 10000,        /* a last batch not sent by then is cancelled: a client may keep its window shut */
    RPC_UNARY_MS = 60000,        /* calls without a deadline of their own */
    RPC_SWEEP_MS = 1000,
    RPC_SHARDS = 16,
    RPC_CALLERS = 4096,          /* counters of calls in flight, by certificate; a clash only makes two share a share */
    RPC_CALLER_SHARE = 2,        /* one certificate gets at most 1/2 of max_calls and of max_streams */
    RPC_PATH_MAX = 255,
    RPC_TRAILERS_MAX = 3,
    RPC_RECEIPT_MAX = 256,
    RPC_MAX_FRAME_BYTES = 16384,
    RPC_STREAM_WINDOW_BYTES = 65535,
    RPC_MAX_METADATA_BYTES = 8192,
    RPC_MAX_STREAMS_PER_CONNECTION = 100,
    RPC_MIN_RECV_PING_MS = 10000,
    RPC_QUOTA_BYTES = 512 << 20, /* gRPC's own backstop for all connections together */
};

enum rpc_op { OP_NEW, OP_RECV, OP_SEND, OP_CLOSE, OP_COUNT };
struct rcall;
struct rpc_tag { /* what a completion queue hands back */
    struct rcall *rc;
    enum rpc_op op;
    atomic_uint handed; /* what a queue orders anyway, where a sanitizer can see it */
};
/* Before each hand-over to gRPC, and first thing when the tag comes back. */
static inline void *tag_give(struct rpc_tag *t)
{
    atomic_store_explicit(&t->handed, 1, memory_order_release);
    return t;
}
static inline void tag_take(struct rpc_tag *t)
{
    (void)atomic_load_explicit(&t->handed, memory_order_acquire);
}

struct hot_method {
    const struct rpc_row *row;
    void *registered;
};

struct rcall {
    struct rpc_server *srv;
    const struct hot_method *hot;  /* NULL: came through the generic pool */
    const struct rpc_row *row;
    grpc_call *gc;
    grpc_call_details details;     /* generic pool */
    grpc_metadata_array metadata;
    gpr_timespec deadline;
    int64_t deadline_boot_ms;
    grpc_byte_buffer *received;    /* of the receive under way, or of a hot call's request */
    grpc_slice message;            /* what call_message works on */
    bool has_message;
    grpc_byte_buffer *sending;
    int closed_cancelled;          /* RECV_CLOSE's result */
    bool counted, close_started, headers_sent;
    struct authn_conn *conn;       /* whose connection; NULL: not looked up, or unknown */
    size_t caller;                 /* index of its certificate's counters; 0: it has none, and will be refused anyway */
    grpc_metadata trailers[RPC_TRAILERS_MAX];
    _Atomic(struct call *) c;
    struct ref refs;               /* one for life (until the last batch is sent), one a batch under way */
    _Atomic int64_t final_boot_ms; /* when the last batch was started; 0: not yet */
    /* below: guarded by lock; only calls of the generic pool use it */
    pthread_mutex_t lock;
    grpc_byte_buffer *held;        /* received while the answer before it was still under way */
    bool held_close, half_closed, receiving, answer_due, send_busy, cancelled, ended;
    struct rpc_tag tags[OP_COUNT];
    struct rcall *prev, *next;     /* the shard's list */
};

struct rpc_shard {
    pthread_mutex_t lock;
    struct rcall list; /* ring head */
} __attribute__((aligned(64)));

struct rpc_server {
    struct service *svc;
    const struct clock *clock;
    grpc_server *grpc;
    grpc_completion_queue *fast, *slow;
    struct hot_method hot[RPC_HOT_MAX];
    size_t nhot;
    pthread_t *workers; /* the fast queue's, then the slow queue's one */
    size_t nworkers;
    pthread_t sweeper;
    bool sweeping;
    pthread_mutex_t idle_lock; /* guards stopping and shut */
    pthread_cond_t idle;       /* closed, and in_flight has reached 0; or shut */
    pthread_cond_t stop;       /* the sweeper's */
    bool stopping, shut;       /* shut: gRPC has let go of every call and connection */
    atomic_bool closed;        /* nothing is armed again */
    _Atomic uint64_t in_flight, streams;
    struct rpc_caller {
        _Atomic uint32_t calls, streams;
    } callers[RPC_CALLERS];
    uint64_t max_calls, max_streams;
    char origin[160]; /* of receipts */
    struct rpc_shard shards[RPC_SHARDS];
    struct front_channel *front;
};

/* arm.c: a new rcall waiting for the next call of that kind. */
void rcall_arm(struct rpc_server *s, const struct hot_method *hot);
/* rcall.c: an event of a queue; dispatches on the tag. */
void rcall_event(struct rpc_tag *tag, bool ok);
void rcall_ref(struct rcall *rc);
void rcall_unref(struct rcall *rc);
/* rcall.c: makes rc->c on first need. */
struct call *rcall_call(struct rcall *rc);
struct bytes rcall_take_message(struct rcall *rc, grpc_byte_buffer *bb); /* bb is consumed */
/* send.c: starts the batch of one answer; the last one with status, details and trailers. */
void rcall_send(struct rcall *rc, const struct call_out *out);
void rcall_sent(struct rcall *rc); /* releases what the batch borrowed */
/* stream.c: everything that came through the generic pool once its row is known. */
void stream_begin(struct rcall *rc);
void stream_received(struct rcall *rc, bool ok);
void stream_send_done(struct rcall *rc, bool ok);
void stream_closed(struct rcall *rc);
void stream_answer(struct call *c, const struct call_out *out, void *rc);
/* sweep.c */
void sweep_add(struct rcall *rc);
void sweep_remove(struct rcall *rc);
void *sweep_main(void *server);
int64_t rpc_deadline_boot_ms(const struct rpc_server *s, gpr_timespec deadline, bool unary);

#endif
