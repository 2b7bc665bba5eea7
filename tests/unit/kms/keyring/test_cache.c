/* The cache: counts, bounds, age, and the race between a load and a change. */
#include "kms/keyring/cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct item {
    struct cache_entry entry;
    char name[32];
};
static atomic_int alive;

static void item_release(struct cache_entry *e)
{
    atomic_fetch_sub(&alive, 1);
    free(e);
}

static struct item *item_new(const char *name)
{
    struct item *i = calloc(1, sizeof *i);
    snprintf(i->name, sizeof i->name, "%s", name);
    cache_entry_init(&i->entry, bytes_str(i->name), item_release);
    atomic_fetch_add(&alive, 1);
    return i;
}

static void put(struct cache *c, const char *name)
{
    struct item *i = item_new(name);
    cache_put(c, &i->entry, cache_generation(c, bytes_str(name)));
    cache_unref(&i->entry);
}

static void found_and_absent(void **state)
{
    (void)state;
    struct cache *c = cache_new(1024, 1000, &clock_system);
    put(c, "one");
    struct cache_entry *e = cache_get(c, bytes_str("one"));
    assert_non_null(e);
    assert_string_equal(((struct item *)e)->name, "one");
    assert_null(cache_get(c, bytes_str("two")));
    cache_remove(c, bytes_str("one"));
    assert_null(cache_get(c, bytes_str("one")));
    assert_int_equal(atomic_load(&alive), 1); /* removed, but held */
    cache_unref(e);
    assert_int_equal(atomic_load(&alive), 0);
    cache_free(c);
}

static void too_old_is_absent(void **state)
{
    (void)state;
    struct fake_clock f;
    fake_clock_init(&f, 0, 0);
    struct cache *c = cache_new(1024, 1000, &f.c);
    put(c, "one");
    fake_clock_advance(&f, 999 * 1000000ll);
    struct cache_entry *e = cache_get(c, bytes_str("one"));
    assert_non_null(e);
    cache_unref(e);
    fake_clock_advance(&f, 1 * 1000000ll); /* used a moment ago, and too old all the same: the age is absolute */
    assert_null(cache_get(c, bytes_str("one")));
    cache_free(c);
    assert_int_equal(atomic_load(&alive), 0);
}

static void wall_clock_steps_do_not_age(void **state)
{
    (void)state;
    struct fake_clock f;
    fake_clock_init(&f, 0, 0);
    struct cache *c = cache_new(1024, 1000, &f.c);
    put(c, "one");
    fake_clock_step_wall(&f, 3600ll * 1000000000);
    struct cache_entry *e = cache_get(c, bytes_str("one"));
    assert_non_null(e);
    cache_unref(e);
    cache_free(c);
}

static void a_stale_load_is_not_kept(void **state)
{
    (void)state;
    struct cache *c = cache_new(1024, 1000, &clock_system);
    uint64_t before = cache_generation(c, bytes_str("one"));
    struct item *loaded = item_new("one");  /* read from the store ... */
    cache_remove(c, bytes_str("one"));      /* ... and changed meanwhile */
    cache_put(c, &loaded->entry, before);
    assert_null(cache_get(c, bytes_str("one")));
    cache_put(c, &loaded->entry, cache_generation(c, bytes_str("one")));
    struct cache_entry *e = cache_get(c, bytes_str("one"));
    assert_non_null(e);
    cache_unref(e);
    cache_unref(&loaded->entry);
    cache_free(c);
    assert_int_equal(atomic_load(&alive), 0);
}

static void bounded(void **state)
{
    (void)state;
    struct cache *c = cache_new(128, 1000000, &clock_system);
    for (int i = 0; i < 10000; i++) {
        char name[32];
        snprintf(name, sizeof name, "key-%d", i);
        put(c, name);
    }
    assert_true(cache_count(c) <= 128);
    assert_true(cache_count(c) > 0);
    assert_int_equal(atomic_load(&alive), (int)cache_count(c));
    cache_free(c);
    assert_int_equal(atomic_load(&alive), 0);
}

static void *churn(void *arg)
{
    struct cache *c = arg;
    for (int i = 0; i < 20000; i++) {
        char name[32];
        snprintf(name, sizeof name, "key-%d", i % 97);
        struct cache_entry *e = cache_get(c, bytes_str(name));
        if (e != NULL)
            assert_string_equal(((struct item *)e)->name, name);
        else
            put(c, name);
        cache_unref(e);
        if (i % 13 == 0)
            cache_remove(c, bytes_str(name));
    }
    return NULL;
}

static void threads(void **state)
{
    (void)state;
    struct cache *c = cache_new(64, 1000000, &clock_system);
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, churn, c), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    cache_free(c);
    assert_int_equal(atomic_load(&alive), 0);
}

static bool begins(const struct cache_entry *e, void *prefix)
{
    return e->key_n >= strlen(prefix) && memcmp(e->key, prefix, strlen(prefix)) == 0;
}

/* All that match and nothing else, wherever they lie; what is held lives on, and what is being loaded does not come back stale. */
static void all_that_match(void **state)
{
    (void)state;
    struct cache *c = cache_new(4096, 1000000, &clock_system);
    char name[32];
    for (int i = 0; i < 500; i++) {
        snprintf(name, sizeof name, "%s/%d", i % 2 ? "acme" : "globex", i);
        put(c, name);
    }
    struct cache_entry *held = cache_get(c, bytes_str("acme/1"));
    struct item *loading = item_new("acme/loading");
    const uint64_t generation = cache_generation(c, bytes_str("acme/loading"));
    cache_remove_matching(c, begins, (void *)(uintptr_t)"acme/");
    cache_put(c, &loading->entry, generation);
    assert_int_equal(cache_count(c), 250);
    assert_null(cache_get(c, bytes_str("acme/1")));
    assert_null(cache_get(c, bytes_str("acme/loading")));
    for (int i = 0; i < 500; i += 2) {
        snprintf(name, sizeof name, "globex/%d", i);
        struct cache_entry *e = cache_get(c, bytes_str(name));
        assert_non_null(e);
        cache_unref(e);
    }
    cache_unref(held);
    cache_unref(&loading->entry);
    cache_free(c);
    assert_int_equal(atomic_load(&alive), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(found_and_absent), cmocka_unit_test(too_old_is_absent), cmocka_unit_test(wall_clock_steps_do_not_age),
        cmocka_unit_test(a_stale_load_is_not_kept), cmocka_unit_test(bounded), cmocka_unit_test(threads),
        cmocka_unit_test(all_that_match),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
