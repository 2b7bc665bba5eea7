/* A PKCS#11 module that forwards to SoftHSM and fails on demand. The file named by $HSM_SHIM_FAULT holds one line,
 * "C_Sign hang", "C_Sign 0x30" or "C_Sign flip": the next such call does that, and the file is removed to show that it did.
 * "C_Initialize 0x30 keep" stays until the file is removed by the test. */
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SOFTHSM "/usr/lib/softhsm/libsofthsm2.so"

static CK_FUNCTION_LIST *real, shim;

static bool faulty(const char *call, CK_RV *rv, bool *flip)
{
    const char *path = getenv("HSM_SHIM_FAULT");
    char name[64] = "", what[64] = "", keep[16] = "";
    FILE *f = path != NULL ? fopen(path, "re") : NULL;
    if (f == NULL)
        return false;
    int n = fscanf(f, "%63s %63s %15s", name, what, keep);
    (void)fclose(f);
    if (n < 2 || strcmp(name, call) != 0)
        return false;
    if (strcmp(keep, "keep") != 0)
        (void)unlink(path);
    if (strcmp(what, "hang") == 0)
        for (;;)
            (void)pause();
    *flip = strcmp(what, "flip") == 0;
    *rv = *flip ? CKR_OK : strtoul(what, NULL, 16);
    return true;
}

static CK_RV initialize(void *args)
{
    CK_RV rv;
    bool flip;
    return faulty("C_Initialize", &rv, &flip) ? rv : real->C_Initialize(args);
}

static CK_RV login(CK_SESSION_HANDLE s, CK_USER_TYPE user, unsigned char *pin, unsigned long n)
{
    CK_RV rv;
    bool flip;
    return faulty("C_Login", &rv, &flip) ? rv : real->C_Login(s, user, pin, n);
}

static CK_RV sign_init(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE key)
{
    CK_RV rv;
    bool flip;
    return faulty("C_SignInit", &rv, &flip) ? rv : real->C_SignInit(s, m, key);
}

static CK_RV sign(CK_SESSION_HANDLE s, unsigned char *in, unsigned long n, unsigned char *out, unsigned long *out_n)
{
    CK_RV rv;
    bool flip;
    bool fault = faulty("C_Sign", &rv, &flip);
    if (fault && !flip)
        return rv;
    rv = real->C_Sign(s, in, n, out, out_n);
    if (fault && rv == CKR_OK)
        out[0] ^= 1;
    return rv;
}

static CK_RV generate_key(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_ATTRIBUTE *a, unsigned long n, CK_OBJECT_HANDLE *h)
{
    CK_RV rv;
    bool flip;
    return faulty("C_GenerateKey", &rv, &flip) ? rv : real->C_GenerateKey(s, m, a, n, h);
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
    shim.C_Initialize = initialize;
    shim.C_Login = login;
    shim.C_SignInit = sign_init;
    shim.C_Sign = sign;
    shim.C_GenerateKey = generate_key;
    *list = &shim;
    return CKR_OK;
}
