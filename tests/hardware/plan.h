/*
 * Purpose: which call of the module fails, how and when: the plan of one test, shared by every process that loads the shim.
 * Owns:    the mapping of DIR/state and the descriptor of DIR/log, for as long as the process.
 * Threads: any: counters are atomic, a new plan is taken under a file lock that dies with its holder.
 * Errors:  without "# shim = DIR" in the vendor configuration there are no faults; a plan that cannot be read ends the process,
 *          because a test would otherwise pass for want of a fault.
 * Limits:  PLAN_RULES_MAX rules.
 * Secrets: none are logged: calls, counts and CK_RVs only.
 */
#ifndef TESTS_HARDWARE_PLAN_H
#define TESTS_HARDWARE_PLAN_H

#include <p11-kit/pkcs11.h>
#include <stdbool.h>

/* Every function that hsm/ calls. */
#define SHIM_CALLS(X)                                                                                                  \
    X(C_Initialize) X(C_Finalize) X(C_GetSlotList) X(C_GetSlotInfo) X(C_GetTokenInfo) X(C_GetMechanismInfo)            \
    X(C_OpenSession) X(C_CloseAllSessions) X(C_GetSessionInfo) X(C_Login) X(C_FindObjectsInit) X(C_FindObjects)        \
    X(C_FindObjectsFinal) X(C_GetAttributeValue) X(C_SetAttributeValue) X(C_SignInit) X(C_Sign) X(C_GenerateRandom)    \
    X(C_GenerateKey) X(C_GenerateKeyPair) X(C_CreateObject) X(C_DestroyObject)                                         \
    X(C_EncryptInit) X(C_Encrypt) X(C_DecryptInit) X(C_Decrypt)

enum shim_call {
#define X(name) SHIM_##name,
    SHIM_CALLS(X)
#undef X
    SHIM_N
};
enum { PLAN_RULES_MAX = 64 };

enum action { ACT_NONE, ACT_RV, ACT_SLOW, ACT_HANG, ACT_CRASH, ACT_FLIP, ACT_LENGTH, ACT_FEW, ACT_ENDLESS, ACT_LOSE };
struct fault {
    enum action action;
    unsigned long value; /* the CK_RV, milliseconds, the bit, the length */
};

void plan_open(void); /* again after each C_Initialize: cheap */
/* Counts the call; waits or dies here where that is the fault; else the caller does what *f says. */
void plan_decide(enum shim_call call, struct fault *f);
void plan_log(enum shim_call call, const char *what, CK_RV rv);

#endif
