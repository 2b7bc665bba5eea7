/* Target: kms/name. Whatever is accepted is canonical: it formats to the very bytes it came from, and its parents parse. */
#include "kms/name/name.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_full(struct bytes text)
{
    struct name n, again;
    struct err e = {0};
    char out[NAME_MAX_BYTES];
    if (name_parse_any(text, ~0u, "name", &n, &e).failed) {
        INVARIANT(e.code == ERR_INVALID && e.hint);
        return;
    }
    INVARIANT(name_format(&n, out) == text.n && memcmp(out, text.p, text.n) == 0);
    for (struct name up = n; up.kind != NAME_NONE; up = name_parent(&up)) {
        size_t len = name_format(&up, out);
        INVARIANT(!name_parse(BYTES(out, len), up.kind, "name", &again, &e).failed && name_equal(&up, &again));
        len = name_format_short(&up, out);
        INVARIANT(!name_parse_short(BYTES(out, len), &again, &e).failed && name_equal(&up, &again));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes text = {data, size};
    struct name n;
    struct err e = {0};
    char out[NAME_MAX_BYTES];
    check_full(text);
    if (!name_parse_short(text, &n, &e).failed) {
        size_t len = name_format_short(&n, out), full = name_format(&n, out);
        INVARIANT(len == text.n || full == text.n);
        check_full(BYTES(out, full));
    }
    (void)name_valid_principal(text);
    return 0;
}
