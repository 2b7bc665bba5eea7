/* Making, checking and destroying keys of protection level HSM. The ritual is that of masters, but for what would make it grow with the
 * number of keys: the fresh process looks for this one key only, and the table is not looked up anew. */
#include "hsm/seal.h"

#include "base/log.h"

#include <string.h>

enum { REMOVE_MAX = 8 };

static RESULT generate_half(struct token *t, enum key_half half, const uint8_t kvid[HSM_KVID_BYTES], CK_OBJECT_HANDLE *ret, struct err *e)
{
    char label[KEYS_LABEL_MAX];
    uint8_t id[KEYS_ID_BYTES];
    const bool aes = half == KEY_AES;
    const struct create_secret s = {.maker = aes ? CKM_AES_KEY_GEN : CKM_GENERIC_SECRET_KEY_GEN, .type = aes ? CKK_AES : CKK_GENERIC_SECRET,
                                    .allowed = aes ? CKM_AES_GCM : CKM_SHA256_HMAC, .label = label, .id = BYTES(id, sizeof id), .encrypts = aes};
    keys_label(half, kvid, label);
    keys_id(half, kvid, id);
    struct result done = create_secret(t, &s, ret, e);
    if (done.failed)
        *ret = CK_INVALID_HANDLE;
    return done;
}

/* Both halves on the token, audited, working, on the disk, and the same to a process that has never seen the module before. */
static RESULT ritual(struct token *t, struct verifier *v, const uint8_t kvid[HSM_KVID_BYTES], const CK_OBJECT_HANDLE made[KEY_HALVES],
                     const uint8_t aad_hash[HSM_AAD_HASH_BYTES], uint8_t check[HSM_CHECK_BYTES], struct err *e)
{
    struct key_pair *k;
    TRY(keys_take(&t->keys, made[KEY_AES], KEY_AES, kvid, e));
    TRY(keys_take(&t->keys, made[KEY_COMMIT], KEY_COMMIT, kvid, e));
    TRY(keys_get(t, kvid, &k, e));
    TRY(seal_message(t, k, HSM_SEALED_CHECK, aad_hash, BYTES(kvid, HSM_KVID_BYTES), check, e));
    TRY(storage_sync(&t->storage, e));
    TRY(verifier_check_key(v, t, kvid, aad_hash, check, e));
    TRY(keys_get(t, kvid, &k, e)); /* the table may have grown meanwhile */
    return seal_check(t, k, aad_hash, check, e);
}

static void undo(struct token *t, const uint8_t kvid[HSM_KVID_BYTES], const CK_OBJECT_HANDLE made[KEY_HALVES])
{
    struct err left = {0};
    const CK_RV why = t->m.last_rv;
    keys_forget(&t->keys, kvid);
    if (made[KEY_AES] == CK_INVALID_HANDLE)
        return;
    for (enum key_half half = KEY_AES; half < KEY_HALVES; half++) {
        const CK_RV rv = made[half] == CK_INVALID_HANDLE ? CKR_OK : CALL(&t->m, C_DestroyObject, t->session, made[half]);
        if (rv != CKR_OK) /* core knows of it, and has it removed */
            log_event(LOG_WARN, "an unfinished key may be left on the token", LF_STR("code", ckr_name(rv)));
    }
    if (storage_sync(&t->storage, &left).failed)
        log_event(LOG_WARN, "the removal of an unfinished key may not be on the disk", LF_ERR(&left));
    t->m.last_rv = why;
}

static RESULT may_make(struct token *t, const uint8_t kvid[HSM_KVID_BYTES], struct err *e)
{
    TRY(mechanisms_need(&t->can, GROUP_GCM, e));
    if (keys_entry(&t->keys, kvid) != NULL)
        FAIL(e, ERR_EXISTS, "HSM_OBJECT_EXISTS", "a key of that kvid is on the token already");
    if (t->keys.n == HSM_KEYS_MAX)
        FAIL(e, ERR_EXHAUSTED, "HSM_KEYS_MAX", "the token holds %d keys", HSM_KEYS_MAX);
    return ok();
}

RESULT ops_key_generate(struct token *t, struct verifier *v, const uint8_t kvid[HSM_KVID_BYTES],
                        const uint8_t aad_hash[HSM_AAD_HASH_BYTES], uint8_t check[HSM_CHECK_BYTES], struct err *e)
{
    CK_OBJECT_HANDLE made[KEY_HALVES] = {CK_INVALID_HANDLE, CK_INVALID_HANDLE};
    TRY(may_make(t, kvid, e));
    struct result r = generate_half(t, KEY_AES, kvid, &made[KEY_AES], e);
    if (!r.failed)
        r = generate_half(t, KEY_COMMIT, kvid, &made[KEY_COMMIT], e);
    if (!r.failed)
        r = ritual(t, v, kvid, made, aad_hash, check, e);
    if (r.failed)
        undo(t, kvid, made);
    return r;
}

RESULT ops_key_check(struct token *t, const uint8_t kvid[HSM_KVID_BYTES], const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                     const uint8_t check[HSM_CHECK_BYTES], struct err *e)
{
    struct key_pair *k;
    TRY(keys_get(t, kvid, &k, e));
    return seal_check(t, k, aad_hash, check, e);
}

static RESULT remove_half(struct token *t, enum key_half half, const uint8_t kvid[HSM_KVID_BYTES], size_t *removed, struct err *e)
{
    CK_OBJECT_HANDLE found[KEYS_FIND_MAX];
    size_t n;
    /* Each round removes one: a token that says yes and removes nothing must not keep the loop for ever. */
    for (unsigned round = 0;; round++) {
        TRY(keys_find(t, half, kvid, found, &n, e));
        if (n == 0)
            return ok();
        if (round == REMOVE_MAX)
            FAIL(e, ERR_INTERNAL, "HSM_ERROR", "a key is still on the token after it was destroyed");
        CK_RV rv = CALL(&t->m, C_DestroyObject, t->session, found[0]);
        if (rv != CKR_OK)
            return ckr_fail(rv, "C_DestroyObject", e);
        (*removed)++;
    }
}

RESULT ops_key_destroy(struct token *t, const uint8_t kvid[HSM_KVID_BYTES], struct err *e)
{
    size_t removed = 0;
    keys_forget(&t->keys, kvid); /* from here on it is used no more, whatever happens */
    TRY(remove_half(t, KEY_AES, kvid, &removed, e));
    TRY(remove_half(t, KEY_COMMIT, kvid, &removed, e));
    TRY(storage_sync(&t->storage, e)); /* also where there is nothing: it may be gone since a moment ago, by one who died before this line */
    if (removed == 0)
        FAIL(e, ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", "no key of that kvid is on the token");
    return ok();
}

void ops_key_list(const struct token *t, const uint8_t *after, struct buf *out)
{
    size_t given = 0;
    for (size_t i = 0; i < t->keys.n && given < HSM_KEY_PAGE; i++) {
        if (after != NULL && memcmp(t->keys.all[i].kvid, after, HSM_KVID_BYTES) <= 0)
            continue;
        buf_put(out, t->keys.all[i].kvid, HSM_KVID_BYTES);
        given++;
    }
}
