/* What a token can do of what hsm/ asks: capable MODULE URI CONFIG FOLDER [make|only LABEL SO-PIN NEW-SO-PIN]. FOLDER holds the file pin, and what hsm/
 * counts. hsm/'s own operations run on it in groups: kdf, sign, gcm, anchor. Each says "<group> ran: <n> checks", or
 * "<group> cannot: <what the token lacks>", which only its very first operation may say; anything else that fails ends the program with
 * exit code 1. With make the token is initialised first, by PKCS#11 alone; with only that is all. capable needs: what each group needs. */
#include "tests/unit/hsm/direct.h"

#include "hsm/seal.h"
#include "tests/hardware/checks.h"

#include <sodium.h>

enum { SLOTS = 16, PIN_MAX = 32 };
static const uint8_t kvid[HSM_KVID_BYTES] = {7, 7}, aad[HSM_AAD_HASH_BYTES] = {9};

static _Noreturn void give_up(void)
{
    world_end(1);
}

/* ---- the token is made -------------------------------------------------------------------------------------------- */
static void did(const char *call, CK_RV rv)
{
    if (rv == CKR_OK)
        return;
    printf("BROKEN %s: %s\n", call, ckr_name(rv));
    world_end(1);
}

/* NSS has a token without a PIN, which it cannot name: then label is "", and its security officer has no PIN. opencryptoki wants both
 * PINs changed before it works: all are treated so where they allow it. */
static void make_token(const char *module, const char *config, const char *uri_text, const char *label, const char *so, const char *new_so)
{
    static struct module m;
    struct hsm_uri *uri = NULL;
    CK_SLOT_ID slots[SLOTS], slot = 0;
    CK_ULONG n = SLOTS;
    CK_SESSION_HANDLE s;
    char name[33], first[] = "87651234";
    CK_UTF8CHAR_PTR so_pin = (CK_UTF8CHAR_PTR)(uintptr_t)so, last_so = (CK_UTF8CHAR_PTR)(uintptr_t)new_so;
    bool found = false;
    WORKS(module_load(&m, module, config, NULL, &e));
    WORKS(module_initialise(&m, &e));
    WORKS(hsm_uri_parse(uri_text, &uri, &e));
    did("C_GetSlotList", m.f->C_GetSlotList(CK_TRUE, slots, &n));
    /* One that has a name is found by it; else the first there is gets it. */
    for (CK_ULONG i = 0; i < n && !found; i++) {
        CK_SLOT_INFO si;
        CK_TOKEN_INFO ti;
        did("C_GetSlotInfo", m.f->C_GetSlotInfo(slots[i], &si));
        did("C_GetTokenInfo", m.f->C_GetTokenInfo(slots[i], &ti));
        found = label[0] != '\0' || hsm_uri_matches(uri, slots[i], &si, &ti);
        slot = slots[i];
    }
    hsm_uri_free(uri);
    MUST(found);
    if (label[0] != '\0') {
        memset(name, ' ', sizeof name);
        memcpy(name, label, strlen(label));
        did("C_InitToken", m.f->C_InitToken(slot, so_pin, strlen(so), (CK_UTF8CHAR_PTR)name));
        n = SLOTS; /* SoftHSM gives a fresh token another slot */
        did("C_GetSlotList", m.f->C_GetSlotList(CK_TRUE, slots, &n));
        for (CK_ULONG i = 0; i < n; i++) {
            CK_TOKEN_INFO ti;
            did("C_GetTokenInfo", m.f->C_GetTokenInfo(slots[i], &ti));
            if (memcmp(ti.label, name, sizeof ti.label) == 0)
                slot = slots[i];
        }
    }
    did("C_OpenSession", m.f->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &s));
    did("C_Login SO", m.f->C_Login(s, CKU_SO, so_pin, strlen(so)));
    if (new_so[0] != '\0')
        did("C_SetPIN SO", m.f->C_SetPIN(s, so_pin, strlen(so), last_so, strlen(new_so)));
    if (label[0] == '\0') {
        did("C_InitPIN", m.f->C_InitPIN(s, (CK_UTF8CHAR_PTR)(uintptr_t)RIGHT_PIN, strlen(RIGHT_PIN)));
    } else {
        did("C_InitPIN", m.f->C_InitPIN(s, (CK_UTF8CHAR_PTR)first, strlen(first)));
        did("C_Logout", m.f->C_Logout(s));
        did("C_Login", m.f->C_Login(s, CKU_USER, (CK_UTF8CHAR_PTR)first, strlen(first)));
        did("C_SetPIN", m.f->C_SetPIN(s, (CK_UTF8CHAR_PTR)first, strlen(first), (CK_UTF8CHAR_PTR)(uintptr_t)RIGHT_PIN, strlen(RIGHT_PIN)));
    }
    module_finalise(&m);
}

