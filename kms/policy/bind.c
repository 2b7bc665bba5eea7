#include "kms/policy/compile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One principal of one binding, with the role resolved. tenant: "" platform, "*" every tenant. */
struct member {
    struct bytes tenant, principal;
    const struct role *role;
    unsigned doc, binding, place;
};

static void free_ptr(void *p)
{
    free(*(void **)p);
}

static const char *binding_path(char out[PATH_BYTES], unsigned binding, const char *key)
{
    snprintf(out, PATH_BYTES, "bindings[%u].%s", binding, key);
    return out;
}

static const struct role *find_role(const struct compiler *c, const char *name)
{
    size_t low = 0, high = c->nroles;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, c->roles[middle].name);
        if (order == 0)
            return &c->roles[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* ---- what a role may hold depends on whom it is bound to ---- */

static unsigned line_of_binding(const struct compiler *c, unsigned doc, unsigned binding)
{
    char at[PATH_BYTES];
    return yaml_line(c->docs[doc].yaml, binding_path(at, binding, "role"));
}

/* The first of the rule's words that names a data-plane action, and that action. */
static unsigned data_plane_word(const struct policy_set *s, const struct doc_rule *in, const char **ret_action)
{
    for (unsigned i = 0; i < in->actions_count; i++)
        for (size_t a = 0; a < s->nactions; a++) {
            size_t n = strlen(in->actions[i]);
            bool star = in->actions[i][n - 1] == '*';
            int differs = star ? strncmp(s->actions[a], in->actions[i], n - 1) : strcmp(s->actions[a], in->actions[i]);
            if (s->data_plane[a] && !differs) {
                *ret_action = s->actions[a];
                return i;
            }
        }
    *ret_action = "an action";
    return 0;
}

static RESULT refuse_action(struct compiler *c, const struct rule *r, unsigned doc, unsigned binding)
{
    const struct doc_rule *in = &c->set->docs[r->doc]->roles[r->role_in_doc].rules[r->rule_in_role];
    const char *action;
    char at[PATH_BYTES];
    unsigned i = data_plane_word(c->set, in, &action);
    snprintf(at, sizeof at, "roles[%u].rules[%u].actions[%u]", r->role_in_doc, r->rule_in_role, i);
    return compiler_refuse(c, r->doc, at, "\"%s\" gives %s, which uses keys, to platform principals (bound at %s:%u)", in->actions[i], action,
                           c->docs[doc].name, line_of_binding(c, doc, binding));
}

static RESULT refuse_resource(struct compiler *c, const struct rule *r, bool tenant_binding, unsigned doc, unsigned binding)
{
    const struct pattern *p = &c->set->patterns[r->first_pattern];
    unsigned i = 0;
    while (i < r->patterns && pattern_names_callers_tenant(&p[i]) == tenant_binding)
        i++;
    char at[PATH_BYTES];
    snprintf(at, sizeof at, "roles[%u].rules[%u].resources[%u]", r->role_in_doc, r->rule_in_role, i);
    return compiler_refuse(c, r->doc, at, "%s (bound at %s:%u)",
                           tenant_binding ? "a role of a tenant must stay inside it: begin with projects/{tenant}"
                                          : "{tenant} means nothing for platform principals, who have no tenant",
                           c->docs[doc].name, line_of_binding(c, doc, binding));
}

static RESULT check_role_for(struct compiler *c, const struct role *role, bool platform, unsigned doc, unsigned binding)
{
    for (uint32_t i = 0; i < role->rules; i++) {
        const struct rule *r = &c->set->rules[role->first_rule + i];
        if (platform && r->gives_data_plane)
            return refuse_action(c, r, doc, binding);
        if (platform ? r->tenant_used : !r->tenant_only)
            return refuse_resource(c, r, !platform, doc, binding);
    }
    return ok();
}

/* ---- bindings to members ---- */

static RESULT take_principals(struct compiler *c, const struct doc_binding *in, struct member like, struct member *out, size_t *n)
{
    bool platform = like.tenant.n == 0;
    for (unsigned i = 0; i < in->principals_count; i++) {
        struct bytes who = bytes_str(in->principals[i]);
        bool any = bytes_equal(who, BYTES_LIT(SUBJECT_ANY));
        const char *wrong = NULL;
        if (any && platform)
            wrong = "platform principals are named one by one";
        if (any && in->principals_count > 1)
            wrong = "\"*\" stands alone";
        if (!any && !name_valid_principal(who))
            wrong = "is not a principal's name (no patterns here)";
        if (wrong) {
            char at[PATH_BYTES];
            snprintf(at, sizeof at, "bindings[%u].principals[%u]", like.binding, i);
            return compiler_refuse(c, like.doc, at, "principal \"%s\": %s", in->principals[i], wrong);
        }
        like.principal = who;
        like.place = i;
        out[(*n)++] = like;
    }
    return ok();
}

static RESULT take_binding(struct compiler *c, unsigned doc, unsigned binding, struct member *out, size_t *n)
{
    const struct doc_binding *in = &c->set->docs[doc]->bindings[binding];
    char at[PATH_BYTES];
    struct member like = {.tenant = bytes_str(in->tenant), .doc = doc, .binding = binding};
    bool platform = bytes_equal(like.tenant, BYTES_LIT("platform")), any = bytes_equal(like.tenant, BYTES_LIT(SUBJECT_ANY));
    if (!platform && !any && !name_valid_id(like.tenant, NAME_TENANT))
        return compiler_refuse(c, doc, binding_path(at, binding, "tenant"), "tenant \"%s\" is neither a tenant's id, \"*\" nor platform", in->tenant);
    like.role = find_role(c, in->role);
    if (!like.role)
        return compiler_refuse(c, doc, binding_path(at, binding, "role"), "unknown role \"%s\"", in->role);
    TRY(check_role_for(c, like.role, platform, doc, binding));
    if (platform)
        like.tenant = BYTES_LIT("");
    c->set->any_tenant = c->set->any_tenant || any;
    return take_principals(c, in, like, out, n);
}

/* ---- members to subjects ---- */

static int compare_subject(const struct member *a, const struct member *b)
{
    int order = bytes_compare(a->tenant, b->tenant);
    return order ? order : bytes_compare(a->principal, b->principal);
}

static int compare_numbers(unsigned a, unsigned b)
{
    return (a > b) - (a < b);
}

static int compare_members(const void *a, const void *b)
{
    const struct member *x = a, *y = b;
    int order = compare_subject(x, y);
    order = order ? order : compare_numbers(x->role->first_rule, y->role->first_rule);
    order = order ? order : compare_numbers(x->doc, y->doc);
    order = order ? order : compare_numbers(x->binding, y->binding);
    return order ? order : compare_numbers(x->place, y->place);
}

static RESULT check_members(struct compiler *c, const struct member *m, size_t n)
{
    size_t rules = 0;
    for (size_t i = 0; i < n; i++) {
        rules += m[i].role->rules;
        if (i == 0 || compare_subject(&m[i - 1], &m[i]) != 0 || m[i - 1].role != m[i].role)
            continue;
        char at[PATH_BYTES];
        snprintf(at, sizeof at, "bindings[%u].principals[%u]", m[i].binding, m[i].place);
        return compiler_refuse(c, m[i].doc, at, "principal \"%.*s\" has role \"%s\" already", (int)m[i].principal.n, (const char *)m[i].principal.p,
                               m[i].role->name);
    }
    /* Bounds the work below before it is begun: no subject's list is longer than the rules of its roles. */
    if (rules > SET_REFS_MAX / 4)
        return compiler_refuse(c, 0, "", "roles times principals make %zu rules; at most %d", rules, SET_REFS_MAX / 4);
    return ok();
}

static bool rule_has(const struct rule *r, size_t action)
{
    return r->actions[action / 64] >> (action % 64) & 1;
}

/* Rules of one subject's roles, denials first, each kind in document order (its members are sorted by role's first rule). */
static void index_subject(struct policy_set *s, const struct member *m, size_t n, struct subject *who)
{
    for (size_t a = 0; a < s->nactions; a++) {
        s->starts[who->first_ref + a] = (uint32_t)s->nrefs;
        for (int allow = 0; allow < 2; allow++)
            for (size_t i = 0; i < n; i++)
                for (uint32_t r = m[i].role->first_rule; r < m[i].role->first_rule + m[i].role->rules; r++)
                    if (s->rules[r].deny == !allow && rule_has(&s->rules[r], a))
                        s->rule_refs[s->nrefs++] = r;
    }
    s->starts[who->first_ref + s->nactions] = (uint32_t)s->nrefs;
}

static size_t count_refs(const struct policy_set *s, const struct member *m, size_t n)
{
    size_t refs = 0;
    for (size_t i = 0; i < n; i++)
        for (uint32_t r = m[i].role->first_rule; r < m[i].role->first_rule + m[i].role->rules; r++)
            for (size_t w = 0; w < SET_ACTIONS_MAX / 64; w++)
                refs += (size_t)__builtin_popcountll(s->rules[r].actions[w]);
    return refs;
}

static void add_subject(struct policy_set *s, const struct member *m, size_t n)
{
    struct subject *who = &s->subjects[s->nsubjects];
    *who = (struct subject){.tenant = m->tenant,
                            .principal = m->principal,
                            .hash = set_hash(set_hash(1, m->tenant), m->principal),
                            .first_ref = (uint32_t)(s->nsubjects * (s->nactions + 1))};
    s->nsubjects++;
    index_subject(s, m, n, who);
    size_t at = who->hash & s->subject_mask;
    while (s->subject_slots[at])
        at = (at + 1) & s->subject_mask;
    s->subject_slots[at] = (uint32_t)s->nsubjects;
}

static RESULT build_index(struct compiler *c, const struct member *m, size_t n)
{
    struct policy_set *s = c->set;
    size_t slots = 4, refs = count_refs(s, m, n);
    if (refs > SET_REFS_MAX)
        return compiler_refuse(c, 0, "", "roles times principals times actions make %zu entries; at most %d", refs, SET_REFS_MAX);
    while (slots < n * 2)
        slots *= 2;
    s->subject_mask = slots - 1;
    s->subject_slots = calloc(slots, sizeof *s->subject_slots);
    s->subjects = calloc(n + 1, sizeof *s->subjects);
    s->starts = calloc((n + 1) * (s->nactions + 1), sizeof *s->starts);
    s->rule_refs = calloc(refs + 1, sizeof *s->rule_refs);
    INVARIANT(s->subject_slots && s->subjects && s->starts && s->rule_refs);
    for (size_t first = 0, next; first < n; first = next) {
        next = first + 1;
        while (next < n && compare_subject(&m[first], &m[next]) == 0)
            next++;
        add_subject(s, m + first, next - first);
    }
    return ok();
}

RESULT compiler_bind(struct compiler *c)
{
    const struct policy_set *s = c->set;
    size_t total = 0, n = 0;
    for (size_t d = 0; d < s->ndocs; d++)
        for (unsigned i = 0; i < s->docs[d]->bindings_count; i++)
            total += s->docs[d]->bindings[i].principals_count;
    if (total > SET_MEMBERS_MAX)
        return compiler_refuse(c, 0, "", "%zu principals in all bindings; at most %d", total, SET_MEMBERS_MAX);
    CLEANUP(free_ptr) struct member *members = calloc(total + 1, sizeof *members);
    INVARIANT(members);
    for (unsigned d = 0; d < s->ndocs; d++)
        for (unsigned i = 0; i < s->docs[d]->bindings_count; i++)
            TRY(take_binding(c, d, i, members, &n));
    qsort(members, n, sizeof *members, compare_members);
    TRY(check_members(c, members, n));
    return build_index(c, members, n);
}
