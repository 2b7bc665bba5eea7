#include "tests/unit/hsm/direct.h"

#include "base/rng.h"
#include "hsm/answer.h"
#include "hsm/openssl.h"

#include <malloc.h>
#include <openssl/hmac.h>

static int setup(void **state)
{
    struct world *w = world_new();
    const struct token_setup s = fixture_setup(&w->f, &w->clock.c);
    OK(token_init(&w->t, &s, &e));
    *state = w;
    return 0;
}

static void test_right_pin(void **state)
{
    struct world *w = *state;
    struct hsm_status st;
    OK(token_open(&w->t, &e));
    ops_status(&w->t, &st);
    assert_true(st.logged_in);
    assert_string_equal(st.token_label, "claviger-test");
    assert_string_equal(st.missing, "");
    assert_int_equal(st.master_newest, 0);
    OK(token_check(&w->t, &e));
}

static void test_wrong_pin_three_times(void **state)
{
    struct world *w = *state;
    write_file(w->f.pin, "999999\n");
    REFUSED(ERR_STATE, "HSM_PIN", token_open(&w->t, &e));
    REFUSED(ERR_STATE, "HSM_PIN_WAIT", token_open(&w->t, &e));
    fake_clock_advance(&w->clock, 61000000000);
    REFUSED(ERR_STATE, "HSM_PIN", token_open(&w->t, &e));
    fake_clock_advance(&w->clock, 61000000000);
    REFUSED(ERR_STATE, "HSM_PIN", token_open(&w->t, &e));
    fake_clock_advance(&w->clock, 61000000000);
    write_file(w->f.pin, RIGHT_PIN);
    REFUSED(ERR_STATE, "HSM_PIN_TRIES", token_open(&w->t, &e));
    char path[256];
    (void)snprintf(path, sizeof path, "%s/" PIN_TRIES_FILE, w->f.state);
    assert_int_equal(unlink(path), 0);
    OK(token_open(&w->t, &e));
}

static void test_no_pin(void **state)
{
    struct world *w = *state;
    assert_int_equal(unlink(w->f.pin), 0);
    REFUSED(ERR_STATE, "HSM_PIN_FILE", token_open(&w->t, &e));
    write_file(w->f.pin, RIGHT_PIN);
    OK(token_open(&w->t, &e)); /* what was never tried costs no try */
}

static void test_token_absent_or_double(void **state)
{
    struct world *w = *state;
    fixture_init_token("claviger-test");
    REFUSED(ERR_STATE, "HSM_TOKEN", token_open(&w->t, &e));
    struct token other;
    struct token_setup s = fixture_setup(&w->f, &w->clock.c);
    s.uri = "pkcs11:token=elsewhere";
    OK(token_init(&other, &s, &e));
    REFUSED(ERR_UNAVAILABLE, "HSM_TOKEN", token_open(&other, &e));
    token_release(&other);
    s.module_path = "/nonexistent/module.so";
    REFUSED(ERR_STATE, "HSM_MODULE", token_init(&other, &s, &e));
    token_release(&other);
    s.module_path = "/etc/passwd";
    REFUSED(ERR_STATE, "HSM_MODULE", token_init(&other, &s, &e));
    token_release(&other);
}

static void test_incomplete_token_is_refused(void **state)
{
    struct world *w = *state;
    w->t.setup.complete = true;
    REFUSED(ERR_STATE, "HSM_OBJECT_ABSENT", token_open(&w->t, &e));
}

static void test_derive_is_hmac(void **state)
{
    struct world *w = *state;
    CLEANUP(buf_release) struct buf in = {0};
    CLEANUP(secret_freep) struct secret *key = NULL;
    uint8_t value[32], want[32];
    memset(value, 0x5a, sizeof value);
    OK(token_open(&w->t, &e));
    make_secret(&w->t, HSM_MASTER, 1, value, &(struct made){0});
    OK(token_reload(&w->t, &e));
    tenant_kek_input(&in);
    OK(ops_derive(&w->t, HSM_MASTER, 1, buf_bytes(&in), &key, &e));
    assert_non_null(HMAC(EVP_sha256(), value, sizeof value, in.p, in.n, want, NULL));
    assert_int_equal(secret_len(key), 32);
    assert_memory_equal(secret_borrow(key), want, 32);
    assert_non_null(strstr(w->t.objects.weaknesses, "master-1: imported"));
    assert_non_null(strstr(w->t.objects.weaknesses, "master-1: no stored known answer"));
}

