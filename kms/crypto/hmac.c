#include "kms/crypto/hmac.h"

#include "kms/crypto/kdf.h"

/* SHA256_* is deprecated in OpenSSL 3 in favour of EVP. EVP cannot start from a saved chaining value: it would run the two
 * key blocks again for each message and take a lock on the way. These are the same compiled functions, without that. */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#include <openssl/sha.h>
#include <string.h>

enum { BLOCK = SHA256_CBLOCK, STATE = 32 };

static void save_state(const uint8_t pad[BLOCK], uint8_t state[STATE])
{
    SHA256_CTX c;
    SHA256_Init(&c);
    SHA256_Update(&c, pad, BLOCK);
    memcpy(state, c.h, STATE);
    wipe(&c, sizeof c);
}

/* As if one block, the padded key, had just been taken in. */
static void load_state(SHA256_CTX *c, const uint8_t state[STATE])
{
    SHA256_Init(c);
    memcpy(c->h, state, STATE);
    c->Nl = BLOCK * 8;
}

void hmac_states_init(struct bytes key, uint8_t states[HMAC_STATES_BYTES])
{
    uint8_t k[BLOCK] = {0}, pad[BLOCK];
    if (key.n > BLOCK)
        sha256(&key, 1, k);
    else if (key.n > 0)
        memcpy(k, key.p, key.n);
    for (size_t i = 0; i < BLOCK; i++)
        pad[i] = k[i] ^ 0x36;
    save_state(pad, states);
    for (size_t i = 0; i < BLOCK; i++)
        pad[i] = k[i] ^ 0x5c;
    save_state(pad, states + STATE);
    wipe(k, sizeof k);
    wipe(pad, sizeof pad);
}

void hmac_states_mac(const uint8_t states[HMAC_STATES_BYTES], const struct bytes *parts, size_t nparts,
                     uint8_t out[HMAC_BYTES])
{
    SHA256_CTX c;
    uint8_t inner[HMAC_BYTES];
    load_state(&c, states);
    for (size_t i = 0; i < nparts; i++)
        SHA256_Update(&c, parts[i].p, parts[i].n);
    SHA256_Final(inner, &c);
    load_state(&c, states + STATE);
    SHA256_Update(&c, inner, sizeof inner);
    SHA256_Final(out, &c);
    wipe(&c, sizeof c);
    wipe(inner, sizeof inner);
}

void sha256(const struct bytes *parts, size_t nparts, uint8_t out[32])
{
    SHA256_CTX c;
    SHA256_Init(&c);
    for (size_t i = 0; i < nparts; i++)
        SHA256_Update(&c, parts[i].p, parts[i].n);
    SHA256_Final(out, &c);
    wipe(&c, sizeof c);
}

void hmac_sha256(const struct secret *key, const struct bytes *parts, size_t nparts, uint8_t out[32])
{
    uint8_t states[HMAC_STATES_BYTES];
    hmac_states_init(BYTES(secret_borrow(key), secret_len(key)), states);
    hmac_states_mac(states, parts, nparts, out);
    wipe(states, sizeof states);
}
