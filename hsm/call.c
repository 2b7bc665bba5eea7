#include "hsm/call.h"

#include "base/chan.h"
#include "base/clock.h"
#include "base/thread.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* No thread of its own: of the callers that wait for an answer one reads the channel, hands the others theirs, and passes
 * the reading on when its own has come. */
enum { IN_FLIGHT_MAX = 16, RECEIVE_BYTES = WIRE_MAX + 16, RECEIVE_ALL_BYTES = IN_FLIGHT_MAX * RECEIVE_BYTES };

struct link { /* one channel; outlives its replacement until the last caller has let go */
    int fd;
    unsigned refs;
    bool dead, being_read;
};
struct waiter {
    struct waiter *next;
    struct link *link;
    uint32_t seq;
    uint16_t answer; /* the type that answers it */
    bool done;
    pthread_cond_t wake;
    struct secret *key; /* NULL, or where the answer's key goes */
    uint8_t *reply;     /* WIRE_MAX */
    size_t n;
    unsigned place;     /* of its own receive buffer */
};
struct hsm {
    pthread_mutex_t lock;
    pthread_cond_t slot_free, send_free;
    struct link *link; /* NULL: none yet */
    struct waiter *waiters;
    unsigned in_flight;
    uint8_t *receive; /* locked: IN_FLIGHT_MAX buffers, one for each that may read; an answer may be a key */
    bool place_taken[IN_FLIGHT_MAX];
    bool sending; /* one writer at a time on a channel */
    uint32_t seq;
    uint64_t timeout_ms;
};

/* Rounded up: the last fraction of a millisecond must not spin. */
static int left_ms(const struct timespec *deadline)
{
    struct timespec now;
    INVARIANT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    int64_t ns = (deadline->tv_sec - now.tv_sec) * 1000000000 + (deadline->tv_nsec - now.tv_nsec);
    return ns <= 0 ? 0 : (int)((ns + 999999) / 1000000);
}

static struct link *link_new(int fd)
{
    struct link *l = calloc(1, sizeof *l);
    INVARIANT(l != NULL);
    l->fd = fd;
    l->refs = 1;
    return l;
}

static void link_unref(struct link *l)
{
    if (l == NULL || --l->refs > 0)
        return;
    (void)close(l->fd);
    free(l);
}

/* Under the lock, as all below; send_request and read_once let it go while they wait. */
static void link_kill(struct hsm *h, struct link *l)
{
    l->dead = true;
    (void)shutdown(l->fd, SHUT_RDWR); /* wakes whoever reads or sends on it */
    for (struct waiter *w = h->waiters; w != NULL; w = w->next)
        if (w->link == l)
            (void)pthread_cond_signal(&w->wake);
}

/* An answer that failed brings its text, and goes where text may lie. */
static void take_answer(struct waiter *w, struct bytes body)
{
    if (w->key != NULL && body.n == 1 + SECRET_KEY_BYTES && body.p[0] == ERR_NONE) {
        memcpy(secret_borrow_mut(w->key), body.p + 1, SECRET_KEY_BYTES);
        body.n = 1;
    } else if (w->key != NULL && (body.n == 0 || body.p[0] == ERR_NONE)) {
        body.n = 0; /* a key of another length: cannot be read */
    }
    memcpy(w->reply, body.p, body.n);
    w->n = body.n;
    w->done = true;
    (void)pthread_cond_signal(&w->wake);
}

static void hand_over(struct hsm *h, struct link *l, const struct chan_msg *m)
{
    for (size_t i = 0; i < m->nfds; i++)
        (void)close(m->fds[i]);
    for (struct waiter *w = h->waiters; w != NULL; w = w->next) {
        if (w->link != l || w->seq != m->seq || w->done || m->body.n > WIRE_MAX)
            continue;
        if (m->type != w->answer) { /* another operation's answer under this number: nothing on this channel can be believed */
            link_kill(h, l);
            return;
        }
        take_answer(w, m->body);
        return;
    }
    /* Nobody waits any more: an answer after its deadline. Dropped. */
}

/* One turn as the reader of w's channel; the lock is let go while it waits. */
static void read_once(struct hsm *h, struct waiter *w, const struct timespec *deadline)
{
    uint8_t *buf = h->receive + (size_t)w->place * RECEIVE_BYTES;
    struct chan_msg m;
    struct err e = {0};
    struct link *l = w->link;
    l->being_read = true;
    (void)pthread_mutex_unlock(&h->lock);
    struct result r = chan_recv(l->fd, left_ms(deadline), buf, RECEIVE_BYTES, &m, &e);
    (void)pthread_mutex_lock(&h->lock);
    l->being_read = false;
    if (!r.failed)
        hand_over(h, l, &m);
    else if (e.code != ERR_DEADLINE && !l->dead)
        link_kill(h, l);
    wipe(buf, RECEIVE_BYTES); /* it may have been another caller's key */
}

static void pass_reading_on(struct hsm *h, const struct link *l)
{
    for (struct waiter *w = h->waiters; w != NULL; w = w->next)
        if (w->link == l && !w->done) {
            (void)pthread_cond_signal(&w->wake);
            return;
        }
}

RESULT hsm_unavailable(const char *why, struct err *e)
{
    FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "%s", why);
}

