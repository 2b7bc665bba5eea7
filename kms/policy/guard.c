/* Guards: what must not be destroyed while it is in use. Compiled from every document; asked about one version. */
#include "kms/policy/compile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *guard_path(char out[PATH_BYTES], unsigned guard, const char *key)
{
    snprintf(out, PATH_BYTES, "guards[%u].%s", guard, key);
    return out;
}

/* An audit event names what decided by its id alone, be it a rule or a guard. */
static bool id_taken(const struct compiler *c, const char *id)
{
    for (size_t i = 0; i < c->set->nrules; i++)
        if (strcmp(c->set->rules[i].id, id) == 0)
            return true;
    for (size_t i = 0; i < c->set->nguards; i++)
        if (strcmp(c->set->guards[i].id, id) == 0)
            return true;
    return strcmp(id, "default-deny") == 0;
}

static RESULT compile_pattern(struct compiler *c, unsigned doc, unsigned guard, unsigned i, const char *text)
{
    char at[PATH_BYTES];
    struct pattern *p = &c->set->patterns[c->set->npatterns++];
    const char *wrong = pattern_parse(bytes_str(text), p);
    if (!wrong && pattern_names_callers_tenant(p))
        wrong = "a guard stands before whoever asks: name the tenant, or \"*\"";
    if (!wrong && p->deepest != NAME_VERSION)
        wrong = "no version is named by it: end it in /**";
    if (!wrong)
        return ok();
    snprintf(at, sizeof at, "guards[%u].resources[%u]", guard, i);
    return compiler_refuse(c, doc, at, "resource \"%.100s\": %s", text, wrong);
}

static RESULT compile_guard(struct compiler *c, unsigned doc, unsigned index)
{
    const struct doc_guard *in = &c->set->docs[doc]->guards[index];
    char at[PATH_BYTES];
    if (!compiler_is_id(in->id))
        return compiler_refuse(c, doc, guard_path(at, index, "id"), "guard id \"%s\" must match [a-z0-9]([a-z0-9._-]*[a-z0-9])?, at most %d", in->id,
                               POLICY_RULE_ID_MAX);
    if (id_taken(c, in->id))
        return compiler_refuse(c, doc, guard_path(at, index, "id"), "id \"%s\" is taken", in->id);
    if (in->unused_days < 1 || in->unused_days > POLICY_UNUSED_DAYS_MAX)
        return compiler_refuse(c, doc, guard_path(at, index, "unused_days"), "unused_days must be 1 to %d", POLICY_UNUSED_DAYS_MAX);
    const uint32_t first = (uint32_t)c->set->npatterns;
    for (unsigned i = 0; i < in->resources_count; i++)
        TRY(compile_pattern(c, doc, index, i, in->resources[i]));
    c->set->guards[c->set->nguards++] =
        (struct guard){.id = in->id, .first_pattern = first, .patterns = in->resources_count, .unused_days = in->unused_days};
    return ok();
}

RESULT compiler_guards(struct compiler *c)
{
    const struct policy_set *s = c->set;
    size_t total = 0;
    for (size_t d = 0; d < s->ndocs; d++)
        total += s->docs[d]->guards_count;
    if (total > POLICY_GUARDS_MAX)
        return compiler_refuse(c, 0, "", "%zu guards in all; at most %d", total, POLICY_GUARDS_MAX);
    c->set->guards = calloc(total + 1, sizeof *c->set->guards);
    INVARIANT(c->set->guards);
    for (unsigned d = 0; d < s->ndocs; d++)
        for (unsigned i = 0; i < s->docs[d]->guards_count; i++)
            TRY(compile_guard(c, d, i));
    return ok();
}

static bool guard_matches(const struct policy_set *s, const struct guard *g, const struct name *version)
{
    for (uint32_t i = 0; i < g->patterns; i++)
        if (pattern_match(&s->patterns[g->first_pattern + i], version, (struct bytes){0}))
            return true;
    return false;
}

bool policy_guard_of(const struct policy_set *s, const struct name *version, struct policy_guard *ret)
{
    const struct guard *best = NULL;
    for (size_t i = 0; i < s->nguards; i++)
        if ((!best || s->guards[i].unused_days > best->unused_days) && guard_matches(s, &s->guards[i], version))
            best = &s->guards[i];
    if (best)
        *ret = (struct policy_guard){best->id, best->unused_days};
    return best != NULL;
}
