#include "vault/front/backend.h"

#include "base/log.h"
#include "base/rng.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void backend_init(struct backend *b, uint32_t max_connections, const char *run_dir)
{
    size_t n = 64;
    while (n < max_connections)
        n *= 2;
    *b = (struct backend){.source = {SOURCE_CHANNEL, b}, .channel = -1, .by_id_mask = n - 1};
    b->by_id = calloc(n, sizeof *b->by_id);
    b->outbox_tail = &b->outbox_head;
    int len = snprintf(b->socket_path, sizeof b->socket_path, "%s/%s", run_dir, IPC_CORE_SOCKET);
    INVARIANT(b->by_id != NULL && len > 0 && (size_t)len < sizeof b->socket_path);
}

void backend_release(struct loop *l)
{
    struct backend *b = &l->backend;
    if (b->channel >= 0)
        (void)close(b->channel);
    free(b->by_id);
    b->by_id = NULL;
    b->channel = -1;
}

/* ---- connections by their id -------------------------------------------------------------------------------------- */

static struct conn **slot_of(struct backend *b, const uint8_t id[IPC_CONN_ID_BYTES])
{
    return &b->by_id[get_be64(id) & b->by_id_mask]; /* random already */
}

static struct conn *find(struct backend *b, const uint8_t id[IPC_CONN_ID_BYTES])
{
    for (struct conn *c = *slot_of(b, id); c != NULL; c = c->id_next)
        if (bytes_ct_equal(c->id, id, IPC_CONN_ID_BYTES))
            return c;
    return NULL;
}

static void hash_out(struct backend *b, struct conn *c)
{
    if (!c->hashed)
        return;
    struct conn **at = slot_of(b, c->id);
    while (*at != c)
        at = &(*at)->id_next;
    *at = c->id_next;
    c->hashed = false;
}

static void hash_in(struct backend *b, struct conn *c)
{
    struct conn **at = slot_of(b, c->id);
    c->id_next = *at;
    *at = c;
    c->hashed = true;
}

/* ---- the channel -------------------------------------------------------------------------------------------------- */

static void outbox_add(struct conn *c)
{
    struct backend *b = &c->loop->backend;
    if (c->in_outbox)
        return;
    c->in_outbox = true;
    c->outbox_next = NULL;
    *b->outbox_tail = c;
    b->outbox_tail = &c->outbox_next;
}

/* The core of this channel is gone, or cannot be understood. Its last answers may still lie in the connections: each gets
 * a moment to deliver them; those that are not connected yet wait for the next core. */
static void channel_lost(struct loop *l, const char *why)
{
    struct backend *b = &l->backend;
    if (b->channel < 0)
        return;
    log_event(LOG_WARN, "core is gone", LF_STR("why", why), LF_INT("connections", l->open));
    (void)close(b->channel);
    b->channel = -1;
    b->wants_write = false;
    for (struct conn *c = l->conns; c != NULL; c = c->next) {
        c->generation = 0;
        if (c->state == CONN_OPEN) {
            c->state_due = l->now_ms + CONN_CORE_GONE_MS;
        } else if (c->state == CONN_WAIT_ACK || c->state == CONN_CONNECT) {
            conn_set_state(c, CONN_REGISTER, c->core_due);
            hash_out(b, c);
            outbox_add(c);
        }
        conn_rearm(c);
    }
}

void backend_set_channel(struct loop *l, int take_fd)
{
    struct backend *b = &l->backend;
    struct err e;
    channel_lost(l, "replaced by a new one");
    b->channel = take_fd;
    b->generation++;
    if (loop_watch(l, take_fd, EPOLLIN, &b->source, &e).failed)
        channel_lost(l, "cannot be watched");
}

/* Never blocks: a unix socket that polls writable takes at least one more packet. */
static bool channel_ready(struct backend *b)
{
    struct pollfd p = {.fd = b->channel, .events = POLLOUT};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLOUT) != 0;
}

