/* Committing XAES: round trips; every changed byte and every cut refused and wiped; a ciphertext valid under two keys. */
#include "vectors.h"

#include "kms/crypto/aead.h"
#include "kms/crypto/aead_at.h"
#include "kms/crypto/cipher.h"
#include "kms/crypto/kdf.h"
#include "kms/crypto/xaes.h"

enum { HEADER = 40, PLAIN = 50, SEALED = HEADER + PLAIN + AEAD_OVERHEAD };
static const uint8_t header[HEADER] = "CLVE a header of forty bytes, more or l";
static const uint8_t plain[PLAIN] = "fifty bytes of plaintext, a tax id and an e-mail..";
static const struct bytes aad = {(const uint8_t *)"table=people", 12};

static struct aead_key *key_of(uint8_t seed)
{
    uint8_t parent[32];
    memset(parent, seed, sizeof parent);
    struct secret *s = secret_of(BYTES(parent, 32));
    struct bytes fields[] = {BYTES_LIT("record"), {0}};
    struct aead_key *k = NULL;
    struct err e;
    assert_false(aead_key_derive(s, KDF_STORE, fields, 2, 1, &k, &e).failed);
    secret_free(s);
    return k;
}

static void opens_what_it_sealed(void **state)
{
    (void)state;
    struct aead_key *k = key_of(1);
    static uint8_t in[70000], out[sizeof in + HEADER + AEAD_OVERHEAD], back[sizeof in];
    static const size_t lengths[] = {0, 1, 15, 16, 17, 64, 4096, 65535, 70000};
    struct err e;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        size_t n = lengths[i];
        memset(in, (int)i + 1, n);
        aead_seal(k, BYTES(header, HEADER), aad, BYTES(in, n), out);
        assert_memory_equal(out, header, HEADER);
        assert_false(aead_open(k, HEADER, aad, BYTES(out, HEADER + n + AEAD_OVERHEAD), n == 0 ? NULL : back, &e).failed);
        assert_memory_equal(back, in, n);
    }
    /* No header at all: a journal leaf has none. */
    aead_seal(k, BYTES(NULL, 0), (struct bytes){0}, BYTES(plain, PLAIN), out);
    assert_false(aead_open(k, 0, (struct bytes){0}, BYTES(out, PLAIN + AEAD_OVERHEAD), back, &e).failed);
    assert_memory_equal(back, plain, PLAIN);
    assert_int_equal(code_of(aead_open(k, 1, (struct bytes){0}, BYTES(out, PLAIN + AEAD_OVERHEAD), back, &e), &e), ERR_CIPHERTEXT);

    uint8_t again[SEALED];
    aead_seal(k, BYTES(header, HEADER), aad, BYTES(plain, PLAIN), out);
    aead_seal(k, BYTES(header, HEADER), aad, BYTES(plain, PLAIN), again);
    assert_memory_not_equal(out + HEADER + 32, again + HEADER + 32, 24); /* a nonce of its own each time */
    static uint8_t nonces[64][24];
    for (size_t i = 0; i < 64; i++) {
        aead_seal(k, BYTES(header, HEADER), aad, BYTES(plain, PLAIN), out);
        memcpy(nonces[i], out + HEADER + 32, 24);
        for (size_t j = 0; j < i; j++)
            assert_memory_not_equal(nonces[i], nonces[j], 24);
    }
    aead_key_free(k);
}

/* The construction, put together again from its parts. */
static void is_the_construction_on_the_page(void **state)
{
    (void)state;
    uint8_t parent[32], nonce[24], got[SEALED], want[SEALED], adata[4 + HEADER + 32 + 32];
    memset(parent, 1, sizeof parent);
    memset(nonce, 9, sizeof nonce);
    struct secret *s = secret_of(BYTES(parent, 32)), *enc = NULL, *com = NULL;
    struct err e;
    struct aead_key *k = key_of(1);
    struct bytes f[] = {BYTES_LIT("record"), BYTES_LIT("encrypt")};
    assert_false(kdf_derive(s, KDF_STORE, f, 2, &enc, &e).failed);
    f[1] = BYTES_LIT("commit");
    assert_false(kdf_derive(s, KDF_STORE, f, 2, &com, &e).failed);

    put_be32(adata, HEADER);
    memcpy(adata + 4, header, HEADER);
    sha256(&aad, 1, adata + 4 + HEADER + 32);
    hmac_sha256(com, (struct bytes[]){BYTES(adata, 4 + HEADER), BYTES(nonce, 24), BYTES(adata + 4 + HEADER + 32, 32)}, 3,
                adata + 4 + HEADER);
    memcpy(want, header, HEADER);
    memcpy(want + HEADER, adata + 4 + HEADER, 32);
    memcpy(want + HEADER + 32, nonce, 24);
    xaes_seal(secret_borrow(enc), nonce, BYTES(adata, sizeof adata), BYTES(plain, PLAIN), want + HEADER + 56);

    aead_seal_at(k, nonce, BYTES(header, HEADER), aad, BYTES(plain, PLAIN), got);
    assert_memory_equal(got, want, SEALED);
    secret_free(s);
    secret_free(enc);
    secret_free(com);
    aead_key_free(k);
}

