/* Bounded decoding: what passes, and each refusal by name. Wire bytes are written by hand where no encoder would write them. */
#include "vault/service/decode.h"

#include <claviger/envelope/v1/envelope.pb-c.h>
#include <google/cloud/kms/v1/service.pb-c.h>
#include <google/rpc/status.pb-c.h>
#include <grpc/reflection/v1/reflection.pb-c.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define WRAP &claviger__envelope__v1__wrap_request__descriptor
#define ENCRYPT &google__cloud__kms__v1__encrypt_request__descriptor
#define BATCH &claviger__envelope__v1__batch_encrypt_request__descriptor
enum { ARENA_BYTES = 8 << 20 };

struct fixture {
    struct arena arena;
    struct err e;
    ProtobufCMessage *m;
};

static bool decode(struct fixture *f, const ProtobufCMessageDescriptor *d, struct bytes wire)
{
    arena_init(&f->arena, ARENA_BYTES);
    f->e = (struct err){0};
    f->m = NULL;
    return !decode_message(d, wire, &f->arena, &f->m, &f->e).failed;
}

static void done(struct fixture *f)
{
    arena_release(&f->arena);
}

static void refused(const ProtobufCMessageDescriptor *d, struct bytes wire, const char *field, const char *hint)
{
    struct fixture f;

    assert_false(decode(&f, d, wire));
    assert_int_equal(f.e.code, ERR_INVALID);
    assert_string_equal(f.e.reason, "MALFORMED_MESSAGE");
    if (field == NULL)
        assert_null(f.e.field);
    else
        assert_string_equal(f.e.field, field);
    assert_string_equal(f.e.hint, hint);
    assert_null(f.m);
    done(&f);
}

/* tag and length of a length-delimited field, then its bytes */
static void put(struct buf *b, unsigned number, struct bytes v)
{
    buf_put_u8(b, (uint8_t)(number << 3 | 2));
    for (size_t n = v.n; ; n >>= 7) {
        buf_put_u8(b, (uint8_t)((n & 0x7f) | (n > 0x7f ? 0x80 : 0)));
        if (n <= 0x7f)
            break;
    }
    buf_put_bytes(b, v);
}

static void put_entry(struct buf *b, unsigned number, const char *key, const char *value)
{
    CLEANUP(buf_release) struct buf entry;

    buf_init(&entry, 1024);
    put(&entry, 1, bytes_str(key));
    put(&entry, 2, bytes_str(value));
    put(b, number, buf_bytes(&entry));
}

#define BUF(name)                                                                                                      \
    CLEANUP(buf_release) struct buf name;                                                                              \
    buf_init(&name, 1 << 20)
#define NOT_PROTOBUF "the message is not valid protobuf"
#define BAD_TEXT "must be UTF-8 without control characters"

static void reads_a_message(void **state)
{
    struct fixture f;
    const Claviger__Envelope__V1__WrapRequest *m;
    BUF(b);

    (void)state;
    put(&b, 1, BYTES_LIT("projects/acme"));
    put(&b, 2, BYTES("\0key\xff", 5)); /* bytes may hold anything */
    put_entry(&b, 3, "b", "2");
    put_entry(&b, 3, "a", "");
    assert_true(decode(&f, WRAP, buf_bytes(&b)));
    m = (const void *)f.m;
    assert_int_equal(m->name.len, 13);
    assert_memory_equal(m->plaintext_key.data, "\0key\xff", 5);
    assert_int_equal(m->n_context, 2);
    assert_memory_equal(m->context[0]->key.data, "b", 1);
    done(&f);
}

static void an_empty_message_is_a_message(void **state)
{
    struct fixture f;

    (void)state;
    assert_true(decode(&f, WRAP, (struct bytes){0}));
    assert_int_equal(((const Claviger__Envelope__V1__WrapRequest *)(const void *)f.m)->name.len, 0);
    done(&f);
}

static void unknown_fields_are_skipped(void **state)
{
    struct fixture f;
    BUF(b);

    (void)state;
    put(&b, 15, BYTES_LIT("from the future"));
    buf_put(&b, "\x80\x01\x05", 3); /* field 16, varint */
    put(&b, 1, BYTES_LIT("x"));
    assert_true(decode(&f, WRAP, buf_bytes(&b)));
    done(&f);
    for (int i = 0; i < DECODE_UNKNOWN_MAX; i++)
        put(&b, 15, BYTES_LIT(""));
    refused(WRAP, buf_bytes(&b), NULL, "the message has too many unknown fields");
}

static void strings_are_checked(void **state)
{
    static const struct bytes bad[] = {BYTES("a\0b", 3), BYTES("\xc0\x80", 2), BYTES("\xed\xa0\x80", 3), BYTES("\xff", 1),
                                       BYTES("a\n", 2)};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        BUF(b);
        put(&b, 1, bad[i]);
        refused(WRAP, buf_bytes(&b), "name", BAD_TEXT);
    }
    BUF(in_map);
    put_entry(&in_map, 3, "k\x01", "v");
    refused(WRAP, buf_bytes(&in_map), "key", BAD_TEXT);
}

