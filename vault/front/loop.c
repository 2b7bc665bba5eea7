#include "vault/front/loop.h"

#include "base/log.h"
#include "vault/front/accept.h"
#include "vault/front/backend.h"
#include "vault/front/drain.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { STATS_MS = 1000, LOOP_SCRATCH_BYTES = LOOP_HEADROOM + LOOP_TURN_BYTES };
static const struct bucket_limit log_limit = {.burst = LOOP_LOG_BURST, .per_s = LOOP_LOG_PER_S};

static void read_clock(struct loop *l)
{
    l->now_ms = clock_boot_ms(l->clock);
}

RESULT loop_watch(struct loop *l, int fd, uint32_t events, struct source *s, struct err *e)
{
    struct epoll_event ev = {.events = events, .data.ptr = s};
    if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &ev) != 0)
        FAIL_ERRNO(e, ERR_EXHAUSTED, NULL, "epoll_ctl");
    return ok();
}

RESULT loop_init(struct loop *l, const struct clock *clock, const struct front_limits *limits, const char *run_dir,
                 int control_fd, RESULT (*on_control)(void *arg, struct err *e), void *arg, struct err *e)
{
    *l = (struct loop){.clock = clock, .limits = *limits, .on_control = on_control, .control_arg = arg};
    read_clock(l);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (l->epoll < 0)
        FAIL_ERRNO(e, ERR_EXHAUSTED, NULL, "epoll_create1");
    accept_init(l);
    backend_init(&l->backend, l->limits.max_connections, run_dir);
    wheel_init(&l->wheel, l->now_ms);
    bucket_init(&l->log_budget, &log_limit, l->now_ms);
    l->peers = peers_new(l->limits.max_per_peer, l->limits.max_calls + l->limits.max_calls / LOOP_SPARE_STREAMS);
    l->turns = turns_new();
    l->certs = certs_new((l->limits.max_connections + LOOP_CERT_SHARE - 1) / LOOP_CERT_SHARE);
    l->run.tail = &l->run.head;
    l->stats_due_ms = l->now_ms + STATS_MS;
    l->scratch = malloc(LOOP_SCRATCH_BYTES);
    INVARIANT(l->scratch != NULL);
    l->control = (struct source){SOURCE_CONTROL, l};
    if (control_fd >= 0)
        TRY(loop_watch(l, control_fd, EPOLLIN, &l->control, e));
    return ok();
}

static void run_one(struct conn *c)
{
    c->queued = false;
    if (c->state != CONN_DONE)
        conn_step(c);
    else if (!c->in_outbox)
        conn_free(c);
}

static void run_queues(struct loop *l)
{
    struct conn *c = l->run.head;
    l->run.head = NULL;
    l->run.tail = &l->run.head; /* who queues again from here on has its turn in the next pass */
    for (struct conn *next; c != NULL; c = next) {
        next = c->run_next;
        run_one(c);
    }
}

void loop_requeue(struct loop *l, struct conn *c)
{
    if (c->queued)
        return;
    c->queued = true;
    c->run_next = NULL;
    *l->run.tail = c;
    l->run.tail = &c->run_next;
}

RESULT loop_start(struct loop *l, struct err *e)
{
    TRY(shake_new(0, &l->shake, e));
    l->shaken = (struct source){SOURCE_SHAKE, l};
    return loop_watch(l, shake_fd(l->shake), EPOLLIN, &l->shaken, e);
}

void loop_release(struct loop *l)
{
    shake_free(l->shake);
    for (struct conn *c = l->conns; c != NULL; c = c->next)
        c->shaking = false; /* no thread has it any more */
    for (struct conn *c = l->conns; c != NULL; c = c->next)
        conn_close(c, NULL);
    backend_flush(l);
    for (struct conn *c = l->conns, *next; c != NULL; c = next) {
        next = c->next;
        c->in_outbox = c->queued = false;
        conn_free(c);
    }
    backend_release(l);
    accept_release(l);
    tls_ctx_free(l->tls);
    peers_free(l->peers);
    turns_free(l->turns);
    certs_free(l->certs);
    if (l->scratch != NULL)
        wipe(l->scratch, LOOP_SCRATCH_BYTES);
    free(l->scratch);
    (void)close(l->epoll);
}

void loop_set_tls(struct loop *l, struct tls_ctx *take)
{
    tls_ctx_free(l->tls);
    l->tls = take;
}

RESULT loop_add_listener(struct loop *l, int take_fd, struct bytes name, struct err *e)
{
    unsigned i = 0;
    while (i < LOOP_LISTENERS_MAX && l->listeners[i].fd >= 0)
        i++;
    if (i == LOOP_LISTENERS_MAX || name.n >= LOOP_NAME_MAX) {
        (void)close(take_fd);
        FAIL(e, ERR_EXHAUSTED, NULL, "more than %d listeners, or a name of %zu bytes", LOOP_LISTENERS_MAX, name.n);
    }
    struct listener *at = &l->listeners[i];
    *at = (struct listener){.source = {SOURCE_LISTENER, at}, .fd = take_fd};
    memcpy(at->name, name.p, name.n);
    /* Whoever made the socket, accept must not block: the client may be gone between the event and the call. */
    int flags = fcntl(take_fd, F_GETFL);
    if (flags < 0 || fcntl(take_fd, F_SETFL, flags | O_NONBLOCK) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, NULL, "make a listener non-blocking");
    return loop_watch(l, take_fd, EPOLLIN, &at->source, e);
}

