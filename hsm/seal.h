/*
 * Purpose: the operations of keys of protection level HSM inside the hsm process: make, check, seal, open, destroy, list.
 * Owns:    nothing. Threads: the main loop's.
 * Errors:  as hsm.h; token->m.last_rv tells recovery what happened: a message that is bad is no failure of the token.
 * Limits:  HSM_PLAIN_MAX bytes of plaintext; messages of exactly our format (docs/FORMATS.md section 9), whose header, nonce and
 *          commitment are made here: the AES key and the commitment key are asked for nothing else.
 * Secrets: plaintext passes over the stack and is wiped. Keys never leave the token.
 *
 * What an answer costs: a seal is two HMACs, one encryption, one decryption, and the check message opened after it; an opening one HMAC,
 * two decryptions and the check message. A wrong bit in a sealed message is found out before it is given away, not when it is needed.
 */
#ifndef HSM_SEAL_H
#define HSM_SEAL_H

#include "hsm/keys.h"
#include "hsm/ops.h"

RESULT ops_key_seal(struct token *t, const uint8_t kvid[HSM_KVID_BYTES], enum hsm_sealed type,
                    const uint8_t aad_hash[HSM_AAD_HASH_BYTES], struct bytes plain, uint8_t *out, struct err *e);
RESULT ops_key_open(struct token *t, const uint8_t kvid[HSM_KVID_BYTES], enum hsm_sealed type,
                    const uint8_t aad_hash[HSM_AAD_HASH_BYTES], struct bytes untrusted_sealed, uint8_t *out, struct err *e);
/* For key_make.c: sealed and opened again, without the check message; and that one opened, and kept for what follows. */
RESULT seal_message(struct token *t, const struct key_pair *k, enum hsm_sealed type, const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                    struct bytes plain, uint8_t *out, struct err *e);
RESULT seal_check(struct token *t, struct key_pair *k, const uint8_t aad_hash[HSM_AAD_HASH_BYTES], const uint8_t check[HSM_CHECK_BYTES],
                  struct err *e);

/* key_make.c */
RESULT ops_key_generate(struct token *t, struct verifier *v, const uint8_t kvid[HSM_KVID_BYTES],
                        const uint8_t aad_hash[HSM_AAD_HASH_BYTES], uint8_t check[HSM_CHECK_BYTES], struct err *e);
RESULT ops_key_check(struct token *t, const uint8_t kvid[HSM_KVID_BYTES], const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                     const uint8_t check[HSM_CHECK_BYTES], struct err *e);
RESULT ops_key_destroy(struct token *t, const uint8_t kvid[HSM_KVID_BYTES], struct err *e);
void ops_key_list(const struct token *t, const uint8_t *after, struct buf *out); /* up to HSM_KEY_PAGE kvids */

#endif
