#include "base/bytes.h"

#include "tests/unit/base/testing.h"

static void test_views(void **state)
{
    (void)state;
    assert_int_equal(bytes_str("abc").n, 3);
    assert_int_equal(bytes_str(NULL).n, 0);
    assert_true(bytes_equal(BYTES_LIT("ab"), bytes_str("ab")));
    assert_false(bytes_equal(BYTES_LIT("ab"), BYTES_LIT("abc")));
    assert_true(bytes_equal(BYTES(NULL, 0), BYTES_LIT("")));
    assert_true(bytes_compare(BYTES_LIT("ab"), BYTES_LIT("abc")) < 0);
    assert_true(bytes_compare(BYTES_LIT("b"), BYTES_LIT("abc")) > 0);
    assert_int_equal(bytes_compare(BYTES_LIT("b"), BYTES_LIT("b")), 0);
    assert_true(bytes_compare(BYTES_LIT("\xff"), BYTES_LIT("a")) > 0); /* unsigned */
    assert_true(bytes_ct_equal("abc", "abc", 3));
    for (size_t i = 0; i < 3; i++) {
        char other[] = "abc";
        other[i] ^= 1;
        assert_false(bytes_ct_equal("abc", other, 3));
    }
    assert_true(bytes_ct_equal("a", "b", 0));
}

static void test_buf_grows_to_its_max(void **state)
{
    CLEANUP(buf_release) struct buf b;

    (void)state;
    buf_init(&b, 1000);
    assert_string_equal(buf_cstr(&b), "");
    for (int i = 0; i < 1000; i++)
        buf_put_u8(&b, (uint8_t)('a' + i % 26));
    assert_false(b.overflow);
    assert_int_equal(b.n, 1000);
    assert_int_equal(strlen(buf_cstr(&b)), 1000);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(b.p[i], 'a' + i % 26);
    buf_put_u8(&b, 'x');
    assert_true(b.overflow);
    assert_int_equal(b.n, 1000);
    buf_reset(&b);
    assert_false(b.overflow);
    buf_put_str(&b, "again");
    assert_string_equal(buf_cstr(&b), "again");
}

static void test_buf_overflow_is_sticky_and_writes_nothing(void **state)
{
    CLEANUP(buf_release) struct buf b;
    uint8_t big[70000] = {0};

    (void)state;
    buf_init(&b, 8);
    buf_put_str(&b, "123456");
    buf_putf(&b, "%d", 123);
    assert_true(b.overflow);
    buf_put_u8(&b, 1); /* would fit, but a hole would be worse */
    assert_int_equal(b.n, 6);
    buf_release(&b);
    buf_init(&b, 100000);
    buf_put_v16(&b, BYTES(big, 65536));
    assert_true(b.overflow);
    assert_int_equal(b.n, 0);
    buf_reset(&b);
    buf_put_v16(&b, BYTES(big, 65535));
    assert_false(b.overflow);
    buf_reset(&b);
    buf_put(&b, big, SIZE_MAX);
    assert_true(b.overflow);
}

static void test_writer_and_reader_agree(void **state)
{
    CLEANUP(buf_release) struct buf b;
    uint8_t two[2];

    (void)state;
    buf_init(&b, 1000);
    buf_put_u8(&b, 0x12);
    buf_put_u16(&b, 0x3456);
    buf_put_u32(&b, 0x789abcde);
    buf_put_u64(&b, 0x0102030405060708);
    buf_put_v16(&b, BYTES_LIT("hi"));
    buf_put_v32(&b, BYTES_LIT("there"));
    buf_put(&b, "zz", 2);
    static const uint8_t start[] = {0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 1, 2, 3, 4, 5, 6, 7, 8, 0, 2, 'h'};
    assert_memory_equal(b.p, start, sizeof(start));
    struct reader r = reader_of(buf_bytes(&b));
    assert_int_equal(reader_u8(&r), 0x12);
    assert_int_equal(reader_u16(&r), 0x3456);
    assert_int_equal(reader_u32(&r), 0x789abcde);
    assert_true(reader_u64(&r) == 0x0102030405060708);
    assert_true(bytes_equal(reader_v16(&r), BYTES_LIT("hi")));
    assert_true(bytes_equal(reader_v32(&r), BYTES_LIT("there")));
    assert_false(reader_done(&r));
    reader_copy(&r, two, 2);
    assert_memory_equal(two, "zz", 2);
    assert_true(reader_done(&r));
}

