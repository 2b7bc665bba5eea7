#include "tests/unit/hsm/fixture.h"

#include <dirent.h>
#include <jansson.h>

static void refused(const char *uri, const char *reason)
{
    struct hsm_uri *u = NULL;
    REFUSED(ERR_INVALID, reason, hsm_uri_parse(uri, &u, &e));
    assert_null(u);
}

static void test_refusals_are_named(void **state)
{
    (void)state;
    char long_uri[HSM_URI_MAX + 32] = "pkcs11:token=";
    memset(long_uri + 13, 'a', HSM_URI_MAX);
    refused("", "HSM_URI_SYNTAX");
    refused("http:token=a", "HSM_URI_SYNTAX");
    refused("PKCS11:token=a", "HSM_URI_SYNTAX");
    refused("pkcs11:token=a b", "HSM_URI_SYNTAX");
    refused("pkcs11:token=a\n", "HSM_URI_SYNTAX");
    refused("pkcs11:token=a;", "HSM_URI_SYNTAX");
    refused("pkcs11:token=a;;serial=1", "HSM_URI_SYNTAX");
    refused("pkcs11:token", "HSM_URI_SYNTAX");
    refused("pkcs11:=a", "HSM_URI_SYNTAX");
    refused("pkcs11:token=%zz", "HSM_URI_SYNTAX");
    refused("pkcs11:token=a%00b", "HSM_URI_SYNTAX");
    refused("pkcs11:token=a;slot-id=1^2", "HSM_URI_SYNTAX");
    refused("pkcs11:token=a;x-vendor=1", "HSM_URI_UNKNOWN");
    refused("pkcs11:token=a?x-vendor=1", "HSM_URI_UNKNOWN");
    refused("pkcs11:token=a;pin-value=1", "HSM_URI_UNKNOWN");
    refused("pkcs11:token=a;token=b", "HSM_URI_REPEATED");
    refused("pkcs11:token=a?pin-value=1234", "HSM_URI_PIN");
    refused("pkcs11:token=a?pin-source=file:/x", "HSM_URI_PIN");
    refused("pkcs11:token=a?module-path=/x.so", "HSM_URI_MODULE");
    refused("pkcs11:token=a?module-name=x", "HSM_URI_MODULE");
    refused("pkcs11:token=a;library-description=x", "HSM_URI_LIBRARY");
    refused("pkcs11:token=a;object=x", "HSM_URI_OBJECT");
    refused("pkcs11:token=a;type=secret-key", "HSM_URI_OBJECT");
    refused("pkcs11:token=a;id=%01", "HSM_URI_OBJECT");
    refused("pkcs11:", "HSM_URI_NO_TOKEN");
    refused("pkcs11:token=", "HSM_URI_NO_TOKEN");
    refused("pkcs11:slot-id=3", "HSM_URI_NO_TOKEN");
    refused(long_uri, "HSM_URI_TOO_LONG");
    refused("pkcs11:token=a;model=a-value-that-is-too-long-for-its-field", "HSM_URI_TOO_LONG");
}

static void test_pin_value_is_not_shown(void **state)
{
    (void)state;
    struct hsm_uri *u = NULL;
    struct err e = {0};
    assert_true(hsm_uri_parse("pkcs11:token=a?pin-value=s3cret", &u, &e).failed);
    assert_null(strstr(e.detail, "s3cret"));
}

static void fill(CK_TOKEN_INFO *ti, const char *label, const char *serial)
{
    memset(ti, ' ', sizeof *ti);
    memcpy(ti->label, label, strlen(label));
    memcpy(ti->serialNumber, serial, strlen(serial));
}

static void test_matches(void **state)
{
    (void)state;
    struct hsm_uri *u = NULL;
    CK_SLOT_INFO si;
    CK_TOKEN_INFO ti;
    memset(&si, ' ', sizeof si);
    OK(hsm_uri_parse("pkcs11:token=my%20token;serial=42;slot-id=7", &u, &e));
    fill(&ti, "my token", "42");
    assert_true(hsm_uri_matches(u, 7, &si, &ti));
    assert_false(hsm_uri_matches(u, 8, &si, &ti));
    fill(&ti, "my token", "43");
    assert_false(hsm_uri_matches(u, 7, &si, &ti));
    fill(&ti, "my tokens", "42");
    assert_false(hsm_uri_matches(u, 7, &si, &ti));
    hsm_uri_free(u);
    hsm_uri_free(NULL);
}

static bool accepts(const char *uri)
{
    struct hsm_uri *u = NULL;
    struct err e = {0};
    if (hsm_uri_parse(uri, &u, &e).failed) {
        assert_int_equal(e.code, ERR_INVALID);
        assert_non_null(e.reason);
        return false;
    }
    hsm_uri_free(u);
    return true;
}

/* The large sets where they are, else the few in the tree; tests run in the root of the tree. */
static void vectors(char out[512], const char *large, const char *ours)
{
    const char *dir = getenv("VECTORS_DIR");
    (void)snprintf(out, 512, "%s/%s", dir != NULL ? dir : "../shared/vectors", large);
    if (access(out, R_OK) != 0)
        (void)snprintf(out, 512, "%s", ours);
}

/* p11-kit's own cases and the examples of the RFC: all but one name something that a token URI of ours may not. */
static void test_published_cases(void **state)
{
    (void)state;
    char path[512];
    vectors(path, "pkcs11-uri/uri-cases.json", "tests/vectors/uri-cases.json");
    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    json_t *c;
    size_t i, accepted = 0;
    json_array_foreach(json_object_get(root, "p11_kit"), i, c) {
        const char *uri = json_string_value(json_object_get(c, "uri"));
        bool taken = accepts(uri);
        accepted += taken;
        if (taken)
            assert_string_equal(json_string_value(json_object_get(c, "expect")), "P11_KIT_URI_OK");
        if (taken)
            assert_string_equal(uri, "pkcs11:token=Token%20Label;serial=3333;model=Deluxe;manufacturer=Me");
    }
    assert_int_equal(i, 47);
    assert_int_equal(accepted, 1);
    json_array_foreach(json_object_get(root, "rfc7512_valid"), i, c)
        assert_false(accepts(json_string_value(c)));
    assert_int_equal(i, 13);
    json_decref(root);
}

static void test_fuzz_corpus(void **state)
{
    (void)state;
    static char text[400000];
    char path[512];
    size_t files = 0;
    vectors(path, "pkcs11-uri/fuzz/uri.in", "tests/fuzz/corpus/uri");
    DIR *d = opendir(path);
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d)) != NULL;) {
        char name[1400];
        if (f->d_name[0] == '.')
            continue;
        (void)snprintf(name, sizeof name, "%s/%s", path, f->d_name);
        int fd = open(name, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        ssize_t n = read(fd, text, sizeof text - 1);
        assert_true(n >= 0);
        (void)close(fd);
        text[n] = '\0';
        (void)accepts(text);
        files++;
    }
    (void)closedir(d);
    if (strcmp(path, "tests/fuzz/corpus/uri") == 0)
        assert_true(files >= 6); /* fuzzing adds to it */
    else
        assert_int_equal(files, 14);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals_are_named), cmocka_unit_test(test_pin_value_is_not_shown),
        cmocka_unit_test(test_matches),            cmocka_unit_test(test_published_cases),
        cmocka_unit_test(test_fuzz_corpus),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
