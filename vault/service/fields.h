/*
 * Purpose: what every handler does with fields: one resource, times, checksums, encryption contexts, field masks.
 * Owns:    nothing: what it makes lives in the call's arena. Threads: the call's owner.
 * Errors:  ERR_INVALID with the field's path (a literal) and a hint; "CRC32C_MISMATCH" for checksums.
 * Limits:  FIELD_BYTES_MAX for plaintext and additional data, as Cloud KMS. Secrets: none kept.
 */
#ifndef VAULT_SERVICE_FIELDS_H
#define VAULT_SERVICE_FIELDS_H

#include "vault/service/call.h"
#include "vault/service/service.h"

#include "google/protobuf/duration.pb-c.h"
#include "google/protobuf/field_mask.pb-c.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "google/protobuf/wrappers.pb-c.h"

enum { FIELD_BYTES_MAX = 65536 };

/* c->resources for a row that names one thing. */
RESULT field_resource(struct call *c, ProtobufCBinaryData name, unsigned kinds /* 1u << NAME_... */, const char *field,
                      struct err *e);
RESULT field_instance(struct call *c, struct err *e); /* the instance itself: NAME_NONE */
/* The resource {parent}/{child id}: a create names what will be. */
RESULT field_child(struct call *c, ProtobufCBinaryData parent, enum name_kind parent_kind, const char *parent_field,
                   ProtobufCBinaryData id, const char *id_field, struct err *e);

Google__Protobuf__Timestamp *field_time(struct call *c, int64_t unix_ns); /* NULL for 0 */
Google__Protobuf__Duration *field_duration(struct call *c, int64_t seconds); /* NULL for 0 */
Google__Protobuf__Int64Value *field_crc32c(struct call *c, struct bytes data);
/* Absent: *ret_verified false. Present: must match. */
RESULT field_check_crc32c(const Google__Protobuf__Int64Value *sent, struct bytes data, const char *field, bool *ret_verified,
                          struct err *e);
RESULT field_check_size(struct bytes data, size_t max, const char *field, struct err *e);

/* A map<string,string> field of any message: its entries all have this layout. */
struct field_pair {
    ProtobufCMessage base;
    ProtobufCBinaryData key, value;
};
/* Canonical AAD of a context, or of plain additional data (both given: refused; neither: plain and empty). */
RESULT field_aad(ProtobufCMessage *const *context, size_t n, ProtobufCBinaryData plain, struct buf *out, struct err *e);

/* True when the mask names `path`. Paths outside `known` (NULL-ended) are refused; an absent or empty mask too. */
RESULT field_mask_check(const Google__Protobuf__FieldMask *mask, const char *const *known, struct err *e);
bool field_mask_has(const Google__Protobuf__FieldMask *mask, const char *path);

#endif
