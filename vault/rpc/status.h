/*
 * Purpose: an error as gRPC carries it: its code (vault/service/status_code.h), its message, and a google.rpc.Status with
 *          ErrorInfo, BadRequest and RetryInfo for grpc-status-details-bin.
 * Owns: nothing. Threads: pure. Errors: none: what does not fit is cut. Limits: STATUS_DETAILS_MAX, STATUS_TEXT_MAX.
 * Secrets: only an error's public part leaves (err_public); its detail never does.
 */
#ifndef VAULT_RPC_STATUS_H
#define VAULT_RPC_STATUS_H

#include "base/bytes.h"
#include "vault/service/status_code.h"

#include <grpc/status.h>

enum { STATUS_TEXT_MAX = 512, STATUS_DETAILS_MAX = 2048 };
#define STATUS_DOMAIN "claviger.dev"

const char *status_reason(const struct err *e); /* ErrorInfo.reason: the error's own, or its code's name */
/* Encoded google.rpc.Status. retry_after_ms 0: no RetryInfo. */
void status_details(const struct err *e, uint64_t retry_after_ms, struct buf *out);

#endif
