/* The core process: `kmsd-core [--init | --offline]`, started by the monitor (base/ipc.h): gRPC, the pipeline, keys, store, audit. */
#include "base/child.h"
#include "base/confine.h"
#include "base/log.h"
#include "kms/crypto/cipher.h"
#include "kms/crypto/nonce.h"
#include "vault/rpc/abseil.h"
#include "vault/rpc/rpc.h"
#include "vault/service/offline.h"
#include "vault/service/recovery.h"
#include "vault/service/service.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PEM_MAX_BYTES = 4 << 20, SPARE_SECRETS = 1024, OTHER_THREADS = 32, INIT_DOCS_MAX = 64, FIRST_CHANNEL_MS = 10000 };

struct core {
    struct child child;
    struct hsm *hsm;
    struct service *service;
    struct rpc_server *rpc;
    int front_fd; /* came before the server was there: -1 when none */
    struct buf ca, crl;
    char anchor_weakness[FLOOR_TEXT_MAX];
    uint8_t boot_id[BOOT_ID_BYTES];
    char socket_path[4096];
    uint8_t packet[CHILD_BUF_BYTES];
};

/* ---- files that the configuration names ------------------------------------------------------------------------------ */
static RESULT read_fd(int fd, const char *what, struct buf *out, struct err *e)
{
    buf_reset(out);
    uint8_t chunk[8192];
    ssize_t n;
    while ((n = read(fd, chunk, sizeof chunk)) > 0)
        buf_put(out, chunk, (size_t)n);
    if (n < 0 || out->overflow)
        FAIL(e, ERR_STATE, "FILE_UNREADABLE", "%s: %s", what, n < 0 ? "cannot be read" : "is larger than 4 MiB");
    if (out->n == 0) /* a list of revocations that was cut to nothing is not the same as none */
        FAIL(e, ERR_STATE, "FILE_UNREADABLE", "%s: is empty", what);
    return ok();
}

static RESULT read_pem(const char *path, struct buf *out, struct err *e)
{
    buf_reset(out);
    if (path[0] == 0)
        return ok();
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        FAIL_ERRNO(e, ERR_STATE, "FILE_UNREADABLE", "%s", path);
    struct result done = read_fd(fd, path, out, e);
    close(fd);
    return done;
}

static RESULT read_trust(struct core *c, struct err *e)
{
    TRY(read_pem(c->child.config->client_ca_file, &c->ca, e));
    return read_pem(c->child.config->client_crl_file, &c->crl, e);
}

/* ---- locked in before the first thread --------------------------------------------------------------------------------- */
/* A disk that is full or fails may be better at the next try; the rest is for a person. */
static RESULT make_folder(const char *path, struct err *e)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST)
        return ok();
    const bool may_pass = errno == EIO || errno == ENOSPC || errno == EDQUOT || errno == ENOMEM;
    FAIL_ERRNO(e, may_pass ? ERR_UNAVAILABLE : ERR_STATE, "FOLDER", "%s", path);
}

static RESULT prepare(struct core *c, struct err *e)
{
    const struct config *cf = c->child.config;
    char journal[4096];
    snprintf(journal, sizeof journal, "%s%s", cf->journal_dir[0] != 0 ? cf->journal_dir : cf->state_dir, cf->journal_dir[0] != 0 ? "" : "/journal");
    snprintf(c->socket_path, sizeof c->socket_path, "%s/" IPC_CORE_SOCKET, cf->run_dir);
    umask(077);
    TRY(make_folder(journal, e));
    floor_weakness(cf, c->anchor_weakness);
    (void)clock_boot_id(c->boot_id); /* before confinement; zeros are the id of no boot */
    char anchor[4096];
    floor_folder(cf, anchor);
    const struct confine_path paths[] = {
        {cf->state_dir, true}, {journal, true}, {cf->run_dir, true}, {cf->client_ca_file, false}, {cf->client_crl_file, false}, {anchor, true}};
    const struct confine confine = {.role = CONFINE_CORE, .user = cf->user_core, .paths = paths, .npaths = sizeof paths / sizeof paths[0]};
    size_t slots = keyring_secrets_max(cf->key_cache_max) + cf->max_calls_in_flight + SPARE_SECRETS;
    TRY(secret_slab_init(slots, e));
    /* OpenSSL's key schedules go into locked memory, so this comes before anything that touches OpenSSL. */
    TRY(cipher_memory_init((unsigned)(cf->fast_workers + cf->slow_workers) + OTHER_THREADS, e));
    uint8_t first[16];
    nonce_fill(first, sizeof first); /* reads the boot id while it can */
    rpc_process_prepare();
    return confine_self(&confine, e);
}

