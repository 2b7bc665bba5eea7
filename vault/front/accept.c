#include "vault/front/accept.h"

#include "base/log.h"
#include "vault/front/conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

/* A duplicate of what is open anyway: taking the reserve back opens no file. */
static void take_reserve(struct loop *l)
{
    if (l->reserve_fd < 0)
        l->reserve_fd = fcntl(l->epoll, F_DUPFD_CLOEXEC, 3);
}

void accept_init(struct loop *l)
{
    struct rlimit r;
    l->reserve_fd = -1;
    for (unsigned i = 0; i < LOOP_LISTENERS_MAX; i++)
        l->listeners[i].fd = -1;
    take_reserve(l);
    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        return;
    rlim_t want = (rlim_t)l->limits.max_connections * 2 + ACCEPT_FDS_KEPT;
    if (r.rlim_cur < want) {
        r.rlim_cur = want < r.rlim_max ? want : r.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &r);
    }
    if (r.rlim_cur >= want)
        return;
    rlim_t fits = r.rlim_cur > ACCEPT_FDS_KEPT + 2 ? (r.rlim_cur - ACCEPT_FDS_KEPT) / 2 : 1;
    log_event(LOG_WARN, "descriptor limit is too low for max_connections", LF_INT("limit", r.rlim_cur),
              LF_INT("needed", want), LF_INT("max_connections", fits));
    l->limits.max_connections = (uint32_t)fits;
}

void accept_release(struct loop *l)
{
    accept_stop(l);
    if (l->reserve_fd >= 0)
        (void)close(l->reserve_fd);
    l->reserve_fd = -1;
}

void accept_stop(struct loop *l)
{
    for (unsigned i = 0; i < LOOP_LISTENERS_MAX; i++) {
        if (l->listeners[i].fd < 0)
            continue;
        (void)epoll_ctl(l->epoll, EPOLL_CTL_DEL, l->listeners[i].fd, NULL); /* the monitor's copy keeps the socket alive */
        (void)close(l->listeners[i].fd);
        l->listeners[i].fd = -1;
    }
    l->paused_until_ms = 0;
}

static void address_text(const struct sockaddr_storage *a, char out[IPC_ADDR_MAX])
{
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)a;
    const struct sockaddr_in *in = (const struct sockaddr_in *)a;
    const char *text = NULL;
    if (a->ss_family == AF_INET)
        text = inet_ntop(AF_INET, &in->sin_addr, out, IPC_ADDR_MAX);
    else if (a->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
        text = inet_ntop(AF_INET, in6->sin6_addr.s6_addr + 12, out, IPC_ADDR_MAX);
    else if (a->ss_family == AF_INET6)
        text = inet_ntop(AF_INET6, &in6->sin6_addr, out, IPC_ADDR_MAX);
    if (text == NULL)
        (void)snprintf(out, IPC_ADDR_MAX, "unknown");
}

static void pause_listeners(struct loop *l, bool on)
{
    for (unsigned i = 0; i < LOOP_LISTENERS_MAX; i++) {
        struct epoll_event ev = {.events = on ? 0 : EPOLLIN, .data.ptr = &l->listeners[i].source};
        if (l->listeners[i].fd >= 0)
            (void)epoll_ctl(l->epoll, EPOLL_CTL_MOD, l->listeners[i].fd, &ev);
    }
    l->paused_until_ms = on ? l->now_ms + ACCEPT_PAUSE_MS : 0;
}

void accept_tick(struct loop *l)
{
    if (l->paused_until_ms == 0 || l->now_ms < l->paused_until_ms)
        return;
    take_reserve(l);
    pause_listeners(l, false);
}

/* The queue must move, or the level-triggered listener would spin: one client is taken on the reserve, and refused. */
static void refuse_on_reserve(struct loop *l, struct listener *from)
{
    if (l->reserve_fd >= 0)
        (void)close(l->reserve_fd);
    l->reserve_fd = -1;
    int fd = accept4(from->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0)
        (void)close(fd);
    l->counts.refused += fd >= 0;
    take_reserve(l);
    if (loop_may_log(l))
        log_event(LOG_WARN, "out of descriptors", LF_INT("connections", l->open));
    if (fd < 0 || l->reserve_fd < 0)
        pause_listeners(l, true);
}

static void refuse(struct loop *l, int fd, const char *address, const char *why)
{
    (void)close(fd);
    l->counts.refused++;
    if (loop_may_log(l))
        log_event(LOG_INFO, "connection refused", LF_STR("why", why), LF_STR("peer", address));
}

static void enter(struct loop *l, const struct arrival *take)
{
    if (conn_start(l, take))
        return;
    l->counts.refused++;
    if (loop_may_log(l))
        log_event(LOG_INFO, "connection refused", LF_STR("why", "too many wait for a handshake"), LF_STR("peer", take->address));
}

static void admit(struct loop *l, int fd, const struct sockaddr_storage *peer_addr, const struct listener *from)
{
    char address[IPC_ADDR_MAX];
    struct peer *peer;
    address_text(peer_addr, address);
    if (l->allocated >= l->limits.max_connections) {
        refuse(l, fd, address, "too many connections");
        return;
    }
    enum peers_verdict v = peers_join(l->peers, peer_addr, l->now_ms, &peer);
    if (v != PEERS_OK)
        refuse(l, fd, address, peers_verdict_text(v));
    else
        enter(l, &(struct arrival){fd, peer, peer_addr, address, from});
}

void accept_ready(struct loop *l, struct listener *from)
{
    for (unsigned i = 0; i < ACCEPT_TURN && l->paused_until_ms == 0; i++) {
        struct sockaddr_storage peer_addr = {0};
        socklen_t n = sizeof peer_addr;
        int fd = accept4(from->fd, (struct sockaddr *)&peer_addr, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            admit(l, fd, &peer_addr, from);
            continue;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return;
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            refuse_on_reserve(l, from);
            return;
        }
        /* ECONNABORTED, EINTR and the network errors accept(2) lists are the one client's: on to the next. */
    }
}

bool accept_local_name(const struct loop *l, char out[80])
{
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof a;
    char address[IPC_ADDR_MAX];
    if (l->listeners[0].fd < 0 || getsockname(l->listeners[0].fd, (struct sockaddr *)&a, &n) != 0)
        return false;
    address_text(&a, address);
    bool six = a.ss_family == AF_INET6;
    /* zeroed above, which the analyzer loses behind the casts: NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage) */
    unsigned port = ntohs(six ? ((struct sockaddr_in6 *)&a)->sin6_port : ((struct sockaddr_in *)&a)->sin_port);
    (void)snprintf(out, 80, six ? "[%s]:%u" : "%s:%u", address, port);
    return true;
}
