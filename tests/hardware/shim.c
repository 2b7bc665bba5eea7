/* A PKCS#11 module that forwards to SoftHSM and fails on demand. It is led by a comment in the vendor configuration
 * ($SOFTHSM2_CONF), which is what reaches the confined hsm process:
 *
 *     # shim = DIR        DIR/plan is read again whenever it was replaced, DIR/state counts for all processes,
 *                         DIR/log gets one line for each fault, each C_Login and each C_Initialize
 *
 * tests/hardware/README.md has the plan's grammar. */
#include "tests/hardware/plan.h"

#include <dlfcn.h>
#include <string.h>

#define SOFTHSM "/usr/lib/softhsm/libsofthsm2.so"

static CK_FUNCTION_LIST *real, shim;
static CK_SLOT_ID slot_in_use;

/* Everything a call may give back: bytes and their number, where the fault is one of the answer and not of the call. */
struct answer {
    unsigned char *bytes;
    CK_ULONG *n;
    CK_ULONG room; /* what the caller's buffer holds: nothing is written beyond it */
};

/* Sessions die in the module itself, so that all of them are gone, and the login with them. */
static void lose_sessions(void)
{
    (void)real->C_CloseAllSessions(slot_in_use);
}

static bool before(enum shim_call call, struct fault *f, CK_RV *rv)
{
    plan_decide(call, f);
    if (f->action == ACT_LOSE)
        lose_sessions();
    if (f->action != ACT_RV)
        return false;
    *rv = f->value;
    return true;
}

static CK_RV after(const struct fault *f, CK_RV rv, struct answer a)
{
    if (rv != CKR_OK || a.n == NULL)
        return rv;
    CK_ULONG n = *a.n < a.room ? *a.n : a.room;
    if (f->action == ACT_FLIP && n > 0)
        a.bytes[f->value / 8 % n] ^= (unsigned char)(1u << f->value % 8);
    if (f->action == ACT_LENGTH)
        *a.n = f->value;
    if (f->action == ACT_FEW)
        *a.n = 0;
    return rv;
}

#define NOTHING ((struct answer){0})
#define WRAP(name, params, args, answer)                                                                               \
    static CK_RV name##_ params                                                                                        \
    {                                                                                                                  \
        struct fault f;                                                                                                \
        CK_RV rv;                                                                                                      \
        return before(SHIM_##name, &f, &rv) ? rv : after(&f, real->name args, answer);                                 \
    }

WRAP(C_Finalize, (void *reserved), (reserved), NOTHING)
WRAP(C_GetSlotInfo, (CK_SLOT_ID s, CK_SLOT_INFO *i), (s, i), NOTHING)
WRAP(C_GetTokenInfo, (CK_SLOT_ID s, CK_TOKEN_INFO *i), (s, i), NOTHING)
WRAP(C_GetMechanismInfo, (CK_SLOT_ID s, CK_MECHANISM_TYPE m, CK_MECHANISM_INFO *i), (s, m, i), NOTHING)
WRAP(C_CloseAllSessions, (CK_SLOT_ID s), (s), NOTHING)
WRAP(C_GetSessionInfo, (CK_SESSION_HANDLE s, CK_SESSION_INFO *i), (s, i), NOTHING)
WRAP(C_SignInit, (CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE k), (s, m, k), NOTHING)
WRAP(C_GenerateKey, (CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *h), (s, m, a, n, h),
     NOTHING)
WRAP(C_GenerateKeyPair,
     (CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_ATTRIBUTE *a, CK_ULONG n, CK_ATTRIBUTE *b, CK_ULONG k, CK_OBJECT_HANDLE *h,
      CK_OBJECT_HANDLE *j),
     (s, m, a, n, b, k, h, j), NOTHING)
WRAP(C_FindObjectsInit, (CK_SESSION_HANDLE s, CK_ATTRIBUTE *a, CK_ULONG n), (s, a, n), NOTHING)
WRAP(C_FindObjectsFinal, (CK_SESSION_HANDLE s), (s), NOTHING)
WRAP(C_CreateObject, (CK_SESSION_HANDLE s, CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *h), (s, a, n, h), NOTHING)
WRAP(C_SetAttributeValue, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *a, CK_ULONG n), (s, o, a, n), NOTHING)
WRAP(C_GetAttributeValue, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *a, CK_ULONG n), (s, o, a, n),
     ((struct answer){a->pValue, &a->ulValueLen, a->ulValueLen}))

WRAP(C_EncryptInit, (CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE k), (s, m, k), NOTHING)
WRAP(C_DecryptInit, (CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE k), (s, m, k), NOTHING)

