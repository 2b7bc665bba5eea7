/*
 * Purpose: a compiled policy, as compile.c builds it and decide.c reads it.
 * Owns:    the documents (all texts are views into them), copies of the action names, every array.
 * Threads: read-only once compiled; counted.
 * Errors:  none.
 * Limits:  the SET_ numbers below, beside POLICY_RULES_MAX.
 * Secrets: none.
 *
 * A *subject* is one (tenant, principal) of the bindings; "" is the platform, SUBJECT_ANY everyone. For each subject and each
 * action, refs[] lists the rules that may speak: denials first, each kind in document order. A decision looks at four subjects
 * at most, so its cost follows the rules bound to this caller for this action, not the size of the policy.
 */
#ifndef KMS_POLICY_SET_H
#define KMS_POLICY_SET_H

#include "base/ref.h"
#include "kms/policy/document.h"
#include "kms/policy/pattern.h"
#include "kms/policy/policy.h"

enum { SET_DOCS_MAX = 16, SET_ACTIONS_MAX = 256, SET_MEMBERS_MAX = 16384, SET_REFS_MAX = 1 << 20 };
#define SUBJECT_ANY "*"

struct rule {
    const char *id;
    bool deny, gives_data_plane, tenant_only, tenant_used; /* every / some resource names the caller's tenant */
    uint32_t first_pattern, patterns;
    uint64_t actions[SET_ACTIONS_MAX / 64];
    unsigned doc, role_in_doc, rule_in_role; /* where it stands, for messages */
};
struct guard {
    const char *id;
    uint32_t first_pattern, patterns;
    unsigned unused_days;
};
struct subject {
    struct bytes tenant, principal;
    uint64_t hash;
    uint32_t first_ref; /* into starts[]: nactions + 1 offsets into refs[] */
};
struct policy_set {
    struct ref refs;
    uint8_t digest[32];
    struct document *docs[SET_DOCS_MAX];
    size_t ndocs;

    char **actions;
    bool *data_plane;
    uint16_t *action_slots; /* open addressing, 1-based, by hash of the name */
    size_t nactions, action_mask;

    struct rule *rules; /* in document order */
    struct guard *guards; /* in document order */
    struct pattern *patterns;
    size_t nrules, nguards, npatterns;

    struct subject *subjects;
    uint32_t *subject_slots; /* open addressing, 1-based */
    uint32_t *starts, *rule_refs;
    size_t nsubjects, subject_mask, nrefs;
    bool any_tenant; /* some binding says tenant "*" */
};

/* Hashing of public, administrator-written names: speed only, no promise against crafted ones. */
static inline uint64_t set_hash(uint64_t h, struct bytes text)
{
    const uint64_t k = 0x9e3779b97f4a7c15u;
    size_t i = 0;
    for (; i + 8 <= text.n; i += 8) {
        uint64_t word;
        __builtin_memcpy(&word, text.p + i, 8);
        h = (h ^ word) * k;
        h ^= h >> 29;
    }
    uint64_t last = text.n;
    for (; i < text.n; i++)
        last = last << 8 | text.p[i];
    h = (h ^ last) * k;
    return h ^ h >> 32;
}
int set_action(const struct policy_set *s, struct bytes name); /* index, or -1 */
const struct subject *set_subject(const struct policy_set *s, uint64_t hash, struct bytes tenant, struct bytes principal);

#endif
