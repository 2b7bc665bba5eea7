#include "vault/cmd/kmsctl/kmsctl.h"

#include <grpc/support/log.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void complain(const struct ctl *c, const struct claviger_error *e)
{
    if (c->json) {
        json_t *j = json_pack("{s:{s:s,s:s,s:s,s:s,s:s,s:i}}", "error", "code", claviger_code_name(e->code), "reason", e->reason,
                              "field", e->field, "message", e->message, "request_id", e->request_id, "exit", exit_code(e));
        char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
        fprintf(stderr, "%s\n", text ? text : "{\"error\":{\"code\":\"INTERNAL\"}}");
        free(text);
        json_decref(j);
        return;
    }
    bool own = strcmp(e->reason, "USAGE") == 0;
    fprintf(stderr, "kmsctl: %s%s%s", own ? "" : claviger_code_name(e->code), own ? "" : ": ", e->message);
    if (*e->reason && !own)
        fprintf(stderr, " [%s]", e->reason);
    if (*e->field && !strstr(e->message, e->field))
        fprintf(stderr, " (field %s)", e->field);
    fputc('\n', stderr);
    if (*e->request_id)
        fprintf(stderr, "kmsctl: request id %s\n", e->request_id);
}

/* gRPC's own log and trace print what passes through it: neither belongs on a terminal. */
static void silence(gpr_log_func_args *a)
{
    (void)a;
}

static void quiet_grpc(void)
{
    unsetenv("GRPC_TRACE");
    unsetenv("GRPC_VERBOSITY");
    gpr_set_log_function(silence);
}

static struct result pick(struct ctl *c, const struct words *w, const struct command **ret, struct claviger_error *e)
{
    bool known = false, verbs = command_has_verbs(w->noun, &known);
    if (!known)
        return usage(e, "there is no command \"%s\"; kmsctl --help lists them", w->noun);
    if (verbs && !w->verb)
        return usage(e, "kmsctl %s wants a verb; kmsctl %s --help lists them", w->noun, w->noun);
    const struct command *cmd = command_find(w->noun, verbs ? w->verb : NULL);
    if (!cmd)
        return usage(e, "kmsctl %s has no verb \"%s\"; kmsctl %s --help lists them", w->noun, w->verb, w->noun);
    *ret = cmd;
    if (c->args.value[OPT_HELP])
        return ok();
    TRY(args_allowed(&c->args, cmd, e));
    if (c->args.npos < cmd->min || c->args.npos > cmd->max)
        return usage(e, "usage: kmsctl %s%s%s %s", cmd->noun, cmd->verb ? " " : "", cmd->verb ? cmd->verb : "", cmd->params);
    return ok();
}

static struct result run(struct ctl *c, int argc, char **argv, struct claviger_error *e)
{
    struct words w;
    TRY(args_parse(argc, argv, &w, &c->args, e));
    const char *output = c->args.value[OPT_OUTPUT];
    c->json = output && strcmp(output, "json") == 0;
    if (output && !c->json && strcmp(output, "text") != 0)
        return usage(e, "--output is text or json");
    if (!w.noun) {
        help_all(c->args.value[OPT_HELP] ? stdout : stderr);
        return c->args.value[OPT_HELP] ? ok() : usage(e, "a command is missing");
    }
    bool known = false;
    if (c->args.value[OPT_HELP] && command_has_verbs(w.noun, &known) && !w.verb) {
        help_noun(stdout, w.noun);
        return ok();
    }
    const struct command *cmd = NULL;
    TRY(pick(c, &w, &cmd, e));
    if (c->args.value[OPT_HELP]) {
        help_command(stdout, cmd);
        return ok();
    }
    c->role = cmd->role;
    return cmd->run(c, e);
}

int main(int argc, char **argv)
{
    struct err hard;
    if (secret_process_harden(&hard).failed)
        fprintf(stderr, "kmsctl: core dumps could not be turned off\n");
    (void)signal(SIGPIPE, SIG_IGN); /* a closed stdout is an error to report */
    quiet_grpc();
    struct ctl c = {0};
    arena_init(&c.arena, 64 << 20);
    struct claviger_error e = {0};
    struct result r = run(&c, argc, argv, &e);
    if (!r.failed && (fflush(stdout) != 0 || ferror(stdout))) /* an earlier write may have failed, and the last one not */
        r = client_fail(&e, CLAVIGER_UNKNOWN, "OUTPUT", "stdout could not be written");
    if (r.failed)
        complain(&c, &e);
    int code = r.failed ? exit_code(&e) : EXIT_FINE;
    claviger_free(c.client);
    arena_release(&c.arena);
    (void)fflush(stdout); /* of a failure, too: what it printed first */
    _exit(code); /* gRPC may still be connecting in a thread of its own: OpenSSL's exit handlers would pull the floor from under it */
}
