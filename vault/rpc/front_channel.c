#include "vault/rpc/front_channel.h"

#include "base/log.h"
#include "base/thread.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* Ids announced and not yet closed: open addressing over random ids, so their first bytes are the hash. Erasing re-inserts
 * the run behind the hole: no tombstones pile up. */
struct id_set {
    uint8_t (*slot)[IPC_CONN_ID_BYTES];
    bool *used;
    size_t cap, n; /* cap is a power of two, at most half full */
};

static size_t id_home(const struct id_set *s, const uint8_t *id)
{
    return (size_t)get_be64(id) & (s->cap - 1);
}

static void id_put(struct id_set *s, const uint8_t *id)
{
    size_t i = id_home(s, id);

    while (s->used[i]) {
        if (memcmp(s->slot[i], id, IPC_CONN_ID_BYTES) == 0)
            return;
        i = (i + 1) & (s->cap - 1);
    }
    memcpy(s->slot[i], id, IPC_CONN_ID_BYTES);
    s->used[i] = true;
    s->n++;
}

static void id_grow(struct id_set *s)
{
    struct id_set old = *s;

    s->cap = old.cap == 0 ? 256 : old.cap * 2;
    s->n = 0;
    s->slot = calloc(s->cap, sizeof(s->slot[0]));
    s->used = calloc(s->cap, sizeof(s->used[0]));
    INVARIANT(s->slot != NULL && s->used != NULL);
    for (size_t i = 0; i < old.cap; i++)
        if (old.used[i])
            id_put(s, old.slot[i]);
    free(old.slot);
    free(old.used);
}

static void id_add(struct id_set *s, const uint8_t *id)
{
    if (2 * (s->n + 1) > s->cap)
        id_grow(s);
    id_put(s, id);
}

static void id_remove(struct id_set *s, const uint8_t *id)
{
    size_t i;

    if (s->n == 0)
        return;
    for (i = id_home(s, id); s->used[i] && memcmp(s->slot[i], id, IPC_CONN_ID_BYTES) != 0;)
        i = (i + 1) & (s->cap - 1);
    if (!s->used[i])
        return;
    s->used[i] = false;
    s->n--;
    for (i = (i + 1) & (s->cap - 1); s->used[i]; i = (i + 1) & (s->cap - 1)) {
        uint8_t moved[IPC_CONN_ID_BYTES];
        memcpy(moved, s->slot[i], sizeof(moved));
        s->used[i] = false;
        s->n--;
        id_put(s, moved); /* lands at or before i: never on a slot not yet looked at */
    }
}

struct front_channel {
    struct authn *authn;
    int fd;
    pthread_t thread;
    struct id_set open;
    _Atomic uint64_t stats[4]; /* open, accepted, refused, policed */
    _Atomic(_Atomic uint64_t *) mirror;
    uint8_t packet[CHAN_MAX_BYTES + 16];
};

/* Does the certificate speak for anybody? The front keeps few connections of those who are only to be told that it does not. */
static enum ipc_ack word_on(struct authn *a, const uint8_t id[IPC_CONN_ID_BYTES])
{
    static const char prefix[] = "unix-abstract:" IPC_CONN_PREFIX;
    char peer[sizeof(prefix) + 2 * IPC_CONN_ID_BYTES];
    struct identity known = {0};
    struct err why;

    memcpy(peer, prefix, sizeof(prefix));
    hex_encode(id, IPC_CONN_ID_BYTES, peer + sizeof(prefix) - 1);
    struct authn_conn *c = authn_conn_by_peer(a, peer);
    bool trusted = c != NULL && !authn_call(a, c, &known, &why).failed;
    authn_identity_release(&known);
    authn_conn_unref(c);
    return trusted ? IPC_ACK_GO_ON : IPC_ACK_STRANGER;
}

static struct result announce(struct front_channel *f, const struct chan_msg *m, struct err *e)
{
    uint8_t body[IPC_CONN_ID_BYTES + 1], id[IPC_CONN_ID_BYTES];
    struct chan_msg ack = {.type = IPC_CONN_ACK, .seq = m->seq, .body = BYTES(body, sizeof(body))};
    struct err why;

