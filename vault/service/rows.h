/*
 * Purpose: each service's rows, assembled by rows.c into the one table. A new service adds one line here and one there.
 * Owns: nothing. Threads: constant. Errors: table_check. Limits: table.h. Secrets: none.
 */
#ifndef VAULT_SERVICE_ROWS_H
#define VAULT_SERVICE_ROWS_H

#include "vault/service/table.h"

struct row_list {
    const struct rpc_row *rows;
    size_t n;
};
#define ROWS_SERVICES(X)                                                                           \
    X(rows_kms_rings) X(rows_kms_keys) X(rows_kms_versions) X(rows_kms_crypto)                     \
    X(rows_lifecycle) X(rows_certificates) X(rows_usage) X(rows_envelope) X(rows_envelope_batch) X(rows_envelope_rewrap) X(rows_tenants) X(rows_tenant_moves) X(rows_export) X(rows_identity) X(rows_policy)        \
    X(rows_masters) X(rows_audit) X(rows_system) X(rows_token) X(rows_health) X(rows_reflection)
#define X(name) extern const struct row_list name;
ROWS_SERVICES(X)
#undef X

#endif
