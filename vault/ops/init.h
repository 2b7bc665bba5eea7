/*
 * Purpose: what `kmsd init` tells the core: the first administrator and the policy documents (IPC_INIT, base/ipc.h).
 * Owns:    nothing. Threads: the monitor's one.
 * Errors:  ERR_INVALID with the file, ERR_NOT_FOUND "POLICY_DIR" when the folder has no document.
 * Limits:  INIT_DOCUMENTS_MAX documents; the message at most CHAN_MAX_BYTES.
 * Secrets: none.
 */
#ifndef VAULT_OPS_INIT_H
#define VAULT_OPS_INIT_H

#include "base/bytes.h"

#define INIT_VENDOR_CLONE "vendor-clone"
enum { INIT_DOCUMENTS_MAX = 256, INIT_NAME_MAX = 255 };

struct init_request {
    const char *admin, *admin_san, *policy_dir;
    const char *token_backup; /* NULL: a verified copy; INIT_VENDOR_CLONE: the operator has the vendor's tool clone the token */
};
/* Reads *.yaml of the folder itself, in the order of their names; what stands in folders below it is not policy. */
RESULT init_message(const struct init_request *r, struct buf *out, struct err *e);

#endif
