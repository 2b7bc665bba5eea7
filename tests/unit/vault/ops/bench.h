/*
 * Purpose: what the tests of the monitor share: the monitor in a process of its own, with stand-in children (standin.h), which are the
 *          test's own program under the names kmsd-hsm, kmsd-core and kmsd-front, and the reports that they send.
 * Owns:    a folder in /tmp, the monitor's process. Threads: one. Errors: a failed step fails the test.
 * Limits:  WAIT_MS for a report, LOG_BYTES of them. Secrets: none.
 */
#ifndef TESTS_UNIT_VAULT_OPS_BENCH_H
#define TESTS_UNIT_VAULT_OPS_BENCH_H

#include "base/log.h"
#include "tests/unit/vault/ops/standin.h"
#include "vault/ops/init.h"
#include "vault/ops/monitor.h"

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

enum { WAIT_MS = 60000, LOG_BYTES = 65536 };

struct bench {
    char dir[64], errors[LOG_BYTES];
    int report, err_pipe;
    pid_t monitor;
    char log[LOG_BYTES]; /* all reports so far, one a line */
    size_t n;
    const char *behaviour, *drain_timeout;
    bool init;
};

static inline void path_of(const struct bench *b, const char *name, char out[128])
{
    (void)snprintf(out, 128, "%s/%s", b->dir, name);
}

static inline void write_file(const struct bench *b, const char *name, const char *text, mode_t mode)
{
    char path[128];
    path_of(b, name, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    (void)close(fd);
}

static inline int setup(void **state)
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

static inline int teardown(void **state)
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

static inline int monitor_process(const struct bench *b)
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

static inline void start(struct bench *b)
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

static inline void take_report(struct bench *b)
{
    ssize_t n = recv(b->report, b->log + b->n, sizeof(b->log) - b->n - 2, 0);

    assert_true(n > 0);
    b->n += (size_t)n;
    b->log[b->n++] = '\n';
    b->log[b->n] = '\0';
}

/* Waits for a report that contains `what`, from byte `from` of the log on; returns where it stands. */
static inline size_t expect_from(struct bench *b, size_t from, const char *what)
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

static inline size_t expect(struct bench *b, const char *what)
{
    return expect_from(b, 0, what);
}

static inline pid_t pid_in(struct bench *b, size_t at)
{
    return (pid_t)atoi(strstr(b->log + at, "started ") + 8);
}

/* Reads reports meanwhile: a stand-in whose report nobody takes would wait for ever. */
static inline int end(struct bench *b)
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

/* In each test's main, first: a stand-in's exit code, or -1 where it is the test that runs. */
static inline int bench_standin(int argc, char **argv)
{
    const char *name = strrchr(argv[0], '/') != NULL ? strrchr(argv[0], '/') + 1 : argv[0];
    for (const char *const *role = (const char *const[]){"hsm", "core", "front", NULL}; *role != NULL; role++)
        if (strncmp(name, "kmsd-", 5) == 0 && strcmp(name + 5, *role) == 0)
            return standin_main(*role, argc > 1 ? argv[1] : NULL);
    return -1;
}

#define BENCH(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
