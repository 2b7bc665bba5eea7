/* The messages of docs/FORMATS.md section 9, made and opened with OpenSSL under keys that the test can see, by nothing that hsm/ or
 * kms/ has: what the stand-in token answers with (token_keys.h), and what the real one is held to (tests/unit/hsm/test_keys.c). */
#ifndef TESTS_UNIT_KMS_TOKEN_MESSAGE_H
#define TESTS_UNIT_KMS_TOKEN_MESSAGE_H

#include "base/rng.h"
#include "hsm/hsm.h"

#define ERR_STATE OPENSSL_ERR_STATE
#include <openssl/evp.h>
#include <openssl/hmac.h>
#undef ERR_STATE
#include <string.h>

struct stand_in_key {
    bool there, checked;
    uint8_t kvid[HSM_KVID_BYTES], aes[32], mac[32];
};

static inline void stand_in_head(uint8_t type, const uint8_t kvid[HSM_KVID_BYTES], uint8_t out[HSM_HEADER_BYTES])
{
    const uint8_t head[8] = {'C', 'L', 'V', type, 1};
    memset(out, 0, HSM_HEADER_BYTES);
    memcpy(out, head, sizeof head);
    memcpy(out + 8, kvid, HSM_KVID_BYTES);
}

static inline void stand_in_commit(const struct stand_in_key *k, const uint8_t *header, const uint8_t *nonce, const uint8_t *aad_hash,
                                   uint8_t out[HSM_COMMIT_BYTES])
{
    uint8_t in[4 + HSM_HEADER_BYTES + HSM_NONCE_BYTES + HSM_AAD_HASH_BYTES] = {0, 0, 0, HSM_HEADER_BYTES};
    memcpy(in + 4, header, HSM_HEADER_BYTES);
    memcpy(in + 44, nonce, HSM_NONCE_BYTES);
    memcpy(in + 56, aad_hash, HSM_AAD_HASH_BYTES);
    INVARIANT(HMAC(EVP_sha256(), k->mac, sizeof k->mac, in, sizeof in, out, NULL) != NULL);
}

static inline void stand_in_aad(const uint8_t *header, const uint8_t *commitment, const uint8_t *aad_hash, uint8_t out[108])
{
    memset(out, 0, 4);
    out[3] = HSM_HEADER_BYTES;
    memcpy(out + 4, header, HSM_HEADER_BYTES);
    memcpy(out + 44, commitment, HSM_COMMIT_BYTES);
    memcpy(out + 76, aad_hash, HSM_AAD_HASH_BYTES);
}

static inline void stand_in_seal(const struct stand_in_key *k, uint8_t type, const uint8_t *aad_hash, struct bytes plain, uint8_t *out)
{
    uint8_t aad[108];
    int n;
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    stand_in_head(type, k->kvid, out);
    rng_fill(&rng_system, out + 72, HSM_NONCE_BYTES);
    stand_in_commit(k, out, out + 72, aad_hash, out + 40);
    stand_in_aad(out, out + 40, aad_hash, aad);
    INVARIANT(c != NULL && EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, k->aes, out + 72) == 1 &&
              EVP_EncryptUpdate(c, NULL, &n, aad, sizeof aad) == 1);
    if (plain.n > 0)
        INVARIANT(EVP_EncryptUpdate(c, out + 84, &n, plain.p, (int)plain.n) == 1);
    INVARIANT(EVP_EncryptFinal_ex(c, out + 84 + plain.n, &n) == 1 &&
              EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, HSM_TAG_BYTES, out + 84 + plain.n) == 1);
    EVP_CIPHER_CTX_free(c);
}

static inline bool stand_in_open(const struct stand_in_key *k, uint8_t type, const uint8_t *aad_hash, struct bytes sealed, uint8_t *out)
{
    uint8_t header[HSM_HEADER_BYTES], commitment[HSM_COMMIT_BYTES], aad[108], rest[16];
    int n;
    stand_in_head(type, k->kvid, header);
    if (sealed.n < HSM_SEALED_OVERHEAD || memcmp(header, sealed.p, sizeof header) != 0)
        return false;
    const size_t plain_n = sealed.n - HSM_SEALED_OVERHEAD;
    stand_in_commit(k, header, sealed.p + 72, aad_hash, commitment);
    if (memcmp(commitment, sealed.p + 40, sizeof commitment) != 0)
        return false;
    stand_in_aad(header, commitment, aad_hash, aad);
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    bool good = c != NULL && EVP_DecryptInit_ex(c, EVP_aes_256_gcm(), NULL, k->aes, sealed.p + 72) == 1 &&
                EVP_DecryptUpdate(c, NULL, &n, aad, sizeof aad) == 1 &&
                (plain_n == 0 || EVP_DecryptUpdate(c, out, &n, sealed.p + 84, (int)plain_n) == 1) &&
                EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, HSM_TAG_BYTES, (void *)(uintptr_t)(sealed.p + 84 + plain_n)) == 1 &&
                EVP_DecryptFinal_ex(c, rest, &n) == 1;
    EVP_CIPHER_CTX_free(c);
    return good;
}

#endif
