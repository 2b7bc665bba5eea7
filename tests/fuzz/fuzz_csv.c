/* Target functions: csv_parse, csv_value, csv_put. Records put end to end are the input again, byte by byte; a verdict does not
 * depend on how much of the file had been read; a value that is written and read is the same value. */
#include "vault/cmd/kmsctl/csv.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct csv_record rec, other;

static void check_values(void)
{
    CLEANUP(arena_release) struct arena a = {0};
    CLEANUP(buf_release) struct buf text = {0};
    arena_init(&a, 1 << 20);
    for (size_t i = 0; i < rec.n && i < 8; i++) {
        struct bytes value = csv_value(&rec.field[i], &a);
        size_t used = 0;
        const char *why = NULL;
        buf_init(&text, 1 << 20);
        csv_put(&text, value, rec.field[i].quoted);
        if (text.n == 0)
            continue; /* csv_next does not ask about nothing */
        INVARIANT(csv_parse(buf_bytes(&text), true, &other, &used, &why) == CSV_RECORD && used == text.n && other.n == 1);
        INVARIANT(bytes_equal(csv_value(&other.field[0], &a), value));
        buf_release(&text);
    }
}

/* With less than all of it, an answer is either the same or a wish for more. */
static void check_prefixes(struct bytes in, size_t used)
{
    for (size_t n = 1; n < used && n < 64; n++) {
        size_t u = 0;
        const char *why = NULL;
        enum csv_parse p = csv_parse(BYTES(in.p, n), false, &other, &u, &why);
        INVARIANT(p == CSV_MORE);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes rest = BYTES(data, size);
    if (size > 65536)
        return 0;
    while (rest.n > 0) {
        size_t used = 0;
        const char *why = NULL;
        enum csv_parse p = csv_parse(rest, true, &rec, &used, &why);
        INVARIANT(p == CSV_RECORD || (p == CSV_BAD && why != NULL));
        if (p == CSV_BAD)
            return 0;
        INVARIANT(used > 0 && used <= rest.n && rec.text.n + rec.eol.n == used && rec.n >= 1);
        const uint8_t *at = rest.p;
        for (size_t i = 0; i < rec.n; i++) {
            INVARIANT(rec.field[i].raw.p == at);
            at += rec.field[i].raw.n + 1;
        }
        INVARIANT(at - 1 == rec.text.p + rec.text.n && rec.text.p == rest.p);
        check_values();
        check_prefixes(rest, used);
        rest = BYTES(rest.p + used, rest.n - used);
    }
    return 0;
}
