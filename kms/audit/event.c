#include "kms/audit/event.h"

#include "base/text.h"
#include "kms/crypto/kdf.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum form { F_ID, F_TIME, F_NAME, F_SHORT, F_HASH, F_COUNT, F_CHANGE };
enum { WIRE_VARINT = 0, WIRE_BYTES = 2 };

/* Row i is field number i + 1 of event.proto. */
static const struct field {
    enum form form;
    size_t at;
} fields[] = {
#define AT(name) offsetof(struct audit_event, name)
    {F_ID, AT(id)},           {F_TIME, AT(time_unix_ns)},  {F_NAME, AT(principal)},    {F_SHORT, AT(auth_method)},
    {F_SHORT, AT(tenant)},    {F_SHORT, AT(active_tenant)}, {F_SHORT, AT(grant)},      {F_SHORT, AT(action)},
    {F_NAME, AT(resource)},   {F_NAME, AT(key_version)},   {F_SHORT, AT(outcome)},     {F_SHORT, AT(code)},
    {F_SHORT, AT(reason)},    {F_SHORT, AT(rule)},         {F_HASH, AT(policy_digest)}, {F_SHORT, AT(request_id)},
    {F_SHORT, AT(trace_id)},  {F_SHORT, AT(address)},      {F_SHORT, AT(listener)},    {F_HASH, AT(certificate)},
    {F_COUNT, AT(duration_ns)}, {F_COUNT, AT(items)},      {F_COUNT, AT(items_failed)}, {F_COUNT, AT(repeats)},
    {F_CHANGE, AT(before)},   {F_CHANGE, AT(after)},      {F_SHORT, AT(cause)},
#undef AT
};
enum { FIELDS = sizeof(fields) / sizeof(*fields), USES_FIELD, HASH_BYTES = 32, ID_BYTES = 16 };
_Static_assert(FIELDS == 27 && USES_FIELD == 28, "event.proto has 28 fields, the last of them repeated");
/* 3 names, 14 short texts, 2 changes, 2 hashes, 6 numbers of at most 10 bytes, at most 5 bytes of tag and length each. */
_Static_assert(3 * EVENT_TEXT_MAX + 14 * EVENT_SHORT_MAX + 2 * EVENT_CHANGE_MAX + 2 * HASH_BYTES + ID_BYTES + 60 + FIELDS * 5 <=
                   EVENT_MAX_BYTES,
               "the longest event fits");

