/*
 * Purpose: one request of core: read, decide, call, answer; and try once more after the token was brought back, where trying
 *          twice does no harm (everything but generate, destroy, backup and anchor put).
 * Owns: nothing. Threads: the main loop's.
 * Errors: service_answer fails only when the channel is of no more use; an operation's error goes to core.
 * Limits: WIRE_MAX a packet. Secrets: the buffers that held keys are wiped before it returns.
 */
#ifndef HSM_SERVICE_H
#define HSM_SERVICE_H

#include "hsm/meanwhile.h"
#include "hsm/ops.h"
#include "hsm/wire.h"

struct service {
    struct verifier *verifier;
    struct secret *key; /* what the answer under way brings; NULL: no key */
    struct err why; /* why the token is not ready: what callers are told meanwhile */
    const int *core; /* where the loop keeps its end of core's channel; NULL: nothing is served within a long operation */
    struct token *token;
    struct meanwhile meanwhile;
};
/* Reads one request and answers it, and those that came and were held while it took long. */
RESULT service_answer(struct service *s, struct token *t, int core_fd, struct err *e);

#endif
