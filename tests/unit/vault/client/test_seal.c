#include "vault/client/local.h"

#include "tests/unit/vault/client/testing.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t raw_key[32] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26,
                                    27, 28, 29, 30, 31};
static struct secret *key, *other;

static int setup(void **state)
{
    (void)state;
    struct err e;
    uint8_t second[32] = {9};
    return secret_slab_init(8, &e).failed || secret_from(raw_key, 32, &key, &e).failed || secret_from(second, 32, &other, &e).failed;
}

static int teardown(void **state)
{
    (void)state;
    secret_free(key);
    secret_free(other);
    secret_slab_release();
    return 0;
}

static struct fake_rng counting(void)
{
    struct fake_rng r;
    fake_rng_init(&r, 1);
    return r;
}

static void salt_of_ones(const struct rng *r, void *out, size_t n)
{
    (void)r;
    memset(out, 1, n);
}

/* Computed apart from this code, from docs/CLIENT.md, by tests/unit/vault/client/vector.py. */
static void test_vector(void **state)
{
    (void)state;
    static const char want[] =
#include "tests/unit/vault/client/local_vector.inc"
        ;
    struct rng ones = {.fill = salt_of_ones};
    size_t n = local_size(7, 5);
    uint8_t out[256];
    char hex[513];
    assert_int_equal(n * 2, strlen(want));
    local_seal(key, BYTES_LIT("wrapped"), BYTES_LIT("aad1abc"), BYTES_LIT("hello"), &ones, out);
    hex_encode(out, n, hex);
    assert_string_equal(hex, want);
}

static void test_every_changed_byte_and_length_is_refused(void **state)
{
    (void)state;
    struct fake_rng r = counting();
    uint8_t m[256], back[16];
    size_t n = local_size(7, 5);
    struct local_parts p;
    struct claviger_error e;
    local_seal(key, BYTES_LIT("wrapped"), BYTES_LIT("aad1"), BYTES_LIT("hello"), &r.r, m);
    assert_false(local_parse(BYTES(m, n), &p, &e).failed);
    assert_false(local_open(key, &p, BYTES_LIT("aad1"), back, &e).failed);
    assert_memory_equal(back, "hello", 5);
    for (size_t i = 0; i < n; i++) {
        m[i] ^= 0x40;
        bool parsed = !local_parse(BYTES(m, n), &p, &e).failed;
        assert_true(!parsed || local_open(key, &p, BYTES_LIT("aad1"), back, &e).failed);
        assert_int_equal(e.code, CLAVIGER_INVALID_ARGUMENT);
        assert_string_equal(e.reason, "CIPHERTEXT");
        m[i] ^= 0x40;
    }
    for (size_t i = 0; i < n; i++) {
        bool parsed = !local_parse(BYTES(m, i), &p, &e).failed;
        assert_true(!parsed || local_open(key, &p, BYTES_LIT("aad1"), back, &e).failed);
        assert_string_equal(e.reason, "CIPHERTEXT");
    }
}

static void test_another_key_or_binding_is_refused(void **state)
{
    (void)state;
    struct fake_rng r = counting();
    uint8_t m[256], back[16] = {0};
    struct local_parts p;
    struct claviger_error e;
    local_seal(key, BYTES_LIT("w"), BYTES_LIT("aad1x"), BYTES_LIT("hello"), &r.r, m);
    assert_false(local_parse(BYTES(m, local_size(1, 5)), &p, &e).failed);
    assert_true(local_open(other, &p, BYTES_LIT("aad1x"), back, &e).failed);
    assert_true(local_open(key, &p, BYTES_LIT("aad1"), back, &e).failed);
    assert_true(local_open(key, &p, BYTES_LIT("aad1xx"), back, &e).failed);
    static const uint8_t zero[16];
    assert_memory_equal(back, zero, sizeof zero); /* nothing unverified is left */
}

static void test_empty_plaintext_and_fresh_salts(void **state)
{
    (void)state;
    uint8_t a[256], b[256];
    struct local_parts p;
    struct claviger_error e;
    local_seal(key, BYTES_LIT("w"), BYTES_LIT("aad1"), BYTES(NULL, 0), &rng_system, a);
    local_seal(key, BYTES_LIT("w"), BYTES_LIT("aad1"), BYTES(NULL, 0), &rng_system, b);
    assert_memory_not_equal(a, b, local_size(1, 0));
    assert_false(local_parse(BYTES(a, local_size(1, 0)), &p, &e).failed);
    assert_false(local_open(key, &p, BYTES_LIT("aad1"), b, &e).failed);
}

static void test_binding_is_canonical(void **state)
{
    (void)state;
    const struct claviger_pair p[] = {{"b", "2"}, {"a", "1"}}, q[] = {{"a", "1"}, {"b", "2"}};
    struct claviger_binding x = {.context = p, .context_len = 2}, y = {.context = q, .context_len = 2}, z = {.aad = "ctx", .aad_len = 3};
    struct claviger_error e;
    CLEANUP(buf_release) struct buf bx, by, bz, none;
    buf_init(&bx, 100);
    buf_init(&by, 100);
    buf_init(&bz, 100);
    buf_init(&none, 100);
    assert_false(local_aad(&x, &bx, &e).failed || local_aad(&y, &by, &e).failed || local_aad(&z, &bz, &e).failed ||
                 local_aad(NULL, &none, &e).failed);
    assert_true(bytes_equal(buf_bytes(&bx), buf_bytes(&by)));
    assert_true(bytes_equal(buf_bytes(&bx), BYTES_LIT("ctx1\0\2\0\1a\0\1" "1\0\1b\0\1" "2")));
    assert_true(bytes_equal(buf_bytes(&bz), BYTES_LIT("aad1ctx")));
    assert_true(bytes_equal(buf_bytes(&none), BYTES_LIT("aad1")));
    CLEANUP(buf_release) struct buf small;
    buf_init(&small, 8);
    assert_true(local_aad(&x, &small, &e).failed);
    assert_string_equal(e.reason, "BAD_BINDING");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vector),
        cmocka_unit_test(test_every_changed_byte_and_length_is_refused),
        cmocka_unit_test(test_another_key_or_binding_is_refused),
        cmocka_unit_test(test_empty_plaintext_and_fresh_salts),
        cmocka_unit_test(test_binding_is_canonical),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