static void put_varint(struct buf *out, uint64_t v)
{
    uint8_t b[10];
    size_t n = 0;
    while (v >= 0x80) {
        b[n++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    b[n++] = (uint8_t)v;
    buf_put(out, b, n);
}

static void put_number(struct buf *out, unsigned number, uint64_t v)
{
    if (v == 0)
        return;
    put_varint(out, number << 3 | WIRE_VARINT);
    put_varint(out, v);
}

static void put_bytes(struct buf *out, unsigned number, struct bytes v)
{
    if (v.n == 0)
        return;
    put_varint(out, number << 3 | WIRE_BYTES);
    put_varint(out, v.n);
    buf_put_bytes(out, v);
}

static bool is_plain(struct bytes v)
{
    uint8_t high = 0, low = 0;
    for (size_t i = 0; i < v.n; i++) {
        high |= v.p[i];
        low |= v.p[i] < 0x20 || v.p[i] == 0x7f;
    }
    return high < 0x80 && !low;
}

static size_t hash_mark(struct bytes v, char *out, size_t n)
{
    uint8_t sum[32];
    char hex[65];
    sha256(&v, 1, sum);
    hex_encode(sum, sizeof sum, hex);
    return (size_t)snprintf(out, n, "sha256:%s bytes:%zu", hex, v.n);
}

/* Names that were refused as names still reach the log: what is no clean text is escaped, what is too long is cut and marked
 * with the hash of the whole. */
static void put_text_slow(struct buf *out, unsigned number, struct bytes v, size_t max, bool change)
{
    char text[EVENT_CHANGE_MAX], mark[128];
    size_t n = 0, mark_n = hash_mark(v, mark, sizeof mark);
    bool clean = text_is_clean_utf8(v), fits = clean && v.n <= max;
    size_t room = fits ? max : max - mark_n - 4;
    for (size_t i = 0; i < v.n && !(change && !fits); i++) {
        bool keep = clean || (v.p[i] >= 0x20 && v.p[i] < 0x7f && v.p[i] != '\\');
        if (n + (keep ? 1 : 4) > room)
            break;
        if (keep)
            text[n++] = (char)v.p[i];
        else
            n += (size_t)snprintf(text + n, 5, "\\x%02x", v.p[i]);
    }
    if (!fits) {
        while (clean && n > 0 && n < v.n && (v.p[n] & 0xc0) == 0x80)
            n--; /* not in the middle of a character */
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", n ? "... " : "", mark);
    }
    put_bytes(out, number, BYTES(text, n));
}

static void put_text(struct buf *out, unsigned number, struct bytes v, size_t max, bool change)
{
    if (v.n <= max && is_plain(v))
        put_bytes(out, number, v);
    else
        put_text_slow(out, number, v, max, change);
}

static const void *member(const struct audit_event *ev, size_t i)
{
    return (const char *)ev + fields[i].at;
}

void event_put_id(const uint8_t id[16], struct buf *out)
{
    put_bytes(out, 1, BYTES(id, ID_BYTES));
}

static void put_field(const struct audit_event *ev, size_t i, struct buf *out)
{
    static const uint8_t none[ID_BYTES];
    unsigned number = (unsigned)i + 1;
    const void *m = member(ev, i);
    switch (fields[i].form) {
    case F_ID:
        if (memcmp(m, none, ID_BYTES) != 0)
            event_put_id(m, out);
        return;
    case F_TIME: {
        int64_t t;
        memcpy(&t, m, sizeof t);
        put_number(out, number, (uint64_t)t);
        return;
    }
    case F_COUNT: {
        uint64_t v;
        memcpy(&v, m, sizeof v);
        put_number(out, number, v);
        return;
    }
    case F_HASH: {
        struct bytes v = *(const struct bytes *)m;
        INVARIANT(v.n == 0 || v.n == HASH_BYTES);
        put_bytes(out, number, v);
        return;
    }
    case F_NAME:
        put_text(out, number, *(const struct bytes *)m, EVENT_TEXT_MAX, false);
        return;
    case F_SHORT:
        put_text(out, number, *(const struct bytes *)m, EVENT_SHORT_MAX, false);
        return;
    case F_CHANGE:
        put_text(out, number, *(const struct bytes *)m, EVENT_CHANGE_MAX, true);
        return;
    }
}

/* ---- key versions used: message KeyUse { bytes kvid = 1; int32 what = 2; uint64 items = 3 (0: one); uint32 primary = 4 } ---- */
static uint8_t *varint_at(uint8_t *p, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p++ = (uint8_t)v;
    return p;
}

static void put_use(const struct event_use *u, struct buf *out)
{
    enum { TAG_BYTES = 2, BODY_MAX = 2 + EVENT_KVID_BYTES + 2 + 11 + 6 };
    uint8_t b[TAG_BYTES + 1 + BODY_MAX], *p = varint_at(b, (unsigned)USES_FIELD << 3 | WIRE_BYTES) + 1;
    *p++ = 1 << 3 | WIRE_BYTES;
    *p++ = EVENT_KVID_BYTES;
    memcpy(p, u->kvid, EVENT_KVID_BYTES);
    p += EVENT_KVID_BYTES;
    *p++ = 2 << 3 | WIRE_VARINT;
    *p++ = (uint8_t)u->what;
    if (u->items > 1) {
        *p++ = 3 << 3 | WIRE_VARINT;
        p = varint_at(p, u->items);
    }
    if (u->primary > 0) {
        *p++ = 4 << 3 | WIRE_VARINT;
        p = varint_at(p, u->primary);
    }
    b[TAG_BYTES] = (uint8_t)(p - b - TAG_BYTES - 1);
    buf_put(out, b, (size_t)(p - b));
}

void event_encode(const struct audit_event *ev, struct buf *out)
{
    for (size_t i = 0; i < FIELDS; i++)
        put_field(ev, i, out);
    for (size_t i = 0; i < ev->nuse; i++)
        put_use(&ev->use[i], out);
    buf_put_bytes(out, ev->uses);
}

static uint64_t take_varint(struct reader *r)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t b = reader_u8(r);
        if (shift == 63 && b > 1)
            break;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) {
            if (b == 0 && shift > 0)
                break; /* not the shortest form: not ours */
            return v;
        }
    }
    r->bad = true;
    return 0;
}

static size_t longest(enum form form)
{
    switch (form) {
    case F_NAME:
        return EVENT_TEXT_MAX;
    case F_SHORT:
        return EVENT_SHORT_MAX;
    case F_CHANGE:
        return EVENT_CHANGE_MAX;
    case F_HASH:
        return HASH_BYTES;
    case F_ID:
        return ID_BYTES;
    case F_TIME:
    case F_COUNT:
        return 0;
    }
    return 0;
}

