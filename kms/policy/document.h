/*
 * Purpose: one policy document as it was written: YAML through libcyaml's schema into these structs, nothing interpreted yet.
 * Owns:    the whole tree (document_free).
 * Threads: pure.
 * Errors:  false with line and text in struct yaml_fault: unknown and missing keys, wrong types, lists too long or empty.
 * Limits:  the DOC_ numbers; lists have at least one entry.
 * Secrets: none.
 */
#ifndef KMS_POLICY_DOCUMENT_H
#define KMS_POLICY_DOCUMENT_H

#include "kms/policy/yaml.h"

enum {
    DOC_ROLES_MAX = 1024,
    DOC_BINDINGS_MAX = 4096,
    DOC_GUARDS_MAX = 1024,
    DOC_LIST_MAX = 1024, /* principals of a binding, actions or resources of a rule */
    DOC_WORD_MAX = 128,
    DOC_RESOURCE_MAX = 400,
};

enum doc_effect { DOC_ALLOW = 1, DOC_DENY = 2 };
struct doc_rule {
    char *id;
    enum doc_effect effect;
    char **actions, **resources;
    unsigned actions_count, resources_count;
};
struct doc_role {
    char *name;
    struct doc_rule *rules;
    unsigned rules_count;
};
struct doc_binding {
    char *role, *tenant;
    char **principals;
    unsigned principals_count;
};
struct doc_guard {
    char *id;
    char **resources;
    unsigned resources_count, unused_days;
};
struct document {
    unsigned version;
    struct doc_role *roles;
    struct doc_binding *bindings;
    struct doc_guard *guards;
    unsigned roles_count, bindings_count, guards_count;
};
bool document_load(struct bytes untrusted, struct document **ret, struct yaml_fault *fault);
void document_free(struct document *d); /* NULL accepted */

#endif
