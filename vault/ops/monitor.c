#include "vault/ops/monitor_state.h"

#include "base/clock.h"
#include "base/log.h"
#include "vault/ops/files.h"
#include "vault/ops/notify.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

static int64_t now_ms(void)
{
    return clock_boot_ms(&clock_system);
}

/* ---- stopping ---- */

/* Front first, so that the core ends with no call left; the next goes when the one before has exited. */
static void stop_step(struct monitor *m)
{
    for (size_t i = m->nchildren; i-- > 0;) {
        proc_drain(&m->child[i]);
        if (proc_alive(&m->child[i]))
            return;
    }
}

static void stop(struct monitor *m, int exit_code, const char *why)
{
    if (exit_code > m->exit_code)
        m->exit_code = exit_code;
    if (m->stopping)
        return;
    log_event(LOG_INFO, "stopping", LF_STR("why", why));
    m->stopping = true;
    m->deadline_ms = now_ms() + (int64_t)m->config->drain_timeout + MONITOR_GRACE_MS;
    if (!monitor_is_init(m)) {
        notify_state("STOPPING=1");
        endpoint_remove(m->config->run_dir);
    }
    /* Streams that would go on for ever (audit tail) end now; the front waits for them. */
    if (!monitor_is_init(m) && proc_alive(&m->child[CORE])) {
        struct err e;
        (void)!proc_send(&m->child[CORE], IPC_STOPPING, BYTES(NULL, 0), NULL, 0, &e).failed;
    }
    stop_step(m);
}

static void kill_all(struct monitor *m, const char *why)
{
    if (!m->killed)
        log_event(LOG_WARN, "killing what still runs", LF_STR("why", why));
    m->killed = true;
    m->exit_code = 1;
    for (size_t i = 0; i < m->nchildren; i++)
        proc_kill(&m->child[i]);
}

static bool finished(const struct monitor *m)
{
    for (size_t i = 0; i < m->nchildren; i++)
        if (m->child[i].state != PROC_DONE)
            return false;
    return m->stopping;
}

/* ---- starting ---- */

/* The first time each waits until the one before it has been ready; after that they start independently. */
static void start_due(struct monitor *m)
{
    int64_t now = now_ms();

    for (size_t i = 0; i < m->nchildren && !m->stopping; i++) {
        struct proc *p = &m->child[i];
        struct err e;
        if (p->state != PROC_DOWN || now < p->retry_ms || (i > 0 && !m->child[i - 1].ever_ready))
            continue;
        if (proc_spawn(p, m->libexec, now, &e).failed) {
            log_event(LOG_ERROR, "cannot start a child", LF_STR("role", p->role), LF_ERR(&e));
            p->retry_ms = now + PROC_BACKOFF_MAX_MS;
        }
        else if (greet_child(m, p, &e).failed) {
            log_event(LOG_ERROR, "cannot give a child what it needs", LF_STR("role", p->role), LF_ERR(&e));
            proc_kill(p); /* comes again with backoff: the file may be back by then */
        }
    }
}

/* ---- what children say ---- */

static void announce(struct monitor *m)
{
    struct err e;

    for (size_t i = 0; i < m->nchildren; i++)
        if (m->child[i].state != PROC_READY)
            return;
    if (m->announced)
        return;
    m->announced = true;
    if (endpoint_write(m->config->run_dir, m->address, &e).failed)
        log_event(LOG_ERROR, "cannot write the endpoint file", LF_ERR(&e));
    log_event(LOG_INFO, "serving", LF_STR("address", m->address));
    notify_state("READY=1");
}

static void on_ready(struct monitor *m, struct proc *p, struct bytes text)
{
    if (p->state != PROC_STARTING) {
        if (p->state != PROC_DRAINING) /* it was about to say so when DRAIN went out */
            log_event(LOG_WARN, "a child says it is ready twice", LF_STR("role", p->role));
        return;
    }
    proc_ready(p, now_ms());
    log_event(LOG_INFO, "child ready", LF_STR("role", p->role), LF_TXT("text", text));
    if (!monitor_is_init(m)) {
        announce(m);
    }
    else if (p == &m->child[CORE]) {
        (void)printf("%.*s\n", (int)text.n, (const char *)text.p);
        (void)fflush(stdout);
        stop(m, 0, "done");
    }
}

