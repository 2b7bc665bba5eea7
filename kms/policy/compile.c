#include "kms/policy/compile.h"

#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static RESULT refuse_line(struct compiler *c, unsigned doc, unsigned line, const char *what)
{
    if (c->text)
        buf_putf(c->text, "%s:%u: %s", c->docs[doc].name, line, what);
    FAIL(c->e, ERR_INVALID, "POLICY_DOCUMENT_INVALID", "%s:%u: %s", c->docs[doc].name, line, what);
}

RESULT compiler_refuse(struct compiler *c, unsigned doc, const char *path, const char *fmt, ...)
{
    char what[ERR_DETAIL_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    return refuse_line(c, doc, yaml_line(c->docs[doc].yaml, path), what);
}

/* ---- actions ---- */

static void take_actions(struct policy_set *s, const struct policy_action *actions, size_t n)
{
    size_t slots = 1;
    INVARIANT(n >= 1 && n <= SET_ACTIONS_MAX);
    while (slots < n * 4)
        slots *= 2;
    s->actions = calloc(n, sizeof *s->actions);
    s->data_plane = calloc(n, sizeof *s->data_plane);
    s->action_slots = calloc(slots, sizeof *s->action_slots);
    INVARIANT(s->actions && s->data_plane && s->action_slots);
    s->action_mask = slots - 1;
    for (size_t i = 0; i < n; i++) {
        struct bytes name = bytes_str(actions[i].name);
        INVARIANT(set_action(s, name) < 0); /* the table that lists an action twice is wrong */
        INVARIANT((s->actions[i] = strdup(actions[i].name)) != NULL);
        s->data_plane[i] = actions[i].data_plane;
        s->nactions = i + 1;
        size_t at = set_hash(0, name) & s->action_mask;
        while (s->action_slots[at])
            at = (at + 1) & s->action_mask;
        s->action_slots[at] = (uint16_t)(i + 1);
    }
}

/* Adds what the pattern names; false: nothing. "*" stands for whole words, and last. */
static bool add_actions(const struct policy_set *s, struct rule *r, const char *pattern)
{
    size_t n = strlen(pattern);
    bool any = false, prefix = strcmp(pattern, "*") == 0 || (n > 2 && strcmp(pattern + n - 2, ".*") == 0);
    for (size_t i = 0; i < s->nactions; i++) {
        if (prefix ? strncmp(s->actions[i], pattern, n - 1) != 0 : strcmp(s->actions[i], pattern) != 0)
            continue;
        r->actions[i / 64] |= UINT64_C(1) << (i % 64);
        r->gives_data_plane = r->gives_data_plane || (!r->deny && s->data_plane[i]);
        any = true;
    }
    return any;
}

/* ---- rules and roles ---- */

bool compiler_is_id(const char *text)
{
    struct bytes id = bytes_str(text);
    return id.n <= POLICY_RULE_ID_MAX && name_valid_principal(id);
}

static RESULT compile_resources(struct compiler *c, struct rule *r, const struct doc_rule *in, const char *path)
{
    struct policy_set *s = c->set;
    r->first_pattern = (uint32_t)s->npatterns;
    r->patterns = in->resources_count;
    r->tenant_only = true;
    for (unsigned i = 0; i < in->resources_count; i++) {
        struct pattern *p = &s->patterns[s->npatterns++];
        const char *wrong = pattern_parse(bytes_str(in->resources[i]), p);
        if (wrong) {
            char at[PATH_BYTES + 32];
            snprintf(at, sizeof at, "%s.resources[%u]", path, i);
            return compiler_refuse(c, r->doc, at, "resource \"%.100s\": %s", in->resources[i], wrong);
        }
        bool in_tenant = pattern_names_callers_tenant(p);
        r->tenant_only = r->tenant_only && in_tenant;
        r->tenant_used = r->tenant_used || in_tenant;
    }
    return ok();
}

static RESULT compile_rule(struct compiler *c, const struct doc_rule *in, struct rule *r, const char *path)
{
    char at[PATH_BYTES + 32];
    r->id = in->id;
    r->deny = in->effect == DOC_DENY;
    snprintf(at, sizeof at, "%s.id", path);
    if (!compiler_is_id(in->id))
        return compiler_refuse(c, r->doc, at, "rule id \"%s\" must match [a-z0-9]([a-z0-9._-]*[a-z0-9])?, at most %d", in->id, POLICY_RULE_ID_MAX);
    if (strcmp(in->id, "default-deny") == 0)
        return compiler_refuse(c, r->doc, at, "rule id \"default-deny\" means that no rule matched");
    for (unsigned i = 0; i < in->actions_count; i++)
        if (!add_actions(c->set, r, in->actions[i])) {
            snprintf(at, sizeof at, "%s.actions[%u]", path, i);
            return compiler_refuse(c, r->doc, at, "unknown action \"%s\"", in->actions[i]);
        }
    return compile_resources(c, r, in, path);
}

static RESULT compile_role(struct compiler *c, unsigned doc, unsigned index)
{
    const struct doc_role *in = &c->set->docs[doc]->roles[index];
    char at[PATH_BYTES];
    snprintf(at, sizeof at, "roles[%u].name", index);
    if (!compiler_is_id(in->name))
        return compiler_refuse(c, doc, at, "role name \"%s\" must match [a-z0-9]([a-z0-9._-]*[a-z0-9])?", in->name);
    struct role *role = &c->roles[c->nroles++];
    *role = (struct role){.name = in->name, .doc = doc, .index = index, .first_rule = (uint32_t)c->set->nrules, .rules = in->rules_count};
    for (unsigned i = 0; i < in->rules_count; i++) {
        struct rule *r = &c->set->rules[c->set->nrules++];
        r->doc = doc;
        r->role_in_doc = index;
        r->rule_in_role = i;
        snprintf(at, sizeof at, "roles[%u].rules[%u]", index, i);
        TRY(compile_rule(c, &in->rules[i], r, at));
    }
    return ok();
}

/* ---- names that must be unique: an audit event names a rule by its id alone ---- */

static int compare_rules(const void *a, const void *b)
{
    const struct rule *x = *(const struct rule *const *)a, *y = *(const struct rule *const *)b;
    int order = strcmp(x->id, y->id);
    return order ? order : (x > y) - (x < y);
}

static void free_ptr(void *p)
{
    free(*(void **)p);
}

static RESULT check_unique_rules(struct compiler *c)
{
    CLEANUP(free_ptr) const struct rule **sorted = calloc(c->set->nrules + 1, sizeof(struct rule *));
    INVARIANT(sorted);
    for (size_t i = 0; i < c->set->nrules; i++)
        sorted[i] = &c->set->rules[i];
    qsort(sorted, c->set->nrules, sizeof(struct rule *), compare_rules);
    for (size_t i = 1; i < c->set->nrules; i++)
        if (strcmp(sorted[i - 1]->id, sorted[i]->id) == 0) {
            char at[PATH_BYTES];
            snprintf(at, sizeof at, "roles[%u].rules[%u].id", sorted[i]->role_in_doc, sorted[i]->rule_in_role);
            return compiler_refuse(c, sorted[i]->doc, at, "rule id \"%s\" appears twice", sorted[i]->id);
        }
    return ok();
}

static int compare_roles(const void *a, const void *b)
{
    const struct role *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->first_rule > y->first_rule) - (x->first_rule < y->first_rule);
}

