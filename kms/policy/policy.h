/*
 * Purpose: policy documents (YAML, strict schema) compiled to an immutable set, and the decision: a pure function.
 *          Default deny; explicit deny wins; the deciding rule's id is in every decision.
 * Owns:    a compiled set owns copies of everything. Threads: a set is read-only and counted; decide from any thread,
 *          fast lane, no allocation.
 * Errors:  policy_compile: ERR_INVALID, detail "file:line: what" and public text the same (documents are the caller's own).
 * Limits:  POLICY_DOC_MAX bytes, POLICY_RULES_MAX rules, roles and bindings; names as in kms/name.
 * Secrets: none.
 *
 * Document:
 *   version: 1
 *   roles:    [{ name, rules: [{ id, effect: allow|deny, actions: [ "kms.cryptoKeys.encrypt", "kms.*" ],
 *                                resources: [ "projects/{tenant}/locations/eu/keyRings/pii" ] }] }]
 *   bindings: [{ role, tenant: name | "*" | "platform", principals: [ names ] }]
 *   guards:   [{ id, resources: [ patterns that reach versions ], unused_days: 90 }]
 * Action names are dotted words; "*" only as the last word. Resource patterns match segments: a star one segment, two stars
 * (last only) all that follow and nothing, "{tenant}" the caller's tenant. A rule that gives a platform binding a data-plane action is refused at compile time.
 */
#ifndef KMS_POLICY_POLICY_H
#define KMS_POLICY_POLICY_H

#include "base/bytes.h"
#include "kms/name/name.h"

enum { POLICY_DOC_MAX = 131072, POLICY_RULES_MAX = 4096, POLICY_RULE_ID_MAX = 64, POLICY_GUARDS_MAX = 1024, POLICY_UNUSED_DAYS_MAX = 3650 };

struct policy_set;
struct policy_doc {
    const char *name; /* file name, for messages */
    struct bytes yaml;
};
/* The closed list of actions (with their plane) that the rpc table defines; a document naming any other action is refused. */
struct policy_action {
    const char *name;     /* "kms.cryptoKeys.encrypt" */
    bool data_plane;
};
RESULT policy_compile(const struct policy_doc *docs, size_t n, const struct policy_action *actions, size_t nactions,
                      struct policy_set **ret, struct err *e, struct buf *ret_text /* public explanation on failure */);
struct policy_set *policy_ref(struct policy_set *s);
void policy_unref(struct policy_set *s); /* NULL accepted */
void policy_digest(const struct policy_set *s, uint8_t out[32]); /* SHA-256 over the documents in order */

/* The bindings that name this tenant, or every one ("*"), in document order; *cursor begins at 0. Views into the set. */
struct policy_binding {
    const char *role, *tenant;
    const char *const *principals;
    size_t nprincipals;
};
bool policy_binding_next(const struct policy_set *s, struct bytes tenant, size_t *cursor, struct policy_binding *ret);

struct policy_question {
    struct bytes principal;        /* name */
    struct bytes principal_tenant; /* "" for platform */
    const char *action;
    const struct name *resource;   /* NAME_NONE: the instance itself */
};
struct policy_decision {
    bool allowed;
    const char *rule;              /* id, valid while the set is held; "default-deny" when nothing matched */
};
struct policy_decision policy_decide(const struct policy_set *s, const struct policy_question *q);

/* What holds back the destruction of a version, whoever asks for it: it must not have been used for so many days. Of the guards that
 * match, the strictest, of those the first in document order. False: none does. */
struct policy_guard {
    const char *id; /* as policy_decision.rule */
    unsigned unused_days;
};
bool policy_guard_of(const struct policy_set *s, const struct name *version, struct policy_guard *ret);

#endif