static void on_message(struct monitor *m, struct proc *p, const struct chan_msg *msg)
{
    struct err e;

    switch (msg->type) {
    case IPC_READY:
        on_ready(m, p, msg->body);
        return;
    case IPC_FATAL:
        (void)fprintf(stderr, "kmsd: %s: %.*s\n", p->role, (int)msg->body.n, (const char *)msg->body.p);
        stop(m, 1, "a child cannot go on");
        return;
    case IPC_WANT_PIN:
        if (p == &m->child[HSM]) {
            if (greet_pin(m, &e).failed)
                log_event(LOG_ERROR, "cannot hand over the PIN file", LF_ERR(&e));
            return;
        }
        break;
    default:
        break;
    }
    log_event(LOG_ERROR, "a child said what it may not say", LF_STR("role", p->role), LF_INT("type", msg->type));
    proc_kill(p);
}

/* One message; false when there is none, or no more. */
static bool receive(struct monitor *m, struct proc *p)
{
    struct chan_msg msg;
    struct err e;

    if (p->control < 0)
        return false;
    if (chan_recv(p->control, 0, m->buf, CHAN_MAX_BYTES + 16, &msg, &e).failed) {
        if (e.code == ERR_DEADLINE)
            return false;
        if (e.code != ERR_UNAVAILABLE) {
            log_event(LOG_ERROR, "bad control message", LF_STR("role", p->role), LF_ERR(&e));
            proc_kill(p);
        }
        proc_channel_closed(p, now_ms());
        return false;
    }
    for (size_t i = 0; i < msg.nfds; i++)
        (void)close(msg.fds[i]); /* children hand the monitor nothing */
    on_message(m, p, &msg);
    return true;
}

static void reap(struct monitor *m)
{
    for (size_t i = 0; i < m->nchildren; i++) {
        struct proc *p = &m->child[i];
        /* Its last words are in the channel: FATAL, then exit. */
        siginfo_t info = {0};
        if (!proc_alive(p) || waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0)
            continue;
        while (receive(m, p))
            continue;
        if (proc_reap(p, now_ms()) && monitor_is_init(m) && !m->stopping) {
            (void)fprintf(stderr, "kmsd: %s ended before the task was done; see the log lines above\n", p->role);
            stop(m, 1, "a child ended early");
        }
    }
    if (m->stopping)
        stop_step(m);
}

/* ---- signals ---- */

static void reload(struct monitor *m)
{
    struct err e;

    if (monitor_is_init(m) || m->stopping)
        return;
    log_event(LOG_INFO, "reloading certificates");
    if (proc_alive(&m->child[FRONT]) && greet_tls_files(m, &e).failed)
        log_event(LOG_ERROR, "the old server certificate stays in use", LF_ERR(&e));
    if (proc_alive(&m->child[CORE]) && greet_reload(m, &e).failed)
        log_event(LOG_ERROR, "the old client CAs stay in use", LF_ERR(&e));
}

static void on_signals(struct monitor *m)
{
    struct signalfd_siginfo s;
    bool children = false;

    while (read(m->signals, &s, sizeof(s)) == (ssize_t)sizeof(s)) {
        if (s.ssi_signo == SIGCHLD)
            children = true;
        else if (s.ssi_signo == SIGHUP)
            reload(m);
        else if (m->stopping)
            kill_all(m, "second signal");
        else
            stop(m, monitor_is_init(m) ? 1 : 0, s.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM");
    }
    if (children)
        reap(m);
}

static RESULT signals_open(int *ret_fd, struct err *e)
{
    sigset_t set;
    int fd;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGCHLD);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0 || (fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC)) < 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "SIGNALS", "signalfd");
    *ret_fd = fd;
    return ok();
}

/* ---- the loop ---- */

static void sooner(int64_t *due, int64_t t)
{
    if (*due < 0 || t < *due)
        *due = t;
}

static int poll_timeout(const struct monitor *m)
{
    int64_t due = -1, left;

    if (m->stopping && !m->killed)
        sooner(&due, m->deadline_ms);
    for (size_t i = 0; i < m->nchildren; i++) {
        const struct proc *p = &m->child[i];
        if (p->state == PROC_DOWN && !m->stopping && (i == 0 || m->child[i - 1].ever_ready))
            sooner(&due, p->retry_ms);
        if (p->kill_ms > 0)
            sooner(&due, p->kill_ms);
    }
    if (due < 0)
        return -1;
    left = due - now_ms();
    return left <= 0 ? 0 : (int)(left + 1);
}