static void test_derive_refuses(void **state)
{
    struct world *w = *state;
    struct secret *key = NULL;
    CLEANUP(buf_release) struct buf tenant = {0}, store = {0};
    uint8_t value[32] = {7};
    OK(token_open(&w->t, &e));
    make_secret(&w->t, HSM_MASTER, 1, value, &(struct made){0});
    make_secret(&w->t, HSM_SEAL, 1, value, &(struct made){0});
    OK(token_reload(&w->t, &e));
    tenant_kek_input(&tenant);
    store_key_input(&store);
    REFUSED(ERR_DENIED, "HSM_REFUSED", ops_derive(&w->t, HSM_MASTER, 1, BYTES_LIT("free text"), &key, &e));
    REFUSED(ERR_DENIED, "HSM_REFUSED", ops_derive(&w->t, HSM_MASTER, 1, buf_bytes(&store), &key, &e));
    REFUSED(ERR_DENIED, "HSM_REFUSED", ops_derive(&w->t, HSM_SEAL, 1, buf_bytes(&tenant), &key, &e));
    REFUSED(ERR_DENIED, "HSM_REFUSED", ops_derive(&w->t, HSM_AUDIT, 1, buf_bytes(&tenant), &key, &e));
    REFUSED(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_derive(&w->t, HSM_MASTER, 2, buf_bytes(&tenant), &key, &e));
    tenant.p[tenant.n - 1] ^= 1;
    REFUSED(ERR_DENIED, "HSM_REFUSED", ops_derive(&w->t, HSM_MASTER, 1, buf_bytes(&tenant), &key, &e));
    assert_null(key);
    OK(ops_derive(&w->t, HSM_SEAL, 1, buf_bytes(&store), &key, &e));
    secret_free(key);
}

static void weak(void **state, const struct made *how)
{
    struct world *w = *state;
    uint8_t value[32] = {9};
    OK(token_open(&w->t, &e));
    make_secret(&w->t, HSM_MASTER, 1, value, how);
    REFUSED(ERR_STATE, "HSM_OBJECT_WEAK", token_reload(&w->t, &e));
    assert_false(w->t.ready);
    assert_int_equal(w->t.objects.n, 0);
}

static void test_extractable_is_refused(void **state) { weak(state, &(struct made){.extractable = true}); }
static void test_derive_usage_is_refused(void **state) { weak(state, &(struct made){.derive = true}); }
static void test_wrap_usage_is_refused(void **state) { weak(state, &(struct made){.wrap = true}); }
static void test_modifiable_is_refused(void **state) { weak(state, &(struct made){.modifiable = true}); }

static void test_two_of_one_version(void **state)
{
    struct world *w = *state;
    uint8_t value[32] = {1};
    OK(token_open(&w->t, &e));
    make_secret(&w->t, HSM_MASTER, 1, value, &(struct made){0});
    OK(token_reload(&w->t, &e));
    make_secret(&w->t, HSM_MASTER, 1, value, &(struct made){0});
    REFUSED(ERR_STATE, "HSM_OBJECT_DOUBLE", token_reload(&w->t, &e));
}

static void test_foreign_id(void **state)
{
    struct world *w = *state;
    uint8_t value[32] = {1};
    OK(token_open(&w->t, &e));
    make_secret(&w->t, HSM_MASTER, 1, value, &(struct made){.id_bump = 1});
    REFUSED(ERR_STATE, "HSM_OBJECT_NAME", token_reload(&w->t, &e));
}

