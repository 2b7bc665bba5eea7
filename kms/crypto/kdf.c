#include "kms/crypto/kdf.h"

#include "kms/crypto/hmac.h"

#include <string.h>

enum { COUNTER_BYTES = 4, BLOCKS_MAX = 255 };

void kdf_counter(const struct secret *key, struct bytes fixed, uint8_t *out, size_t n)
{
    INVARIANT(n <= (size_t)BLOCKS_MAX * HMAC_BYTES);
    uint8_t states[HMAC_STATES_BYTES], counter[COUNTER_BYTES], block[HMAC_BYTES];
    hmac_states_init(BYTES(secret_borrow(key), secret_len(key)), states);
    for (uint32_t i = 1; n > 0; i++) {
        size_t take = n < sizeof block ? n : sizeof block;
        put_be32(counter, i);
        hmac_states_mac(states, (struct bytes[]){BYTES(counter, sizeof counter), fixed}, 2, block);
        memcpy(out, block, take);
        out += take;
        n -= take;
    }
    wipe(states, sizeof states);
    wipe(block, sizeof block);
}

RESULT kdf_derive(const struct secret *key, enum kdf_label label, const struct bytes *fields, size_t nfields,
                  struct secret **ret, struct err *e)
{
    CLEANUP(buf_release) struct buf enc = {0};
    buf_init(&enc, KDFENC_MAX_BYTES);
    INVARIANT(kdfenc_build(label, fields, nfields, &enc));
    /* One encoding, built in one place for the HSM and for us: it holds the counter, always 1, which kdf_counter writes. */
    INVARIANT(!enc.overflow && enc.n > COUNTER_BYTES && get_be32(enc.p) == 1);

    CLEANUP(secret_freep) struct secret *s = NULL;
    TRY(secret_new(SECRET_KEY_BYTES, &s, e));
    kdf_counter(key, BYTES(enc.p + COUNTER_BYTES, enc.n - COUNTER_BYTES), secret_borrow_mut(s), SECRET_KEY_BYTES);
    *ret = s;
    s = NULL;
    return ok();
}
