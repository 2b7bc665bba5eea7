/* Every derivation of the hierarchy: what names a key is bound to it, one field at a time; purposes do not open each other. */
#include "vectors.h"

#include "kms/crypto/hierarchy.h"
#include "kms/crypto/kdf.h"

static const char key_name[] = "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email";

static struct hierarchy_tenant tenant_of(void)
{
    struct hierarchy_tenant t = {.location = BYTES_LIT("eu"), .master = 1};
    memcpy(t.instance, "instance-16bytes", 16);
    memcpy(t.tenant, "tenant---16bytes", 16);
    return t;
}

static struct hierarchy_ctx ctx_of(void)
{
    struct hierarchy_ctx c = {.location = BYTES_LIT("eu"), .key = bytes_str(key_name), .version = 3};
    memcpy(c.tenant, "tenant---16bytes", 16);
    memcpy(c.kvid, "kvid-----16bytes", 16);
    return c;
}

static struct secret *secret_filled(uint8_t v)
{
    uint8_t p[32];
    memset(p, v, sizeof p);
    return secret_of(BYTES(p, sizeof p));
}

static struct aead_key *kek_of(uint8_t v)
{
    struct secret *l1 = secret_filled(v);
    struct aead_key *k = NULL;
    struct err e;
    assert_false(hierarchy_kek(l1, &k, &e).failed);
    secret_free(l1);
    return k;
}

static void l1_input_is_what_the_hsm_accepts(void **state)
{
    (void)state;
    static const uint8_t salt[32] = "a salt of exactly thirty-two byt";
    static const uint8_t want[] = "\0\0\0\1" "claviger.v1.tenant-kek\0" "\0\x10" "instance-16bytes" "\0\x10" "tenant---16bytes"
                                  "\0\2" "eu" "\0\x20" "a salt of exactly thirty-two byt" "\0\4" "\0\0\0\1" "\0\0\1";
    struct hierarchy_tenant t = tenant_of();
    enum kdf_label label;
    CLEANUP(buf_release) struct buf out = {0};
    buf_init(&out, KDFENC_MAX_BYTES);
    hierarchy_l1_input(&t, salt, &out);
    assert_int_equal(out.n, sizeof want); /* the literal's own NUL is the last byte of L32 = 256 */
    assert_memory_equal(out.p, want, out.n);
    assert_true(kdfenc_is_hsm_input(buf_bytes(&out), &label));
    assert_int_equal(label, KDF_TENANT_KEK);
    out.p[4] ^= 1;
    assert_false(kdfenc_is_hsm_input(buf_bytes(&out), &label));
}

static void check_value_tells_keys_apart(void **state)
{
    (void)state;
    uint8_t a[16], b[16], c[16], h[32];
    struct secret *l1 = secret_filled(1), *other = secret_filled(2);
    struct err e;
    assert_false(hierarchy_kcv(l1, a, &e).failed);
    assert_false(hierarchy_kcv(l1, b, &e).failed);
    assert_false(hierarchy_kcv(other, c, &e).failed);
    assert_memory_equal(a, b, 16);
    assert_memory_not_equal(a, c, 16);
    hmac_sha256(l1, (struct bytes[]){BYTES_LIT("\0\0\0\1" "claviger.v1.kek-kcv" "\0" "\0\0\1\0")}, 1, h);
    assert_memory_equal(a, h, 16);
    secret_free(l1);
    secret_free(other);
}

static enum err_code unwrap(uint8_t kek, const struct hierarchy_tenant *t, const struct hierarchy_ctx *c, struct bytes wrapped)
{
    struct aead_key *k = kek_of(kek);
    struct secret *got = NULL, *want = secret_filled(0x77);
    struct err e;
    enum err_code code = code_of(hierarchy_l2_unwrap(k, t, c, wrapped, &got, &e), &e);
    assert_int_equal(got != NULL, code == ERR_NONE);
    if (got != NULL)
        assert_true(secret_equal(got, want));
    secret_free(got);
    secret_free(want);
    aead_key_free(k);
    return code;
}