static void a_map_key_counts_once(void **state)
{
    struct fixture f;
    BUF(b);
    BUF(same);
    BUF(absent);

    (void)state;
    put_entry(&b, 3, "b", "1");
    put_entry(&b, 3, "a", "1");
    put_entry(&b, 3, "ab", "1");
    assert_true(decode(&f, WRAP, buf_bytes(&b)));
    done(&f);
    put_entry(&b, 3, "a", "2");
    refused(WRAP, buf_bytes(&b), "context", "a key is given twice");
    put_entry(&same, 3, "", "1"); /* absent and empty are one key */
    put(&same, 3, BYTES_LIT(""));
    refused(WRAP, buf_bytes(&same), "context", "a key is given twice");
    put(&absent, 3, BYTES_LIT("\x0a\x01" "a" "\x0a\x01" "b")); /* which of the two would it be? */
    refused(WRAP, buf_bytes(&absent), "key", "given twice");
}

static void maps_are_bounded(void **state)
{
    struct fixture f;
    char key[16];
    BUF(b);

    (void)state;
    for (int i = 0; i < DECODE_MAP_MAX; i++) {
        snprintf(key, sizeof(key), "k%d", (i * 37) % 64); /* out of order */
        put_entry(&b, 3, key, "v");
    }
    assert_true(decode(&f, WRAP, buf_bytes(&b)));
    done(&f);
    put_entry(&b, 3, "one more", "v");
    refused(WRAP, buf_bytes(&b), "context", "too many entries");
}

static void a_submessage_counts_once(void **state)
{
    struct fixture f;
    BUF(b);

    (void)state;
    put(&b, 7, BYTES_LIT("\x08\x05"));
    assert_true(decode(&f, ENCRYPT, buf_bytes(&b)));
    assert_int_equal(((const Google__Cloud__Kms__V1__EncryptRequest *)(const void *)f.m)->plaintext_crc32c->value, 5);
    done(&f);
    put(&b, 7, BYTES_LIT("\x08\x06"));
    refused(ENCRYPT, buf_bytes(&b), "plaintext_crc32c", "given twice");
}

static void one_of_a_oneof(void **state)
{
    struct fixture f;
    BUF(b);

    (void)state;
    put(&b, 3, BYTES_LIT("a.proto"));
    assert_true(decode(&f, &grpc__reflection__v1__server_reflection_request__descriptor, buf_bytes(&b)));
    done(&f);
    put(&b, 4, BYTES_LIT("a.B"));
    refused(&grpc__reflection__v1__server_reflection_request__descriptor, buf_bytes(&b), "file_containing_symbol",
            "only one of its group may be given");
}

static void a_scalar_given_again_wins(void **state)
{
    struct fixture f;
    BUF(b);

    (void)state;
    put(&b, 1, BYTES_LIT("old"));
    put(&b, 1, BYTES_LIT("newer"));
    assert_true(decode(&f, ENCRYPT, buf_bytes(&b)));
    assert_int_equal(((const Google__Cloud__Kms__V1__EncryptRequest *)(const void *)f.m)->name.len, 5);
    done(&f);
}