static void watch_writable(struct loop *l, bool on)
{
    struct backend *b = &l->backend;
    if (b->channel < 0 || b->wants_write == on)
        return;
    struct epoll_event ev = {.events = on ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = &b->source};
    b->wants_write = epoll_ctl(l->epoll, EPOLL_CTL_MOD, b->channel, &ev) == 0 && on;
}

static RESULT send_new(struct conn *c, struct err *e)
{
    struct backend *b = &c->loop->backend;
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, CHAN_MAX_BYTES);
    rng_fill(&rng_system, c->id, sizeof c->id);
    buf_put(&body, c->id, sizeof c->id);
    buf_put_v16(&body, bytes_str(c->listener));
    buf_put_v16(&body, bytes_str(c->address));
    TRY(tls_peer_chain(&c->tls, &body, e));
    struct chan_msg m = {.type = IPC_CONN_NEW, .seq = ++b->seq, .body = buf_bytes(&body)};
    TRY(chan_send(b->channel, &m, e));
    c->generation = b->generation;
    c->core_told = false;
    hash_in(b, c);
    conn_set_state(c, CONN_WAIT_ACK, c->core_due);
    return ok();
}

static RESULT send_closed(struct conn *c, struct err *e)
{
    struct chan_msg m = {.type = IPC_CONN_CLOSED, .body = BYTES(c->id, sizeof c->id)};
    return chan_send(c->loop->backend.channel, &m, e);
}

/* One connection's business with the core. False: the channel is broken. */
static bool attend(struct loop *l, struct conn *c)
{
    struct err e;
    struct result r = ok();
    if (c->core_told && c->generation == l->backend.generation)
        r = send_closed(c, &e);
    else if (c->state == CONN_REGISTER)
        r = send_new(c, &e);
    if (!r.failed)
        return true;
    if (e.code == ERR_UNAUTHENTICATED) { /* its chain, not the channel */
        conn_finish(c, "the certificate chain cannot be passed on");
        return true;
    }
    channel_lost(l, "sending failed");
    return false;
}

void backend_flush(struct loop *l)
{
    struct backend *b = &l->backend;
    struct conn *c = b->outbox_head;
    b->outbox_head = NULL;
    b->outbox_tail = &b->outbox_head;
    bool blocked = false;
    for (struct conn *next; c != NULL; c = next) {
        next = c->outbox_next;
        c->in_outbox = false;
        bool wants = (c->core_told && c->generation != 0) || c->state == CONN_REGISTER;
        blocked = blocked || (wants && b->channel >= 0 && !channel_ready(b));
        if (wants && (b->channel < 0 || blocked || !attend(l, c)))
            outbox_add(c);
        else if (c->core_told)
            c->generation = 0;
        if (c->state == CONN_DONE && !c->in_outbox)
            loop_requeue(l, c);
    }
    watch_writable(l, blocked);
}

void backend_ended(struct conn *c)
{
    hash_out(&c->loop->backend, c);
    if (c->core_told || c->generation == 0)
        return;
    c->core_told = true;
    outbox_add(c);
}

void backend_register(struct conn *c)
{
    c->core_due = c->loop->now_ms + BACKEND_WAIT_MS;
    conn_set_state(c, CONN_REGISTER, c->core_due);
    outbox_add(c);
}

/* ---- the connection to core --------------------------------------------------------------------------------------- */

static RESULT connect_core(const struct conn *c, int fd, struct err *e)
{
    struct sockaddr_un self = {.sun_family = AF_UNIX}, core = {.sun_family = AF_UNIX};
    static const char prefix[] = IPC_CONN_PREFIX;
    const size_t name_bytes = sizeof prefix - 1 + 2 * IPC_CONN_ID_BYTES;
    memcpy(self.sun_path + 1, prefix, sizeof prefix - 1); /* the leading NUL makes the name abstract */
    hex_encode(c->id, IPC_CONN_ID_BYTES, self.sun_path + sizeof prefix);
    memcpy(core.sun_path, c->loop->backend.socket_path, sizeof core.sun_path);
    if (bind(fd, (struct sockaddr *)&self, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + name_bytes)) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, NULL, "bind a connection's name");
    if (connect(fd, (struct sockaddr *)&core, sizeof core) == 0)
        return ok();
    if (errno == EAGAIN)
        FAIL(e, ERR_WOULD_BLOCK, NULL, "core's backlog is full");
    FAIL_ERRNO(e, ERR_UNAVAILABLE, NULL, "connect to core");
}

