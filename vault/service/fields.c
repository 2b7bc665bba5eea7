#include "vault/service/fields.h"

#include <string.h>

enum { NS_PER_S = 1000000000 };

static RESULT one_resource(struct call *c, const struct name *n, struct err *e)
{
    c->resources = arena_zalloc(&c->arena, sizeof *c->resources);
    if (c->resources == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "no room for the resource");
    c->resources[0].name = *n;
    c->nresources = 1;
    return ok();
}

RESULT field_resource(struct call *c, ProtobufCBinaryData name, unsigned kinds, const char *field, struct err *e)
{
    struct name n;
    TRY(name_parse_any(pb_bytes(name), kinds, field, &n, e));
    return one_resource(c, &n, e);
}

RESULT field_instance(struct call *c, struct err *e)
{
    struct name n = {.kind = NAME_NONE};
    return one_resource(c, &n, e);
}

RESULT field_child(struct call *c, ProtobufCBinaryData parent, enum name_kind parent_kind, const char *parent_field,
                   ProtobufCBinaryData id, const char *id_field, struct err *e)
{
    struct name n;
    TRY(name_parse(pb_bytes(parent), parent_kind, parent_field, &n, e));
    enum name_kind kind = parent_kind == NAME_LOCATION ? NAME_KEYRING : NAME_CRYPTOKEY;
    if (!name_valid_id(pb_bytes(id), kind))
        return err_field(e, id_field, "1 to 63 of a-z, A-Z, 0-9, _ and -");
    n.kind = kind;
    if (kind == NAME_KEYRING)
        n.ring = pb_bytes(id);
    else
        n.key = pb_bytes(id);
    return one_resource(c, &n, e);
}

Google__Protobuf__Timestamp *field_time(struct call *c, int64_t unix_ns)
{
    if (unix_ns == 0)
        return NULL;
    Google__Protobuf__Timestamp *t = call_new_message(c, &google__protobuf__timestamp__descriptor);
    INVARIANT(t != NULL);
    t->seconds = unix_ns / NS_PER_S;
    t->nanos = (int32_t)(unix_ns % NS_PER_S);
    return t;
}

Google__Protobuf__Duration *field_duration(struct call *c, int64_t seconds)
{
    if (seconds == 0)
        return NULL;
    Google__Protobuf__Duration *d = call_new_message(c, &google__protobuf__duration__descriptor);
    INVARIANT(d != NULL);
    d->seconds = seconds;
    return d;
}

Google__Protobuf__Int64Value *field_crc32c(struct call *c, struct bytes data)
{
    Google__Protobuf__Int64Value *v = call_new_message(c, &google__protobuf__int64_value__descriptor);
    INVARIANT(v != NULL);
    v->value = crc32c(data);
    return v;
}

RESULT field_check_crc32c(const Google__Protobuf__Int64Value *sent, struct bytes data, const char *field, bool *ret_verified,
                          struct err *e)
{
    *ret_verified = false;
    if (sent == NULL)
        return ok();
    if (sent->value != (int64_t)crc32c(data)) {
        struct result r = err_field(e, field, "does not match the data received: corrupted on the way");
        e->reason = "CRC32C_MISMATCH";
        return r;
    }
    *ret_verified = true;
    return ok();
}

RESULT field_check_size(struct bytes data, size_t max, const char *field, struct err *e)
{
    if (data.n > max)
        return err_field(e, field, "too long: at most 64 KiB");
    return ok();
}

RESULT field_aad(ProtobufCMessage *const *context, size_t n, ProtobufCBinaryData plain, struct buf *out, struct err *e)
{
    if (n > 0 && plain.len > 0)
        return err_field(e, "context", "give a context or additional_authenticated_data, not both");
    if (n == 0) {
        TRY(field_check_size(pb_bytes(plain), FIELD_BYTES_MAX, "additional_authenticated_data", e));
        format_plain_aad(pb_bytes(plain), out);
        return ok();
    }
    struct format_pair pairs[FORMAT_CONTEXT_PAIRS_MAX];
    if (n > FORMAT_CONTEXT_PAIRS_MAX)
        return err_field(e, "context", "at most 32 pairs");
    for (size_t i = 0; i < n; i++) {
        const struct field_pair *p = (const struct field_pair *)context[i];
        pairs[i] = (struct format_pair){pb_bytes(p->key), pb_bytes(p->value)};
    }
    return format_context_aad(pairs, n, out, e);
}

static bool path_is(ProtobufCBinaryData path, const char *want)
{
    return bytes_equal(pb_bytes(path), bytes_str(want));
}

RESULT field_mask_check(const Google__Protobuf__FieldMask *mask, const char *const *known, struct err *e)
{
    if (mask == NULL || mask->n_paths == 0)
        return err_field(e, "update_mask", "must name at least one field");
    for (size_t i = 0; i < mask->n_paths; i++) {
        size_t j = 0;
        while (known[j] != NULL && !path_is(mask->paths[i], known[j]))
            j++;
        if (known[j] == NULL)
            return err_field(e, "update_mask", "names a field that does not exist or cannot be changed");
    }
    return ok();
}

bool field_mask_has(const Google__Protobuf__FieldMask *mask, const char *path)
{
    for (size_t i = 0; mask != NULL && i < mask->n_paths; i++)
        if (path_is(mask->paths[i], path))
            return true;
    return false;
}
