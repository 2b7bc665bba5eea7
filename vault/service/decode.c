#include "vault/service/decode.h"

#include "base/text.h"

#include <string.h>

enum {
    FIELDS_MAX = 32,        /* of one message type: a bug when a .proto passes it */
    VARINT_MAX_BYTES = 10,
    /* What protobuf_c_message_unpack allocates beside the message structs (1.4.1, read): its list of scanned members in
     * doubling slabs (at most twice 40 bytes a member), a pointer in a repeated field, an unknown-field record, and the
     * arena's rounding. An upper bound: the scan refuses before anything is allocated. */
    MEMBER_COST_BYTES = 144,
    MESSAGE_COST_BYTES = 32,
};

enum wire { WIRE_VARINT = 0, WIRE_I64 = 1, WIRE_LEN = 2, WIRE_I32 = 5 };

struct scan {
    struct err *e;
    size_t cost, cost_max;
    unsigned unknown;
};

struct wire_field {
    uint32_t number;
    enum wire wire;
    struct bytes payload; /* WIRE_LEN: the content; else the value's bytes */
};

static struct result refuse(const struct scan *s, const char *field, const char *hint)
{
    (void)err_field(s->e, field, hint);
    s->e->reason = "MALFORMED_MESSAGE";
    return (struct result){1};
}

static bool take_varint(struct reader *r, uint64_t *ret, struct bytes *ret_raw)
{
    const uint8_t *p = r->p;
    uint64_t v = 0;

    for (size_t i = 0; i < VARINT_MAX_BYTES && i < r->n; i++) {
        v |= (uint64_t)(p[i] & 0x7f) << (7 * i);
        if ((p[i] & 0x80) != 0)
            continue;
        *ret = v;
        *ret_raw = reader_take(r, i + 1);
        return true;
    }
    return false;
}

/* The next field with its payload; false when it is cut short, too large, a group or otherwise no field at all. */
static bool take_field(struct reader *r, struct wire_field *ret)
{
    struct bytes raw;
    uint64_t key, n;

    if (!take_varint(r, &key, &raw) || key > UINT32_MAX || key >> 3 == 0)
        return false;
    ret->number = (uint32_t)(key >> 3);
    ret->wire = (enum wire)(key & 7);
    switch (ret->wire) {
    case WIRE_VARINT:
        return take_varint(r, &n, &ret->payload);
    case WIRE_I64:
        ret->payload = reader_take(r, 8);
        return !r->bad;
    case WIRE_I32:
        ret->payload = reader_take(r, 4);
        return !r->bad;
    case WIRE_LEN:
        if (!take_varint(r, &n, &raw) || n > r->n)
            return false;
        ret->payload = reader_take(r, (size_t)n);
        return true;
    default: /* 3 and 4 are groups, 6 and 7 mean nothing */
        return false;
    }
}

static enum wire wire_of(ProtobufCType t)
{
    switch (t) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return WIRE_LEN;
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return WIRE_I64;
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return WIRE_I32;
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_BOOL:
    case PROTOBUF_C_TYPE_ENUM:
        return WIRE_VARINT;
    }
    INVARIANT(false); /* a field type protobuf-c does not have */
    return WIRE_VARINT;
}

/* Number of values in a packed payload, or SIZE_MAX when it is damaged. */
static size_t packed_count(struct bytes payload, enum wire w)
{
    size_t unit = w == WIRE_I64 ? 8 : 4, n = 0;
    struct reader r = reader_of(payload);
    struct bytes raw;
    uint64_t v;

    if (w != WIRE_VARINT)
        return payload.n % unit == 0 ? payload.n / unit : SIZE_MAX;
    for (; r.n > 0; n++)
        if (!take_varint(&r, &v, &raw))
            return SIZE_MAX;
    return n;
}

/* proto-transform's mark (proto/README.md): a bytes field that was a string, a repeated message that was a map. */
static bool is_marked(const ProtobufCFieldDescriptor *f)
{
    return (f->flags & PROTOBUF_C_FIELD_FLAG_DEPRECATED) != 0;
}

static bool is_map(const ProtobufCFieldDescriptor *f)
{
    return f->type == PROTOBUF_C_TYPE_MESSAGE && f->label == PROTOBUF_C_LABEL_REPEATED && is_marked(f);
}

