#include "vault/ops/proc.h"

#include "base/confine.h"
#include "base/log.h"
#include "base/sm.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLAVIGER_LIBEXEC
#define CLAVIGER_LIBEXEC "/usr/local/libexec/claviger"
#endif

static const struct sm_state states[] = {
    [PROC_DOWN] = {"down", 1U << PROC_STARTING | 1U << PROC_DONE},
    [PROC_STARTING] = {"starting", 1U << PROC_READY | 1U << PROC_DOWN | 1U << PROC_DRAINING},
    [PROC_READY] = {"ready", 1U << PROC_DOWN | 1U << PROC_DRAINING},
    [PROC_DRAINING] = {"draining", 1U << PROC_DONE},
    [PROC_DONE] = {"done", 0},
};
static const struct sm_table machine = {"child", states, sizeof(states) / sizeof(*states)};

static void move(struct proc *p, enum proc_state to)
{
    struct err e;

    INVARIANT(!sm_move(&machine, &p->state, to, &e).failed);
}

const char *proc_state_name(const struct proc *p)
{
    return sm_name(&machine, p->state);
}

void proc_init(struct proc *p, const char *role, const char *argument)
{
    *p = (struct proc){.role = role, .argument = argument, .control = -1, .backoff_ms = PROC_BACKOFF_MIN_MS};
}

bool proc_alive(const struct proc *p)
{
    return p->pid > 0;
}

/* Nothing of our environment reaches a child: gRPC's and OpenSSL's variables print plaintext and change trust. */
static char *const *child_environment(char *out[5])
{
    size_t n = 0;

    out[n++] = (char *)(uintptr_t) "LANG=C.UTF-8";
    /* Resolving a library's symbol at its first use leaves the vector registers on the stack, and with them the last bytes that
     * were copied: plaintext. */
    out[n++] = (char *)(uintptr_t) "LD_BIND_NOW=1";
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    static const char *const kept[] = {"ASAN_OPTIONS=", "TSAN_OPTIONS="};
    for (char **v = environ; *v != NULL; v++)
        for (size_t i = 0; i < 2 && n < 4; i++)
            if (strncmp(*v, kept[i], strlen(kept[i])) == 0)
                out[n++] = *v;
#endif
    out[n] = NULL;
    return out;
}

/* Between fork and exec: only calls that are safe there. */
__attribute__((noreturn)) static void become(const char *path, char *const *argv, int control, pid_t monitor)
{
    char *env[5];
    sigset_t none;
    int null = open("/dev/null", O_RDONLY);

    /* dup2 to itself would keep CLOEXEC: move away first */
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || (control = fcntl(control, F_DUPFD, IPC_CONTROL_FD + 1)) < 0 ||
        dup2(control, IPC_CONTROL_FD) < 0 || close_range(IPC_CONTROL_FD + 1, UINT_MAX, 0) != 0)
        _exit(126);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (prctl(PR_SET_PDEATHSIG, (long)SIGKILL, 0L, 0L, 0L) != 0 || getppid() != monitor)
        _exit(126);
    (void)execve(path, argv, child_environment(env));
    _exit(127);
}

RESULT proc_spawn(struct proc *p, const char *libexec, int64_t now_ms, struct err *e)
{
    char path[PATH_MAX], name[32];
    char *argv[3] = {name, (char *)(uintptr_t)p->argument, NULL};
    int fds[2];
    pid_t pid, monitor = getpid();

    INVARIANT(!proc_alive(p));
    (void)snprintf(name, sizeof(name), "kmsd-%s", p->role);
    if (snprintf(path, sizeof(path), "%s/%s", libexec, name) >= (int)sizeof(path))
        FAIL(e, ERR_INVALID, "LIBEXEC", "the path of %s is too long", name);
    TRY(chan_pair(fds, e));
    pid = fork();
    if (pid == 0)
        become(path, argv, fds[1], monitor);
    (void)close(fds[1]);
    if (pid < 0) {
        (void)close(fds[0]);
        FAIL_ERRNO(e, ERR_EXHAUSTED, "FORK", "cannot start %s", name);
    }
    move(p, PROC_STARTING);
    p->pid = pid;
    p->control = fds[0];
    p->retry_ms = now_ms;
    p->kill_ms = 0;
    log_event(LOG_INFO, "child started", LF_STR("role", p->role), LF_INT("pid", pid));
    return ok();
}

