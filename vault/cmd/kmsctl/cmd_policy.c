#include "vault/cmd/kmsctl/kmsctl.h"
#include "vault/cmd/kmsctl/whole.h"

#include "claviger/policy/v1/policy.pb-c.h"
#include "kms/name/name.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define POLICY "/claviger.policy.v1.Policy/"
#define POLICY_COLUMNS "VERSION version|DIGEST digest|CREATOR creator|CREATED create_time"
enum { DOCUMENTS_MAX = 64, DOCUMENT_MAX = 131072 };

typedef Claviger__Policy__V1__Document document;

static void free_names(struct dirent ***list)
{
    free(*list);
}

static int is_yaml(const struct dirent *d)
{
    size_t n = strlen(d->d_name);
    return d->d_name[0] != '.' && n > 5 && strcmp(d->d_name + n - 5, ".yaml") == 0;
}

/* Order matters to the digest: by name, bytewise, whatever the locale. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static struct result read_document(struct ctl *c, const char *dir, const char *name, document **ret, struct claviger_error *e)
{
    CLEANUP(buf_release) struct buf text;
    buf_init(&text, DOCUMENT_MAX + 65536);
    TRY(read_all(arena_printf(&c->arena, "%s/%s", dir, name), DOCUMENT_MAX, &text, e));
    document *d = arena_zalloc(&c->arena, sizeof *d);
    claviger__policy__v1__document__init(d);
    d->name = pb_of(bytes_str(arena_strdup(&c->arena, bytes_str(name))));
    d->yaml = pb_of(BYTES(arena_dup(&c->arena, text.p, text.n), text.n));
    *ret = d;
    return ok();
}

static struct result read_documents(struct ctl *c, const char *dir, document ***ret, size_t *ret_n, struct claviger_error *e)
{
    CLEANUP(free_names) struct dirent **list = NULL;
    int n = scandir(dir, &list, is_yaml, by_name);
    if (n < 0)
        return client_fail(e, CLAVIGER_UNKNOWN, "INPUT", "%s cannot be read: %s", dir, strerror(errno));
    document **docs = arena_zalloc(&c->arena, DOCUMENTS_MAX * sizeof *docs);
    struct result r = n == 0 ? usage(e, "%s holds no .yaml document", dir) : ok();
    if (n > DOCUMENTS_MAX)
        r = usage(e, "%s holds more than %d documents", dir, DOCUMENTS_MAX);
    for (int i = 0; i < n; i++) {
        if (!r.failed)
            r = read_document(c, dir, list[i]->d_name, &docs[i], e);
        free(list[i]);
    }
    *ret = docs;
    *ret_n = (size_t)n;
    return r;
}

static struct result get_policy(struct ctl *c, const Claviger__Policy__V1__PolicySet **ret, struct claviger_error *e)
{
    Claviger__Policy__V1__GetPolicyRequest q = CLAVIGER__POLICY__V1__GET_POLICY_REQUEST__INIT;
    return ctl_read(c, POLICY "GetPolicy", &q.base, &claviger__policy__v1__policy_set__descriptor, ret, e);
}

static struct result write_document(struct ctl *c, const char *dir, const document *d, struct claviger_error *e)
{
    char *name = arena_strdup(&c->arena, pb_bytes_of(d->name));
    if (!*name || *name == '.' || strchr(name, '/'))
        return client_fail(e, CLAVIGER_INTERNAL, "BAD_ANSWER", "a document has no plain file name");
    char *path = arena_printf(&c->arena, "%s/%s", dir, name);
    return whole_write(path, true, 0644, pb_bytes_of(d->yaml), e); /* half a document may be a policy, too: of fewer rules */
}

