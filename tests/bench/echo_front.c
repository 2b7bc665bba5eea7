/* The yardstick behind our own front: takes the core's place under kmsd's monitor (put it into a folder as kmsd-core beside
 * kmsd, kmsd-front and kmsd-hsm), with vault/rpc and no service: each call is answered on its worker with as many bytes as its
 * first four ask for. What it costs is what the transport and the front cost. */
#include "base/child.h"
#include "base/confine.h"
#include "tests/bench/echo.h"
#include "vault/rpc/rpc.h"
#include "vault/service/service.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct rpc_row row = {
    .kind = RPC_UNARY, .path = ECHO_PATH, .plane = PLANE_PUBLIC, .audit = AUDIT_NONE, .limit = LIMIT_PUBLIC, .lane = LANE_FAST, .hot = true};
static const struct rpc_row *const rows[] = {&row};

const struct rpc_row *const *table_rows(size_t *ret_n)
{
    *ret_n = 1;
    return rows;
}

const struct rpc_row *table_find(const char *path)
{
    return strcmp(path, row.path) == 0 ? &row : NULL;
}

struct call *call_new(struct service *s, const struct call_start *start, struct call_sink sink)
{
    struct call *c = calloc(1, sizeof(*c));

    INVARIANT(c != NULL);
    c->svc = s;
    c->row = start->row;
    c->sink = sink;
    return c;
}

void call_message(struct call *c, struct bytes m)
{
    static const uint8_t zeros[ECHO_MAX_BYTES];
    struct call_out out = {.has_message = true, .final = true, .message = BYTES(zeros, echo_reply_bytes(m))};

    c->sink.answer(c, &out, c->sink.user);
}

void call_half_close(struct call *c) { (void)c; }
void call_sent(struct call *c) { (void)c; }
void call_cancel(struct call *c) { (void)c; }
void call_free(struct call *c) { free(c); }

/* Every connection is welcome; the look-up of the real table is part of what is not measured here. */
static struct authn_conn *nobody(void)
{
    static char c;

    return (struct authn_conn *)(void *)&c;
}

struct authn_conn *authn_conn_by_peer(struct authn *a, const char *peer)
{
    (void)a, (void)peer;
    return nobody();
}

void authn_conn_unref(struct authn_conn *c) { (void)c; }

RESULT authn_call(struct authn *a, struct authn_conn *c, struct identity *ret, struct err *e)
{
    (void)a, (void)c, (void)ret, (void)e;
    return ok();
}

void authn_identity_release(struct identity *id) { (void)id; }

struct bytes authn_conn_certificate(const struct authn_conn *c)
{
    (void)c;
    return BYTES(NULL, 0);
}

RESULT authn_conn_add(struct authn *a, struct bytes body, uint8_t ret_id[IPC_CONN_ID_BYTES], struct err *e)
{
    (void)a;
    if (body.n < IPC_CONN_ID_BYTES)
        FAIL(e, ERR_INVALID, "BAD_PACKET", "short");
    memcpy(ret_id, body.p, IPC_CONN_ID_BYTES);
    return ok();
}

void authn_conn_closed(struct authn *a, const uint8_t id[IPC_CONN_ID_BYTES]) { (void)a, (void)id; }

static RESULT serve(struct child *c, struct err *e)
{
    static uint8_t buf[CHILD_BUF_BYTES];
    const struct confine_path paths[] = {{c->config->run_dir, true}};
    const struct confine confine = {CONFINE_CORE, c->config->user_core, paths, 1};
    struct service svc = {.config = c->config, .clock = &clock_system};
    struct rpc_server *server = NULL;
    char path[4096];
    struct rpc_options o = {.service = &svc,
                            .socket_path = path,
                            .fast_workers = (unsigned)c->config->fast_workers,
                            .max_calls_in_flight = c->config->max_calls_in_flight,
                            .max_streams = 1};

    snprintf(path, sizeof(path), "%s/%s", c->config->run_dir, IPC_CORE_SOCKET);
    TRY(confine_self(&confine, e));
    TRY(rpc_server_start(&o, &server, e));
    for (bool ready = false;;) {
        struct chan_msg m;
        TRY(child_recv(c, -1, buf, sizeof(buf), &m, e));
        if (m.type == IPC_DRAIN)
            break;
        if (m.type == IPC_FRONT_CHANNEL && m.nfds == 1)
            TRY(rpc_server_front_channel(server, m.fds[0], e));
        else if (m.nfds == 1) /* hsm: not needed, but its other end must not see it close; the process ends soon enough */
            continue;
        if (m.type == IPC_FRONT_CHANNEL && !ready) {
            TRY(child_ready(c, "echo is serving", e));
            ready = true;
        }
    }
    (void)rpc_server_stop(server, 1000);
    return ok();
}

int main(void)
{
    struct child c;
    struct err e;

    rpc_process_prepare();
    if (child_start("core", &c, &e).failed)
        return child_start_failed("core", &e);
    if (serve(&c, &e).failed)
        child_fatal(&c, &e);
    _exit(0);
}
