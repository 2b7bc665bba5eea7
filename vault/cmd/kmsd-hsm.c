/* The hsm process: `kmsd-hsm [--init]`, started by the monitor (base/ipc.h). What it serves is hsm/hsm.h. */
#include "base/child.h"
#include "base/confine.h"
#include "base/log.h"
#include "hsm/served.h"
#include "hsm/server.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SECRET_SLOTS = 16, OWN_PATHS = 4 };

struct paths {
    struct confine_path all[CONFINE_PATHS_MAX];
    size_t n;
    char token_dir[4096], more[2][2049];
};

/* "/a, /b": absolute, since nobody knows relative to what a module would take them. */
static RESULT paths_more(const char *list, const char *key, bool write, char copy[2049], struct paths *p, struct err *e)
{
    char *rest = NULL;
    (void)snprintf(copy, 2049, "%s", list);
    for (char *path = strtok_r(copy, ", ", &rest); path != NULL; path = strtok_r(NULL, ", ", &rest)) {
        if (path[0] != '/')
            FAIL(e, ERR_INVALID, "HSM_CONFIG", "%s: %.200s is no absolute path", key, path);
        if (p->n == CONFINE_PATHS_MAX)
            FAIL(e, ERR_INVALID, "HSM_CONFIG", "%s: more than %d paths", key, CONFINE_PATHS_MAX - OWN_PATHS);
        p->all[p->n++] = (struct confine_path){path, write};
    }
    return ok();
}

/* Only the PKCS#11 module, its configuration and its token are needed: and the folder of the PIN record. What else a module opens (a
 * daemon's shared memory, locks) the operator names. */
static RESULT paths_fill(const struct config *c, struct paths *p, struct err *e)
{
    TRY(module_check(c->hsm_module, e));
    TRY(storage_path(c->hsm_config_file, p->token_dir, sizeof p->token_dir, e));
    if (access(p->token_dir, F_OK) != 0)
        p->token_dir[0] = '\0';
    p->all[0] = (struct confine_path){c->hsm_module, false};
    p->all[1] = (struct confine_path){c->hsm_config_file, false};
    p->all[2] = (struct confine_path){p->token_dir, true};
    p->all[3] = (struct confine_path){c->state_dir, true};
    p->n = OWN_PATHS;
    TRY(paths_more(c->hsm_read_paths, "hsm_read_paths", false, p->more[0], p, e));
    return paths_more(c->hsm_write_paths, "hsm_write_paths", true, p->more[1], p, e);
}

static RESULT run(struct child *c, bool init, bool *ret_serving, struct err *e)
{
    static struct watchdog watchdog;
    struct paths p = {0};
    struct verifier verifier;
    char monitor_id[SERVED_ID_BYTES];
    served_monitor_id(monitor_id);
    TRY(paths_fill(c->config, &p, e));
    const struct confine confine = {.role = CONFINE_HSM, .user = c->config->user_hsm, .paths = p.all, .npaths = p.n};
    /* The order matters: fork before seccomp and threads, confine before the module's code runs. */
    TRY(verifier_start(&verifier, &confine, e));
    TRY(confine_self(&confine, e));
    TRY(secret_slab_init(SECRET_SLOTS, e));
    TRY(watchdog_start(&watchdog, c->config->hsm_timeout, &clock_system, e));
    const struct server_options options = {.child = c,
                                           .init = init,
                                           .verifier = &verifier,
                                           .watchdog = &watchdog,
                                           .clock = &clock_system,
                                           .monitor_id = monitor_id};
    return server_run(&options, ret_serving, e);
}

/* After there was service under this monitor nothing is fatal: a module or a configuration that is just being replaced is back
 * for a later process. hsm's own folder is the other place of the marker (hsm/server.c). */
static bool served_already(const struct config *c)
{
    char monitor_id[SERVED_ID_BYTES], own[4200];
    served_monitor_id(monitor_id);
    (void)snprintf(own, sizeof own, "%s/hsm", c->state_dir);
    return served_before(c->state_dir, monitor_id) || served_before(own, monitor_id);
}

/* The monitor prints the detail alone: an operator needs the remedy beside it. */
static void add_remedy(struct err *e)
{
    size_t n = strlen(e->detail);
    if (e->hint != NULL)
        (void)snprintf(e->detail + n, sizeof e->detail - n, "; %s", e->hint);
    e->hint = NULL;
}

int main(int argc, char **argv)
{
    struct child c;
    struct err e = {0};
    const bool init = argc == 2 && strcmp(argv[1], "--init") == 0;
    if (argc != 1 && !init) {
        (void)fprintf(stderr, "usage: kmsd-hsm [--init]; started by kmsd\n");
        return 2;
    }
    if (child_start("hsm", &c, &e).failed)
        return child_start_failed("hsm", &e);
    /* What can be mended by waiting or by a new process is no reason for the monitor to stop everything. */
    bool serving = false;
    struct result r = run(&c, init, &serving, &e);
    if (r.failed && !serving && (init || !served_already(c.config))) {
        add_remedy(&e);
        child_fatal(&c, &e);
    }
    if (r.failed)
        log_event(LOG_ERROR, "leaving", LF_ERR(&e));
    /* Modules crash in their exit handlers when OpenSSL cleaned up first. */
    _exit(r.failed ? 1 : 0);
}