static RESULT await(struct hsm *h, struct waiter *w, const struct timespec *deadline, struct err *e)
{
    while (!w->done) {
        if (w->link->dead)
            return hsm_unavailable("the hsm process is gone or being replaced", e);
        if (left_ms(deadline) == 0)
            return hsm_unavailable("the hsm process did not answer in time", e);
        if (w->link->being_read)
            (void)pthread_cond_timedwait(&w->wake, &h->lock, deadline);
        else
            read_once(h, w, deadline);
    }
    return ok();
}

static RESULT enter(struct hsm *h, struct waiter *w, const struct timespec *deadline, struct err *e)
{
    while (h->in_flight == IN_FLIGHT_MAX)
        if (pthread_cond_timedwait(&h->slot_free, &h->lock, deadline) == ETIMEDOUT)
            return hsm_unavailable("too many calls wait for the hsm process", e);
    if (h->link == NULL || h->link->dead)
        return hsm_unavailable("the hsm process is not there", e);
    if (++h->seq == 0)
        h->seq = 1; /* 0 is for notices */
    w->seq = h->seq;
    w->link = h->link;
    w->link->refs++;
    w->next = h->waiters;
    h->waiters = w;
    h->in_flight++;
    while (h->place_taken[w->place])
        w->place++;
    h->place_taken[w->place] = true;
    return ok();
}

static void leave(struct hsm *h, struct waiter *w)
{
    struct waiter **p = &h->waiters;
    while (*p != w)
        p = &(*p)->next;
    *p = w->next;
    if (!w->link->being_read)
        pass_reading_on(h, w->link);
    link_unref(w->link);
    h->place_taken[w->place] = false;
    h->in_flight--;
    (void)pthread_cond_signal(&h->slot_free);
}

static RESULT send_request(struct hsm *h, const struct waiter *w, enum wire_op op, struct bytes body,
                           const struct timespec *deadline, struct err *e)
{
    const struct chan_msg m = {.type = (uint16_t)op, .seq = w->seq, .body = body};
    struct pollfd writable = {.fd = w->link->fd, .events = POLLOUT};
    struct err why = {0};
    while (h->sending)
        if (pthread_cond_timedwait(&h->send_free, &h->lock, deadline) == ETIMEDOUT)
            return hsm_unavailable("the channel to the hsm process is blocked", e);
    h->sending = true;
    (void)pthread_mutex_unlock(&h->lock);
    bool sent = poll(&writable, 1, left_ms(deadline)) > 0 && !chan_send(w->link->fd, &m, &why).failed;
    (void)pthread_mutex_lock(&h->lock);
    h->sending = false;
    (void)pthread_cond_signal(&h->send_free);
    return sent ? ok() : hsm_unavailable("the hsm process takes no request", e);
}

RESULT hsm_call(struct hsm *h, uint64_t extra_ms, enum wire_op op, const struct buf *request, struct secret *key,
                uint8_t reply[WIRE_MAX], struct reader *ret, struct err *e)
{
    struct waiter w = {.key = key, .reply = reply, .answer = (uint16_t)(op | WIRE_REPLY)};
    const struct timespec deadline = wait_until((int64_t)(h->timeout_ms + extra_ms));
    INVARIANT(!request->overflow);
    wait_cond_init(&w.wake);
    (void)pthread_mutex_lock(&h->lock);
    struct result r = enter(h, &w, &deadline, e);
    if (!r.failed) {
        r = send_request(h, &w, op, buf_bytes(request), &deadline, e);
        if (!r.failed)
            r = await(h, &w, &deadline, e);
        leave(h, &w);
    }
    (void)pthread_mutex_unlock(&h->lock);
    (void)pthread_cond_destroy(&w.wake);
    TRY(r);
    *ret = reader_of(BYTES(reply, w.n));
    return wire_get_result(ret, e);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

RESULT hsm_client_new(int fd, uint64_t timeout_ms, struct hsm **ret, struct err *e)
{
    if (timeout_ms == 0)
        FAIL(e, ERR_INVALID, "HSM_BAD_REQUEST", "a client without patience");
    uint8_t *receive;
    TRY(secret_pages_new(RECEIVE_ALL_BYTES, &receive, e));
    struct hsm *h = calloc(1, sizeof *h);
    INVARIANT(h != NULL);
    h->receive = receive;
    INVARIANT(pthread_mutex_init(&h->lock, NULL) == 0);
    wait_cond_init(&h->slot_free);
    wait_cond_init(&h->send_free);
    h->timeout_ms = timeout_ms;
    h->link = fd >= 0 ? link_new(fd) : NULL;
    *ret = h;
    return ok();
}

void hsm_client_set_channel(struct hsm *h, int fd)
{
    struct link *l = link_new(fd);
    (void)pthread_mutex_lock(&h->lock);
    struct link *old = h->link;
    h->link = l;
    if (old != NULL) {
        link_kill(h, old);
        link_unref(old);
    }
    (void)pthread_mutex_unlock(&h->lock);
}

void hsm_free(struct hsm *h)
{
    if (h == NULL)
        return;
    INVARIANT(h->in_flight == 0);
    link_unref(h->link);
    (void)pthread_cond_destroy(&h->slot_free);
    (void)pthread_cond_destroy(&h->send_free);
    (void)pthread_mutex_destroy(&h->lock);
    secret_pages_free(h->receive, RECEIVE_ALL_BYTES);
    free(h);
}
