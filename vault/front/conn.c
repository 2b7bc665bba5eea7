#include "vault/front/conn.h"

#include "base/log.h"
#include "base/sm.h"
#include "vault/front/backend.h"
#include "vault/front/drain.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define TO(s) (1u << (s))
static const struct sm_state states[] = {
    [CONN_IN_LINE] = {"in line", TO(CONN_HANDSHAKE) | TO(CONN_DONE)},
    [CONN_HANDSHAKE] = {"handshake", TO(CONN_REGISTER) | TO(CONN_LINGER) | TO(CONN_DONE)},
    [CONN_REGISTER] = {"register", TO(CONN_WAIT_ACK) | TO(CONN_LINGER) | TO(CONN_DONE)},
    [CONN_WAIT_ACK] = {"wait-ack", TO(CONN_REGISTER) | TO(CONN_CONNECT) | TO(CONN_LINGER) | TO(CONN_DONE)},
    [CONN_CONNECT] = {"connect", TO(CONN_REGISTER) | TO(CONN_CONNECT) | TO(CONN_OPEN) | TO(CONN_LINGER) | TO(CONN_DONE)},
    [CONN_OPEN] = {"open", TO(CONN_LINGER) | TO(CONN_DONE)},
    [CONN_LINGER] = {"linger", TO(CONN_DONE)},
    [CONN_DONE] = {"done", 0},
};
static const struct sm_table table = {"connection", states, sizeof states / sizeof states[0]};

void conn_set_state(struct conn *c, enum conn_state next, int64_t due_ms)
{
    INVARIANT(sm_can(&table, c->state, next));
    c->state = next;
    c->state_due = due_ms;
}

void conn_log_end(struct conn *c, const char *why)
{
    if (why == NULL || !loop_may_log(c->loop))
        return;
    log_event(LOG_INFO, "connection ended", LF_STR("why", why), LF_STR("peer", c->address),
              LF_STR("state", sm_name(&table, c->state)), LF_INT("streams", policer_open_streams(&c->policer)));
}

void conn_opened(struct conn *c, int take_core_fd)
{
    struct err e;
    struct loop *l = c->loop;
    c->core_fd = take_core_fd;
    c->core_readable = c->core_writable = true;
    if (loop_watch(l, take_core_fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, &c->core_source, &e).failed) {
        conn_finish(c, "no room to watch another descriptor");
        return;
    }
    conn_set_state(c, CONN_OPEN, l->now_ms + l->limits.handshake_ms); /* for preface and SETTINGS */
    conn_rearm(c);
    loop_requeue(l, c);
}

static void leave_core(struct conn *c)
{
    if (c->core_fd >= 0)
        (void)close(c->core_fd);
    c->core_fd = -1;
    if (c->state == CONN_OPEN && !c->left) { /* once: a good-bye that finds no room becomes a close */
        c->left = true;
        conn_count_streams(c);
        /* what is open now is left undone, by the client unless core has gone */
        struct peer_change ch = {.streams = -(int32_t)c->streams, .unfinished_bytes = -(int32_t)c->unfinished,
                                 .undone = c->core_eof ? 0 : c->streams};
        peers_count(c->peer, c->loop->now_ms, &ch);
    }
    residue_release(&c->in);
    wipe(c->in_tail, sizeof c->in_tail);
    backend_ended(c);
    turns_leave(c->loop->turns, &c->turn);
    certs_leave(c->loop->certs, &c->holding);
}

void conn_finish(struct conn *c, const char *why)
{
    if (c->state >= CONN_LINGER)
        return;
    if (c->state == CONN_IN_LINE || c->shaking) { /* nothing to say good-bye with */
        conn_close(c, why);
        return;
    }
    conn_log_end(c, why);
    leave_core(c);
    conn_flush_out(c);
    if (c->tls.broken || c->out.p != NULL) {
        conn_close(c, NULL);
        return;
    }
    tls_close_notify(&c->tls);
    /* Closing with bytes unread would make the kernel send RST, and that may overtake our GOAWAY. */
    (void)shutdown(c->client_fd, SHUT_WR);
    conn_set_state(c, CONN_LINGER, c->loop->now_ms + CONN_LINGER_MS);
    conn_rearm(c);
    loop_requeue(c->loop, c);
}

