/* A message of any type out of the fuzzer's bytes, well formed most of the time: with random bytes alone hardly any input would
 * come past the first field. Mutations of the script change fields, not framing. Only what the descriptor says is known here. */
#ifndef TESTS_FUZZ_BUILD_H
#define TESTS_FUZZ_BUILD_H

#include "base/bytes.h"

#include <protobuf-c/protobuf-c.h>
#include <string.h>

enum { BUILD_DEPTH = 5, BUILD_MAX = 1 << 16 };

static void build_varint(struct buf *out, uint64_t v)
{
    while (v >= 0x80) {
        buf_put_u8(out, (uint8_t)(v | 0x80));
        v >>= 7;
    }
    buf_put_u8(out, (uint8_t)v);
}

static void build_block(struct buf *out, struct bytes b)
{
    build_varint(out, b.n);
    buf_put_bytes(out, b);
}

/* Texts that a field could want, so that what comes after their grammar is reached. */
static struct bytes build_text(struct reader *in)
{
    static const char *const texts[] = {
        "projects/acme", "projects/acme/locations/eu", "projects/acme/locations/eu/keyRings/pii",
        "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email", "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email/cryptoKeyVersions/1",
        "projects/globex/locations/us/keyRings/Pay/cryptoKeys/x_1", "principals/acme-orders", "acme", "eu", "1", "pii", "name desc",
        "name:pii AND state=ENABLED", "labels.env=prod", "labels", "primary", "spiffe://test.claviger/orders", "kms.cryptoKeys.encrypt", "",
        "projects/acme/locations/eu/../us", "projects/acme%2flocations", "projects/platform", "PROJECTS/acme", "projects/acme/",
    };
    uint8_t which = reader_u8(in);
    if (which < 192)
        return bytes_str(texts[which % (sizeof texts / sizeof texts[0])]);
    return reader_take(in, which == 255 ? reader_u8(in) : which - 192u);
}

static void build_message(const ProtobufCMessageDescriptor *d, struct reader *in, unsigned depth, struct buf *out);

static void build_value(const ProtobufCFieldDescriptor *f, struct reader *in, unsigned depth, struct buf *out)
{
    struct buf inner;
    switch (f->type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
        build_varint(out, f->id << 3 | 2);
        build_block(out, build_text(in));
        break;
    case PROTOBUF_C_TYPE_MESSAGE:
        buf_init(&inner, BUILD_MAX);
        if (depth > 0)
            build_message(f->descriptor, in, depth - 1, &inner);
        build_varint(out, f->id << 3 | 2);
        build_block(out, buf_bytes(&inner));
        buf_release(&inner);
        break;
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        build_varint(out, f->id << 3 | 1);
        buf_put_u64(out, reader_u64(in));
        break;
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        build_varint(out, f->id << 3 | 5);
        buf_put_u32(out, reader_u32(in));
        break;
    default: { /* a varint: small mostly, of any size now and then */
        uint8_t v = reader_u8(in);
        build_varint(out, f->id << 3);
        build_varint(out, v < 240 ? v : reader_u64(in));
    }
    }
}

/* Each field: none, one, or (repeated ones, and single ones against the rules now and then) several. 0xff: raw bytes follow. */
static void build_message(const ProtobufCMessageDescriptor *d, struct reader *in, unsigned depth, struct buf *out)
{
    for (unsigned i = 0; i < d->n_fields && in->n > 0; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        uint8_t how = reader_u8(in);
        unsigned times = how < 64 ? 0 : f->label == PROTOBUF_C_LABEL_REPEATED ? 1u + how % 4 : how >= 250 ? 2 : 1;
        for (unsigned k = 0; k < times; k++)
            build_value(f, in, depth, out);
        if (how == 255)
            buf_put_bytes(out, reader_take(in, reader_u8(in) % 16));
    }
}

#endif
