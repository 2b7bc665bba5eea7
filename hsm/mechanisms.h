/*
 * Purpose: what the token can do, by PKCS#11's own word (C_GetMechanismInfo), in the groups that hsm/ needs: kdf (masters and seals),
 *          sign (the audit key), gcm (keys of protection level HSM). The fourth, anchor, is no mechanism but data objects: ops_anchor_try.
 * Owns:    nothing. Threads: the main loop's.
 * Errors:  ERR_STATE "HSM_MECHANISM": the group and what it lacks, by name; probe: as ckr_fail, where the token did not answer.
 * Limits:  none. Secrets: none.
 */
#ifndef HSM_MECHANISMS_H
#define HSM_MECHANISMS_H

#include "base/bytes.h"
#include "hsm/module.h"

enum mechanism_group { GROUP_KDF, GROUP_SIGN, GROUP_GCM, GROUP_N };
enum mechanism { MECH_HMAC, MECH_SECRET_GEN, MECH_EDDSA, MECH_EDDSA_GEN, MECH_ECDSA, MECH_ECDSA_GEN, MECH_GCM, MECH_AES_GEN, MECH_N };

struct mechanisms {
    bool has[MECH_N];
    bool eddsa, ecdsa; /* both halves: to make such a key pair, and to sign with it */
};
RESULT mechanisms_probe(struct module *m, CK_SLOT_ID slot, struct mechanisms *ret, struct err *e);
/* A daemon whose secrets were made elsewhere does not generate any: kdf then needs less. */
RESULT mechanisms_need(const struct mechanisms *k, enum mechanism_group g, struct err *e);
void mechanisms_missing(const struct mechanisms *k, struct buf *out); /* those that the token lacks, blanks between */
/* What a new daemon needs and this token cannot do: "sign (it lacks CKM_...)", ", " between. */
void mechanisms_cannot(const struct mechanisms *k, struct buf *out);
/* A group's name, and what it needs: "CKM_A + CKM_B", " or " between. */
const char *mechanisms_group(enum mechanism_group g, struct buf *out);

#endif
