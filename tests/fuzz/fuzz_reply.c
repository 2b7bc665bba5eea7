/* Target functions: what the client library and kmsctl read from a server that is not ours: messages (wire_unpack), the library's
 * calls on top of them (keys.c, batch.c, local.c), kmsctl's text of any answer (json_of), and errors (client_fail_status). Our own
 * rpc_* stand in for the network: they answer with the input. A call either gives what claviger.h promises or fails with one of
 * its codes; a batch of two has two outcomes; texts are ended and have no control characters.
 *
 * Input: u8 what (below 160 a message: then u16 which; to 169 a local message: u8 how, u8 length of its wrapped key, block), then per answer: u8 how (0: an error; odd: a script for tests/fuzz/build.h; else the message as it is), u8
 * length and bytes. */
#include "vault/client/cache.h"
#include "vault/client/internal.h"
#include "vault/client/local.h"
#include "vault/client/wire.h"
#include "vault/cmd/kmsctl/kmsctl.h"

#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "tests/fuzz/build.h"

#include <grpc/grpc.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct reader input;
static struct claviger *client;

static struct bytes block(void)
{
    size_t n = reader_u8(&input);
    return reader_take(&input, n < input.n ? n : input.n);
}

/* ---- the network ---- */
static struct result status(struct bytes in, struct claviger_error *e)
{
    struct reader r = reader_of(in);
    struct buf details, any;
    int code = (int)reader_u8(&r) - 1;
    struct bytes message = reader_take(&r, r.n < 8 ? r.n : 8);
    static const ProtobufCMessageDescriptor *const kinds[] = {&google__rpc__error_info__descriptor, &google__rpc__bad_request__descriptor,
                                                               &google__rpc__retry_info__descriptor};
    buf_init(&details, BUILD_MAX);
    buf_init(&any, BUILD_MAX);
    if (reader_u8(&r) & 1) { /* a google.rpc.Status of that code with one detail of a known kind */
        const ProtobufCMessageDescriptor *d = kinds[reader_u8(&r) % 3];
        struct buf value, url;
        buf_init(&value, BUILD_MAX);
        buf_init(&url, 256);
        build_message(d, &r, BUILD_DEPTH, &value);
        buf_putf(&url, "type.googleapis.com/%s", d->name);
        build_varint(&any, 1 << 3 | 2);
        build_block(&any, buf_bytes(&url));
        build_varint(&any, 2 << 3 | 2);
        build_block(&any, buf_bytes(&value));
        build_varint(&details, 1 << 3);
        build_varint(&details, (uint64_t)code);
        build_varint(&details, 3 << 3 | 2);
        build_block(&details, buf_bytes(&any));
        buf_release(&value);
        buf_release(&url);
    } else {
        buf_put_bytes(&details, BYTES(r.p, r.n));
    }
    struct result done = client_fail_status(e, code, message, buf_bytes(&details), "request");
    buf_release(&details);
    buf_release(&any);
    return done;
}

static struct result answer(const ProtobufCMessageDescriptor *d, struct arena *a, ProtobufCMessage **ret, struct claviger_error *e)
{
    uint8_t how = reader_u8(&input);
    struct bytes in = block();
    struct buf wire;
    if (how == 0)
        return status(in, e);
    buf_init(&wire, BUILD_MAX);
    if (how & 1) {
        struct reader script = reader_of(in);
        build_message(d, &script, BUILD_DEPTH, &wire);
    } else {
        buf_put_bytes(&wire, in);
    }
    grpc_slice s = grpc_slice_from_copied_buffer((const char *)wire.p, wire.n);
    grpc_byte_buffer *b = grpc_raw_byte_buffer_create(&s, 1);
    struct result done = wire_unpack(b, d, a, ret, e);
    grpc_byte_buffer_destroy(b);
    grpc_slice_unref(s);
    buf_release(&wire);
    return done;
}