/* ---- channels ------------------------------------------------------------------------------------------------------------ */
static void front_channel(struct core *c, int fd)
{
    struct err e = {0};
    if (c->rpc == NULL) {
        if (c->front_fd >= 0)
            close(c->front_fd);
        c->front_fd = fd;
    } else if (rpc_server_front_channel(c->rpc, fd, &e).failed) {
        log_event(LOG_ERROR, "the front's channel could not be taken", LF_ERR(&e));
    }
}

static void close_fds(const struct chan_msg *m)
{
    for (size_t i = 0; i < m->nfds; i++)
        close(m->fds[i]);
}

/* The monitor opened them anew: a file that was replaced is out of this process's reach. */
static RESULT read_trust_fds(struct core *c, const struct chan_msg *m, struct err *e)
{
    if (m->nfds == 0)
        FAIL(e, ERR_INTERNAL, NULL, "the reload came without files");
    TRY(read_fd(m->fds[0], "client_ca_file", &c->ca, e));
    if (m->nfds > 1)
        return read_fd(m->fds[1], "client_crl_file", &c->crl, e);
    buf_reset(&c->crl);
    return ok();
}

static void reload_trust(struct core *c, const struct chan_msg *m)
{
    struct err e = {0};
    bool failed = read_trust_fds(c, m, &e).failed || authn_reload_trust(c->service->authn, buf_bytes(&c->ca), buf_bytes(&c->crl), &e).failed;
    atomic_store(&c->service->trust_old, failed);
    if (failed)
        log_event(LOG_ERROR, "client CAs were not reloaded: the old ones stay in force", LF_ERR(&e));
    else
        log_event(LOG_INFO, "client CAs reloaded");
}

/* One control message. *ret_drain: it is time to go. */
static RESULT control(struct core *c, const struct chan_msg *m, bool *ret_drain, struct err *e)
{
    switch (m->type) {
    case IPC_HSM_CHANNEL:
        if (m->nfds == 1 && c->hsm == NULL)
            return hsm_client_new(m->fds[0], c->child.config->hsm_timeout, &c->hsm, e);
        if (m->nfds == 1)
            hsm_client_set_channel(c->hsm, m->fds[0]);
        return ok();
    case IPC_FRONT_CHANNEL:
        if (m->nfds == 1)
            front_channel(c, m->fds[0]);
        return ok();
    case IPC_RELOAD:
        if (c->service != NULL)
            reload_trust(c, m);
        close_fds(m);
        return ok();
    case IPC_STOPPING:
        if (c->service != NULL)
            atomic_store(&c->service->draining, true);
        return ok();
    case IPC_DRAIN:
        *ret_drain = true;
        return ok();
    default:
        close_fds(m);
        FAIL(e, ERR_INTERNAL, NULL, "control message of type %u", m->type);
    }
}

static RESULT wait_for_hsm(struct core *c, struct err *e)
{
    bool drain = false;
    while (c->hsm == NULL && !drain) {
        struct chan_msg m;
        TRY(child_recv(&c->child, FIRST_CHANNEL_MS, c->packet, sizeof c->packet, &m, e));
        TRY(control(c, &m, &drain, e));
    }
    if (drain)
        FAIL(e, ERR_UNAVAILABLE, NULL, "told to stop before it had started");
    return ok();
}

static void service_options_of(struct core *c, struct service_options *o)
{
    *o = (struct service_options){.config = c->child.config, .clock = &clock_system, .hsm = c->hsm, .ca_pem = buf_bytes(&c->ca),
                                  .crl_pem = buf_bytes(&c->crl), .anchor_weakness = c->anchor_weakness};
    memcpy(o->boot_id, c->boot_id, sizeof o->boot_id);
}

/* ---- serving --------------------------------------------------------------------------------------------------------------- */
static RESULT start(struct core *c, struct err *e)
{
    const struct config *cf = c->child.config;
    struct service_options so;
    TRY(read_trust(c, e));
    service_options_of(c, &so);
    TRY(service_start(&so, &c->service, e));
    struct rpc_options ro = {.service = c->service, .socket_path = c->socket_path, .fast_workers = (unsigned)cf->fast_workers,
                             .max_calls_in_flight = cf->max_calls_in_flight, .max_streams = cf->max_calls_in_flight / 2 + 1,
                             .max_streams_per_connection = cf->max_streams_per_connection};
    (void)abseil_no_deadlock_graph();
    TRY(rpc_server_start(&ro, &c->rpc, e));
    if (c->front_fd >= 0) {
        int fd = c->front_fd;
        c->front_fd = -1;
        front_channel(c, fd);
    }
    return child_ready(&c->child, "core is serving", e);
}