static struct result policy_get(struct ctl *c, struct claviger_error *e)
{
    const Claviger__Policy__V1__PolicySet *p = NULL;
    TRY(get_policy(c, &p, e));
    for (size_t i = 0; c->args.value[OPT_OUT_DIR] && i < p->n_documents; i++)
        TRY(write_document(c, c->args.value[OPT_OUT_DIR], p->documents[i], e));
    TRY(show(c, &p->base, POLICY_COLUMNS, e));
    for (size_t i = 0; !c->json && !c->args.value[OPT_OUT_DIR] && i < p->n_documents; i++) {
        char name[256];
        client_copy_text(name, sizeof name, pb_bytes_of(p->documents[i]->name));
        printf("\n# ---- %s\n%.*s", name, (int)p->documents[i]->yaml.len, (const char *)p->documents[i]->yaml.data);
    }
    return ok();
}

static struct result policy_apply(struct ctl *c, struct claviger_error *e)
{
    Claviger__Policy__V1__ApplyPolicyRequest q = CLAVIGER__POLICY__V1__APPLY_POLICY_REQUEST__INIT;
    TRY(read_documents(c, c->args.pos[0], &q.documents, &q.n_documents, e));
    TRY(args_u64(&c->args, OPT_EXPECTED, 1, UINT64_MAX, 0, &q.expected_version, e));
    q.dry_run = c->args.value[OPT_DRY_RUN] != NULL;
    if (q.expected_version == 0) {
        const Claviger__Policy__V1__PolicySet *now = NULL;
        TRY(get_policy(c, &now, e));
        q.expected_version = now->version;
    }
    return ask_change(c, POLICY "ApplyPolicy", &q.base, &claviger__policy__v1__policy_set__descriptor, POLICY_COLUMNS, e);
}

static struct result policy_test(struct ctl *c, struct claviger_error *e)
{
    Claviger__Policy__V1__TestPolicyRequest q = CLAVIGER__POLICY__V1__TEST_POLICY_REQUEST__INIT;
    q.principal = name_prefixed(c, "principals/", c->args.pos[0]);
    q.action = pb_of(bytes_str(c->args.pos[1]));
    if (c->args.npos > 2)
        TRY(name_full(c, c->args.pos[2],
                      1u << NAME_TENANT | 1u << NAME_LOCATION | 1u << NAME_KEYRING | 1u << NAME_CRYPTOKEY | 1u << NAME_VERSION,
                      &q.resource, e));
    if (c->args.value[OPT_DIR])
        TRY(read_documents(c, c->args.value[OPT_DIR], &q.documents, &q.n_documents, e));
    const Claviger__Policy__V1__TestPolicyResponse *p = NULL;
    TRY(ctl_read(c, POLICY "TestPolicy", &q.base, &claviger__policy__v1__test_policy_response__descriptor, &p, e));
    TRY(show(c, &p->base, "ALLOWED allowed|RULE rule", e));
    if (!p->allowed)
        return client_fail(e, CLAVIGER_PERMISSION_DENIED, "POLICY_DENIES", "the policy denies it");
    return ok();
}

static const struct command rows[] = {
    {"policy", "get", "", 0, 0, O(OPT_OUT_DIR), ROLE_OPERATOR, policy_get, "the policy in force",
     "kmsctl policy get --out-dir ./policies"},
    {"policy", "apply", "DIR", 1, 1, O(OPT_DRY_RUN) | O(OPT_EXPECTED) | O(OPT_IDEMPOTENCY), ROLE_OPERATOR, policy_apply,
     "replace it, all at once, by the .yaml documents of a folder", "kmsctl policy apply ./policies --dry-run"},
    {"policy", "test", "PRINCIPAL ACTION [RESOURCE]", 2, 3, O(OPT_DIR), ROLE_OPERATOR, policy_test,
     "would it be allowed, and by which rule; exit 3 when not",
     "kmsctl policy test acme-orders kms.cryptoKeys.encrypt acme/eu/pii/email --dir ./policies"},
};
const struct command_rows rows_policy = {rows, sizeof rows / sizeof *rows};
