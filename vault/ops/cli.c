#include "vault/ops/cli.h"

#include "base/log.h"
#include "base/chan.h"
#include "base/secret.h"
#include "base/text.h"
#include "vault/ops/files.h"
#include "vault/ops/init.h"
#include "vault/ops/listen.h"
#include "vault/ops/monitor.h"
#include "vault/ops/proc.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef CLAVIGER_SHARE
#define CLAVIGER_SHARE "/usr/local/share/claviger"
#endif

struct arguments {
    const char *config_file, *admin, *admin_san, *policy_dir, *token_backup;
    const char *verb; /* NULL: run */
    const char *reason, *time, *pin_file;
    bool help, version, manual, dump;
};

static const struct option {
    const char *name, *value; /* value: how the help calls it, NULL: a switch */
    size_t offset;
    const char *help;
} options[] = {
#define OFFSET(f) offsetof(struct arguments, f)
    {"--config", "FILE", OFFSET(config_file), "the configuration (kmsd --manual lists its keys)"},
    {"--admin", "NAME", OFFSET(admin), "init, recover-admin: name of the administrator"},
    {"--admin-san", "SAN", OFFSET(admin_san), "init, recover-admin: URI or DNS name in that administrator's certificate"},
    {"--policy-dir", "DIR", OFFSET(policy_dir), "init: policy documents (*.yaml); default " CLAVIGER_SHARE "/policies"},
    {"--token-backup", "HOW", OFFSET(token_backup),
     "init: " INIT_VENDOR_CLONE " = you clone the token by its vendor's tool; for a token that is no files"},
    {"--reason", "TEXT", OFFSET(reason), "accept-rollback, recover-admin and the reviews: why; it goes on the record"},
    {"--for", "TIME", OFFSET(time), "recover-admin: how long, e.g. 30m; default 1h, at most 24h"},
    {"--pin-file", "FILE", OFFSET(pin_file), "the offline commands: the PIN, when hsm_pin_file is not there now (a systemd credential)"},
    {"--dump-config", NULL, OFFSET(dump), "print the configuration as it is understood, with all defaults"},
    {"--manual", NULL, OFFSET(manual), "print the table of configuration keys (Markdown)"},
    {"--version", NULL, OFFSET(version), "print the version"},
    {"--help", NULL, OFFSET(help), "print this"},
#undef OFFSET
};

typedef int verb_fn(const struct arguments *a, const struct config *c);
static verb_fn verb_run, verb_check, verb_init, verb_accept, verb_review, verb_fsck, verb_recover, verb_review_recovery;
static const struct verb {
    const char *name;
    verb_fn *fn;
    const char *help;
    bool offline;
} verbs[] = {
    {"run", verb_run, "serve in the foreground (the default); SIGHUP reloads certificates, SIGTERM drains and stops", false},
    {"check", verb_check, "examine configuration, files and permissions; change nothing", false},
    {"init", verb_init, "once: create keys on the token, a verified backup of it, the store, policy version 1 and the first administrator", false},
    {"fsck", verb_fsck, "offline: examine store, journal and keys; change nothing; exit code 1 when something is found", true},
    {"accept-rollback", verb_accept, "offline: go on with an older or damaged store, knowingly and on the record", true},
    {"review-rollback", verb_review, "offline: say that an accepted rollback was looked into (kmsctl review does it on line)", true},
    {"recover-admin", verb_recover,
     "offline, as root: one administrator for a time, without the use of keys, when no other can get in", true},
    {"review-recovery", verb_review_recovery, "offline: say that a recovery was looked into; its administrator is disabled", true},
};

/* A wrong file or setting is the configuration's fault; what happened at run time is not. */
static int report(const struct err *e)
{
    char text[ERR_DETAIL_BYTES + 256];

    (void)fprintf(stderr, "kmsd: %s\n", err_operator(e, text, sizeof(text)));
    return e->code == ERR_INVALID ? CLI_CONFIG : CLI_FAILED;
}

static int usage(const char *what, const char *which)
{
    (void)fprintf(stderr, "kmsd: %s %s\nkmsd: try kmsd --help\n", what, which);
    return CLI_USAGE;
}

