/*
 * Purpose: what one message did with which key version: kept with the call, for its event and for those who count.
 * Owns:    an array in the call's arena. Threads: the call's owner.
 * Errors:  ERR_EXHAUSTED "CALL_MEMORY". Limits: EVENT_USES_MAX items a message. Secrets: none.
 */
#ifndef VAULT_SERVICE_USES_H
#define VAULT_SERVICE_USES_H

#include "kms/keyring/keyring.h"
#include "vault/service/call.h"

/* One item more. Items that follow each other under one version share an entry. */
RESULT uses_add(struct call *c, const struct key_view *k, enum event_use_what what, struct err *e);
/* One item less: what it was for did not happen after all. */
void uses_take_back(struct call *c, const struct key_view *k, enum event_use_what what);

#endif
