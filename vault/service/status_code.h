/*
 * Purpose: the one mapping from our error codes to google.rpc.Code numbers (which gRPC statuses share).
 * Owns: nothing. Threads: pure. Errors: none. Limits: none. Secrets: none.
 */
#ifndef VAULT_SERVICE_STATUS_CODE_H
#define VAULT_SERVICE_STATUS_CODE_H

#include "base/err.h"

int status_code(enum err_code code);

#endif
