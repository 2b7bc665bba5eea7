/* The stand-in's keys of level HSM: hsm_key_... in this process. Part of token.h. */
#ifndef TESTS_UNIT_KMS_TOKEN_KEYS_H
#define TESTS_UNIT_KMS_TOKEN_KEYS_H


static inline struct stand_in_key *stand_in_key(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES])
{
    for (size_t i = 0; i < STAND_IN_KEYS; i++)
        if (h->keys[i].there && memcmp(h->keys[i].kvid, kvid, HSM_KVID_BYTES) == 0)
            return &h->keys[i];
    return NULL;
}

static inline size_t stand_in_keys(const struct hsm *h)
{
    size_t n = 0;
    for (size_t i = 0; i < STAND_IN_KEYS; i++)
        n += h->keys[i].there;
    return n;
}

/* A new hsm process: it has seen no check message yet. */
static inline void stand_in_restart(struct hsm *h)
{
    for (size_t i = 0; i < STAND_IN_KEYS; i++)
        h->keys[i].checked = false;
}

static inline struct result stand_in_find(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], bool checked, struct stand_in_key **ret,
                                          struct err *e)
{
    if (h->away)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "ordered");
    *ret = stand_in_key(h, kvid);
    if (*ret == NULL)
        FAIL(e, ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", "no such key");
    if (checked && !(*ret)->checked)
        FAIL(e, ERR_STATE, "HSM_KEY_UNCHECKED", "not checked");
    return ok();
}

RESULT hsm_key_generate(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                        uint8_t check[HSM_CHECK_BYTES], struct err *e)
{
    struct stand_in_key *k = NULL;
    if (h->away)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "ordered");
    if (stand_in_key(h, kvid) != NULL)
        FAIL(e, ERR_EXISTS, "HSM_OBJECT_EXISTS", "it is there");
    for (size_t i = 0; i < STAND_IN_KEYS && k == NULL; i++)
        k = h->keys[i].there ? NULL : &h->keys[i];
    if (k == NULL)
        FAIL(e, ERR_EXHAUSTED, "HSM_KEYS_MAX", "the stand-in is full");
    *k = (struct stand_in_key){.there = true, .checked = true};
    memcpy(k->kvid, kvid, sizeof k->kvid);
    rng_fill(&rng_system, k->aes, sizeof k->aes);
    rng_fill(&rng_system, k->mac, sizeof k->mac);
    h->keys_made++;
    stand_in_seal(k, HSM_SEALED_CHECK, aad_hash, BYTES(kvid, HSM_KVID_BYTES), check);
    if (h->dies_after_making) /* the answer is lost */
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "ordered");
    return ok();
}

RESULT hsm_key_check(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                     const uint8_t check[HSM_CHECK_BYTES], struct err *e)
{
    struct stand_in_key *k = NULL;
    uint8_t plain[HSM_KVID_BYTES];
    TRY(stand_in_find(h, kvid, false, &k, e));
    if (!stand_in_open(k, HSM_SEALED_CHECK, aad_hash, BYTES(check, HSM_CHECK_BYTES), plain) || memcmp(plain, kvid, sizeof plain) != 0)
        FAIL(e, ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", "another key");
    k->checked = true;
    h->keys_checked++;
    return ok();
}

RESULT hsm_key_seal(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], enum hsm_sealed type, const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                    struct bytes plain, uint8_t *out, struct err *e)
{
    struct stand_in_key *k = NULL;
    TRY(stand_in_find(h, kvid, true, &k, e));
    INVARIANT(plain.n <= HSM_PLAIN_MAX && (type == HSM_SEALED_DATA || type == HSM_SEALED_KEY));
    stand_in_seal(k, (uint8_t)type, aad_hash, plain, out);
    h->keys_sealed++;
    return ok();
}

RESULT hsm_key_open(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], enum hsm_sealed type, const uint8_t aad_hash[HSM_AAD_HASH_BYTES],
                    struct bytes untrusted_sealed, uint8_t *out, struct err *e)
{
    struct stand_in_key *k = NULL;
    TRY(stand_in_find(h, kvid, true, &k, e));
    if (!stand_in_open(k, (uint8_t)type, aad_hash, untrusted_sealed, out))
        FAIL(e, ERR_CIPHERTEXT, NULL, "not an intact message under this key");
    return ok();
}

RESULT hsm_key_destroy(struct hsm *h, const uint8_t kvid[HSM_KVID_BYTES], struct err *e)
{
    struct stand_in_key *k = NULL;
    TRY(stand_in_find(h, kvid, false, &k, e));
    *k = (struct stand_in_key){0};
    h->keys_destroyed++;
    return ok();
}

RESULT hsm_key_list(struct hsm *h, const uint8_t *after, uint8_t out[HSM_KEY_PAGE][HSM_KVID_BYTES], size_t *ret_n, struct err *e)
{
    uint8_t last[HSM_KVID_BYTES] = {0};
    bool any = after != NULL;
    if (h->away)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "ordered");
    if (any)
        memcpy(last, after, sizeof last);
    for (*ret_n = 0; *ret_n < HSM_KEY_PAGE; (*ret_n)++) {
        const struct stand_in_key *next = NULL;
        for (size_t i = 0; i < STAND_IN_KEYS; i++)
            if (h->keys[i].there && (!any || memcmp(h->keys[i].kvid, last, sizeof last) > 0) &&
                (next == NULL || memcmp(h->keys[i].kvid, next->kvid, sizeof last) < 0))
                next = &h->keys[i];
        if (next == NULL)
            break;
        memcpy(out[*ret_n], next->kvid, sizeof last);
        memcpy(last, next->kvid, sizeof last);
        any = true;
    }
    return ok();
}

#endif
