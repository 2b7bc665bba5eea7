/*
 * Purpose: the last step of making a key or a backup: a *fresh* process opens the token (or its copy) from nothing, audits
 *          the object and gives the same known answer. A helper is forked at start, before the module is loaded, before any thread and before the
 *          seccomp filter forbids fork; for each check it forks a child that has never seen the module. Without exec the
 *          child can be confined exactly as hsm itself.
 * Owns:    the helper process and the channel to it. The helper ends when the channel closes.
 * Threads: the main loop's. The helper and its children are processes of one thread (and a watchdog in the child).
 * Errors:  what the child found; ERR_UNAVAILABLE "HSM_UNAVAILABLE" when it died or hung.
 * Limits:  VERIFY_TIMEOUT_MS.
 * Secrets: the PIN file is passed as a descriptor; the known answer is no secret (hsm/answer.h).
 */
#ifndef HSM_VERIFY_H
#define HSM_VERIFY_H

#include "base/confine.h"
#include "hsm/answer.h"

#include <sys/types.h>

enum { VERIFY_TIMEOUT_MS = 15000 };

struct verifier {
    int fd;
    pid_t pid;
};
/* confine: how the helper (user, limits) and its children (Landlock and seccomp too) lock themselves in; NULL: not at all. */
RESULT verifier_start(struct verifier *v, const struct confine *confine, struct err *e);
void verifier_stop(struct verifier *v); /* closes the channel and waits */

/* What t's object answers: the known answer of a secret (hsm/answer.h); SHA-256 of the public audit key, once a signature over
 * the nonce has verified under it. */
RESULT verifier_answer(struct token *t, enum hsm_object kind, uint32_t version, const uint8_t nonce[ANSWER_NONCE_BYTES],
                       uint8_t out[ANSWER_BYTES], struct err *e);
/* Must be the answer in a fresh process too. vendor_config leads to a copy of the token (NULL: t's own), which must have the same keys of
 * level HSM: ERR_DATA_LOSS "HSM_BACKUP". */
RESULT verifier_check(struct verifier *v, struct token *t, const char *vendor_config, enum hsm_object kind, uint32_t version,
                      const uint8_t nonce[ANSWER_NONCE_BYTES], const uint8_t answer[ANSWER_BYTES], struct err *e);

/* The same for a key of protection level HSM: it must open its check message there. The fresh process looks for this key alone. */
RESULT verifier_check_key(struct verifier *v, struct token *t, const uint8_t kvid[HSM_KVID_BYTES],
                          const uint8_t aad_hash[HSM_AAD_HASH_BYTES], const uint8_t check[HSM_CHECK_BYTES], struct err *e);

#endif
