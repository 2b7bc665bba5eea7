/*
 * Purpose: the registered principals as one immutable, counted snapshot, found by certificate name.
 * Owns:    copies of the principals. A principal is counted by itself: it outlives its snapshot while a call holds it.
 * Threads: read-only after registry_new; ref and unref from any thread.
 * Errors:  ERR_INVALID: a principal against the grammar, or two with one name or one certificate name.
 * Limits:  REGISTRY_MAX principals.
 * Secrets: none.
 */
#ifndef KMS_AUTHN_REGISTRY_H
#define KMS_AUTHN_REGISTRY_H

#include "kms/authn/authn.h"

enum { REGISTRY_MAX = 1 << 20 };

struct registry;
RESULT registry_new(const struct principal *list, size_t n, const char *trust_domain, struct registry **ret, struct err *e);
struct registry *registry_ref(struct registry *r);
void registry_unref(struct registry *r); /* NULL accepted */
/* A reference the caller owns; NULL: nobody is registered under this name. */
const struct principal *registry_find(const struct registry *r, const char *san);
const struct principal *principal_ref(const struct principal *p);
void principal_unref(const struct principal *p); /* NULL accepted */

#endif
