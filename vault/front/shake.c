#include "vault/front/shake.h"

#include "base/confine_build.h"
#include "base/thread.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

struct shake {
    int epoll, done_fd, stop_fd;
    unsigned n;
    pthread_t threads[SHAKE_THREADS_MAX];
    pthread_mutex_t lock;
    struct shake_job *done, **done_tail; /* under lock */
};

static void ring(int fd)
{
    ssize_t n = write(fd, &(uint64_t){1}, sizeof(uint64_t));
    INVARIANT(n == sizeof(uint64_t)); /* a counter of 2^64 - 1 events */
}

static void finish(struct shake *s, struct shake_job *j, enum tls_io outcome)
{
    (void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, j->tls->fd, NULL);
    j->outcome = outcome;
    j->next = NULL;
    pthread_mutex_lock(&s->lock);
    bool first = s->done == NULL;
    *s->done_tail = j;
    s->done_tail = &j->next;
    pthread_mutex_unlock(&s->lock);
    if (first)
        ring(s->done_fd);
}

static struct epoll_event wanted(struct shake_job *j)
{
    uint32_t what = tls_wants_write(j->tls) ? EPOLLOUT : EPOLLIN;
    return (struct epoll_event){.events = what | EPOLLRDHUP | EPOLLONESHOT, .data.ptr = j};
}

/* Arms the socket: from here on the job may be with another thread. */
static int hand_over(struct shake *s, int op, struct shake_job *j)
{
    struct epoll_event next = wanted(j);
    int fd = j->tls->fd;
    atomic_store_explicit(&j->handed, 1, memory_order_release);
    return epoll_ctl(s->epoll, op, fd, &next);
}

static void step(struct shake *s, struct shake_job *j, uint32_t events)
{
    (void)atomic_load_explicit(&j->handed, memory_order_acquire);
    struct tls *t = j->tls;
    t->readable = t->writable = true;
    t->hup = t->hup || (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    enum tls_io io = tls_handshake(t);
    if (io == TLS_AGAIN && hand_over(s, EPOLL_CTL_MOD, j) == 0)
        return;
    finish(s, j, io == TLS_AGAIN ? TLS_BROKEN : io);
}

static void *shake_main(void *arg)
{
    struct shake *s = arg;
    if (!confine_is_sanitizer_build()) /* slow there already: last in line it would meet no client's deadline */
        (void)setpriority(PRIO_PROCESS, 0, SHAKE_NICE); /* of this thread alone, on Linux; without it all still works */
    for (;;) {
        struct epoll_event ev;
        int n = epoll_wait(s->epoll, &ev, 1, -1);
        INVARIANT(n >= 0 || errno == EINTR);
        if (n > 0 && ev.data.ptr == s)
            return NULL; /* level-triggered, and never read: it stops the others, too */
        if (n > 0)
            step(s, ev.data.ptr, ev.events);
    }
}

static unsigned by_cpus(void)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (cpus < SHAKE_CPUS_PER_THREAD)
        return 1;
    return cpus / SHAKE_CPUS_PER_THREAD < SHAKE_THREADS_MAX ? (unsigned)(cpus / SHAKE_CPUS_PER_THREAD) : SHAKE_THREADS_MAX;
}

static RESULT start(struct shake *s, unsigned threads, struct err *e)
{
    struct epoll_event stop = {.events = EPOLLIN, .data.ptr = s};
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    s->done_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    s->stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (s->epoll < 0 || s->done_fd < 0 || s->stop_fd < 0 || epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->stop_fd, &stop) != 0)
        FAIL_ERRNO(e, ERR_EXHAUSTED, NULL, "descriptors for handshakes");
    for (; s->n < threads; s->n++)
        TRY(thread_spawn(&s->threads[s->n], "handshakes", shake_main, s, e));
    return ok();
}

RESULT shake_new(unsigned threads, struct shake **ret, struct err *e)
{
    struct shake *s = calloc(1, sizeof *s);
    INVARIANT(s != NULL && threads <= SHAKE_THREADS_MAX);
    pthread_mutex_init(&s->lock, NULL);
    s->done_tail = &s->done;
    if (start(s, threads == 0 ? by_cpus() : threads, e).failed) {
        shake_free(s);
        return (struct result){1};
    }
    *ret = s;
    return ok();
}

void shake_free(struct shake *s)
{
    if (s == NULL)
        return;
    if (s->n > 0)
        ring(s->stop_fd);
    for (unsigned i = 0; i < s->n; i++)
        pthread_join(s->threads[i], NULL);
    const int fds[] = {s->epoll, s->done_fd, s->stop_fd};
    for (unsigned i = 0; i < 3; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

int shake_fd(const struct shake *s)
{
    return s->done_fd;
}

RESULT shake_give(struct shake *s, struct shake_job *j, struct err *e)
{
    if (hand_over(s, EPOLL_CTL_ADD, j) != 0)
        FAIL_ERRNO(e, ERR_EXHAUSTED, NULL, "epoll_ctl");
    return ok();
}

struct shake_job *shake_take(struct shake *s)
{
    uint64_t many;
    ssize_t n = read(s->done_fd, &many, sizeof many); /* before the list: what comes after it rings again */
    INVARIANT(n == sizeof many || errno == EAGAIN);
    pthread_mutex_lock(&s->lock);
    struct shake_job *j = s->done;
    s->done = NULL;
    s->done_tail = &s->done;
    pthread_mutex_unlock(&s->lock);
    return j;
}