bool loop_may_log(struct loop *l)
{
    int64_t wait_ms;
    bool may = bucket_take(&l->log_budget, &log_limit, l->now_ms, &wait_ms);
    l->log_dropped += !may;
    return may;
}

void loop_drain(struct loop *l)
{
    if (l->drain_due_ms != 0)
        return;
    l->drain_due_ms = l->now_ms + l->limits.drain_ms;
    accept_stop(l);
    for (struct conn *c = l->conns; c != NULL; c = c->next)
        if (c->state < CONN_LINGER)
            drain_begin(c, l->drain_due_ms);
    log_event(LOG_INFO, "draining", LF_INT("connections", l->open));
}

bool loop_drained(const struct loop *l)
{
    return l->drain_due_ms != 0 && l->open == 0;
}

static void on_client(struct conn *c, uint32_t events)
{
    if (c->state == CONN_DONE)
        return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        c->tls.readable = true;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        c->tls.hup = true;
    if (events & (EPOLLOUT | EPOLLERR))
        c->tls.writable = true;
    loop_requeue(c->loop, c);
}

static void on_core(struct conn *c, uint32_t events)
{
    if (c->core_fd < 0)
        return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        c->core_readable = true;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        c->core_hup = true;
    if (events & (EPOLLOUT | EPOLLERR))
        c->core_writable = true;
    loop_requeue(c->loop, c);
}

static struct conn *conn_of_job(struct shake_job *j)
{
    return (struct conn *)(void *)((char *)j - offsetof(struct conn, job));
}

static struct conn *conn_of_turn(struct turn *t)
{
    return (struct conn *)(void *)((char *)t - offsetof(struct conn, turn));
}

static void shaken(struct loop *l)
{
    for (struct shake_job *j = shake_take(l->shake), *next; j != NULL; j = next) {
        next = j->next;
        conn_shaken(conn_of_job(j));
    }
}

/* Free slots go to those in line. A slot whose holder says nothing is taken back, once for each that waits for it. */
static void run_turns(struct loop *l)
{
    struct turn *t = NULL;
    do {
        if (t != NULL && conn_is_slow(conn_of_turn(t)))
            conn_close(conn_of_turn(t), "too slow in the handshake, while others waited");
        else if (t != NULL)
            turns_spare(l->turns, t, l->now_ms);
        for (struct turn *next; (next = turns_next(l->turns, l->now_ms)) != NULL;)
            conn_shake(conn_of_turn(next));
        t = turns_waiting(l->turns) ? turns_slowest(l->turns, l->now_ms) : NULL;
    } while (t != NULL);
}

static RESULT dispatch(struct loop *l, const struct epoll_event *ev, struct err *e)
{
    struct source *s = ev->data.ptr;
    switch (s->kind) {
    case SOURCE_CLIENT:
        on_client(s->owner, ev->events);
        return ok();
    case SOURCE_CORE:
        on_core(s->owner, ev->events);
        return ok();
    case SOURCE_LISTENER:
        if (((struct listener *)s->owner)->fd >= 0)
            accept_ready(l, s->owner);
        return ok();
    case SOURCE_CHANNEL:
        backend_readable(l);
        return ok();
    case SOURCE_SHAKE:
        shaken(l);
        return ok();
    case SOURCE_CONTROL:
        return l->on_control(l->control_arg, e);
    }
    INVARIANT(s->kind <= SOURCE_SHAKE);
    return ok();
}

static void run_timers(struct loop *l)
{
    for (struct timer *t; (t = wheel_pop(&l->wheel, l->now_ms)) != NULL;) {
        struct conn *c = (struct conn *)(void *)((char *)t - offsetof(struct conn, timer));
        conn_timer(c);
        conn_rearm(c);
    }
}

static void each_second(struct loop *l)
{
    if (l->now_ms < l->stats_due_ms)
        return;
    l->stats_due_ms = l->now_ms + STATS_MS;
    backend_stats(l);
    if (l->log_dropped == 0)
        return;
    log_event(LOG_WARN, "log lines about clients left out", LF_INT("lines", l->log_dropped));
    l->log_dropped = 0;
}

static int sleep_ms(const struct loop *l, int max_ms)
{
    if (l->run.head != NULL)
        return 0;
    if (turns_waiting(l->turns) && max_ms > LOOP_TURNS_MS)
        max_ms = LOOP_TURNS_MS;
    int64_t due = l->stats_due_ms;
    if (l->paused_until_ms != 0 && l->paused_until_ms < due)
        due = l->paused_until_ms;
    int64_t left = due - l->now_ms;
    return wheel_sleep_ms(&l->wheel, l->now_ms, left < 0 ? 0 : left < max_ms ? (int)left : max_ms);
}

RESULT loop_turn(struct loop *l, int max_sleep_ms, struct err *e)
{
    struct epoll_event ev[LOOP_EVENTS];
    int n = epoll_wait(l->epoll, ev, LOOP_EVENTS, sleep_ms(l, max_sleep_ms));
    INVARIANT(n >= 0 || errno == EINTR);
    read_clock(l);
    for (int i = 0; i < n; i++)
        TRY(dispatch(l, &ev[i], e));
    accept_tick(l);
    run_timers(l);
    run_turns(l);
    run_queues(l);
    backend_flush(l);
    each_second(l);
    return ok();
}

RESULT loop_run(struct loop *l, struct err *e)
{
    while (!loop_drained(l))
        TRY(loop_turn(l, STATS_MS, e));
    return ok();
}
