/* Keys of protection level HSM on a real SoftHSM2 token, behind the shim (tests/hardware): how they are born, what they seal and open,
 * what is refused, and a token that answers wrongly or fails in the middle. */
#include "tests/unit/hsm/direct.h"
#include "tests/unit/kms/token_message.h"

#include "base/rng.h"
#include "hsm/seal.h"

static const uint8_t kvid_a[HSM_KVID_BYTES] = "kvid of key a ..", kvid_b[HSM_KVID_BYTES] = "kvid of key b ..";
static const uint8_t hash_1[HSM_AAD_HASH_BYTES] = "a hash of additional data ......", hash_2[HSM_AAD_HASH_BYTES] = "another";
enum { BIG = HSM_PLAIN_MAX + HSM_SEALED_OVERHEAD };

static int setup(void **state)
{
    struct world *w = world_on_shim();
    *state = w;
    return 0;
}

static void make(struct world *w, const uint8_t kvid[HSM_KVID_BYTES], uint8_t check[HSM_CHECK_BYTES])
{
    OK(ops_key_generate(&w->t, &verifier, kvid, hash_1, check, &e));
}

static enum err_code open_code(struct world *w, const uint8_t kvid[HSM_KVID_BYTES], enum hsm_sealed type, const uint8_t *hash, struct bytes sealed)
{
    uint8_t out[BIG];
    struct err e = {0};
    w->t.m.last_rv = CKR_OK;
    return ops_key_open(&w->t, kvid, type, hash, sealed, out, &e).failed ? e.code : ERR_NONE;
}

/* ---- birth ---------------------------------------------------------------------------------------------------------- */
static size_t found(struct world *w, enum key_half half, const uint8_t kvid[HSM_KVID_BYTES], CK_OBJECT_HANDLE out[4])
{
    char label[KEYS_LABEL_MAX];
    size_t n;
    keys_label(half, kvid, label);
    CK_ATTRIBUTE match = {CKA_LABEL, label, strlen(label)};
    OK(object_find(&w->t.m, w->t.session, &match, 1, out, 4, &n, &e));
    return n;
}

static void has(struct world *w, CK_OBJECT_HANDLE h, CK_ATTRIBUTE_TYPE type, CK_BBOOL want)
{
    CK_BBOOL is = 2;
    CK_ATTRIBUTE a = {type, &is, sizeof is};
    assert_int_equal(w->t.m.f->C_GetAttributeValue(w->t.session, h, &a, 1), CKR_OK);
    assert_int_equal(is, want);
}

static void test_born_on_the_token(void **state)
{
    struct world *w = *state;
    uint8_t check[HSM_CHECK_BYTES], value[64];
    static const CK_ATTRIBUTE_TYPE never[] = {CKA_EXTRACTABLE, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE, CKA_MODIFIABLE, CKA_COPYABLE};
    static const CK_ATTRIBUTE_TYPE always[] = {CKA_TOKEN, CKA_PRIVATE, CKA_SENSITIVE, CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE};
    make(w, kvid_a, check);
    for (enum key_half half = KEY_AES; half < KEY_HALVES; half++) {
        CK_OBJECT_HANDLE h[4];
        CK_MECHANISM_TYPE only = 0;
        CK_ATTRIBUTE secret = {CKA_VALUE, value, sizeof value}, mechanisms = {CKA_ALLOWED_MECHANISMS, &only, sizeof only};
        assert_int_equal(found(w, half, kvid_a, h), 1);
        for (size_t i = 0; i < sizeof never / sizeof never[0]; i++)
            has(w, h[0], never[i], CK_FALSE);
        for (size_t i = 0; i < sizeof always / sizeof always[0]; i++)
            has(w, h[0], always[i], CK_TRUE);
        has(w, h[0], CKA_ENCRYPT, half == KEY_AES);
        has(w, h[0], CKA_DECRYPT, half == KEY_AES);
        has(w, h[0], CKA_SIGN, half == KEY_COMMIT);
        assert_int_equal(w->t.m.f->C_GetAttributeValue(w->t.session, h[0], &mechanisms, 1), CKR_OK);
        assert_int_equal(only, half == KEY_AES ? CKM_AES_GCM : CKM_SHA256_HMAC);
        assert_int_equal(w->t.m.f->C_GetAttributeValue(w->t.session, h[0], &secret, 1), CKR_ATTRIBUTE_SENSITIVE);
    }
    REFUSED(ERR_EXISTS, "HSM_OBJECT_EXISTS", ops_key_generate(&w->t, &verifier, kvid_a, hash_1, check, &e));
    CLEANUP(buf_release) struct buf list = {0};
    buf_init(&list, HSM_KEY_PAGE * HSM_KVID_BYTES);
    make(w, kvid_b, check);
    ops_key_list(&w->t, NULL, &list);
    assert_int_equal(list.n, 2 * HSM_KVID_BYTES);
    assert_memory_equal(list.p, kvid_a, HSM_KVID_BYTES);
    buf_reset(&list);
    ops_key_list(&w->t, kvid_a, &list);
    assert_int_equal(list.n, HSM_KVID_BYTES);
    assert_memory_equal(list.p, kvid_b, HSM_KVID_BYTES);
    assert_string_equal(w->t.objects.weaknesses, "");
}

