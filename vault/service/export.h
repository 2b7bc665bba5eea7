/*
 * Purpose: what is held about a tenant, as JSON: one object for each thing, its fields as docs/API.md and
 *          docs/tenant-export.schema.json have them. Key material has no field.
 * Owns:    nothing. Threads: pure. Errors: ERR_DATA_LOSS "RECORD_MALFORMED". Limits: the buf given. Secrets: none: wrapped keys stay out.
 */
#ifndef VAULT_SERVICE_EXPORT_H
#define VAULT_SERVICE_EXPORT_H

#include "kms/keyring/keyring.h"
#include "kms/keyring/usage.h"
#include "kms/policy/policy.h"
#include "vault/service/admin.h"
#include "vault/service/certificate.h"

void export_tenant(const struct tenant *t, struct buf *out);
RESULT export_ring(const struct record *r, struct arena *a, struct buf *out, struct err *e);
RESULT export_key(const struct record *r, struct arena *a, struct buf *out, struct err *e);
RESULT export_version(const struct record *r, struct arena *a, struct buf *out, struct err *e);
void export_usage(struct bytes kvid, const struct usage *u, struct buf *out);
void export_certificate(const struct certificate_row *c, struct buf *out);
void export_principal(const struct admin_principal *p, struct buf *out);
void export_binding(const struct policy_binding *b, struct buf *out);
RESULT export_budget(const struct record *r, struct buf *out, struct err *e);
void export_audit(const char *origin, uint64_t events, uint64_t first_index, uint64_t last_index, int64_t first_ns, int64_t last_ns,
                  struct buf *out);

#endif
