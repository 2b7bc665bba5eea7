#include "base/child.h"

#include "base/log.h"
#include "base/secret.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static RESULT check_control(struct err *e)
{
    int type = 0;
    socklen_t n = sizeof(type);

    if (getsockopt(IPC_CONTROL_FD, SOL_SOCKET, SO_TYPE, &type, &n) != 0 || type != SOCK_SEQPACKET)
        FAIL(e, ERR_STATE, "NOT_A_CHILD", "this program is started by kmsd, not by hand; run: kmsd --config FILE");
    return ok();
}

static RESULT set_signals(struct err *e)
{
    static const int ignored[] = {SIGPIPE, SIGTERM, SIGINT, SIGHUP};
    struct sigaction sa = {.sa_handler = SIG_IGN};
    sigset_t none;

    for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
        if (sigaction(ignored[i], &sa, NULL) != 0)
            FAIL_ERRNO(e, ERR_INTERNAL, "SIGNALS", "ignore signal %d", ignored[i]);
    (void)sigemptyset(&none);
    if (sigprocmask(SIG_SETMASK, &none, NULL) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "SIGNALS", "signal mask");
    if (prctl(PR_SET_PDEATHSIG, (long)SIGKILL, 0L, 0L, 0L) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "SIGNALS", "PR_SET_PDEATHSIG");
    return ok();
}

static void free_mem(uint8_t **p)
{
    free(*p);
}

static RESULT receive_config(struct child *c, struct err *e)
{
    CLEANUP(free_mem) uint8_t *buf = malloc(CHILD_BUF_BYTES);
    struct chan_msg m;
    enum log_level level;

    INVARIANT(buf != NULL);
    TRY(child_expect(c, IPC_CONFIG, 0, CHILD_START_MS, buf, CHILD_BUF_BYTES, &m, e));
    TRY(config_parse(m.body, NULL, "configuration from the monitor", &c->config, e));
    INVARIANT(log_level_from_text(bytes_str(c->config->log_level), &level)); /* config_parse checked it */
    log_init(c->role, level);
    return ok();
}

RESULT child_start(const char *role, struct child *ret, struct err *e)
{
    struct child c = {.role = role, .control = IPC_CONTROL_FD};

    log_init(role, LOG_INFO);
    TRY(check_control(e));
    TRY(secret_process_harden(e));
    TRY(set_signals(e));
    TRY(receive_config(&c, e));
    *ret = c;
    return ok();
}

static void send_fatal(const char *role, const struct err *e)
{
    char text[ERR_DETAIL_BYTES + 256];
    struct chan_msg m = {.type = IPC_FATAL};
    struct err ignored;

    m.body = bytes_str(err_operator(e, text, sizeof(text)));
    log_event(LOG_ERROR, "cannot go on", LF_ERR(e));
    if (chan_send(IPC_CONTROL_FD, &m, &ignored).failed)
        log_event(LOG_ERROR, "the monitor is gone", LF_STR("role", role));
}

int child_start_failed(const char *role, const struct err *e)
{
    char text[ERR_DETAIL_BYTES + 256];
    struct err ignored;

    if (check_control(&ignored).failed)
        (void)fprintf(stderr, "kmsd-%s: %s\n", role, err_operator(e, text, sizeof(text)));
    else
        send_fatal(role, e);
    return 1;
}

void child_fatal(struct child *c, const struct err *e)
{
    send_fatal(c->role, e);
    child_release(c);
    _exit(1); /* other threads may run: no exit handlers */
}

void child_release(struct child *c)
{
    config_freep(&c->config);
    if (c->control >= 0)
        (void)close(c->control);
    c->control = -1;
}

RESULT child_ready(struct child *c, const char *text, struct err *e)
{
    return child_notice(c, IPC_READY, bytes_str(text), e);
}

RESULT child_notice(struct child *c, enum ipc_control type, struct bytes body, struct err *e)
{
    struct chan_msg m = {.type = (uint16_t)type, .body = body};

    return chan_send(c->control, &m, e);
}

RESULT child_recv(struct child *c, int timeout_ms, void *buf, size_t buf_bytes, struct chan_msg *ret, struct err *e)
{
    return chan_recv(c->control, timeout_ms, buf, buf_bytes, ret, e);
}

RESULT child_expect(struct child *c, enum ipc_control type, size_t nfds, int timeout_ms, void *buf, size_t buf_bytes,
                    struct chan_msg *ret, struct err *e)
{
    struct chan_msg m;

    TRY(child_recv(c, timeout_ms, buf, buf_bytes, &m, e));
    if (m.type != type || m.nfds != nfds) {
        for (size_t i = 0; i < m.nfds; i++)
            (void)close(m.fds[i]);
        FAIL(e, ERR_INVALID, "CONTROL_MESSAGE", "expected control message %d with %zu descriptors, got %u with %zu",
             (int)type, nfds, m.type, m.nfds);
    }
    *ret = m;
    return ok();
}