static void damaged_bytes_are_refused(void **state)
{
    static const struct bytes bad[] = {
        BYTES("\x0a", 1),                     /* no length */
        BYTES("\x0a\x05" "abc", 5),           /* cut short */
        BYTES("\x0a\xff\xff\xff\xff\x0f", 6), /* four gigabytes */
        BYTES("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12),
        BYTES("\x00\x01", 2),                 /* field 0 */
        BYTES("\xff\xff\xff\xff\xff\x01", 6), /* tag beyond 32 bits */
        BYTES("\x7b", 1), BYTES("\x7c", 1),   /* group begins, ends */
        BYTES("\x7e\x00", 2), BYTES("\x7f\x00", 2),
        BYTES("\x79\x01\x02", 3),             /* unknown fixed64, cut */
        BYTES("\x7d\x01", 2),                 /* unknown fixed32, cut */
        BYTES("\x78\x80", 2),                 /* unknown varint, cut */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        refused(WRAP, bad[i], NULL, NOT_PROTOBUF);
    refused(WRAP, BYTES("\x08\x01", 2), "name", "has the wrong wire type");
    refused(ENCRYPT, BYTES("\x3a\x02\x0a\x00", 4), "value", "has the wrong wire type");
}

static void batches_are_bounded(void **state)
{
    struct fixture f;
    BUF(b);

    (void)state;
    for (int i = 0; i < DECODE_REPEATED_MAX; i++)
        put(&b, 2, BYTES_LIT("\x0a\x01x"));
    assert_true(decode(&f, BATCH, buf_bytes(&b)));
    assert_int_equal(((const Claviger__Envelope__V1__BatchEncryptRequest *)(const void *)f.m)->n_items, DECODE_REPEATED_MAX);
    done(&f);
    put(&b, 2, BYTES_LIT(""));
    refused(BATCH, buf_bytes(&b), "items", "too many entries");
}

/* Every item with a full map of empty entries: few bytes, much memory. Refused before anything is allocated. */
static void memory_is_known_before_it_is_taken(void **state)
{
    struct fixture f;
    BUF(item);
    BUF(b);

    (void)state;
    for (int i = 0; i < DECODE_MAP_MAX; i++) {
        char key[2] = {(char)(' ' + i), 0};
        put_entry(&item, 2, key, "");
    }
    for (int i = 0; i < 600; i++)
        put(&b, 2, buf_bytes(&item));
    assert_false(decode(&f, BATCH, buf_bytes(&b)));
    assert_string_equal(f.e.hint, "the message needs too much memory");
    assert_int_equal(f.arena.used, 0);
    done(&f);
}

/* The bound must hold, or a message that passed the scan would fail in the unpacker: exhaust the arena around it. */
static void the_bound_is_an_upper_bound(void **state)
{
    BUF(b);

    (void)state;
    for (int i = 0; i < 200; i++) {
        BUF(item);
        put(&item, 1, BYTES_LIT("plaintext"));
        put_entry(&item, 2, "k", "v");
        put(&item, 15, BYTES_LIT("unknown"));
        put(&b, 2, buf_bytes(&item));
    }
    for (size_t max = 4096; max < (1 << 20); max += 997) {
        struct fixture f = {0};
        arena_init(&f.arena, max);
        if (decode_message(BATCH, buf_bytes(&b), &f.arena, &f.m, &f.e).failed)
            assert_string_equal(f.e.hint, "the message needs too much memory");
        done(&f);
    }
}

/* No message of ours nests that deep, and none may be recursive: so one made here, a message whose field 1 is itself. */
struct nested {
    ProtobufCMessage base;
    struct nested *child;
};
static const ProtobufCMessageDescriptor nested_descriptor;
static const ProtobufCFieldDescriptor nested_fields[] = {{.name = "child",
                                                          .id = 1,
                                                          .label = PROTOBUF_C_LABEL_NONE,
                                                          .type = PROTOBUF_C_TYPE_MESSAGE,
                                                          .offset = offsetof(struct nested, child),
                                                          .descriptor = &nested_descriptor}};
static const unsigned nested_indices[] = {0};
static const ProtobufCIntRange nested_ranges[] = {{1, 0}, {0, 1}};
static void nested_init(ProtobufCMessage *m)
{
    *(struct nested *)(void *)m = (struct nested){.base = {.descriptor = &nested_descriptor}};
}
static const ProtobufCMessageDescriptor nested_descriptor = {.magic = PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC,
                                                             .name = "test.Nested",
                                                             .short_name = "Nested",
                                                             .c_name = "Nested",
                                                             .package_name = "test",
                                                             .sizeof_message = sizeof(struct nested),
                                                             .n_fields = 1,
                                                             .fields = nested_fields,
                                                             .fields_sorted_by_name = nested_indices,
                                                             .n_field_ranges = 1,
                                                             .field_ranges = nested_ranges,
                                                             .message_init = nested_init};

static void nesting_is_bounded(void **state)
{
    uint8_t wire[2 * DECODE_DEPTH_MAX];
    struct fixture f;

    (void)state;
    for (size_t i = 0; i < DECODE_DEPTH_MAX; i++) {
        wire[2 * i] = 0x0a;
        wire[2 * i + 1] = (uint8_t)(2 * (DECODE_DEPTH_MAX - 1 - i));
    }
    /* the message itself is the first level */
    assert_true(decode(&f, &nested_descriptor, BYTES(wire + 2, 2 * (DECODE_DEPTH_MAX - 1))));
    done(&f);
    refused(&nested_descriptor, BYTES(wire, sizeof(wire)), NULL, "the message is nested too deep");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_message),
        cmocka_unit_test(an_empty_message_is_a_message),
        cmocka_unit_test(unknown_fields_are_skipped),
        cmocka_unit_test(strings_are_checked),
        cmocka_unit_test(a_map_key_counts_once),
        cmocka_unit_test(maps_are_bounded),
        cmocka_unit_test(a_submessage_counts_once),
        cmocka_unit_test(one_of_a_oneof),
        cmocka_unit_test(a_scalar_given_again_wins),
        cmocka_unit_test(damaged_bytes_are_refused),
        cmocka_unit_test(batches_are_bounded),
        cmocka_unit_test(memory_is_known_before_it_is_taken),
        cmocka_unit_test(the_bound_is_an_upper_bound),
        cmocka_unit_test(nesting_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
