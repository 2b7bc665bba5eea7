/* The slow lane with one owner who would take it all: the others are served in turn, and have threads and room left. */
#include "vault/service/lanes.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { JOBS = 64 };
struct gate { /* jobs run into it and wait until it is opened */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool open;
    unsigned inside, order[JOBS], ran;
};
struct job {
    struct lane_job job;
    struct gate *g;
    unsigned number;
    bool waits;
};

static void run(struct lane_job *j)
{
    struct job *job = (struct job *)j;
    struct gate *g = job->g;
    pthread_mutex_lock(&g->lock);
    g->inside++;
    pthread_cond_broadcast(&g->cond);
    while (job->waits && !g->open)
        pthread_cond_wait(&g->cond, &g->lock);
    g->order[g->ran++] = job->number;
    pthread_cond_broadcast(&g->cond);
    pthread_mutex_unlock(&g->lock);
}

static void gate_init(struct gate *g)
{
    *g = (struct gate){.open = false};
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->cond, NULL);
}

static void await(struct gate *g, const unsigned *what, unsigned n)
{
    pthread_mutex_lock(&g->lock);
    while (*what < n) /* the program's own time limit ends a test that hangs */
        pthread_cond_wait(&g->cond, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void gate_open(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->open = true;
    pthread_cond_broadcast(&g->cond);
    pthread_mutex_unlock(&g->lock);
}

/* Whoever does not share the place of one whose half of the queue is full. */
static void submit_as_another(struct lanes *l, struct job *j)
{
    static const char *const names[] = {"b", "c", "d", "e", "f", "g"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (lanes_submit(l, bytes_str(names[i]), &j->job))
            return;
    fail_msg("seven names of one place among %d", LANE_OWNERS);
}

static void one_owner_takes_neither_all_threads_nor_all_room(void **state)
{
    struct gate g;
    struct job flood[JOBS] = {0}, one = {0};
    unsigned taken = 0;
    (void)state;
    gate_init(&g);
    struct lanes *l = lanes_new(4, 16);
    const struct bytes a = BYTES_LIT("a");
    for (unsigned i = 0; i < 3; i++) { /* as many as may run at a time */
        flood[taken] = (struct job){.job.run = run, .g = &g, .number = taken, .waits = true};
        assert_true(lanes_submit(l, a, &flood[taken].job));
        taken++;
    }
    await(&g, &g.inside, 3);
    for (;; taken++) { /* and as many as may wait */
        flood[taken] = (struct job){.job.run = run, .g = &g, .number = taken, .waits = true};
        if (!lanes_submit(l, a, &flood[taken].job))
            break;
        assert_true(taken < JOBS - 1);
    }
    assert_int_equal(taken, 3 + 8);
    one = (struct job){.job.run = run, .g = &g, .number = 99};
    submit_as_another(l, &one);
    await(&g, &g.ran, 1); /* while all of the first one's still wait */
    assert_int_equal(g.order[0], 99);
    assert_int_equal(g.inside, 4);
    gate_open(&g);
    lanes_free(l); /* what is queued is run */
    assert_int_equal(g.ran, taken + 1);
}

static void in_turn(void **state)
{
    struct gate g;
    struct job all[6] = {0};
    (void)state;
    gate_init(&g);
    struct lanes *l = lanes_new(1, 100);
    for (unsigned i = 0; i < 5; i++)
        all[i] = (struct job){.job.run = run, .g = &g, .number = i, .waits = i == 0};
    assert_true(lanes_submit(l, BYTES_LIT("a"), &all[0].job));
    await(&g, &g.inside, 1);
    for (unsigned i = 1; i < 4; i++)
        assert_true(lanes_submit(l, BYTES_LIT("a"), &all[i].job));
    assert_true(lanes_submit(l, BYTES_LIT("somebody else"), &all[4].job));
    gate_open(&g);
    lanes_free(l);
    assert_int_equal(g.ran, 5);
    unsigned at = 0;
    while (g.order[at] != 4)
        at++;
    assert_in_range(at, 1, 4); /* not behind them all, unless the two share a place */
    if (at < 4)
        assert_in_range(at, 1, 2);
    unsigned last = 0; /* one owner's own stay in order */
    for (unsigned i = 0; i < 5; i++)
        if (g.order[i] != 4) {
            assert_true(g.order[i] >= last);
            last = g.order[i];
        }
}

static void small_ones(void **state)
{
    (void)state;
    for (unsigned threads = 1; threads <= 3; threads++) { /* too few to keep one back */
        struct gate g;
        struct job jobs[3] = {0};
        gate_init(&g);
        struct lanes *l = lanes_new(threads, 4);
        for (unsigned i = 0; i < threads; i++) {
            jobs[i] = (struct job){.job.run = run, .g = &g, .number = i, .waits = true};
            assert_true(lanes_submit(l, BYTES_LIT("a"), &jobs[i].job));
            await(&g, &g.inside, i + 1);
        }
        gate_open(&g);
        lanes_free(l);
        assert_int_equal(g.ran, threads);
    }
    struct gate g;
    struct job last = {.job.run = run, .g = &g};
    gate_init(&g);
    struct lanes *l = lanes_new(1, 1);
    assert_true(lanes_submit(l, BYTES_LIT("a"), &last.job)); /* a queue of one is nobody's alone */
    lanes_free(l);
    assert_int_equal(g.ran, 1);
    lanes_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_owner_takes_neither_all_threads_nor_all_room),
        cmocka_unit_test(in_turn),
        cmocka_unit_test(small_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
