/*
 * Purpose: what the library's own files and kmsctl share and a service must not see: the client's inside, batches in two
 *          halves, bindings and checksums as messages.
 * Owns:    struct claviger owns its transport and its cache.
 * Threads: transport and cache synchronise themselves; the rest is read-only after claviger_connect.
 * Errors:  as claviger.h. Limits: as claviger.h; CLIENT_ARENA_MAX memory of one call.
 * Secrets: cached data keys only, in struct secret; answers are decoded into arenas that wipe.
 */
#ifndef VAULT_CLIENT_INTERNAL_H
#define VAULT_CLIENT_INTERNAL_H

#include "base/secret.h"
#include "vault/client/error.h"
#include "vault/client/transport.h"

#include "google/protobuf/wrappers.pb-c.h"

enum { CLIENT_ARENA_MAX = 16 << 20 };

struct cache;
struct claviger {
    struct transport *transport;
    struct cache *cache;
};
struct transport *client_transport(struct claviger *c);

/* A batch of which several may be in flight. encrypt false: decrypt. Every started batch must be finished, and its items and
 * the bytes they point at stay until then. The outcome is that of claviger_encrypt_batch. */
struct batch;
RESULT batch_start(struct transport *t, const char *key, bool encrypt, struct claviger_item *items, size_t n, struct batch **ret,
                   struct claviger_error *e);
RESULT batch_finish(struct batch *b, struct claviger_error *e);

RESULT buffer_from(struct bytes b, struct claviger_buffer *ret, struct claviger_error *e);

/* How many, their bindings, and their bytes, of which `extra` more are allowed than CLAVIGER_BATCH_BYTES_MAX. */
RESULT items_check(const struct claviger_item *items, size_t n, size_t extra, struct claviger_error *e);
/* Empty results, whatever they held before. */
void items_clear(struct claviger_item *items, size_t n);
/* CLAVIGER_ABORTED "ITEMS_FAILED", or ok when none did. first: the first one's failure in words, may be "". */
RESULT items_outcome(size_t n, size_t failed, const char *first, struct claviger_error *e);

/* NULL binding: none. The entries are messages of type d (any map entry of two byte strings), in the arena. */
RESULT binding_check(const struct claviger_binding *b, bool aad_allowed, struct claviger_error *e);
void **binding_entries(const struct claviger_binding *b, const ProtobufCMessageDescriptor *d, struct arena *a, size_t *ret_n);
static inline ProtobufCBinaryData binding_aad(const struct claviger_binding *b)
{
    return b ? pb_of(BYTES(b->aad, b->aad_len)) : (ProtobufCBinaryData){0};
}

Google__Protobuf__Int64Value *crc_of(struct bytes b, struct arena *a);
/* The answer's bytes against the checksum that came with them; a missing one is a failure too. */
RESULT crc_check(ProtobufCBinaryData data, const Google__Protobuf__Int64Value *crc, struct claviger_error *e);

/* What claviger_wrap and so on do, without the public boundary. */
RESULT key_generate(struct transport *t, const char *key, uint32_t key_bytes, bool wrapped_only,
                    const struct claviger_binding *binding, struct arena *a, struct bytes *ret_plain, struct bytes *ret_wrapped,
                    struct claviger_error *e);
RESULT key_unwrap(struct transport *t, const char *key, struct bytes wrapped, const struct claviger_binding *binding,
                  struct arena *a, struct bytes *ret_plain, struct claviger_error *e);

#endif
