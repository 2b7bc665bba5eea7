/* Plays the monitor for one real kmsd-hsm, confinement and all: starts it, hands it its channel and the PIN file. */
#ifndef TESTS_UNIT_HSM_MONITOR_H
#define TESTS_UNIT_HSM_MONITOR_H

#include "tests/unit/hsm/fixture.h"

#include "base/chan.h"
#include "base/ipc.h"
#include "tests/unit/slow.h"

#include <pthread.h>
#include <signal.h>

enum { TIMEOUT_MS = 1000, PATIENCE_MS = 20000 };

struct monitor {
    struct fixture *f;
    pid_t pid;
    int control, status;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ready, ended;
    unsigned pins;
    void (*_Atomic before_pin)(const struct fixture *f); /* in the monitor's thread: no assertions */
    char fatal[1024];
};

static inline void binary_path(const char *beside, char out[256])
{
    char exe[200];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    assert_true(n > 0);
    exe[n] = '\0';
    *strrchr(exe, '/') = '\0';
    (void)snprintf(out, 256, "%s/%s", exe, beside);
}

static inline int64_t now_ms(void)
{
    return clock_boot_ms(&clock_system);
}

/* Runs in a thread, so no cmocka assertion here: what goes wrong shows as a missing READY. */
static inline void monitor_send_pin(struct monitor *m)
{
    struct err e = {0};
    struct chan_msg out = {.type = IPC_PIN_FILE, .body = BYTES_LIT("cannot be opened")};
    int fd = open(m->f->pin, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        out.nfds = 1;
        out.fds[0] = fd;
        out.body = BYTES(NULL, 0);
    }
    (void)chan_send(m->control, &out, &e).failed;
    if (fd >= 0)
        (void)close(fd);
}

static inline void *monitor_run(void *arg)
{
    struct monitor *m = arg;
    struct err e = {0};
    struct chan_msg in;
    uint8_t buf[4096];
    while (!chan_recv(m->control, -1, buf, sizeof buf, &in, &e).failed) {
        void (*spoil)(const struct fixture *f) = m->before_pin;
        if (in.type == IPC_WANT_PIN && spoil != NULL)
            spoil(m->f);
        if (in.type == IPC_WANT_PIN)
            monitor_send_pin(m);
        (void)pthread_mutex_lock(&m->lock);
        m->pins += in.type == IPC_WANT_PIN;
        m->ready |= in.type == IPC_READY;
        if (in.type == IPC_FATAL)
            (void)snprintf(m->fatal, sizeof m->fatal, "%.*s", (int)in.body.n, (const char *)in.body.p);
        (void)pthread_cond_broadcast(&m->changed);
        (void)pthread_mutex_unlock(&m->lock);
    }
    int status = 0;
    (void)waitpid(m->pid, &status, 0);
    (void)pthread_mutex_lock(&m->lock);
    m->status = status;
    m->ended = true;
    (void)pthread_cond_broadcast(&m->changed);
    (void)pthread_mutex_unlock(&m->lock);
    return NULL;
}

static inline void monitor_config(const struct fixture *f, const char *module, const char *uri, char out[4096])
{
    (void)snprintf(out, 4096,
                   "state_dir = %s\nrun_dir = %s\nlocations = eu\ntrust_domain = t.example\ntls_cert_file = /dev/null\n"
                   "tls_key_file = /dev/null\nclient_ca_file = /dev/null\nhsm_module = %s\nhsm_token = %s\nhsm_pin_file = %s\n"
                   "hsm_config_file = %s\nhsm_timeout = %dms\nlog_level = error\n%s",
                   f->state, f->dir, module, uri, f->pin, f->conf, f->timeout_ms > 0 ? f->timeout_ms : slower(TIMEOUT_MS),
                   f->more != NULL ? f->more : "");
}

/* uri, module: NULL for the right ones. core_fd: its end of the channel, or -1; the caller keeps the descriptor. */
static inline void monitor_start(struct monitor *m, struct fixture *f, const char *module, const char *uri, bool init, int core_fd)
{
    char path[256], text[4096];
    int fds[2];
    struct chan_msg config = {.type = IPC_CONFIG}, channel = {.type = IPC_CORE_CHANNEL, .nfds = 1, .fds = {core_fd}};
    binary_path("../../bin/kmsd-hsm", path);
    OK(chan_pair(fds, &e));
    *m = (struct monitor){.f = f, .control = fds[0]};
    m->pid = fork();
    if (m->pid == 0) {
        char *argv[] = {(char *)"kmsd-hsm", init ? (char *)"--init" : NULL, NULL};
        int quiet = open("/dev/null", O_WRONLY);
        if (getenv("HSM_TEST_VERBOSE") == NULL)
            (void)dup2(quiet, STDERR_FILENO);
        int away = fcntl(fds[1], F_DUPFD, 10);
        (void)dup2(away, IPC_CONTROL_FD);
        (void)close_range(IPC_CONTROL_FD + 1, ~0u, 0);
        (void)execve(path, argv, environ);
        _exit(127);
    }
    (void)close(fds[1]);
    assert_true(m->pid > 0);
    assert_int_equal(pthread_mutex_init(&m->lock, NULL), 0);
    assert_int_equal(pthread_cond_init(&m->changed, NULL), 0);
    monitor_config(f, module != NULL ? module : SOFTHSM, uri != NULL ? uri : TOKEN_URI, text);
    config.body = bytes_str(text);
    OK(chan_send(m->control, &config, &e));
    if (core_fd >= 0)
        OK(chan_send(m->control, &channel, &e));
    assert_int_equal(pthread_create(&m->thread, NULL, monitor_run, m), 0);
}

/* Waits until it is ready (true) or has ended (false). */
static inline bool monitor_ready(struct monitor *m)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += slower(PATIENCE_MS) / 1000;
    (void)pthread_mutex_lock(&m->lock);
    while (!m->ready && !m->ended && pthread_cond_timedwait(&m->changed, &m->lock, &until) == 0)
        ;
    bool ready = m->ready;
    (void)pthread_mutex_unlock(&m->lock);
    return ready;
}

static inline unsigned monitor_pins(struct monitor *m)
{
    (void)pthread_mutex_lock(&m->lock);
    unsigned pins = m->pins;
    (void)pthread_mutex_unlock(&m->lock);
    return pins;
}

/* Returns the wait status. */
static inline int monitor_join(struct monitor *m)
{
    assert_int_equal(pthread_join(m->thread, NULL), 0);
    (void)close(m->control);
    (void)pthread_cond_destroy(&m->changed);
    (void)pthread_mutex_destroy(&m->lock);
    return m->status;
}

static inline int monitor_drain(struct monitor *m)
{
    const struct chan_msg drain = {.type = IPC_DRAIN};
    OK(chan_send(m->control, &drain, &e));
    return monitor_join(m);
}

#endif
