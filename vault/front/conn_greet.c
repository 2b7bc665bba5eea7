#include "vault/front/conn.h"

#include "base/rng.h"
#include "vault/front/backend.h"
#include "vault/front/drain.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* A connection from accept until the core has said whom it belongs to. So long nobody knows, it may cost little: a place in
 * line, then one of a few slots (turns.h), the handshake on a thread that yields to the rest (shake.h). */

static void tune(int fd)
{
    /* Best effort: a socket without these still works. */
    int on = 1, idle = CONN_KEEPALIVE_S, gone_ms = CONN_KEEPALIVE_S * 1000;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &gone_ms, sizeof gone_ms);
}

static void link_conn(struct loop *l, struct conn *c)
{
    c->next = l->conns;
    c->at = &l->conns;
    if (c->next != NULL)
        c->next->at = &c->next;
    l->conns = c;
    l->allocated++;
    l->open++;
}

/* +-10 %, so that clients that came together do not leave together. */
static int64_t jittered_age(const struct loop *l)
{
    uint32_t r;
    rng_fill(&rng_system, &r, sizeof r);
    int64_t tenth = l->limits.max_age_ms / 10;
    return l->limits.max_age_ms - tenth + (int64_t)r % (2 * tenth + 1);
}

static struct conn *conn_of_turn(struct turn *t)
{
    return (struct conn *)(void *)((char *)t - offsetof(struct conn, turn));
}

static bool line_up(struct loop *l, struct conn *c, const struct sockaddr_storage *addr)
{
    struct turn *displaced;
    if (!turns_join(l->turns, addr, &c->turn, &displaced))
        return false;
    if (displaced != NULL) {
        l->counts.refused++;
        conn_close(conn_of_turn(displaced), "too many of its net wait for a handshake");
    }
    return true;
}

bool conn_start(struct loop *l, const struct arrival *take)
{
    struct conn *c = calloc(1, sizeof *c);
    if (c == NULL || !line_up(l, c, take->addr)) {
        free(c);
        (void)close(take->fd);
        peers_leave(l->peers, take->peer, l->now_ms);
        return false;
    }
    c->loop = l;
    c->client_source = (struct source){SOURCE_CLIENT, c};
    c->core_source = (struct source){SOURCE_CORE, c};
    c->client_fd = take->fd;
    c->core_fd = -1;
    c->peer = take->peer;
    c->listener = take->from->name;
    c->state = CONN_IN_LINE;
    c->state_due = l->now_ms + l->limits.handshake_ms;
    c->age_due = l->now_ms + jittered_age(l);
    memccpy(c->address, take->address, 0, sizeof c->address - 1);
    tune(take->fd);
    link_conn(l, c);
    l->counts.accepted++;
    conn_rearm(c);
    return true;
}

void conn_shake(struct conn *c)
{
    struct loop *l = c->loop;
    struct err e;
    INVARIANT(l->tls != NULL && l->shake != NULL);
    conn_set_state(c, CONN_HANDSHAKE, l->now_ms + l->limits.handshake_ms); /* the line was not its fault */
    c->job = (struct shake_job){.tls = &c->tls};
    if (tls_open(&c->tls, l->tls, c->client_fd, &e).failed || shake_give(l->shake, &c->job, &e).failed) {
        l->counts.refused++;
        conn_close(c, "no memory or descriptor for a handshake");
        return;
    }
    c->shaking = true;
    conn_rearm(c);
}

bool conn_is_slow(const struct conn *c)
{
    uint8_t b;
    return c->shaking && recv(c->client_fd, &b, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

static void refused(struct conn *c)
{
    c->loop->counts.refused++;
    /* OpenSSL has put its alert on the wire; a lingering close lets it arrive. */
    conn_log_end(c, c->tls.why);
    turns_leave(c->loop->turns, &c->turn);
    (void)shutdown(c->client_fd, SHUT_WR);
    conn_set_state(c, CONN_LINGER, c->loop->now_ms + CONN_LINGER_MS);
    loop_requeue(c->loop, c);
}

/* Its certificate has as many connections as it may: the oldest that does nothing makes room, or there is none. */
static bool make_room(struct conn *c)
{
    struct loop *l = c->loop;
    struct holding *h = certs_oldest(&c->holding);
    for (unsigned i = 0; h != NULL && i < CERTS_LOOK; i++, h = h->next) {
        struct conn *old = (struct conn *)(void *)((char *)h - offsetof(struct conn, holding));
        if (old->state != CONN_OPEN || old->drain != DRAIN_NO || policer_open_streams(&old->policer) > 0)
            continue;
        certs_leave(l->certs, h);
        conn_log_end(old, "makes room for a newer connection of its certificate");
        drain_begin(old, l->now_ms + DRAIN_AGE_GRACE_MS);
        conn_rearm(old);
        return true;
    }
    return false;
}

void conn_shaken(struct conn *c)
{
    struct loop *l = c->loop;
    struct err e;
    c->shaking = false;
    if (c->doomed || loop_watch(l, c->client_fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, &c->client_source, &e).failed) {
        conn_close(c, c->doomed ? NULL : "no room to watch another descriptor");
        return;
    }
    policer_init(&c->policer, l->limits.max_streams, l->now_ms);
    c->tls.readable = c->tls.writable = true; /* watched from now on only */
    if (c->job.outcome != TLS_OK) {
        refused(c);
    } else {
        certs_join(l->certs, c->tls.certificate, &c->holding);
        if (!certs_over(l->certs, &c->holding) || make_room(c)) {
            backend_register(c);
        } else {
            l->counts.refused++;
            conn_finish(c, "too many connections of this certificate");
        }
    }
    conn_rearm(c);
}

void conn_vouched(struct conn *c, bool trusted)
{
    struct turns *ts = c->loop->turns;
    if (trusted)
        turns_leave(ts, &c->turn);
    else if (c->turn.place == TURN_NONE || (c->turn.place == TURN_SHAKING && !turns_stranger(ts, &c->turn)))
        conn_finish(c, "too many connections whose certificates are not trusted");
}