static void l2_unwraps_only_as_what_it_is(void **state)
{
    (void)state;
    struct hierarchy_tenant t = tenant_of();
    struct hierarchy_ctx c = ctx_of();
    struct aead_key *k = kek_of(1);
    struct secret *l2 = secret_filled(0x77);
    uint8_t w[HIERARCHY_L2_WRAPPED_BYTES + 1] = {0};
    hierarchy_l2_wrap(k, &t, &c, l2, w);
    struct bytes all = BYTES(w, HIERARCHY_L2_WRAPPED_BYTES);
    assert_memory_equal(w, "CLVK\1\0\0\0kvid-----16bytes", 24);
    assert_int_equal(unwrap(1, &t, &c, all), ERR_NONE);
    assert_int_equal(unwrap(2, &t, &c, all), ERR_CIPHERTEXT);

    /* Each thing that names it, changed alone. */
    for (int what = 0; what < 7; what++) {
        struct hierarchy_tenant t2 = t;
        struct hierarchy_ctx c2 = c;
        t2.instance[0] ^= what == 0;
        t2.tenant[15] ^= what == 1;
        c2.tenant[15] ^= what == 1;
        t2.location = c2.location = what == 2 ? BYTES_LIT("us") : t.location;
        c2.key.n -= what == 3;
        c2.version += what == 4;
        t2.master += what == 5;
        c2.kvid[0] ^= what == 6;
        assert_int_equal(unwrap(1, &t2, &c2, all), ERR_CIPHERTEXT);
    }
    for (size_t i = 0; i < all.n; i++) {
        w[i] ^= 1;
        assert_int_equal(unwrap(1, &t, &c, all), ERR_CIPHERTEXT);
        w[i] ^= 1;
    }
    for (size_t n = 0; n < all.n; n++)
        assert_int_equal(unwrap(1, &t, &c, BYTES(w, n)), ERR_CIPHERTEXT);
    assert_int_equal(unwrap(1, &t, &c, BYTES(w, all.n + 1)), ERR_CIPHERTEXT);
    static uint8_t longer[HIERARCHY_L2_WRAPPED_BYTES + 600]; /* which would not fit what L2 is opened into */
    memcpy(longer, w, all.n);
    for (size_t more = 1; more <= 600; more += 7)
        assert_int_equal(unwrap(1, &t, &c, BYTES(longer, all.n + more)), ERR_CIPHERTEXT);

    /* The aad of docs/FORMATS.md, written out: with it the envelope opens as any other. */
    CLEANUP(buf_release) struct buf aad = {0};
    struct err e;
    uint8_t back[HIERARCHY_L2_BYTES];
    buf_init(&aad, 512);
    buf_put_bytes(&aad, BYTES_LIT("l2v1" "instance-16bytes" "tenant---16bytes" "\0\2" "eu" "\0\x38"));
    buf_put_str(&aad, key_name);
    buf_put_bytes(&aad, BYTES_LIT("\0\0\0\3" "\0\0\0\1" "\0\0\0\1"));
    assert_int_equal(sizeof key_name - 1, 0x38);
    assert_int_equal(code_of(envelope_open(k, FORMAT_KEY_VERSION, c.kvid, buf_bytes(&aad), all, back, &e), &e), ERR_NONE);
    assert_memory_equal(back, secret_borrow(l2), sizeof back);
    secret_free(l2);
    aead_key_free(k);
}

static struct aead_key *purpose_key(const struct hierarchy_ctx *c, enum hierarchy_purpose p, struct bytes subject)
{
    struct secret *l2 = secret_filled(0x77);
    struct aead_key *k = NULL;
    struct err e;
    assert_false(hierarchy_purpose_key(l2, c, p, subject, &k, &e).failed);
    secret_free(l2);
    return k;
}

