#include "base/kdfenc.h"

#include "tests/unit/base/testing.h"

static const uint8_t zeros[KDFENC_NAME_MAX + 1];
#define Z(n) BYTES(zeros, n)

static void test_exact_bytes(void **state)
{
    const struct bytes fields[] = {BYTES_LIT("0123456789abcdef"), BYTES_LIT("\0\0\0\7")};
    static const uint8_t want[] = "\0\0\0\1" "claviger.v1.store-key\0" "\0\x10" "0123456789abcdef" "\0\4\0\0\0\7" "\0\0\1";
    CLEANUP(buf_release) struct buf b;

    (void)state;
    buf_init(&b, KDFENC_MAX_BYTES);
    assert_true(kdfenc_build(KDF_STORE_KEY, fields, 2, &b));
    assert_int_equal(b.n, sizeof(want)); /* the literal's own NUL is the last byte of L32 = 256 */
    assert_memory_equal(b.p, want, sizeof(want));
}

static void test_lengths_are_the_labels(void **state)
{
    const struct bytes good[] = {Z(16), Z(16), Z(63), Z(32), Z(4)};
    CLEANUP(buf_release) struct buf b;

    (void)state;
    buf_init(&b, KDFENC_MAX_BYTES);
    assert_true(kdfenc_build(KDF_TENANT_KEK, good, 5, &b));
    for (size_t i = 0; i < 5; i++)
        for (int delta = -1; delta <= 1; delta += 2) {
            struct bytes bad[5];
            memcpy(bad, good, sizeof(good));
            if (i == 2 && delta < 0)
                bad[i].n = 0;
            else
                bad[i].n = (size_t)((int)bad[i].n + delta);
            buf_reset(&b);
            assert_false(kdfenc_build(KDF_TENANT_KEK, bad, 5, &b));
            assert_int_equal(b.n, 0);
        }
    assert_false(kdfenc_build(KDF_TENANT_KEK, good, 4, &b));
    assert_false(kdfenc_build(KDF_STORE_KEY, good, 5, &b));
    assert_false(kdfenc_build(KDF_LABEL_COUNT, good, 5, &b));
    assert_true(kdfenc_build(KDF_KEK_KCV, NULL, 0, &b));
}

static void test_longest_fits(void **state)
{
    const struct bytes fields[] = {Z(16), Z(63), Z(320), Z(4), Z(16), Z(32), Z(7), Z(32)};
    CLEANUP(buf_release) struct buf b;

    (void)state;
    buf_init(&b, KDFENC_MAX_BYTES);
    assert_true(kdfenc_build(KDF_PURPOSE, fields, 8, &b));
    buf_release(&b);
    buf_init(&b, 20);
    assert_false(kdfenc_build(KDF_PURPOSE, fields, 8, &b));
}

static void test_hsm_signs_only_its_labels(void **state)
{
    const struct bytes kek[] = {Z(16), Z(16), BYTES_LIT("eu"), Z(32), Z(4)}, nonce[] = {Z(32)}, use[] = {BYTES_LIT("encrypt")};
    const struct bytes store[] = {BYTES_LIT("record"), BYTES_LIT("encrypt")};
    CLEANUP(buf_release) struct buf b;
    enum kdf_label label = KDF_AUDIT;

    (void)state;
    buf_init(&b, KDFENC_MAX_BYTES);
    assert_true(kdfenc_build(KDF_TENANT_KEK, kek, 5, &b));
    assert_true(kdfenc_is_hsm_input(buf_bytes(&b), &label));
    assert_int_equal(label, KDF_TENANT_KEK);
    buf_reset(&b);
    assert_true(kdfenc_build(KDF_CHALLENGE, nonce, 1, &b));
    assert_true(kdfenc_is_hsm_input(buf_bytes(&b), NULL));
    buf_reset(&b);
    assert_true(kdfenc_build(KDF_KEK_WRAP, use, 1, &b)); /* a good encoding, but not the HSM's */
    label = KDF_AUDIT;
    assert_false(kdfenc_is_hsm_input(buf_bytes(&b), &label));
    buf_reset(&b);
    assert_true(kdfenc_build(KDF_STORE, store, 2, &b));
    assert_false(kdfenc_is_hsm_input(buf_bytes(&b), &label));
    assert_int_equal(label, KDF_AUDIT);
}

