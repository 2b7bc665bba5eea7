#include "vault/cmd/kmsctl/kmsctl.h"

#include "base/text.h"

#include <string.h>

static bool takes_value(int o)
{
    static const bool takes[OPT_COUNT] = {
#define X(id, name, metavar, help) [id] = (metavar) != NULL,
        OPTIONS(X)
#undef X
    };
    return takes[o];
}

static int find_option(const char *name, size_t n)
{
    for (int o = 0; o < OPT_COUNT; o++) {
        if (strlen(option_name((enum option)o)) == n && memcmp(option_name((enum option)o), name, n) == 0)
            return o;
    }
    return -1;
}

static struct result remember(struct args *a, int o, const char *value, struct claviger_error *e)
{
    const char **list = o == OPT_CONTEXT ? a->contexts : o == OPT_LABEL ? a->labels : NULL;
    size_t *n = o == OPT_CONTEXT ? &a->ncontexts : &a->nlabels;
    if (!list && a->value[o] && o != OPT_HELP)
        return usage(e, "--%s is given twice", option_name((enum option)o));
    if (list && *n == REPEAT_MAX)
        return usage(e, "--%s is given more than %d times", option_name((enum option)o), REPEAT_MAX);
    if (list)
        list[(*n)++] = value;
    a->value[o] = value;
    return ok();
}

/* --name value, --name=value, --switch. Names are whole: an abbreviation that works today may mean something else tomorrow. */
static struct result take_option(int argc, char **argv, int *i, struct args *a, struct claviger_error *e)
{
    const char *name = argv[*i] + 2, *equals = strchr(name, '=');
    size_t n = equals ? (size_t)(equals - name) : strlen(name);
    int o = find_option(name, n);
    if (o < 0)
        return usage(e, "there is no option --%.*s", (int)n, name);
    if (!takes_value(o)) {
        if (equals)
            return usage(e, "--%s takes no value", option_name((enum option)o));
        return remember(a, o, "", e);
    }
    if (!equals && *i + 1 >= argc)
        return usage(e, "--%s wants a value", option_name((enum option)o));
    return remember(a, o, equals ? equals + 1 : argv[++*i], e);
}

static struct result take_word(const char *word, struct words *w, struct args *a, struct claviger_error *e)
{
    bool known;
    if (!w->noun) {
        w->noun = word;
        return ok();
    }
    if (!w->verb && command_has_verbs(w->noun, &known)) {
        w->verb = word;
        return ok();
    }
    if (a->npos == ARGS_MAX)
        return usage(e, "too many arguments: \"%s\"", word);
    a->pos[a->npos++] = word;
    return ok();
}

RESULT args_parse(int argc, char **argv, struct words *ret_words, struct args *ret, struct claviger_error *e)
{
    struct words w = {0};
    struct args a = {0};
    bool only_words = false;
    for (int i = 1; i < argc; i++) {
        if (!only_words && strcmp(argv[i], "--") == 0) {
            only_words = true;
            continue;
        }
        if (!only_words && (strcmp(argv[i], "-h") == 0 || (i == 1 && strcmp(argv[i], "help") == 0))) {
            TRY(remember(&a, OPT_HELP, "", e));
            continue;
        }
        if (!only_words && argv[i][0] == '-' && argv[i][1] != 0 && argv[i][1] != '-')
            return usage(e, "there is no option %s", argv[i]);
        if (!only_words && argv[i][0] == '-' && argv[i][1] == '-')
            TRY(take_option(argc, argv, &i, &a, e));
        else
            TRY(take_word(argv[i], &w, &a, e));
    }
    *ret_words = w;
    *ret = a;
    return ok();
}

RESULT args_allowed(const struct args *a, const struct command *cmd, struct claviger_error *e)
{
    for (int o = OPT_HELP + 1; o < OPT_COUNT; o++) {
        if (a->value[o] && !(cmd->options & O(o)))
            return usage(e, "kmsctl %s%s%s does not know --%s", cmd->noun, cmd->verb ? " " : "", cmd->verb ? cmd->verb : "",
                         option_name((enum option)o));
    }
    return ok();
}

RESULT args_u64(const struct args *a, enum option o, uint64_t min, uint64_t max, uint64_t fallback, uint64_t *ret,
                struct claviger_error *e)
{
    *ret = fallback;
    if (!a->value[o])
        return ok();
    uint64_t v;
    if (!text_parse_u64(bytes_str(a->value[o]), max, &v) || v < min)
        return usage(e, "--%s is a number from %llu to %llu", option_name(o), (unsigned long long)min, (unsigned long long)max);
    *ret = v;
    return ok();
}

RESULT args_pair(const char *text, struct arena *a, const char **ret_name, const char **ret_value, struct claviger_error *e)
{
    const char *equals = strchr(text, '=');
    if (!equals || equals == text)
        return usage(e, "\"%s\" is not NAME=VALUE", text);
    *ret_name = arena_strdup(a, BYTES(text, (size_t)(equals - text)));
    *ret_value = equals + 1;
    return ok();
}

static struct result read_aad(struct ctl *c, struct claviger_binding *b, struct claviger_error *e)
{
    const char *text = c->args.value[OPT_AAD], *file = c->args.value[OPT_AAD_FILE];
    if (text && file)
        return usage(e, "give --aad or --aad-file, not both");
    struct bytes aad = bytes_str(text);
    CLEANUP(buf_release) struct buf content;
    buf_init(&content, CLAVIGER_PLAINTEXT_MAX + 1);
    if (file) {
        TRY(read_all(file, CLAVIGER_PLAINTEXT_MAX, &content, e));
        aad = buf_bytes(&content);
    }
    b->aad = aad.n ? arena_dup(&c->arena, aad.p, aad.n) : NULL;
    b->aad_len = aad.n;
    return ok();
}

RESULT args_binding(struct ctl *c, bool aad_allowed, struct claviger_binding *ret, struct claviger_error *e)
{
    struct claviger_binding b = {0};
    TRY(read_aad(c, &b, e));
    size_t n = c->args.ncontexts;
    if (n > CLAVIGER_CONTEXT_PAIRS_MAX)
        return usage(e, "at most %d --context pairs", CLAVIGER_CONTEXT_PAIRS_MAX);
    struct claviger_pair *pairs = arena_zalloc(&c->arena, (n + 1) * sizeof *pairs);
    for (size_t i = 0; i < n; i++)
        TRY(args_pair(c->args.contexts[i], &c->arena, &pairs[i].key, &pairs[i].value, e));
    b.context = pairs;
    b.context_len = n;
    if (n > 0 && b.aad_len > 0)
        return usage(e, "give --context or --aad, not both");
    TRY(binding_check(&b, aad_allowed, e));
    *ret = b;
    return ok();
}
