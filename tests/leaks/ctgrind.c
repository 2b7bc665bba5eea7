/*
 * Does time depend on a secret? Run under valgrind (the way of A. Langley's ctgrind): secrets are marked as undefined memory, and
 * valgrind reports every branch and every address that depends on one. The verdict of a comparison may be known, that is what it is
 * for: --wrap declares the answer of bytes_ct_equal defined. OpenSSL's own verdict over a GCM tag is passed over by ctgrind.supp.
 *
 * One line a case: "clean NAME N" or "control NAME N", N the reports while it ran. Controls are what must be reported: without
 * them silence would mean nothing. Exit 0: all ran; 2: not under valgrind.
 */
#include "kms/crypto/cipher.h"
#include "kms/crypto/hierarchy.h"
#include "kms/crypto/hmac.h"
#include "kms/crypto/kdf.h"
#include "vault/client/local.h"

#include <stdio.h>
#include <string.h>
#include <valgrind/memcheck.h>

bool __real_bytes_ct_equal(const void *a, const void *b, size_t n);
bool __wrap_bytes_ct_equal(const void *a, const void *b, size_t n);

bool __wrap_bytes_ct_equal(const void *a, const void *b, size_t n)
{
    bool same = __real_bytes_ct_equal(a, b, n);
    (void)VALGRIND_MAKE_MEM_DEFINED(&same, sizeof same);
    return same;
}

static void need(struct result r)
{
    INVARIANT(!r.failed);
}

static void hide(const void *p, size_t n)
{
    (void)VALGRIND_MAKE_MEM_UNDEFINED(p, n);
}

static void show(const void *p, size_t n)
{
    (void)VALGRIND_MAKE_MEM_DEFINED(p, n);
}

/* What was computed from a secret must still count as one: else a library has hidden it from valgrind, and silence means nothing. */
static void must_be_hidden(const uint8_t *p, size_t n)
{
    uint8_t bits[16];
    INVARIANT(n >= sizeof bits && VALGRIND_GET_VBITS(p, bits, sizeof bits) == 1);
    for (size_t i = 0; i < sizeof bits; i++)
        INVARIANT(bits[i] == 0xff);
}

/* 32 secret bytes, each of them i times something. */
static struct secret *hidden(uint8_t i)
{
    struct secret *s;
    struct err e;
    uint8_t bytes[SECRET_KEY_BYTES];
    for (size_t k = 0; k < sizeof bytes; k++)
        bytes[k] = (uint8_t)(i * (k + 3));
    need(secret_from(bytes, sizeof bytes, &s, &e));
    hide(secret_borrow(s), secret_len(s));
    return s;
}

static struct aead_key *hidden_key(uint8_t i)
{
    CLEANUP(secret_freep) struct secret *parent = hidden(i);
    struct aead_key *k;
    struct err e;
    struct bytes use = {0};
    need(aead_key_derive(parent, KDF_KEK_WRAP, &use, 1, 0, &k, &e));
    return k;
}

/* ---- what must be reported ----------------------------------------------------------------------------------------- */
static uint8_t left[32], right[32];

static void control_memcmp(void)
{
    hide(left, sizeof left);
    volatile int different = memcmp(left, right, sizeof left);
    (void)different;
}

static void control_branch(void)
{
    hide(left, sizeof left);
    if (left[7] & 1)
        right[0]++;
}

static void control_table(void)
{
    static const uint8_t box[256] = {1, 2, 3};
    hide(left, 1);
    volatile uint8_t looked_up = box[left[0]];
    (void)looked_up;
}

/* A real table of ours: right for what is public, wrong for a plaintext. */
static void control_crc_by_table(void)
{
    hide(left, sizeof left);
    volatile uint32_t crc = crc32c_extend_portable(0, BYTES(left, sizeof left));
    (void)crc;
}

/* What a careless compare of a tag in our own code would be: the message's commitment against the one that it should have. */
static void control_commitment(void)
{
    CLEANUP(secret_freep) struct secret *k = hidden(1);
    uint8_t mac[32];
    hmac_sha256(k, &BYTES_LIT("header and nonce"), 1, mac);
    volatile bool same = bytes_equal(BYTES(mac, sizeof mac), BYTES(right, sizeof right));
    (void)same;
}