/* ---- groups ------------------------------------------------------------------------------------------------------- */
static void reopen(struct token *t)
{
    token_close(t);
    WORKS(token_open(t, &e));
}

/* A secret of known value, with what every token knows of attributes. */
static CK_OBJECT_HANDLE import_secret(struct token *t, uint32_t version, const uint8_t value[32], bool derive)
{
    char label[OBJECT_LABEL_MAX];
    uint8_t id[OBJECT_ID_BYTES], key[32];
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE, may_derive = derive;
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_GENERIC_SECRET;
    CK_OBJECT_HANDLE h = CK_INVALID_HANDLE;
    object_label(HSM_MASTER, version, label);
    object_id(HSM_MASTER, version, id);
    memcpy(key, value, sizeof key);
    CK_ATTRIBUTE a[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_VALUE, key, sizeof key},
                        {CKA_LABEL, label, strlen(label)}, {CKA_ID, id, sizeof id},            {CKA_TOKEN, &yes, 1},
                        {CKA_PRIVATE, &yes, 1},            {CKA_SENSITIVE, &yes, 1},           {CKA_EXTRACTABLE, &no, 1},
                        {CKA_SIGN, &yes, 1},               {CKA_VERIFY, &no, 1},               {CKA_ENCRYPT, &no, 1},
                        {CKA_DECRYPT, &no, 1},             {CKA_WRAP, &no, 1},                 {CKA_UNWRAP, &no, 1},
                        {CKA_DERIVE, &may_derive, 1},      {CKA_MODIFIABLE, &no, 1},
                        {CKA_COPYABLE, &no, 1}};
    CK_RV rv = CKR_TEMPLATE_INCONSISTENT;
    for (CK_ULONG dropped = 0; dropped <= 2 && create_refuses_template(t, rv); dropped++)
        rv = t->m.f->C_CreateObject(t->session, a, sizeof a / sizeof a[0] - dropped, &h);
    did("C_CreateObject", rv);
    return h;
}

/* What the token calculates from a secret that is known is what everybody else calculates. What came in by import was once outside: that
 * is named, or the key refused where the token cannot say enough of it. */
static void known_answer(struct token *t, struct bytes input)
{
    uint8_t value[32], want[crypto_auth_hmacsha256_BYTES], got[SECRET_KEY_BYTES];
    struct err why = {0};
    crypto_auth_hmacsha256_state mac;
    for (size_t i = 0; i < sizeof value; i++)
        value[i] = (uint8_t)(3 * i + 1);
    CK_OBJECT_HANDLE known = import_secret(t, 7, value, false);
    WORKS(ops_hmac(t, known, input, got, &e));
    (void)crypto_auth_hmacsha256_init(&mac, value, sizeof value);
    (void)crypto_auth_hmacsha256_update(&mac, input.p, input.n);
    (void)crypto_auth_hmacsha256_final(&mac, want);
    MUST(memcmp(got, want, sizeof want) == 0);
    const bool refused = token_reload(t, &why).failed;
    MUST(refused || strstr(t->objects.weaknesses, "master-7: imported") != NULL);
    printf("imported: %s\n", refused ? why.detail : "a named weakness");
    did("C_DestroyObject", t->m.f->C_DestroyObject(t->session, known));
    /* And one that can do more than it should is refused. */
    CK_OBJECT_HANDLE weak = import_secret(t, 8, value, true);
    DENIES(ERR_STATE, "HSM_OBJECT_WEAK", token_reload(t, &e));
    did("C_DestroyObject", t->m.f->C_DestroyObject(t->session, weak));
    WORKS(token_reload(t, &e));
}