enum { TEXT = 20, SEALED = TEXT + FORMAT_OVERHEAD };
static const uint8_t text[TEXT] = "tax id 12 345 678 90";

static enum err_code open_as(struct aead_key *k, enum format_type type, const uint8_t kvid[16], struct bytes sealed)
{
    uint8_t out[SEALED];
    struct err e = {0};
    memset(out, 0x5a, sizeof out);
    enum err_code code = code_of(envelope_open(k, type, kvid, BYTES_LIT("aad1"), sealed, out, &e), &e);
    size_t n = sealed.n > FORMAT_OVERHEAD ? sealed.n - FORMAT_OVERHEAD : 0;
    for (size_t i = 0; code != ERR_NONE && i < n; i++)
        assert_int_equal(out[i], 0);
    if (code == ERR_NONE)
        assert_memory_equal(out, text, TEXT);
    return code;
}

static void an_envelope_opens_only_under_its_own_key(void **state)
{
    (void)state;
    struct hierarchy_ctx c = ctx_of();
    struct aead_key *k = purpose_key(&c, HIERARCHY_ENCRYPT, (struct bytes){0});
    uint8_t sealed[SEALED];
    struct bytes all = BYTES(sealed, SEALED);
    envelope_seal(k, FORMAT_ENCRYPTED, c.kvid, NULL, BYTES_LIT("aad1"), BYTES(text, TEXT), sealed);
    assert_memory_equal(sealed, "CLVE\1\0\0\0kvid-----16bytes\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 40);
    assert_int_equal(open_as(k, FORMAT_ENCRYPTED, c.kvid, all), ERR_NONE);
    assert_int_equal(open_as(k, FORMAT_WRAPPED_KEY, c.kvid, all), ERR_CIPHERTEXT);
    assert_int_equal(open_as(k, FORMAT_ENCRYPTED, (const uint8_t *)"kvid-----16byteS", all), ERR_CIPHERTEXT);
    aead_key_free(k);

    static const uint8_t salt[32] = "one person";
    for (int what = 0; what < 8; what++) {
        struct hierarchy_ctx c2 = ctx_of();
        c2.tenant[0] ^= what == 0;
        if (what == 1)
            c2.location = BYTES_LIT("eu1");
        c2.key.n -= what == 2;
        c2.version += what == 3;
        c2.kvid[15] ^= what == 4;
        struct aead_key *k2 = purpose_key(&c2, what == 5 ? HIERARCHY_WRAP : HIERARCHY_ENCRYPT,
                                          what == 6 ? BYTES(salt, 32) : (struct bytes){0});
        assert_int_equal(open_as(k2, FORMAT_ENCRYPTED, c.kvid, all), what == 7 ? ERR_NONE : ERR_CIPHERTEXT);
        aead_key_free(k2);
    }
}

static void every_changed_byte_of_an_envelope_is_refused(void **state)
{
    (void)state;
    struct hierarchy_ctx c = ctx_of();
    struct aead_key *k = purpose_key(&c, HIERARCHY_WRAP, (struct bytes){0});
    uint8_t sealed[SEALED];
    envelope_seal(k, FORMAT_WRAPPED_KEY, c.kvid, (const uint8_t *)"subject handle16", BYTES_LIT("aad1"), BYTES(text, TEXT),
                  sealed);
    assert_int_equal(open_as(k, FORMAT_WRAPPED_KEY, c.kvid, BYTES(sealed, SEALED)), ERR_NONE);
    for (size_t i = 0; i < SEALED; i++) {
        sealed[i] ^= 0x40;
        assert_int_equal(open_as(k, FORMAT_WRAPPED_KEY, c.kvid, BYTES(sealed, SEALED)), ERR_CIPHERTEXT);
        sealed[i] ^= 0x40;
    }
    for (size_t n = 0; n < SEALED; n++)
        assert_int_equal(open_as(k, FORMAT_WRAPPED_KEY, c.kvid, BYTES(sealed, n)), ERR_CIPHERTEXT);
    aead_key_free(k);
}

/* A subject's handle stands in the header, and is bound: zeros when there is none. */
static void the_header_has_the_subject(void **state)
{
    (void)state;
    struct aead_key *k = kek_of(3);
    static const uint8_t kvid[FORMAT_KVID_BYTES] = "kvid-----16byte", subject[FORMAT_SUBJECT_BYTES] = "subject--16byte", none[FORMAT_SUBJECT_BYTES];
    uint8_t sealed[FORMAT_OVERHEAD + 4], back[4];
    struct format_header h;
    struct err e;
    envelope_seal(k, FORMAT_ENCRYPTED, kvid, subject, (struct bytes){0}, BYTES_LIT("text"), sealed);
    assert_false(format_header_parse(BYTES(sealed, sizeof sealed), &h, &e).failed);
    assert_memory_equal(h.subject, subject, sizeof subject);
    assert_int_equal(code_of(envelope_open(k, FORMAT_ENCRYPTED, kvid, (struct bytes){0}, BYTES(sealed, sizeof sealed), back, &e), &e), ERR_NONE);
    memcpy(sealed + 24, none, sizeof none);
    assert_int_equal(code_of(envelope_open(k, FORMAT_ENCRYPTED, kvid, (struct bytes){0}, BYTES(sealed, sizeof sealed), back, &e), &e), ERR_CIPHERTEXT);
    envelope_seal(k, FORMAT_ENCRYPTED, kvid, NULL, (struct bytes){0}, BYTES_LIT("text"), sealed);
    assert_memory_equal(sealed + 24, none, sizeof none);
    aead_key_free(k);
}

/* No slot is left when one is needed: an error each time, and nothing is kept. */
static void a_full_slab_is_an_error(void **state)
{
    (void)state;
    struct hierarchy_tenant t = tenant_of();
    struct hierarchy_ctx c = ctx_of();
    struct secret *l1 = secret_filled(1), *l2 = secret_filled(2), *back = NULL, *all[256];
    struct aead_key *kek = kek_of(1);
    uint8_t wrapped[HIERARCHY_L2_WRAPPED_BYTES], kcv[HIERARCHY_KCV_BYTES];
    struct err e;
    size_t n = 0;
    hierarchy_l2_wrap(kek, &t, &c, l2, wrapped);
    while (n < 256 && !secret_new(32, &all[n], &e).failed)
        n++;
    size_t used = secret_stats().used;
    assert_int_equal(code_of(hierarchy_l2_unwrap(kek, &t, &c, BYTES(wrapped, sizeof wrapped), &back, &e), &e), ERR_EXHAUSTED);
    assert_null(back);
    assert_int_equal(code_of(hierarchy_kcv(l1, kcv, &e), &e), ERR_EXHAUSTED);
    assert_int_equal(secret_stats().used, used);
    while (n > 0)
        secret_free(all[--n]);
    assert_int_equal(code_of(hierarchy_l2_unwrap(kek, &t, &c, BYTES(wrapped, sizeof wrapped), &back, &e), &e), ERR_NONE);
    assert_int_equal(code_of(hierarchy_kcv(l1, kcv, &e), &e), ERR_NONE);
    secret_free(back);
    secret_free(l1);
    secret_free(l2);
    aead_key_free(kek);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(l1_input_is_what_the_hsm_accepts),
        cmocka_unit_test(check_value_tells_keys_apart),
        cmocka_unit_test(l2_unwraps_only_as_what_it_is),
        cmocka_unit_test(an_envelope_opens_only_under_its_own_key),
        cmocka_unit_test(every_changed_byte_of_an_envelope_is_refused),
        cmocka_unit_test(the_header_has_the_subject),
        cmocka_unit_test(a_full_slab_is_an_error),
    };
    return cmocka_run_group_tests(tests, slab_setup, slab_teardown);
}
