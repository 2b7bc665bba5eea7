#include "hsm/ops.h"

#include <string.h>

/* Two private data objects in turn, so that a write that is cut short leaves the one before it whole. A record is
 * u64 generation, u16 length and value, u32 CRC-32C over all before it. It is the value of an object when that is made, and stands
 * ever after in hexadecimal in its label: SoftHSM2 lets a data object's label be set again but never its value, and what is
 * destroyed instead it keeps in memory, 0.9 KiB each. Where a token refuses the label, the object is made anew.
 * A search that missed an object for once leaves two of a name: the newest counts, and the next turn of that name removes them. */
enum { SLOTS = 2, TWINS_MAX = 16, RECORD_MAX = 8 + 2 + HSM_ANCHOR_MAX + 4, NAME_BYTES = 18, LABEL_MAX = NAME_BYTES + 2 * RECORD_MAX + 1 };

struct slot {
    CK_OBJECT_HANDLE handle[TWINS_MAX];
    size_t found;
    uint64_t generation; /* 0: no valid record */
    size_t n;
    uint8_t value[HSM_ANCHOR_MAX];
};

/* CKA_APPLICATION, by which the object is found, and the beginning of its label. */
static struct bytes slot_name(unsigned i)
{
    return i == 0 ? BYTES_LIT("claviger-anchor-a ") : BYTES_LIT("claviger-anchor-b ");
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

static void parse_label(struct bytes untrusted, struct slot *s)
{
    uint8_t record[RECORD_MAX];
    if (untrusted.n <= NAME_BYTES)
        return;
    const struct bytes hex = BYTES(untrusted.p + NAME_BYTES, untrusted.n - NAME_BYTES);
    if (hex.n <= 2 * sizeof record && hex_decode(hex, record, hex.n / 2))
        parse(BYTES(record, hex.n / 2), s);
}

static RESULT object_parse(struct token *t, CK_OBJECT_HANDLE h, struct slot *s, struct err *e)
{
    uint8_t text[LABEL_MAX];
    size_t n;
    bool known;
    TRY(object_read(&t->m, t->session, h, CKA_VALUE, text, sizeof text, &n, &known, e));
    if (known)
        parse(BYTES(text, n), s);
    TRY(object_read(&t->m, t->session, h, CKA_LABEL, text, sizeof text, &n, &known, e));
    if (known)
        parse_label(BYTES(text, n), s);
    return ok();
}

static RESULT slot_read(struct token *t, unsigned i, struct slot *s, struct err *e)
{
    CK_OBJECT_CLASS class = CKO_DATA;
    const struct bytes name = slot_name(i);
    CK_ATTRIBUTE match[] = {{CKA_CLASS, &class, sizeof class}, {CKA_APPLICATION, (void *)(uintptr_t)name.p, name.n}};
    *s = (struct slot){0};
    TRY(object_find(&t->m, t->session, match, 2, s->handle, TWINS_MAX, &s->found, e));
    for (size_t k = 0; k < s->found; k++)
        TRY(object_parse(t, s->handle[k], s, e));
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

static CK_RV make_object(struct token *t, struct bytes name, struct bytes record, CK_OBJECT_HANDLE *ret)
{
    CK_OBJECT_CLASS class = CKO_DATA;
    CK_BBOOL yes = CK_TRUE;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class},
                               {CKA_TOKEN, &yes, sizeof yes},
                               {CKA_PRIVATE, &yes, sizeof yes},
                               {CKA_MODIFIABLE, &yes, sizeof yes},
                               {CKA_LABEL, (void *)(uintptr_t)name.p, name.n},
                               {CKA_APPLICATION, (void *)(uintptr_t)name.p, name.n},
                               {CKA_VALUE, (void *)(uintptr_t)record.p, record.n}};
    return CALL(&t->m, C_CreateObject, t->session, template, sizeof template / sizeof template[0], ret);
}

