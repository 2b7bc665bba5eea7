/*
 * Purpose: hsm.h's operations inside the hsm process, in PKCS#11. The token is ready when they are called (hsm/server.c).
 * Owns: nothing. Threads: the main loop's. Errors: as hsm.h; token->m.last_rv tells recovery what happened.
 * Limits: as hsm.h. Secrets: a derived key goes from C_Sign into struct secret; no other buffer holds it.
 */
#ifndef HSM_OPS_H
#define HSM_OPS_H

#include "hsm/token.h"
#include "hsm/verify.h"

RESULT ops_derive(struct token *t, enum hsm_object object, uint32_t version, struct bytes untrusted_input,
                  struct secret **ret, struct err *e);
RESULT ops_random(struct token *t, void *out, size_t n, struct err *e);
void ops_serial(const struct token *t, char out[17]);
void ops_status(const struct token *t, struct hsm_status *ret);
/* C_Sign with CKM_SHA256_HMAC, no question asked about the input: for ops_derive and known answers. */
RESULT ops_hmac(struct token *t, CK_OBJECT_HANDLE key, struct bytes input, uint8_t out[SECRET_KEY_BYTES], struct err *e);

/* sign.c */
RESULT ops_sign_checkpoint(struct token *t, uint32_t version, struct bytes untrusted_message, uint8_t sig[HSM_SIG_MAX],
                           size_t *ret_n, struct err *e);
RESULT ops_sign_certificate(struct token *t, uint32_t version, struct bytes untrusted_text, uint8_t sig[HSM_SIG_MAX], size_t *ret_n,
                            struct err *e);
RESULT ops_audit_pubkey(struct token *t, uint32_t version, uint8_t out[HSM_PUBKEY_MAX], size_t *ret_n, bool *ret_ed25519,
                        struct err *e);
/* Signs "claviger key check" and a nonce, and checks it: the known answer of a key pair. */
RESULT ops_audit_selftest(struct token *t, uint32_t version, const uint8_t nonce[32], struct err *e);

/* create.c */
/* Perhaps because of an optional attribute: try again with fewer. */
bool create_refuses_template(const struct token *t, CK_RV rv);
/* A secret key of SECRET_KEY_BYTES on the token, for one use and no other; the attributes that some tokens do not know are left out there. */
struct create_secret {
    CK_MECHANISM_TYPE maker, allowed;
    CK_KEY_TYPE type;
    const char *label;
    struct bytes id;
    bool encrypts; /* and decrypts; else it signs */
};
RESULT create_secret(struct token *t, const struct create_secret *s, CK_OBJECT_HANDLE *ret, struct err *e);
RESULT ops_generate(struct token *t, struct verifier *v, enum hsm_object object, uint32_t version, struct err *e);
RESULT ops_destroy(struct token *t, enum hsm_object object, uint32_t version, struct err *e);

/* anchor.c */
RESULT ops_anchor_get(struct token *t, uint8_t out[HSM_ANCHOR_MAX], size_t *ret_n, struct err *e);
RESULT ops_anchor_put(struct token *t, struct bytes value, struct err *e);
RESULT ops_anchor_try(struct token *t, struct err *e);

#endif
