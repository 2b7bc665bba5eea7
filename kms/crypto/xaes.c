#include "kms/crypto/xaes.h"

#include "kms/crypto/aead.h"
#include "kms/crypto/cipher.h"

#include <string.h>

void xaes_k1(const uint8_t key[XAES_KEY_BYTES], uint8_t k1[XAES_K1_BYTES])
{
    uint8_t l[2 * XAES_K1_BYTES] = {0};
    cipher_aes256_blocks(key, l, l);
    /* Doubling in GF(2^128); the carry is spread to a mask, for L is secret. */
    uint8_t carry = (uint8_t)-(l[0] >> 7);
    for (size_t i = 0; i < XAES_K1_BYTES - 1; i++)
        k1[i] = (uint8_t)(l[i] << 1 | l[i + 1] >> 7);
    k1[XAES_K1_BYTES - 1] = (uint8_t)(l[XAES_K1_BYTES - 1] << 1 ^ (carry & 0x87));
    wipe(l, sizeof l);
}

void xaes_kx(const uint8_t key[XAES_KEY_BYTES], const uint8_t k1[XAES_K1_BYTES], const uint8_t nonce[XAES_NONCE_BYTES],
             uint8_t kx[XAES_KEY_BYTES])
{
    /* M1 and M2 are one block each: counter, label 'X', 0x00, and the nonce as context. */
    uint8_t m[2 * XAES_K1_BYTES] = {[1] = 1, [2] = 'X', [17] = 2, [18] = 'X'};
    memcpy(m + 4, nonce, XAES_PREFIX_BYTES);
    memcpy(m + 20, nonce, XAES_PREFIX_BYTES);
    for (size_t i = 0; i < sizeof m; i++)
        m[i] ^= k1[i % XAES_K1_BYTES];
    cipher_aes256_blocks(key, m, kx);
    wipe(m, sizeof m);
}

void xaes_seal(const uint8_t key[32], const uint8_t nonce[24], struct bytes aad, struct bytes plain, uint8_t *out)
{
    uint8_t k1[XAES_K1_BYTES], kx[XAES_KEY_BYTES];
    xaes_k1(key, k1);
    xaes_kx(key, k1, nonce, kx);
    cipher_gcm_seal(kx, nonce + XAES_PREFIX_BYTES, aad, plain, out);
    wipe(k1, sizeof k1);
    wipe(kx, sizeof kx);
}

bool xaes_open(const uint8_t key[32], const uint8_t nonce[24], struct bytes aad, struct bytes sealed, uint8_t *out)
{
    uint8_t k1[XAES_K1_BYTES], kx[XAES_KEY_BYTES];
    xaes_k1(key, k1);
    xaes_kx(key, k1, nonce, kx);
    bool good = cipher_gcm_open(kx, nonce + XAES_PREFIX_BYTES, aad, sealed, out);
    wipe(k1, sizeof k1);
    wipe(kx, sizeof kx);
    return good;
}