static RESULT sort_roles(struct compiler *c)
{
    qsort(c->roles, c->nroles, sizeof *c->roles, compare_roles);
    for (size_t i = 1; i < c->nroles; i++)
        if (strcmp(c->roles[i - 1].name, c->roles[i].name) == 0) {
            char at[PATH_BYTES];
            snprintf(at, sizeof at, "roles[%u].name", c->roles[i].index);
            return compiler_refuse(c, c->roles[i].doc, at, "role \"%s\" appears twice", c->roles[i].name);
        }
    return ok();
}

/* ---- documents ---- */

static RESULT load_documents(struct compiler *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct yaml_fault fault = {.line = 1};
        if (!document_load(c->docs[i].yaml, &c->set->docs[i], &fault))
            return refuse_line(c, (unsigned)i, fault.line, fault.text);
        c->set->ndocs = i + 1;
        const struct document *d = c->set->docs[i];
        if (d->version != 1)
            return compiler_refuse(c, (unsigned)i, "version", "version must be 1");
        if (!d->roles_count && !d->bindings_count && !d->guards_count)
            return compiler_refuse(c, (unsigned)i, "", "the document has neither roles nor bindings nor guards");
    }
    return ok();
}

static RESULT compile_roles(struct compiler *c)
{
    struct policy_set *s = c->set;
    size_t roles = 0, rules = 0, patterns = 0;
    for (size_t d = 0; d < s->ndocs; d++) {
        roles += s->docs[d]->roles_count;
        for (unsigned i = 0; i < s->docs[d]->roles_count; i++)
            rules += s->docs[d]->roles[i].rules_count;
    }
    if (rules > POLICY_RULES_MAX)
        return compiler_refuse(c, 0, "", "%zu rules in all; at most %d", rules, POLICY_RULES_MAX);
    for (size_t d = 0; d < s->ndocs; d++)
        for (unsigned i = 0; i < s->docs[d]->roles_count; i++)
            for (unsigned j = 0; j < s->docs[d]->roles[i].rules_count; j++)
                patterns += s->docs[d]->roles[i].rules[j].resources_count;
    for (size_t d = 0; d < s->ndocs; d++)
        for (unsigned i = 0; i < s->docs[d]->guards_count; i++)
            patterns += s->docs[d]->guards[i].resources_count;
    c->roles = calloc(roles + 1, sizeof *c->roles);
    s->rules = calloc(rules + 1, sizeof *s->rules);
    s->patterns = calloc(patterns + 1, sizeof *s->patterns);
    INVARIANT(c->roles && s->rules && s->patterns);
    for (unsigned d = 0; d < s->ndocs; d++)
        for (unsigned i = 0; i < s->docs[d]->roles_count; i++)
            TRY(compile_role(c, d, i));
    TRY(check_unique_rules(c));
    return sort_roles(c);
}