void conn_close(struct conn *c, const char *why)
{
    struct loop *l = c->loop;
    if (c->state == CONN_DONE || (c->shaking && c->doomed))
        return;
    conn_log_end(c, why);
    leave_core(c);
    c->doomed = c->shaking;
    if (c->doomed) { /* the thread that has it finds a dead socket, and hands it back */
        c->state_due = 0;
        (void)shutdown(c->client_fd, SHUT_RDWR);
        return;
    }
    tls_close(&c->tls);
    (void)close(c->client_fd);
    c->client_fd = -1;
    residue_release(&c->out);
    wipe(c->out_tail, sizeof c->out_tail);
    wheel_disarm(&l->wheel, &c->timer);
    peers_leave(l->peers, c->peer, l->now_ms);
    c->peer = NULL;
    l->open--;
    conn_set_state(c, CONN_DONE, 0);
    loop_requeue(l, c); /* it is freed from there, when no event of this pass can name it any more */
}

void conn_free(struct conn *c)
{
    INVARIANT(c->state == CONN_DONE && !c->in_outbox && !c->queued && !c->shaking);
    c->loop->allocated--;
    *c->at = c->next;
    if (c->next != NULL)
        c->next->at = c->at;
    free(c);
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a == 0 ? b : b == 0 || a < b ? a : b;
}

void conn_rearm(struct conn *c)
{
    if (c->state == CONN_DONE)
        return;
    int64_t due = c->state_due;
    if (c->state < CONN_LINGER)
        due = earlier(due, c->drain == DRAIN_NO ? c->age_due : c->drain_due);
    if (c->state == CONN_OPEN) {
        due = earlier(due, c->resume_at);
        due = earlier(due, c->idle_at);
        due = earlier(due, c->in_stalled == 0 ? 0 : c->in_stalled + CONN_CORE_STALL_MS);
        due = earlier(due, c->out_stalled == 0 ? 0 : c->out_stalled + CONN_STALL_MS);
        due = earlier(due, policer_deadline(&c->policer));
        due = earlier(due, c->drain == DRAIN_WARNED ? c->drain_at : 0);
    }
    if (due != 0)
        wheel_arm(&c->loop->wheel, &c->timer, due);
}

static void step_linger(struct conn *c)
{
    struct loop *l = c->loop;
    while (c->lingered < CONN_LINGER_BYTES) {
        ssize_t n = recv(c->client_fd, l->scratch, LOOP_TURN_BYTES, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n <= 0)
            break;
        c->lingered += (size_t)n;
    }
    conn_close(c, NULL);
}

void conn_step(struct conn *c)
{
    if (c->state == CONN_OPEN && conn_pump(c))
        loop_requeue(c->loop, c);
    else if (c->state == CONN_LINGER)
        step_linger(c);
    drain_step(c);
    conn_rearm(c);
}

/* What a passed deadline means in each state. */
static void state_expired(struct conn *c)
{
    switch ((enum conn_state)c->state) {
    case CONN_IN_LINE:
        c->loop->counts.refused++;
        conn_close(c, "waited too long for its turn to shake hands");
        return;
    case CONN_HANDSHAKE:
        c->loop->counts.refused++;
        conn_close(c, "no TLS handshake in time");
        return;
    case CONN_CONNECT:
        if (c->loop->now_ms < c->core_due) {
            backend_connect(c);
            return;
        }
        conn_finish(c, "no connection to core in time");
        return;
    case CONN_REGISTER:
    case CONN_WAIT_ACK:
        conn_finish(c, "no answer from core in time");
        return;
    case CONN_OPEN:
        if (c->client_eof || c->generation == 0)
            conn_finish(c, c->client_eof ? NULL : "core is gone");
        else if (!policer_started(&c->policer))
            conn_close(c, "no HTTP/2 preface in time");
        else
            c->state_due = 0;
        return;
    case CONN_LINGER:
        conn_close(c, NULL);
        return;
    case CONN_DONE:
        return;
    }
}

static bool past(const struct conn *c, int64_t due_ms)
{
    return due_ms != 0 && c->loop->now_ms >= due_ms;
}

void conn_timer(struct conn *c)
{
    if (past(c, c->state_due))
        state_expired(c);
    if (c->state < CONN_LINGER && c->drain == DRAIN_NO && past(c, c->age_due))
        drain_begin(c, c->loop->now_ms + DRAIN_AGE_GRACE_MS);
    if (c->state == CONN_OPEN && c->out_stalled != 0 && past(c, c->out_stalled + CONN_STALL_MS))
        conn_close(c, "the client does not read its answers");
    if (c->state == CONN_OPEN && c->in_stalled != 0 && past(c, c->in_stalled + CONN_CORE_STALL_MS))
        conn_close(c, "core does not read");
    if (c->state == CONN_OPEN && past(c, c->idle_at))
        c->idle_at = tls_release_buffers(&c->tls) ? 0 : c->loop->now_ms + CONN_IDLE_MS;
    if (c->state != CONN_DONE)
        conn_step(c);
}
