#include "tests/unit/hsm/fixture.h"

#include "hsm/note.h"

#define HASH "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="

static void good(const char *body)
{
    OK(note_check_checkpoint(bytes_str(body), ORIGIN, &e));
}

static void bad(const char *body)
{
    REFUSED(ERR_DENIED, "HSM_REFUSED", note_check_checkpoint(bytes_str(body), ORIGIN, &e));
}

static void test_shapes(void **state)
{
    (void)state;
    good(ORIGIN "\n0\n" HASH "\n");
    good(ORIGIN "\n18446744073709551615\n" HASH "\n");
    good(ORIGIN "\n5\n" HASH "\nextension one\nextension two\n");
    bad("");
    bad(ORIGIN);
    bad(ORIGIN "\n");
    bad("claviger/node2\n5\n" HASH "\n");
    bad(ORIGIN " \n5\n" HASH "\n");
    bad("\n5\n" HASH "\n");
    bad(ORIGIN "\n05\n" HASH "\n");
    bad(ORIGIN "\n-1\n" HASH "\n");
    bad(ORIGIN "\n18446744073709551616\n" HASH "\n");
    bad(ORIGIN "\n5\n" HASH);
    bad(ORIGIN "\n5\nAAAA\n");
    bad(ORIGIN "\n5\n" HASH HASH "\n");
    bad(ORIGIN "\n5\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=\n"); /* trailing bits */
    bad(ORIGIN "\n5\n" HASH "\n\n");
    bad(ORIGIN "\n5\n" HASH "\n\n\xe2\x80\x94 name sig\n"); /* a whole signed note is not a body */
    bad(ORIGIN "\n5\n" HASH "\next");
    bad(ORIGIN "\n5\n" HASH "\nbell\x07\n");
    bad(ORIGIN "\n5\n" HASH "\nbad utf8 \xff\n");
    bad(ORIGIN "\r\n5\n" HASH "\n");
}

static void test_limits(void **state)
{
    (void)state;
    static char body[HSM_MESSAGE_MAX + 2];
    size_t n = (size_t)snprintf(body, sizeof body, ORIGIN "\n5\n" HASH "\n");
    memset(body + n, 'x', sizeof body - n);
    body[HSM_MESSAGE_MAX - 1] = '\n';
    OK(note_check_checkpoint(BYTES(body, HSM_MESSAGE_MAX), ORIGIN, &e));
    body[HSM_MESSAGE_MAX - 1] = 'x';
    body[HSM_MESSAGE_MAX] = '\n';
    REFUSED(ERR_DENIED, "HSM_REFUSED", note_check_checkpoint(BYTES(body, HSM_MESSAGE_MAX + 1), ORIGIN, &e));
    REFUSED(ERR_DENIED, "HSM_REFUSED", note_check_checkpoint(BYTES(ORIGIN "\n5\0\n" HASH "\n", 18 + sizeof HASH), ORIGIN, &e));
}

static void test_ckr_names(void **state)
{
    (void)state;
    assert_string_equal(ckr_name(CKR_OK), "CKR_OK");
    assert_string_equal(ckr_name(CKR_PIN_INCORRECT), "CKR_PIN_INCORRECT");
    assert_string_equal(ckr_name(CKR_DEVICE_ERROR), "CKR_DEVICE_ERROR");
    assert_string_equal(ckr_name(0x80000001UL), "CKR_VENDOR_DEFINED");
    assert_string_equal(ckr_name(0x7fffffffUL), "CKR_UNKNOWN");
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", ckr_fail(CKR_TOKEN_NOT_PRESENT, "C_Sign", &e));
    REFUSED(ERR_STATE, "HSM_PIN", ckr_fail(CKR_PIN_LOCKED, "C_Login", &e));
    REFUSED(ERR_INTERNAL, "HSM_ERROR", ckr_fail(CKR_KEY_TYPE_INCONSISTENT, "C_Sign", &e));
    struct err e = {0};
    assert_true(ckr_fail(CKR_DEVICE_REMOVED, "C_Sign", &e).failed);
    assert_string_equal(e.detail, "C_Sign: CKR_DEVICE_REMOVED (0x32)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_limits),
                                       cmocka_unit_test(test_ckr_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