/* ---- messages ------------------------------------------------------------------------------------------------------- */
static void test_seal_and_open(void **state)
{
    struct world *w = *state;
    static const size_t sizes[] = {0, 1, 15, 16, 17, 4096, HSM_PLAIN_MAX};
    uint8_t check[HSM_CHECK_BYTES], plain[HSM_PLAIN_MAX + 1], sealed[BIG], again[BIG], out[BIG];
    make(w, kvid_a, check);
    rng_fill(&rng_system, plain, sizeof plain);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (unsigned type = 0; type < 2; type++) {
            const enum hsm_sealed t = type == 0 ? HSM_SEALED_DATA : HSM_SEALED_KEY;
            const size_t n = sizes[i] + HSM_SEALED_OVERHEAD;
            OK(ops_key_seal(&w->t, kvid_a, t, hash_1, BYTES(plain, sizes[i]), sealed, &e));
            OK(ops_key_seal(&w->t, kvid_a, t, hash_1, BYTES(plain, sizes[i]), again, &e));
            assert_memory_not_equal(sealed + 72, again + 72, HSM_NONCE_BYTES);
            OK(ops_key_open(&w->t, kvid_a, t, hash_1, BYTES(sealed, n), out, &e));
            assert_memory_equal(out, plain, sizes[i]);
            assert_int_equal(open_code(w, kvid_a, type == 0 ? HSM_SEALED_KEY : HSM_SEALED_DATA, hash_1, BYTES(sealed, n)), ERR_CIPHERTEXT);
        }
    REFUSED(ERR_DENIED, "HSM_REFUSED", ops_key_seal(&w->t, kvid_a, HSM_SEALED_DATA, hash_1, BYTES(plain, sizeof plain), sealed, &e));
    REFUSED(ERR_DENIED, "HSM_REFUSED", ops_key_seal(&w->t, kvid_a, HSM_SEALED_CHECK, hash_1, BYTES(plain, 16), sealed, &e));
    REFUSED(ERR_DENIED, "HSM_REFUSED", ops_key_open(&w->t, kvid_a, HSM_SEALED_CHECK, hash_1, BYTES(check, sizeof check), out, &e));
    REFUSED(ERR_DENIED, "HSM_REFUSED", ops_key_seal(&w->t, kvid_a, (enum hsm_sealed)'E', hash_1, BYTES(plain, 16), sealed, &e));
    REFUSED(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_key_seal(&w->t, kvid_b, HSM_SEALED_DATA, hash_1, BYTES(plain, 16), sealed, &e));
}