static void on_time(struct monitor *m)
{
    int64_t now = now_ms();

    if (m->stopping && !m->killed && now >= m->deadline_ms)
        kill_all(m, "drain timeout");
    for (size_t i = 0; i < m->nchildren; i++) {
        struct proc *p = &m->child[i];
        if (p->kill_ms > 0 && now >= p->kill_ms) {
            p->kill_ms = 0;
            proc_kill(p);
        }
    }
    start_due(m);
}

static void loop(struct monitor *m)
{
    start_due(m);
    while (!finished(m)) {
        struct pollfd p[1 + CHILDREN] = {{.fd = m->signals, .events = POLLIN}};
        for (size_t i = 0; i < CHILDREN; i++)
            p[1 + i] = (struct pollfd){.fd = i < m->nchildren ? m->child[i].control : -1, .events = POLLIN};
        int n = poll(p, 1 + CHILDREN, poll_timeout(m));
        INVARIANT(n >= 0 || errno == EINTR);
        for (size_t i = 0; i < m->nchildren; i++)
            if (n > 0 && p[1 + i].revents != 0)
                (void)receive(m, &m->child[i]);
        if (n > 0 && p[0].revents != 0)
            on_signals(m);
        on_time(m);
    }
}

/* Children inherit these; a limit that cannot be raised shows itself where it is needed. */
static void raise_limit(int what, rlim_t want)
{
    struct rlimit l;

    if (getrlimit((__rlimit_resource_t)what, &l) != 0)
        return;
    if (geteuid() == 0 && (l.rlim_max < want || want == RLIM_INFINITY))
        l.rlim_max = want;
    l.rlim_cur = l.rlim_max < want ? l.rlim_max : want;
    (void)setrlimit((__rlimit_resource_t)what, &l);
}

static RESULT prepare(struct monitor *m, struct err *e)
{
    int cert, key;

    raise_limit(RLIMIT_NOFILE, (rlim_t)m->config->max_connections * 2 + 4096);
    raise_limit(RLIMIT_MEMLOCK, RLIM_INFINITY);
    TRY(proc_check_libexec(m->libexec, e));
    TRY(files_prepare_dirs(m->config, e));
    TRY(files_lock(m->config, &m->lock, e));
    if (!monitor_is_init(m)) {
        TRY(files_open_tls(m->config, &cert, &key, e));
        (void)close(cert);
        (void)close(key);
        endpoint_remove(m->config->run_dir);
        TRY(listen_open(m->config->listen, &m->listener, m->address, e));
    }
    return signals_open(&m->signals, e);
}

static void monitor_release(struct monitor *m)
{
    edge_release(&m->edge[0]);
    edge_release(&m->edge[1]);
    if (m->signals >= 0)
        (void)close(m->signals);
    if (m->listener >= 0)
        (void)close(m->listener);
    if (m->lock >= 0)
        (void)close(m->lock);
    free(m->buf);
}

RESULT monitor_run(const struct monitor_options *o, int *ret_exit, struct err *e)
{
    CLEANUP(monitor_release) struct monitor m = {.config = o->config, .libexec = o->libexec, .init_message = o->init_message,
                                                 .offline = o->offline,
                                                 .signals = -1, .listener = -1, .lock = -1};

    m.buf = malloc(CHAN_MAX_BYTES + 16);
    INVARIANT(m.buf != NULL);
    m.nchildren = monitor_is_init(&m) ? FRONT : CHILDREN;
    const char *argument = monitor_is_init(&m) ? "--init" : NULL;
    proc_init(&m.child[HSM], "hsm", m.offline ? NULL : argument);
    proc_init(&m.child[CORE], "core", m.offline ? "--offline" : argument);
    proc_init(&m.child[FRONT], "front", NULL);
    edge_init(&m.edge[0], &m.child[HSM], IPC_CORE_CHANNEL, &m.child[CORE], IPC_HSM_CHANNEL);
    edge_init(&m.edge[1], &m.child[CORE], IPC_FRONT_CHANNEL, &m.child[FRONT], IPC_CORE_CHANNEL);
    TRY(prepare(&m, e));
    loop(&m);
    *ret_exit = m.exit_code;
    return ok();
}