static int print_help(void)
{
    (void)printf("kmsd " CLV_VERSION ", the Claviger key-management daemon\n\nusage: kmsd --config FILE [command] [options]\n\n"
                 "commands\n");
    for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
        (void)printf("  %-22s %s\n", verbs[i].name, verbs[i].help);
    (void)printf("\noptions\n");
    for (size_t i = 0; i < sizeof(options) / sizeof(*options); i++) {
        const struct option *o = &options[i];
        int pad = 22 - (int)strlen(o->name) - 1;
        (void)printf("  %s %-*s %s\n", o->name, pad, o->value != NULL ? o->value : "", o->help);
    }
    (void)printf("\nexit codes: 0 ok, 1 failed, 2 usage, 3 configuration\n"
                 "\nexample: kmsd --config /etc/claviger/kmsd.conf check && kmsd --config /etc/claviger/kmsd.conf\n");
    return CLI_OK;
}

static int print_buf(struct buf *b)
{
    bool written = fwrite(b->p, 1, b->n, stdout) == b->n && fflush(stdout) == 0;

    return written ? CLI_OK : CLI_FAILED;
}

static int print_manual(void)
{
    CLEANUP(buf_release) struct buf b;

    buf_init(&b, CONFIG_MAX_BYTES);
    config_manual(&b);
    return print_buf(&b);
}

/* ---- arguments ---- */

static const struct option *find_option(const char *arg, size_t name_bytes)
{
    for (size_t i = 0; i < sizeof(options) / sizeof(*options); i++)
        if (strlen(options[i].name) == name_bytes && strncmp(options[i].name, arg, name_bytes) == 0)
            return &options[i];
    return NULL;
}

/* --name value, --name=value, or a switch. Returns how many words were used, 0 after printing what is wrong. */
static int take_option(struct arguments *a, char **argv)
{
    const char *eq = strchr(argv[0], '=');
    const struct option *o = find_option(argv[0], eq != NULL ? (size_t)(eq - argv[0]) : strlen(argv[0]));
    char *field;

    if (o == NULL) {
        (void)usage("unknown option", argv[0]);
        return 0;
    }
    field = (char *)a + o->offset;
    if (o->value == NULL) {
        if (eq != NULL) {
            (void)usage("this option takes no value:", argv[0]);
            return 0;
        }
        memcpy(field, &(bool){true}, sizeof(bool));
        return 1;
    }
    const char *value = eq != NULL ? eq + 1 : argv[1];
    if (value == NULL || value[0] == '\0') {
        (void)usage("a value is missing after", argv[0]);
        return 0;
    }
    memcpy(field, &value, sizeof(value));
    return eq != NULL ? 1 : 2;
}

static int parse_arguments(int argc, char **argv, struct arguments *a)
{
    for (int i = 1; i < argc;) {
        if (argv[i][0] == '-') {
            int used = take_option(a, argv + i);
            if (used == 0)
                return CLI_USAGE;
            i += used;
        }
        else if (a->verb == NULL) {
            a->verb = argv[i++];
        }
        else {
            return usage("more than one command:", argv[i]);
        }
    }
    return CLI_OK;
}

/* ---- commands ---- */

static int run_monitor(const struct config *c, struct bytes init, bool offline)
{
    char libexec[PATH_MAX];
    struct monitor_options o = {.config = c, .libexec = libexec, .init_message = init, .offline = offline};
    struct err e;
    int code;

    if (secret_process_harden(&e).failed || proc_find_libexec(libexec, sizeof(libexec), &e).failed ||
        monitor_run(&o, &code, &e).failed)
        return report(&e);
    return code;
}

static int verb_run(const struct arguments *a, const struct config *c)
{
    if (a->admin != NULL || a->admin_san != NULL || a->policy_dir != NULL || a->token_backup != NULL)
        return usage("--admin, --admin-san, --policy-dir and --token-backup belong to", "init");
    if (a->reason != NULL || a->time != NULL)
        return usage("--reason and --for belong to", "the offline commands");
    return run_monitor(c, BYTES(NULL, 0), false);
}