/* Whatever is wrong, the same answer; and a bad message is no reason for the token to begin anew. */
static void test_nothing_else_opens(void **state)
{
    struct world *w = *state;
    uint8_t check[HSM_CHECK_BYTES], sealed[HSM_SEALED_OVERHEAD + 21];
    make(w, kvid_a, check);
    make(w, kvid_b, check);
    OK(ops_key_seal(&w->t, kvid_a, HSM_SEALED_DATA, hash_1, BYTES_LIT("twenty-one bytes long"), sealed, &e));
    const struct bytes all = BYTES(sealed, sizeof sealed);
    assert_int_equal(open_code(w, kvid_a, HSM_SEALED_DATA, hash_1, all), ERR_NONE);
    for (size_t i = 0; i < sizeof sealed; i++) {
        sealed[i] ^= (uint8_t)(1u << i % 8);
        assert_int_equal(open_code(w, kvid_a, HSM_SEALED_DATA, hash_1, all), ERR_CIPHERTEXT);
        assert_int_equal(w->t.m.last_rv, CKR_OK);
        sealed[i] ^= (uint8_t)(1u << i % 8);
        assert_int_equal(open_code(w, kvid_a, HSM_SEALED_DATA, hash_1, BYTES(sealed, i)), ERR_CIPHERTEXT);
    }
    assert_int_equal(open_code(w, kvid_a, HSM_SEALED_DATA, hash_2, all), ERR_CIPHERTEXT);
    assert_int_equal(open_code(w, kvid_b, HSM_SEALED_DATA, hash_1, all), ERR_CIPHERTEXT);
    memcpy(sealed + 8, kvid_b, HSM_KVID_BYTES); /* b's name over a's message */
    assert_int_equal(open_code(w, kvid_b, HSM_SEALED_DATA, hash_1, all), ERR_CIPHERTEXT);
    memcpy(sealed + 8, kvid_a, HSM_KVID_BYTES);
    assert_int_equal(open_code(w, kvid_a, HSM_SEALED_DATA, hash_1, all), ERR_NONE);
    assert_int_equal(w->t.reinitialised, 0);
    assert_true(w->t.ready);
}

/* ---- objects that are not ours as they must be ---------------------------------------------------------------------- */
static CK_OBJECT_HANDLE import(struct world *w, enum key_half half, const uint8_t kvid[HSM_KVID_BYTES], const uint8_t value[32])
{
    char label[KEYS_LABEL_MAX];
    uint8_t id[KEYS_ID_BYTES], key[32];
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = half == KEY_AES ? CKK_AES : CKK_GENERIC_SECRET;
    CK_MECHANISM_TYPE allowed = half == KEY_AES ? CKM_AES_GCM : CKM_SHA256_HMAC;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE, aes = half == KEY_AES, mac = half == KEY_COMMIT;
    CK_OBJECT_HANDLE h;
    keys_label(half, kvid, label);
    keys_id(half, kvid, id);
    memcpy(key, value, sizeof key);
    CK_ATTRIBUTE a[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_VALUE, key, sizeof key},
                        {CKA_LABEL, label, strlen(label)}, {CKA_ID, id, sizeof id}, {CKA_TOKEN, &yes, 1}, {CKA_PRIVATE, &yes, 1},
                        {CKA_SENSITIVE, &yes, 1}, {CKA_EXTRACTABLE, &no, 1}, {CKA_ENCRYPT, &aes, 1}, {CKA_DECRYPT, &aes, 1},
                        {CKA_SIGN, &mac, 1}, {CKA_VERIFY, &no, 1}, {CKA_WRAP, &no, 1}, {CKA_UNWRAP, &no, 1}, {CKA_DERIVE, &no, 1},
                        {CKA_MODIFIABLE, &no, 1}, {CKA_COPYABLE, &no, 1}, {CKA_ALLOWED_MECHANISMS, &allowed, sizeof allowed}};
    assert_int_equal(w->t.m.f->C_CreateObject(w->t.session, a, sizeof a / sizeof a[0], &h), CKR_OK);
    return h;
}

static enum err_code usable(struct world *w, const uint8_t kvid[HSM_KVID_BYTES], const char **reason)
{
    uint8_t sealed[BIG];
    struct err e = {0};
    const bool failed = ops_key_seal(&w->t, kvid, HSM_SEALED_DATA, hash_1, BYTES_LIT("x"), sealed, &e).failed;
    *reason = failed ? e.reason : "";
    return failed ? e.code : ERR_NONE;
}