static void group_kdf(struct token *t)
{
    CLEANUP(buf_release) struct buf in = {0};
    CLEANUP(buf_release) struct buf seal_in = {0};
    CLEANUP(secret_freep) struct secret *one = NULL, *two = NULL, *seal = NULL, *again = NULL;
    struct secret *none = NULL;
    uint8_t random[32] = {0}, random2[32] = {0};
    struct hsm_status status;
    struct err why = {0};
    tenant_kek_input(&in);
    store_key_input(&seal_in);
    if (!begins("kdf", ops_generate(t, &verifier, HSM_MASTER, 1, &why), &why))
        return;
    WORKS(ops_generate(t, &verifier, HSM_SEAL, 1, &e));
    DENIES(ERR_EXISTS, "HSM_OBJECT_EXISTS", ops_generate(t, &verifier, HSM_MASTER, 1, &e));
    WORKS(ops_derive(t, HSM_MASTER, 1, buf_bytes(&in), &one, &e));
    WORKS(ops_derive(t, HSM_SEAL, 1, buf_bytes(&seal_in), &seal, &e));
    MUST(!secret_equal(one, seal));
    DENIES(ERR_DENIED, "HSM_REFUSED", ops_derive(t, HSM_MASTER, 1, buf_bytes(&seal_in), &none, &e));
    DENIES(ERR_DENIED, "HSM_REFUSED", ops_derive(t, HSM_MASTER, 1, BYTES_LIT("anything"), &none, &e));
    WORKS(ops_random(t, random, sizeof random, &e));
    WORKS(ops_random(t, random2, sizeof random2, &e));
    MUST(memcmp(random, random2, sizeof random) != 0);
    reopen(t);
    WORKS(ops_derive(t, HSM_MASTER, 1, buf_bytes(&in), &two, &e));
    MUST(secret_equal(one, two));
    ops_status(t, &status);
    printf("weaknesses: %s\n", status.weaknesses);
    known_answer(t, buf_bytes(&in));
    WORKS(ops_destroy(t, HSM_SEAL, 1, &e));
    DENIES(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_derive(t, HSM_SEAL, 1, buf_bytes(&seal_in), &again, &e));
    reopen(t);
    MUST(objects_newest(&t->objects, HSM_SEAL) == 0 && objects_newest(&t->objects, HSM_MASTER) == 1);
    (void)ran("kdf");
}

static void group_sign(struct token *t)
{
    uint8_t sig[HSM_SIG_MAX], pub[HSM_PUBKEY_MAX], pub2[HSM_PUBKEY_MAX];
    size_t n, pub_n, pub2_n;
    bool ed;
    struct err why = {0};
    const struct bytes note = BYTES_LIT(ORIGIN "\n12\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n");
    if (!begins("sign", ops_generate(t, &verifier, HSM_AUDIT, 1, &why), &why))
        return;
    WORKS(ops_audit_pubkey(t, 1, pub, &pub_n, &ed, &e));
    printf("audit key: %s\n", ed ? "Ed25519" : "P-256");
    WORKS(ops_sign_checkpoint(t, 1, note, sig, &n, &e)); /* verified by OpenSSL before it is given out (hsm/sign.c) */
    WORKS(ops_sign_certificate(t, 1, BYTES_LIT(CERTIFICATE), sig, &n, &e));
    DENIES(ERR_DENIED, "HSM_REFUSED", ops_sign_checkpoint(t, 1, BYTES_LIT(CERTIFICATE), sig, &n, &e));
    DENIES(ERR_DENIED, "HSM_REFUSED", ops_sign_certificate(t, 1, note, sig, &n, &e));
    reopen(t);
    WORKS(ops_audit_pubkey(t, 1, pub2, &pub2_n, &ed, &e));
    MUST(pub_n == pub2_n && memcmp(pub, pub2, pub_n) == 0);
    WORKS(ops_destroy(t, HSM_AUDIT, 1, &e));
    DENIES(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_sign_checkpoint(t, 1, note, sig, &n, &e));
    (void)ran("sign");
}

