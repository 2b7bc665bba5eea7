#include "kms/store/fresh.h"

#include "kms/crypto/hmac.h"
#include "kms/crypto/kdf.h"

#include <string.h>

struct entry_hash entry_hash_of(const struct fresh *f, enum rec_kind kind, const uint8_t tenant[16], struct bytes id)
{
    uint8_t head[2], mac[HMAC_BYTES];
    struct entry_hash h;
    put_be16(head, (uint16_t)kind);
    struct bytes parts[] = {BYTES(head, 2), BYTES(tenant, STORE_TENANT_BYTES), id}; /* only the last one's length varies */
    hmac_states_mac(secret_borrow(f->hash_states), parts, 3, mac);
    memcpy(h.b, mac, sizeof h.b);
    return h;
}

struct entry_hash entry_head(const struct fresh *f, enum rec_kind kind)
{
    static const uint8_t no_tenant[STORE_TENANT_BYTES];
    return entry_hash_of(f, kind, no_tenant, BYTES("", 0)); /* no row has an empty id */
}

/* Whether it is there, and the offset where it is or belongs. */
static bool locate(struct bytes entries, const struct entry_hash *h, size_t *ret_at)
{
    size_t low = 0, high = entries.n / ENTRY_BYTES;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (memcmp(entries.p + mid * ENTRY_BYTES, h->b, ENTRY_HASH_BYTES) < 0) /* an order, not a verdict */
            low = mid + 1;
        else
            high = mid;
    }
    *ret_at = low * ENTRY_BYTES;
    return *ret_at < entries.n && memcmp(entries.p + *ret_at, h->b, ENTRY_HASH_BYTES) == 0;
}

const uint8_t *bucket_find(struct bytes entries, const struct entry_hash *h)
{
    size_t at;
    return locate(entries, h, &at) ? entries.p + at : NULL;
}

uint8_t *bucket_put(struct buf *b, const struct entry_hash *h)
{
    size_t at, before = b->n;
    if (locate(buf_bytes(b), h, &at))
        return b->p + at;
    uint8_t made[ENTRY_BYTES] = {0};
    memcpy(made, h->b, sizeof h->b);
    buf_put(b, made, sizeof made);
    memmove(b->p + at + ENTRY_BYTES, b->p + at, before - at);
    memcpy(b->p + at, made, sizeof made);
    return b->p + at;
}

void bucket_cut(struct buf *b, const struct entry_hash *h)
{
    size_t at;
    if (!locate(buf_bytes(b), h, &at))
        return;
    memmove(b->p + at, b->p + at + ENTRY_BYTES, b->n - at - ENTRY_BYTES);
    b->n -= ENTRY_BYTES;
}

void bucket_digest(uint32_t n, struct bytes entries, uint8_t out[TREE_DIGEST_BYTES])
{
    uint8_t head[5] = {0};
    put_be32(head + 1, n);
    struct bytes parts[] = {BYTES(head, sizeof head), entries};
    if (entries.n == 0)
        memset(out, 0, TREE_DIGEST_BYTES);
    else
        sha256(parts, 2, out);
}

bool bucket_well_formed(uint32_t n, struct bytes entries)
{
    if (entries.n == 0 || entries.n % ENTRY_BYTES != 0)
        return false;
    for (size_t at = 0; at < entries.n; at += ENTRY_BYTES) {
        if (get_be16(entries.p + at) != n)
            return false;
        if (at && memcmp(entries.p + at - ENTRY_BYTES, entries.p + at, ENTRY_HASH_BYTES) >= 0)
            return false;
    }
    return true;
}

/* Nonces are random, so the tag alone tells one sealing of a row from another. */
void tag_of(struct bytes sealed, uint8_t out[ENTRY_TAG_BYTES])
{
    memset(out, 0, ENTRY_TAG_BYTES);
    if (sealed.n >= ENTRY_TAG_BYTES)
        memcpy(out, sealed.p + sealed.n - ENTRY_TAG_BYTES, ENTRY_TAG_BYTES);
}
