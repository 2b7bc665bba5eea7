/*
 * Purpose: our objects on the token: their names, templates, handles and the audit of their attributes.
 * Owns:    nothing on the token; struct objects keeps handles, looked up once and again after a session was lost.
 * Threads: the main loop's. Errors: ERR_STATE "HSM_OBJECT_DOUBLE", "HSM_OBJECT_NAME", "HSM_OBJECT_WEAK" (start must stop),
 *          ERR_NOT_FOUND, else as ckr_fail.
 * Limits:  OBJECTS_MAX of ours on one token.
 * Secrets: none leave: values are never read. An object is found by exact class, label and id:
 *              label  "claviger-master-<version>", "claviger-seal-<version>", "claviger-audit-<version>" (decimal, from 1)
 *              id     u8 object (1 master, 2 seal, 3 audit), u32 version, big endian
 *          Required of a secret: generic secret of 32 bytes, TOKEN, PRIVATE, SENSITIVE, SIGN, not EXTRACTABLE and every other
 *          usage false; MODIFIABLE, COPYABLE false and ALLOWED_MECHANISMS {CKM_SHA256_HMAC} where the token knows them.
 */
#ifndef HSM_OBJECT_H
#define HSM_OBJECT_H

#include "base/bytes.h"
#include "hsm/hsm.h"
#include "hsm/keys.h"
#include "hsm/module.h"

enum { OBJECTS_MAX = 256, OBJECT_LABEL_MAX = 48, OBJECT_ID_BYTES = 5, OBJECT_KINDS = 3, ANSWER_NONCE_BYTES = 32, ANSWER_BYTES = 32 };
/* In an HSM_AUDIT object's place in the table: which half of the pair. */
struct object {
    enum hsm_object kind;
    uint32_t version;
    CK_OBJECT_CLASS class; /* CKO_SECRET_KEY, CKO_PRIVATE_KEY or CKO_PUBLIC_KEY */
    CK_OBJECT_HANDLE handle;
    bool answered; /* its stored known answer (answer.h), which it has given */
    uint8_t nonce[ANSWER_NONCE_BYTES], answer[ANSWER_BYTES];
};
struct objects {
    struct object all[OBJECTS_MAX];
    size_t n;
    char weaknesses[512]; /* of all of them, "; " between */
    uint32_t unanswered;  /* secrets without a stored known answer (answer.h) */
};

void object_label(enum hsm_object kind, uint32_t version, char out[OBJECT_LABEL_MAX]);
void object_id(enum hsm_object kind, uint32_t version, uint8_t out[OBJECT_ID_BYTES]);
/* Finds every object of ours, those of keys.h too, and audits each; both empty after a failure. */
RESULT objects_load(struct module *m, CK_SESSION_HANDLE s, struct objects *o, struct keys *keys, struct err *e);
/* ERR_NOT_FOUND when absent. */
RESULT objects_get(const struct objects *o, enum hsm_object kind, CK_OBJECT_CLASS class, uint32_t version,
                   const struct object **ret, struct err *e);
uint32_t objects_newest(const struct objects *o, enum hsm_object kind); /* 0: none */

/* Reads one attribute. *ret_known false: the token does not know it, or its value has more than max bytes. */
RESULT object_read(struct module *m, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE h, CK_ATTRIBUTE_TYPE type, void *out, size_t max,
                   size_t *ret_n, bool *ret_known, struct err *e);
/* All handles that match the template; more than max is ERR_STATE "HSM_OBJECT_DOUBLE". */
RESULT object_find(struct module *m, CK_SESSION_HANDLE s, CK_ATTRIBUTE *match, CK_ULONG n, CK_OBJECT_HANDLE *out, size_t max,
                   size_t *ret_n, struct err *e);

/* The audit (attributes.c). born_here: made by this process just now, so ALWAYS_SENSITIVE and NEVER_EXTRACTABLE must hold. */
RESULT object_audit(struct module *m, CK_SESSION_HANDLE s, const struct object *o, bool born_here, struct buf *weaknesses,
                    struct err *e);

#endif
