/*
 * Purpose: what the two halves of the compiler share: roles and rules (compile.c), guards (guard.c), then bindings and
 *          the index (bind.c).
 * Owns:    nothing: the set being built belongs to policy_compile.
 * Threads: one compiler, one thread.
 * Errors:  ERR_INVALID by compiler_refuse: "file:line: what" for the caller and for the log.
 * Limits:  those of set.h.
 * Secrets: none.
 */
#ifndef KMS_POLICY_COMPILE_H
#define KMS_POLICY_COMPILE_H

#include "kms/policy/set.h"

enum { PATH_BYTES = 96 };

/* A role and its rules, which stand together in set.rules. Sorted by name while bindings are resolved. */
struct role {
    const char *name;
    unsigned doc, index;
    uint32_t first_rule, rules;
};
struct compiler {
    const struct policy_doc *docs;
    struct policy_set *set;
    struct role *roles;
    size_t nroles;
    struct err *e;
    struct buf *text;
};
/* Refuses the document's node at `path`. */
RESULT compiler_refuse(struct compiler *c, unsigned doc, const char *path, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
bool compiler_is_id(const char *text);
RESULT compiler_guards(struct compiler *c); /* after the rules: an id is one or the other's */
RESULT compiler_bind(struct compiler *c);

#endif
