/* Who is bound in one tenant: for people to see; decisions are made in decide.c. */
#include "kms/policy/set.h"

#include <string.h>

bool policy_binding_next(const struct policy_set *s, struct bytes tenant, size_t *cursor, struct policy_binding *ret)
{
    size_t at = 0;
    for (size_t d = 0; d < s->ndocs; d++)
        for (unsigned i = 0; i < s->docs[d]->bindings_count; i++, at++) {
            const struct doc_binding *b = &s->docs[d]->bindings[i];
            if (at < *cursor || (strcmp(b->tenant, SUBJECT_ANY) != 0 && !bytes_equal(bytes_str(b->tenant), tenant)))
                continue;
            *ret = (struct policy_binding){b->role, b->tenant, (const char *const *)b->principals, b->principals_count};
            *cursor = at + 1;
            return true;
        }
    return false;
}
