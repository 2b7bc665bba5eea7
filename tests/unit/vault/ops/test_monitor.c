/* The monitor with stand-in children: this program itself, under the names kmsd-hsm, kmsd-core and kmsd-front. */
#include "vault/ops/monitor.h"

#include "base/log.h"
#include "tests/unit/vault/ops/standin.h"
#include "vault/ops/init.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum { WAIT_MS = 8000, LOG_BYTES = 65536 };

struct bench {
    char dir[64], errors[LOG_BYTES];
    int report, err_pipe;
    pid_t monitor;
    char log[LOG_BYTES]; /* all reports so far, one a line */
    size_t n;
    const char *behaviour, *drain_timeout;
    bool init;
};

static void path_of(const struct bench *b, const char *name, char out[128])
{
    (void)snprintf(out, 128, "%s/%s", b->dir, name);
}

static void write_file(const struct bench *b, const char *name, const char *text, mode_t mode)
{
    char path[128];
    path_of(b, name, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    (void)close(fd);
}

static int setup(void **state)
{
    static const char *const roles[] = {"hsm", "core", "front"};
    struct bench *b = calloc(1, sizeof(*b));
    char self[PATH_MAX], path[128], name[32];
    ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);

    assert_non_null(b);
    assert_true(len > 0);
    self[len] = '\0';
    (void)snprintf(b->dir, sizeof(b->dir), "/tmp/clv-mon-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(name, sizeof(name), "kmsd-%s", roles[i]);
        path_of(b, name, path);
        assert_int_equal(symlink(self, path), 0);
    }
    path_of(b, "state", path);
    assert_int_equal(mkdir(path, 0700), 0);
    write_file(b, "pin", "4711\n", 0600);
    write_file(b, "cert", "cert-one\n", 0644);
    write_file(b, "key", "key-one\n", 0600);
    b->behaviour = "plain";
    b->drain_timeout = "5s";
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    (void)snprintf(a.sun_path, sizeof(a.sun_path), "%s/state/report.sock", b->dir);
    b->report = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(b->report, (const struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(setenv("NOTIFY_SOCKET", a.sun_path, 1), 0);
    *state = b;
    return 0;
}

static void remove_tree(const char *dir)
{
    DIR *d = opendir(dir);
    const struct dirent *entry;
    char path[PATH_MAX];

    while (d != NULL && (entry = readdir(d)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
        if (entry->d_type == DT_DIR)
            remove_tree(path);
        else
            (void)unlink(path);
    }
    if (d != NULL)
        (void)closedir(d);
    (void)rmdir(dir);
}

static int teardown(void **state)
{
    struct bench *b = *state;

    if (b->monitor > 0) { /* a test failed half way */
        (void)kill(b->monitor, SIGKILL);
        (void)waitpid(b->monitor, NULL, 0);
    }
    (void)close(b->report);
    if (b->err_pipe > 0)
        (void)close(b->err_pipe);
    remove_tree(b->dir);
    free(b);
    return 0;
}

static int monitor_process(const struct bench *b)
{
    CLEANUP(config_freep) struct config *c = NULL;
    CLEANUP(buf_release) struct buf message;
    char text[2048];
    struct err e;
    int code = 99;
    buf_init(&message, 65536);
    (void)snprintf(text, sizeof(text),
                   "listen = 127.0.0.1:0\nstate_dir = state\nrun_dir = run\nlocations = eu\ntrust_domain = example.org\n"
                   "tls_cert_file = cert\ntls_key_file = key\nclient_ca_file = cert\nhsm_token = pkcs11:token=t\n"
                   "hsm_pin_file = pin\ndrain_timeout = %s\ncluster_name = %s\n",
                   b->drain_timeout, b->behaviour);
    if (config_parse(bytes_str(text), b->dir, "test", &c, &e).failed)
        return 98;
    if (b->init) {
        const struct init_request r = {.admin = "alice", .admin_san = "spiffe://example.org/alice", .policy_dir = b->dir};
        if (init_message(&r, &message, &e).failed)
            return 97;
    }
    const struct monitor_options o = {.config = c, .libexec = b->dir, .init_message = buf_bytes(&message)};
    if (monitor_run(&o, &code, &e).failed) {
        (void)fprintf(stderr, "%s\n", e.detail);
        return 96;
    }
    return code;
}

static void start(struct bench *b)
{
    int fds[2];

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    b->err_pipe = fds[0];
    (void)fcntl(fds[0], F_SETFL, O_NONBLOCK);
    b->monitor = fork();
    assert_true(b->monitor >= 0);
    if (b->monitor == 0) {
        (void)dup2(fds[1], STDERR_FILENO);
        (void)dup2(fds[1], STDOUT_FILENO);
        exit(monitor_process(b));
    }
    (void)close(fds[1]);
}

static void take_report(struct bench *b)
{
    ssize_t n = recv(b->report, b->log + b->n, sizeof(b->log) - b->n - 2, 0);

    assert_true(n > 0);
    b->n += (size_t)n;
    b->log[b->n++] = '\n';
    b->log[b->n] = '\0';
}

/* Waits for a report that contains `what`, from byte `from` of the log on; returns where it stands. */
static size_t expect_from(struct bench *b, size_t from, const char *what)
{
    for (;;) {
        struct pollfd p = {.fd = b->report, .events = POLLIN};
        const char *hit = strstr(b->log + from, what);
        if (hit != NULL)
            return (size_t)(hit - b->log);
        if (poll(&p, 1, WAIT_MS) != 1)
            fail_msg("no report \"%s\" after:\n%s", what, b->log + from);
        take_report(b);
    }
}

static size_t expect(struct bench *b, const char *what)
{
    return expect_from(b, 0, what);
}

static pid_t pid_in(struct bench *b, size_t at)
{
    return (pid_t)atoi(strstr(b->log + at, "started ") + 8);
}

/* Reads reports meanwhile: a stand-in whose report nobody takes would wait for ever. */
static int end(struct bench *b)
{
    struct pollfd p[2] = {{.fd = (int)syscall(SYS_pidfd_open, b->monitor, 0), .events = POLLIN},
                          {.fd = b->report, .events = POLLIN}};
    int status;
    ssize_t n;
    size_t got = 0;

    assert_true(p[0].fd >= 0);
    while (p[0].revents == 0) {
        if (poll(p, b->report > 0 ? 2 : 1, 2 * WAIT_MS) < 1)
            fail_msg("the monitor did not end after:\n%s", b->log);
        if (p[1].revents != 0)
            take_report(b);
    }
    (void)close(p[0].fd);
    assert_int_equal(waitpid(b->monitor, &status, 0), b->monitor);
    b->monitor = 0;
    while ((n = read(b->err_pipe, b->errors + got, sizeof(b->errors) - 1 - got)) > 0)
        got += (size_t)n;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

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
    const char *name = strrchr(argv[0], '/') != NULL ? strrchr(argv[0], '/') + 1 : argv[0];
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(test_starts_in_order_and_drains_in_reverse),
        T(test_restarts_each),
        T(test_backs_off),
        T(test_both_sides_die_at_once),
        T(test_fatal_stops_everything),
        T(test_reload_opens_the_files_anew),
        T(test_pin_file_open_to_others_is_not_passed_on),
        T(test_second_signal_ends_a_stubborn_child),
        T(test_drain_timeout_ends_a_stubborn_child),
        T(test_children_die_with_the_monitor),
        T(test_a_child_that_breaks_the_protocol_is_killed),
        T(test_second_monitor_is_refused),
        T(test_startup_errors),
        T(test_init),
        T(test_init_that_dies_is_not_repeated),
#undef T
    };

    for (const char *const *role = (const char *const[]){"hsm", "core", "front", NULL}; *role != NULL; role++)
        if (strncmp(name, "kmsd-", 5) == 0 && strcmp(name + 5, *role) == 0)
            return standin_main(*role, argc > 1 ? argv[1] : NULL);
    return cmocka_run_group_tests_name("monitor", tests, NULL, NULL);
}
