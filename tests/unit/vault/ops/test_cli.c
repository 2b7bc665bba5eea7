/* The command line in a process of its own, with what it prints. */
#include "vault/ops/cli.h"

#include "base/config.h"
#include "tests/unit/base/testing.h"

#include <sys/stat.h>

static char dir[] = "/tmp/clv-cli-XXXXXX", conf[64], printed[65536];

static int run(const char *const *args)
{
    const char *argv[16] = {"kmsd"};
    int argc = 1, fds[2], status;
    size_t n = 0;
    ssize_t got;

    while (args[argc - 1] != NULL) {
        argv[argc] = args[argc - 1];
        argc++;
    }
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(fds[1], STDOUT_FILENO);
        (void)dup2(fds[1], STDERR_FILENO);
        exit(cli_run(argc, (char **)(uintptr_t)argv));
    }
    (void)close(fds[1]);
    while ((got = read(fds[0], printed + n, sizeof(printed) - 1 - n)) > 0)
        n += (size_t)got;
    printed[n] = '\0';
    (void)close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}
#define RUN(...) run((const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static void expect_text(const char *text)
{
    if (strstr(printed, text) == NULL)
        fail_msg("\"%s\" is not in:\n%s", text, printed);
}

static void put(const char *name, const char *text, mode_t mode)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "we");
    assert_true(f != NULL && fputs(text, f) >= 0 && fclose(f) == 0 && chmod(path, mode) == 0);
}

#define GOOD                                                                                                           \
    "state_dir = s\nrun_dir = r\nlocations = eu\ntrust_domain = example.org\ntls_cert_file = cert\ntls_key_file = key\n" \
    "client_ca_file = cert\nhsm_module = cert\nhsm_token = pkcs11:token=t\nhsm_pin_file = pin\n"

static int setup(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL)
        return -1;
    (void)snprintf(conf, sizeof(conf), "%s/kmsd.conf", dir);
    put("kmsd.conf", GOOD, 0600);
    put("cert", "x", 0644);
    put("key", "x", 0600);
    put("pin", "x", 0600);
    return 0;
}

static int teardown(void **state)
{
    static const char *const names[] = {"kmsd.conf", "cert", "key", "pin"};
    char path[128];
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        (void)unlink(path);
    }
    return rmdir(dir);
}

static void test_answers_without_a_configuration(void **state)
{
    (void)state;
    assert_int_equal(RUN("--help"), CLI_OK);
    expect_text("usage: kmsd --config FILE");
    expect_text("exit codes: 0 ok, 1 failed, 2 usage, 3 configuration");
    assert_int_equal(RUN("--version"), CLI_OK);
    assert_string_equal(printed, "kmsd " CLV_VERSION "\n");
    assert_int_equal(RUN("--manual"), CLI_OK);
    expect_text("| `hsm_pin_file` | path | must be set |");
}

static void test_usage_errors(void **state)
{
    (void)state;
    assert_int_equal(RUN(), CLI_USAGE);
    expect_text("--config FILE is needed");
    assert_int_equal(RUN("--confg", "x"), CLI_USAGE);
    expect_text("unknown option --confg");
    assert_int_equal(RUN("--config"), CLI_USAGE);
    expect_text("a value is missing after --config");
    assert_int_equal(RUN("--help=yes"), CLI_USAGE);
    assert_int_equal(RUN("--config", conf, "dance"), CLI_USAGE);
    expect_text("unknown command dance");
    assert_int_equal(RUN("--config", conf, "check", "run"), CLI_USAGE);
    assert_int_equal(RUN("--config", conf, "init"), CLI_USAGE);
    expect_text("init needs --admin NAME");
    assert_int_equal(RUN("--config", conf, "--admin", "x"), CLI_USAGE);
    assert_int_equal(RUN("--config", conf, "init", "--admin", "a\nb", "--admin-san", "x", "--policy-dir", dir), CLI_USAGE);
}

static void test_offline_usage(void **state)
{
    char much[400];
    (void)state;
    memset(much, 'a', sizeof much - 1);
    much[sizeof much - 1] = '\0';
    assert_int_equal(RUN("--config", conf, "accept-rollback"), CLI_USAGE);
    expect_text("a reason is needed: --reason TEXT");
    assert_int_equal(RUN("--config", conf, "review-recovery"), CLI_USAGE);
    assert_int_equal(RUN("--config", conf, "review-rollback", "--reason", "a\nb"), CLI_USAGE);
    assert_int_equal(RUN("--config", conf, "review-rollback", "--reason", much), CLI_USAGE);
    assert_int_equal(RUN("--config", conf, "fsck", "--reason", "x"), CLI_USAGE);
    expect_text("--reason belongs to accept-rollback");
    assert_int_equal(RUN("--config", conf, "fsck", "--for", "1h"), CLI_USAGE);
    expect_text("belong to init and recover-admin");
    assert_int_equal(RUN("--config", conf, "run", "--reason", "x"), CLI_USAGE);
    assert_int_equal(RUN("--config", conf, "run", "--pin-file", "pin"), CLI_USAGE);
    expect_text("--pin-file must be");
    assert_int_equal(RUN("--config", conf, "fsck", "--pin-file", "/nonexistent/pin"), CLI_FAILED); /* taken: it fails later */
    expect_text("the installation is not complete");
}

