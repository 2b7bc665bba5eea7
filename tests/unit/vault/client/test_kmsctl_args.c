#include "vault/cmd/kmsctl/kmsctl.h"

#include "kms/name/name.h"
#include "tests/unit/vault/client/testing.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct args a;
static struct words w;
static struct claviger_error e;

static bool parse(char **argv)
{
    int argc = 0;
    while (argv[argc])
        argc++;
    e = (struct claviger_error){0};
    return !args_parse(argc, argv, &w, &a, &e).failed;
}
#define P(...) parse((char *[]){"kmsctl", __VA_ARGS__, NULL})

static void test_words_and_options(void **state)
{
    (void)state;
    assert_true(P("versions", "destroy", "acme/eu/pii/email@1", "--confirm", "acme/eu/pii/email@1", "--output=json"));
    assert_string_equal(w.noun, "versions");
    assert_string_equal(w.verb, "destroy");
    assert_int_equal(a.npos, 1);
    assert_string_equal(a.value[OPT_CONFIRM], "acme/eu/pii/email@1");
    assert_string_equal(a.value[OPT_OUTPUT], "json");
    assert_true(P("--output", "json", "encrypt", "k", "--context", "a=1", "--context", "b=2")); /* options anywhere */
    assert_string_equal(w.noun, "encrypt");
    assert_null(w.verb);
    assert_int_equal(a.ncontexts, 2);
    assert_true(P("encrypt", "--", "--odd"));
    assert_string_equal(a.pos[0], "--odd");
}

static void test_mistakes(void **state)
{
    (void)state;
    assert_false(P("status", "--nope"));
    assert_false(P("status", "--outp", "json")); /* no abbreviations */
    assert_false(P("status", "--output"));
    assert_false(P("status", "--output", "json", "--output", "text"));
    assert_false(P("audit", "tail", "--follow=yes"));
    assert_false(P("status", "-x"));
    assert_false(P("policy", "test", "1", "2", "3", "4", "5"));
    assert_string_equal(e.reason, "USAGE");
    assert_int_equal(exit_code(&e), 2);
    assert_true(P("tenants", "list", "--aad", "x"));
    assert_true(args_allowed(&a, command_find("tenants", "list"), &e).failed);
    assert_string_equal(e.reason, "USAGE");
    assert_true(P("encrypt", "k", "--aad", "x"));
    assert_false(args_allowed(&a, command_find("encrypt", NULL), &e).failed);
}

static void test_the_table_is_complete(void **state)
{
    (void)state;
    static const char *const verbs[][2] = {
        {"status", NULL}, {"tenants", "create"}, {"tenants", "get"}, {"tenants", "list"}, {"keyrings", "create"}, {"keyrings", "get"},
        {"keyrings", "list"}, {"keys", "create"}, {"keys", "get"}, {"keys", "list"}, {"keys", "update"}, {"keys", "set-primary"},
        {"versions", "create"}, {"versions", "get"}, {"versions", "list"}, {"versions", "enable"}, {"versions", "disable"},
        {"versions", "destroy"}, {"versions", "restore"}, {"encrypt", NULL}, {"decrypt", NULL}, {"wrap", NULL}, {"unwrap", NULL},
        {"datakey", NULL}, {"csv", "encrypt"}, {"csv", "decrypt"}, {"policy", "get"}, {"policy", "apply"}, {"policy", "test"},
        {"audit", "tail"}, {"principals", "create"}, {"principals", "get"}, {"principals", "list"}, {"principals", "disable"},
        {"principals", "enable"}};
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        const struct command *c = command_find(verbs[i][0], verbs[i][1]);
        assert_non_null(c);
        assert_true(*c->summary && *c->example && c->run && c->max >= c->min);
        assert_true(strstr(c->example, "kmsctl") && strstr(c->example, c->noun)); /* help shows this very verb */
    }
    assert_null(command_find("tenants", "destroy"));
    assert_null(command_find("tenants", NULL));
}

static void test_exit_codes(void **state)
{
    (void)state;
    static const int want[] = {0, 1, 1, 7, 6, 4, 5, 3, 6, 5, 5, 7, 1, 1, 6, 7, 3};
    for (int code = 0; code <= CLAVIGER_UNAUTHENTICATED; code++)
        assert_int_equal(exit_code(&(struct claviger_error){.code = code}), want[code]);
    assert_int_equal(exit_code(&(struct claviger_error){.code = CLAVIGER_INVALID_ARGUMENT, .reason = "USAGE"}), 2);
    assert_int_equal(exit_code(&(struct claviger_error){.code = CLAVIGER_INVALID_ARGUMENT, .reason = "NOT_CONFIGURED"}), 2);
    assert_int_equal(exit_code(&(struct claviger_error){.code = CLAVIGER_INVALID_ARGUMENT, .reason = "BAD_KEY_FILE"}), 2);
    /* the same word from the server is the server's */
    assert_int_equal(exit_code(&(struct claviger_error){.code = CLAVIGER_INVALID_ARGUMENT, .reason = "USAGE", .request_id = "1"}), 7);
    assert_int_equal(exit_code(&(struct claviger_error){.code = CLAVIGER_INVALID_ARGUMENT, .reason = "CIPHERTEXT"}), 7);
}

