#include "vault/service/status_code.h"

#include "google/rpc/code.pb-c.h"

/* No default: a new code does not compile until it has been thought about. */
int status_code(enum err_code code)
{
    switch (code) {
    case ERR_NONE: return GOOGLE__RPC__CODE__OK;
    case ERR_INVALID: return GOOGLE__RPC__CODE__INVALID_ARGUMENT;
    case ERR_OUT_OF_RANGE: return GOOGLE__RPC__CODE__OUT_OF_RANGE;
    case ERR_UNAUTHENTICATED: return GOOGLE__RPC__CODE__UNAUTHENTICATED;
    case ERR_DENIED: return GOOGLE__RPC__CODE__PERMISSION_DENIED;
    case ERR_NOT_FOUND: return GOOGLE__RPC__CODE__NOT_FOUND;
    case ERR_EXISTS: return GOOGLE__RPC__CODE__ALREADY_EXISTS;
    case ERR_STATE: return GOOGLE__RPC__CODE__FAILED_PRECONDITION;
    case ERR_CONFLICT: return GOOGLE__RPC__CODE__ABORTED;
    case ERR_EXHAUSTED: return GOOGLE__RPC__CODE__RESOURCE_EXHAUSTED;
    case ERR_CIPHERTEXT: return GOOGLE__RPC__CODE__INVALID_ARGUMENT;
    case ERR_UNIMPLEMENTED: return GOOGLE__RPC__CODE__UNIMPLEMENTED;
    case ERR_UNAVAILABLE: return GOOGLE__RPC__CODE__UNAVAILABLE;
    case ERR_DEADLINE: return GOOGLE__RPC__CODE__DEADLINE_EXCEEDED;
    case ERR_CANCELLED: return GOOGLE__RPC__CODE__CANCELLED;
    case ERR_DATA_LOSS: return GOOGLE__RPC__CODE__DATA_LOSS;
    case ERR_WOULD_BLOCK: return GOOGLE__RPC__CODE__INTERNAL;
    case ERR_INTERNAL: return GOOGLE__RPC__CODE__INTERNAL;
    }
    return GOOGLE__RPC__CODE__INTERNAL;
}
