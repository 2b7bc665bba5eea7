#include "vault/client/cache.h"

#include "tests/unit/vault/client/testing.h"

#include <string.h>

static struct fake_clock clock_;

static int setup(void **state)
{
    (void)state;
    struct err e;
    fake_clock_init(&clock_, 0, 0);
    return secret_slab_init(16, &e).failed;
}

static int teardown(void **state)
{
    (void)state;
    secret_slab_release(); /* stops the process when a secret is still there */
    return 0;
}

static struct secret *make_key(uint8_t n)
{
    struct secret *s = NULL;
    struct err e;
    uint8_t raw[32] = {n};
    assert_false(secret_from(raw, sizeof raw, &s, &e).failed);
    return s;
}

static struct cache *make_cache(size_t keys, uint64_t age_ms, uint64_t uses)
{
    return cache_new(&(struct cache_limits){keys, age_ms, uses}, &clock_.c);
}

static void put(struct cache *c, const char *name, const char *wrapped, bool for_encrypt)
{
    const struct data_key *k = cache_put(c, name, bytes_str(wrapped), make_key((uint8_t)wrapped[0]), for_encrypt);
    assert_int_equal(secret_borrow(k->key)[0], (uint8_t)wrapped[0]);
    cache_give_back(c, k);
}

static bool has(struct cache *c, const char *name, const char *wrapped)
{
    const struct data_key *k = wrapped ? cache_to_decrypt(c, name, bytes_str(wrapped)) : cache_to_encrypt(c, name);
    cache_give_back(c, k);
    return k != NULL;
}

static void test_found_by_name_or_wrapped_form(void **state)
{
    (void)state;
    struct cache *c = make_cache(4, 1000, 100);
    put(c, "a", "W", true);
    assert_true(has(c, "a", NULL));
    assert_true(has(c, "a", "W"));
    assert_false(has(c, "b", NULL));
    assert_false(has(c, "b", "W")); /* another key's data key is asked for again, and refused by the server */
    assert_false(has(c, "a", "X"));
    put(c, "d", "D", false);
    assert_true(has(c, "d", "D"));
    assert_false(has(c, "d", NULL)); /* unwrapped to decrypt: never used to encrypt */
    cache_free(c);
}

static void test_uses_are_counted(void **state)
{
    (void)state;
    struct cache *c = make_cache(4, 1000, 3);
    put(c, "a", "W", true); /* the first use */
    assert_true(has(c, "a", NULL));
    assert_true(has(c, "a", NULL));
    assert_false(has(c, "a", NULL));
    assert_true(has(c, "a", "W")); /* decrypting costs nothing */
    cache_free(c);
}

static void test_age_is_absolute(void **state)
{
    (void)state;
    struct cache *c = make_cache(4, 1000, 100);
    put(c, "a", "W", true);
    for (int i = 0; i < 9; i++) {
        fake_clock_advance(&clock_, 100 * 1000000);
        assert_true(has(c, "a", "W")); /* being used does not make it younger */
    }
    put(c, "b", "V", true);
    fake_clock_advance(&clock_, 100 * 1000000);
    assert_true(has(c, "b", NULL));
    struct claviger_cache_stats s;
    cache_read_stats(c, &s);
    assert_int_equal(s.keys, 1); /* a is gone although nobody asked for it */
    assert_int_equal(secret_stats().used, 1);
    assert_false(has(c, "a", "W"));
    cache_free(c);
}

static void test_bounded_and_oldest_use_first(void **state)
{
    (void)state;
    struct cache *c = make_cache(2, 1000, 100);
    put(c, "a", "A", true);
    put(c, "b", "B", true);
    assert_true(has(c, "a", NULL));
    put(c, "c", "C", true);
    assert_true(has(c, "a", NULL));
    assert_false(has(c, "b", NULL));
    assert_int_equal(secret_stats().used, 2);
    cache_clear(c);
    assert_int_equal(secret_stats().used, 0);
    cache_free(c);
}

static void test_a_borrowed_key_outlives_its_entry(void **state)
{
    (void)state;
    struct cache *c = make_cache(2, 1000, 100);
    put(c, "a", "A", true);
    const struct data_key *k = cache_to_encrypt(c, "a");
    cache_clear(c);
    assert_false(has(c, "a", NULL));
    assert_int_equal(secret_borrow(k->key)[0], 'A');
    cache_give_back(c, k);
    assert_int_equal(secret_stats().used, 0);
    cache_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_found_by_name_or_wrapped_form), cmocka_unit_test(test_uses_are_counted),
        cmocka_unit_test(test_age_is_absolute),               cmocka_unit_test(test_bounded_and_oldest_use_first),
        cmocka_unit_test(test_a_borrowed_key_outlives_its_entry),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
