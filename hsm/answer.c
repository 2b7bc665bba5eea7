#include "hsm/answer.h"

#include "hsm/answer_file.h"
#include "hsm/ops.h"

#include <stdio.h>
#include <string.h>

enum { LABEL_MAX = OBJECT_LABEL_MAX + 8 };

/* "master-1" */
static const char *short_name(enum hsm_object kind, uint32_t version, char out[OBJECT_LABEL_MAX])
{
    object_label(kind, version, out);
    return out + strlen("claviger-");
}

static int answer_label(enum hsm_object kind, uint32_t version, char out[LABEL_MAX])
{
    char name[OBJECT_LABEL_MAX];
    return snprintf(out, LABEL_MAX, "claviger-check-%s", short_name(kind, version, name));
}

RESULT answer_compute(struct token *t, CK_OBJECT_HANDLE key, const uint8_t nonce[ANSWER_NONCE_BYTES],
                      uint8_t out[ANSWER_BYTES], struct err *e)
{
    CLEANUP(buf_release) struct buf input = {0};
    buf_init(&input, KDFENC_MAX_BYTES);
    struct bytes field = BYTES(nonce, ANSWER_NONCE_BYTES);
    INVARIANT(kdfenc_build(KDF_CHALLENGE, &field, 1, &input));
    return ops_hmac(t, key, buf_bytes(&input), out, e);
}

static RESULT find(struct token *t, enum hsm_object kind, uint32_t version, CK_OBJECT_HANDLE *ret, size_t *ret_n,
                   struct err *e)
{
    char label[LABEL_MAX];
    CK_OBJECT_CLASS class = CKO_DATA;
    int n = answer_label(kind, version, label);
    CK_ATTRIBUTE match[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, label, (CK_ULONG)n}};
    return object_find(&t->m, t->session, match, 2, ret, 1, ret_n, e);
}

/* A token that refuses one data object and takes another has failed; one that takes none keeps none. */
static bool keeps_none(struct token *t)
{
    struct err why = {0};
    return ops_anchor_try(t, &why).failed && why.code == ERR_UNIMPLEMENTED;
}

static RESULT store_in_file(struct token *t, enum hsm_object kind, uint32_t version, const uint8_t nonce[ANSWER_NONCE_BYTES],
                            const uint8_t answer[ANSWER_BYTES], struct err *e)
{
    char name[OBJECT_LABEL_MAX];
    struct answer_line line = {.name = short_name(kind, version, name)};
    memcpy(line.nonce, nonce, sizeof line.nonce);
    memcpy(line.answer, answer, sizeof line.answer);
    return answer_file_put(t->setup.state_dir, &line, e);
}

RESULT answer_store(struct token *t, enum hsm_object kind, uint32_t version, const uint8_t nonce[ANSWER_NONCE_BYTES],
                    const uint8_t answer[ANSWER_BYTES], CK_OBJECT_HANDLE *ret, struct err *e)
{
    char label[LABEL_MAX], application[] = "claviger";
    uint8_t value[ANSWER_NONCE_BYTES + ANSWER_BYTES];
    CK_OBJECT_CLASS class = CKO_DATA;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    int n = answer_label(kind, version, label);
    memcpy(value, nonce, ANSWER_NONCE_BYTES);
    memcpy(value + ANSWER_NONCE_BYTES, answer, ANSWER_BYTES);
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_TOKEN, &yes, sizeof yes},
                               {CKA_PRIVATE, &yes, sizeof yes},   {CKA_MODIFIABLE, &no, sizeof no},
                               {CKA_LABEL, label, (CK_ULONG)n},   {CKA_APPLICATION, application, sizeof application - 1},
                               {CKA_VALUE, value, sizeof value}};
    CK_RV rv = CALL(&t->m, C_CreateObject, t->session, template, sizeof template / sizeof template[0], ret);
    if (create_refuses_template(t, rv) && keeps_none(t)) {
        *ret = CK_INVALID_HANDLE;
        return store_in_file(t, kind, version, nonce, answer, e);
    }
    return rv == CKR_OK ? ok() : ckr_fail(rv, "C_CreateObject", e);
}

