/*
 * Purpose: stand-ins for kmsd-hsm, kmsd-core and kmsd-front: they speak base/ipc.h as the real ones do, and report each
 *          message as a datagram to state_dir/report.sock, so that a test can wait for it instead of sleeping.
 * Owns:    nothing. Threads: one. Errors: exit status 9 when it cannot work at all.
 * Limits:  the behaviour is chosen by cluster_name in the configuration: see standin_main.
 * Secrets: a test PIN, which it reports.
 */
#ifndef TESTS_UNIT_VAULT_OPS_STANDIN_H
#define TESTS_UNIT_VAULT_OPS_STANDIN_H

#include "base/child.h"

#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct standin {
    struct child child;
    int report;
    int channel[2]; /* 0: towards core or, in core, towards hsm. 1: in core, towards front */
    bool tls, listener, ready;
    uint8_t buf[CHILD_BUF_BYTES];
};

__attribute__((format(printf, 2, 3))) static void standin_report(struct standin *s, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    int n = snprintf(line, sizeof(line), "%s ", s->child.role);

    va_start(ap, fmt);
    n += vsnprintf(line + n, sizeof(line) - (size_t)n, fmt, ap);
    va_end(ap);
    if (send(s->report, line, (size_t)n, 0) != n)
        _exit(9);
}

static bool standin_is(const struct standin *s, const char *what)
{
    char want[64];

    (void)snprintf(want, sizeof(want), "%s-%s", what, s->child.role);
    return strcmp(s->child.config->cluster_name, want) == 0;
}

static void standin_connect_report(struct standin *s)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    (void)snprintf(a.sun_path, sizeof(a.sun_path), "%.90s/report.sock", s->child.config->state_dir);
    s->report = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (s->report < 0 || connect(s->report, (const struct sockaddr *)&a, sizeof(a)) != 0)
        _exit(9);
}

static void standin_ready(struct standin *s, const char *text)
{
    struct err e;

    if (s->ready || standin_is(s, "notready"))
        return;
    s->ready = true;
    standin_report(s, "ready");
    if (child_ready(&s->child, text, &e).failed)
        _exit(9);
}

static void standin_channel(struct standin *s, size_t i, int fd)
{
    struct chan_msg hello = {.type = 1, .body = bytes_str(s->child.role)};
    struct err e;

    if (s->channel[i] >= 0)
        (void)close(s->channel[i]);
    s->channel[i] = fd;
    standin_report(s, "channel %zu", i);
    if (chan_send(fd, &hello, &e).failed)
        standin_report(s, "cannot greet");
}