static void refused_and_wiped(const struct aead_key *k, size_t header_n, struct bytes with, struct bytes sealed)
{
    uint8_t out[SEALED];
    struct err e = {0};
    memset(out, 0x5a, sizeof out);
    assert_int_equal(code_of(aead_open(k, header_n, with, sealed, out, &e), &e), ERR_CIPHERTEXT);
    assert_string_equal(e.detail, "not an intact message under this key"); /* one text for every cause */
    assert_null(e.hint);
    size_t n = sealed.n < header_n + AEAD_OVERHEAD ? 0 : sealed.n - header_n - AEAD_OVERHEAD;
    for (size_t i = 0; i < sizeof out; i++)
        assert_int_equal(out[i], i < n ? 0 : 0x5a);
}

static void every_changed_byte_is_refused(void **state)
{
    (void)state;
    struct aead_key *k = key_of(1);
    uint8_t sealed[SEALED];
    aead_seal(k, BYTES(header, HEADER), aad, BYTES(plain, PLAIN), sealed);
    for (size_t i = 0; i < SEALED; i++)
        for (unsigned bit = 1; bit < 256; bit <<= 1) {
            sealed[i] ^= (uint8_t)bit;
            refused_and_wiped(k, HEADER, aad, BYTES(sealed, SEALED));
            sealed[i] ^= (uint8_t)bit;
        }
    uint8_t back[PLAIN];
    struct err e;
    assert_false(aead_open(k, HEADER, aad, BYTES(sealed, SEALED), back, &e).failed); /* it was the flips */
    aead_key_free(k);
}

static void every_cut_and_every_other_context_is_refused(void **state)
{
    (void)state;
    struct aead_key *k = key_of(1), *other = key_of(2);
    uint8_t sealed[SEALED + 1] = {0};
    aead_seal(k, BYTES(header, HEADER), aad, BYTES(plain, PLAIN), sealed);
    for (size_t n = 0; n < SEALED; n++)
        refused_and_wiped(k, HEADER, aad, BYTES(sealed, n));
    refused_and_wiped(k, HEADER, aad, BYTES(sealed, SEALED + 1));
    refused_and_wiped(k, HEADER, BYTES(aad.p, aad.n - 1), BYTES(sealed, SEALED));
    refused_and_wiped(k, HEADER, (struct bytes){0}, BYTES(sealed, SEALED));
    refused_and_wiped(other, HEADER, aad, BYTES(sealed, SEALED));
    /* Where the header ends is bound too: the same bytes, cut elsewhere, are another message. */
    refused_and_wiped(k, HEADER - 1, aad, BYTES(sealed, SEALED));
    refused_and_wiped(k, HEADER + 1, aad, BYTES(sealed, SEALED));
    aead_key_free(k);
    aead_key_free(other);
}

/* ---- a ciphertext that is valid under two keys ------------------------------------------------------------------------- */

typedef struct {
    uint8_t b[16];
} block;

static block block_xor(block x, block y)
{
    for (size_t i = 0; i < 16; i++)
        x.b[i] ^= y.b[i];
    return x;
}

/* SP 800-38D section 6.3, bit by bit. */
static block block_mul(block x, block y)
{
    block z = {{0}};
    for (size_t i = 0; i < 128; i++) {
        if (x.b[i / 8] >> (7 - i % 8) & 1)
            z = block_xor(z, y);
        uint8_t low = y.b[15] & 1;
        for (size_t j = 15; j > 0; j--)
            y.b[j] = (uint8_t)(y.b[j] >> 1 | y.b[j - 1] << 7);
        y.b[0] = (uint8_t)(y.b[0] >> 1 ^ (low ? 0xe1 : 0));
    }
    return z;
}

static block block_inverse(block x)
{
    block r = {{0x80}}; /* one; x to the power 2^128 - 2 */
    for (size_t i = 0; i < 127; i++) {
        x = block_mul(x, x);
        r = block_mul(r, x);
    }
    return r;
}

struct gcm_of_key {
    block h, mask, aad; /* H, E(J0), GHASH state after the additional data */
};

static struct gcm_of_key gcm_of(const struct secret *key, const uint8_t nonce[24], struct bytes adata)
{
    struct gcm_of_key g = {0};
    uint8_t k1[16], kx[32], blocks[32] = {[31] = 1};
    memcpy(blocks + 16, nonce + 12, 12);
    xaes_k1(secret_borrow(key), k1);
    xaes_kx(secret_borrow(key), k1, nonce, kx);
    cipher_aes256_blocks(kx, blocks, blocks);
    memcpy(g.h.b, blocks, 16);
    memcpy(g.mask.b, blocks + 16, 16);
    for (size_t at = 0; at < adata.n; at += 16) {
        block part = {{0}};
        memcpy(part.b, adata.p + at, adata.n - at < 16 ? adata.n - at : 16);
        g.aad = block_mul(block_xor(g.aad, part), g.h);
    }
    return g;
}

