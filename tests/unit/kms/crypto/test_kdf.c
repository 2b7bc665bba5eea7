/* KBKDF against NIST, AWS-LC and the published label/context values; kdf_derive against an encoding written out by hand. */
#include "vectors.h"

#include "kms/crypto/kdf.h"

#include <jansson.h>

static void check_counter(const char *key_hex, struct bytes fixed, const char *out_hex)
{
    static struct hexed key, want;
    uint8_t got[64];
    unhex(key_hex, &key);
    unhex(out_hex, &want);
    assert_true(want.n <= sizeof got);
    struct secret *s = secret_of(hexed_bytes(&key));
    kdf_counter(s, fixed, got, want.n);
    assert_memory_equal(got, want.p, want.n);
    secret_free(s);
}

static void nist_counter_mode(void **state)
{
    (void)state;
    struct vector_file f = vector_open("kbkdf/nist-800-108-KBKDF-CTR.txt", "KDF/nist-800-108-KBKDF-CTR.txt",
                                       "nist-800-108-KBKDF-CTR.txt");
    char *rest = f.text, *line;
    const char *ki = NULL, *fixed = NULL;
    bool prf = false, before = false, r32 = false;
    size_t ran = 0;
    static struct hexed data;
    while ((line = next_line(&rest)) != NULL) {
        if (strncmp(line, "[PRF=", 5) == 0)
            prf = strcmp(line, "[PRF=HMAC_SHA256]") == 0;
        if (strncmp(line, "[CTRLOCATION=", 13) == 0)
            before = strcmp(line, "[CTRLOCATION=BEFORE_FIXED]") == 0;
        if (strncmp(line, "[RLEN=", 6) == 0)
            r32 = strcmp(line, "[RLEN=32_BITS]") == 0;
        if (value_of(line, "KI") != NULL)
            ki = value_of(line, "KI");
        if (value_of(line, "FixedInputData") != NULL)
            fixed = value_of(line, "FixedInputData");
        const char *ko = value_of(line, "KO");
        if (ko == NULL || !prf || !before || !r32)
            continue;
        unhex(fixed, &data);
        check_counter(ki, hexed_bytes(&data), ko);
        ran++;
    }
    assert_int_equal(ran, f.full ? 40 : 4);
    free(f.text);
}

static void aws_lc_counter_mode(void **state)
{
    (void)state;
    struct vector_file f = vector_open("kbkdf/aws-lc-kbkdf_counter.txt", NULL, "aws-lc-kbkdf_counter.txt");
    char *rest = f.text, *line;
    const char *hash = "", *secret = NULL, *info = NULL;
    size_t ran = 0;
    static struct hexed data;
    while ((line = next_line(&rest)) != NULL) {
        if (value_of(line, "HASH") != NULL)
            hash = value_of(line, "HASH");
        if (value_of(line, "SECRET") != NULL)
            secret = value_of(line, "SECRET");
        if (value_of(line, "INFO") != NULL)
            info = value_of(line, "INFO");
        const char *expect = value_of(line, "EXPECT");
        if (expect == NULL || strcmp(hash, "SHA-256") != 0)
            continue;
        unhex(info, &data);
        check_counter(secret, hexed_bytes(&data), expect);
        ran++;
    }
    assert_int_equal(ran, f.full ? 40 : 3);
    free(f.text);
}

static const char *text_of(const json_t *o, const char *name)
{
    const char *s = json_string_value(json_object_get(o, name));
    assert_non_null(s);
    return s;
}

static void published_label_and_context(void **state)
{
    (void)state;
    struct vector_file f = vector_open("kbkdf/structured-label-context.json", NULL, "structured-label-context.json");
    json_t *root = json_loads(f.text, 0, NULL), *t;
    size_t i;
    assert_non_null(root);
    json_array_foreach(json_object_get(root, "tests"), i, t) {
        static struct hexed part;
        CLEANUP(buf_release) struct buf fixed = {0};
        buf_init(&fixed, 1024);
        unhex(text_of(t, "label_hex"), &part);
        buf_put_bytes(&fixed, hexed_bytes(&part));
        buf_put_u8(&fixed, 0);
        unhex(text_of(t, "context_hex"), &part);
        buf_put_bytes(&fixed, hexed_bytes(&part));
        buf_put_u32(&fixed, (uint32_t)json_integer_value(json_object_get(t, "L_bits")));
        check_counter(text_of(t, "key_hex"), buf_bytes(&fixed), text_of(t, "output_hex"));
    }
    assert_int_equal(i, 7);
    json_decref(root);
    free(f.text);
}

static const uint8_t master[32] = "a master secret of thirty-two by";

/* The bytes that enter HMAC, written out: a change of the encoding is a change of every key there is. */
static void derive_is_hmac_of_the_encoding(void **state)
{
    (void)state;
    static const uint8_t encoding[] = "\0\0\0\1" "claviger.v1.store" "\0" "\0\6" "record" "\0\7" "encrypt" "\0\0\1";
    struct secret *key = secret_of(BYTES(master, 32)), *got = NULL;
    struct err e;
    struct bytes fields[] = {BYTES_LIT("record"), BYTES_LIT("encrypt")};
    uint8_t want[32];
    assert_false(kdf_derive(key, KDF_STORE, fields, 2, &got, &e).failed);
    assert_int_equal(secret_len(got), 32);
    hmac_sha256(key, (struct bytes[]){BYTES(encoding, sizeof encoding)}, 1, want); /* the literal's NUL ends L32 */
    assert_memory_equal(secret_borrow(got), want, 32);
    secret_free(got);

    /* Its twins: one bit of any field, of the label or of the key is another key. */
    struct secret *other = NULL;
    fields[0] = BYTES_LIT("recore");
    assert_false(kdf_derive(key, KDF_STORE, fields, 2, &other, &e).failed);
    assert_memory_not_equal(secret_borrow(other), want, 32);
    secret_free(other);
    fields[0] = BYTES_LIT("encrypt");
    assert_false(kdf_derive(key, KDF_AUDIT, fields, 1, &other, &e).failed);
    assert_memory_not_equal(secret_borrow(other), want, 32);
    secret_free(other);
    secret_borrow_mut(key)[31] ^= 1;
    fields[0] = BYTES_LIT("record");
    assert_false(kdf_derive(key, KDF_STORE, fields, 2, &other, &e).failed);
    assert_memory_not_equal(secret_borrow(other), want, 32);
    secret_free(other);
    secret_free(key);
}

static void derive_fails_when_the_slab_is_full(void **state)
{
    (void)state;
    struct secret *all[256], *key = secret_of(BYTES(master, 32)), *got = NULL;
    struct bytes fields[] = {BYTES_LIT("record"), BYTES_LIT("encrypt")};
    struct err e;
    size_t n = 0;
    while (n < 256 && !secret_new(32, &all[n], &e).failed)
        n++;
    assert_int_equal(n, 255);
    assert_int_equal(code_of(kdf_derive(key, KDF_STORE, fields, 2, &got, &e), &e), ERR_EXHAUSTED);
    assert_null(got);
    while (n > 0)
        secret_free(all[--n]);
    secret_free(key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nist_counter_mode),
        cmocka_unit_test(aws_lc_counter_mode),
        cmocka_unit_test(published_label_and_context),
        cmocka_unit_test(derive_is_hmac_of_the_encoding),
        cmocka_unit_test(derive_fails_when_the_slab_is_full),
    };
    return cmocka_run_group_tests(tests, slab_setup, slab_teardown);
}
