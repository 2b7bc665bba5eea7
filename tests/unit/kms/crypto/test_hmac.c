/* HMAC-SHA-256 from saved states against RFC 4231 and Wycheproof; truncated tags are not offered, so they are refused. */
#include "vectors.h"

#include "kms/crypto/hmac.h"
#include "kms/crypto/kdf.h"

#define ERR_STATE OPENSSL_ERR_STATE
#include <openssl/evp.h>
#include <openssl/hmac.h>
#undef ERR_STATE

#include <jansson.h>

static void rfc_4231(void **state)
{
    (void)state;
    struct vector_file f = vector_open("hmac/rfc-4231-sha256.txt", "HMAC/rfc-4231-sha256.txt", "rfc-4231-sha256.txt");
    char *rest = f.text, *line;
    const char *key_hex = NULL, *msg_hex = NULL;
    size_t ran = 0;
    static struct hexed key, msg, want;
    while ((line = next_line(&rest)) != NULL) {
        if (value_of(line, "Key") != NULL)
            key_hex = value_of(line, "Key");
        if (value_of(line, "Msg") != NULL)
            msg_hex = value_of(line, "Msg");
        if (value_of(line, "MD") == NULL)
            continue;
        unhex(key_hex, &key);
        unhex(msg_hex, &msg);
        unhex(value_of(line, "MD"), &want);
        uint8_t states[HMAC_STATES_BYTES], got[HMAC_BYTES];
        hmac_states_init(hexed_bytes(&key), states);
        /* Whole, and cut in two at every place: parts are concatenated, nothing else. */
        for (size_t cut = 0; cut <= msg.n; cut++) {
            struct bytes parts[] = {BYTES(msg.p, cut), BYTES(msg.p + cut, msg.n - cut)};
            hmac_states_mac(states, parts, 2, got);
            assert_memory_equal(got, want.p, want.n);
        }
        ran++;
    }
    assert_int_equal(ran, 6);
    free(f.text);
}

/* How every MAC of ours is checked: the full length, in constant time. */
static bool tag_accepted(const struct hexed *key, const struct hexed *msg, const struct hexed *tag)
{
    uint8_t got[HMAC_BYTES];
    struct secret *s = secret_of(hexed_bytes(key));
    hmac_sha256(s, (struct bytes[]){hexed_bytes(msg)}, 1, got);
    secret_free(s);
    return tag->n == sizeof got && bytes_ct_equal(got, tag->p, sizeof got);
}

static void wycheproof(void **state)
{
    (void)state;
    struct vector_file f = vector_open("wycheproof/hmac_sha256_test.json", NULL, "hmac_sha256_test.json");
    json_t *root = json_loads(f.text, 0, NULL), *g, *t;
    size_t i, j, accepted = 0, refused = 0, truncated = 0;
    static struct hexed key, msg, tag;
    assert_non_null(root);
    json_array_foreach(json_object_get(root, "testGroups"), i, g) {
        bool full_tag = json_integer_value(json_object_get(g, "tagSize")) == 256;
        json_array_foreach(json_object_get(g, "tests"), j, t) {
            unhex(json_string_value(json_object_get(t, "key")), &key);
            unhex(json_string_value(json_object_get(t, "msg")), &msg);
            unhex(json_string_value(json_object_get(t, "tag")), &tag);
            bool valid = strcmp(json_string_value(json_object_get(t, "result")), "valid") == 0;
            bool yes = tag_accepted(&key, &msg, &tag);
            assert_int_equal(yes, valid && full_tag);
            accepted += yes;
            refused += !yes && full_tag;
            truncated += !full_tag;
        }
    }
    assert_int_equal(accepted, f.full ? 33 : 9);
    assert_int_equal(refused, f.full ? 54 : 3);
    assert_int_equal(truncated, f.full ? 87 : 12);
    json_decref(root);
    free(f.text);
}

/* FIPS 180-4 example "abc", whole and in parts, and the empty message. */
static void sha256_values(void **state)
{
    (void)state;
    static const char abc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    static const char empty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    uint8_t got[32];
    char hex[65];
    sha256((struct bytes[]){BYTES_LIT("a"), {0}, BYTES_LIT("bc")}, 3, got);
    hex_encode(got, 32, hex);
    assert_string_equal(hex, abc);
    sha256(NULL, 0, got);
    hex_encode(got, 32, hex);
    assert_string_equal(hex, empty);
}

/* Published value of HMAC-SHA-256 with an empty key over an empty message (padded with zeros, it is a key like others). */
static void empty_key(void **state)
{
    (void)state;
    uint8_t states[HMAC_STATES_BYTES], got[32];
    char hex[65];
    hmac_states_init((struct bytes){0}, states);
    hmac_states_mac(states, NULL, 0, got);
    hex_encode(got, 32, hex);
    assert_string_equal(hex, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

/* Keys of every length around the block, against OpenSSL's own. */
static void every_length_of_key(void **state)
{
    (void)state;
    uint8_t key[200], states[HMAC_STATES_BYTES], got[32], want[32];
    struct bytes text = BYTES_LIT("text");
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (uint8_t)(i * 7 + 1);
    for (size_t n = 1; n <= sizeof key; n++) {
        unsigned len = sizeof want;
        assert_non_null(HMAC(EVP_sha256(), key, (int)n, text.p, text.n, want, &len));
        hmac_states_init(BYTES(key, n), states);
        hmac_states_mac(states, &text, 1, got);
        assert_memory_equal(got, want, 32);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rfc_4231),
        cmocka_unit_test(empty_key),
        cmocka_unit_test(every_length_of_key),
        cmocka_unit_test(wycheproof),
        cmocka_unit_test(sha256_values),
    };
    return cmocka_run_group_tests(tests, slab_setup, slab_teardown);
}