/* Lengths go in, so that moving a line from one document's end to the next one's start is another policy. */
static void digest(const struct policy_doc *docs, size_t n, uint8_t out[32])
{
    crypto_hash_sha256_state h;
    crypto_hash_sha256_init(&h);
    for (size_t i = 0; i < n; i++) {
        uint8_t len[8];
        put_be64(len, docs[i].yaml.n);
        crypto_hash_sha256_update(&h, len, sizeof len);
        crypto_hash_sha256_update(&h, docs[i].yaml.p, docs[i].yaml.n);
    }
    crypto_hash_sha256_final(&h, out);
}

static void policy_unrefp(struct policy_set **s)
{
    policy_unref(*s);
}

RESULT policy_compile(const struct policy_doc *docs, size_t n, const struct policy_action *actions, size_t nactions,
                      struct policy_set **ret, struct err *e, struct buf *ret_text)
{
    if (n < 1 || n > SET_DOCS_MAX) {
        if (ret_text)
            buf_putf(ret_text, "%zu policy documents; 1 to %d make a policy", n, SET_DOCS_MAX);
        FAIL(e, ERR_INVALID, "POLICY_DOCUMENT_INVALID", "%zu policy documents; 1 to %d make a policy", n, SET_DOCS_MAX);
    }
    CLEANUP(policy_unrefp) struct policy_set *s = calloc(1, sizeof *s);
    INVARIANT(s);
    ref_init(&s->refs);
    take_actions(s, actions, nactions);
    struct compiler c = {.docs = docs, .set = s, .e = e, .text = ret_text};
    struct result r = load_documents(&c, n);
    if (!r.failed)
        r = compile_roles(&c);
    if (!r.failed)
        r = compiler_guards(&c);
    if (!r.failed)
        r = compiler_bind(&c);
    free(c.roles);
    TRY(r);
    digest(docs, n, s->digest);
    *ret = s;
    s = NULL;
    return ok();
}

struct policy_set *policy_ref(struct policy_set *s)
{
    ref_take(&s->refs);
    return s;
}

void policy_unref(struct policy_set *s)
{
    if (!s || !ref_drop(&s->refs))
        return;
    for (size_t i = 0; i < s->ndocs; i++)
        document_free(s->docs[i]);
    for (size_t i = 0; i < s->nactions; i++)
        free(s->actions[i]);
    free(s->actions);
    free(s->data_plane);
    free(s->action_slots);
    free(s->rules);
    free(s->guards);
    free(s->patterns);
    free(s->subjects);
    free(s->subject_slots);
    free(s->starts);
    free(s->rule_refs);
    free(s);
}

void policy_digest(const struct policy_set *s, uint8_t out[32])
{
    memcpy(out, s->digest, sizeof s->digest);
}
