#include "base/text.h"

#include "tests/unit/base/testing.h"

#include <time.h>

static void test_utf8(void **state)
{
    static const char *const good[] = {"", "abc", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
                                       "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xed\xbf\xbf",
                                      "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xc2", "\xe1\x80",
                                      "\xf1\x80\x80", "\xc2z", "a\xe1\x80z"};

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
        assert_true(text_is_utf8(bytes_str(good[i])));
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_false(text_is_utf8(bytes_str(bad[i])));
    assert_true(text_is_utf8(BYTES_LIT("a\0b")));
}

static void test_clean_utf8(void **state)
{
    (void)state;
    assert_true(text_is_clean_utf8(BYTES_LIT("z\xc3\xa9 \xf0\x9f\x94\x91")));
    assert_false(text_is_clean_utf8(BYTES_LIT("a\0b")));
    assert_false(text_is_clean_utf8(BYTES_LIT("a\nb")));
    assert_false(text_is_clean_utf8(BYTES_LIT("a\x7f")));
    assert_false(text_is_clean_utf8(BYTES_LIT("a\xc2\x85"))); /* C1: next line */
    assert_true(text_is_clean_utf8(BYTES_LIT("a\xc2\xa0")));
    assert_false(text_is_clean_utf8(BYTES_LIT("a\xff")));
}

