#include "vault/cmd/kmsctl/kmsctl.h"

#include "base/text.h"
#include "google/protobuf/duration.pb-c.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "kms/name/name.h"

#include <stdlib.h>
#include <string.h>

/* On the wire text and bytes look alike, and the generated code keeps them both as bytes: these fields are bytes. */
static const char *const base64_fields[] = {"ciphertext", "plaintext", "plaintext_key", "wrapped_key", "leaf", "nonce", "data"};
static const char *const hex_fields[] = {"id", "digest", "policy_digest", "certificate", "kvid"};

static bool listed(const char *name, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(name, list[i]) == 0)
            return true;
    }
    return false;
}

static json_t *text_json(struct bytes b)
{
    json_t *j = json_stringn((const char *)b.p, b.n);
    return j ? j : json_of_bytes(b); /* not UTF-8 after all */
}

json_t *json_of_bytes(struct bytes b)
{
    CLEANUP(buf_release) struct buf out;
    buf_init(&out, b.n * 2 + 8);
    base64_encode(b, false, &out);
    return json_string(buf_cstr(&out));
}

static json_t *bytes_json(const ProtobufCFieldDescriptor *f, ProtobufCBinaryData d)
{
    struct bytes b = pb_bytes_of(d);
    if (listed(f->name, base64_fields, sizeof base64_fields / sizeof *base64_fields))
        return json_of_bytes(b);
    if (!listed(f->name, hex_fields, sizeof hex_fields / sizeof *hex_fields))
        return text_json(b);
    char hex[129];
    hex_encode(b.p, b.n < 64 ? b.n : 64, hex);
    return json_string(hex);
}

static json_t *time_json(const Google__Protobuf__Timestamp *t)
{
    char text[TEXT_RFC3339_BYTES];
    if (t->seconds < -9000000000 || t->seconds > 9000000000)
        return json_integer(t->seconds);
    text_format_rfc3339(t->seconds * 1000000000 + t->nanos, text);
    return json_string(text);
}

static json_t *duration_json(const Google__Protobuf__Duration *d)
{
    char text[64];
    snprintf(text, sizeof text, d->nanos ? "%lld.%03ds" : "%llds", (long long)d->seconds, (int)(labs((long)d->nanos) / 1000000));
    return json_string(text);
}

static json_t *message_json(const ProtobufCMessage *m)
{
    if (!m)
        return json_null();
    if (m->descriptor == &google__protobuf__timestamp__descriptor)
        return time_json((const void *)m);
    if (m->descriptor == &google__protobuf__duration__descriptor)
        return duration_json((const void *)m);
    if (m->descriptor == &google__protobuf__int64_value__descriptor)
        return json_integer(((const Google__Protobuf__Int64Value *)m)->value);
    return json_of(m);
}

static json_t *enum_json(const ProtobufCFieldDescriptor *f, int v)
{
    const ProtobufCEnumValue *ev = protobuf_c_enum_descriptor_get_value(f->descriptor, v);
    return ev ? json_string(ev->name) : json_integer(v);
}

static json_t *value_json(const ProtobufCFieldDescriptor *f, const void *p)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return json_integer(*(const int32_t *)p);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return json_integer(*(const int64_t *)p);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return json_integer(*(const uint32_t *)p);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return json_integer((json_int_t)*(const uint64_t *)p);
    case PROTOBUF_C_TYPE_FLOAT:
        return json_real((double)*(const float *)p);
    case PROTOBUF_C_TYPE_DOUBLE:
        return json_real(*(const double *)p);
    case PROTOBUF_C_TYPE_BOOL:
        return json_boolean(*(const protobuf_c_boolean *)p);
    case PROTOBUF_C_TYPE_ENUM:
        return enum_json(f, *(const int *)p);
    case PROTOBUF_C_TYPE_STRING:
        return json_string(*(char *const *)p);
    case PROTOBUF_C_TYPE_BYTES:
        return bytes_json(f, *(const ProtobufCBinaryData *)p);
    case PROTOBUF_C_TYPE_MESSAGE:
        return message_json(*(ProtobufCMessage *const *)p);
    }
    return json_null();
}

static size_t element_size(const ProtobufCFieldDescriptor *f)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_MESSAGE:
    case PROTOBUF_C_TYPE_STRING:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    default:
        return 4;
    }
}

struct map_entry {
    ProtobufCMessage base;
    ProtobufCBinaryData key, value;
};

static json_t *repeated_json(const ProtobufCFieldDescriptor *f, size_t n, const uint8_t *array)
{
    const ProtobufCMessageDescriptor *d = f->type == PROTOBUF_C_TYPE_MESSAGE ? f->descriptor : NULL;
    size_t len = d ? strlen(d->name) : 0;
    bool map = len > 5 && strcmp(d->name + len - 5, "Entry") == 0 && d->n_fields == 2 &&
               d->sizeof_message == sizeof(struct map_entry);
    json_t *out = map ? json_object() : json_array();
    for (size_t i = 0; i < n; i++) {
        const void *p = array + i * element_size(f);
        if (!map) {
            json_array_append_new(out, value_json(f, p));
            continue;
        }
        const struct map_entry *m = *(struct map_entry *const *)p;
        char key[512];
        client_copy_text(key, sizeof key, pb_bytes_of(m->key));
        json_object_set_new(out, key, text_json(pb_bytes_of(m->value)));
    }
    return out;
}

