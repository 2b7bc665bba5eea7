/* The monitor and its stand-in children: who starts, stops and comes again, when and in which order. */
#include "tests/unit/vault/ops/bench.h"

static void test_starts_in_order_and_drains_in_reverse(void **state)
{
    struct bench *b = *state;
    char path[128], endpoint[64] = "";

    start(b);
    size_t up = expect(b, "READY=1");
    assert_true(expect(b, "hsm pin 4711") < expect(b, "hsm ready"));
    assert_true(expect(b, "hsm ready") < expect(b, "core started"));
    assert_true(expect(b, "core ready") < expect(b, "front started"));
    assert_true(expect(b, "front tls cert-one key-one") < up);
    assert_true(expect(b, "front listener main") < up);
    (void)expect(b, "hsm hears core");
    (void)expect(b, "core hears hsm");
    (void)expect(b, "core hears front");
    (void)expect(b, "front hears core");
    path_of(b, "run/endpoint", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && read(fd, endpoint, sizeof(endpoint) - 1) > 0);
    (void)close(fd);
    assert_memory_equal(endpoint, "127.0.0.1:", 10);
    assert_true(atoi(endpoint + 10) > 0);

    assert_int_equal(kill(b->monitor, SIGTERM), 0);
    (void)expect(b, "hsm drain");
    assert_true(expect(b, "core stopping") < expect(b, "core drain")); /* its streams end while the front waits for them */
    assert_true(expect(b, "front drain") < expect(b, "core drain"));
    assert_true(expect(b, "core drain") < expect(b, "hsm drain"));
    (void)expect(b, "STOPPING=1");
    assert_int_equal(end(b), 0);
    assert_int_equal(access(path, F_OK), -1);
}

/* Whoever dies comes again, its neighbours get new channels, and nobody else is restarted. */
static void test_restarts_each(void **state)
{
    static const char *const roles[] = {"hsm", "core", "front"};
    static const char *const neighbours[][2] = {{"core hears hsm", "hsm hears core"},
                                                {"front hears core", "hsm hears core"},
                                                {"core hears front", "front hears core"}};
    struct bench *b = *state;
    char started[32], ready[32];

    start(b);
    (void)expect(b, "READY=1");
    (void)expect(b, "front hears core");
    (void)expect(b, "core hears front");
    for (size_t i = 0; i < 3; i++) {
        size_t mark = b->n;
        (void)snprintf(started, sizeof(started), "%s started ", roles[i]);
        (void)snprintf(ready, sizeof(ready), "%s ready", roles[i]);
        pid_t old = pid_in(b, expect(b, started));
        assert_int_equal(kill(old, SIGKILL), 0);
        size_t again = expect_from(b, mark, started);
        assert_int_not_equal(pid_in(b, again), old);
        (void)expect_from(b, mark, ready);
        (void)expect_from(b, mark, neighbours[i][0]);
        (void)expect_from(b, mark, neighbours[i][1]);
        for (size_t k = 0; k < 3; k++) {
            (void)snprintf(started, sizeof(started), "%s started ", roles[k]);
            assert_true(k == i || strstr(b->log + mark, started) == NULL);
        }
    }
    assert_int_equal(kill(b->monitor, SIGINT), 0);
    assert_int_equal(end(b), 0);
}

/* 100 ms, 200 ms, 400 ms ...: three deaths in a row take at least the sum. */
static void test_backs_off(void **state)
{
    struct bench *b = *state;
    struct timespec t0, t1;
    size_t mark = 0;

    start(b);
    (void)expect(b, "READY=1");
    (void)clock_gettime(CLOCK_MONOTONIC, &t0);
    for (int i = 0; i < 3; i++) {
        size_t at = expect_from(b, mark, "core started");
        mark = b->n;
        assert_int_equal(kill(pid_in(b, at), SIGKILL), 0);
    }
    (void)expect_from(b, mark, "core started");
    (void)clock_gettime(CLOCK_MONOTONIC, &t1);
    long ms = (t1.tv_sec - t0.tv_sec) * 1000 + (t1.tv_nsec - t0.tv_nsec) / 1000000;
    assert_true(ms >= 100 + 200 + 400);
    assert_int_equal(kill(b->monitor, SIGTERM), 0);
    assert_int_equal(end(b), 0);
}

