/*
 * Purpose: TLS handshakes on threads of their own, at low priority: half a millisecond of CPU for a stranger must not stand
 *          between two calls of those in service.
 * Owns:    its threads and what they wait on. A job, its tls and the socket's turn are the pool's from shake_give until
 *          shake_take returns it; meanwhile its owner may do nothing but shutdown(2) the socket, which brings it back soon.
 * Threads: give and take are for one thread. A tls is never with two threads at once: epoll's EPOLLONESHOT hands it to one.
 * Errors:  ERR_EXHAUSTED. What befalls a handshake is its job's outcome.
 * Limits:  SHAKE_THREADS_MAX.
 * Secrets: the handshake's keys, inside OpenSSL.
 */
#ifndef FRONT_SHAKE_H
#define FRONT_SHAKE_H

#include "vault/front/tls.h"

#include <stdatomic.h>

enum {
    SHAKE_THREADS_MAX = 4,
    SHAKE_CPUS_PER_THREAD = 4, /* a quarter of the machine, and one thread at least */
    SHAKE_NICE = 10,           /* to go on, if slowly, where those in service use all there is */
};

struct shake_job {
    struct shake_job *next;
    struct tls *tls;
    enum tls_io outcome; /* TLS_OK, or TLS_BROKEN with tls->why */
    atomic_uint handed;  /* what epoll orders anyway, where a sanitizer can see it */
};

struct shake;
RESULT shake_new(unsigned threads /* 0: by the number of CPUs */, struct shake **ret, struct err *e);
void shake_free(struct shake *s); /* joins the threads; jobs inside are their owners' again. NULL accepted */
int shake_fd(const struct shake *s); /* readable while shake_take has something */
/* tls_open has succeeded. Once it is back, the socket is watched by nobody. */
RESULT shake_give(struct shake *s, struct shake_job *j, struct err *e);
struct shake_job *shake_take(struct shake *s); /* those that are done, by next; NULL: none */

#endif