static void standin_first_line(int fd, char *out, size_t n)
{
    ssize_t got = read(fd, out, n - 1);

    out[got > 0 ? (size_t)got : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    (void)close(fd);
}

static void standin_init(struct standin *s, struct bytes body)
{
    struct reader r = reader_of(body);
    struct bytes admin = reader_v16(&r), san = reader_v16(&r);
    unsigned n = reader_u16(&r);

    standin_report(s, "init %.*s %.*s %u", (int)admin.n, (const char *)admin.p, (int)san.n, (const char *)san.p, n);
    for (unsigned i = 0; i < n; i++) {
        struct bytes name = reader_v16(&r), text = reader_v32(&r);
        standin_report(s, "document %.*s %.*s", (int)name.n, (const char *)name.p, (int)text.n, (const char *)text.p);
    }
    if (reader_u8(&r) != 0 || !reader_done(&r))
        _exit(9);
    if (standin_is(s, "dies"))
        _exit(5);
    standin_ready(s, "instance created");
}

static void standin_message(struct standin *s, const struct chan_msg *m)
{
    char a[128], b[128];
    struct err e;

    switch (m->type) {
    case IPC_TLS_FILES:
        standin_first_line(m->fds[0], a, sizeof(a));
        standin_first_line(m->fds[1], b, sizeof(b));
        standin_report(s, "tls %s %s", a, b);
        s->tls = true;
        break;
    case IPC_LISTENER:
        standin_report(s, "listener %.*s", (int)m->body.n, (const char *)m->body.p);
        s->listener = true;
        break;
    case IPC_CORE_CHANNEL:
    case IPC_HSM_CHANNEL:
        standin_channel(s, 0, m->fds[0]);
        if (strcmp(s->child.role, "hsm") == 0 && !s->ready &&
            child_notice(&s->child, IPC_WANT_PIN, BYTES(NULL, 0), &e).failed)
            _exit(9);
        break;
    case IPC_FRONT_CHANNEL:
        standin_channel(s, 1, m->fds[0]);
        break;
    case IPC_PIN_FILE:
        if (m->nfds == 1) {
            standin_first_line(m->fds[0], a, sizeof(a));
            standin_report(s, "pin %s", a);
            standin_ready(s, "token");
        }
        else {
            standin_report(s, "nopin %.*s", (int)m->body.n, (const char *)m->body.p);
        }
        break;
    case IPC_RELOAD:
        standin_first_line(m->fds[0], a, sizeof(a));
        b[0] = '\0';
        if (m->nfds == 2)
            standin_first_line(m->fds[1], b, sizeof(b));
        standin_report(s, "reload %zu %s %s", m->nfds, a, b);
        break;
    case IPC_INIT:
        standin_init(s, m->body);
        break;
    case IPC_STOPPING:
        standin_report(s, "stopping");
        break;
    case IPC_DRAIN:
        standin_report(s, "drain");
        if (!standin_is(s, "stubborn"))
            _exit(0);
        break;
    default:
        _exit(9);
    }
    if (strcmp(s->child.role, "core") == 0 && s->channel[0] >= 0 && s->channel[1] >= 0)
        standin_ready(s, "serving");
    if (strcmp(s->child.role, "front") == 0 && s->tls && s->listener && s->channel[0] >= 0)
        standin_ready(s, "listening");
}

static void standin_channel_message(struct standin *s, size_t i)
{
    struct chan_msg m;
    struct err e;

    if (chan_recv(s->channel[i], 0, s->buf, sizeof(s->buf), &m, &e).failed) {
        standin_report(s, "lost %zu", i);
        (void)close(s->channel[i]);
        s->channel[i] = -1;
        return;
    }
    standin_report(s, "hears %.*s", (int)m.body.n, (const char *)m.body.p);
}

static int standin_main(const char *role, const char *argument)
{
    static struct standin s = {.report = -1, .channel = {-1, -1}};
    struct err e = {0};

    if (child_start(role, &s.child, &e).failed)
        return child_start_failed(role, &e);
    standin_connect_report(&s);
    standin_report(&s, "started %d%s%s", (int)getpid(), argument ? " with " : "", argument ? argument : "");
    if (standin_is(&s, "fatal")) {
        (void)err_set(&e, ERR_INVALID, "TEST_FATAL", __FILE__, __LINE__, "the token is not there");
        child_fatal(&s.child, &e);
    }
    if (standin_is(&s, "rude") && child_notice(&s.child, IPC_LISTENER, BYTES(NULL, 0), &e).failed)
        return 9;
    for (;;) {
        struct pollfd p[3] = {{.fd = s.child.control, .events = POLLIN},
                              {.fd = s.channel[0], .events = POLLIN},
                              {.fd = s.channel[1], .events = POLLIN}};
        struct chan_msg m;
        if (poll(p, 3, -1) < 0)
            return 9;
        for (size_t i = 0; i < 2; i++)
            if (p[1 + i].revents != 0)
                standin_channel_message(&s, i);
        if (p[0].revents == 0)
            continue;
        if (child_recv(&s.child, 0, s.buf, sizeof(s.buf), &m, &e).failed)
            return 3;
        standin_message(&s, &m);
    }
}

#endif