static void test_both_sides_die_at_once(void **state)
{
    struct bench *b = *state;

    start(b);
    (void)expect(b, "READY=1");
    (void)expect(b, "front hears core");
    size_t mark = b->n;
    pid_t core = pid_in(b, expect(b, "core started ")), hsm = pid_in(b, expect(b, "hsm started "));
    assert_int_equal(kill(core, SIGKILL), 0);
    assert_int_equal(kill(hsm, SIGKILL), 0);
    (void)expect_from(b, mark, "core hears hsm");
    (void)expect_from(b, mark, "hsm hears core");
    (void)expect_from(b, mark, "front hears core");
    (void)expect_from(b, mark, "core ready");
    (void)expect_from(b, mark, "hsm ready");
    assert_int_equal(kill(b->monitor, SIGTERM), 0);
    assert_int_equal(end(b), 0);
}

static void test_fatal_stops_everything(void **state)
{
    struct bench *b = *state;

    b->behaviour = "fatal-core";
    start(b);
    (void)expect(b, "core started");
    (void)expect(b, "hsm drain");
    assert_int_equal(end(b), 1);
    assert_non_null(strstr(b->errors, "kmsd: core: the token is not there [ERR_INVALID/TEST_FATAL]"));
    assert_null(strstr(b->log, "READY=1"));
    assert_null(strstr(b->log, "front started"));
}

static void test_second_signal_ends_a_stubborn_child(void **state)
{
    struct bench *b = *state;

    b->behaviour = "stubborn-front";
    start(b);
    (void)expect(b, "READY=1");
    assert_int_equal(kill(b->monitor, SIGTERM), 0);
    (void)expect(b, "front drain");
    assert_int_equal(kill(b->monitor, SIGTERM), 0);
    assert_int_equal(end(b), 1);
    assert_null(strstr(b->log, "core drain"));
}

static void test_drain_timeout_ends_a_stubborn_child(void **state)
{
    struct bench *b = *state;

    b->behaviour = "stubborn-hsm";
    b->drain_timeout = "0ms"; /* and the grace */
    start(b);
    (void)expect(b, "READY=1");
    assert_int_equal(kill(b->monitor, SIGTERM), 0);
    (void)expect(b, "hsm drain");
    assert_int_equal(end(b), 1);
}

static void test_children_die_with_the_monitor(void **state)
{
    static const char *const roles[] = {"hsm started ", "core started ", "front started "};
    struct bench *b = *state;
    struct pollfd p[3];

    start(b);
    (void)expect(b, "READY=1");
    for (size_t i = 0; i < 3; i++) {
        p[i] = (struct pollfd){.fd = (int)syscall(SYS_pidfd_open, pid_in(b, expect(b, roles[i])), 0), .events = POLLIN};
        assert_true(p[i].fd >= 0);
    }
    assert_int_equal(kill(b->monitor, SIGKILL), 0);
    assert_int_equal(end(b), 1000 + SIGKILL);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(poll(&p[i], 1, WAIT_MS), 1);
        (void)close(p[i].fd);
    }
}

static void test_a_child_that_breaks_the_protocol_is_killed(void **state)
{
    struct bench *b = *state;

    b->behaviour = "rude-hsm";
    start(b);
    size_t first = expect(b, "hsm started");
    (void)expect_from(b, first + 1, "hsm started"); /* again, with backoff */
    assert_int_equal(kill(b->monitor, SIGTERM), 0);
    (void)end(b);
    assert_non_null(strstr(b->errors, "a child said what it may not say"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        BENCH(test_starts_in_order_and_drains_in_reverse),
        BENCH(test_restarts_each),
        BENCH(test_backs_off),
        BENCH(test_both_sides_die_at_once),
        BENCH(test_fatal_stops_everything),
        BENCH(test_second_signal_ends_a_stubborn_child),
        BENCH(test_drain_timeout_ends_a_stubborn_child),
        BENCH(test_children_die_with_the_monitor),
        BENCH(test_a_child_that_breaks_the_protocol_is_killed),
    };
    const int standin = bench_standin(argc, argv);
    if (standin >= 0)
        return standin;
    return cmocka_run_group_tests_name("monitor", tests, NULL, NULL);
}