struct rpc *__wrap_rpc_start(struct transport *t, const struct rpc_options *o, const ProtobufCMessage *req);
struct result __wrap_rpc_finish(struct rpc *r, const ProtobufCMessageDescriptor *d, struct arena *a, ProtobufCMessage **ret,
                                struct claviger_error *e);
struct result __wrap_rpc_unary(struct transport *t, const struct rpc_options *o, const ProtobufCMessage *req,
                               const ProtobufCMessageDescriptor *d, struct arena *a, ProtobufCMessage **ret, struct claviger_error *e);

struct rpc *__wrap_rpc_start(struct transport *t, const struct rpc_options *o, const ProtobufCMessage *req)
{
    (void)t, (void)o, (void)req;
    return NULL;
}

struct result __wrap_rpc_finish(struct rpc *r, const ProtobufCMessageDescriptor *d, struct arena *a, ProtobufCMessage **ret,
                                struct claviger_error *e)
{
    (void)r;
    return answer(d, a, ret, e);
}

struct result __wrap_rpc_unary(struct transport *t, const struct rpc_options *o, const ProtobufCMessage *req,
                               const ProtobufCMessageDescriptor *d, struct arena *a, ProtobufCMessage **ret, struct claviger_error *e)
{
    (void)t, (void)o, (void)req;
    return answer(d, a, ret, e);
}

/* ---- what was read ---- */
static void check_text(const char *s, size_t n)
{
    INVARIANT(memchr(s, 0, n) != NULL);
    for (; *s; s++)
        INVARIANT((uint8_t)*s >= 0x20 && *s != 0x7f);
}

static void check_error(int code, const struct claviger_error *e)
{
    INVARIANT(code > CLAVIGER_OK && code <= CLAVIGER_UNAUTHENTICATED && e->code == code);
    check_text(e->reason, sizeof e->reason);
    check_text(e->field, sizeof e->field);
    check_text(e->message, sizeof e->message);
    INVARIANT(e->retry_after_ms <= 86400u * 1000 + 2147u);
}

static void check_item(struct claviger_item *item)
{
    INVARIANT(item->code >= CLAVIGER_OK && item->code <= CLAVIGER_UNAUTHENTICATED);
    INVARIANT(item->code == CLAVIGER_OK || (item->out.data == NULL && item->out.len == 0));
    check_text(item->reason, sizeof item->reason);
}

static void batch(bool encrypt)
{
    struct claviger_item items[2] = {{.in = "a", .in_len = 1}, {.in = "b", .in_len = 1}};
    struct claviger_error e = {0};
    int code = encrypt ? claviger_encrypt_batch(client, "key", items, 2, &e) : claviger_decrypt_batch(client, "key", items, 2, &e);
    if (code != CLAVIGER_OK)
        check_error(code, &e);
    if (code == CLAVIGER_OK)
        INVARIANT(items[0].code == CLAVIGER_OK && items[1].code == CLAVIGER_OK);
    if (code == CLAVIGER_ABORTED && strcmp(e.reason, "ITEMS_FAILED") == 0)
        INVARIANT(items[0].code != CLAVIGER_OK || items[1].code != CLAVIGER_OK);
    check_item(&items[0]);
    check_item(&items[1]);
    claviger_items_free(items, 2);
}

static void single(unsigned what)
{
    static const struct claviger_pair pair = {"k", "v"};
    static const struct claviger_binding pairs = {.context = &pair, .context_len = 1};
    struct claviger_buffer out = {0}, wrapped = {0};
    struct claviger_error e = {0};
    int code;
    switch (what) {
    case 0:
        code = claviger_encrypt(client, "key", "plain", 5, NULL, &out, &e);
        break;
    case 1:
        code = claviger_decrypt(client, "key", "sealed", 6, NULL, &out, &e);
        break;
    case 2:
        code = claviger_encrypt(client, "key", "plain", 5, &pairs, &out, &e);
        break;
    case 3:
        code = claviger_unwrap(client, "key", "sealed", 6, &pairs, &out, &e);
        break;
    case 4:
        code = claviger_rewrap(client, "key", "sealed", 6, NULL, &out, &e);
        break;
    case 5:
        code = claviger_generate_data_key(client, "key", 32, NULL, &out, &wrapped, &e);
        INVARIANT(code != CLAVIGER_OK || out.len == 32);
        break;
    default:
        claviger_forget_keys(client);
        code = claviger_local_encrypt(client, "key", "plain", 5, NULL, &out, &e);
    }
    if (code != CLAVIGER_OK) {
        INVARIANT(out.data == NULL && wrapped.data == NULL);
        check_error(code, &e);
    }
    claviger_buffer_free(&out);
    claviger_buffer_free(&wrapped);
}