static void test_generate_and_overwrite(void **state)
{
    struct world *w = *state;
    CLEANUP(buf_release) struct buf in = {0};
    CLEANUP(secret_freep) struct secret *a = NULL, *b = NULL;
    OK(token_open(&w->t, &e));
    tenant_kek_input(&in);
    OK(ops_generate(&w->t, &verifier, HSM_MASTER, 1, &e));
    OK(ops_derive(&w->t, HSM_MASTER, 1, buf_bytes(&in), &a, &e));
    REFUSED(ERR_EXISTS, "HSM_OBJECT_EXISTS", ops_generate(&w->t, &verifier, HSM_MASTER, 1, &e));
    OK(ops_derive(&w->t, HSM_MASTER, 1, buf_bytes(&in), &b, &e));
    assert_true(secret_equal(a, b));
    assert_string_equal(w->t.objects.weaknesses, "");
    OK(ops_generate(&w->t, &verifier, HSM_MASTER, 2, &e));
    OK(ops_generate(&w->t, &verifier, HSM_SEAL, 1, &e));
    assert_int_equal(objects_newest(&w->t.objects, HSM_MASTER), 2);
    OK(ops_destroy(&w->t, HSM_MASTER, 1, &e));
    REFUSED(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_destroy(&w->t, HSM_MASTER, 1, &e));
    REFUSED(ERR_INVALID, "HSM_BAD_REQUEST", ops_generate(&w->t, &verifier, (enum hsm_object)9, 1, &e));
    secret_free(a);
    a = NULL;
    REFUSED(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_derive(&w->t, HSM_MASTER, 1, buf_bytes(&in), &a, &e));
}

/* A fresh process that cannot confirm the key: nothing stays behind. */
static void test_generate_without_confirmation(void **state)
{
    struct world *w = *state;
    struct verifier dead;
    OK(verifier_start(&dead, NULL, &e));
    assert_int_equal(kill(dead.pid, SIGKILL), 0);
    assert_int_equal(waitpid(dead.pid, NULL, 0), dead.pid);
    OK(token_open(&w->t, &e));
    REFUSED(ERR_UNAVAILABLE, "CHANNEL_CLOSED", ops_generate(&w->t, &dead, HSM_MASTER, 1, &e));
    assert_int_equal(close(dead.fd), 0);
    assert_int_equal(objects_newest(&w->t.objects, HSM_MASTER), 0);
    OK(ops_generate(&w->t, &verifier, HSM_MASTER, 1, &e));
}

