/* Targets: vault/service/decode and, behind it, what each row reads out of its request: names, filters of batches, counts.
 * The request types are those of the RPC table: a new RPC is fuzzed without anyone adding it. What passes the scan must unpack
 * within the arena, survive a round trip, and pass again; what is refused says so with the one code; and a row's resources are
 * names that format to what they were parsed from, or are refused as ERR_INVALID.
 *
 * Input: u16 row, u8 how (even: the rest is the message as it is; odd: a script for tests/fuzz/build.h). */
#include "vault/service/call.h"
#include "vault/service/decode.h"
#include "vault/service/pipeline.h"

#include "tests/fuzz/build.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ARENA_BYTES = CALL_ARENA_MAX };

static void again(const ProtobufCMessageDescriptor *d, const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *wire = malloc(n + 1);
    ProtobufCMessage *second = NULL;
    struct arena a;
    struct err e = {0};

    INVARIANT(wire != NULL && protobuf_c_message_pack(m, wire) == n);
    arena_init(&a, 2 * ARENA_BYTES); /* unknown fields may be written longer than they came */
    INVARIANT(!decode_message(d, BYTES(wire, n), &a, &second, &e).failed);
    INVARIANT(protobuf_c_message_get_packed_size(second) == n);
    arena_release(&a);
    free(wire);
}

static void check_resource(const struct name *n)
{
    char text[NAME_MAX_BYTES];
    struct name parsed;
    struct err e = {0};
    if (n->kind == NAME_NONE)
        return;
    size_t len = name_format(n, text);
    INVARIANT(!name_parse_any(BYTES(text, len), ~0u, "name", &parsed, &e).failed && name_equal(n, &parsed));
}

/* The extractor must do with the message alone: nothing is looked up before the caller is bound to a tenant. */
static void check_resources(struct call *c, const ProtobufCMessage *m)
{
    struct err e = {0};
    if (c->row->plane == PLANE_PUBLIC)
        return;
    if (c->row->resources(c, m, &e).failed) {
        INVARIANT(e.code == ERR_INVALID && e.field != NULL && e.hint != NULL);
        return;
    }
    INVARIANT(c->nresources > 0 && c->nresources <= CALL_ITEMS_MAX);
    for (size_t i = 0; i < c->nresources; i++)
        check_resource(&c->resources[i].name);
}

static void decode(const struct rpc_row *row, struct bytes wire)
{
    struct call_private private = {0};
    struct call c = {.row = row, .priv = &private};
    ProtobufCMessage *m = NULL;
    struct err e = {0};
    arena_init(&c.arena, ARENA_BYTES);
    if (decode_message(row->request, wire, &c.arena, &m, &e).failed) {
        INVARIANT(e.code == ERR_INVALID && e.hint != NULL && strcmp(e.reason, "MALFORMED_MESSAGE") == 0 && m == NULL);
    } else {
        INVARIANT(m->descriptor == row->request);
        check_resources(&c, m);
        again(row->request, m);
    }
    arena_release(&c.arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = reader_of(BYTES(data, size));
    size_t nrows;
    const struct rpc_row *const *rows = table_rows(&nrows);
    const struct rpc_row *row = rows[reader_u16(&r) % nrows];
    bool script = reader_u8(&r) & 1;
    struct buf wire;
    if (r.bad || size > CALL_REQUEST_MAX)
        return 0;
    if (!script) {
        decode(row, BYTES(r.p, r.n));
        return 0;
    }
    buf_init(&wire, BUILD_MAX);
    build_message(row->request, &r, BUILD_DEPTH, &wire);
    decode(row, buf_bytes(&wire));
    buf_release(&wire);
    return 0;
}