/* One key is refused by name, and the others serve: a tenant's key is no reason to keep everybody from theirs. */
static void test_weak_objects(void **state)
{
    struct world *w = *state;
    uint8_t check[HSM_CHECK_BYTES], value[32] = {1};
    const char *reason;
    make(w, kvid_a, check);
    import(w, KEY_AES, kvid_b, value);
    OK(token_reload(&w->t, &e));
    assert_int_equal(usable(w, kvid_b, &reason), ERR_NOT_FOUND); /* half of it */
    import(w, KEY_COMMIT, kvid_b, value);
    OK(token_reload(&w->t, &e));
    assert_int_equal(usable(w, kvid_b, &reason), ERR_STATE); /* its value was outside the token */
    assert_string_equal(reason, "HSM_OBJECT_WEAK");
    struct hsm_status st;
    ops_status(&w->t, &st);
    assert_non_null(strstr(st.weaknesses, "1 keys refused"));
    OK(ops_key_check(&w->t, kvid_a, hash_1, check, &e));
    assert_int_equal(usable(w, kvid_a, &reason), ERR_NONE);
    CK_OBJECT_HANDLE h[4];
    assert_int_equal(found(w, KEY_AES, kvid_a, h), 1);
    import(w, KEY_AES, kvid_a, value); /* a second one of the name */
    OK(token_reload(&w->t, &e));
    REFUSED(ERR_STATE, "HSM_OBJECT_WEAK", ops_key_check(&w->t, kvid_a, hash_1, check, &e));
    OK(ops_key_destroy(&w->t, kvid_a, &e));
    OK(ops_key_destroy(&w->t, kvid_b, &e));
    assert_int_equal(found(w, KEY_AES, kvid_a, h) + found(w, KEY_COMMIT, kvid_a, h) + found(w, KEY_AES, kvid_b, h), 0);
}

/* The released bytes: a key of known value (which the audit would refuse) seals what FORMATS says, and opens what it says. */
static void test_the_format(void **state)
{
    struct world *w = *state;
    struct stand_in_key known = {.there = true};
    uint8_t sealed[BIG], out[BIG], check[HSM_CHECK_BYTES];
    memcpy(known.kvid, kvid_a, sizeof known.kvid);
    rng_fill(&rng_system, known.aes, sizeof known.aes);
    rng_fill(&rng_system, known.mac, sizeof known.mac);
    import(w, KEY_AES, kvid_a, known.aes);
    import(w, KEY_COMMIT, kvid_a, known.mac);
    OK(token_reload(&w->t, &e));
    struct key_pair *pair = keys_entry(&w->t.keys, kvid_a);
    assert_non_null(pair);
    bool bad;
    OK(keys_audit_some(&w->t, 10, &bad, &e));
    assert_true(bad);
    assert_string_equal(pair->weak, "ALWAYS_SENSITIVE");
    pair->weak = NULL; /* and it is not asked again */
    stand_in_seal(&known, HSM_SEALED_CHECK, hash_1, BYTES(kvid_a, HSM_KVID_BYTES), check);
    OK(ops_key_check(&w->t, kvid_a, hash_1, check, &e));
    OK(ops_key_seal(&w->t, kvid_a, HSM_SEALED_DATA, hash_2, BYTES_LIT("made on the token"), sealed, &e));
    assert_true(stand_in_open(&known, 'e', hash_2, BYTES(sealed, 17 + HSM_SEALED_OVERHEAD), out));
    assert_memory_equal(out, "made on the token", 17);
    stand_in_seal(&known, 'w', hash_2, BYTES_LIT("made by the page"), sealed);
    OK(ops_key_open(&w->t, kvid_a, HSM_SEALED_KEY, hash_2, BYTES(sealed, 16 + HSM_SEALED_OVERHEAD), out, &e));
    assert_memory_equal(out, "made by the page", 16);
}