/* The same name and attributes, other bytes inside: only the stored known answer can tell. */
static void test_exchanged_key_is_found(void **state)
{
    struct world *w = *state;
    const struct object *o;
    uint8_t value[32] = {4};
    OK(token_open(&w->t, &e));
    OK(ops_generate(&w->t, &verifier, HSM_SEAL, 1, &e));
    OK(objects_get(&w->t.objects, HSM_SEAL, CKO_SECRET_KEY, 1, &o, &e));
    assert_int_equal(w->t.m.f->C_DestroyObject(w->t.session, o->handle), CKR_OK);
    make_secret(&w->t, HSM_SEAL, 1, value, &(struct made){0});
    REFUSED(ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", token_reload(&w->t, &e));
    token_close(&w->t);
    REFUSED(ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", token_open(&w->t, &e));
}

static void test_sign_checkpoint(void **state)
{
    struct world *w = *state;
    static const char body[] = ORIGIN "\n12\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n";
    uint8_t sig[HSM_SIG_MAX], pub[HSM_PUBKEY_MAX];
    size_t n, pub_n;
    bool ed;
    OK(token_open(&w->t, &e));
    OK(ops_generate(&w->t, &verifier, HSM_AUDIT, 1, &e));
    OK(ops_sign_checkpoint(&w->t, 1, BYTES_LIT(ORIGIN "\n12\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"), sig, &n, &e));
    OK(ops_audit_pubkey(&w->t, 1, pub, &pub_n, &ed, &e));
    assert_true(ed);
    assert_int_equal(pub_n, 32);
    assert_int_equal(n, 64);
    EVP_PKEY *k = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, pub, pub_n);
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    assert_int_equal(EVP_DigestVerifyInit(c, NULL, NULL, NULL, k), 1);
    assert_int_equal(EVP_DigestVerify(c, sig, n, (const uint8_t *)body, sizeof body - 1), 1);
    sig[5] ^= 1;
    assert_int_not_equal(EVP_DigestVerify(c, sig, n, (const uint8_t *)body, sizeof body - 1), 1);
    OK(ops_sign_certificate(&w->t, 1, BYTES_LIT(CERTIFICATE), sig, &n, &e));
    assert_int_equal(EVP_DigestVerify(c, sig, n, (const uint8_t *)CERTIFICATE, sizeof CERTIFICATE - 1), 1);
    EVP_MD_CTX_free(c);
    EVP_PKEY_free(k);
    REFUSED(ERR_DENIED, "HSM_REFUSED", ops_sign_certificate(&w->t, 1, BYTES(body, sizeof body - 1), sig, &n, &e));
    REFUSED(ERR_DENIED, "HSM_REFUSED", ops_sign_checkpoint(&w->t, 1, BYTES_LIT(CERTIFICATE), sig, &n, &e));
    REFUSED(ERR_DENIED, "HSM_REFUSED", ops_sign_checkpoint(&w->t, 1, BYTES_LIT("other\n12\nAAAA\n"), sig, &n, &e));
    REFUSED(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_audit_pubkey(&w->t, 2, pub, &pub_n, &ed, &e));
}

/* A token without EdDSA gets a P-256 key, signed and given out as everybody reads it. */
static void test_sign_with_p256(void **state)
{
    struct world *w = *state;
    uint8_t sig[HSM_SIG_MAX], pub[HSM_PUBKEY_MAX];
    size_t n, pub_n;
    bool ed;
    OK(token_open(&w->t, &e));
    w->t.can.eddsa = false;
    OK(ops_generate(&w->t, &verifier, HSM_AUDIT, 1, &e));
    OK(ops_audit_pubkey(&w->t, 1, pub, &pub_n, &ed, &e));
    assert_false(ed);
    assert_int_equal(pub_n, 65);
    OK(ops_sign_checkpoint(&w->t, 1, BYTES_LIT(ORIGIN "\n12\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"), sig, &n, &e));
    assert_int_equal(sig[0], 0x30); /* ASN.1 SEQUENCE; ops checked it under the public key */
    OK(ops_sign_certificate(&w->t, 1, BYTES_LIT(CERTIFICATE), sig, &n, &e));
    assert_int_equal(sig[0], 0x30);
}

static void test_anchor(void **state)
{
    struct world *w = *state;
    uint8_t out[HSM_ANCHOR_MAX], big[HSM_ANCHOR_MAX + 1] = {0};
    size_t n;
    OK(token_open(&w->t, &e));
    REFUSED(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", ops_anchor_get(&w->t, out, &n, &e));
    for (unsigned char i = 1; i <= 5; i++) {
        OK(ops_anchor_put(&w->t, BYTES(&i, 1), &e));
        OK(ops_anchor_get(&w->t, out, &n, &e));
        assert_int_equal(n, 1);
        assert_int_equal(out[0], i);
    }
    OK(ops_anchor_put(&w->t, BYTES(big, HSM_ANCHOR_MAX), &e));
    REFUSED(ERR_INVALID, "HSM_BAD_REQUEST", ops_anchor_put(&w->t, BYTES(big, sizeof big), &e));
    token_close(&w->t);
    OK(token_open(&w->t, &e));
    OK(ops_anchor_get(&w->t, out, &n, &e));
    assert_int_equal(n, HSM_ANCHOR_MAX);
}

/* SoftHSM2 keeps what is destroyed: 0.9 KiB for each anchor, were its objects made anew each time. */
static void test_anchors_take_no_memory(void **state)
{
    struct world *w = *state;
    OK(token_open(&w->t, &e));
    for (unsigned char i = 0; i < 4; i++)
        OK(ops_anchor_put(&w->t, BYTES(&i, 1), &e));
    const size_t before = mallinfo2().uordblks; /* a sanitizer's malloc says 0, and nothing is shown there */
    for (uint32_t i = 0; i < 512; i++)
        OK(ops_anchor_put(&w->t, BYTES((uint8_t *)&i, sizeof i), &e));
    assert_in_range(mallinfo2().uordblks, 0, before + 32 * 1024);
}

static void spoil_anchor(struct token *t, char which)
{
    CK_OBJECT_CLASS class = CKO_DATA;
    CK_BBOOL yes = CK_TRUE;
    CK_OBJECT_HANDLE h;
    uint8_t rubbish[] = {1, 2, 3};
    char name[] = "claviger-anchor-a ";
    name[sizeof name - 3] = which;
    CK_ATTRIBUTE a[] = {{CKA_APPLICATION, name, sizeof name - 1}, {CKA_CLASS, &class, sizeof class}, {CKA_TOKEN, &yes, 1},
                        {CKA_PRIVATE, &yes, 1}, {CKA_VALUE, rubbish, sizeof rubbish}};
    size_t found;
    OK(object_find(&t->m, t->session, a, 1, &h, 1, &found, &e));
    assert_int_equal(found, 1);
    assert_int_equal(t->m.f->C_DestroyObject(t->session, h), CKR_OK);
    assert_int_equal(t->m.f->C_CreateObject(t->session, a, 5, &h), CKR_OK);
}

/* A write that was cut short leaves the anchor before it; two such writes are a loss, not "never written". */
static void test_torn_anchor(void **state)
{
    struct world *w = *state;
    uint8_t out[HSM_ANCHOR_MAX];
    size_t n;
    OK(token_open(&w->t, &e));
    OK(ops_anchor_put(&w->t, BYTES_LIT("one"), &e));
    OK(ops_anchor_put(&w->t, BYTES_LIT("two"), &e));
    OK(ops_anchor_put(&w->t, BYTES_LIT("three"), &e));
    spoil_anchor(&w->t, 'b'); /* the first went to b, so did the third */
    OK(ops_anchor_get(&w->t, out, &n, &e));
    assert_int_equal(n, 3);
    assert_memory_equal(out, "two", 3);
    spoil_anchor(&w->t, 'a');
    REFUSED(ERR_DATA_LOSS, "HSM_ANCHOR", ops_anchor_get(&w->t, out, &n, &e));
}

/* Every rung of the ladder, started by doing to the module what a fault would. */
static void test_recovery(void **state)
{
    struct world *w = *state;
    CLEANUP(buf_release) struct buf in = {0};
    uint8_t value[32] = {1};
    OK(token_open(&w->t, &e));
    make_secret(&w->t, HSM_SEAL, 1, value, &(struct made){0});
    OK(token_reload(&w->t, &e));
    store_key_input(&in);
    for (int rung = 0; rung < 3; rung++) {
        struct secret *key = NULL;
        static const CK_RV want[] = {CKR_OBJECT_HANDLE_INVALID, CKR_SESSION_HANDLE_INVALID, CKR_CRYPTOKI_NOT_INITIALIZED};
        if (rung == 0)
            w->t.objects.all[0].handle = 4711;
        if (rung == 1)
            assert_int_equal(w->t.m.f->C_CloseAllSessions(w->t.slot), CKR_OK);
        if (rung == 2)
            assert_int_equal(w->t.m.f->C_Finalize(NULL), CKR_OK);
        REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", ops_derive(&w->t, HSM_SEAL, 1, buf_bytes(&in), &key, &e));
        assert_int_equal(w->t.m.last_rv, want[rung]);
        OK(token_recover(&w->t, &e));
        OK(ops_derive(&w->t, HSM_SEAL, 1, buf_bytes(&in), &key, &e));
        secret_free(key);
    }
    assert_int_equal(w->t.reinitialised, 1);
}

#define TOKEN_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_free)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TOKEN_TEST(test_right_pin),
        TOKEN_TEST(test_wrong_pin_three_times),
        TOKEN_TEST(test_no_pin),
        TOKEN_TEST(test_token_absent_or_double),
        TOKEN_TEST(test_incomplete_token_is_refused),
        TOKEN_TEST(test_derive_is_hmac),
        TOKEN_TEST(test_derive_refuses),
        TOKEN_TEST(test_extractable_is_refused),
        TOKEN_TEST(test_derive_usage_is_refused),
        TOKEN_TEST(test_wrap_usage_is_refused),
        TOKEN_TEST(test_modifiable_is_refused),
        TOKEN_TEST(test_two_of_one_version),
        TOKEN_TEST(test_foreign_id),
        TOKEN_TEST(test_generate_and_overwrite),
        TOKEN_TEST(test_generate_without_confirmation),
        TOKEN_TEST(test_exchanged_key_is_found),
        TOKEN_TEST(test_sign_checkpoint),
        TOKEN_TEST(test_sign_with_p256),
        TOKEN_TEST(test_anchor),
        TOKEN_TEST(test_anchors_take_no_memory),
        TOKEN_TEST(test_torn_anchor),
        TOKEN_TEST(test_recovery),
    };
    if (!world_begin(32))
        return 2;
    world_end(cmocka_run_group_tests(tests, NULL, NULL));
}
