/* Deadlines here are hours where none may pass, and none where one must: nothing depends on how fast the machine is. */
#include "base/thread.h"

#include "tests/unit/base/testing.h"

#include <errno.h>

static bool no_threads;
int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg);

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg)
{
    return no_threads ? EAGAIN : __real_pthread_create(t, a, fn, arg);
}

enum { HOUR_MS = 3600000 };

static int64_t ms_of(struct timespec t)
{
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int64_t now_ms(void)
{
    struct timespec now;
    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    return ms_of(now);
}

/* ---- waits ---- */
static void test_deadline(void **state)
{
    static const int64_t spans[] = {1, 999, 1000, 1001, HOUR_MS, HOUR_MS + 999};

    (void)state;
    for (size_t i = 0; i < sizeof spans / sizeof spans[0]; i++)
        for (int again = 0; again < 3; again++) {
            int64_t before = now_ms();
            struct timespec t = wait_until(spans[i]);
            assert_true(t.tv_nsec >= 0 && t.tv_nsec < 1000000000);
            assert_true(ms_of(t) >= before + spans[i] && ms_of(t) <= now_ms() + spans[i]);
        }
    int64_t before = now_ms();
    int64_t now = ms_of(wait_until(-HOUR_MS));
    assert_true(now >= before && now <= now_ms());
}

static void test_cond(void **state)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t c;
    struct timespec until = wait_until(0);

    (void)state;
    wait_cond_init(&c);
    assert_int_equal(pthread_mutex_lock(&lock), 0);
    int rc = 0;
    while (rc == 0)
        rc = pthread_cond_timedwait(&c, &lock, &until);
    assert_int_equal(rc, ETIMEDOUT);
    until = wait_until(20);
    for (rc = 0; rc == 0;)
        rc = pthread_cond_timedwait(&c, &lock, &until);
    assert_int_equal(rc, ETIMEDOUT);
    assert_true(now_ms() >= ms_of(until)); /* a condition of the wall clock takes it for a time of 1970, and is over at once */
    assert_int_equal(pthread_mutex_unlock(&lock), 0);
    assert_int_equal(pthread_cond_destroy(&c), 0);
}

/* ---- threads ---- */
struct seen {
    sigset_t mask;
};

static void *look(void *arg)
{
    struct seen *s = arg;
    (void)pthread_sigmask(SIG_SETMASK, NULL, &s->mask);
    return s;
}

static void test_signals(void **state)
{
    static const int outside[] = {SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGUSR1, SIGALRM};
    static const int faults[] = {SIGSYS, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    struct seen s = {0};
    sigset_t mine, after;
    pthread_t t;
    struct err e;

    (void)state;
    assert_int_equal(pthread_sigmask(SIG_SETMASK, NULL, &mine), 0);
    assert_ok(thread_spawn(&t, "looks", look, &s, &e));
    assert_int_equal(pthread_join(t, NULL), 0);
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++)
        assert_int_equal(sigismember(&s.mask, outside[i]), 1);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        assert_int_equal(sigismember(&s.mask, faults[i]), 0);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
    for (int n = 1; n < SIGRTMIN; n++)
        assert_int_equal(sigismember(&mine, n), sigismember(&after, n));
}

static void test_no_thread(void **state)
{
    struct seen s = {0};
    struct ticker t;
    pthread_t thread;
    struct err e;

    (void)state;
    ticker_init(&t);
    no_threads = true;
    assert_err(thread_spawn(&thread, "looks", look, &s, &e), &e, ERR_EXHAUSTED, "THREADS");
    assert_err(ticker_start(&t, "looks", look, &s, &e), &e, ERR_EXHAUSTED, "THREADS");
    no_threads = false;
    assert_false(t.running);
    ticker_stop(&t); /* nobody to wait for */
    ticker_release(&t);
}

/* ---- the ticker ---- */
struct count {
    struct ticker t;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned turns, woken;
};

static void *turns(void *arg)
{
    struct count *c = arg;
    enum tick why;
    do {
        why = ticker_rest(&c->t, HOUR_MS);
        (void)pthread_mutex_lock(&c->lock);
        c->turns++;
        c->woken += why == TICK_WOKEN;
        (void)pthread_cond_signal(&c->changed);
        (void)pthread_mutex_unlock(&c->lock);
    } while (why != TICK_STOP);
    return NULL;
}

static void await_turns(struct count *c, unsigned n)
{
    struct timespec until = wait_until(60000);
    (void)pthread_mutex_lock(&c->lock);
    while (c->turns < n)
        assert_int_equal(pthread_cond_timedwait(&c->changed, &c->lock, &until), 0);
    (void)pthread_mutex_unlock(&c->lock);
}

static void test_woken_and_stopped(void **state)
{
    struct count c = {.lock = PTHREAD_MUTEX_INITIALIZER};
    char name[THREAD_NAME_BYTES];
    struct err e;

    (void)state;
    ticker_init(&c.t);
    wait_cond_init(&c.changed);
    assert_ok(ticker_start(&c.t, "a-name-that-is-too-long", turns, &c, &e));
    assert_int_equal(pthread_getname_np(c.t.thread, name, sizeof name), 0);
    assert_string_equal(name, "a-name-that-is-");
    for (unsigned i = 1; i <= 100; i++) { /* a wake that is lost is an hour */
        ticker_wake(&c.t);
        await_turns(&c, i);
    }
    assert_int_equal(c.woken, 100);
    assert_false(ticker_stopping(&c.t));
    ticker_stop(&c.t);
    assert_true(ticker_stopping(&c.t));
    assert_int_equal(c.turns, 101);
    assert_int_equal(c.woken, 100);
    ticker_stop(&c.t); /* again: nothing */
    ticker_release(&c.t);
    assert_int_equal(pthread_cond_destroy(&c.changed), 0);
}

/* Without a thread: what rest says, and in which order it looks. */
static void test_rest(void **state)
{
    struct ticker t;

    (void)state;
    ticker_init(&t);
    assert_int_equal(ticker_rest(&t, 0), TICK_TIME);
    assert_int_equal(ticker_rest(&t, -1), TICK_TIME);
    int64_t until = now_ms() + 20;
    assert_int_equal(ticker_rest(&t, 20), TICK_TIME);
    assert_true(now_ms() >= until);
    ticker_wake(&t);
    ticker_wake(&t);
    assert_int_equal(ticker_rest(&t, HOUR_MS), TICK_WOKEN);
    assert_int_equal(ticker_rest(&t, 0), TICK_TIME); /* it was forgotten, both of it */
    ticker_wake(&t);
    assert_int_equal(ticker_rest(&t, 0), TICK_WOKEN);
    ticker_wake(&t);
    ticker_stop(&t);
    assert_int_equal(ticker_rest(&t, HOUR_MS), TICK_STOP);
    assert_int_equal(ticker_rest(&t, HOUR_MS), TICK_STOP); /* and stays */
    ticker_release(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deadline), cmocka_unit_test(test_cond),              cmocka_unit_test(test_signals),
        cmocka_unit_test(test_no_thread), cmocka_unit_test(test_woken_and_stopped), cmocka_unit_test(test_rest),
    };
    return cmocka_run_group_tests_name("thread", tests, NULL, NULL);
}