static int verb_init(const struct arguments *a, const struct config *c)
{
    const struct init_request r = {a->admin, a->admin_san, a->policy_dir != NULL ? a->policy_dir : CLAVIGER_SHARE "/policies",
                                   a->token_backup};
    CLEANUP(buf_release) struct buf message;
    struct err e;

    buf_init(&message, 2 * CHAN_MAX_BYTES);
    if (a->admin == NULL || a->admin_san == NULL)
        return usage("init needs --admin NAME and --admin-san SAN, e.g. --admin alice --admin-san",
                     "spiffe://example.org/alice");
    if (init_message(&r, &message, &e).failed) {
        (void)report(&e);
        return e.reason != NULL && strcmp(e.reason, "INIT_ARGUMENT") == 0 ? CLI_USAGE : CLI_CONFIG;
    }
    return run_monitor(c, buf_bytes(&message), false);
}

enum { RECOVERY_DEFAULT_S = 3600, RECOVERY_MAX_S = 24 * 3600 };

static int check_offline(const struct arguments *a, enum ipc_task task)
{
    if (task == IPC_FSCK && a->reason != NULL)
        return usage("--reason belongs to", "accept-rollback, recover-admin and the reviews");
    if (task != IPC_FSCK && a->reason == NULL)
        return usage("a reason is needed:", "--reason TEXT");
    if (a->reason != NULL && (strlen(a->reason) > INIT_NAME_MAX || !text_is_clean_utf8(bytes_str(a->reason))))
        return usage("--reason must be at most 255 characters", "without control characters");
    if (task != IPC_RECOVER_ADMIN && (a->admin != NULL || a->admin_san != NULL || a->time != NULL))
        return usage("--admin, --admin-san and --for belong to", "init and recover-admin");
    return CLI_OK;
}

static int run_offline(const struct arguments *a, const struct config *c, enum ipc_task task, uint32_t seconds)
{
    CLEANUP(buf_release) struct buf message;
    int wrong = check_offline(a, task);

    buf_init(&message, CHAN_MAX_BYTES);
    if (wrong != CLI_OK)
        return wrong;
    buf_put_u8(&message, (uint8_t)task);
    buf_put_v16(&message, bytes_str(a->reason));
    buf_put_v16(&message, bytes_str(a->admin));
    buf_put_v16(&message, bytes_str(a->admin_san));
    buf_put_u32(&message, seconds);
    return run_monitor(c, buf_bytes(&message), true);
}

static int verb_accept(const struct arguments *a, const struct config *c)
{
    return run_offline(a, c, IPC_ACCEPT_ROLLBACK, 0);
}

static int verb_review(const struct arguments *a, const struct config *c)
{
    return run_offline(a, c, IPC_REVIEW_ROLLBACK, 0);
}

static int verb_review_recovery(const struct arguments *a, const struct config *c)
{
    return run_offline(a, c, IPC_REVIEW_RECOVERY, 0);
}

static int verb_fsck(const struct arguments *a, const struct config *c)
{
    return run_offline(a, c, IPC_FSCK, 0);
}

/* The files would let kmsd's own user do it too: that it takes root is what makes it an act of whoever runs the machine. */
static int verb_recover(const struct arguments *a, const struct config *c)
{
    uint64_t ms = (uint64_t)RECOVERY_DEFAULT_S * 1000;
    struct err e = {0};

    if (a->admin == NULL || a->admin_san == NULL)
        return usage("recover-admin needs --admin NAME, --admin-san SAN and --reason TEXT, e.g. --admin rescue --admin-san",
                     "spiffe://example.org/rescue");
    if (strlen(a->admin) > INIT_NAME_MAX || strlen(a->admin_san) > INIT_NAME_MAX)
        return usage("--admin and --admin-san must be at most 255 characters", "");
    if (a->time != NULL && (!text_parse_duration_ms(bytes_str(a->time), &ms) || ms < 1000 || ms > (uint64_t)RECOVERY_MAX_S * 1000))
        return usage("--for must be a duration from 1s to 24h, not", a->time);
    if (geteuid() != 0) {
        (void)err_set(&e, ERR_DENIED, "RECOVERY_ROOT", __FILE__, __LINE__, "recover-admin is for root alone");
        return report(&e);
    }
    return run_offline(a, c, IPC_RECOVER_ADMIN, (uint32_t)(ms / 1000));
}

