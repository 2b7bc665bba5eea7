#include "base/config.h"

#include "tests/unit/base/testing.h"

#include <sys/stat.h>

#define REQUIRED                                                                                                       \
    "state_dir = state\nrun_dir = /run/clv\nlocations = eu\ntrust_domain = example.org\ntls_cert_file = c\n"            \
    "tls_key_file = k\nclient_ca_file = ca\nhsm_token = pkcs11:token=t\nhsm_pin_file = pin\n"

static void parse_fails(const char *text, const char *reason, const char *detail)
{
    struct config *c = NULL;
    struct err e;

    assert_err(config_parse(bytes_str(text), "/base", "x.conf", &c, &e), &e, ERR_INVALID, reason);
    assert_null(c);
    if (strstr(e.detail, detail) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", detail, e.detail);
}

static void test_defaults_and_paths(void **state)
{
    CLEANUP(config_freep) struct config *c = NULL;
    struct err e;

    (void)state;
    assert_ok(config_parse(BYTES_LIT("# a comment\n\n  \t \n" REQUIRED "  listen=[::1]:0  \ndrain_timeout = 1m"), "/base",
                           "x.conf", &c, &e));
    assert_string_equal(c->listen, "[::1]:0");
    assert_string_equal(c->state_dir, "/base/state"); /* relative to the file */
    assert_string_equal(c->run_dir, "/run/clv");
    assert_string_equal(c->journal_dir, ""); /* empty stays empty */
    assert_string_equal(c->hsm_module, "/usr/lib/softhsm/libsofthsm2.so");
    assert_int_equal(c->drain_timeout, 60000);
    assert_int_equal(c->hsm_timeout, 2000);
    assert_int_equal(c->max_connections, 4096);
    assert_true(c->reflection);
}

static void test_errors_name_the_line(void **state)
{
    (void)state;
    parse_fails(REQUIRED "colour = red\n", "CONFIG_UNKNOWN_KEY", "x.conf:10: unknown key \"colour\"");
    parse_fails(REQUIRED "listen = a:1\nlisten = b:2\n", "CONFIG_REPEATED_KEY", "x.conf:11: listen was already given in line 10");
    parse_fails(REQUIRED "listen\n", "CONFIG_SYNTAX", "x.conf:10: expected key = value");
    parse_fails(REQUIRED "listen = a:1 # port\n", "CONFIG_SYNTAX", "x.conf:10: a comment must stand");
    parse_fails(REQUIRED "listen = a:1\r\n", "CONFIG_SYNTAX", "x.conf:10: control characters");
    parse_fails(REQUIRED "max_connections = 0\n", "CONFIG_VALUE", "x.conf:10: max_connections must be a number from 1 to 100000");
    parse_fails(REQUIRED "max_connections = 100001\n", "CONFIG_VALUE", "max_connections");
    parse_fails(REQUIRED "max_connections = -1\n", "CONFIG_VALUE", "max_connections");
    parse_fails(REQUIRED "drain_timeout = 5\n", "CONFIG_VALUE", "drain_timeout must be a duration");
    parse_fails(REQUIRED "drain_timeout = 11m\n", "CONFIG_VALUE", "drain_timeout");
    parse_fails(REQUIRED "reflection = yes\n", "CONFIG_VALUE", "true or false");
    parse_fails(REQUIRED "node_name =\n", "CONFIG_VALUE", "node_name must have 1 to 63");
    parse_fails(REQUIRED "log_level = loud\n", "CONFIG_VALUE", "log_level must be");
    parse_fails(REQUIRED "seal_period = 23h\n", "CONFIG_VALUE", "seal_period must be 1d to 30d");
    parse_fails(REQUIRED "seal_period = 1d\nbackup_retention = 61d\n", "CONFIG_VALUE", "backup_retention must be less than 61 times seal_period");
    parse_fails("listen = a:1\n", "CONFIG_MISSING_KEY", "x.conf: state_dir must be set");
}

static void test_a_pin_in_the_uri_is_refused(void **state)
{
    static const char *const bad[] = {"pkcs11:token=t?pin-value=1234", "pkcs11:token=t?pin-source=file:/x", "token=something"};
    CLEANUP(buf_release) struct buf b;

    (void)state;
    buf_init(&b, 10000);
    for (size_t i = 0; i < 3; i++) {
        buf_reset(&b);
        buf_putf(&b, "%.*s", (int)(strstr(REQUIRED, "hsm_token") - REQUIRED), REQUIRED);
        buf_putf(&b, "hsm_token = %s\nhsm_pin_file = pin\n", bad[i]);
        parse_fails(buf_cstr(&b), "CONFIG_VALUE", "hsm_token must");
    }
}

static void test_limits(void **state)
{
    CLEANUP(buf_release) struct buf b;
    struct config *c = NULL;
    struct err e;

    (void)state;
    buf_init(&b, 2 * CONFIG_MAX_BYTES);
    buf_put_str(&b, REQUIRED);
    buf_putf(&b, "#%*d", CONFIG_MAX_BYTES, 1);
    parse_fails(buf_cstr(&b), "CONFIG_SIZE", "longer than 65536");
    /* a relative path that grows beyond its limit when it becomes absolute */
    buf_reset(&b);
    buf_put_str(&b, "run_dir = ");
    for (int i = 0; i < 88; i++)
        buf_put_u8(&b, 'r');
    parse_fails(buf_cstr(&b), "CONFIG_VALUE", "as an absolute path");
    assert_err(config_parse(BYTES_LIT(REQUIRED), NULL, "x", &c, &e), &e, ERR_INVALID, "CONFIG_VALUE"); /* no base */
}

/* What the monitor sends is what the child understands. */
static void test_dump_is_read_back_the_same(void **state)
{
    CLEANUP(config_freep) struct config *c = NULL, *d = NULL;
    CLEANUP(buf_release) struct buf one, two;
    struct err e;

    (void)state;
    buf_init(&one, CONFIG_MAX_BYTES);
    buf_init(&two, CONFIG_MAX_BYTES);
    assert_ok(config_parse(BYTES_LIT(REQUIRED "hsm_timeout = 1500ms\nreflection = false\ndrain_timeout = 0ms\n"), "/b", "x", &c, &e));
    config_dump(c, &one);
    assert_non_null(strstr(buf_cstr(&one), "hsm_timeout = 1500ms\n"));
    assert_non_null(strstr(buf_cstr(&one), "max_connection_age = 1h\n"));
    assert_ok(config_parse(buf_bytes(&one), NULL, "dump", &d, &e));
    config_dump(d, &two);
    assert_true(bytes_equal(buf_bytes(&one), buf_bytes(&two)));
    assert_int_equal(d->drain_timeout, 0);
}

static void test_manual_has_every_key(void **state)
{
    CLEANUP(buf_release) struct buf b;

    (void)state;
    buf_init(&b, CONFIG_MAX_BYTES);
    config_manual(&b);
#define X(type, name, def, min, max, help) assert_non_null(strstr(buf_cstr(&b), "| `" #name "` |"));
    CONFIG_TABLE(X)
#undef X
    assert_non_null(strstr(buf_cstr(&b), "| `state_dir` | path | must be set |"));
}

static char dir[] = "/tmp/clv-config-XXXXXX", path[64];

static int setup(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL)
        return -1;
    (void)snprintf(path, sizeof(path), "%s/kmsd.conf", dir);
    FILE *f = fopen(path, "we");
    return f == NULL || fputs(REQUIRED, f) < 0 || fclose(f) != 0 ? -1 : 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)unlink(path);
    return rmdir(dir);
}