    if (m->body.n < IPC_CONN_ID_BYTES)
        FAIL(e, ERR_INVALID, "BAD_PACKET", "CONN_NEW of %zu bytes", m->body.n);
    memcpy(body, m->body.p, IPC_CONN_ID_BYTES);
    body[IPC_CONN_ID_BYTES] = IPC_ACK_NO;
    if (f->open.n >= FRONT_CONNS_MAX) {
        log_event(LOG_WARN, "connection refused: too many are open", LF_INT("open", f->open.n));
    } else if (authn_conn_add(f->authn, m->body, id, &why).failed) {
        log_event(LOG_WARN, "connection refused", LF_ERR(&why));
    } else {
        id_add(&f->open, id);
        body[IPC_CONN_ID_BYTES] = (uint8_t)word_on(f->authn, id);
    }
    return chan_send(f->fd, &ack, e);
}

static void mirror(struct front_channel *f)
{
    _Atomic uint64_t *out = atomic_load(&f->mirror);

    for (size_t i = 0; out != NULL && i < 4; i++)
        atomic_store(&out[i], atomic_load(&f->stats[i]));
}

static struct result packet(struct front_channel *f, const struct chan_msg *m, struct err *e)
{
    struct reader r = reader_of(m->body);

    switch ((enum ipc_conn)m->type) {
    case IPC_CONN_NEW:
        return announce(f, m, e);
    case IPC_CONN_CLOSED:
        if (m->body.n != IPC_CONN_ID_BYTES)
            break;
        id_remove(&f->open, m->body.p);
        authn_conn_closed(f->authn, m->body.p);
        return ok();
    case IPC_FRONT_STATS:
        atomic_store(&f->stats[0], reader_u32(&r));
        for (size_t i = 1; i < 4; i++)
            atomic_store(&f->stats[i], reader_u64(&r));
        mirror(f);
        if (reader_done(&r))
            return ok();
        break;
    case IPC_CONN_ACK:
    case IPC_CONN_KILL:
        break;
    }
    FAIL(e, ERR_INVALID, "BAD_PACKET", "type %u, %zu bytes", m->type, m->body.n);
}

static void *front_main(void *channel)
{
    struct front_channel *f = channel;
    struct chan_msg m;
    struct err e;

    /* A chain costs as much as dozens of calls: those in service go first. Of this thread alone, on Linux; best effort. */
    (void)setpriority(PRIO_PROCESS, 0, FRONT_CHANNEL_NICE);
    for (;;) {
        struct result done = chan_recv(f->fd, -1, f->packet, sizeof(f->packet), &m, &e);
        if (!done.failed) {
            for (size_t i = 0; i < m.nfds; i++)
                close(m.fds[i]); /* none is ever due here */
            done = packet(f, &m, &e);
        }
        if (done.failed)
            break;
    }
    if (e.code != ERR_UNAVAILABLE)
        log_event(LOG_ERROR, "front channel", LF_ERR(&e));
    shutdown(f->fd, SHUT_RDWR); /* the front must not wait for an answer that will not come */
    for (size_t i = 0; i < f->open.cap; i++)
        if (f->open.used[i])
            authn_conn_closed(f->authn, f->open.slot[i]);
    free(f->open.slot);
    free(f->open.used);
    f->open = (struct id_set){0};
    return NULL;
}

RESULT front_channel_start(struct authn *a, int fd, struct front_channel **ret, struct err *e)
{
    struct front_channel *f = calloc(1, sizeof(*f));

    INVARIANT(f != NULL);
    f->authn = a;
    f->fd = fd;
    if (thread_spawn(&f->thread, "front-channel", front_main, f, e).failed) {
        close(fd);
        free(f);
        return (struct result){1};
    }
    *ret = f;
    return ok();
}

void front_channel_stop(struct front_channel *f)
{
    if (f == NULL)
        return;
    shutdown(f->fd, SHUT_RDWR);
    pthread_join(f->thread, NULL);
    close(f->fd);
    free(f);
}

void front_channel_mirror(struct front_channel *f, _Atomic uint64_t *out)
{
    atomic_store(&f->mirror, out);
}

void front_channel_stats(const struct front_channel *f, struct front_stats *ret)
{
    *ret = (struct front_stats){0};
    if (f == NULL)
        return;
    ret->open = atomic_load(&f->stats[0]);
    ret->accepted = atomic_load(&f->stats[1]);
    ret->refused = atomic_load(&f->stats[2]);
    ret->policed = atomic_load(&f->stats[3]);
}