static void test_names(void **state)
{
    (void)state;
    struct ctl c = {0};
    arena_init(&c.arena, 1 << 20);
    ProtobufCBinaryData n, parent, id;
    assert_false(name_full(&c, "acme/eu/pii/email", 1u << NAME_CRYPTOKEY, &n, &e).failed);
    assert_string_equal((char *)n.data, "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email");
    assert_false(name_full(&c, (char *)n.data, 1u << NAME_CRYPTOKEY, &n, &e).failed); /* the full form too */
    assert_false(name_split(&c, "acme/eu/pii/email@3", NAME_VERSION, &parent, &id, &e).failed);
    assert_string_equal((char *)parent.data, "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email");
    assert_true(bytes_equal(pb_bytes_of(id), BYTES_LIT("3")));
    assert_true(name_full(&c, "acme/eu/pii", 1u << NAME_CRYPTOKEY, &n, &e).failed);
    assert_string_equal(e.reason, "USAGE");
    assert_true(name_full(&c, "Acme/eu/pii/email", 1u << NAME_CRYPTOKEY, &n, &e).failed);
    assert_true(name_full(&c, "acme/../pii/email", 1u << NAME_CRYPTOKEY, &n, &e).failed);
    assert_true(bytes_equal(pb_bytes_of(name_prefixed(&c, "projects/", "acme")), BYTES_LIT("projects/acme")));
    assert_true(bytes_equal(pb_bytes_of(name_prefixed(&c, "projects/", "projects/acme")), BYTES_LIT("projects/acme")));
    arena_release(&c.arena);
}

/* ---- where the connection comes from --------------------------------------------------------------------------------------------- */

static const char *const variables[] = {"KMS_ENDPOINT", "KMS_CA", "KMS_CERT", "KMS_KEY", "KMS_OPERATOR_CERT", "KMS_OPERATOR_KEY",
                                        "KMS_KEYADMIN_CERT", "KMS_KEYADMIN_KEY", "KMS_SERVICE_CERT", "KMS_SERVICE_KEY",
                                        "XDG_CONFIG_HOME"};
static void clear(void)
{
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        unsetenv(variables[i]);
    setenv("HOME", "/nonexistent", 1);
}

static void test_settings(void **state)
{
    (void)state;
    clear();
    CLEANUP(arena_release) struct arena mem;
    arena_init(&mem, 1 << 20);
    struct settings s;
    assert_true(P("status"));
    assert_true(settings_resolve(&a, ROLE_OPERATOR, &mem, &s, &e).failed);
    assert_string_equal(e.reason, "NOT_CONFIGURED");
    setenv("KMS_ENDPOINT", "e:1", 1);
    setenv("KMS_CA", "ca", 1);
    setenv("KMS_OPERATOR_CERT", "oc", 1);
    setenv("KMS_OPERATOR_KEY", "ok", 1);
    assert_false(settings_resolve(&a, ROLE_OPERATOR, &mem, &s, &e).failed);
    assert_string_equal(s.cert, "oc");
    assert_true(settings_resolve(&a, ROLE_SERVICE, &mem, &s, &e).failed); /* a role's certificate serves no other role */
    setenv("KMS_CERT", "c", 1);
    setenv("KMS_KEY", "k", 1);
    assert_false(settings_resolve(&a, ROLE_OPERATOR, &mem, &s, &e).failed);
    assert_string_equal(s.cert, "c");
    assert_true(P("status", "--cert", "flag", "--timeout", "250ms"));
    assert_false(settings_resolve(&a, ROLE_OPERATOR, &mem, &s, &e).failed);
    assert_string_equal(s.cert, "flag");
    assert_string_equal(s.key, "k");
    assert_int_equal(s.timeout_ms, 250);
    assert_true(P("status", "--timeout", "0s"));
    assert_true(settings_resolve(&a, ROLE_OPERATOR, &mem, &s, &e).failed);
    clear();
}

static void test_config_file(void **state)
{
    (void)state;
    clear();
    char path[] = "/tmp/clv-conf-XXXXXX";
    int fd = mkstemp(path);
    static const char good[] = "# where\nendpoint = file:1\n ca=ca.pem\r\n\noperator_cert = oc\noperator_key = ok\n";
    assert_int_equal(write(fd, good, sizeof good - 1), sizeof good - 1);
    CLEANUP(arena_release) struct arena mem;
    arena_init(&mem, 1 << 20);
    struct settings s;
    assert_true(P("status", "--config", path));
    assert_false(settings_resolve(&a, ROLE_OPERATOR, &mem, &s, &e).failed);
    assert_string_equal(s.endpoint, "file:1");
    assert_string_equal(s.ca, "ca.pem");
    assert_string_equal(s.cert, "oc");
    setenv("KMS_ENDPOINT", "env:1", 1);
    assert_false(settings_resolve(&a, ROLE_OPERATOR, &mem, &s, &e).failed);
    assert_string_equal(s.endpoint, "env:1");
    static const char *const bad[] = {"endpont = x\n", "endpoint = again\n", "nonsense\n"};
    for (size_t i = 0; i < 3; i++) {
        off_t at = lseek(fd, 0, SEEK_CUR);
        assert_int_equal(write(fd, bad[i], strlen(bad[i])), strlen(bad[i]));
        assert_true(settings_resolve(&a, ROLE_OPERATOR, &mem, &s, &e).failed);
        assert_string_equal(e.reason, "USAGE");
        assert_non_null(strstr(e.message, path));
        assert_int_equal(ftruncate(fd, at), 0);
        lseek(fd, at, SEEK_SET);
    }
    close(fd);
    unlink(path);
    assert_true(settings_resolve(&a, ROLE_OPERATOR, &mem, &s, &e).failed); /* a file that was asked for must be there */
    clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words_and_options), cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_the_table_is_complete), cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_names),             cmocka_unit_test(test_settings),
        cmocka_unit_test(test_config_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
