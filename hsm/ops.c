#include "hsm/ops.h"

#include "base/rng.h"
#include "hsm/backup.h"

#include <stdio.h>
#include <string.h>

/* What each object may be asked: an oracle over free input would derive any tenant's key (LESSONS: KBKDF key control). */
static RESULT check_input(enum hsm_object object, struct bytes untrusted_input, struct err *e)
{
    enum kdf_label label;
    if (untrusted_input.n > KDFENC_MAX_BYTES || !kdfenc_is_hsm_input(untrusted_input, &label))
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "the input of %zu bytes is not our KDF encoding", untrusted_input.n);
    bool fits = label == KDF_CHALLENGE || (object == HSM_MASTER && label == KDF_TENANT_KEK) ||
                (object == HSM_SEAL && label == KDF_STORE_KEY);
    if (!fits)
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "%s is not derived from object %d", kdfenc_label_text(label), (int)object);
    return ok();
}

/* The token answers, but wrongly: what recovery does for a broken device is what can be done. */
static RESULT wrong_answer(struct token *t, const char *what, struct err *e)
{
    t->m.last_rv = CKR_DEVICE_ERROR;
    FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token gave a wrong answer: %.200s", what);
}

RESULT ops_hmac(struct token *t, CK_OBJECT_HANDLE key, struct bytes input, uint8_t out[SECRET_KEY_BYTES], struct err *e)
{
    CK_MECHANISM mechanism = {CKM_SHA256_HMAC, NULL, 0};
    CK_RV rv = CALL(&t->m, C_SignInit, t->session, &mechanism, key);
    if (rv != CKR_OK)
        return ckr_fail(rv, "C_SignInit", e);
    CK_ULONG n = SECRET_KEY_BYTES;
    rv = CALL(&t->m, C_Sign, t->session, (CK_BYTE_PTR)(uintptr_t)input.p, input.n, out, &n);
    if (rv != CKR_OK)
        return ckr_fail(rv, "C_Sign", e);
    return n == SECRET_KEY_BYTES ? ok() : wrong_answer(t, "C_Sign gave another length than an HMAC-SHA-256 has", e);
}

/* A bit that is stuck would give the same wrong key twice, and the tenant that is made then would be lost with the repair. */
static RESULT still_right(struct token *t, const struct object *key, struct err *e)
{
    struct err why = {0};
    if (!answer_confirm(t, key, &why).failed)
        return ok();
    if (why.code == ERR_DATA_LOSS)
        return wrong_answer(t, why.detail, e);
    *e = why;
    return (struct result){1};
}

/* A tenant's key has a check value; a wrong store key would pass for a damaged store, and end everything. */
static RESULT agree(struct token *t, const struct object *key, struct bytes input, const struct secret *once, struct err *e)
{
    CLEANUP(secret_freep) struct secret *twice = NULL;
    TRY(secret_new(SECRET_KEY_BYTES, &twice, e));
    TRY(ops_hmac(t, key->handle, input, secret_borrow_mut(twice), e));
    return secret_equal(once, twice) ? ok() : wrong_answer(t, "two keys from one input", e);
}

RESULT ops_derive(struct token *t, enum hsm_object object, uint32_t version, struct bytes untrusted_input,
                  struct secret **ret, struct err *e)
{
    if (object != HSM_MASTER && object != HSM_SEAL)
        FAIL(e, ERR_DENIED, "HSM_REFUSED", "object %d derives nothing", (int)object);
    TRY(check_input(object, untrusted_input, e));
    const struct object *key;
    TRY(objects_get(&t->objects, object, CKO_SECRET_KEY, version, &key, e));
    CLEANUP(secret_freep) struct secret *out = NULL;
    TRY(secret_new(SECRET_KEY_BYTES, &out, e));
    TRY(ops_hmac(t, key->handle, untrusted_input, secret_borrow_mut(out), e));
    if (object == HSM_SEAL)
        TRY(agree(t, key, untrusted_input, out, e));
    TRY(still_right(t, key, e));
    *ret = out;
    out = NULL;
    return ok();
}