static void test_u64(void **state)
{
    uint64_t v = 77;

    (void)state;
    assert_true(text_parse_u64(BYTES_LIT("0"), 10, &v) && v == 0);
    assert_true(text_parse_u64(BYTES_LIT("18446744073709551615"), UINT64_MAX, &v) && v == UINT64_MAX);
    v = 77;
    assert_false(text_parse_u64(BYTES_LIT("18446744073709551616"), UINT64_MAX, &v));
    assert_false(text_parse_u64(BYTES_LIT("99999999999999999999"), UINT64_MAX, &v));
    assert_false(text_parse_u64(BYTES_LIT("11"), 10, &v));
    static const char *const bad[] = {"", "00", "01", "-1", "+1", " 1", "1 ", "1x", "0x1", "1.0", "\xd9\xa1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_false(text_parse_u64(bytes_str(bad[i]), UINT64_MAX, &v));
    assert_true(v == 77); /* untouched */
}

static void test_i64(void **state)
{
    int64_t v = 5;

    (void)state;
    assert_true(text_parse_i64(BYTES_LIT("-9223372036854775808"), INT64_MIN, INT64_MAX, &v) && v == INT64_MIN);
    assert_true(text_parse_i64(BYTES_LIT("9223372036854775807"), INT64_MIN, INT64_MAX, &v) && v == INT64_MAX);
    v = 5;
    assert_false(text_parse_i64(BYTES_LIT("9223372036854775808"), INT64_MIN, INT64_MAX, &v));
    assert_false(text_parse_i64(BYTES_LIT("-9223372036854775809"), INT64_MIN, INT64_MAX, &v));
    assert_false(text_parse_i64(BYTES_LIT("-0"), INT64_MIN, INT64_MAX, &v));
    assert_false(text_parse_i64(BYTES_LIT("-"), INT64_MIN, INT64_MAX, &v));
    assert_false(text_parse_i64(BYTES_LIT("-6"), -5, 5, &v));
    assert_false(text_parse_i64(BYTES_LIT("6"), -5, 5, &v));
    assert_int_equal(v, 5);
}

static void test_bool_and_duration(void **state)
{
    uint64_t ms = 1;
    bool b = false;

    (void)state;
    assert_true(text_parse_bool(BYTES_LIT("true"), &b) && b);
    assert_true(text_parse_bool(BYTES_LIT("false"), &b) && !b);
    assert_false(text_parse_bool(BYTES_LIT("True"), &b) || text_parse_bool(BYTES_LIT("1"), &b));
    assert_true(text_parse_duration_ms(BYTES_LIT("250ms"), &ms) && ms == 250);
    assert_true(text_parse_duration_ms(BYTES_LIT("5s"), &ms) && ms == 5000);
    assert_true(text_parse_duration_ms(BYTES_LIT("10m"), &ms) && ms == 600000);
    assert_true(text_parse_duration_ms(BYTES_LIT("24h"), &ms) && ms == 86400000);
    assert_true(text_parse_duration_ms(BYTES_LIT("30d"), &ms) && ms == 2592000000);
    ms = 1;
    static const char *const bad[] = {"", "5", "s", "-5s", "5 s", "5S", "1h30m", "05s", "1.5s", "213503982335d"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_false(text_parse_duration_ms(bytes_str(bad[i]), &ms));
    assert_int_equal(ms, 1);
}

static const struct {
    int64_t ns;
    const char *text;
} times[] = {{0, "1970-01-01T00:00:00Z"},
             {1, "1970-01-01T00:00:00.000000001Z"},
             {-1, "1969-12-31T23:59:59.999999999Z"},
             {-1000000000, "1969-12-31T23:59:59Z"},
             {951782400000000000, "2000-02-29T00:00:00Z"},
             {1763640000120000000, "2025-11-20T12:00:00.12Z"},
             {1709251199999000000, "2024-02-29T23:59:59.999Z"},
             {-2208988800000000000, "1900-01-01T00:00:00Z"},
             {INT64_MAX, "2262-04-11T23:47:16.854775807Z"},
             {INT64_MIN, "1677-09-21T00:12:43.145224192Z"}};

static void test_rfc3339_both_ways(void **state)
{
    char text[TEXT_RFC3339_BYTES];
    int64_t ns;

    (void)state;
    for (size_t i = 0; i < sizeof(times) / sizeof(*times); i++) {
        text_format_rfc3339(times[i].ns, text);
        assert_string_equal(text, times[i].text);
        assert_true(text_parse_rfc3339(bytes_str(times[i].text), &ns));
        assert_true(ns == times[i].ns);
    }
    assert_true(text_parse_rfc3339(BYTES_LIT("2025-11-20T12:00:00.120Z"), &ns) && ns == 1763640000120000000);
}

/* Every day of 400 years against the C library. */
static void test_rfc3339_calendar(void **state)
{
    char text[TEXT_RFC3339_BYTES], want[TEXT_RFC3339_BYTES];

    (void)state;
    for (int64_t day = -106000; day < 106000; day += 13) {
        time_t t = (time_t)(day * 86400 + 3661);
        struct tm tm;
        int64_t back;
        assert_non_null(gmtime_r(&t, &tm));
        assert_true(strftime(want, sizeof(want), "%Y-%m-%dT%H:%M:%SZ", &tm) > 0);
        text_format_rfc3339((int64_t)t * 1000000000, text);
        assert_string_equal(text, want);
        assert_true(text_parse_rfc3339(bytes_str(text), &back) && back == (int64_t)t * 1000000000);
    }
}

static void test_rfc3339_refuses(void **state)
{
    static const char *const bad[] = {"", "2025-11-20", "2025-11-20T12:00:00", "2025-11-20T12:00:00+00:00", "2025-11-20t12:00:00z",
                                      "2025-11-20 12:00:00Z", "2025-02-29T00:00:00Z", "2025-13-01T00:00:00Z", "2025-00-01T00:00:00Z",
                                      "2025-01-00T00:00:00Z", "2025-04-31T00:00:00Z", "2025-01-01T24:00:00Z", "2025-01-01T00:60:00Z",
                                      "2025-01-01T00:00:60Z", "2025-01-01T00:00:00.Z", "2025-01-01T00:00:00.1234567890Z",
                                      "2025-01-01T00:00:00Zx", "1900-02-29T00:00:00Z", "2262-04-11T23:47:16.854775808Z",
                                      "9999-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "1677-09-21T00:12:43.145224191Z", "+025-01-01T00:00:00Z"};
    int64_t ns = 5;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_false(text_parse_rfc3339(bytes_str(bad[i]), &ns));
    assert_int_equal(ns, 5);
}

static void test_sets(void **state)
{
    (void)state;
    assert_true(text_in_set('a', "a-z0-9_-") && text_in_set('z', "a-z0-9_-") && text_in_set('-', "a-z0-9_-"));
    assert_true(text_in_set('_', "a-z0-9_-") && text_in_set('5', "a-z0-9_-"));
    assert_false(text_in_set('A', "a-z0-9_-") || text_in_set('.', "a-z0-9_-") || text_in_set(0, "a-z") || text_in_set(0xe9, "a-z"));
}

static void test_copies_whole_or_not_at_all(void **state)
{
    char out[4] = "xyz";

    (void)state;
    assert_true(text_copy(BYTES_LIT("abc"), out, sizeof out));
    assert_string_equal(out, "abc");
    assert_false(text_copy(BYTES_LIT("1234"), out, sizeof out)); /* no room for its NUL */
    assert_false(text_copy(BYTES(NULL, 0), out, 0));
    assert_string_equal(out, "abc");
    assert_true(text_copy(BYTES(NULL, 0), out, sizeof out));
    assert_string_equal(out, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_clean_utf8),
        cmocka_unit_test(test_u64),
        cmocka_unit_test(test_i64),
        cmocka_unit_test(test_bool_and_duration),
        cmocka_unit_test(test_rfc3339_both_ways),
        cmocka_unit_test(test_rfc3339_calendar),
        cmocka_unit_test(test_rfc3339_refuses),
        cmocka_unit_test(test_sets),
        cmocka_unit_test(test_copies_whole_or_not_at_all),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