static void test_every_cut_of_a_message_is_bad(void **state)
{
    CLEANUP(buf_release) struct buf b;

    (void)state;
    buf_init(&b, 100);
    buf_put_u32(&b, 7);
    buf_put_v16(&b, BYTES_LIT("hello"));
    for (size_t n = 0; n <= b.n; n++) {
        struct reader r = reader_of(BYTES(b.p, n));
        uint32_t v = reader_u32(&r);
        struct bytes s = reader_v16(&r);
        assert_int_equal(reader_done(&r), n == b.n);
        assert_int_equal(v, n < 4 ? 0 : 7);
        assert_int_equal(s.n, n == b.n ? 5 : 0);
    }
    struct reader r = reader_of(BYTES_LIT("\xff\xff\xff\xff" "abc")); /* a length far beyond */
    assert_int_equal(reader_v32(&r).n, 0);
    assert_true(r.bad);
    uint8_t out[3] = {9, 9, 9};
    reader_copy(&r, out, 3);
    assert_memory_equal(out, "\0\0\0", 3);
}

static void test_steal(void **state)
{
    struct buf b;
    size_t n;

    (void)state;
    buf_init(&b, 10);
    buf_put_str(&b, "abc");
    uint8_t *p = buf_steal(&b, &n);
    assert_int_equal(n, 3);
    assert_memory_equal(p, "abc", 3);
    assert_null(b.p);
    free(p);
    buf_put_str(&b, "still usable");
    assert_true(b.overflow);
    buf_release(&b);
    struct buf zero = {0};
    buf_release(&zero);
}

static void test_hex(void **state)
{
    char text[9];
    uint8_t out[4] = {0};

    (void)state;
    hex_encode("\x00\x7f\x80\xff", 4, text);
    assert_string_equal(text, "007f80ff");
    assert_true(hex_decode(BYTES_LIT("007F80fF"), out, 4));
    assert_memory_equal(out, "\x00\x7f\x80\xff", 4);
    memset(out, 1, sizeof(out));
    assert_false(hex_decode(BYTES_LIT("007f80f"), out, 4));
    assert_false(hex_decode(BYTES_LIT("007f80ff0"), out, 4));
    assert_false(hex_decode(BYTES_LIT("007f80fg"), out, 4));
    assert_false(hex_decode(BYTES_LIT(" 07f80ff"), out, 4));
    assert_memory_equal(out, "\x01\x01\x01\x01", 4); /* untouched */
}

static bool base64_round(const char *plain, const char *std, const char *url)
{
    CLEANUP(buf_release) struct buf b;
    bool good;

    buf_init(&b, 100);
    base64_encode(bytes_str(plain), false, &b);
    good = strcmp(buf_cstr(&b), std) == 0;
    buf_reset(&b);
    base64_encode(bytes_str(plain), true, &b);
    good = good && strcmp(buf_cstr(&b), url) == 0;
    buf_reset(&b);
    good = good && base64_decode(bytes_str(std), false, &b) && bytes_equal(buf_bytes(&b), bytes_str(plain));
    buf_reset(&b);
    return good && base64_decode(bytes_str(url), true, &b) && bytes_equal(buf_bytes(&b), bytes_str(plain));
}

static bool base64_refused(const char *text, bool url)
{
    CLEANUP(buf_release) struct buf b;

    buf_init(&b, 100);
    return !base64_decode(bytes_str(text), url, &b);
}

static void test_base64(void **state)
{
    (void)state; /* RFC 4648 section 10 */
    assert_true(base64_round("", "", ""));
    assert_true(base64_round("f", "Zg==", "Zg"));
    assert_true(base64_round("fo", "Zm8=", "Zm8"));
    assert_true(base64_round("foo", "Zm9v", "Zm9v"));
    assert_true(base64_round("foob", "Zm9vYg==", "Zm9vYg"));
    assert_true(base64_round("foobar", "Zm9vYmFy", "Zm9vYmFy"));
    assert_true(base64_round("\xfb\xff\xbf", "+/+/", "-_-_"));
}

