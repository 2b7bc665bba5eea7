#include "hsm/ops.h"

#include <stdio.h>
#include <string.h>

/* Two private data objects in turn, so that a write that is cut short leaves the one before it whole:
 * u64 generation, u16 length and value, u32 CRC-32C over all before it. A search that missed one for once leaves two of a name:
 * the newest counts, and the next turn of that name removes them all. */
enum { SLOTS = 2, TWINS_MAX = 16, RECORD_MAX = 8 + 2 + HSM_ANCHOR_MAX + 4 };

struct slot {
    CK_OBJECT_HANDLE handle[TWINS_MAX];
    size_t found;
    uint64_t generation; /* 0: no valid record */
    size_t n;
    uint8_t value[HSM_ANCHOR_MAX];
};

static int slot_label(unsigned i, char out[32])
{
    return snprintf(out, 32, "claviger-anchor-%c", "ab"[i]);
}

static void parse(struct bytes untrusted, struct slot *s)
{
    struct reader r = reader_of(untrusted);
    uint64_t generation = reader_u64(&r);
    struct bytes value = reader_v16(&r);
    size_t covered = untrusted.n - r.n;
    uint32_t sum = reader_u32(&r);
    /* A torn record is a slot never written: the other one holds the floor. */
    if (!reader_done(&r) || value.n > HSM_ANCHOR_MAX || sum != crc32c(BYTES(untrusted.p, covered)))
        return;
    if (generation <= s->generation)
        return;
    s->generation = generation;
    s->n = value.n;
    memcpy(s->value, value.p, value.n);
}

static RESULT slot_read(struct token *t, unsigned i, struct slot *s, struct err *e)
{
    char label[32];
    uint8_t record[RECORD_MAX];
    CK_OBJECT_CLASS class = CKO_DATA;
    int n = slot_label(i, label);
    CK_ATTRIBUTE match[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, label, (CK_ULONG)n}};
    size_t got;
    bool known;
    *s = (struct slot){0};
    TRY(object_find(&t->m, t->session, match, 2, s->handle, TWINS_MAX, &s->found, e));
    for (size_t k = 0; k < s->found; k++) {
        TRY(object_read(&t->m, t->session, s->handle[k], CKA_VALUE, record, sizeof record, &got, &known, e));
        if (known)
            parse(BYTES(record, got), s);
    }
    return ok();
}

static RESULT slots_read(struct token *t, struct slot s[SLOTS], unsigned *ret_newest, struct err *e)
{
    for (unsigned i = 0; i < SLOTS; i++)
        TRY(slot_read(t, i, &s[i], e));
    *ret_newest = s[1].generation > s[0].generation ? 1 : 0;
    return ok();
}

/* A search that found nothing is made again: "never written" is what an older token says too (vault/service/floor.c). */
static RESULT slots_read_surely(struct token *t, struct slot s[SLOTS], unsigned *ret_newest, struct err *e)
{
    TRY(slots_read(t, s, ret_newest, e));
    return s[0].found == 0 || s[1].found == 0 ? slots_read(t, s, ret_newest, e) : ok();
}

RESULT ops_anchor_get(struct token *t, uint8_t out[HSM_ANCHOR_MAX], size_t *ret_n, struct err *e)
{
    struct slot s[SLOTS];
    unsigned newest;
    TRY(slots_read_surely(t, s, &newest, e));
    if (s[newest].generation > 0) {
        memcpy(out, s[newest].value, s[newest].n);
        *ret_n = s[newest].n;
        return ok();
    }
    /* Written once and unreadable now is not the same as never written. */
    if (s[0].found + s[1].found > 0)
        FAIL(e, ERR_DATA_LOSS, "HSM_ANCHOR", "the anchor on the token is damaged in both places");
    FAIL(e, ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", "no anchor was written yet");
}

static RESULT slot_create(struct token *t, unsigned i, struct bytes record, struct err *e)
{
    char label[32], application[] = "claviger";
    CK_OBJECT_CLASS class = CKO_DATA;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    int n = slot_label(i, label);
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class},
                               {CKA_TOKEN, &yes, sizeof yes},
                               {CKA_PRIVATE, &yes, sizeof yes},
                               {CKA_MODIFIABLE, &no, sizeof no},
                               {CKA_LABEL, label, (CK_ULONG)n},
                               {CKA_APPLICATION, application, sizeof application - 1},
                               {CKA_VALUE, (void *)(uintptr_t)record.p, record.n}};
    CK_OBJECT_HANDLE h;
    CK_RV rv = CALL(&t->m, C_CreateObject, t->session, template, sizeof template / sizeof template[0], &h);
    return rv == CKR_OK ? ok() : ckr_fail(rv, "C_CreateObject", e);
}

RESULT ops_anchor_put(struct token *t, struct bytes value, struct err *e)
{
    if (value.n > HSM_ANCHOR_MAX)
        FAIL(e, ERR_INVALID, "HSM_BAD_REQUEST", "an anchor of %zu bytes is too long", value.n);
    struct slot s[SLOTS];
    unsigned newest;
    TRY(slots_read_surely(t, s, &newest, e));
    const unsigned older = 1 - newest;
    /* By the clock, so that what is written after a record that was missed still counts as newer than it. */
    const uint64_t next = s[newest].generation + 1, now = (uint64_t)clock_wall_ns(t->setup.clock);
    CLEANUP(buf_release) struct buf record = {0};
    buf_init(&record, RECORD_MAX);
    buf_put_u64(&record, next > now ? next : now);
    buf_put_v16(&record, value);
    buf_put_u32(&record, crc32c(buf_bytes(&record)));
    INVARIANT(!record.overflow);
    /* Not overwritten but made anew: SoftHSM never lets the value of a data object be set again. */
    for (size_t i = 0; i < s[older].found; i++) {
        CK_RV rv = CALL(&t->m, C_DestroyObject, t->session, s[older].handle[i]);
        if (rv != CKR_OK)
            return ckr_fail(rv, "C_DestroyObject", e);
    }
    return slot_create(t, older, buf_bytes(&record), e);
}
