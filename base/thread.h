/*
 * Purpose: threads that take no signals, waits that a set clock cannot stretch, and the ticker: a thread that does a turn of work,
 *          rests until it is time for the next, and can be woken or stopped meanwhile.
 * Owns:    struct ticker: its lock, its condition and the thread that it started.
 * Threads: ticker_rest is the ticking thread's; wake, stopping and stop may be called by any; stop and release by one.
 * Errors:  ERR_EXHAUSTED THREADS: the system has no thread left.
 * Limits:  a name is cut to THREAD_NAME_BYTES - 1. Secrets: none.
 */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include "base/err.h"

#include <pthread.h>
#include <stdint.h>
#include <time.h>

enum { THREAD_NAME_BYTES = 16 };
/* Signals from outside belong to the main thread. Those of a fault stay: a system call that the filter refuses ends the process with
 * a log line and a status only in a thread that takes SIGSYS. */
RESULT thread_spawn(pthread_t *ret, const char *name, void *(*fn)(void *), void *arg, struct err *e);

/* For pthread_cond_timedwait: both go by CLOCK_MONOTONIC, which nobody can set. Less than 0 ms: now. */
void wait_cond_init(pthread_cond_t *c);
struct timespec wait_until(int64_t ms);

struct ticker {
    pthread_t thread;
    pthread_mutex_t lock; /* stop, woken */
    pthread_cond_t cond;
    bool running, stop, woken;
};
enum tick { TICK_TIME, TICK_WOKEN, TICK_STOP };

void ticker_init(struct ticker *t);
RESULT ticker_start(struct ticker *t, const char *name, void *(*fn)(void *), void *arg, struct err *e);
/* Until ms have passed, or somebody wakes it, which is forgotten then, or stops it, which is not. 0 ms asks only which it is. */
enum tick ticker_rest(struct ticker *t, int64_t ms);
void ticker_wake(struct ticker *t);
bool ticker_stopping(struct ticker *t);
void ticker_stop(struct ticker *t);    /* returns when the thread has ended; one that was never started only rests no more */
void ticker_release(struct ticker *t); /* after stop */

#endif