json_t *json_of(const ProtobufCMessage *m)
{
    json_t *out = json_object();
    const ProtobufCMessageDescriptor *d = m->descriptor;
    for (unsigned i = 0; i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        const uint8_t *base = (const uint8_t *)m, *p = base + f->offset;
        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            json_object_set_new(out, f->name,
                                repeated_json(f, *(const size_t *)(const void *)(base + f->quantifier_offset),
                                              *(uint8_t *const *)(const void *)p));
            continue;
        }
        bool absent = (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
                      *(const uint32_t *)(const void *)(base + f->quantifier_offset) != f->id;
        if (!absent && f->type == PROTOBUF_C_TYPE_MESSAGE)
            absent = *(void *const *)(const void *)p == NULL;
        if (!absent)
            json_object_set_new(out, f->name, value_json(f, p));
    }
    return out;
}

void print_json(const json_t *j)
{
    json_dumpf(j, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
    fputc('\n', stdout);
}

void print_json_line(const json_t *j)
{
    json_dumpf(j, stdout, JSON_COMPACT);
    fputc('\n', stdout);
}

/* ---- tables ------------------------------------------------------------------------------------------------------------ */

enum { COLUMNS_MAX = 12, CELL = 256 };
static const char none[] = "-";
struct column {
    char title[32], path[64];
};

static size_t columns_of(const char *spec, struct column out[COLUMNS_MAX])
{
    size_t n = 0;
    while (*spec && n < COLUMNS_MAX) {
        size_t len = strcspn(spec, "|"), title = strcspn(spec, " ");
        snprintf(out[n].title, sizeof out[n].title, "%.*s", (int)title, spec);
        snprintf(out[n].path, sizeof out[n].path, "%.*s", (int)(len - title - 1), spec + title + 1);
        n++;
        spec += len + (spec[len] == '|');
    }
    return n;
}

/* Text from the server may hold anything: nothing of it reaches the terminal as a control character. */
static void cell_text(const char *s, char out[CELL])
{
    struct name n;
    struct err e;
    char brief[NAME_MAX_BYTES];
    if (strncmp(s, "projects/", 9) == 0 && !name_parse_short(bytes_str(s), &n, &e).failed) {
        name_format_short(&n, brief);
        s = brief;
    }
    client_copy_text(out, CELL, bytes_str(s));
    if (!*out)
        memcpy(out, none, sizeof none);
}

static void cell_map(const json_t *v, char out[CELL])
{
    const char *k;
    json_t *item;
    size_t n = 0;
    out[0] = 0;
    json_object_foreach ((json_t *)(uintptr_t)v, k, item) {
        int w = snprintf(out + n, CELL - n, "%s%s=%s", n ? "," : "", k, json_is_string(item) ? json_string_value(item) : "...");
        n += w > 0 && (size_t)w < CELL - n ? (size_t)w : 0;
    }
    if (!*out)
        memcpy(out, none, sizeof none);
}

static void cell_list(const json_t *v, char out[CELL])
{
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *s = json_string_value(json_array_get(v, i));
        int w = snprintf(out + n, CELL - n, "%s%s", n ? ", " : "", s ? s : "...");
        n += w > 0 && (size_t)w < CELL - n ? (size_t)w : 0;
    }
    if (!*out)
        memcpy(out, none, sizeof none);
}

static void cell(const json_t *row, const char *path, char out[CELL])
{
    char part[64];
    const json_t *v = row;
    for (const char *p = path; v && *p;) {
        size_t n = strcspn(p, ".");
        snprintf(part, sizeof part, "%.*s", (int)n, p);
        v = json_object_get(v, part);
        p += n + (p[n] == '.');
    }
    if (json_is_string(v))
        cell_text(json_string_value(v), out);
    else if (json_is_integer(v))
        snprintf(out, CELL, "%lld", (long long)json_integer_value(v));
    else if (json_is_boolean(v))
        snprintf(out, CELL, "%s", json_is_true(v) ? "yes" : "no");
    else if (json_is_object(v))
        cell_map(v, out);
    else if (json_is_array(v))
        cell_list(v, out);
    else
        memcpy(out, none, sizeof none);
}

void print_table(const json_t *array, const char *columns)
{
    struct column col[COLUMNS_MAX];
    size_t ncol = columns_of(columns, col), width[COLUMNS_MAX];
    char text[CELL];
    for (size_t c = 0; c < ncol; c++) {
        width[c] = strlen(col[c].title);
        for (size_t r = 0; r < json_array_size(array); r++) {
            cell(json_array_get(array, r), col[c].path, text);
            if (strlen(text) > width[c])
                width[c] = strlen(text);
        }
    }
    for (size_t c = 0; c < ncol; c++)
        printf("%-*s%s", c + 1 < ncol ? (int)width[c] : 0, col[c].title, c + 1 < ncol ? "  " : "\n");
    for (size_t r = 0; r < json_array_size(array); r++) {
        for (size_t c = 0; c < ncol; c++) {
            cell(json_array_get(array, r), col[c].path, text);
            printf("%-*s%s", c + 1 < ncol ? (int)width[c] : 0, text, c + 1 < ncol ? "  " : "\n");
        }
    }
}

void print_record(const json_t *object, const char *columns)
{
    struct column col[COLUMNS_MAX];
    size_t n = columns_of(columns, col);
    char text[CELL];
    for (size_t c = 0; c < n; c++) {
        cell(object, col[c].path, text);
        printf("%-14s %s\n", col[c].title, text);
    }
}

RESULT show(struct ctl *c, const ProtobufCMessage *m, const char *columns, struct claviger_error *e)
{
    (void)e;
    json_t *j = json_of(m);
    if (c->json)
        print_json(j);
    else
        print_record(j, columns);
    json_decref(j);
    return ok();
}

RESULT show_list(struct ctl *c, json_t *take_array, const char *key, const char *columns, struct claviger_error *e)
{
    (void)e;
    if (c->json) {
        json_t *j = json_object();
        json_object_set(j, key, take_array);
        print_json(j);
        json_decref(j);
    } else {
        print_table(take_array, columns);
    }
    json_decref(take_array);
    return ok();
}
