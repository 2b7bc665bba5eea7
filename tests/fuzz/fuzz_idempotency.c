/* Target function: idempotency_read. A record gives its answer back only for the request that made it: not for another digest,
 * not cut short, not with anything behind it.
 *
 * Input: u8 how, u8 length of the answer, the answer, then the body (how even: a genuine one with the rest put behind it). */
#include "vault/service/pipeline.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t digest[32] = "the digest of this very request";
    struct reader r = reader_of(BYTES(data, size));
    uint8_t how = reader_u8(&r), n = reader_u8(&r);
    struct bytes answer = reader_take(&r, n < r.n ? n : r.n), got = {0};
    struct err e = {0};
    CLEANUP(buf_release) struct buf body = {0};
    buf_init(&body, STORE_BODY_MAX);
    if (r.bad)
        return 0;
    if ((how & 1) == 0) {
        buf_put(&body, digest, sizeof digest);
        buf_put_v32(&body, answer);
        if (how & 2)
            body.p[how >> 2 & 31] ^= 1;
    }
    buf_put_bytes(&body, BYTES(r.p, r.n));
    bool refused = idempotency_read(buf_bytes(&body), digest, &got, &e).failed;
    if ((how & 1) == 0)
        INVARIANT(refused == (r.n > 0 || how & 2));
    if (refused) {
        INVARIANT(e.code == ERR_DATA_LOSS || (e.code == ERR_INVALID && strcmp(e.reason, "IDEMPOTENCY_KEY_REUSED") == 0));
        return 0;
    }
    INVARIANT(body.n == 36 + got.n && memcmp(body.p, digest, 32) == 0 && got.p == body.p + 36);
    INVARIANT((how & 1) != 0 || bytes_equal(got, answer));
    return 0;
}
