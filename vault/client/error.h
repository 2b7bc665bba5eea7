/*
 * Purpose: making and reading struct claviger_error: local refusals, gRPC statuses with google.rpc details.
 * Owns: nothing. Threads: pure.
 * Errors: client_fail always returns a failed result, so that it can be returned at once.
 * Limits: texts are cut to their fields. Secrets: none may be formatted in.
 */
#ifndef VAULT_CLIENT_ERROR_H
#define VAULT_CLIENT_ERROR_H

#include "base/bytes.h"
#include "vault/client/claviger.h"

struct result client_fail(struct claviger_error *e, enum claviger_code code, const char *reason, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* status: the gRPC status; details: untrusted bytes of grpc-status-details-bin or empty. */
struct result client_fail_status(struct claviger_error *e, int status, struct bytes untrusted_message,
                                 struct bytes untrusted_details, const char *request_id);
int client_known_code(int untrusted); /* what is no google.rpc.Code is CLAVIGER_UNKNOWN */
/* Public boundary: copies what happened to the caller's error (may be NULL); 0 or the code. */
int client_return(struct result r, const struct claviger_error *e, struct claviger_error *ret);
/* Cut to the destination, always terminated; control characters become spaces: it may end on a terminal. */
void client_copy_text(char *out, size_t n, struct bytes untrusted);

#endif