/* Any changed, missing or added byte outside the fields' contents is refused. */
static void test_tampered_encodings_are_refused(void **state)
{
    const struct bytes fields[] = {Z(16), Z(16), BYTES_LIT("eu"), Z(32), Z(4)};
    CLEANUP(buf_release) struct buf b;
    uint8_t t[KDFENC_MAX_BYTES];

    (void)state;
    buf_init(&b, KDFENC_MAX_BYTES);
    assert_true(kdfenc_build(KDF_TENANT_KEK, fields, 5, &b));
    size_t label_end = 4 + strlen(kdfenc_label_text(KDF_TENANT_KEK)) + 1;
    for (size_t n = 0; n < b.n; n++)
        assert_false(kdfenc_is_hsm_input(BYTES(b.p, n), NULL));
    memcpy(t, b.p, b.n);
    t[b.n] = 0;
    assert_false(kdfenc_is_hsm_input(BYTES(t, b.n + 1), NULL));
    for (size_t i = 0; i < b.n; i++) {
        bool content = i >= label_end + 2 && i < b.n - 4;
        t[i] ^= 0x40;
        if (!content)
            assert_false(kdfenc_is_hsm_input(BYTES(t, b.n), NULL));
        t[i] ^= 0x40;
    }
    assert_true(kdfenc_is_hsm_input(BYTES(t, b.n), NULL));
    /* The same, well made but for one field's length: nothing else is wrong with it. */
    static const size_t good[] = {16, 16, 2, 32, 4};
    for (size_t which = 0; which <= 5; which++)
        for (int less = 0; less < 2; less++) {
            buf_reset(&b);
            buf_put_u32(&b, 1);
            buf_put_bytes(&b, BYTES(kdfenc_label_text(KDF_TENANT_KEK), strlen(kdfenc_label_text(KDF_TENANT_KEK)) + 1));
            for (size_t i = 0; i < 5; i++)
                buf_put_v16(&b, Z(i != which ? good[i] : i == 2 ? (less ? 0 : 64) : good[i] + 1 - 2 * (size_t)less));
            buf_put_u32(&b, 256);
            assert_int_equal(kdfenc_is_hsm_input(buf_bytes(&b), NULL), which == 5);
        }
    buf_reset(&b);
    assert_true(kdfenc_build(KDF_TENANT_KEK, fields, 5, &b));
    static const uint8_t huge[KDFENC_MAX_BYTES + 1];
    assert_false(kdfenc_is_hsm_input(BYTES(huge, sizeof huge), NULL));
    const size_t location = label_end + 2 + 16 + 2 + 16, salt = location + 2 + 2;
    const struct {
        size_t at;
        uint16_t n;
    } lengths[] = {{label_end, 0xffff}, {label_end, 15}, {location, 0}, {location, 64}, {salt, 31}, {salt, 33}};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) { /* past the end, below and above what the label allows */
        memcpy(t, b.p, b.n);
        t[lengths[i].at] = (uint8_t)(lengths[i].n >> 8);
        t[lengths[i].at + 1] = (uint8_t)lengths[i].n;
        assert_false(kdfenc_is_hsm_input(BYTES(t, b.n), NULL));
    }
    assert_string_equal(kdfenc_label_text(KDF_LABEL_COUNT), "?");
}

/* Whoever chooses the fields chooses nothing else: two different lists never have one encoding, whatever bytes and lengths they
 * hold, and an encoding tells its label and its fields (docs/THREATS.md, incident 33). */
static void test_no_two_inputs_share_an_encoding(void **state)
{
    enum { N = 576, OF = 2 };
    static struct {
        uint8_t field[OF][5], n[OF], out[KDFENC_MAX_BYTES];
        size_t out_n;
    } t[N];
    size_t pairs = 0;

    (void)state;
    /* Two neighbours of varying length, full of bytes that look like lengths and ends of labels. */
    static const uint8_t bytes[] = {0x00, 0x01, 0x03, 'a'};
    for (size_t i = 0; i < N; i++) {
        size_t v = i;
        t[i].n[0] = (uint8_t)(1 + v % 3), v /= 3;
        t[i].n[1] = (uint8_t)(3 + v % 3), v /= 3;
        for (size_t f = 0; f < 2; f++)
            for (size_t k = 0; k < t[i].n[f]; k++)
                t[i].field[f][k] = bytes[(v >> (2 * ((f + k) % 3))) % 4];
        const struct bytes fields[] = {BYTES(t[i].field[0], t[i].n[0]), BYTES(t[i].field[1], t[i].n[1])};
        CLEANUP(buf_release) struct buf b;
        buf_init(&b, KDFENC_MAX_BYTES);
        assert_true(kdfenc_build(KDF_STORE, fields, 2, &b));
        memcpy(t[i].out, b.p, t[i].out_n = b.n);
    }
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < i; j++) {
            bool same_input = true;
            for (size_t f = 0; f < 2; f++)
                same_input = same_input && bytes_equal(BYTES(t[i].field[f], t[i].n[f]), BYTES(t[j].field[f], t[j].n[f]));
            assert_int_equal(bytes_equal(BYTES(t[i].out, t[i].out_n), BYTES(t[j].out, t[j].out_n)), same_input);
            pairs += !same_input;
        }
    assert_true(pairs > 50000);
    /* and no label begins another: one label's input is never another's */
    for (unsigned a = 0; a < KDF_LABEL_COUNT; a++)
        for (unsigned b = 0; b < KDF_LABEL_COUNT; b++)
            if (a != b)
                assert_int_not_equal(strcmp(kdfenc_label_text((enum kdf_label)a), kdfenc_label_text((enum kdf_label)b)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_bytes),
        cmocka_unit_test(test_lengths_are_the_labels),
        cmocka_unit_test(test_longest_fits),
        cmocka_unit_test(test_hsm_signs_only_its_labels),
        cmocka_unit_test(test_tampered_encodings_are_refused),
        cmocka_unit_test(test_no_two_inputs_share_an_encoding),
    };
    return cmocka_run_group_tests_name("kdfenc", tests, NULL, NULL);
}
