#include "hsm/wire.h"

#include <stdio.h>
#include <string.h>

/* Reasons are literals in an err, so they travel as an index. 0: none of these. */
static const char *const reasons[] = {
    NULL,
    "HSM_UNAVAILABLE",
    "HSM_REFUSED",
    "HSM_ERROR",
    "HSM_BAD_REQUEST",
    "HSM_OBJECT_ABSENT",
    "HSM_OBJECT_EXISTS",
    "HSM_OBJECT_DOUBLE",
    "HSM_OBJECT_NAME",
    "HSM_OBJECT_WEAK",
    "HSM_OBJECTS_MAX",
    "HSM_KNOWN_ANSWER",
    "HSM_ANCHOR",
    "HSM_TOKEN",
    "HSM_MECHANISM",
    "HSM_MODULE",
    "HSM_CONFIG",
    "HSM_STORAGE",
    "HSM_PIN",
    "HSM_PIN_WAIT",
    "HSM_PIN_TRIES",
    "HSM_PIN_FILE",
    "HSM_BACKUP",
    "HSM_KEY_UNCHECKED",
    "HSM_KEYS_MAX",
};
enum { REASONS = sizeof reasons / sizeof reasons[0] };

static uint8_t reason_index(const char *reason)
{
    for (size_t i = 1; i < REASONS; i++)
        if (reason != NULL && strcmp(reasons[i], reason) == 0)
            return (uint8_t)i;
    return 0;
}

void wire_put_result(struct buf *b, struct result r, const struct err *e)
{
    if (!r.failed) {
        buf_put_u8(b, ERR_NONE);
        return;
    }
    char detail[ERR_DETAIL_BYTES + 128];
    (void)snprintf(detail, sizeof detail, "%s%s%s", e->detail, e->hint != NULL ? ": " : "", e->hint != NULL ? e->hint : "");
    buf_put_u8(b, (uint8_t)e->code);
    buf_put_u8(b, reason_index(e->reason));
    buf_put_v16(b, bytes_str(detail));
}

RESULT wire_get_result(struct reader *r, struct err *e)
{
    uint8_t code = reader_u8(r);
    if (!r->bad && code == ERR_NONE)
        return ok();
    uint8_t reason = reader_u8(r);
    struct bytes detail = reader_v16(r);
    /* ERR_WOULD_BLOCK is core's own word to itself: from outside it would send a call round in circles. */
    if (!reader_done(r) || code > ERR_INTERNAL || code == ERR_WOULD_BLOCK || reason >= REASONS)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "an answer of the hsm process cannot be read");
    FAIL(e, (enum err_code)code, reasons[reason], "%.*s", (int)detail.n, (const char *)detail.p);
}
