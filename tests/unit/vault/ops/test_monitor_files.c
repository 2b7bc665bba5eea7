/* What the monitor takes from files and hands on: certificates read anew, a PIN, what must not be readable by others; and kmsd init. */
#include "tests/unit/vault/ops/bench.h"

static void test_reload_opens_the_files_anew(void **state)
{
    struct bench *b = *state;

    start(b);
    (void)expect(b, "READY=1");
    write_file(b, "cert.new", "cert-two\n", 0644);
    char from[128], to[128];
    path_of(b, "cert.new", from);
    path_of(b, "cert", to);
    assert_int_equal(rename(from, to), 0);
    size_t mark = b->n;
    assert_int_equal(kill(b->monitor, SIGHUP), 0);
    (void)expect_from(b, mark, "front tls cert-two key-one");
    (void)expect_from(b, mark, "core reload 1 cert-two");

    /* a key that others may read is refused: the front keeps what it has, the core still reloads */
    write_file(b, "key", "key-two\n", 0644);
    mark = b->n;
    assert_int_equal(kill(b->monitor, SIGHUP), 0);
    size_t second = expect_from(b, mark, "core reload");

    write_file(b, "cert", "cert-evil\n", 0666); /* client CAs that anybody could have written: the core keeps its own too */
    assert_int_equal(kill(b->monitor, SIGHUP), 0);
    assert_int_equal(kill(b->monitor, SIGTERM), 0);
    assert_int_equal(end(b), 0);
    assert_null(strstr(b->log + second + 1, "core reload"));
    assert_non_null(strstr(b->errors, "the old client CAs stay in use"));
    assert_null(strstr(b->log + mark, "front tls"));
    assert_non_null(strstr(b->errors, "the old server certificate stays in use"));
    assert_null(strstr(b->log + mark, "started"));
}

static void test_pin_file_open_to_others_is_not_passed_on(void **state)
{
    struct bench *b = *state;

    write_file(b, "pin", "4711\n", 0640);
    start(b);
    size_t at = expect(b, "hsm nopin");
    assert_non_null(strstr(b->log + at, "chmod 600"));
    assert_int_equal(kill(b->monitor, SIGTERM), 0);
    assert_int_equal(end(b), 0);
    assert_null(strstr(b->log, "4711"));
}

static void test_second_monitor_is_refused(void **state)
{
    struct bench *b = *state;
    struct bench *other = calloc(1, sizeof(*other));

    assert_non_null(other);
    start(b);
    (void)expect(b, "READY=1");
    (void)snprintf(other->dir, sizeof(other->dir), "%s", b->dir);
    other->behaviour = "plain";
    other->drain_timeout = "1s";
    start(other);
    assert_int_equal(end(other), 96);
    assert_non_null(strstr(other->errors, "another kmsd works on"));
    (void)close(other->err_pipe);
    free(other);
    assert_int_equal(kill(b->monitor, SIGTERM), 0);
    assert_int_equal(end(b), 0);
}

static void test_startup_errors(void **state)
{
    struct bench *b = *state;

    write_file(b, "key", "key-one\n", 0644);
    start(b);
    assert_int_equal(end(b), 96);
    assert_non_null(strstr(b->errors, "tls_key_file"));
    assert_non_null(strstr(b->errors, "chmod 600"));
    assert_null(strstr(b->errors, "child started"));
}

static void test_init(void **state)
{
    struct bench *b = *state;

    write_file(b, "b.yaml", "second", 0644);
    write_file(b, "a.yaml", "first", 0644);
    b->init = true;
    start(b);
    assert_non_null(strstr(b->log + expect(b, "hsm started"), "with --init"));
    assert_non_null(strstr(b->log + expect(b, "core started"), "with --init"));
    (void)expect(b, "core init alice spiffe://example.org/alice 2");
    assert_true(expect(b, "core document a.yaml first") < expect(b, "core document b.yaml second"));
    (void)expect(b, "hsm drain");
    assert_int_equal(end(b), 0);
    assert_non_null(strstr(b->errors, "instance created\n"));
    assert_null(strstr(b->log, "front started"));
    assert_null(strstr(b->log, "READY=1"));
}

static void test_init_that_dies_is_not_repeated(void **state)
{
    struct bench *b = *state;

    write_file(b, "a.yaml", "first", 0644);
    b->init = true;
    b->behaviour = "dies-core";
    start(b);
    size_t at = expect(b, "core started");
    (void)expect(b, "hsm drain");
    assert_int_equal(end(b), 1);
    assert_null(strstr(b->log + at + 1, "core started"));
    assert_non_null(strstr(b->errors, "core ended before the task was done"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        BENCH(test_reload_opens_the_files_anew),
        BENCH(test_pin_file_open_to_others_is_not_passed_on),
        BENCH(test_second_monitor_is_refused),
        BENCH(test_startup_errors),
        BENCH(test_init),
        BENCH(test_init_that_dies_is_not_repeated),
    };
    const int standin = bench_standin(argc, argv);
    if (standin >= 0)
        return standin;
    return cmocka_run_group_tests_name("monitor_files", tests, NULL, NULL);
}
