/* Target functions: usage_decode, usage_encode. A body that is accepted is written back to the same bytes: nothing in it is passed over. */
#include "kms/keyring/usage.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(arena_release) struct arena a = {0};
    CLEANUP(buf_release) struct buf again = {0};
    struct usage u;
    struct err e = {0};
    arena_init(&a, 65536);
    buf_init(&again, STORE_BODY_MAX);
    if (usage_decode(BYTES(data, size), &a, &u, &e).failed) {
        INVARIANT(e.code == ERR_DATA_LOSS && strcmp(e.reason, "RECORD_MALFORMED") == 0);
        return 0;
    }
    INVARIANT(u.ncallers <= USAGE_CALLERS_MAX);
    usage_encode(&u, &again);
    INVARIANT(bytes_equal(buf_bytes(&again), BYTES(data, size)));
    return 0;
}