RESULT proc_send(struct proc *p, enum ipc_control type, struct bytes body, const int *fds, size_t nfds, struct err *e)
{
    struct chan_msg m = {.type = (uint16_t)type, .body = body, .nfds = nfds};
    struct pollfd writable = {.fd = p->control, .events = POLLOUT};

    INVARIANT(nfds <= CHAN_MAX_FDS);
    if (nfds > 0)
        memcpy(m.fds, fds, nfds * sizeof(*fds));
    if (p->control < 0)
        FAIL(e, ERR_UNAVAILABLE, "CHANNEL_CLOSED", "%s is gone", p->role);
    if (poll(&writable, 1, 0) != 1) {
        proc_kill(p);
        FAIL(e, ERR_UNAVAILABLE, "CHILD_HUNG", "%s does not read its control channel: killed", p->role);
    }
    return chan_send(p->control, &m, e);
}

void proc_ready(struct proc *p, int64_t now_ms)
{
    move(p, PROC_READY);
    p->ever_ready = true;
    p->ready_ms = now_ms;
}

void proc_drain(struct proc *p)
{
    struct err e;

    if (p->state == PROC_DRAINING || p->state == PROC_DONE)
        return;
    if (!proc_alive(p)) {
        move(p, PROC_DONE);
        return;
    }
    move(p, PROC_DRAINING);
    /* gone already, after FATAL for one: nothing to report but its end */
    if (proc_send(p, IPC_DRAIN, BYTES(NULL, 0), NULL, 0, &e).failed && e.code != ERR_UNAVAILABLE)
        log_event(LOG_WARN, "cannot ask a child to drain", LF_STR("role", p->role), LF_ERR(&e));
}

void proc_kill(struct proc *p)
{
    if (proc_alive(p))
        (void)kill(p->pid, SIGKILL);
}

void proc_channel_closed(struct proc *p, int64_t now_ms)
{
    if (p->control >= 0)
        (void)close(p->control);
    p->control = -1;
    p->kill_ms = now_ms + PROC_CLOSED_GRACE_MS;
}

static void log_end(const struct proc *p, pid_t pid, int status)
{
    enum log_level level = p->state == PROC_DRAINING && status == 0 ? LOG_INFO : LOG_ERROR;

    if (WIFSIGNALED(status))
        log_event(LOG_ERROR, "child died of a signal", LF_STR("role", p->role), LF_INT("pid", pid),
                  LF_STR("signal", sigabbrev_np(WTERMSIG(status))), LF_STR("state", proc_state_name(p)));
    else
        log_event(level, "child exited", LF_STR("role", p->role), LF_INT("pid", pid), LF_INT("status", WEXITSTATUS(status)),
                  LF_STR("state", proc_state_name(p)));
}

bool proc_reap(struct proc *p, int64_t now_ms)
{
    int status;

    if (!proc_alive(p) || waitpid(p->pid, &status, WNOHANG) != p->pid)
        return false;
    log_end(p, p->pid, status);
    p->pid = 0;
    p->kill_ms = 0;
    if (p->control >= 0)
        (void)close(p->control);
    p->control = -1;
    if (p->state == PROC_DRAINING) {
        move(p, PROC_DONE);
        return true;
    }
    if (p->state == PROC_READY && now_ms - p->ready_ms >= PROC_HEALTHY_MS)
        p->backoff_ms = PROC_BACKOFF_MIN_MS;
    move(p, PROC_DOWN);
    p->retry_ms = now_ms + p->backoff_ms;
    p->backoff_ms = p->backoff_ms * 2 > PROC_BACKOFF_MAX_MS ? PROC_BACKOFF_MAX_MS : p->backoff_ms * 2;
    return true;
}

static bool has_children(const char *dir)
{
    char path[PATH_MAX];

    return snprintf(path, sizeof(path), "%s/kmsd-core", dir) < (int)sizeof(path) && access(path, X_OK) == 0;
}

RESULT proc_find_libexec(char *out, size_t n, struct err *e)
{
    char self[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash;

    if (len < 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "LIBEXEC", "cannot find out where this program lies (is /proc mounted?)");
    self[len] = '\0';
    slash = strrchr(self, '/');
    INVARIANT(slash != NULL);
    *slash = '\0';
    if (snprintf(out, n, "%s", has_children(self) ? self : CLAVIGER_LIBEXEC) >= (int)n)
        FAIL(e, ERR_INVALID, "LIBEXEC", "the path of this program is too long");
    return ok();
}

RESULT proc_check_libexec(const char *libexec, struct err *e)
{
    static const char *const names[] = {"kmsd-hsm", "kmsd-core", "kmsd-front"};
    char path[PATH_MAX];

    for (size_t i = 0; i < 3; i++)
        if (snprintf(path, sizeof(path), "%s/%s", libexec, names[i]) >= (int)sizeof(path) || access(path, X_OK) != 0)
            FAIL(e, ERR_NOT_FOUND, "LIBEXEC", "%s is not in %s: the installation is not complete", names[i], libexec);
    return ok();
}
