/* Target functions: model_tenant_get, model_ring_get, model_key_get, model_version_get. A body that is accepted is written back
 * to the same bytes: nothing in it is passed over. The first byte picks the kind, the second is the row's plain state. */
#include "kms/keyring/model.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

union decoded {
    struct model_tenant tenant;
    struct keyring_ring ring;
    struct keyring_key key;
    struct keyring_version version;
};

static struct result get(unsigned kind, const struct record *r, struct arena *a, union decoded *m, struct err *e)
{
    switch (kind) {
    case 0:
        return model_tenant_get(r, &m->tenant, e);
    case 1:
        return model_ring_get(r, &m->ring, e);
    case 2:
        return model_key_get(r, a, &m->key, e);
    default:
        return model_version_get(r, &m->version, e);
    }
}

static void put(unsigned kind, const union decoded *m, struct buf *out)
{
    switch (kind) {
    case 0:
        model_tenant_put(&m->tenant, out);
        break;
    case 1:
        model_ring_put(&m->ring, out);
        break;
    case 2:
        model_key_put(&m->key, out);
        break;
    default:
        model_version_put(&m->version, out);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum rec_kind kinds[] = {REC_TENANT, REC_KEYRING, REC_CRYPTOKEY, REC_VERSION};
    CLEANUP(arena_release) struct arena a = {0};
    CLEANUP(buf_release) struct buf again = {0};
    union decoded m;
    struct err e = {0};
    if (size < 2)
        return 0;
    unsigned kind = data[0] % 4;
    struct record r = {.kind = kinds[kind], .state = data[1], .id = BYTES_LIT("acme"), .body = BYTES(data + 2, size - 2), .revision = 1};
    buf_init(&again, STORE_BODY_MAX);
    arena_init(&a, 65536);
    if (get(kind, &r, &a, &m, &e).failed) {
        INVARIANT(e.code == ERR_DATA_LOSS && strcmp(e.reason, "RECORD_MALFORMED") == 0);
        return 0;
    }
    put(kind, &m, &again);
    INVARIANT(bytes_equal(buf_bytes(&again), r.body));
    return 0;
}
