/*
 * Purpose: what a CK_RV is called and what can be done about it: a name for every code of PKCS#11, and its class, on which
 *          recovery is built. ckr_fail turns one into an err.
 * Owns: nothing. Threads: pure.
 * Errors:  classes STALE_OBJECT, STALE_SESSION and DEVICE become ERR_UNAVAILABLE "HSM_UNAVAILABLE", PIN becomes ERR_STATE
 *          "HSM_PIN", all else ERR_INTERNAL "HSM_ERROR"; detail is "call: CKR_NAME".
 * Limits: none. Secrets: none.
 */
#ifndef HSM_CKR_H
#define HSM_CKR_H

#include "base/err.h"

#include <p11-kit/pkcs11.h>

enum ckr_class {
    CKR_CLASS_FINE,
    CKR_CLASS_STALE_OBJECT,  /* look the handles up again */
    CKR_CLASS_STALE_SESSION, /* open a session and log in again */
    CKR_CLASS_DEVICE,        /* finalize, initialize, find the token, log in */
    CKR_CLASS_PIN,           /* a person has to act */
    CKR_CLASS_OTHER,
};
const char *ckr_name(CK_RV rv); /* "CKR_DEVICE_ERROR"; "CKR_VENDOR_DEFINED" and "CKR_UNKNOWN" for what the standard lacks */
enum ckr_class ckr_class(CK_RV rv);
RESULT ckr_fail(CK_RV rv, const char *call, struct err *e);

#endif