/* ---- what must not ---------------------------------------------------------------------------------------------------- */
static void compare_equal(void)
{
    hide(left, sizeof left);
    memcpy(right, left, sizeof right);
    INVARIANT(bytes_ct_equal(left, right, sizeof left));
}

static void compare_first_and_last(void)
{
    for (size_t at = 0; at < sizeof left; at += sizeof left - 1) {
        memset(left, 7, sizeof left);
        memset(right, 7, sizeof right);
        right[at] ^= 0x80;
        hide(left, sizeof left);
        INVARIANT(!bytes_ct_equal(left, right, sizeof left));
    }
}

static void compare_secrets(void)
{
    CLEANUP(secret_freep) struct secret *a = hidden(1), *b = hidden(1), *c = hidden(2), *d = NULL;
    struct err e;
    INVARIANT(secret_equal(a, b) && !secret_equal(a, c));
    need(secret_dup(a, &d, &e)); /* and they are freed, with the check that nobody wrote past their end */
}

static void derive_and_mac(void)
{
    CLEANUP(secret_freep) struct secret *k = hidden(3), *out = NULL;
    struct err e;
    struct bytes use = BYTES_LIT("encrypt");
    need(kdf_derive(k, KDF_KEK_WRAP, &use, 1, &out, &e));
    uint8_t mac[32];
    hmac_sha256(k, &use, 1, mac);
    must_be_hidden(mac, sizeof mac);
    must_be_hidden(secret_borrow(out), secret_len(out));
}

static void seal(void)
{
    struct aead_key *k = hidden_key(4);
    uint8_t plain[100] = {0}, out[1 + sizeof plain + AEAD_OVERHEAD];
    hide(plain, sizeof plain);
    aead_seal(k, BYTES_LIT("h"), BYTES_LIT("aad"), BYTES(plain, sizeof plain), out);
    must_be_hidden(out + 1, AEAD_COMMIT_BYTES);
    must_be_hidden(out + sizeof out - AEAD_TAG_BYTES - sizeof plain, sizeof plain);
    must_be_hidden(out + sizeof out - AEAD_TAG_BYTES, AEAD_TAG_BYTES);
    aead_key_free(k);
}

/* Sealed under the key of 5, opened under the key of `under`, with bit `flip` of the message turned (-1: none). */
static bool opens(uint8_t under, long flip)
{
    struct aead_key *one = hidden_key(5), *two = hidden_key(under);
    struct err e;
    uint8_t plain[100] = {0}, sealed[1 + sizeof plain + AEAD_OVERHEAD], out[sizeof plain];
    aead_seal(one, BYTES_LIT("h"), BYTES_LIT("aad"), BYTES(plain, sizeof plain), sealed);
    show(sealed, sizeof sealed); /* it travels in the open */
    if (flip >= 0)
        sealed[flip / 8] ^= (uint8_t)(1 << flip % 8);
    bool good = !aead_open(two, 1, BYTES_LIT("aad"), BYTES(sealed, sizeof sealed), out, &e).failed;
    if (good)
        must_be_hidden(out, sizeof out);
    aead_key_free(one);
    aead_key_free(two);
    return good;
}

static void open_good(void) { INVARIANT(opens(5, -1)); }
static void open_under_another_key(void) { INVARIANT(!opens(6, -1)); }
static void open_with_another_commitment(void) { INVARIANT(!opens(5, 8) && !opens(5, 8 * 32 + 7)); }
static void open_with_another_tag(void) { INVARIANT(!opens(5, 8 * (1 + 100 + AEAD_OVERHEAD) - 1)); }

static const struct hierarchy_tenant tenant = {.tenant = {1}, .location = {(const uint8_t *)"eu", 2}, .master = 1};
static const struct hierarchy_ctx version = {.tenant = {1}, .location = {(const uint8_t *)"eu", 2}, .key = {(const uint8_t *)"k", 1},
                                             .version = 1, .kvid = {9}};

static void check_value(void)
{
    CLEANUP(secret_freep) struct secret *l1 = hidden(7), *flipped = hidden(8);
    struct err e;
    uint8_t stored[HIERARCHY_KCV_BYTES], now[HIERARCHY_KCV_BYTES];
    need(hierarchy_kcv(l1, stored, &e));
    must_be_hidden(stored, sizeof stored);
    show(stored, sizeof stored); /* lies in the store */
    need(hierarchy_kcv(l1, now, &e));
    INVARIANT(bytes_ct_equal(now, stored, sizeof now));
    need(hierarchy_kcv(flipped, now, &e));
    INVARIANT(!bytes_ct_equal(now, stored, sizeof now));
}