static RESULT slot_create(struct token *t, unsigned i, struct bytes record, struct err *e)
{
    CK_OBJECT_HANDLE h;
    CK_RV rv = make_object(t, slot_name(i), record, &h);
    return rv == CKR_OK ? ok() : ckr_fail(rv, "C_CreateObject", e);
}

/* What PKCS#11 v2.40 section 5.7.6 lets a token say to a label that it does not take; all else is trouble, not a refusal. */
static bool refuses(CK_RV rv)
{
    return rv == CKR_ATTRIBUTE_READ_ONLY || rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_ATTRIBUTE_VALUE_INVALID ||
           rv == CKR_TEMPLATE_INCONSISTENT || rv == CKR_ACTION_PROHIBITED || rv == CKR_FUNCTION_NOT_SUPPORTED;
}

static RESULT slot_set(struct token *t, unsigned i, CK_OBJECT_HANDLE h, struct bytes record, bool *ret_done, struct err *e)
{
    char label[LABEL_MAX];
    memcpy(label, slot_name(i).p, NAME_BYTES);
    hex_encode(record.p, record.n, label + NAME_BYTES);
    CK_ATTRIBUTE a = {CKA_LABEL, label, NAME_BYTES + 2 * record.n};
    CK_RV rv = CALL(&t->m, C_SetAttributeValue, t->session, h, &a, 1);
    *ret_done = rv == CKR_OK;
    return rv == CKR_OK || refuses(rv) ? ok() : ckr_fail(rv, "C_SetAttributeValue", e);
}

static RESULT slot_write(struct token *t, unsigned i, const struct slot *s, struct bytes record, struct err *e)
{
    bool done = false;
    if (s->found == 1)
        TRY(slot_set(t, i, s->handle[0], record, &done, e));
    if (done)
        return ok();
    for (size_t k = 0; k < s->found; k++) {
        CK_RV rv = CALL(&t->m, C_DestroyObject, t->session, s->handle[k]);
        if (rv != CKR_OK)
            return ckr_fail(rv, "C_DestroyObject", e);
    }
    return slot_create(t, i, record, e);
}

RESULT ops_anchor_put(struct token *t, struct bytes value, struct err *e)
{
    if (value.n > HSM_ANCHOR_MAX)
        FAIL(e, ERR_INVALID, "HSM_BAD_REQUEST", "an anchor of %zu bytes is too long", value.n);
    struct slot s[SLOTS];
    unsigned newest;
    TRY(slots_read_surely(t, s, &newest, e));
    /* By the clock, so that what is written after a record that was missed still counts as newer than it. */
    const uint64_t next = s[newest].generation + 1, now = (uint64_t)clock_wall_ns(t->setup.clock);
    CLEANUP(buf_release) struct buf record = {0};
    buf_init(&record, RECORD_MAX);
    buf_put_u64(&record, next > now ? next : now);
    buf_put_v16(&record, value);
    buf_put_u32(&record, crc32c(buf_bytes(&record)));
    INVARIANT(!record.overflow);
    return slot_write(t, 1 - newest, &s[1 - newest], buf_bytes(&record), e);
}

RESULT ops_anchor_try(struct token *t, struct err *e)
{
    CK_OBJECT_HANDLE h;
    CK_RV rv = make_object(t, BYTES_LIT("claviger-anchor-try"), BYTES_LIT("try"), &h);
    if (create_refuses_template(t, rv))
        FAIL(e, ERR_UNIMPLEMENTED, "HSM_MECHANISM", "the token cannot do anchor (it keeps no data objects: C_CreateObject: %s)", ckr_name(rv));
    if (rv != CKR_OK)
        return ckr_fail(rv, "C_CreateObject", e);
    rv = CALL(&t->m, C_DestroyObject, t->session, h);
    return rv == CKR_OK ? ok() : ckr_fail(rv, "C_DestroyObject", e);
}