/* Every byte of what it sealed counts, and so does what it is bound to. */
static void tampered(struct token *t, uint8_t *sealed, size_t n)
{
    uint8_t out[HSM_PLAIN_MAX], other[HSM_AAD_HASH_BYTES] = {8};
    for (size_t i = 0; i < n; i++) {
        sealed[i] ^= 0x20;
        DENIES(ERR_CIPHERTEXT, "", ops_key_open(t, kvid, HSM_SEALED_DATA, aad, BYTES(sealed, n), out, &e));
        sealed[i] ^= 0x20;
    }
    DENIES(ERR_CIPHERTEXT, "", ops_key_open(t, kvid, HSM_SEALED_DATA, other, BYTES(sealed, n), out, &e));
    DENIES(ERR_CIPHERTEXT, "", ops_key_open(t, kvid, HSM_SEALED_KEY, aad, BYTES(sealed, n), out, &e));
    DENIES(ERR_CIPHERTEXT, "", ops_key_open(t, kvid, HSM_SEALED_DATA, aad, BYTES(sealed, n - 1), out, &e));
}

static void group_gcm(struct token *t)
{
    static uint8_t plain[HSM_PLAIN_MAX], out[HSM_PLAIN_MAX], sealed[HSM_PLAIN_MAX + HSM_SEALED_OVERHEAD];
    uint8_t check[HSM_CHECK_BYTES], bad[HSM_CHECK_BYTES];
    static const size_t sizes[] = {0, 1, 16, 31, 4096, HSM_PLAIN_MAX};
    struct err why = {0};
    if (!begins("gcm", ops_key_generate(t, &verifier, kvid, aad, check, &why), &why))
        return;
    DENIES(ERR_EXISTS, "HSM_OBJECT_EXISTS", ops_key_generate(t, &verifier, kvid, aad, check, &e));
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        randombytes_buf(plain, sizes[i]);
        WORKS(ops_key_seal(t, kvid, HSM_SEALED_DATA, aad, BYTES(plain, sizes[i]), sealed, &e));
        WORKS(ops_key_open(t, kvid, HSM_SEALED_DATA, aad, BYTES(sealed, sizes[i] + HSM_SEALED_OVERHEAD), out, &e));
        MUST(memcmp(plain, out, sizes[i]) == 0);
    }
    WORKS(ops_key_seal(t, kvid, HSM_SEALED_DATA, aad, BYTES(plain, 16), sealed, &e));
    tampered(t, sealed, 16 + HSM_SEALED_OVERHEAD);
    reopen(t);
    DENIES(ERR_STATE, "HSM_KEY_UNCHECKED", ops_key_open(t, kvid, HSM_SEALED_DATA, aad, BYTES(sealed, 16 + HSM_SEALED_OVERHEAD), out, &e));
    memcpy(bad, check, sizeof bad);
    bad[HSM_HEADER_BYTES] ^= 1; /* its commitment */
    DENIES(ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", ops_key_check(t, kvid, aad, bad, &e));
    WORKS(ops_key_check(t, kvid, aad, check, &e));
    WORKS(ops_key_open(t, kvid, HSM_SEALED_DATA, aad, BYTES(sealed, 16 + HSM_SEALED_OVERHEAD), out, &e));
    MUST(memcmp(plain, out, 16) == 0);
    WORKS(ops_key_destroy(t, kvid, &e));
    DENIES(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_key_open(t, kvid, HSM_SEALED_DATA, aad, BYTES(sealed, 16 + HSM_SEALED_OVERHEAD), out, &e));
    reopen(t);
    DENIES(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_key_check(t, kvid, aad, check, &e));
    (void)ran("gcm");
}

/* As a write that was cut short leaves it: an object of that name with half a record. */
static void tear(struct token *t, const char *name)
{
    CK_OBJECT_CLASS class = CKO_DATA;
    CK_BBOOL yes = CK_TRUE;
    uint8_t half[] = {0x7f, 0xff, 0xff, 0xff, 0, 0};
    CK_OBJECT_HANDLE h;
    size_t n;
    CK_ATTRIBUTE a[] = {{CKA_CLASS, &class, sizeof class}, {CKA_APPLICATION, (void *)(uintptr_t)name, strlen(name)}, {CKA_TOKEN, &yes, 1},
                        {CKA_PRIVATE, &yes, 1}, {CKA_LABEL, (void *)(uintptr_t)name, strlen(name)}, {CKA_VALUE, half, sizeof half}};
    WORKS(object_find(&t->m, t->session, a, 2, &h, 1, &n, &e));
    MUST(n == 1);
    did("C_DestroyObject", t->m.f->C_DestroyObject(t->session, h));
    did("C_CreateObject", t->m.f->C_CreateObject(t->session, a, sizeof a / sizeof a[0], &h));
}

