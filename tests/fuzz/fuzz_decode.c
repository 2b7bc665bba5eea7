/* Target: vault/service/decode. What passes the scan must unpack within the arena, survive a round trip, and pass again; what
 * is refused says so with the one code. The first byte picks the message. */
#include "vault/service/decode.h"

#include "base/text.h"

#include <claviger/envelope/v1/envelope.pb-c.h>
#include <claviger/policy/v1/policy.pb-c.h>
#include <google/cloud/kms/v1/service.pb-c.h>
#include <grpc/reflection/v1/reflection.pb-c.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *const messages[] = {
    &claviger__envelope__v1__wrap_request__descriptor,
    &claviger__envelope__v1__batch_encrypt_request__descriptor,
    &claviger__policy__v1__apply_policy_request__descriptor,
    &google__cloud__kms__v1__encrypt_request__descriptor,
    &google__cloud__kms__v1__create_crypto_key_request__descriptor,
    &google__cloud__kms__v1__update_crypto_key_request__descriptor,
    &grpc__reflection__v1__server_reflection_request__descriptor,
};
enum { ARENA_BYTES = 8 << 20 };

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const ProtobufCMessageDescriptor *d;
    ProtobufCMessage *m = NULL;
    struct arena a;
    struct err e = {0};

    if (size == 0)
        return 0;
    d = messages[data[0] % (sizeof(messages) / sizeof(messages[0]))];
    arena_init(&a, ARENA_BYTES);
    if (decode_message(d, BYTES(data + 1, size - 1), &a, &m, &e).failed) {
        INVARIANT(e.code == ERR_INVALID && e.hint != NULL && strcmp(e.reason, "MALFORMED_MESSAGE") == 0 && m == NULL);
    } else {
        INVARIANT(m->descriptor == d);
        again(d, m);
    }
    arena_release(&a);
    return 0;
}
