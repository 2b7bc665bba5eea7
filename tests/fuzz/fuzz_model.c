/* Target functions: model_tenant_get, model_ring_get, model_key_get, model_version_get. A body that is accepted is written back
 * to the same bytes: nothing in it is passed over. The first byte picks the kind, the second is the row's plain state. Kinds from 4 on:
 * the rest makes a genuine record of kind - 4, which must be read, and then pairs (place, mask) damage its body. */
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

/* ---- a genuine one ---- */
static struct bytes text(struct reader *r, size_t least, size_t most)
{
    static const char filler[] = "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz";
    size_t n = least + reader_u8(r) % (most - least + 1);
    return BYTES(filler + reader_u8(r) % 2, n);
}

static void genuine(unsigned kind, struct reader *r, struct record *row, struct buf *out)
{
    static const char ring[] = "projects/acme/locations/eu/keyRings/pii";
    union decoded m = {0};
    struct label labels[3] = {{text(r, 1, 10), text(r, 0, 10)}, {BYTES_LIT("x1"), text(r, 0, 10)}, {BYTES_LIT("x2"), text(r, 0, 10)}};
    switch (kind) {
    case 0:
        memcpy(m.tenant.t.name, "acme", 5);
        memcpy(m.tenant.t.location, "eu", 3);
        memcpy(m.tenant.t.display_name, labels[0].value.p, labels[0].value.n);
        memset(m.tenant.t.id, reader_u8(r), sizeof m.tenant.t.id);
        m.tenant.t.created_ns = reader_u16(r);
        m.tenant.t.master_version = m.tenant.keks[0].master = reader_u8(r) + 1u;
        for (m.tenant.nkeks = 1; m.tenant.nkeks < MODEL_KEKS_MAX && reader_u8(r) % 2 == 1; m.tenant.nkeks++)
            m.tenant.keks[m.tenant.nkeks].master = m.tenant.t.master_version + m.tenant.nkeks;
        memset(m.tenant.salt, reader_u8(r), sizeof m.tenant.salt);
        row->state = m.tenant.t.state = TENANT_ACTIVE + reader_u8(r) % 4u;
        if (m.tenant.t.state >= TENANT_DELETED) {
            m.tenant.t.was = TENANT_ACTIVE + reader_u8(r) % 2u;
            m.tenant.t.purge_ns = m.tenant.t.deleted_ns = reader_u16(r) + 1;
            m.tenant.toll.keys = m.tenant.t.state == TENANT_PURGING ? reader_u16(r) : 0;
        }
        break;
    case 1:
        m.ring = (struct keyring_ring){.name = bytes_str(ring), .created_ns = reader_u16(r)};
        break;
    case 2:
        m.key = (struct keyring_key){.name = BYTES_LIT("projects/acme/locations/eu/keyRings/pii/cryptoKeys/email"), .created_ns = reader_u16(r),
                                     .newest = reader_u8(r), .rotation_period_s = reader_u16(r), .next_rotation_ns = reader_u16(r),
                                     .destroy_delay_s = reader_u16(r), .import_only = reader_u8(r) & 1, .labels = labels, .nlabels = reader_u8(r) % 4};
        m.key.primary = m.key.newest > 0 ? reader_u8(r) % (m.key.newest + 1u) : 0;
        break;
    default:
        m.version = (struct keyring_version){.name = BYTES_LIT("projects/acme/locations/eu/keyRings/pii/cryptoKeys/email/cryptoKeyVersions/1"), .n = 1,
                                             .state = (enum version_state)(1 + reader_u8(r) % 4), .created_ns = reader_u16(r),
                                             .generated_ns = reader_u16(r), .destroy_ns = reader_u16(r), .destroyed_ns = reader_u16(r),
                                             .master_version = 1, .wrapped = text(r, 0, 60)};
        row->state = m.version.state;
    }
    put(kind, &m, out);
}

static void check(unsigned kind, struct record *r)
{
    CLEANUP(arena_release) struct arena a = {0};
    CLEANUP(buf_release) struct buf again = {0};
    union decoded m;
    struct err e = {0};
    buf_init(&again, STORE_BODY_MAX);
    arena_init(&a, 65536);
    if (get(kind, r, &a, &m, &e).failed) {
        INVARIANT(e.code == ERR_DATA_LOSS && strcmp(e.reason, "RECORD_MALFORMED") == 0);
        return;
    }
    put(kind, &m, &again);
    INVARIANT(bytes_equal(buf_bytes(&again), r->body));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum rec_kind kinds[] = {REC_TENANT, REC_KEYRING, REC_CRYPTOKEY, REC_VERSION};
    CLEANUP(buf_release) struct buf body = {0};
    if (size < 2)
        return 0;
    unsigned kind = data[0] % 4;
    struct record r = {.kind = kinds[kind], .state = data[1], .id = BYTES_LIT("acme"), .body = BYTES(data + 2, size - 2), .revision = 1};
    if ((data[0] & 4) == 0) {
        check(kind, &r);
        return 0;
    }
    struct reader in = reader_of(r.body);
    buf_init(&body, STORE_BODY_MAX);
    genuine(kind, &in, &r, &body);
    r.body = buf_bytes(&body);
    check(kind, &r);
    for (; in.n >= 2; (void)reader_u16(&in))
        body.p[in.p[0] % body.n] ^= in.p[1];
    check(kind, &r);
    return 0;
}
