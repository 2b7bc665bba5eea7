/* The control of churn.c: the same work on the same module by threads that share no lock. It has to show errors: they are why
 * kmsd-hsm makes all PKCS#11 calls in one loop. churn_unlocked SECONDS: exit 0 when an error was seen. */
#include "tests/unit/hsm/fixture.h"

#include <p11-kit/pkcs11.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { SIGNERS = 8, CHURNERS = 4 };

struct control {
    CK_FUNCTION_LIST *f;
    CK_SLOT_ID slot;
    CK_OBJECT_HANDLE key;
    uint8_t want[32];
    _Atomic bool stop;
    _Atomic uint64_t signatures, objects, errors, wrong;
    _Atomic CK_RV first;
};

static void note(struct control *c, CK_RV rv)
{
    CK_RV none = CKR_OK;
    if (rv == CKR_OK)
        return;
    c->errors++;
    (void)atomic_compare_exchange_strong(&c->first, &none, rv);
}

static CK_RV make_key(struct control *c, CK_SESSION_HANDLE s, const char *label, CK_OBJECT_HANDLE *h)
{
    CK_MECHANISM mechanism = {CKM_GENERIC_SECRET_KEY_GEN, NULL, 0};
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_GENERIC_SECRET;
    CK_ULONG bytes = 32;
    CK_BBOOL yes = CK_TRUE;
    CK_ATTRIBUTE a[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_VALUE_LEN, &bytes, sizeof bytes},
                        {CKA_TOKEN, &yes, 1},              {CKA_SIGN, &yes, 1},                {CKA_LABEL, (void *)(uintptr_t)label, strlen(label)}};
    return c->f->C_GenerateKey(s, &mechanism, a, sizeof a / sizeof a[0], h);
}

static CK_RV sign(struct control *c, CK_SESSION_HANDLE s, uint8_t out[32])
{
    CK_MECHANISM mechanism = {CKM_SHA256_HMAC, NULL, 0};
    unsigned char text[] = "the same text";
    CK_ULONG n = 32;
    CK_RV rv = c->f->C_SignInit(s, &mechanism, c->key);
    return rv != CKR_OK ? rv : c->f->C_Sign(s, text, sizeof text, out, &n);
}

static void *signer(void *arg)
{
    struct control *c = arg;
    CK_SESSION_HANDLE s;
    uint8_t out[32];
    note(c, c->f->C_OpenSession(c->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &s));
    while (!c->stop) {
        CK_RV rv = sign(c, s, out);
        note(c, rv);
        c->signatures++;
        if (rv == CKR_OK && memcmp(out, c->want, sizeof out) != 0)
            c->wrong++;
    }
    return NULL;
}

static CK_RV find_and_destroy(struct control *c, CK_SESSION_HANDLE s, const char *label)
{
    CK_ATTRIBUTE match[] = {{CKA_LABEL, (void *)(uintptr_t)label, strlen(label)}};
    CK_OBJECT_HANDLE h;
    CK_ULONG n = 0;
    CK_RV rv = c->f->C_FindObjectsInit(s, match, 1);
    if (rv != CKR_OK)
        return rv;
    rv = c->f->C_FindObjects(s, &h, 1, &n);
    CK_RV end = c->f->C_FindObjectsFinal(s);
    if (rv != CKR_OK || end != CKR_OK)
        return rv != CKR_OK ? rv : end;
    return n == 1 ? c->f->C_DestroyObject(s, h) : CKR_OBJECT_HANDLE_INVALID; /* made a moment ago, and not to be found */
}

static void *churner(void *arg)
{
    struct control *c = arg;
    CK_SESSION_HANDLE s;
    CK_OBJECT_HANDLE h;
    char label[32];
    (void)snprintf(label, sizeof label, "churn-%lx", (unsigned long)pthread_self());
    note(c, c->f->C_OpenSession(c->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &s));
    while (!c->stop) {
        note(c, make_key(c, s, label, &h));
        note(c, find_and_destroy(c, s, label));
        c->objects++;
    }
    return NULL;
}

static void open_token(struct control *c)
{
    void *so = dlopen(SOFTHSM, RTLD_NOW | RTLD_LOCAL);
    CK_RV (*get)(CK_FUNCTION_LIST **) = NULL;
    CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK};
    CK_SESSION_HANDLE s;
    CK_SLOT_ID slots[8];
    CK_ULONG n = 8;
    unsigned char pin[] = RIGHT_PIN;
    assert_non_null(so);
    *(void **)&get = dlsym(so, "C_GetFunctionList");
    assert_int_equal(get(&c->f), CKR_OK);
    assert_int_equal(c->f->C_Initialize(&args), CKR_OK);
    assert_int_equal(c->f->C_GetSlotList(CK_TRUE, slots, &n), CKR_OK);
    c->slot = slots[0]; /* initialised tokens come before the free one */
    assert_int_equal(c->f->C_OpenSession(c->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &s), CKR_OK);
    assert_int_equal(c->f->C_Login(s, CKU_USER, pin, sizeof pin - 1), CKR_OK);
    assert_int_equal(make_key(c, s, "signing", &c->key), CKR_OK);
    assert_int_equal(sign(c, s, c->want), CKR_OK);
}

struct order {
    unsigned seconds;
    struct fixture f;
};

static void test_unlocked(void **state)
{
    static struct control c;
    struct order *o = *state;
    pthread_t t[SIGNERS + CHURNERS];
    fixture_make(&o->f);
    open_token(&c);
    for (unsigned i = 0; i < SIGNERS + CHURNERS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, i < SIGNERS ? signer : churner, &c), 0);
    const struct timespec second = {.tv_sec = 1};
    /* As long as was asked for; longer where the machine is too busy for the threads to meet. */
    for (unsigned i = 0; i < o->seconds || (c.errors == 0 && i < 10 * o->seconds); i++)
        (void)nanosleep(&second, NULL);
    c.stop = true;
    for (unsigned i = 0; i < SIGNERS + CHURNERS; i++)
        (void)pthread_join(t[i], NULL);
    (void)printf("seconds %u signatures %lu objects %lu errors %lu wrong %lu first 0x%lx\n", o->seconds, c.signatures, c.objects,
                 c.errors, c.wrong, c.first);
    assert_true(c.errors > 0);
}

static int remove_folder(void **state)
{
    fixture_remove(&((struct order *)*state)->f);
    return 0;
}

int main(int argc, char **argv)
{
    static struct order o;
    o.seconds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
    if (o.seconds == 0)
        return 2;
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate_setup_teardown(test_unlocked, NULL, remove_folder, &o)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)fflush(NULL);
    _exit(failed); /* SoftHSM crashes in exit handlers */
}