static bool take_field(struct reader *r, uint64_t number, unsigned wire, struct audit_event *ev)
{
    uint64_t v = wire == WIRE_VARINT ? take_varint(r) : 0;
    struct bytes b = {0};
    if (wire == WIRE_BYTES) {
        uint64_t n = take_varint(r);
        b = reader_take(r, n > SIZE_MAX ? SIZE_MAX : (size_t)n);
    } else if (wire != WIRE_VARINT) {
        return false;
    }
    if (r->bad || number > FIELDS)
        return !r->bad;
    const struct field *f = &fields[number - 1];
    bool is_number = f->form == F_TIME || f->form == F_COUNT;
    if (is_number != (wire == WIRE_VARINT) || b.n > longest(f->form) || (is_number ? v == 0 : b.n == 0))
        return false;
    if ((f->form == F_ID || f->form == F_HASH) && b.n != longest(f->form))
        return false;
    char *at = (char *)ev + f->at;
    if (is_number)
        memcpy(at, &v, sizeof v);
    else if (f->form == F_ID)
        memcpy(at, b.p, ID_BYTES);
    else
        memcpy(at, &b, sizeof b);
    return f->form == F_ID || f->form == F_HASH || is_number || text_is_utf8(b);
}

static bool take_use_field(struct reader *r, uint64_t number, unsigned wire, struct event_use *u)
{
    const bool is_bytes = wire == WIRE_BYTES;
    const uint64_t v = is_bytes || wire == WIRE_VARINT ? take_varint(r) : 0;
    const struct bytes b = is_bytes ? reader_take(r, v > SIZE_MAX ? SIZE_MAX : (size_t)v) : (struct bytes){0};
    if (r->bad || (!is_bytes && wire != WIRE_VARINT))
        return false;
    if (number > 4)
        return true;
    if (is_bytes != (number == 1) || (number == 1 && b.n != EVENT_KVID_BYTES))
        return false;
    switch (number) {
    case 1:
        memcpy(u->kvid, b.p, EVENT_KVID_BYTES);
        return true;
    case 2:
        u->what = (enum event_use_what)v;
        return v >= EVENT_USE_ENCRYPT && v <= EVENT_USE_UNWRAP;
    case 3:
        u->items = v;
        return v > 1 && v <= EVENT_USES_MAX;
    default:
        u->primary = (uint32_t)v;
        return v > 0 && v <= UINT32_MAX;
    }
}

/* The whole of r: kvid and what are required, fields ascend, none twice. */
static bool take_use(struct reader r, struct event_use *ret)
{
    struct event_use u = {.items = 1};
    uint64_t last = 0;
    while (r.n > 0 && !r.bad) {
        const uint64_t tag = take_varint(&r), number = tag >> 3;
        const bool in_order = last < 2 ? number == last + 1 : number > last;
        if (r.bad || !in_order || !take_use_field(&r, number, (unsigned)(tag & 7), &u))
            return false;
        last = number;
    }
    *ret = u;
    return !r.bad && last >= 2;
}

/* One more entry; they stand together, so all of them are one piece of the input. */
static bool take_entry(struct reader *r, const uint8_t *from, unsigned wire, struct audit_event *ev)
{
    struct event_use u;
    if (wire != WIRE_BYTES)
        return false;
    const uint64_t n = take_varint(r);
    const struct bytes b = reader_take(r, n > SIZE_MAX ? SIZE_MAX : (size_t)n);
    if (r->bad || !take_use(reader_of(b), &u))
        return false;
    if (ev->uses.n == 0)
        ev->uses.p = from;
    ev->uses.n = (size_t)(r->p - ev->uses.p);
    return ev->uses.n <= EVENT_USES_BYTES;
}

bool event_next_use(struct bytes *uses, struct event_use *ret)
{
    struct reader r = reader_of(*uses);
    (void)take_varint(&r);
    const uint64_t n = take_varint(&r);
    const struct bytes b = reader_take(&r, (size_t)n);
    if (uses->n == 0 || r.bad || !take_use(reader_of(b), ret))
        return false;
    *uses = BYTES(r.p, r.n);
    return true;
}

RESULT event_decode(struct bytes encoded, struct audit_event *ret, struct err *e)
{
    struct audit_event ev = {0};
    struct reader r = reader_of(encoded);
    uint64_t last = 0;
    while (r.n > 0 && !r.bad) {
        const uint8_t *from = r.p;
        uint64_t tag = take_varint(&r), number = tag >> 3;
        const unsigned wire = (unsigned)(tag & 7);
        const bool again = number == USES_FIELD && last == USES_FIELD;
        if (r.bad || (number <= last && !again) ||
            !(number == USES_FIELD ? take_entry(&r, from, wire, &ev) : take_field(&r, number, wire, &ev)))
            FAIL(e, ERR_DATA_LOSS, "EVENT_MALFORMED", "event of %zu bytes, after field %llu", encoded.n, (unsigned long long)last);
        last = number;
    }
    *ret = ev;
    return ok();
}

void event_outbox_id(const uint8_t incarnation[16], uint64_t seq, uint8_t out[16])
{
    memcpy(out, incarnation, 8);
    out[0] |= 0x80;
    put_be64(out + 8, seq);
}
