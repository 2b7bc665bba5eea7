#include "tests/unit/base/testing.h"

static RESULT step(int which, struct err *e)
{
    if (which == 1)
        FAIL(e, ERR_STATE, "KEY_DISABLED", "version %d is disabled", 7);
    if (which == 2)
        return err_field(e, "crypto_key_id", "must be 1 to 63 characters");
    if (which == 3) {
        errno = ENOENT;
        FAIL_ERRNO(e, ERR_NOT_FOUND, "FILE", "open %s", "x");
    }
    return ok();
}

static RESULT outer(int which, struct err *e)
{
    TRY(step(which, e));
    return ok();
}

static void test_success_leaves_err_untouched(void **state)
{
    struct err e = {.code = ERR_DENIED, .line = 99};

    (void)state;
    assert_int_equal(outer(0, &e).failed, 0);
    assert_int_equal(e.code, ERR_DENIED);
    assert_int_equal(e.line, 99);
}

static void test_failure_carries_code_reason_and_detail(void **state)
{
    struct err e;
    char text[256];

    (void)state;
    assert_err(outer(1, &e), &e, ERR_STATE, "KEY_DISABLED");
    assert_string_equal(e.detail, "version 7 is disabled");
    assert_null(e.field);
    assert_string_equal(err_public(&e, text, sizeof(text)), "the resource is not in the right state");
    assert_null(strstr(text, "version 7")); /* private */
    assert_non_null(strstr(err_log_text(&e, text, sizeof(text)), "ERR_STATE/KEY_DISABLED (version 7 is disabled) at "));
    assert_string_equal(err_operator(&e, text, sizeof(text)), "version 7 is disabled [ERR_STATE/KEY_DISABLED]");
}

static void test_field_is_public(void **state)
{
    struct err e;
    char text[256];

    (void)state;
    assert_err(outer(2, &e), &e, ERR_INVALID, NULL);
    assert_string_equal(err_public(&e, text, sizeof(text)),
                        "the request is not valid: crypto_key_id: must be 1 to 63 characters");
    assert_string_equal(err_operator(&e, text, sizeof(text)), "crypto_key_id: must be 1 to 63 characters [ERR_INVALID]");
}

static void test_errno_text(void **state)
{
    struct err e;

    (void)state;
    assert_err(outer(3, &e), &e, ERR_NOT_FOUND, "FILE");
    assert_string_equal(e.detail, "open x: No such file or directory");
}

static void test_long_detail_is_cut_visibly(void **state)
{
    char longer[600], small[8];
    struct err e;
    struct result r;

    (void)state;
    memset(longer, 'a', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    r = err_set(&e, ERR_INTERNAL, NULL, "f", 1, "%s", longer);
    assert_int_equal(r.failed, 1);
    assert_int_equal(strlen(e.detail), ERR_DETAIL_BYTES - 1);
    assert_string_equal(e.detail + ERR_DETAIL_BYTES - 4, "...");
    r = err_set_errno(&e, ERR_INTERNAL, NULL, EIO, "f", 1, "%.250s", longer);
    assert_int_equal(r.failed, 1);
    assert_string_equal(e.detail + ERR_DETAIL_BYTES - 4, "...");
    assert_int_equal(strlen(err_log_text(&e, small, sizeof(small))), 7);
}

static void test_every_code_has_name_and_phrase(void **state)
{
    (void)state;
    for (int c = ERR_NONE; c <= ERR_INTERNAL; c++) {
        assert_memory_equal(err_name((enum err_code)c), "ERR_", 4);
        assert_true(strlen(err_phrase((enum err_code)c)) > 1);
    }
    assert_string_equal(err_name((enum err_code)1000), "ERR_?");
    assert_string_equal(err_phrase((enum err_code)1000), "internal error");
}

static void test_a_caller_may_not_want_the_error(void **state)
{
    (void)state;
    assert_int_equal(outer(1, NULL).failed, 1);
    assert_int_equal(outer(2, NULL).failed, 1);
    assert_int_equal(outer(3, NULL).failed, 1);
}

static void break_invariant(void)
{
    INVARIANT(1 + 1 == 2);
    INVARIANT(1 + 1 == 3);
}

static void test_invariant_stops_the_process(void **state)
{
    (void)state;
    assert_invariant(break_invariant);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_success_leaves_err_untouched),
        cmocka_unit_test(test_failure_carries_code_reason_and_detail),
        cmocka_unit_test(test_field_is_public),
        cmocka_unit_test(test_errno_text),
        cmocka_unit_test(test_long_detail_is_cut_visibly),
        cmocka_unit_test(test_every_code_has_name_and_phrase),
        cmocka_unit_test(test_a_caller_may_not_want_the_error),
        cmocka_unit_test(test_invariant_stops_the_process),
    };
    return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