/* FIPS 140-2's continuous test: the same block twice, or one byte throughout (nothing written too), is no generator. */
static bool generator_stuck(struct token *t, const uint8_t bytes[TOKEN_RANDOM_BYTES])
{
    unsigned differ = 0;
    for (size_t i = 1; i < TOKEN_RANDOM_BYTES; i++)
        differ |= (unsigned)(bytes[i] ^ bytes[0]);
    bool same = bytes_ct_equal(bytes, t->last_random, TOKEN_RANDOM_BYTES);
    memcpy(t->last_random, bytes, TOKEN_RANDOM_BYTES);
    return same || differ == 0;
}

RESULT ops_random(struct token *t, void *out, size_t n, struct err *e)
{
    if (n == 0 || n > HSM_RANDOM_MAX)
        FAIL(e, ERR_INVALID, "HSM_BAD_REQUEST", "%zu random bytes asked for", n);
    uint8_t *bytes = out, kernel[HSM_RANDOM_MAX];
    memset(bytes, 0, n);
    CK_RV rv = CALL(&t->m, C_GenerateRandom, t->session, bytes, n);
    if (rv != CKR_OK)
        return ckr_fail(rv, "C_GenerateRandom", e);
    if (n >= TOKEN_RANDOM_BYTES && generator_stuck(t, bytes))
        return wrong_answer(t, "its generator repeats itself", e);
    /* And whatever it gave: never less than the kernel's own. */
    rng_fill(&rng_system, kernel, n);
    for (size_t i = 0; i < n; i++)
        bytes[i] ^= kernel[i];
    wipe(kernel, n);
    return ok();
}

/* PKCS#11 pads with blanks and has no NUL. */
static void unpad(char *out, const CK_UTF8CHAR *in, size_t n)
{
    memcpy(out, in, n);
    while (n > 0 && (out[n - 1] == ' ' || out[n - 1] == '\0'))
        n--;
    out[n] = '\0';
}

void ops_serial(const struct token *t, char out[17])
{
    unpad(out, t->info.serialNumber, sizeof t->info.serialNumber);
}

void ops_status(const struct token *t, struct hsm_status *ret)
{
    struct backup_state backup;
    *ret = (struct hsm_status){.logged_in = t->ready, .calls = t->m.calls, .failures = t->m.failures};
    unpad(ret->token_label, t->info.label, sizeof t->info.label);
    unpad(ret->manufacturer, t->info.manufacturerID, sizeof t->info.manufacturerID);
    unpad(ret->model, t->info.model, sizeof t->info.model);
    ops_serial(t, ret->serial);
    ret->master_newest = objects_newest(&t->objects, HSM_MASTER);
    ret->seal_newest = objects_newest(&t->objects, HSM_SEAL);
    ret->audit_newest = objects_newest(&t->objects, HSM_AUDIT);
    CLEANUP(buf_release) struct buf missing = {0}, cannot = {0};
    buf_init(&missing, sizeof ret->missing - 1);
    buf_init(&cannot, sizeof ret->cannot - 1);
    mechanisms_missing(&t->can, &missing);
    mechanisms_cannot(&t->can, &cannot);
    (void)snprintf(ret->missing, sizeof ret->missing, "%s", buf_cstr(&missing));
    (void)snprintf(ret->cannot, sizeof ret->cannot, "%s", buf_cstr(&cannot));
    backup_look(t, &backup);
    ret->copyable = backup.possible;
    ret->backups = backup.verified;
    CLEANUP(buf_release) struct buf weak = {0};
    buf_init(&weak, sizeof ret->weaknesses - 1);
    buf_putf(&weak, "%s%s%s", backup.same_device ? HSM_WEAK_BACKUP_DEVICE : "",
             backup.same_device && t->objects.weaknesses[0] != '\0' ? "; " : "", t->objects.weaknesses);
    keys_weaknesses(&t->keys, &weak);
    (void)snprintf(ret->weaknesses, sizeof ret->weaknesses, "%s", buf_cstr(&weak));
}