static void test_recover_admin_usage(void **state)
{
    static const char *const times[] = {"0s", "999ms", "25h", "1d1h", "-1h", "x", "1"};
    char much[400];
    (void)state;
    memset(much, 'a', sizeof much - 1);
    much[sizeof much - 1] = '\0';
    assert_int_equal(RUN("--config", conf, "recover-admin", "--reason", "x"), CLI_USAGE);
    expect_text("recover-admin needs --admin NAME");
    assert_int_equal(RUN("--config", conf, "recover-admin", "--admin", "a", "--admin-san", much, "--reason", "x"), CLI_USAGE);
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        assert_int_equal(RUN("--config", conf, "recover-admin", "--admin", "a", "--admin-san", "b", "--reason", "x", "--for", times[i]), CLI_USAGE);
        expect_text("--for must be a duration from 1s to 24h");
    }
    if (geteuid() == 0) { /* as root the reason is asked for, then the programs */
        assert_int_equal(RUN("--config", conf, "recover-admin", "--admin", "a", "--admin-san", "b"), CLI_USAGE);
        expect_text("a reason is needed");
        assert_int_equal(RUN("--config", conf, "recover-admin", "--admin", "a", "--admin-san", "b", "--reason", "x", "--for", "24h"), CLI_FAILED);
        expect_text("the installation is not complete");
    } else {
        assert_int_equal(RUN("--config", conf, "recover-admin", "--admin", "a", "--admin-san", "b", "--reason", "x"), CLI_FAILED);
        expect_text("RECOVERY_ROOT");
    }
}

static void test_configuration_errors(void **state)
{
    (void)state;
    assert_int_equal(RUN("--config", "/nonexistent/kmsd.conf"), CLI_CONFIG);
    expect_text("cannot open configuration /nonexistent/kmsd.conf: No such file or directory");
    put("kmsd.conf", GOOD, 0606);
    assert_int_equal(RUN("--config", conf), CLI_CONFIG);
    expect_text("chmod go-w");
    put("kmsd.conf", GOOD "color = red\n", 0600);
    assert_int_equal(RUN("--config", conf), CLI_CONFIG);
    expect_text("kmsd.conf:11: unknown key \"color\"");
    put("kmsd.conf", GOOD, 0600);
    assert_int_equal(RUN("--config", conf, "init", "--admin", "a", "--admin-san", "x", "--policy-dir", dir), CLI_CONFIG);
    expect_text("0 policy documents");
}

static void test_dump(void **state)
{
    struct config *c = NULL;
    struct err e;

    (void)state;
    assert_int_equal(run((const char *const[]){"--dump-config", "--config", conf, NULL}), CLI_OK);
    expect_text("drain_timeout = 10s\n");
    assert_ok(config_parse(bytes_str(printed), NULL, "dump", &c, &e));
    config_free(c);
}

static void test_check(void **state)
{
    (void)state;
    assert_int_equal(RUN("--config", conf, "check"), CLI_CONFIG); /* this test program has no kmsd-core beside it */
    expect_text("ok     tls_key_file");
    expect_text("ok     hsm_pin_file");
    put("pin", "x", 0644);
    assert_int_equal(RUN("--config", conf, "check"), CLI_CONFIG);
    expect_text("wrong  hsm_pin_file:");
    expect_text("run: chmod 600");
    put("pin", "x", 0600);
    put("kmsd.conf", GOOD "listen = localhost:1\n", 0600);
    assert_int_equal(RUN("--config", conf, "check"), CLI_CONFIG);
    expect_text("wrong  listen: \"localhost\" is not a numeric address");
    put("kmsd.conf", GOOD, 0600);
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/s", dir);
    assert_int_equal(access(path, F_OK), -1); /* it changed nothing */
}

static void test_an_incomplete_installation_says_so(void **state)
{
    (void)state;
    assert_int_equal(RUN("--config", conf, "run"), CLI_FAILED);
    expect_text("the installation is not complete");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_without_a_configuration),
        cmocka_unit_test(test_usage_errors),
        cmocka_unit_test(test_offline_usage),
        cmocka_unit_test(test_recover_admin_usage),
        cmocka_unit_test(test_configuration_errors),
        cmocka_unit_test(test_dump),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_an_incomplete_installation_says_so),
    };
    return cmocka_run_group_tests_name("cli", tests, setup, teardown);
}