static struct secret *encrypt_key_of(uint8_t seed)
{
    uint8_t parent[32];
    memset(parent, seed, sizeof parent);
    struct secret *s = secret_of(BYTES(parent, 32)), *k = NULL;
    struct err e;
    assert_false(kdf_derive(s, KDF_STORE, (struct bytes[]){BYTES_LIT("record"), BYTES_LIT("encrypt")}, 2, &k, &e).failed);
    secret_free(s);
    return k;
}

/* One ciphertext block B and a tag T that GCM accepts under both keys: T = (y + B) H^2 + L H + E(J0) for each, so that
 * B = (E1 + E2 + y1 H1^2 + y2 H2^2 + L (H1 + H2)) / (H1^2 + H2^2). */
static void forge(struct gcm_of_key one, struct gcm_of_key two, size_t adata_n, uint8_t out[32])
{
    block len = {{0}}, h1 = block_mul(one.h, one.h), h2 = block_mul(two.h, two.h);
    put_be64(len.b, adata_n * 8);
    put_be64(len.b + 8, 16 * 8);
    block sum = block_xor(block_xor(one.mask, two.mask), block_mul(len, block_xor(one.h, two.h)));
    sum = block_xor(sum, block_xor(block_mul(one.aad, h1), block_mul(two.aad, h2)));
    block b = block_mul(sum, block_inverse(block_xor(h1, h2)));
    block tag = block_mul(block_xor(one.aad, b), h1);
    tag = block_xor(block_xor(tag, block_mul(len, one.h)), one.mask);
    memcpy(out, b.b, 16);
    memcpy(out + 16, tag.b, 16);
}

static void a_two_key_ciphertext_is_refused(void **state)
{
    (void)state;
    enum { N = HEADER + 16 + AEAD_OVERHEAD };
    struct aead_key *k1 = key_of(1), *k2 = key_of(2);
    struct secret *e1 = encrypt_key_of(1), *e2 = encrypt_key_of(2);
    uint8_t nonce[24], sealed[N], adata[4 + HEADER + 32 + 32], back[16], back2[16];
    struct err e;
    memset(nonce, 3, sizeof nonce);
    /* The commitment does not depend on the plaintext: take a true one, of the first key. */
    aead_seal_at(k1, nonce, BYTES(header, HEADER), aad, BYTES(plain, 16), sealed);
    put_be32(adata, HEADER);
    memcpy(adata + 4, sealed, HEADER + 32);
    sha256(&aad, 1, adata + 4 + HEADER + 32);
    struct bytes ad = BYTES(adata, sizeof adata);
    forge(gcm_of(e1, nonce, ad), gcm_of(e2, nonce, ad), sizeof adata, sealed + HEADER + 56);

    /* XAES alone is fooled: both keys open it, to different plaintexts. */
    assert_true(xaes_open(secret_borrow(e1), nonce, ad, BYTES(sealed + HEADER + 56, 32), back));
    assert_true(xaes_open(secret_borrow(e2), nonce, ad, BYTES(sealed + HEADER + 56, 32), back2));
    assert_memory_not_equal(back, back2, 16);
    /* The commitment is not. */
    assert_false(aead_open(k1, HEADER, aad, BYTES(sealed, N), back, &e).failed);
    refused_and_wiped(k2, HEADER, aad, BYTES(sealed, N));
    secret_free(e1);
    secret_free(e2);
    aead_key_free(k1);
    aead_key_free(k2);
}

static void a_full_slab_is_an_error_and_leaks_nothing(void **state)
{
    (void)state;
    uint8_t parent[32] = {1};
    struct secret *s = secret_of(BYTES(parent, 32)), *all[256];
    struct bytes fields[] = {BYTES_LIT("record"), {0}};
    struct err e;
    size_t n = 0;
    while (n < 256 && !secret_new(32, &all[n], &e).failed)
        n++;
    /* It needs three slots while it works: fail at each of them. */
    for (size_t free_slots = 0; free_slots <= 3; free_slots++) {
        struct aead_key *k = NULL;
        size_t used = secret_stats().used;
        assert_int_equal(code_of(aead_key_derive(s, KDF_STORE, fields, 2, 1, &k, &e), &e),
                         free_slots < 3 ? ERR_EXHAUSTED : ERR_NONE);
        aead_key_freep(&k);
        assert_null(k);
        assert_int_equal(secret_stats().used, used);
        secret_free(all[--n]);
    }
    while (n > 0)
        secret_free(all[--n]);
    secret_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_what_it_sealed),
        cmocka_unit_test(is_the_construction_on_the_page),
        cmocka_unit_test(every_changed_byte_is_refused),
        cmocka_unit_test(every_cut_and_every_other_context_is_refused),
        cmocka_unit_test(a_two_key_ciphertext_is_refused),
        cmocka_unit_test(a_full_slab_is_an_error_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, slab_setup, slab_teardown);
}
