/*
 * Purpose: what happens by itself: waiting streams are woken, counted refusals become events, the HSM is probed, expired
 *          idempotency records go.
 * Owns:    one thread; the last probe's outcome. Threads: sweep_hsm_state from any.
 * Errors:  logged, tried again. Limits: SWEEP_* below. Secrets: none.
 */
#ifndef VAULT_SERVICE_SWEEP_H
#define VAULT_SERVICE_SWEEP_H

#include "vault/service/service.h"

enum { SWEEP_WAKE_MS = 50, SWEEP_PROBE_MS = 1000, SWEEP_EXPIRE_MS = 3600 * 1000, SWEEP_BUDGET_MS = 5000, IDEMPOTENCY_KEEP_S = 24 * 3600 };

struct sweep;
/* Volume budgets as they were kept; what was used in the last SWEEP_BUDGET_MS before a crash is forgotten. */
RESULT sweep_load_budgets(struct service *s, struct err *e);
struct sweep *sweep_start(struct service *s);
void sweep_stop(struct sweep *w); /* drains the refusal counts; NULL accepted */
/* Outcome of the last probe (at most about a second old). False: text says why; *ret_pin (NULL accepted): because of the PIN. */
bool sweep_hsm_state(struct sweep *w, struct hsm_status *ret, bool *ret_pin, char *why, size_t n);

#endif
