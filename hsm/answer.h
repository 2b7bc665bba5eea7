/*
 * Purpose: a stored known answer beside each secret: a challenge and what the secret answered when it was born. A secret that
 *          was damaged or exchanged is found at start, before anything is derived from it.
 * Owns:    data objects "claviger-check-master-<version>", "claviger-check-seal-<version>" (private): nonce[32], answer[32]. Where a
 *          token keeps no data objects at all: lines of a file (answer_file.h).
 * Threads: the main loop's. Errors: ERR_DATA_LOSS "HSM_KNOWN_ANSWER" on a wrong answer; else as ckr_fail.
 * Limits:  none. Secrets: the answer is PRF output under a label of its own: it tells nothing about derived keys.
 */
#ifndef HSM_ANSWER_H
#define HSM_ANSWER_H

#include "hsm/token.h"

RESULT answer_compute(struct token *t, CK_OBJECT_HANDLE key, const uint8_t nonce[ANSWER_NONCE_BYTES],
                      uint8_t out[ANSWER_BYTES], struct err *e);
RESULT answer_store(struct token *t, enum hsm_object kind, uint32_t version, const uint8_t nonce[ANSWER_NONCE_BYTES],
                    const uint8_t answer[ANSWER_BYTES], CK_OBJECT_HANDLE *ret, struct err *e);
RESULT answer_remove(struct token *t, enum hsm_object kind, uint32_t version, struct err *e); /* absent is fine */
/* Nothing of that name is on the token: a line of it in the file is of another one that was. */
RESULT answer_forget(struct token *t, enum hsm_object kind, uint32_t version, struct err *e);
/* Does o, which answered rightly when it was loaded, still? One without a stored answer is not asked. */
RESULT answer_confirm(struct token *t, const struct object *o, struct err *e);
/* All secrets in t->objects; one without a stored answer (imported by other tools) is added to the named weaknesses. */
RESULT answers_check(struct token *t, struct err *e);

#endif
