#include "kms/crypto/format.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t magic[3] = {'C', 'L', 'V'};
enum { RESERVED_BYTES = 3 };

void format_header_put(const struct format_header *h, uint8_t out[FORMAT_HEADER_BYTES])
{
    memcpy(out, magic, sizeof magic);
    out[3] = (uint8_t)h->type;
    out[4] = FORMAT_VERSION;
    memset(out + 5, 0, RESERVED_BYTES);
    memcpy(out + 8, h->kvid, FORMAT_KVID_BYTES);
    memcpy(out + 24, h->subject, FORMAT_SUBJECT_BYTES);
}

static bool on_token(uint8_t t)
{
    return t == FORMAT_TOKEN_ENCRYPTED || t == FORMAT_TOKEN_WRAPPED_KEY || t == FORMAT_TOKEN_CHECK;
}

static bool type_known(uint8_t t)
{
    return t == FORMAT_ENCRYPTED || t == FORMAT_WRAPPED_KEY || t == FORMAT_KEY_VERSION || on_token(t);
}

size_t format_overhead(enum format_type t)
{
    return on_token((uint8_t)t) ? FORMAT_TOKEN_OVERHEAD : FORMAT_OVERHEAD;
}

RESULT format_header_parse(struct bytes untrusted_sealed, struct format_header *ret, struct err *e)
{
    if (untrusted_sealed.n < FORMAT_TOKEN_OVERHEAD)
        FAIL(e, ERR_CIPHERTEXT, NULL, "shorter than an empty message");
    struct reader r = reader_of(untrusted_sealed);
    struct bytes m = reader_take(&r, sizeof magic);
    uint8_t type = reader_u8(&r), version = reader_u8(&r);
    struct bytes reserved = reader_take(&r, RESERVED_BYTES);
    struct format_header h = {0};
    reader_copy(&r, h.kvid, sizeof h.kvid);
    reader_copy(&r, h.subject, sizeof h.subject);
    bool known = bytes_equal(m, BYTES(magic, sizeof magic)) && type_known(type) && version == FORMAT_VERSION &&
                 bytes_equal(reserved, BYTES("\0\0\0", RESERVED_BYTES)) && untrusted_sealed.n >= format_overhead((enum format_type)type);
    INVARIANT(!r.bad); /* the length was looked at */
    if (!known)
        FAIL(e, ERR_CIPHERTEXT, NULL, "the header is not of a known type and version");
    h.type = (enum format_type)type;
    *ret = h;
    return ok();
}

static int pair_compare(const void *a, const void *b)
{
    return bytes_compare(((const struct format_pair *)a)->key, ((const struct format_pair *)b)->key);
}

RESULT format_context_aad(const struct format_pair *pairs, size_t n, struct buf *out, struct err *e)
{
    if (n > FORMAT_CONTEXT_PAIRS_MAX)
        return err_field(e, "context", "has more than 32 pairs");
    struct format_pair sorted[FORMAT_CONTEXT_PAIRS_MAX];
    size_t total = 4 + 2;
    for (size_t i = 0; i < n; i++) {
        sorted[i] = pairs[i];
        if (pairs[i].key.n > FORMAT_CONTEXT_MAX_BYTES || pairs[i].value.n > FORMAT_CONTEXT_MAX_BYTES)
            return err_field(e, "context", "is longer than 8192 bytes");
        total += 4 + pairs[i].key.n + pairs[i].value.n;
    }
    if (total > FORMAT_CONTEXT_MAX_BYTES)
        return err_field(e, "context", "is longer than 8192 bytes");
    if (n > 1)
        qsort(sorted, n, sizeof sorted[0], pair_compare);
    for (size_t i = 0; i + 1 < n; i++)
        if (bytes_equal(sorted[i].key, sorted[i + 1].key))
            return err_field(e, "context", "names a key twice");
    buf_put_str(out, "ctx1");
    buf_put_u16(out, (uint16_t)n);
    for (size_t i = 0; i < n; i++) {
        buf_put_v16(out, sorted[i].key);
        buf_put_v16(out, sorted[i].value);
    }
    INVARIANT(!out->overflow);
    return ok();
}

void format_plain_aad(struct bytes aad, struct buf *out)
{
    buf_put_str(out, "aad1");
    buf_put_bytes(out, aad);
    INVARIANT(!out->overflow);
}