static RESULT serve(struct core *c, struct err *e)
{
    bool drain = false;
    while (!drain) {
        struct chan_msg m;
        TRY(child_recv(&c->child, -1, c->packet, sizeof c->packet, &m, e));
        TRY(control(c, &m, &drain, e));
    }
    atomic_store(&c->service->draining, true);
    /* A call that would not end may still use the service: then leave at once; what was answered is durable. */
    if (rpc_server_stop(c->rpc, c->child.config->drain_timeout))
        service_stop(c->service);
    log_event(LOG_INFO, "drained");
    return ok();
}

/* ---- kmsd init --------------------------------------------------------------------------------------------------------------- */
static RESULT init(struct core *c, struct err *e)
{
    struct chan_msg m;
    TRY(child_expect(&c->child, IPC_INIT, 0, FIRST_CHANNEL_MS, c->packet, sizeof c->packet, &m, e));
    struct reader in = reader_of(m.body);
    struct bytes name = reader_v16(&in), san = reader_v16(&in);
    size_t n = reader_u16(&in);
    struct init_document docs[INIT_DOCS_MAX];
    for (size_t i = 0; i < n && i < INIT_DOCS_MAX; i++) {
        docs[i].name = reader_v16(&in);
        docs[i].yaml = reader_v32(&in);
    }
    uint8_t backup = reader_u8(&in);
    if (n > INIT_DOCS_MAX || backup > 1 || !reader_done(&in))
        FAIL(e, ERR_INVALID, NULL, "the init message is not well formed");
    CLEANUP(buf_release) struct buf text;
    buf_init(&text, 8192);
    struct service_options so;
    service_options_of(c, &so);
    so.vendor_clone = backup == 1;
    TRY(service_init(&so, name, san, docs, n, &text, e));
    return child_ready(&c->child, buf_cstr(&text), e);
}

/* ---- kmsd fsck, accept-rollback, recover-admin and the reviews ---------------------------------------------------------------------------- */
static void print_line(void *user, const char *text)
{
    (void)user;
    printf("%s\n", text);
    fflush(stdout);
}

static RESULT offline(struct core *c, struct err *e)
{
    struct chan_msg m;
    TRY(child_expect(&c->child, IPC_OFFLINE, 0, FIRST_CHANNEL_MS, c->packet, sizeof c->packet, &m, e));
    struct reader in = reader_of(m.body);
    struct offline_request q = {.task = (enum ipc_task)reader_u8(&in), .reason = reader_v16(&in)};
    q.name = reader_v16(&in);
    q.san = reader_v16(&in);
    q.seconds = reader_u32(&in);
    if (!reader_done(&in))
        FAIL(e, ERR_INVALID, NULL, "the offline message is not well formed");
    CLEANUP(buf_release) struct buf text;
    buf_init(&text, 8192);
    struct service_options so;
    service_options_of(c, &so);
    const struct offline_out out = {.line = print_line};
    TRY(service_offline(&so, &q, &out, &text, e));
    return child_ready(&c->child, buf_cstr(&text), e);
}

enum mode { MODE_SERVE, MODE_INIT, MODE_OFFLINE };

static RESULT run(struct core *c, enum mode mode, struct err *e)
{
    buf_init(&c->ca, PEM_MAX_BYTES);
    buf_init(&c->crl, PEM_MAX_BYTES);
    TRY(prepare(c, e));
    TRY(wait_for_hsm(c, e));
    if (mode == MODE_INIT)
        return init(c, e);
    if (mode == MODE_OFFLINE)
        return offline(c, e);
    TRY(start(c, e));
    return serve(c, e);
}

int main(int argc, char **argv)
{
    static struct core core = {.front_fd = -1};
    struct err e = {0};
    const bool is_init = argc == 2 && strcmp(argv[1], "--init") == 0, is_offline = argc == 2 && strcmp(argv[1], "--offline") == 0;
    if (argc != 1 && !is_init && !is_offline) {
        fprintf(stderr, "usage: kmsd-core [--init | --offline]; started by kmsd\n");
        return 2;
    }
    if (child_start("core", &core.child, &e).failed)
        return child_start_failed("core", &e);
    struct result done = run(&core, is_init ? MODE_INIT : is_offline ? MODE_OFFLINE : MODE_SERVE, &e);
    /* What waiting can mend (the HSM is restarting) is the monitor's to try again; everything else is for a person. */
    if (done.failed && (is_init || is_offline || (core.rpc == NULL && e.code != ERR_UNAVAILABLE)))
        child_fatal(&core.child, &e);
    if (done.failed)
        log_event(LOG_ERROR, "leaving", LF_ERR(&e));
    _exit(done.failed ? 1 : 0); /* gRPC's and OpenSSL's own exit handlers are not trusted to run in the right order */
}