static void load_fails(const char *reason, const char *detail)
{
    struct config *c = NULL;
    struct err e;

    assert_err(config_load(path, &c, &e), &e, ERR_INVALID, reason);
    assert_non_null(strstr(e.detail, detail));
    assert_null(c);
}

static void test_load_checks_the_file(void **state)
{
    CLEANUP(config_freep) struct config *c = NULL;
    CLEANUP(buf_release) struct buf want;
    struct err e;

    (void)state;
    buf_init(&want, 200);
    assert_ok(config_load(path, &c, &e));
    buf_putf(&want, "%s/state", dir);
    assert_string_equal(c->state_dir, buf_cstr(&want));
    assert_int_equal(chmod(path, 0602), 0);
    load_fails("CONFIG_PERMISSIONS", "chmod go-w");
    assert_int_equal(chmod(path, 0620), 0);
    load_fails("CONFIG_PERMISSIONS", "can be written by others");
    assert_int_equal(chmod(path, 0644), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(path, 12345, (gid_t)-1), 0);
        load_fails("CONFIG_PERMISSIONS", "belongs to user 12345");
    }
    assert_int_equal(unlink(path), 0);
    load_fails("CONFIG_FILE", "No such file");
    assert_int_equal(mkfifo(path, 0600), 0);
    load_fails("CONFIG_FILE", "not a regular file"); /* and does not hang */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_and_paths),
        cmocka_unit_test(test_errors_name_the_line),
        cmocka_unit_test(test_a_pin_in_the_uri_is_refused),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_dump_is_read_back_the_same),
        cmocka_unit_test(test_manual_has_every_key),
        cmocka_unit_test(test_load_checks_the_file),
    };
    return cmocka_run_group_tests_name("config", tests, setup, teardown);
}
