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

static void certified(const char *text)
{
    OK(note_check_certificate(bytes_str(text), ORIGIN, &e));
    REFUSED(ERR_DENIED, "HSM_REFUSED", note_check_checkpoint(bytes_str(text), ORIGIN, &e)); /* nothing is both */
}

static void no_certificate(const char *text)
{
    REFUSED(ERR_DENIED, "HSM_REFUSED", note_check_certificate(bytes_str(text), ORIGIN, &e));
}

#define TENANT_HEAD "claviger.certificate/v1\n" ORIGIN "\nkind: tenant\n"
#define TENANT_FACTS                                                                                                        \
    "name: projects/acme\ninstance: 000102030405060708090a0b0c0d0e0f\ntenant: 101112131415161718191a1b1c1d1e1f\nkey-rings: 1\nkeys: 2\n" \
    "versions: 18446744073709551615\nprincipals: 4\ntoken-objects: 0\ncreated: 2026-11-20T12:00:00Z\nrequested: -\nrequested-by: -\n"    \
    "due: 2026-12-21T12:00:00.5Z\ndestroyed: 2026-12-21T12:00:01Z\nseal-epoch: 1\ncovers: much\nremains: little\n"

/* The text with one line taken out, doubled, or changed places with the next. */
static void every_line_counts(const char *text)
{
    static char other[HSM_MESSAGE_MAX];
    for (const char *line = text; *line != 0; line = strchr(line, '\n') + 1) {
        const char *end = strchr(line, '\n') + 1, *second = *end != 0 ? strchr(end, '\n') + 1 : end;
        (void)snprintf(other, sizeof other, "%.*s%s", (int)(line - text), text, end);
        no_certificate(other);
        (void)snprintf(other, sizeof other, "%.*s%s", (int)(end - text), text, line);
        no_certificate(other);
        (void)snprintf(other, sizeof other, "%.*s%.*s%.*s%s", (int)(line - text), text, (int)(second - end), end, (int)(end - line), line, second);
        if (*end != 0)
            no_certificate(other);
        (void)snprintf(other, sizeof other, "%.*s\n%s", (int)(line - text), text, line);
        no_certificate(other);
    }
}

static void test_certificates(void **state)
{
    (void)state;
    certified(CERTIFICATE);
    certified(TENANT_HEAD TENANT_FACTS);
    every_line_counts(CERTIFICATE);
    every_line_counts(TENANT_HEAD TENANT_FACTS);
    no_certificate("");
    no_certificate(ORIGIN "\n5\n" HASH "\n"); /* a checkpoint */
    no_certificate("claviger key check\nnonce 00\n");
    no_certificate("claviger.certificate/v2\n" ORIGIN "\nkind: version\n" CERTIFICATE_FACTS);
    no_certificate("claviger.certificate/v1\nclaviger/node2\nkind: version\n" CERTIFICATE_FACTS);
    no_certificate("claviger.certificate/v1\n" ORIGIN "\nkind: key\n" CERTIFICATE_FACTS);
    no_certificate(TENANT_HEAD CERTIFICATE_FACTS);
    no_certificate(CERTIFICATE_HEAD TENANT_FACTS);
    no_certificate(CERTIFICATE "more: facts\n");
    no_certificate(CERTIFICATE "\n\xe2\x80\x94 name sig\n"); /* a whole signed note is not a text */
    struct bytes cut = BYTES_LIT(CERTIFICATE);
    for (size_t n = 0; n < cut.n; n++)
        REFUSED(ERR_DENIED, "HSM_REFUSED", note_check_certificate(BYTES(cut.p, n), ORIGIN, &e));
}

/* One fact after the other with a value that is not of its type. */
static void test_facts(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {
        {"instance: 0001", "instance: 01"},       {"instance: 00", "instance: 0g"},        {"tenant: 10", "tenant: "},
        {"kvid: 20", "kvid: x0"},                 {"created: 2026-11-20T", "created: 2026-11-20 "}, {"due: 2026-12-21T12:00:00.5Z", "due: "},
        {"seal-epoch: 1", "seal-epoch: 01"},      {"seal-epoch: 1", "seal-epoch: -"},      {"requested-by: acme-keyadmin", "requested-by: "},
        {"covers: much", "covers: "},             {"covers: much", "covers:much"},         {"protection: SOFTWARE", "protection: SOFT\x07WARE"},
        {"requested-by: acme", "Requested-by: acme"}, {"name: projects", "name: \xff"},
    };
    static const char right[] = CERTIFICATE;
    static char text[HSM_MESSAGE_MAX];
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const char *at = strstr(right, wrong[i][0]);
        assert_non_null(at);
        (void)snprintf(text, sizeof text, "%.*s%s%s", (int)(at - right), right, wrong[i][1], at + strlen(wrong[i][0]));
        no_certificate(text);
    }
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_limits), cmocka_unit_test(test_certificates),
                                       cmocka_unit_test(test_facts), cmocka_unit_test(test_ckr_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
