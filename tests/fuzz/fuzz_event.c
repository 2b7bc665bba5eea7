/* Target functions: event_decode, event_encode. What is accepted is encoded and decoded again to the same fields, and encoding
 * once more gives the same bytes. */
#include "kms/audit/event.h"

#include "base/text.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is no clean text is escaped when it is written. */
static void check_text(struct bytes first, struct bytes second)
{
    INVARIANT(!text_is_clean_utf8(first) || bytes_equal(first, second));
    INVARIANT(text_is_clean_utf8(second));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct audit_event first = {0}, second = {0};
    CLEANUP(buf_release) struct buf a = {0}, b = {0};
    struct err e = {0};
    buf_init(&a, EVENT_LONGEST * 2);
    buf_init(&b, EVENT_LONGEST * 2);
    if (event_decode(BYTES(data, size), &first, &e).failed) {
        INVARIANT(e.code == ERR_DATA_LOSS && strcmp(e.reason, "EVENT_MALFORMED") == 0);
        return 0;
    }
    event_encode(&first, &a);
    INVARIANT(!a.overflow && a.n <= EVENT_LONGEST);
    INVARIANT(!event_decode(buf_bytes(&a), &second, &e).failed);
    INVARIANT(memcmp(first.id, second.id, sizeof first.id) == 0 && first.time_unix_ns == second.time_unix_ns);
    check_text(first.principal, second.principal);
    check_text(first.resource, second.resource);
    check_text(first.after, second.after);
    INVARIANT(first.items == second.items && first.repeats == second.repeats);
    for (struct bytes x = first.uses, y = second.uses; x.n > 0;) {
        struct event_use u, v;
        INVARIANT(event_next_use(&x, &u) && event_next_use(&y, &v) && u.items == v.items && u.items > 0 && u.what == v.what);
    }
    event_encode(&second, &b);
    INVARIANT(bytes_equal(buf_bytes(&a), buf_bytes(&b)));
    return 0;
}
