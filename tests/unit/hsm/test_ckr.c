/* Names and classes of CK_RV: recovery is built on them, so each class has its codes here, written out a second time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "hsm/ckr.h"

#include <stdio.h>
#include <string.h>

static const CK_RV stale_object[] = {CKR_OBJECT_HANDLE_INVALID, CKR_KEY_HANDLE_INVALID};
static const CK_RV stale_session[] = {CKR_SESSION_HANDLE_INVALID, CKR_SESSION_CLOSED, CKR_USER_NOT_LOGGED_IN, CKR_OPERATION_ACTIVE,
                                      CKR_OPERATION_NOT_INITIALIZED};
static const CK_RV device[] = {CKR_GENERAL_ERROR,       CKR_FUNCTION_FAILED,       CKR_HOST_MEMORY,     CKR_DEVICE_MEMORY,
                               CKR_DEVICE_ERROR,        CKR_DEVICE_REMOVED,        CKR_TOKEN_NOT_PRESENT, CKR_TOKEN_NOT_RECOGNIZED,
                               CKR_SLOT_ID_INVALID,     CKR_CRYPTOKI_NOT_INITIALIZED, CKR_SESSION_COUNT};
static const CK_RV pin[] = {CKR_PIN_INCORRECT, CKR_PIN_INVALID, CKR_PIN_LEN_RANGE, CKR_PIN_EXPIRED, CKR_PIN_LOCKED,
                            CKR_USER_PIN_NOT_INITIALIZED};
static const CK_RV other[] = {CKR_MECHANISM_INVALID, CKR_ATTRIBUTE_VALUE_INVALID, CKR_TEMPLATE_INCONSISTENT, CKR_BUFFER_TOO_SMALL,
                              CKR_SIGNATURE_INVALID, CKR_KEY_FUNCTION_NOT_PERMITTED, CKR_DATA_LEN_RANGE, CKR_FUNCTION_NOT_SUPPORTED,
                              CKR_TOKEN_WRITE_PROTECTED, CKR_USER_ALREADY_LOGGED_IN, CKR_VENDOR_DEFINED | 7, 0x7ffffff0};

static void class_is(const CK_RV *codes, size_t n, enum ckr_class class, enum err_code want, const char *reason)
{
    for (size_t i = 0; i < n; i++) {
        struct err e = {0};
        char text[64];
        assert_int_equal(ckr_class(codes[i]), class);
        assert_true(ckr_fail(codes[i], "C_Sign", &e).failed);
        assert_int_equal(e.code, want);
        assert_string_equal(e.reason, reason);
        (void)snprintf(text, sizeof text, "C_Sign: %s (0x%lx)", ckr_name(codes[i]), codes[i]);
        assert_string_equal(e.detail, text);
    }
}
#define CLASS_IS(codes, class, code, reason) class_is(codes, sizeof codes / sizeof codes[0], class, code, reason)

static void test_classes(void **state)
{
    (void)state;
    CLASS_IS(stale_object, CKR_CLASS_STALE_OBJECT, ERR_UNAVAILABLE, "HSM_UNAVAILABLE");
    CLASS_IS(stale_session, CKR_CLASS_STALE_SESSION, ERR_UNAVAILABLE, "HSM_UNAVAILABLE");
    CLASS_IS(device, CKR_CLASS_DEVICE, ERR_UNAVAILABLE, "HSM_UNAVAILABLE");
    CLASS_IS(pin, CKR_CLASS_PIN, ERR_STATE, "HSM_PIN");
    CLASS_IS(other, CKR_CLASS_OTHER, ERR_INTERNAL, "HSM_ERROR");
}

/* A failure that is none is a bug of the caller; it must not pass for success. */
static void test_ok_is_no_failure(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(ckr_class(CKR_OK), CKR_CLASS_FINE);
    assert_true(ckr_fail(CKR_OK, "C_Sign", &e).failed);
    assert_int_equal(e.code, ERR_INTERNAL);
}

/* Only what one of the lists above names may be retried, or be taken for a PIN: every other number below the vendors' range. */
static void test_nothing_else_has_a_class(void **state)
{
    (void)state;
    unsigned named = 0, classed = 0;
    for (CK_RV rv = 1; rv < 0x1000; rv++) {
        classed += ckr_class(rv) != CKR_CLASS_OTHER;
        named += strcmp(ckr_name(rv), "CKR_UNKNOWN") != 0;
    }
    assert_int_equal(classed, sizeof stale_object / sizeof *stale_object + sizeof stale_session / sizeof *stale_session +
                                  sizeof device / sizeof *device + sizeof pin / sizeof *pin);
    assert_int_equal(named, 93); /* all that p11-kit's header has, but CKR_OK */
}

/* Each name is the macro's own, and no two codes share one. */
static void test_names(void **state)
{
    (void)state;
    const char *seen[128];
    size_t n = 0;
    for (CK_RV rv = 0; rv < 0x1000; rv++) {
        const char *name = ckr_name(rv);
        if (strcmp(name, "CKR_UNKNOWN") == 0)
            continue;
        assert_memory_equal(name, "CKR_", 4);
        for (size_t i = 0; i < n; i++)
            assert_string_not_equal(name, seen[i]);
        seen[n++] = name;
    }
    assert_string_equal(ckr_name(0x30), "CKR_DEVICE_ERROR");
    assert_string_equal(ckr_name(0xa4), "CKR_PIN_LOCKED");
    assert_string_equal(ckr_name(CKR_VENDOR_DEFINED), "CKR_VENDOR_DEFINED");
    assert_string_equal(ckr_name(CKR_VENDOR_DEFINED + 5), "CKR_VENDOR_DEFINED");
    assert_string_equal(ckr_name(0x666), "CKR_UNKNOWN");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_ok_is_no_failure),
        cmocka_unit_test(test_nothing_else_has_a_class),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