/* Every message type that there is, told from enums and services by its first word. The list is made from the library (quality.mk),
 * so that a new message is here without anyone adding it. */
#define X(symbol) extern const ProtobufCMessageDescriptor symbol;
#include <fuzz_descriptors.inc>
#undef X
static const ProtobufCMessageDescriptor *const descriptors[] = {
#define X(symbol) &symbol,
#include <fuzz_descriptors.inc>
#undef X
};
enum { DESCRIPTORS = sizeof descriptors / sizeof descriptors[0] };

/* A message of claviger_local_*, which anybody may have written: header as it should be or as it comes, then whatever. Nothing opens but
 * what was sealed, whatever key the server gives for it. */
static void local(void)
{
    CLEANUP(buf_release) struct buf m = {0};
    struct claviger_buffer out = {0};
    struct claviger_error e = {0};
    struct local_parts p;
    uint8_t how = reader_u8(&input), wrapped = reader_u8(&input);
    buf_init(&m, 1 << 16);
    if (how & 1) {
        buf_put(&m, "CLVL\1\0\0\0", 8);
        buf_put_u16(&m, (uint16_t)(how & 2 ? wrapped : wrapped << 3));
    }
    buf_put_bytes(&m, block());
    for (unsigned i = 0; how & 4 && i < 90u + wrapped; i++)
        buf_put_u8(&m, (uint8_t)i);
    if (!local_parse(buf_bytes(&m), &p, &e).failed) {
        INVARIANT(p.header.p == m.p && p.wrapped.n <= LOCAL_WRAPPED_MAX && p.salt.n == LOCAL_SALT_BYTES);
        INVARIANT(p.header.n + p.commitment.n + p.sealed.n == m.n && p.sealed.n >= LOCAL_TAG_BYTES);
    }
    claviger_forget_keys(client);
    int code = claviger_local_decrypt(client, "key", m.p, m.n, NULL, &out, &e);
    INVARIANT(code != CLAVIGER_OK && out.data == NULL);
    check_error(code, &e);
    claviger_buffer_free(&out);
}

/* Any answer of any row, and the event inside a record of the log, as kmsctl prints them. */
static void printed(const ProtobufCMessageDescriptor *d)
{
    CLEANUP(arena_release) struct arena a = {0};
    struct claviger_error e = {0};
    ProtobufCMessage *m = NULL;
    arena_init(&a, CLIENT_ARENA_MAX);
    if (answer(d, &a, &m, &e).failed) {
        check_error(e.code, &e);
        return;
    }
    json_t *j = json_of(m);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    INVARIANT(text != NULL);
    free(text);
    json_decref(j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct cache_limits limits = {.keys = 4, .age_ms = 1000, .uses = 10};
    struct err e = {0};
    if (client == NULL) {
        grpc_init();
        INVARIANT(!secret_slab_init(16, &e).failed && (client = calloc(1, sizeof *client)) != NULL);
        client->cache = cache_new(&limits, &clock_system);
    }
    input = reader_of(BYTES(data, size));
    uint8_t what = reader_u8(&input);
    if (what < 160) {
        const ProtobufCMessageDescriptor *d = descriptors[reader_u16(&input) % DESCRIPTORS];
        if (d->magic == PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC)
            printed(d);
    } else if (what < 170) {
        local();
    } else if (what < 192) {
        batch(what & 1);
    } else {
        single(what % 7);
    }
    return 0;
}
