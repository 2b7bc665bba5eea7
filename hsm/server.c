#include "hsm/server.h"

#include "base/log.h"
#include "hsm/served.h"
#include "hsm/service.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ORIGIN_MAX = 160, FOLDER_MAX = 4200, SERVER_AUDIT_KEYS = 128 };

struct server {
    const struct server_options *o;
    struct token token;
    struct service service;
    int core;           /* -1: none yet */
    bool said_ready, drain;
    int64_t retry_ms;   /* boot time of the next try while the token is lost */
    int64_t broken_ms;  /* since when the module itself fails; 0: it does not */
    char origin[ORIGIN_MAX];
    char folder[FOLDER_MAX];
    uint8_t control_buf[CHILD_BUF_BYTES];
};

/* ---- control channel --------------------------------------------------------------------------------------------- */

static void set_core(struct server *s, int fd)
{
    if (s->core >= 0)
        (void)close(s->core);
    s->core = fd;
}

static RESULT take_control(struct server *s, const struct chan_msg *m, struct err *e)
{
    switch (m->type) {
    case IPC_CORE_CHANNEL:
        if (m->nfds != 1)
            break;
        set_core(s, m->fds[0]);
        return ok();
    case IPC_DRAIN:
        s->drain = true;
        return ok();
    case IPC_PIN_FILE: /* late: the question was given up */
        if (m->nfds == 1)
            (void)close(m->fds[0]);
        return ok();
    default:
        break;
    }
    for (size_t i = 0; i < m->nfds; i++)
        (void)close(m->fds[i]);
    FAIL(e, ERR_INTERNAL, "CONTROL_MESSAGE", "unexpected control message %u with %zu descriptors", m->type, m->nfds);
}

/* Asks the monitor for the PIN file, and goes on minding the control channel meanwhile. */
static RESULT ask_pin(void *user, int *ret_fd, struct err *e)
{
    struct server *s = user;
    struct chan_msg m;
    const int64_t deadline = clock_boot_ms(s->o->clock) + SERVER_PIN_MS;
    TRY(child_notice(s->o->child, IPC_WANT_PIN, BYTES(NULL, 0), e));
    for (;;) {
        int64_t left = deadline - clock_boot_ms(s->o->clock);
        TRY(child_recv(s->o->child, left > 0 ? (int)left : 0, s->control_buf, sizeof s->control_buf, &m, e));
        if (m.type == IPC_PIN_FILE)
            break;
        TRY(take_control(s, &m, e));
    }
    if (m.nfds == 1) {
        *ret_fd = m.fds[0];
        return ok();
    }
    struct result r = err_set(e, ERR_STATE, "HSM_PIN_FILE", __FILE__, __LINE__, "the PIN file: %.*s",
                              (int)(m.body.n > 200 ? 200 : m.body.n), (const char *)m.body.p);
    e->hint = "correct hsm_pin_file: the user PIN alone in a file of mode 0600";
    return r;
}

/* ---- the token --------------------------------------------------------------------------------------------------- */

static RESULT say_ready(struct server *s, struct err *e)
{
    struct hsm_status st;
    char text[256];
    ops_status(&s->token, &st);
    log_event(LOG_INFO, "token ready", LF_STR("token", st.token_label), LF_STR("serial", st.serial), LF_STR("missing", st.missing),
              LF_STR("weaknesses", st.weaknesses), LF_INT("master", st.master_newest), LF_INT("seal", st.seal_newest),
              LF_INT("audit", st.audit_newest));
    if (s->said_ready)
        return ok();
    (void)snprintf(text, sizeof text, "token %s (%s)", st.token_label, st.manufacturer);
    TRY(child_ready(s->o->child, text, e));
    served_mark(s->folder, s->o->monitor_id);
    s->said_ready = true;
    return ok();
}

static void lost(struct server *s, const struct err *why)
{
    /* Said once for each cause, not five times a second. */
    if (s->service.why.line != why->line || s->service.why.code != why->code)
        log_event(LOG_ERROR, "the token is not available", LF_ERR(why));
    s->service.why = *why;
}

/* An absent token is waited for; a module that cannot begin again wants a fresh process, and so does a new directory. */
static RESULT give_up(struct server *s, const struct err *why, int64_t now, struct err *e)
{
    /* SoftHSM does not even initialise without its directory. */
    bool absent = s->token.m.last_rv == CKR_TOKEN_NOT_PRESENT || storage_absent(&s->token.storage);
    if (absent || why->code != ERR_UNAVAILABLE)
        s->broken_ms = 0;
    else if (s->broken_ms == 0)
        s->broken_ms = now;
    if (storage_replaced(&s->token.storage))
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token's directory was replaced: a new process can open it");
    if (s->broken_ms != 0 && now - s->broken_ms > SERVER_GIVE_UP_MS)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the module cannot be initialised again: %.200s", why->detail);
    return ok();
}