static void test_base64_has_one_spelling(void **state)
{
    static const char *const bad_std[] = {"Zg", "Zg=", "Zg===", "Zh==", "Zm9=", "Z===", "====", "=", "Zm9v\n", "Zm 9", "-_-_",
                                          "Zg==Zg==", "Zm9v="};
    static const char *const bad_url[] = {"Zg==", "Zh", "Zm9", "Z", "+/+/", "Zm8="};

    (void)state;
    for (size_t i = 0; i < sizeof(bad_std) / sizeof(*bad_std); i++)
        assert_true(base64_refused(bad_std[i], false));
    for (size_t i = 0; i < sizeof(bad_url) / sizeof(*bad_url); i++)
        assert_true(base64_refused(bad_url[i], true));
}

static void test_crc32c_published_values(void **state)
{
    uint8_t b[32];

    (void)state; /* RFC 3720 appendix B.4 (shown there byte-swapped), and the usual check value */
    memset(b, 0, 32);
    assert_int_equal(crc32c(BYTES(b, 32)), 0x8a9136aa);
    memset(b, 0xff, 32);
    assert_int_equal(crc32c(BYTES(b, 32)), 0x62a8ab43);
    for (int i = 0; i < 32; i++)
        b[i] = (uint8_t)i;
    assert_int_equal(crc32c(BYTES(b, 32)), 0x46dd794e);
    for (int i = 0; i < 32; i++)
        b[i] = (uint8_t)(31 - i);
    assert_int_equal(crc32c(BYTES(b, 32)), 0x113fdb5c);
    static const uint8_t read10[48] = {0x01, 0xc0, [16] = 0x14, [22] = 0x04, [27] = 0x14, [31] = 0x18, [32] = 0x28, [40] = 0x02};
    assert_int_equal(crc32c(BYTES(read10, 48)), 0xd9963a56);
    assert_int_equal(crc32c(BYTES_LIT("123456789")), 0xe3069283);
    assert_int_equal(crc32c(BYTES(NULL, 0)), 0);
}

static void test_crc32c_both_bodies_and_all_splits_agree(void **state)
{
    uint8_t b[300];

    (void)state;
    for (size_t i = 0; i < sizeof(b); i++)
        b[i] = (uint8_t)(i * 31 + 7);
    for (size_t n = 0; n <= sizeof(b); n++) {
        uint32_t whole = crc32c(BYTES(b, n));
        assert_int_equal(whole, crc32c_extend_portable(0, BYTES(b, n)));
        assert_int_equal(whole, crc32c_extend(crc32c(BYTES(b, n / 3)), BYTES(b + n / 3, n - n / 3)));
    }
    uint32_t before = crc32c(BYTES(b, 300));
    for (size_t bit = 0; bit < 8 * 300; bit += 37) {
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_not_equal(crc32c(BYTES(b, 300)), before);
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void test_wipe(void **state)
{
    char secret[16] = "top secret";

    (void)state;
    wipe(secret, sizeof(secret));
    for (size_t i = 0; i < sizeof(secret); i++)
        assert_int_equal(secret[i], 0);
    wipe(NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_buf_grows_to_its_max),
        cmocka_unit_test(test_buf_overflow_is_sticky_and_writes_nothing),
        cmocka_unit_test(test_writer_and_reader_agree),
        cmocka_unit_test(test_every_cut_of_a_message_is_bad),
        cmocka_unit_test(test_steal),
        cmocka_unit_test(test_hex),
        cmocka_unit_test(test_base64),
        cmocka_unit_test(test_base64_has_one_spelling),
        cmocka_unit_test(test_crc32c_published_values),
        cmocka_unit_test(test_crc32c_both_bodies_and_all_splits_agree),
        cmocka_unit_test(test_wipe),
    };
    return cmocka_run_group_tests_name("bytes", tests, NULL, NULL);
}