static CK_RV C_Initialize_(void *args)
{
    struct fault f;
    CK_RV rv;
    plan_open();
    if (!before(SHIM_C_Initialize, &f, &rv))
        rv = real->C_Initialize(args);
    plan_log(SHIM_C_Initialize, "called", rv);
    return rv;
}

static CK_RV C_Login_(CK_SESSION_HANDLE s, CK_USER_TYPE user, unsigned char *pin, CK_ULONG n)
{
    struct fault f;
    CK_RV rv;
    if (!before(SHIM_C_Login, &f, &rv))
        rv = real->C_Login(s, user, pin, n);
    plan_log(SHIM_C_Login, "called", rv);
    return rv;
}

static CK_RV C_OpenSession_(CK_SLOT_ID s, CK_FLAGS flags, void *app, CK_NOTIFY notify, CK_SESSION_HANDLE *h)
{
    struct fault f;
    CK_RV rv;
    slot_in_use = s;
    return before(SHIM_C_OpenSession, &f, &rv) ? rv : real->C_OpenSession(s, flags, app, notify, h);
}

static CK_RV C_Sign_(CK_SESSION_HANDLE s, unsigned char *in, CK_ULONG n, unsigned char *out, CK_ULONG *out_n)
{
    struct fault f;
    CK_RV rv;
    const CK_ULONG room = *out_n;
    return before(SHIM_C_Sign, &f, &rv) ? rv : after(&f, real->C_Sign(s, in, n, out, out_n), (struct answer){out, out_n, room});
}

static CK_RV C_Encrypt_(CK_SESSION_HANDLE s, unsigned char *in, CK_ULONG n, unsigned char *out, CK_ULONG *out_n)
{
    struct fault f;
    CK_RV rv;
    const CK_ULONG room = *out_n;
    return before(SHIM_C_Encrypt, &f, &rv) ? rv : after(&f, real->C_Encrypt(s, in, n, out, out_n), (struct answer){out, out_n, room});
}

static CK_RV C_Decrypt_(CK_SESSION_HANDLE s, unsigned char *in, CK_ULONG n, unsigned char *out, CK_ULONG *out_n)
{
    struct fault f;
    CK_RV rv;
    const CK_ULONG room = *out_n;
    return before(SHIM_C_Decrypt, &f, &rv) ? rv : after(&f, real->C_Decrypt(s, in, n, out, out_n), (struct answer){out, out_n, room});
}

static CK_RV C_GetSlotList_(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *n)
{
    struct fault f;
    CK_RV rv;
    return before(SHIM_C_GetSlotList, &f, &rv) ? rv
                                               : after(&f, real->C_GetSlotList(present, slots, n), (struct answer){.n = n});
}

static CK_RV C_FindObjects_(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE *h, CK_ULONG max, CK_ULONG *n)
{
    static CK_OBJECT_HANDLE last;
    struct fault f;
    CK_RV rv;
    if (before(SHIM_C_FindObjects, &f, &rv))
        return rv;
    rv = real->C_FindObjects(s, h, max, n);
    if (rv == CKR_OK && *n > 0)
        last = h[*n - 1];
    if (rv == CKR_OK && *n == 0 && f.action == ACT_ENDLESS) {
        h[0] = last;
        *n = 1;
    }
    return after(&f, rv, (struct answer){.n = n});
}

/* A generator that writes nothing, or one byte for ever. */
static CK_RV C_GenerateRandom_(CK_SESSION_HANDLE s, unsigned char *out, CK_ULONG n)
{
    struct fault f;
    CK_RV rv;
    if (before(SHIM_C_GenerateRandom, &f, &rv))
        return rv;
    if (f.action == ACT_FEW)
        return CKR_OK;
    rv = real->C_GenerateRandom(s, out, n);
    if (f.action == ACT_ENDLESS)
        memset(out, 0x5a, n);
    return after(&f, rv, (struct answer){out, &n, n});
}

/* A token that says yes and does nothing. */
static CK_RV C_DestroyObject_(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE h)
{
    struct fault f;
    CK_RV rv;
    if (before(SHIM_C_DestroyObject, &f, &rv))
        return rv;
    return f.action == ACT_ENDLESS ? CKR_OK : real->C_DestroyObject(s, h);
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
    void *so = dlopen(SOFTHSM, RTLD_NOW | RTLD_LOCAL);
    CK_RV (*get)(CK_FUNCTION_LIST **) = NULL;
    if (so != NULL)
        *(void **)&get = dlsym(so, "C_GetFunctionList");
    if (get == NULL || get(&real) != CKR_OK)
        return CKR_GENERAL_ERROR;
    shim = *real;
#define X(name) shim.name = name##_;
    SHIM_CALLS(X)
#undef X
    *list = &shim;
    return CKR_OK;
}
