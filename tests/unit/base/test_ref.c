#include "base/ref.h"

#include "tests/unit/base/testing.h"

#include <pthread.h>

enum { THREADS = 4, TIMES = 20000 };

struct thing {
    struct ref refs;
    int seen[THREADS]; /* each thread's own, written before it drops the last that it has */
    atomic_uint freed;
};
struct holder {
    struct thing *t;
    int i;
};

static void drop(struct thing *t)
{
    if (!ref_drop(&t->refs))
        return;
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(t->seen[i], i + 1);
    atomic_fetch_add(&t->freed, 1);
}

static void *hold(void *arg)
{
    struct holder *h = arg;
    for (int i = 0; i < TIMES; i++) {
        ref_take(&h->t->refs);
        drop(h->t);
    }
    h->t->seen[h->i] = h->i + 1;
    drop(h->t);
    return NULL;
}

static void test_the_last_one_frees(void **state)
{
    struct thing t = {0};
    struct holder h[THREADS];
    pthread_t th[THREADS];

    (void)state;
    ref_init(&t.refs);
    for (int i = 0; i < THREADS; i++) {
        h[i] = (struct holder){&t, i};
        ref_take(&t.refs);
        assert_int_equal(pthread_create(&th[i], NULL, hold, &h[i]), 0);
    }
    drop(&t);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(th[i], NULL), 0);
    assert_int_equal(atomic_load(&t.freed), 1);
}

static void body_take_of_nothing(void)
{
    struct ref r;
    ref_init(&r);
    (void)ref_drop(&r);
    ref_take(&r);
}

static void body_drop_twice(void)
{
    struct ref r;
    ref_init(&r);
    (void)ref_drop(&r);
    (void)ref_drop(&r);
}

static void body_too_many(void)
{
    struct ref r;
    atomic_init(&r.n, UINT_MAX / 2);
    ref_take(&r);
}

static void test_bugs_stop_the_process(void **state)
{
    (void)state;
    assert_invariant(body_take_of_nothing);
    assert_invariant(body_drop_twice);
    assert_invariant(body_too_many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_the_last_one_frees), cmocka_unit_test(test_bugs_stop_the_process)};
    return cmocka_run_group_tests_name("ref", tests, NULL, NULL);
}