static void key_hierarchy(void)
{
    CLEANUP(secret_freep) struct secret *l1 = hidden(9), *l2 = hidden(10), *back = NULL, *none = NULL;
    struct aead_key *kek, *l3;
    struct err e;
    uint8_t wrapped[HIERARCHY_L2_WRAPPED_BYTES];
    need(hierarchy_kek(l1, &kek, &e));
    hierarchy_l2_wrap(kek, &tenant, &version, l2, wrapped);
    must_be_hidden(wrapped + sizeof wrapped - 16, 16);
    show(wrapped, sizeof wrapped);
    need(hierarchy_l2_unwrap(kek, &tenant, &version, BYTES(wrapped, sizeof wrapped), &back, &e));
    wrapped[sizeof wrapped - 1] ^= 1;
    INVARIANT(hierarchy_l2_unwrap(kek, &tenant, &version, BYTES(wrapped, sizeof wrapped), &none, &e).failed);
    need(hierarchy_purpose_key(back, &version, HIERARCHY_WRAP, (struct bytes){0}, &l3, &e));
    aead_key_free(l3);
    aead_key_free(kek);
}

/* Verified and returned on every call. By instruction; on a processor without it by a table, and then this case says so. */
static void checksum_of_plaintext(void)
{
    uint8_t plain[100] = {0};
    hide(plain, sizeof plain);
    uint32_t crc = crc32c(BYTES(plain, sizeof plain));
    uint32_t bits;
    INVARIANT(VALGRIND_GET_VBITS(&crc, &bits, sizeof bits) == 1 && bits == UINT32_MAX);
}

/* The client library's own envelope. */
static void client_envelope(void)
{
    CLEANUP(secret_freep) struct secret *key = hidden(11), *other = hidden(12);
    struct claviger_error e;
    struct local_parts p;
    uint8_t plain[64] = {0}, out[256], back[sizeof plain];
    size_t n = local_size(8, sizeof plain);
    INVARIANT(n <= sizeof out);
    hide(plain, sizeof plain);
    local_seal(key, BYTES_LIT("wrapped!"), BYTES_LIT("aad"), BYTES(plain, sizeof plain), &rng_system, out);
    must_be_hidden(out + n - 16, 16);
    show(out, n);
    need(local_parse(BYTES(out, n), &p, &e));
    need(local_open(key, &p, BYTES_LIT("aad"), back, &e));
    INVARIANT(local_open(other, &p, BYTES_LIT("aad"), back, &e).failed);
    out[n - 1] ^= 1;
    INVARIANT(local_open(key, &p, BYTES_LIT("aad"), back, &e).failed);
}

static const struct {
    const char *kind, *name;
    void (*run)(void);
} cases[] = {
#define CASE(kind, name) {#kind, #name, name}
    CASE(control, control_memcmp), CASE(control, control_branch), CASE(control, control_table), CASE(control, control_commitment),
    CASE(control, control_crc_by_table),
    CASE(clean, compare_equal), CASE(clean, compare_first_and_last), CASE(clean, compare_secrets), CASE(clean, derive_and_mac),
    CASE(clean, seal), CASE(clean, open_good), CASE(clean, open_under_another_key), CASE(clean, open_with_another_commitment),
    CASE(clean, open_with_another_tag), CASE(clean, check_value), CASE(clean, key_hierarchy), CASE(clean, client_envelope),
    CASE(clean, checksum_of_plaintext),
};

int main(void)
{
    struct err e;
    if (!RUNNING_ON_VALGRIND) {
        fputs("ctgrind: run me under valgrind: tests/leaks/test_constant_time.py\n", stderr);
        return 2;
    }
    need(cipher_memory_init(4, &e));
    need(secret_slab_init(64, &e));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const unsigned before = (unsigned)VALGRIND_COUNT_ERRORS;
        cases[i].run();
        show(left, sizeof left);
        show(right, sizeof right);
        printf("%s %s %u\n", cases[i].kind, cases[i].name, (unsigned)VALGRIND_COUNT_ERRORS - before);
        fflush(stdout);
    }
    return 0;
}