static void anchor_is(struct token *t, struct bytes want)
{
    uint8_t out[HSM_ANCHOR_MAX];
    size_t n = 0;
    WORKS(ops_anchor_get(t, out, &n, &e));
    MUST(bytes_equal(BYTES(out, n), want));
}

static void group_anchor(struct token *t)
{
    static uint8_t big[HSM_ANCHOR_MAX + 1];
    uint8_t out[HSM_ANCHOR_MAX];
    size_t n;
    struct err why = {0};
    DENIES(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_anchor_get(t, out, &n, &e));
    if (!begins("anchor", ops_anchor_try(t, &why), &why))
        return;
    WORKS(ops_anchor_put(t, BYTES_LIT("first"), &e));
    anchor_is(t, BYTES_LIT("first"));
    for (uint8_t i = 0; i < 20; i++) {
        big[0] = i;
        WORKS(ops_anchor_put(t, BYTES(big, 1 + 50u * i), &e));
        anchor_is(t, BYTES(big, 1 + 50u * i));
    }
    WORKS(ops_anchor_put(t, BYTES(big, HSM_ANCHOR_MAX), &e));
    DENIES(ERR_INVALID, "HSM_BAD_REQUEST", ops_anchor_put(t, BYTES(big, HSM_ANCHOR_MAX + 1), &e));
    reopen(t);
    anchor_is(t, BYTES(big, HSM_ANCHOR_MAX));
    WORKS(ops_anchor_put(t, BYTES_LIT("older"), &e));
    WORKS(ops_anchor_put(t, BYTES_LIT("newer"), &e)); /* the 24th: the second place's */
    tear(t, "claviger-anchor-a ");
    anchor_is(t, BYTES_LIT("older"));
    tear(t, "claviger-anchor-b ");
    DENIES(ERR_DATA_LOSS, "HSM_ANCHOR", ops_anchor_get(t, out, &n, &e));
    (void)ran("anchor");
}

static int say_needs(void)
{
    for (enum mechanism_group g = GROUP_KDF; g < GROUP_N; g++) {
        CLEANUP(buf_release) struct buf needs = {0};
        buf_init(&needs, 512);
        const char *name = mechanisms_group(g, &needs);
        printf("%s needs: %s\n", name, buf_cstr(&needs));
    }
    return 0;
}

int main(int argc, char **argv)
{
    static struct world w;
    struct hsm_status status;
    if (argc == 2 && strcmp(argv[1], "needs") == 0)
        return say_needs();
    if (argc != 5 && argc != 9)
        return 2;
    if (!world_begin(64) || sodium_init() < 0)
        return 2;
    if (argc == 9) {
        int status_of = -1;
        pid_t maker = fork(); /* this process is to meet the module for the first time */
        if (maker == 0) {
            make_token(argv[1], argv[3], argv[2], argv[6], argv[7], argv[8]);
            world_end(0);
        }
        MUST(maker > 0 && waitpid(maker, &status_of, 0) == maker && status_of == 0);
        if (strcmp(argv[5], "only") == 0)
            world_end(0);
    }
    fake_clock_init(&w.clock, 1700000000000000000, 5000000000);
    (void)snprintf(w.f.pin, sizeof w.f.pin, "%s/pin", argv[4]);
    write_file(w.f.pin, RIGHT_PIN "\n");
    const struct token_setup setup = {.module_path = argv[1], .uri = argv[2], .vendor_config = argv[3], .state_dir = argv[4],
                                      .origin = ORIGIN, .partial = true, .clock = &w.clock.c, .pin = fixture_pin, .pin_user = &w.f};
    WORKS(token_init(&w.t, &setup, &e));
    WORKS(token_open(&w.t, &e));
    ops_status(&w.t, &status);
    printf("token: %s; %s; %s; firmware %u.%u\nlacks: %s\n", status.token_label, status.manufacturer, status.model,
           w.t.info.firmwareVersion.major, w.t.info.firmwareVersion.minor, status.missing);
    group_kdf(&w.t);
    group_sign(&w.t);
    group_gcm(&w.t);
    group_anchor(&w.t);
    token_release(&w.t);
    world_end(0);
}