/* One submessage, or one member of a oneof: where parsers merge or choose differently. */
static bool once_only(const ProtobufCFieldDescriptor *f, bool in_map_entry)
{
    if (f->label == PROTOBUF_C_LABEL_REPEATED)
        return false;
    return in_map_entry || f->type == PROTOBUF_C_TYPE_MESSAGE || (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0;
}

struct level { /* what one message has shown so far */
    const ProtobufCMessageDescriptor *d;
    unsigned depth;
    bool map_entry;
    uint32_t seen[FIELDS_MAX];
    const ProtobufCFieldDescriptor *map; /* the one whose keys are collected: a message of ours has at most one map */
    struct bytes keys[DECODE_MAP_MAX];   /* sorted */
    size_t nkeys;
};

static struct result count_field(struct scan *s, struct level *l, const ProtobufCFieldDescriptor *f, size_t n)
{
    size_t i = (size_t)(f - l->d->fields);

    if (once_only(f, l->map_entry)) {
        if (l->seen[i] > 0)
            return refuse(s, f->name, "given twice");
        if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0)
            for (unsigned j = 0; j < l->d->n_fields; j++)
                if (l->seen[j] > 0 && (l->d->fields[j].flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0 &&
                    l->d->fields[j].quantifier_offset == f->quantifier_offset)
                    return refuse(s, f->name, "only one of its group may be given");
    }
    if (n > DECODE_REPEATED_MAX || (l->seen[i] += (uint32_t)n) > DECODE_REPEATED_MAX) {
        if (f->label == PROTOBUF_C_LABEL_REPEATED)
            return refuse(s, f->name, "too many entries");
        return refuse(s, f->name, "given too often");
    }
    return ok();
}

/* The key of a map entry: field 1, absent means empty. */
static struct bytes entry_key(struct bytes entry)
{
    struct reader r = reader_of(entry);
    struct wire_field w;

    while (r.n > 0 && take_field(&r, &w))
        if (w.number == 1 && w.wire == WIRE_LEN)
            return w.payload;
    return BYTES("", 0);
}

static struct result add_map_key(struct scan *s, struct level *l, const ProtobufCFieldDescriptor *f, struct bytes entry)
{
    struct bytes key = entry_key(entry);
    size_t lo = 0, hi = l->nkeys;

    INVARIANT(l->map == NULL || l->map == f);
    l->map = f;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = bytes_compare(l->keys[mid], key);
        if (order == 0)
            return refuse(s, f->name, "a key is given twice");
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (l->nkeys == DECODE_MAP_MAX)
        return refuse(s, f->name, "too many entries");
    memmove(&l->keys[lo + 1], &l->keys[lo], (l->nkeys - lo) * sizeof(l->keys[0]));
    l->keys[lo] = key;
    l->nkeys++;
    return ok();
}

static struct result scan_message(struct scan *s, const ProtobufCMessageDescriptor *d, struct bytes untrusted,
                                  unsigned depth, bool map_entry);

static struct result scan_known(struct scan *s, struct level *l, const ProtobufCFieldDescriptor *f,
                                const struct wire_field *w)
{
    enum wire want = wire_of(f->type);
    size_t n = 1;

    if (w->wire != want) {
        /* proto3 writers pack repeated scalars: both forms must be read */
        if (f->label != PROTOBUF_C_LABEL_REPEATED || want == WIRE_LEN || w->wire != WIRE_LEN)
            return refuse(s, f->name, "has the wrong wire type");
        n = packed_count(w->payload, want);
        if (n == SIZE_MAX)
            return refuse(s, f->name, "is damaged");
    }
    TRY(count_field(s, l, f, n));
    s->cost += MEMBER_COST_BYTES + w->payload.n + n * sizeof(uint64_t);
    if (f->type == PROTOBUF_C_TYPE_BYTES && is_marked(f) && !text_is_clean_utf8(w->payload))
        return refuse(s, f->name, "must be UTF-8 without control characters");
    if (f->type != PROTOBUF_C_TYPE_MESSAGE)
        return ok();
    if (is_map(f))
        TRY(add_map_key(s, l, f, w->payload));
    return scan_message(s, f->descriptor, w->payload, l->depth + 1, is_map(f));
}

static struct result scan_message(struct scan *s, const ProtobufCMessageDescriptor *d, struct bytes untrusted,
                                  unsigned depth, bool map_entry)
{
    struct level l; /* set by hand: clearing the whole key list for each nested message would show in profiles */
    struct reader r = reader_of(untrusted);

    INVARIANT(d->n_fields <= FIELDS_MAX);
    l.d = d;
    l.depth = depth;
    l.map_entry = map_entry;
    l.map = NULL;
    l.nkeys = 0;
    memset(l.seen, 0, d->n_fields * sizeof(l.seen[0]));
    if (depth > DECODE_DEPTH_MAX)
        return refuse(s, NULL, "the message is nested too deep");
    s->cost += d->sizeof_message + MESSAGE_COST_BYTES;
    while (r.n > 0) {
        const ProtobufCFieldDescriptor *f;
        struct wire_field w;
        if (!take_field(&r, &w))
            return refuse(s, NULL, "the message is not valid protobuf");
        f = protobuf_c_message_descriptor_get_field(d, w.number);
        if (f != NULL) {
            TRY(scan_known(s, &l, f, &w));
        } else {
            if (++s->unknown > DECODE_UNKNOWN_MAX)
                return refuse(s, NULL, "the message has too many unknown fields");
            s->cost += MEMBER_COST_BYTES + w.payload.n;
        }
        if (s->cost > s->cost_max)
            return refuse(s, NULL, "the message needs too much memory");
    }
    return ok();
}

static void *alloc_in_arena(void *arena, size_t n)
{
    return arena_alloc(arena, n);
}

static void free_in_arena(void *arena, void *p)
{
    (void)arena, (void)p; /* the arena goes as a whole */
}

RESULT decode_message(const ProtobufCMessageDescriptor *d, struct bytes untrusted, struct arena *a, ProtobufCMessage **ret,
                      struct err *e)
{
    struct scan s = {.e = e, .cost_max = a->used < a->max ? a->max - a->used : 0};
    ProtobufCAllocator alloc = {alloc_in_arena, free_in_arena, a};
    ProtobufCMessage *m;

    TRY(scan_message(&s, d, untrusted, 1, false));
    m = protobuf_c_message_unpack(d, &alloc, untrusted.n, untrusted.n > 0 ? untrusted.p : (const uint8_t *)"");
    if (m == NULL)
        return a->refused ? err_set(e, ERR_EXHAUSTED, "NO_MEMORY", __FILE__, __LINE__, "no memory to decode %s", d->name)
                          : refuse(&s, NULL, "the message is not valid protobuf");
    *ret = m;
    return ok();
}
