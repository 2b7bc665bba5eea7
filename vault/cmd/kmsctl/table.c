#include "vault/cmd/kmsctl/kmsctl.h"

#include <string.h>

static const struct command_rows *const all[] = {&rows_system, &rows_tenants, &rows_keys, &rows_life, &rows_certificates, &rows_usage, &rows_versions, &rows_data,
                                                 &rows_csv,    &rows_policy, &rows_audit,  &rows_master, &rows_token};
enum { ALL = sizeof all / sizeof *all };

#define FOR_EACH(cmd)                                                                                                     \
    for (size_t part_ = 0; part_ < ALL; part_++)                                                                          \
        for (const struct command *cmd = all[part_]->rows; cmd < all[part_]->rows + all[part_]->n; cmd++)

const struct command *command_find(const char *noun, const char *verb)
{
    FOR_EACH (cmd) {
        if (strcmp(cmd->noun, noun) == 0 && (verb == NULL) == (cmd->verb == NULL) && (!verb || strcmp(cmd->verb, verb) == 0))
            return cmd;
    }
    return NULL;
}

bool command_has_verbs(const char *noun, bool *ret_known)
{
    FOR_EACH (cmd) {
        if (strcmp(cmd->noun, noun) == 0) {
            *ret_known = true;
            return cmd->verb != NULL;
        }
    }
    *ret_known = false;
    return false;
}

static const struct {
    const char *name, *metavar, *help;
} options[OPT_COUNT] = {
#define X(id, name_, metavar_, help_) [id] = {name_, metavar_, help_},
    OPTIONS(X)
#undef X
};

const char *option_name(enum option o)
{
    return options[o].name;
}

static void help_options(FILE *f, uint64_t which)
{
    for (int o = 0; o < OPT_COUNT; o++) {
        if (!(which & O(o)))
            continue;
        char left[48];
        snprintf(left, sizeof left, "--%s%s%s", options[o].name, options[o].metavar ? " " : "",
                 options[o].metavar ? options[o].metavar : "");
        fprintf(f, "  %-28s %s\n", left, options[o].help);
    }
}

enum { COMMON_LAST = OPT_HELP };

static uint64_t common(void)
{
    return (UINT64_C(1) << (COMMON_LAST + 1)) - 1;
}

static void line(FILE *f, const struct command *cmd)
{
    char left[96];
    snprintf(left, sizeof left, "%s%s%s %s", cmd->noun, cmd->verb ? " " : "", cmd->verb ? cmd->verb : "", cmd->params);
    fprintf(f, "  %-44s %s\n", left, cmd->summary);
}

void help_all(FILE *f)
{
    fputs("kmsctl - the operator's tool of Claviger\n\nusage: kmsctl COMMAND [VERB] [ARGUMENTS] [OPTIONS]\n\n", f);
    FOR_EACH (cmd)
        line(f, cmd);
    fputs("\nNames are short, acme/eu/pii/email@3 (tenant/location/ring/key@version), or full, projects/acme/locations/eu/...\n"
          "Data is read from stdin and written to stdout; secrets are never arguments.\n\nOptions of every command:\n", f);
    help_options(f, common());
    fputs("\nThe certificate is --cert/--cert-key, else KMS_CERT/KMS_KEY, else by the verb's role: KMS_OPERATOR_CERT/_KEY (status,\n"
          "tenants, principals, policy, audit), KMS_KEYADMIN_CERT/_KEY (keyrings, keys, versions), KMS_SERVICE_CERT/_KEY (data);\n"
          "last the configuration file: lines of endpoint, ca, cert, key, operator_cert, operator_key, ... = value.\n"
          "\nExit codes: 0 fine, 1 failed, 2 usage, 3 denied, 4 not found, 5 exists, conflict or wrong state, 6 unavailable or\n"
          "over a limit, 7 invalid or cannot be decrypted.\n\nkmsctl COMMAND --help and kmsctl COMMAND VERB --help teach each one.\n", f);
}

void help_noun(FILE *f, const char *noun)
{
    fprintf(f, "usage: kmsctl %s VERB ...\n\n", noun);
    FOR_EACH (cmd) {
        if (strcmp(cmd->noun, noun) == 0)
            line(f, cmd);
    }
    fputs("\nExamples:\n", f);
    FOR_EACH (cmd) {
        if (strcmp(cmd->noun, noun) == 0)
            fprintf(f, "  %s\n", cmd->example);
    }
}

void help_command(FILE *f, const struct command *cmd)
{
    static const char *const roles[] = {"KMS_OPERATOR_CERT, KMS_OPERATOR_KEY", "KMS_KEYADMIN_CERT, KMS_KEYADMIN_KEY",
                                        "KMS_SERVICE_CERT, KMS_SERVICE_KEY"};
    fprintf(f, "usage: kmsctl %s%s%s %s%s[OPTIONS]\n\n%s\n", cmd->noun, cmd->verb ? " " : "", cmd->verb ? cmd->verb : "",
            cmd->params, *cmd->params ? " " : "", cmd->summary);
    fprintf(f, "\nExample:\n  %s\n", cmd->example);
    if (cmd->options) {
        fputs("\nOptions:\n", f);
        help_options(f, cmd->options);
    }
    fputs("\nOptions of every command:\n", f);
    help_options(f, common());
    fprintf(f, "\nRole variables: %s\n", roles[cmd->role]);
}
