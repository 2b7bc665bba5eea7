/*
 * Purpose: how a backup of the token is shown. Owns: nothing. Threads: the call's owner (slow lane). Errors: none.
 * Limits:  none. Secrets: none; where the copy lies is for operators.
 */
#ifndef VAULT_SERVICE_TOKEN_H
#define VAULT_SERVICE_TOKEN_H

#include "claviger/system/v1/system.pb-c.h"
#include "vault/service/call.h"

/* The last one; NULL where its record cannot be read. */
Claviger__System__V1__TokenBackup *view_token_backup_on_record(struct call *c);

#endif
