/* Each case in a process of its own whose descriptor 3 is what the monitor would give. */
#include "base/child.h"

#include "tests/unit/base/testing.h"

#include <sys/prctl.h>
#include <sys/socket.h>

#define CONFIG                                                                                                         \
    "state_dir = /s\nrun_dir = /r\nlocations = eu\ntrust_domain = example.org\ntls_cert_file = /c\ntls_key_file = /k\n"  \
    "client_ca_file = /ca\nhsm_token = pkcs11:token=t\nhsm_pin_file = /p\n"

typedef int body_fn(void);

/* Exit status, or 1000 + signal. */
static int finish(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Runs body with the other end of *ret_monitor as its control channel. */
static pid_t begin(body_fn *body, int *ret_monitor)
{
    struct err e;
    int fds[2];

    assert_ok(chan_pair(fds, &e));
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int control = fcntl(fds[1], F_DUPFD, 10);
        (void)close(fds[0]);
        (void)close(fds[1]);
        (void)dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
        if (dup2(control, IPC_CONTROL_FD) < 0 || close(control) != 0)
            _exit(90);
        _exit(body());
    }
    (void)close(fds[1]);
    *ret_monitor = fds[0];
    return pid;
}

static void say(int fd, enum ipc_control type, const char *body, bool with_fd)
{
    struct chan_msg m = {.type = (uint16_t)type, .body = bytes_str(body), .nfds = with_fd ? 1 : 0, .fds = {STDIN_FILENO}};
    struct err e;

    assert_ok(chan_send(fd, &m, &e));
}

static void hear(int fd, enum ipc_control type, const char *part)
{
    static uint8_t buf[CHILD_BUF_BYTES];
    struct chan_msg m;
    struct err e;

    assert_ok(chan_recv(fd, 5000, buf, sizeof(buf), &m, &e));
    assert_int_equal(m.type, type);
    assert_non_null(memmem(m.body.p, m.body.n, part, strlen(part)));
}

static int body_serves(void)
{
    static uint8_t buf[CHILD_BUF_BYTES];
    struct child c;
    struct chan_msg m;
    struct err e;
    int sig = 0;

    if (child_start("core", &c, &e).failed)
        return 1;
    if (strcmp(c.config->trust_domain, "example.org") != 0 || c.control != IPC_CONTROL_FD)
        return 2;
    if (raise(SIGTERM) != 0 || raise(SIGINT) != 0 || raise(SIGHUP) != 0 || raise(SIGPIPE) != 0) /* all ignored */
        return 3;
    if (prctl(PR_GET_PDEATHSIG, &sig, 0L, 0L, 0L) != 0 || sig != SIGKILL)
        return 4;
    if (child_ready(&c, "listening", &e).failed || child_notice(&c, IPC_WANT_PIN, BYTES(NULL, 0), &e).failed)
        return 5;
    if (child_expect(&c, IPC_CORE_CHANNEL, 1, 5000, buf, sizeof(buf), &m, &e).failed || m.nfds != 1)
        return 6;
    /* the same type without its descriptor, then another type with one: refused, and the descriptor is closed */
    if (!child_expect(&c, IPC_CORE_CHANNEL, 1, 5000, buf, sizeof(buf), &m, &e).failed || strcmp(e.reason, "CONTROL_MESSAGE") != 0)
        return 7;
    int probe = dup(0);
    (void)close(probe);
    if (!child_expect(&c, IPC_CORE_CHANNEL, 1, 5000, buf, sizeof(buf), &m, &e).failed || e.code != ERR_INVALID)
        return 8;
    int again = dup(0);
    if (again != probe)
        return 9;
    child_release(&c);
    return c.config == NULL && c.control == -1 ? 0 : 10;
}

static void test_starts_and_talks(void **state)
{
    int m;
    pid_t pid = begin(body_serves, &m);

    (void)state;
    say(m, IPC_CONFIG, CONFIG, false);
    hear(m, IPC_READY, "listening");
    hear(m, IPC_WANT_PIN, "");
    say(m, IPC_CORE_CHANNEL, "", true);
    say(m, IPC_CORE_CHANNEL, "", false);
    say(m, IPC_LISTENER, "", true);
    assert_int_equal(finish(pid), 0);
    (void)close(m);
}

static int body_fatal(void)
{
    struct child c;
    struct err e;

    if (child_start("hsm", &c, &e).failed)
        return child_start_failed("hsm", &e);
    (void)err_set(&e, ERR_UNAVAILABLE, "TOKEN", "f", 1, "the token is locked");
    child_fatal(&c, &e);
}

static void test_fatal_tells_the_monitor(void **state)
{
    int m;
    pid_t pid = begin(body_fatal, &m);

    (void)state;
    say(m, IPC_CONFIG, CONFIG, false);
    hear(m, IPC_FATAL, "the token is locked [ERR_UNAVAILABLE/TOKEN]");
    assert_int_equal(finish(pid), 1);
    (void)close(m);
}

static void test_bad_configuration_is_fatal(void **state)
{
    int m;
    pid_t pid = begin(body_fatal, &m);

    (void)state;
    say(m, IPC_CONFIG, CONFIG "colour = red\n", false);
    hear(m, IPC_FATAL, "unknown key \"colour\"");
    assert_int_equal(finish(pid), 1);
    (void)close(m);
    pid = begin(body_fatal, &m);
    say(m, IPC_DRAIN, "", false); /* not the configuration */
    hear(m, IPC_FATAL, "expected control message 1");
    assert_int_equal(finish(pid), 1);
    (void)close(m);
}

static int body_orphan(void)
{
    struct child c;
    struct err e;

    return child_start("core", &c, &e).failed && e.code == ERR_UNAVAILABLE && strcmp(e.reason, "CHANNEL_CLOSED") == 0 ? 0 : 1;
}

static void test_monitor_gone(void **state)
{
    int m;
    pid_t pid = begin(body_orphan, &m);

    (void)state;
    (void)close(m);
    assert_int_equal(finish(pid), 0);
}

static int body_by_hand(void)
{
    struct child c;
    struct err e;

    (void)close(IPC_CONTROL_FD);
    if (!child_start("core", &c, &e).failed || e.code != ERR_STATE || strcmp(e.reason, "NOT_A_CHILD") != 0)
        return 1;
    if (dup2(STDERR_FILENO, IPC_CONTROL_FD) < 0 || !child_start("core", &c, &e).failed) /* a file is no channel */
        return 2;
    return child_start_failed("core", &e) == 1 ? 0 : 3;
}

static void test_started_by_hand(void **state)
{
    int m;
    pid_t pid = begin(body_by_hand, &m);

    (void)state;
    assert_int_equal(finish(pid), 0);
    (void)close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_starts_and_talks),
        cmocka_unit_test(test_fatal_tells_the_monitor),
        cmocka_unit_test(test_bad_configuration_is_fatal),
        cmocka_unit_test(test_monitor_gone),
        cmocka_unit_test(test_started_by_hand),
    };
    return cmocka_run_group_tests_name("child", tests, NULL, NULL);
}