void backend_connect(struct conn *c)
{
    struct err e;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        conn_finish(c, "no descriptor for the connection to core");
        return;
    }
    if (!connect_core(c, fd, &e).failed) {
        conn_opened(c, fd);
        return;
    }
    (void)close(fd);
    if (e.code != ERR_WOULD_BLOCK) {
        char text[320];
        if (loop_may_log(c->loop))
            log_event(LOG_WARN, "cannot connect to core", LF_STR("error", err_log_text(&e, text, sizeof text)));
        conn_finish(c, NULL);
        return;
    }
    int64_t due = c->loop->now_ms + BACKEND_RETRY_MS;
    conn_set_state(c, CONN_CONNECT, due < c->core_due ? due : c->core_due);
    conn_rearm(c);
}

static RESULT on_message(struct loop *l, const struct chan_msg *m, struct err *e)
{
    struct reader r = reader_of(m->body);
    uint8_t id[IPC_CONN_ID_BYTES];
    if (m->nfds > 0 || (m->type != IPC_CONN_ACK && m->type != IPC_CONN_KILL))
        FAIL(e, ERR_INVALID, NULL, "message %u from core", m->type);
    reader_copy(&r, id, sizeof id);
    uint8_t go = m->type == IPC_CONN_ACK ? reader_u8(&r) : 0;
    if (!reader_done(&r) || go > IPC_ACK_STRANGER)
        FAIL(e, ERR_INVALID, NULL, "malformed message %u from core", m->type);
    struct conn *c = find(&l->backend, id); /* it may have ended meanwhile */
    if (c == NULL)
        return ok();
    if (m->type == IPC_CONN_KILL) {
        conn_finish(c, "cut off by core");
        return ok();
    }
    if (c->state != CONN_WAIT_ACK)
        FAIL(e, ERR_INVALID, NULL, "a second ack from core");
    if (go == IPC_ACK_NO)
        conn_finish(c, "refused by core");
    else
        conn_vouched(c, go == IPC_ACK_GO_ON);
    if (c->state != CONN_WAIT_ACK)
        return ok();
    conn_set_state(c, CONN_CONNECT, c->core_due);
    backend_connect(c);
    return ok();
}

void backend_readable(struct loop *l)
{
    static const size_t need = CHAN_MAX_BYTES + 16;
    struct backend *b = &l->backend;
    _Static_assert(LOOP_TURN_BYTES + LOOP_HEADROOM >= CHAN_MAX_BYTES + 16, "scratch holds any packet");
    for (unsigned i = 0; i < BACKEND_TURN && b->channel >= 0; i++) {
        struct chan_msg m;
        struct err e;
        struct result r = chan_recv(b->channel, 0, l->scratch, need, &m, &e);
        if (r.failed && e.code == ERR_DEADLINE)
            return;
        if (!r.failed) {
            r = on_message(l, &m, &e);
            for (size_t k = 0; k < m.nfds; k++)
                (void)close(m.fds[k]);
        }
        if (!r.failed)
            continue;
        char text[320];
        log_event(LOG_WARN, "channel to core", LF_STR("error", err_log_text(&e, text, sizeof text)));
        channel_lost(l, "the channel ended");
    }
}

void backend_stats(struct loop *l)
{
    struct backend *b = &l->backend;
    struct err e;
    if (b->channel < 0 || !channel_ready(b))
        return; /* the next second's will do */
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, 64);
    buf_put_u32(&body, l->open);
    buf_put_u64(&body, l->counts.accepted);
    buf_put_u64(&body, l->counts.refused);
    buf_put_u64(&body, l->counts.policed);
    struct chan_msg m = {.type = IPC_FRONT_STATS, .body = buf_bytes(&body)};
    if (chan_send(b->channel, &m, &e).failed)
        channel_lost(l, "sending failed");
}
