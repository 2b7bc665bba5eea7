/*
 * Purpose: one event loop of the front: epoll, timers, a run queue for fairness, and the state all its connections share.
 *          A second loop would be a second struct loop; nothing is shared between two.
 * Owns:    everything it points to, but the control descriptor and the configuration. Threads: one for each loop; shake.h has its own.
 * Errors:  ERR_EXHAUSTED at start; ERR_UNAVAILABLE when the monitor is gone. What befalls one connection ends only that one.
 * Limits:  the enum below and struct front_limits.
 * Secrets: plaintext passes through scratch, which is wiped after each use.
 */
#ifndef FRONT_LOOP_H
#define FRONT_LOOP_H

#include "base/clock.h"
#include "vault/front/certs.h"
#include "vault/front/peers.h"
#include "vault/front/shake.h"
#include "vault/front/turns.h"
#include "vault/front/wheel.h"

enum {
    LOOP_TURN_BYTES = 65536,  /* of one connection, each way, before the others have their turn */
    LOOP_TURN_RECORDS = 64,   /* TLS records of one connection a turn: tiny ones cost as much as full ones */
    LOOP_HEADROOM = 16,       /* for an unfinished frame header */
    LOOP_CERT_SHARE = 4,      /* one certificate gets 1 / this of max_connections: 1,024 idle ones hold 44 MB */
    LOOP_SPARE_STREAMS = 8,   /* beyond max_calls 1 / this of it: core says no to these, which is kinder than to let them wait */
    LOOP_TURNS_MS = 100,      /* while somebody waits for a handshake: how often to look for a slot that is wasted */
    LOOP_EVENTS = 256,
    LOOP_LISTENERS_MAX = 4,
    LOOP_NAME_MAX = 64,
    LOOP_LOG_BURST = 50,      /* log lines about clients, at once and */
    LOOP_LOG_PER_S = 10,      /* a second; the rest is counted */
};

struct front_limits {
    uint32_t max_connections, max_per_peer, max_streams /* of a connection */, max_calls;
    int64_t handshake_ms, max_age_ms, drain_ms;
};
struct front_counts {
    uint64_t accepted, refused, policed;
};

enum source_kind { SOURCE_CLIENT, SOURCE_CORE, SOURCE_LISTENER, SOURCE_CONTROL, SOURCE_CHANNEL, SOURCE_SHAKE };
struct source { /* what an epoll event points to */
    enum source_kind kind;
    void *owner;
};

struct conn;
struct listener {
    struct source source;
    int fd; /* -1: unused */
    char name[LOOP_NAME_MAX];
};
struct backend { /* backend.h */
    struct source source;
    int channel;         /* to core; -1: none */
    uint64_t generation; /* of the channel; 0 is never one */
    uint32_t seq;
    bool wants_write;
    struct conn *outbox_head, **outbox_tail;
    struct conn **by_id; /* hash on the random id */
    size_t by_id_mask;
    char socket_path[108];
};

struct loop {
    const struct clock *clock;
    int64_t now_ms, stats_due_ms, drain_due_ms /* 0: not draining */, paused_until_ms /* accept; 0: not */;
    int epoll, reserve_fd;
    struct front_limits limits;
    struct front_counts counts;
    struct bucket log_budget;
    uint64_t log_dropped;
    struct tls_ctx *tls;
    struct peers *peers;
    struct turns *turns;
    struct certs *certs;
    struct shake *shake;
    struct wheel wheel;
    struct listener listeners[LOOP_LISTENERS_MAX];
    struct backend backend;
    struct conn *conns;
    struct run_queue { /* who has something to do */
        struct conn *head, **tail;
    } run;
    uint32_t allocated; /* connections that exist, those whose end the core has not been told yet included */
    uint32_t open;      /* connections with a client */
    struct source control, shaken;
    RESULT (*on_control)(void *arg, struct err *e);
    void *control_arg;
    uint8_t *scratch; /* LOOP_HEADROOM + LOOP_TURN_BYTES */
};

/* run_dir: where core.sock is. control_fd -1: none (tests). on_control is called when control_fd is readable. */
RESULT loop_init(struct loop *l, const struct clock *clock, const struct front_limits *limits, const char *run_dir,
                 int control_fd, RESULT (*on_control)(void *arg, struct err *e), void *arg, struct err *e);
void loop_release(struct loop *l);
/* Threads for handshakes: after confinement, which threads inherit and which does not reach those that run already. */
RESULT loop_start(struct loop *l, struct err *e);
void loop_set_tls(struct loop *l, struct tls_ctx *take); /* for new connections; running ones go on as they are */
RESULT loop_add_listener(struct loop *l, int take_fd, struct bytes name, struct err *e);
/* Stop listening, drain every connection; loop_run returns when the last is gone, or after limits.drain_ms. */
void loop_drain(struct loop *l);
/* Runs until drained (ok) or on_control fails. loop_turn is one pass, for tests. */
RESULT loop_run(struct loop *l, struct err *e);
RESULT loop_turn(struct loop *l, int max_sleep_ms, struct err *e);
bool loop_drained(const struct loop *l);

/* For the modules of this folder. */
RESULT loop_watch(struct loop *l, int fd, uint32_t events, struct source *s, struct err *e);
void loop_requeue(struct loop *l, struct conn *c); /* step it again in the next pass */
bool loop_may_log(struct loop *l);                 /* false: over the budget, counted */

#endif