static bool check_one(const char *what, struct result r, const struct err *e)
{
    char text[ERR_DETAIL_BYTES + 256];

    if (r.failed)
        (void)printf("wrong  %s\n", err_operator(e, text, sizeof(text)));
    else
        (void)printf("ok     %s\n", what);
    return !r.failed;
}

static bool check_file(const char *what, const char *path, bool private)
{
    struct err e;
    int fd = -1;
    struct result r = files_open(what, path, private, &fd, &e);

    if (fd >= 0)
        (void)close(fd);
    return check_one(what, r, &e);
}

static int verb_check(const struct arguments *a, const struct config *c)
{
    struct listen_address address;
    char libexec[PATH_MAX];
    struct err e = {0};
    bool good = check_one(a->config_file, ok(), &e);
    struct result found = proc_find_libexec(libexec, sizeof(libexec), &e);

    if (!found.failed)
        found = proc_check_libexec(libexec, &e);
    good &= check_one("programs", found, &e);
    good &= check_one("listen", listen_parse(c->listen, &address, &e), &e);
    good &= check_file("tls_cert_file", c->tls_cert_file, false);
    good &= check_file("tls_key_file", c->tls_key_file, true);
    good &= check_file("client_ca_file", c->client_ca_file, false);
    good &= c->client_crl_file[0] == '\0' || check_file("client_crl_file", c->client_crl_file, false);
    good &= check_file("hsm_module", c->hsm_module, false);
    good &= check_file("hsm_pin_file", c->hsm_pin_file, true);
    good &= c->hsm_config_file[0] == '\0' || check_file("hsm_config_file", c->hsm_config_file, false);
    good &= check_one("folders", files_check_dirs(c, &e), &e);
    return good ? CLI_OK : CLI_CONFIG;
}

/* In place of the configuration's: made absolute, as paths there are relative to its folder. */
static bool take_pin_file(struct config *c, const char *path)
{
    char *whole = realpath(path, NULL);
    bool fits = whole == NULL ? strlen(path) <= 4000 : strlen(whole) <= 4000;

    if (!fits) {
        free(whole);
        return false;
    }
    free(c->hsm_pin_file);
    c->hsm_pin_file = whole != NULL ? whole : strdup(path); /* what is not there is said when it is opened */
    INVARIANT(c->hsm_pin_file != NULL);
    return true;
}

int cli_run(int argc, char **argv)
{
    CLEANUP(config_freep) struct config *c = NULL;
    CLEANUP(buf_release) struct buf dump;
    struct arguments a = {0};
    const struct verb *verb = NULL;
    enum log_level level;
    struct err e;

    buf_init(&dump, 2 * CONFIG_MAX_BYTES);
    if (parse_arguments(argc, argv, &a) != CLI_OK)
        return CLI_USAGE;
    if (a.help)
        return print_help();
    if (a.version)
        return printf("kmsd " CLV_VERSION "\n") < 0 ? CLI_FAILED : CLI_OK;
    if (a.manual)
        return print_manual();
    for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
        if (strcmp(verbs[i].name, a.verb != NULL ? a.verb : "run") == 0)
            verb = &verbs[i];
    if (verb == NULL)
        return usage("unknown command", a.verb);
    if (a.config_file == NULL)
        return usage("--config FILE is needed;", "for a first one see docs/OPERATIONS.md");
    if (config_load(a.config_file, &c, &e).failed) {
        (void)report(&e);
        return CLI_CONFIG;
    }
    if (a.pin_file != NULL && (!verb->offline || !take_pin_file(c, a.pin_file)))
        return usage("--pin-file must be a path of at most 4,000 bytes, and belongs to", "the offline commands");
    if (log_level_from_text(bytes_str(c->log_level), &level))
        log_init("monitor", level);
    config_dump(c, &dump);
    return a.dump ? print_buf(&dump) : verb->fn(&a, c);
}
