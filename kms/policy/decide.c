#include "kms/policy/set.h"

#include <string.h>

enum { SUBJECTS_PER_CALLER = 4 };

static bool same(struct bytes a, struct bytes b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

int set_action(const struct policy_set *s, struct bytes name)
{
    for (size_t at = set_hash(0, name) & s->action_mask; s->action_slots[at]; at = (at + 1) & s->action_mask) {
        int index = s->action_slots[at] - 1;
        if (same(name, bytes_str(s->actions[index])))
            return index;
    }
    return -1;
}

const struct subject *set_subject(const struct policy_set *s, uint64_t hash, struct bytes tenant, struct bytes principal)
{
    for (size_t at = hash & s->subject_mask; s->subject_slots[at]; at = (at + 1) & s->subject_mask) {
        const struct subject *found = &s->subjects[s->subject_slots[at] - 1];
        if (found->hash == hash && same(found->tenant, tenant) && same(found->principal, principal))
            return found;
    }
    return NULL;
}

struct slice {
    const uint32_t *at, *end;
};

static void add_slice(const struct policy_set *s, struct bytes tenant, struct bytes principal, size_t action, struct slice *out, size_t *n)
{
    const struct subject *who = set_subject(s, set_hash(set_hash(1, tenant), principal), tenant, principal);
    if (!who)
        return;
    const uint32_t *start = &s->starts[who->first_ref + action];
    if (start[0] != start[1])
        out[(*n)++] = (struct slice){s->rule_refs + start[0], s->rule_refs + start[1]};
}

static bool rule_matches(const struct policy_set *s, const struct rule *r, const struct policy_question *q)
{
    for (uint32_t i = 0; i < r->patterns; i++)
        if (pattern_match(&s->patterns[r->first_pattern + i], q->resource, q->principal_tenant))
            return true;
    return false;
}

/* First rule of this effect that matches, in document order; on return slice->at stands at the first rule of the other effect
 * or where it stopped. */
static uint32_t first_match(const struct policy_set *s, struct slice *slice, bool deny, const struct policy_question *q, uint32_t best)
{
    for (; slice->at < slice->end && s->rules[*slice->at].deny == deny; slice->at++)
        if (*slice->at < best && rule_matches(s, &s->rules[*slice->at], q))
            return *slice->at;
    return best;
}

struct policy_decision policy_decide(const struct policy_set *s, const struct policy_question *q)
{
    struct slice slices[SUBJECTS_PER_CALLER];
    size_t n = 0;
    uint32_t best = UINT32_MAX;
    int action = set_action(s, bytes_str(q->action));
    if (action < 0)
        return (struct policy_decision){.allowed = false, .rule = "default-deny"};
    add_slice(s, q->principal_tenant, q->principal, (size_t)action, slices, &n);
    if (q->principal_tenant.n) {
        add_slice(s, q->principal_tenant, BYTES_LIT(SUBJECT_ANY), (size_t)action, slices, &n);
        if (s->any_tenant) {
            add_slice(s, BYTES_LIT(SUBJECT_ANY), q->principal, (size_t)action, slices, &n);
            add_slice(s, BYTES_LIT(SUBJECT_ANY), BYTES_LIT(SUBJECT_ANY), (size_t)action, slices, &n);
        }
    }
    for (size_t i = 0; i < n; i++)
        best = first_match(s, &slices[i], true, q, best);
    if (best != UINT32_MAX)
        return (struct policy_decision){.allowed = false, .rule = s->rules[best].id};
    for (size_t i = 0; i < n; i++)
        best = first_match(s, &slices[i], false, q, best);
    if (best != UINT32_MAX)
        return (struct policy_decision){.allowed = true, .rule = s->rules[best].id};
    return (struct policy_decision){.allowed = false, .rule = "default-deny"};
}
