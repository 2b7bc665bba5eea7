#include "vault/ops/monitor_state.h"

#include "base/log.h"
#include "vault/ops/files.h"

#include <unistd.h>

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

RESULT greet_tls_files(struct monitor *m, struct err *e)
{
    struct result r;
    int fds[2];

    TRY(files_open_tls(m->config, &fds[0], &fds[1], e));
    r = proc_send(&m->child[FRONT], IPC_TLS_FILES, BYTES(NULL, 0), fds, 2, e);
    (void)close(fds[0]);
    (void)close(fds[1]);
    return r;
}

RESULT greet_reload(struct monitor *m, struct err *e)
{
    CLEANUP(close_fd) int ca = -1;
    CLEANUP(close_fd) int crl = -1;
    bool with_crl = m->config->client_crl_file[0] != '\0';

    TRY(files_open("client_ca_file", m->config->client_ca_file, false, &ca, e));
    if (with_crl)
        TRY(files_open("client_crl_file", m->config->client_crl_file, false, &crl, e));
    return proc_send(&m->child[CORE], IPC_RELOAD, BYTES(NULL, 0), (const int[]){ca, crl}, with_crl ? 2 : 1, e);
}

RESULT greet_pin(struct monitor *m, struct err *e)
{
    struct result r;
    struct err why;
    char text[ERR_DETAIL_BYTES + 256];
    int fd;

    if (files_open("hsm_pin_file", m->config->hsm_pin_file, true, &fd, &why).failed) {
        log_event(LOG_ERROR, "cannot open the PIN file", LF_ERR(&why));
        return proc_send(&m->child[HSM], IPC_PIN_FILE, bytes_str(err_operator(&why, text, sizeof(text))), NULL, 0, e);
    }
    r = proc_send(&m->child[HSM], IPC_PIN_FILE, BYTES(NULL, 0), &fd, 1, e);
    (void)close(fd);
    return r;
}

RESULT greet_child(struct monitor *m, struct proc *p, struct err *e)
{
    CLEANUP(buf_release) struct buf dump;

    buf_init(&dump, CHAN_MAX_BYTES);
    config_dump(m->config, &dump);
    if (dump.overflow)
        FAIL(e, ERR_INVALID, "CONFIG_SIZE", "the configuration is longer than %d bytes", CHAN_MAX_BYTES);
    TRY(proc_send(p, IPC_CONFIG, buf_bytes(&dump), NULL, 0, e));
    if (p == &m->child[FRONT]) {
        TRY(greet_tls_files(m, e));
        TRY(proc_send(p, IPC_LISTENER, BYTES_LIT("main"), &m->listener, 1, e));
    }
    TRY(edge_connect(&m->edge[0], p, e));
    if (!monitor_is_init(m))
        return edge_connect(&m->edge[1], p, e);
    if (p == &m->child[CORE])
        TRY(proc_send(p, m->offline ? IPC_OFFLINE : IPC_INIT, m->init_message, NULL, 0, e));
    return ok();
}
