#include "vault/front/front.h"

#include "base/confine.h"
#include "base/log.h"
#include "vault/front/accept.h"
#include "vault/front/backend.h"
#include "vault/front/tls.h"

#include <unistd.h>

struct front {
    struct child *child;
    struct loop loop;
    bool has_listener, has_channel;
    uint8_t buf[CHILD_BUF_BYTES];
};

static void close_fds(struct chan_msg *m)
{
    for (size_t i = 0; i < m->nfds; i++)
        if (m->fds[i] >= 0)
            (void)close(m->fds[i]);
}

static int take_fd(struct chan_msg *m, size_t i)
{
    int fd = m->fds[i];
    m->fds[i] = -1;
    return fd;
}

static RESULT on_tls_files(struct front *f, const struct chan_msg *m, struct err *e)
{
    struct tls_ctx *fresh;
    struct err why;
    if (!tls_ctx_new(m->fds[0], m->fds[1], &fresh, &why).failed) {
        loop_set_tls(&f->loop, fresh);
        log_event(LOG_INFO, "certificate loaded");
        return ok();
    }
    if (f->loop.tls == NULL) {
        *e = why;
        return (struct result){1};
    }
    char text[512];
    log_event(LOG_ERROR, "the new certificate cannot be used, the old one stays",
              LF_STR("error", err_log_text(&why, text, sizeof text)));
    return ok();
}

static RESULT on_message(struct front *f, struct chan_msg *m, struct err *e)
{
    static const struct {
        uint16_t type;
        size_t nfds;
    } known[] = {{IPC_TLS_FILES, 2}, {IPC_LISTENER, 1}, {IPC_CORE_CHANNEL, 1}, {IPC_DRAIN, 0}, {IPC_RELOAD, 0}};
    bool good = false;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        good = good || (known[i].type == m->type && known[i].nfds == m->nfds);
    if (!good)
        FAIL(e, ERR_INTERNAL, NULL, "message %u with %zu descriptors from the monitor", m->type, m->nfds);
    if (m->type == IPC_TLS_FILES)
        return on_tls_files(f, m, e);
    if (m->type == IPC_LISTENER) {
        f->has_listener = true;
        return loop_add_listener(&f->loop, take_fd(m, 0), m->body, e);
    }
    if (m->type == IPC_CORE_CHANNEL) {
        f->has_channel = true;
        backend_set_channel(&f->loop, take_fd(m, 0));
    }
    if (m->type == IPC_DRAIN)
        loop_drain(&f->loop);
    return ok();
}

static RESULT next_message(struct front *f, int timeout_ms, struct err *e)
{
    struct chan_msg m;
    TRY(child_recv(f->child, timeout_ms, f->buf, sizeof f->buf, &m, e));
    struct result r = on_message(f, &m, e);
    close_fds(&m);
    return r;
}

static RESULT on_control(void *arg, struct err *e)
{
    return next_message(arg, 0, e);
}

static RESULT start(struct front *f, struct err *e)
{
    const struct config *c = f->child->config;
    const struct confine_path paths[] = {{.path = c->run_dir}};
    const struct confine confine = {
        .role = CONFINE_FRONT, .user = c->user_front, .paths = paths, .npaths = sizeof paths / sizeof paths[0]};
    char name[80];
    while (f->loop.tls == NULL || !f->has_listener || !f->has_channel)
        TRY(next_message(f, FRONT_START_MS, e));
    TRY(confine_self(&confine, e));
    TRY(loop_start(&f->loop, e));
    if (!accept_local_name(&f->loop, name))
        FAIL(e, ERR_INTERNAL, NULL, "the first listener has no name");
    CLEANUP(buf_release) struct buf text;
    buf_init(&text, 128);
    buf_putf(&text, "listening on %s", name);
    return child_ready(f->child, buf_cstr(&text), e);
}

static void front_release(struct front *f)
{
    loop_release(&f->loop);
}

RESULT front_serve(struct child *c, struct err *e)
{
    CLEANUP(front_release) struct front f = {.child = c};
    const struct front_limits limits = {
        .max_connections = (uint32_t)c->config->max_connections,
        .max_per_peer = (uint32_t)c->config->max_connections_per_peer,
        .max_streams = (uint32_t)c->config->max_streams_per_connection,
        .max_calls = (uint32_t)c->config->max_calls_in_flight,
        .handshake_ms = (int64_t)c->config->handshake_timeout,
        .max_age_ms = (int64_t)c->config->max_connection_age,
        .drain_ms = (int64_t)c->config->drain_timeout,
    };
    TRY(tls_memory_init(e));
    TRY(loop_init(&f.loop, &clock_system, &limits, c->config->run_dir, c->control, on_control, &f, e));
    TRY(start(&f, e));
    TRY(loop_run(&f.loop, e));
    log_event(LOG_INFO, "drained", LF_INT("accepted", f.loop.counts.accepted), LF_INT("refused", f.loop.counts.refused),
              LF_INT("policed", f.loop.counts.policed));
    return ok();
}
