/* Target functions: kdfenc_is_hsm_input, kdfenc_build. The HSM process signs what this accepts, so it must be exactly our
 * encoding of a label that is meant for it: built again from its parts it is the same bytes. */
#include "base/kdfenc.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t split(struct bytes context, struct bytes *fields)
{
    struct reader r = reader_of(context);
    size_t n = 0;
    while (r.n > 0 && n < KDFENC_FIELDS_MAX)
        fields[n++] = reader_v16(&r);
    INVARIANT(reader_done(&r));
    return n;
}

static void check(struct bytes in)
{
    enum kdf_label label;
    struct bytes fields[KDFENC_FIELDS_MAX];
    CLEANUP(buf_release) struct buf again = {0};
    if (!kdfenc_is_hsm_input(in, &label))
        return;
    INVARIANT(label == KDF_TENANT_KEK || label == KDF_STORE_KEY || label == KDF_CHALLENGE);
    size_t head = 4 + strlen(kdfenc_label_text(label)) + 1;
    INVARIANT(in.n >= head + 4 && in.n <= KDFENC_MAX_BYTES);
    size_t n = split(BYTES(in.p + head, in.n - head - 4), fields);
    buf_init(&again, KDFENC_MAX_BYTES);
    INVARIANT(kdfenc_build(label, fields, n, &again) && bytes_equal(buf_bytes(&again), in));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes fields[KDFENC_FIELDS_MAX + 1];
    CLEANUP(buf_release) struct buf built = {0};
    struct reader r = reader_of(BYTES(data, size));
    enum kdf_label label = (enum kdf_label)(reader_u8(&r) % KDF_LABEL_COUNT), seen;
    size_t n = 0;
    check(BYTES(data, size));
    while (r.n > 0 && n <= KDFENC_FIELDS_MAX)
        fields[n++] = reader_take(&r, reader_u8(&r));
    if (r.bad)
        return 0;
    buf_init(&built, KDFENC_MAX_BYTES);
    if (kdfenc_build(label, fields, n, &built)) {
        bool hsm = label == KDF_TENANT_KEK || label == KDF_STORE_KEY || label == KDF_CHALLENGE;
        INVARIANT(kdfenc_is_hsm_input(buf_bytes(&built), &seen) == hsm && (!hsm || seen == label));
    }
    return 0;
}
