/* Target functions: format_header_parse, format_context_aad, aead_open.
 * Nothing but what was sealed opens: raw bytes never do, and a genuine ciphertext does not after any change. What is accepted as
 * a header is written back to the same bytes. The additional data of a context is the same in whatever order its pairs come. */
#include "kms/crypto/aead.h"
#include "kms/crypto/format.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PLAIN_MAX = 64, SEALED_MAX = FORMAT_OVERHEAD + PLAIN_MAX, PAIRS = FORMAT_CONTEXT_PAIRS_MAX + 2 };

static const struct aead_key *key(void)
{
    static struct aead_key *k;
    struct secret *parent;
    struct err e = {0};
    struct bytes fields[] = {BYTES_LIT("fuzz"), {0}};
    static const uint8_t bytes[32] = "a key that protects nothing ....";
    if (k != NULL)
        return k;
    INVARIANT(!secret_slab_init(16, &e).failed && !secret_from(bytes, sizeof bytes, &parent, &e).failed);
    INVARIANT(!aead_key_derive(parent, KDF_STORE, fields, 2, 1, &k, &e).failed);
    secret_free(parent);
    return k;
}

static void check_header(struct bytes in)
{
    struct format_header h;
    struct err e = {0};
    uint8_t again[FORMAT_HEADER_BYTES];
    if (format_header_parse(in, &h, &e).failed) {
        INVARIANT(e.code == ERR_CIPHERTEXT);
        return;
    }
    format_header_put(&h, again);
    INVARIANT(in.n >= sizeof again && memcmp(again, in.p, sizeof again) == 0);
}

static void check_forgery(struct bytes in)
{
    uint8_t out[1 << 12];
    struct err e = {0};
    if (in.n < sizeof out)
        INVARIANT(aead_open(key(), FORMAT_HEADER_BYTES, BYTES_LIT("aad"), in, out, &e).failed && e.code == ERR_CIPHERTEXT);
}

/* Pairs of (place, mask) applied to a genuine one; the first byte is the plaintext's length, the second cuts the end. */
static void check_damage(struct bytes in)
{
    uint8_t sealed[SEALED_MAX], damaged[SEALED_MAX], out[PLAIN_MAX], plain[PLAIN_MAX] = {0};
    struct format_header h = {.type = FORMAT_ENCRYPTED};
    struct err e = {0};
    uint8_t header[FORMAT_HEADER_BYTES];
    if (in.n < 2)
        return;
    size_t plain_n = in.p[0] % PLAIN_MAX, n = FORMAT_OVERHEAD + plain_n, kept = n - in.p[1] % n;
    format_header_put(&h, header);
    aead_seal(key(), BYTES(header, sizeof header), BYTES_LIT("aad"), BYTES(plain, plain_n), sealed);
    memcpy(damaged, sealed, n);
    for (size_t i = 2; i + 1 < in.n; i += 2)
        damaged[in.p[i] % n] ^= in.p[i + 1];
    bool same = kept == n && memcmp(sealed, damaged, n) == 0;
    bool opened = !aead_open(key(), FORMAT_HEADER_BYTES, BYTES_LIT("aad"), BYTES(damaged, kept), out, &e).failed;
    INVARIANT(opened == same);
    INVARIANT(!opened || memcmp(out, plain, plain_n) == 0);
}

static void check_context(struct bytes in)
{
    struct format_pair pairs[PAIRS], reversed[PAIRS];
    CLEANUP(buf_release) struct buf a = {0}, b = {0};
    struct err e = {0};
    size_t n = 0;
    struct reader r = reader_of(in);
    while (n < PAIRS && r.n > 0 && !r.bad) {
        pairs[n].key = reader_take(&r, reader_u8(&r));
        pairs[n].value = reader_take(&r, reader_u8(&r));
        n += !r.bad;
    }
    for (size_t i = 0; i < n; i++)
        reversed[i] = pairs[n - 1 - i];
    buf_init(&a, FORMAT_CONTEXT_MAX_BYTES + 4096);
    buf_init(&b, FORMAT_CONTEXT_MAX_BYTES + 4096);
    bool refused = format_context_aad(pairs, n, &a, &e).failed;
    INVARIANT(refused == format_context_aad(reversed, n, &b, &e).failed);
    INVARIANT(refused ? e.code == ERR_INVALID : bytes_equal(buf_bytes(&a), buf_bytes(&b)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct bytes in = BYTES(data + 1, size - 1);
    switch (data[0] % 3) {
    case 0:
        check_header(in);
        check_forgery(in);
        break;
    case 1:
        check_damage(in);
        break;
    default:
        check_context(in);
    }
    return 0;
}