/* ---- before use, and after ------------------------------------------------------------------------------------------- */
static void test_a_key_must_be_checked(void **state)
{
    struct world *w = *state;
    uint8_t a[HSM_CHECK_BYTES], b[HSM_CHECK_BYTES];
    const char *reason;
    make(w, kvid_a, a);
    make(w, kvid_b, b);
    assert_int_equal(usable(w, kvid_a, &reason), ERR_NONE);
    token_close(&w->t); /* it went away and came back: perhaps another one */
    OK(token_open(&w->t, &e));
    assert_int_equal(usable(w, kvid_a, &reason), ERR_STATE);
    assert_string_equal(reason, "HSM_KEY_UNCHECKED");
    REFUSED(ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", ops_key_check(&w->t, kvid_a, hash_2, a, &e));
    REFUSED(ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", ops_key_check(&w->t, kvid_a, hash_1, b, &e));
    a[50] ^= 1;
    REFUSED(ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", ops_key_check(&w->t, kvid_a, hash_1, a, &e));
    assert_int_equal(usable(w, kvid_a, &reason), ERR_STATE);
    a[50] ^= 1;
    shim_plan(&w->f, "C_Decrypt bit:3 nth:1"); /* one wrong bit is no damaged key; each time, it is one */
    OK(ops_key_check(&w->t, kvid_a, hash_1, a, &e));
    shim_plan(&w->f, "C_Decrypt bit:3 always");
    REFUSED(ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", ops_key_check(&w->t, kvid_b, hash_1, b, &e));
    assert_int_equal(shim_count(&w->f, "C_Decrypt", NULL), 3);
    shim_plan(&w->f, "C_Finalize slow:1 nth:1000000");
    assert_int_equal(usable(w, kvid_a, &reason), ERR_NONE);
}

static void test_destroyed_is_gone(void **state)
{
    struct world *w = *state;
    uint8_t check[HSM_CHECK_BYTES];
    const char *reason;
    make(w, kvid_a, check);
    const int folder = w->t.storage.fd;
    w->t.storage.fd = 1 << 20; /* gone from the folder, and nobody knows whether from the disk: not "absent", however often it is asked */
    for (unsigned i = 0; i < 2; i++) {
        REFUSED(ERR_INTERNAL, "HSM_STORAGE", ops_key_destroy(&w->t, kvid_a, &e));
        REFUSED(ERR_INTERNAL, "HSM_STORAGE", ops_destroy(&w->t, HSM_MASTER, 9, &e));
    }
    w->t.storage.fd = folder;
    REFUSED(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_key_destroy(&w->t, kvid_a, &e));
    REFUSED(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_destroy(&w->t, HSM_MASTER, 9, &e));
    assert_int_equal(usable(w, kvid_a, &reason), ERR_NOT_FOUND);
    token_close(&w->t);
    OK(token_open(&w->t, &e));
    REFUSED(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_key_check(&w->t, kvid_a, hash_1, check, &e));
    assert_int_equal(w->t.keys.n, 0);
}

/* A search walks over the whole token: a key that is gone is looked for once in a while, not at each question. */
static void test_an_absent_key_is_looked_for_once(void **state)
{
    struct world *w = *state;
    uint8_t check[HSM_CHECK_BYTES] = {0};
    REFUSED(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_key_check(&w->t, kvid_a, hash_1, check, &e));
    const uint64_t calls = w->t.m.calls;
    for (int i = 0; i < 10; i++)
        REFUSED(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_key_check(&w->t, kvid_a, hash_1, check, &e));
    assert_int_equal(w->t.m.calls, calls);
    fake_clock_advance(&w->clock, (int64_t)KEYS_ABSENT_MS * 1000000);
    REFUSED(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_key_check(&w->t, kvid_a, hash_1, check, &e));
    assert_true(w->t.m.calls > calls);
}

/* ---- a token that answers wrongly ------------------------------------------------------------------------------------ */
static void plan(struct world *w, const char *call, const char *what, unsigned bit, const char *when)
{
    char rule[96];
    (void)snprintf(rule, sizeof rule, "%s %s:%u %s", call, what, bit, when);
    shim_plan(&w->f, rule);
}

/* A wrong bit, once or always, in whichever of its answers: no message that does not open is given away, and no wrong text. */
static void test_wrong_answers(void **state)
{
    static const char *const calls[] = {"C_Sign", "C_Encrypt", "C_Decrypt"};
    static const char *const whens[] = {"always", "nth:1", "nth:2", "nth:3"};
    struct world *w = *state;
    uint8_t check[HSM_CHECK_BYTES], sealed[BIG], good[BIG], out[BIG];
    unsigned refused = 0;
    make(w, kvid_a, check);
    OK(ops_key_seal(&w->t, kvid_a, HSM_SEALED_DATA, hash_1, BYTES_LIT("right"), good, &e));
    for (size_t c = 0; c < 3; c++)
        for (size_t n = 0; n < 4; n++)
            for (unsigned bit = 1; bit < 256; bit += 85) {
                struct err e = {0};
                plan(w, calls[c], "bit", bit, whens[n]);
                const unsigned before = shim_faults(&w->f);
                const bool failed = ops_key_seal(&w->t, kvid_a, HSM_SEALED_DATA, hash_1, BYTES_LIT("text"), sealed, &e).failed;
                if (failed) {
                    assert_int_equal(e.code, ERR_UNAVAILABLE);
                    assert_int_equal(ckr_class(w->t.m.last_rv), CKR_CLASS_DEVICE);
                    refused++;
                }
                assert_true(shim_faults(&w->f) > before || n > 0);
                shim_plan(&w->f, "C_Finalize slow:1 nth:1000000");
                if (!failed)
                    assert_int_equal(open_code(w, kvid_a, HSM_SEALED_DATA, hash_1, BYTES(sealed, 4 + HSM_SEALED_OVERHEAD)), ERR_NONE);
                plan(w, calls[c], "bit", bit, whens[n]);
                e = (struct err){0};
                if (!ops_key_open(&w->t, kvid_a, HSM_SEALED_DATA, hash_1, BYTES(good, 5 + HSM_SEALED_OVERHEAD), out, &e).failed)
                    assert_memory_equal(out, "right", 5);
                else
                    assert_int_equal(e.code, ERR_UNAVAILABLE);
            }
    assert_true(refused >= 18);
    shim_plan(&w->f, "C_Finalize slow:1 nth:1000000");
    assert_int_equal(open_code(w, kvid_a, HSM_SEALED_DATA, hash_1, BYTES(good, 5 + HSM_SEALED_OVERHEAD)), ERR_NONE);
}

/* Vague words, or those for a bad message, about a message that is good: a token that failed, never a message that is bad. */
static void test_vague_codes(void **state)
{
    static const char *const codes[] = {"0x5", "0x6", "0x40", "0x41", "0x30"}, *const whens[] = {"nth:1", "always"};
    struct world *w = *state;
    uint8_t check[HSM_CHECK_BYTES], good[BIG];
    make(w, kvid_a, check);
    OK(ops_key_seal(&w->t, kvid_a, HSM_SEALED_DATA, hash_1, BYTES_LIT("right"), good, &e));
    const struct bytes sealed = BYTES(good, 5 + HSM_SEALED_OVERHEAD);
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        for (size_t when = 0; when < 2; when++) {
            char rule[64];
            (void)snprintf(rule, sizeof rule, "C_Decrypt %s %s", codes[i], whens[when]);
            const unsigned before = shim_count(&w->f, "C_Decrypt", NULL);
            shim_plan(&w->f, rule);
            assert_int_equal(open_code(w, kvid_a, HSM_SEALED_DATA, hash_1, sealed), ERR_UNAVAILABLE);
            assert_true(shim_count(&w->f, "C_Decrypt", NULL) > before);
            shim_plan(&w->f, "C_Finalize slow:1 nth:1000000");
            OK(token_recover(&w->t, &e));
            OK(ops_key_check(&w->t, kvid_a, hash_1, check, &e));
            assert_int_equal(open_code(w, kvid_a, HSM_SEALED_DATA, hash_1, sealed), ERR_NONE);
        }
}

/* Every call of a key's making fails in turn, in this process and in the fresh one: it is there and works, or nothing of it is. */
static void test_the_nth_call_fails(void **state)
{
    struct world *w = *state;
    const char *every = getenv("LONG");
    unsigned failed = 0, nth = 1;
    for (;; nth += every != NULL && every[0] != '\0' ? 1 : 7) {
        uint8_t check[HSM_CHECK_BYTES];
        CK_OBJECT_HANDLE h[4];
        const char *reason;
        char rule[64];
        struct err why = {0};
        (void)snprintf(rule, sizeof rule, "* 0x30 nth:%u", nth);
        const unsigned before = shim_faults(&w->f);
        shim_plan(&w->f, rule);
        const bool made = !ops_key_generate(&w->t, &verifier, kvid_a, hash_1, check, &why).failed;
        const bool hit = shim_faults(&w->f) > before;
        failed += !made;
        shim_plan(&w->f, "C_Finalize slow:1 nth:1000000");
        if (made) {
            assert_int_equal(usable(w, kvid_a, &reason), ERR_NONE);
            OK(ops_key_destroy(&w->t, kvid_a, &e));
        }
        assert_int_equal(found(w, KEY_AES, kvid_a, h) + found(w, KEY_COMMIT, kvid_a, h), 0);
        assert_null(keys_entry(&w->t.keys, kvid_a));
        if (!hit)
            break;
    }
    print_message("0x30 at each of %u calls: %u keys not made\n", nth, failed);
    assert_true(nth > 20 && failed > 2);
}

/* Recovery finds keys again, by each of its ways; and a token without AES-GCM says so, serves the rest, and makes no such key. */
static void test_recovery_and_a_token_without_gcm(void **state)
{
    struct world *w = *state;
    uint8_t check[HSM_CHECK_BYTES], sealed[BIG];
    const char *reason;
    make(w, kvid_a, check);
    for (int rung = 0; rung < 3; rung++) {
        struct err why = {0};
        if (rung == 0)
            keys_entry(&w->t.keys, kvid_a)->handle[KEY_AES] = 4711;
        if (rung == 1)
            assert_int_equal(w->t.m.f->C_CloseAllSessions(w->t.slot), CKR_OK);
        if (rung == 2)
            assert_int_equal(w->t.m.f->C_Finalize(NULL), CKR_OK);
        assert_true(ops_key_seal(&w->t, kvid_a, HSM_SEALED_DATA, hash_1, BYTES_LIT("x"), sealed, &why).failed);
        assert_int_equal(why.code, ERR_UNAVAILABLE);
        OK(token_recover(&w->t, &e));
        OK(ops_key_check(&w->t, kvid_a, hash_1, check, &e));
        assert_int_equal(usable(w, kvid_a, &reason), ERR_NONE);
    }
    token_close(&w->t);
    shim_plan(&w->f, "C_GetMechanismInfo 0x70 nth:7"); /* CKR_MECHANISM_INVALID for AES-GCM */
    OK(token_open(&w->t, &e));
    struct hsm_status st;
    ops_status(&w->t, &st);
    assert_string_equal(st.missing, "CKM_AES_GCM");
    assert_string_equal(st.cannot, ""); /* all else serves */
    REFUSED(ERR_STATE, "HSM_MECHANISM", ops_key_generate(&w->t, &verifier, kvid_b, hash_1, check, &e));
}

#define KEYS_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_free)

int main(void)
{
    const struct CMUnitTest tests[] = {
        KEYS_TEST(test_born_on_the_token),
        KEYS_TEST(test_seal_and_open),
        KEYS_TEST(test_nothing_else_opens),
        KEYS_TEST(test_weak_objects),
        KEYS_TEST(test_the_format),
        KEYS_TEST(test_a_key_must_be_checked),
        KEYS_TEST(test_destroyed_is_gone),
        KEYS_TEST(test_an_absent_key_is_looked_for_once),
        KEYS_TEST(test_wrong_answers),
        KEYS_TEST(test_vague_codes),
        KEYS_TEST(test_the_nth_call_fails),
        KEYS_TEST(test_recovery_and_a_token_without_gcm),
    };
    if (!world_begin(32))
        return 2;
    world_end(cmocka_run_group_tests(tests, NULL, NULL));
}