RESULT answer_forget(struct token *t, enum hsm_object kind, uint32_t version, struct err *e)
{
    char name[OBJECT_LABEL_MAX];
    return answer_file_remove(t->setup.state_dir, short_name(kind, version, name), e);
}

RESULT answer_remove(struct token *t, enum hsm_object kind, uint32_t version, struct err *e)
{
    CK_OBJECT_HANDLE h;
    size_t n;
    TRY(find(t, kind, version, &h, &n, e));
    if (n == 0)
        return answer_forget(t, kind, version, e);
    CK_RV rv = CALL(&t->m, C_DestroyObject, t->session, h);
    return rv == CKR_OK ? ok() : ckr_fail(rv, "C_DestroyObject", e);
}

static RESULT differs(const struct object *o, struct err *e)
{
    char label[OBJECT_LABEL_MAX];
    object_label(o->kind, o->version, label);
    struct result r = err_set(e, ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", __FILE__, __LINE__,
                              "%s answers its stored challenge differently: the key was damaged or exchanged", label);
    e->hint = "restore the token from its backup";
    return r;
}

static void unanswered(struct token *t, const char *name)
{
    size_t used = strlen(t->objects.weaknesses);
    t->objects.unanswered++;
    (void)snprintf(t->objects.weaknesses + used, sizeof t->objects.weaknesses - used, "%s%s: no stored known answer", used > 0 ? "; " : "", name);
}

static RESULT check_answer(struct token *t, struct object *o, const uint8_t nonce[ANSWER_NONCE_BYTES], const uint8_t answer[ANSWER_BYTES],
                           struct err *e)
{
    uint8_t now[ANSWER_BYTES];
    TRY(answer_compute(t, o->handle, nonce, now, e));
    if (!bytes_ct_equal(answer, now, sizeof now))
        return differs(o, e);
    o->answered = true;
    memcpy(o->nonce, nonce, ANSWER_NONCE_BYTES);
    memcpy(o->answer, now, ANSWER_BYTES);
    return ok();
}

static RESULT check_in_file(struct token *t, struct object *o, struct err *e)
{
    char name[OBJECT_LABEL_MAX];
    struct answer_line line = {.name = short_name(o->kind, o->version, name)};
    bool found;
    TRY(answer_file_get(t->setup.state_dir, &line, &found, e));
    if (found)
        return check_answer(t, o, line.nonce, line.answer, e);
    unanswered(t, line.name);
    return ok();
}

static RESULT check_one(struct token *t, struct object *o, struct err *e)
{
    CK_OBJECT_HANDLE h;
    uint8_t value[ANSWER_NONCE_BYTES + ANSWER_BYTES];
    size_t found, n;
    bool known;
    TRY(find(t, o->kind, o->version, &h, &found, e));
    if (found == 0)
        return check_in_file(t, o, e);
    TRY(object_read(&t->m, t->session, h, CKA_VALUE, value, sizeof value, &n, &known, e));
    if (!known || n != sizeof value)
        return differs(o, e);
    return check_answer(t, o, value, value + ANSWER_NONCE_BYTES, e);
}

RESULT answer_confirm(struct token *t, const struct object *o, struct err *e)
{
    uint8_t now[ANSWER_BYTES];
    if (!o->answered)
        return ok();
    TRY(answer_compute(t, o->handle, o->nonce, now, e));
    return bytes_ct_equal(o->answer, now, sizeof now) ? ok() : differs(o, e);
}

RESULT answers_check(struct token *t, struct err *e)
{
    t->objects.unanswered = 0;
    for (size_t i = 0; i < t->objects.n; i++)
        if (t->objects.all[i].class == CKO_SECRET_KEY)
            TRY(check_one(t, &t->objects.all[i], e));
    return ok();
}
