/* XAES-256-GCM against c2sp.org/XAES-256-GCM: both full vectors with their intermediate values, and the accumulated tests. */
#include "vectors.h"

#include "kms/crypto/aead.h"
#include "kms/crypto/cipher.h"
#include "kms/crypto/xaes.h"

#define ERR_STATE OPENSSL_ERR_STATE
#include <openssl/evp.h>
#undef ERR_STATE

struct vector {
    struct hexed k, n, l, k1, m1, m2, kx, nx, plain, aad, ct;
};

/* "    Name: value", the value in hex or as a quoted string. */
static bool field(const char *line, const char *name, struct hexed *out)
{
    while (*line == ' ')
        line++;
    size_t n = strlen(name);
    if (strncmp(line, name, n) != 0 || line[n] != ':')
        return false;
    line += n + 2;
    if (*line != '"') {
        unhex(line, out);
        return true;
    }
    out->n = strlen(line) - 2;
    memcpy(out->p, line + 1, out->n);
    return true;
}

static void check(const struct vector *v)
{
    uint8_t l[32] = {0}, k1[16], kx[32], out[256], back[256];
    assert_int_equal(v->k.n, 32);
    assert_int_equal(v->n.n, 24);
    cipher_aes256_blocks(v->k.p, l, l);
    assert_memory_equal(l, v->l.p, 16);
    xaes_k1(v->k.p, k1);
    assert_memory_equal(k1, v->k1.p, 16);
    /* M1 and M2 are not kept apart in the code: Kx is what they lead to, and they lead there only as published. */
    uint8_t m[32];
    for (size_t i = 0; i < 16; i++)
        m[i] = v->m1.p[i] ^ k1[i], m[16 + i] = v->m2.p[i] ^ k1[i];
    cipher_aes256_blocks(v->k.p, m, m);
    assert_memory_equal(m, v->kx.p, 32);
    xaes_kx(v->k.p, k1, v->n.p, kx);
    assert_memory_equal(kx, v->kx.p, 32);
    assert_memory_equal(v->n.p + 12, v->nx.p, 12);
    xaes_seal(v->k.p, v->n.p, hexed_bytes(&v->aad), hexed_bytes(&v->plain), out);
    assert_memory_equal(out, v->ct.p, v->ct.n);
    assert_true(xaes_open(v->k.p, v->n.p, hexed_bytes(&v->aad), hexed_bytes(&v->ct), back));
    assert_memory_equal(back, v->plain.p, v->plain.n);
    for (size_t i = 0; i < v->ct.n; i++) {
        memcpy(out, v->ct.p, v->ct.n);
        out[i] ^= 0x80;
        assert_false(xaes_open(v->k.p, v->n.p, hexed_bytes(&v->aad), BYTES(out, v->ct.n), back));
    }
}

static void full_vectors(void **state)
{
    (void)state;
    struct vector_file f = vector_open("xaes-256-gcm/test-vectors.txt", NULL, "xaes-256-gcm.txt");
    static struct vector v;
    char *rest = f.text, *line;
    size_t ran = 0;
    while ((line = next_line(&rest)) != NULL) {
        if (field(line, "K", &v.k) || field(line, "N", &v.n) || field(line, "L", &v.l) || field(line, "K1", &v.k1) ||
            field(line, "M1", &v.m1) || field(line, "M2", &v.m2) || field(line, "Kₓ", &v.kx) || field(line, "Nₓ", &v.nx) ||
            field(line, "Plaintext", &v.plain) || field(line, "AAD", &v.aad))
            continue;
        if (!field(line, "Ciphertext", &v.ct))
            continue;
        check(&v);
        memset(&v, 0, sizeof v);
        ran++;
    }
    assert_int_equal(ran, 2);
    free(f.text);
}

static void shake128(uint8_t *out, size_t n)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    assert_int_equal(EVP_DigestInit_ex(c, EVP_shake128(), NULL), 1);
    assert_int_equal(EVP_DigestFinalXOF(c, out, n), 1);
    EVP_MD_CTX_free(c);
}

static void accumulate(size_t iterations, const char *want_hex)
{
    size_t n = iterations * 320; /* the mean is 313 bytes; the reader below says if it was not enough */
    uint8_t *stream = malloc(n), out[256 + 16], back[256], got[32];
    char hex[65];
    assert_non_null(stream);
    shake128(stream, n);
    assert_memory_equal(stream, "\x7f\x9c\x2b\xa4\xe8\x8f\x82\x7d", 8);
    struct reader r = reader_of(BYTES(stream, n));
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    assert_int_equal(EVP_DigestInit_ex(hash, EVP_shake128(), NULL), 1);
    for (size_t i = 0; i < iterations; i++) {
        struct bytes key = reader_take(&r, 32), nonce = reader_take(&r, 24);
        struct bytes plain = reader_take(&r, reader_u8(&r)), aad = reader_take(&r, reader_u8(&r));
        assert_false(r.bad);
        xaes_seal(key.p, nonce.p, aad, plain, out);
        assert_int_equal(EVP_DigestUpdate(hash, out, plain.n + 16), 1);
        assert_true(xaes_open(key.p, nonce.p, aad, BYTES(out, plain.n + 16), back));
        assert_memory_equal(back, plain.p, plain.n);
    }
    assert_int_equal(EVP_DigestFinalXOF(hash, got, sizeof got), 1);
    EVP_MD_CTX_free(hash);
    free(stream);
    hex_encode(got, sizeof got, hex);
    assert_string_equal(hex, want_hex);
}

static void accumulated_10_000(void **state)
{
    (void)state;
    accumulate(10000, "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939");
}

static void accumulated_1_000_000(void **state)
{
    (void)state;
    accumulate(1000000, "2163ae1445985a30b60585ee67daa55674df06901b890593e824b8a7c885ab15");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_vectors),
        cmocka_unit_test(accumulated_10_000),
    };
    const struct CMUnitTest longer[] = {cmocka_unit_test(accumulated_1_000_000)}; /* 320 MB, half a minute: on request */
    int failed = cmocka_run_group_tests(tests, slab_setup, slab_teardown);
    if (getenv("CLV_LONG") != NULL)
        failed += cmocka_run_group_tests(longer, slab_setup, slab_teardown);
    return failed;
}