static RESULT retry_token(struct server *s, struct err *e)
{
    struct err why = {0};
    const int64_t now = clock_boot_ms(s->o->clock);
    if (now < s->retry_ms)
        return ok();
    if (!token_recover(&s->token, &why).failed) {
        s->broken_ms = 0;
        s->service.why = (struct err){0};
        return say_ready(s, e);
    }
    lost(s, &why);
    /* What a person has to mend gets no better by asking often. */
    s->retry_ms = now + (why.code == ERR_UNAVAILABLE ? SERVER_RETRY_MS : SERVER_RETRY_SLOW_MS);
    return give_up(s, &why, now, e);
}

/* ---- the loop ---------------------------------------------------------------------------------------------------- */

static void drop_core(struct server *s)
{
    (void)close(s->core);
    s->core = -1;
}

static void serve_core(struct server *s)
{
    struct err why = {0};
    const bool was_ready = s->token.ready;
    const int core = s->core;
    if (service_answer(&s->service, &s->token, core, &why).failed && s->core == core) /* another core may have come meanwhile */
        drop_core(s);
    if (was_ready && !s->token.ready) {
        lost(s, &s->service.why);
        s->retry_ms = 0;
    }
}

/* Keys that nobody has asked for since the start: a few each idle second. */
static RESULT audit_more(struct server *s, struct err *e)
{
    bool found;
    TRY(keys_audit_some(&s->token, SERVER_AUDIT_KEYS, &found, e));
    if (!found)
        return ok();
    CLEANUP(buf_release) struct buf weak = {0};
    buf_init(&weak, 256);
    keys_weaknesses(&s->token.keys, &weak);
    log_event(LOG_ERROR, "a key on the token is not what it must be, and is refused", LF_STR("weaknesses", buf_cstr(&weak)));
    return ok();
}

static RESULT idle(struct server *s, struct err *e)
{
    struct err why = {0};
    if (!s->token.ready)
        return retry_token(s, e);
    if (!token_check(&s->token, &why).failed && !audit_more(s, &why).failed)
        return ok();
    s->token.ready = false;
    lost(s, &why);
    s->retry_ms = 0;
    return retry_token(s, e);
}

static int wait_ms(const struct server *s)
{
    if (s->token.ready)
        return SERVER_CHECK_MS;
    int64_t left = s->retry_ms - clock_boot_ms(s->o->clock);
    return left <= 0 ? 0 : (int)left;
}

static RESULT turn(struct server *s, struct err *e)
{
    struct chan_msg m;
    struct pollfd p[2] = {{.fd = s->o->child->control, .events = POLLIN}, {.fd = s->core, .events = POLLIN}};
    int n = poll(p, 2, s->drain ? 0 : wait_ms(s));
    if (n > 0 && p[0].revents != 0) {
        TRY(child_recv(s->o->child, 0, s->control_buf, sizeof s->control_buf, &m, e));
        return take_control(s, &m, e);
    }
    if (n > 0 && p[1].revents != 0) {
        serve_core(s);
        /* Under load there is no idle moment: the lost token is looked for between two answers. */
        return s->token.ready ? ok() : retry_token(s, e);
    }
    return s->drain ? ok() : idle(s, e);
}

/* Where hsm may write: state_dir, or its own folder in it when state_dir belongs to another user (core's). */
static void find_folder(struct server *s)
{
    const char *state = s->o->child->config->state_dir;
    (void)snprintf(s->folder, sizeof s->folder, "%s%s", state, access(state, W_OK) == 0 ? "" : "/hsm");
}

static RESULT start(struct server *s, struct err *e)
{
    const struct config *c = s->o->child->config;
    (void)snprintf(s->origin, sizeof s->origin, "%s/%s", c->cluster_name, c->node_name);
    const struct token_setup setup = {.module_path = c->hsm_module,
                                      .uri = c->hsm_token,
                                      .vendor_config = c->hsm_config_file,
                                      .state_dir = s->folder,
                                      .origin = s->origin,
                                      .backup_retention_ms = c->backup_retention,
                                      .complete = !s->o->init,
                                      .partial = s->o->init, /* init says itself what is missing for what */
                                      .watchdog = s->o->watchdog,
                                      .clock = s->o->clock,
                                      .pin = ask_pin,
                                      .pin_user = s};
    struct err why = {0};
    find_folder(s);
    TRY(token_init(&s->token, &setup, e));
    if (!token_open(&s->token, &why).failed)
        return say_ready(s, e);
    if (!s->o->init && served_before(s->folder, s->o->monitor_id)) {
        lost(s, &why);
        return ok();
    }
    *e = why;
    return (struct result){1};
}

static RESULT serve(struct server *s, struct err *e)
{
    for (;;) {
        struct pollfd core = {.fd = s->core, .events = POLLIN};
        if (s->drain && (s->core < 0 || poll(&core, 1, 0) <= 0))
            return ok();
        TRY(turn(s, e));
    }
}

RESULT server_run(const struct server_options *o, bool *ret_serving, struct err *e)
{
    static struct server *s; /* kept where a leak checker sees it: what it holds is not released, see below */
    s = calloc(1, sizeof *s);
    INVARIANT(s != NULL);
    s->o = o;
    s->core = -1;
    s->service.verifier = o->verifier;
    s->service.core = &s->core;
    TRY(start(s, e));
    *ret_serving = true;
    /* No release of the token: the process leaves by _exit, because modules crash in their exit handlers. */
    return serve(s, e);
}
