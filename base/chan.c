#include "base/chan.h"

#include "base/clock.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* A packet: u16 magic, u16 type, u32 seq, u32 body length, body. The length is redundant to the packet's own and checked. */
enum { CHAN_HEADER_BYTES = 12, CHAN_MAGIC = 0xc1a6 };

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * CHAN_MAX_FDS)];
};

RESULT chan_pair(int ret_fds[2], struct err *e)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0)
        FAIL_ERRNO(e, ERR_EXHAUSTED, "CHANNEL", "socketpair");
    ret_fds[0] = fds[0];
    ret_fds[1] = fds[1];
    return ok();
}

static bool peer_gone(int errnum)
{
    return errnum == EPIPE || errnum == ECONNRESET || errnum == ENOTCONN;
}

/* Waits for events; false on timeout. deadline_ns < 0: for ever. */
static bool wait_ready(int fd, short events, int64_t deadline_ns)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = events};
        int64_t left_ms = -1;
        int n;
        if (deadline_ns >= 0) {
            int64_t left = deadline_ns - clock_boot_ns(&clock_system);
            left_ms = left <= 0 ? 0 : (left + 999999) / 1000000; /* up, or the last fraction would spin */
        }
        n = poll(&p, 1, left_ms > INT_MAX ? INT_MAX : (int)left_ms);
        if (n > 0)
            return true;
        if (n == 0)
            return false;
        INVARIANT(errno == EINTR || errno == EAGAIN);
    }
}

RESULT chan_send(int fd, const struct chan_msg *m, struct err *e)
{
    uint8_t header[CHAN_HEADER_BYTES];
    struct iovec iov[2] = {{header, sizeof(header)}, {(void *)(uintptr_t)m->body.p, m->body.n}};
    union control control = {0};
    struct msghdr h = {.msg_iov = iov, .msg_iovlen = m->body.n > 0 ? 2 : 1};

    if (m->body.n > CHAN_MAX_BYTES || m->nfds > CHAN_MAX_FDS)
        FAIL(e, ERR_INVALID, "CHANNEL_MESSAGE", "message %u of %zu bytes and %zu descriptors is over the limit", m->type,
             m->body.n, m->nfds);
    put_be16(header, CHAN_MAGIC);
    put_be16(header + 2, m->type);
    put_be32(header + 4, m->seq);
    put_be32(header + 8, (uint32_t)m->body.n);
    if (m->nfds > 0) {
        h.msg_control = control.bytes;
        h.msg_controllen = CMSG_SPACE(sizeof(int) * m->nfds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * m->nfds);
        memcpy(CMSG_DATA(c), m->fds, sizeof(int) * m->nfds);
    }
    for (;;) {
        if (sendmsg(fd, &h, MSG_NOSIGNAL) >= 0)
            return ok();
        if (peer_gone(errno))
            FAIL(e, ERR_UNAVAILABLE, "CHANNEL_CLOSED", "the other side closed while message %u was sent", m->type);
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            (void)wait_ready(fd, POLLOUT, -1);
        else if (errno != EINTR)
            FAIL_ERRNO(e, ERR_INTERNAL, "CHANNEL", "send message %u of %zu bytes", m->type, m->body.n);
    }
}

static void take_fds(struct msghdr *h, struct chan_msg *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c != NULL; c = CMSG_NXTHDR(h, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (m->nfds < CHAN_MAX_FDS)
                m->fds[m->nfds++] = fd;
            else
                (void)close(fd);
        }
    }
}

static RESULT parse_packet(const uint8_t *p, size_t n, int flags, struct chan_msg *m, struct err *e)
{
    if ((flags & (MSG_TRUNC | MSG_CTRUNC)) != 0)
        FAIL(e, ERR_INVALID, "CHANNEL_MESSAGE", "a packet was cut: too long or too many descriptors");
    if (n < CHAN_HEADER_BYTES || get_be16(p) != CHAN_MAGIC)
        FAIL(e, ERR_INVALID, "CHANNEL_MESSAGE", "a packet of %zu bytes has no header", n);
    m->type = get_be16(p + 2);
    m->seq = get_be32(p + 4);
    m->body = BYTES(p + CHAN_HEADER_BYTES, n - CHAN_HEADER_BYTES);
    if (get_be32(p + 8) != m->body.n || m->body.n > CHAN_MAX_BYTES)
        FAIL(e, ERR_INVALID, "CHANNEL_MESSAGE", "message %u says %u bytes and has %zu", m->type, get_be32(p + 8),
             m->body.n);
    return ok();
}

RESULT chan_recv(int fd, int timeout_ms, void *buf, size_t buf_bytes, struct chan_msg *ret, struct err *e)
{
    int64_t deadline = timeout_ms < 0 ? -1 : clock_boot_ns(&clock_system) + (int64_t)timeout_ms * 1000000;
    struct chan_msg m = {0};
    union control control;
    struct msghdr h;
    struct result r;
    bool reset = false;
    ssize_t n;

    for (;;) {
        struct iovec iov = {buf, buf_bytes};
        if (!wait_ready(fd, POLLIN, deadline))
            FAIL(e, ERR_DEADLINE, "CHANNEL_TIMEOUT", "no message within %d ms", timeout_ms);
        h = (struct msghdr){.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control)};
        n = recvmsg(fd, &h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (n >= 0)
            break;
        if (errno == ECONNRESET && !reset) { /* it went without reading all that we sent; what it had said is still here */
            reset = true;
            continue;
        }
        if (peer_gone(errno))
            FAIL(e, ERR_UNAVAILABLE, "CHANNEL_CLOSED", "the other side is gone");
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            FAIL_ERRNO(e, ERR_INTERNAL, "CHANNEL", "receive");
    }
    take_fds(&h, &m);
    if (n == 0 && m.nfds == 0)
        FAIL(e, ERR_UNAVAILABLE, "CHANNEL_CLOSED", "the other side is gone");
    r = parse_packet(buf, (size_t)n, h.msg_flags, &m, e);
    if (r.failed) {
        for (size_t i = 0; i < m.nfds; i++)
            (void)close(m.fds[i]);
        return r;
    }
    *ret = m;
    return ok();
}
