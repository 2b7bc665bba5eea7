/*
 * Purpose: the one resource-name grammar: projects/{tenant}/locations/{location}/keyRings/{ring}/cryptoKeys/{key}/
 *          cryptoKeyVersions/{n} and its short form tenant/location/ring/key@n. Names are segments, never re-split.
 * Owns:    nothing: a struct name views the text it was parsed from.
 * Threads: pure.
 * Errors:  ERR_INVALID with the field given by the caller and a hint. One canonical form: refuse, never fold.
 * Limits:  NAME_MAX_BYTES; tenant and location [a-z][a-z0-9-]{0,61}[a-z0-9]; ring and key [a-zA-Z0-9_-]{1,63};
 *          the tenant ids "platform" and "projects" are reserved; version 1..2^31-1 without leading zeros.
 *          NUL, "..", "%", "/" inside a segment, bad UTF-8: refused by the alphabet.
 * Secrets: none.
 */
#ifndef KMS_NAME_NAME_H
#define KMS_NAME_NAME_H

#include "base/bytes.h"

enum { NAME_MAX_BYTES = 328, NAME_SEGMENT_MAX = 63, NAME_PRINCIPAL_MAX = 128 }; /* longest name 323, and its NUL */
enum name_kind { NAME_NONE, NAME_TENANT, NAME_LOCATION, NAME_KEYRING, NAME_CRYPTOKEY, NAME_VERSION };

struct name {
    enum name_kind kind; /* deepest part present; shallower ones are set */
    struct bytes tenant, location, ring, key;
    uint32_t version;
};
/* Full form, of exactly this kind. */
RESULT name_parse(struct bytes untrusted, enum name_kind want, const char *field, struct name *ret, struct err *e);
/* Full form, any kind in the bitmask (1u << NAME_CRYPTOKEY | 1u << NAME_VERSION). */
RESULT name_parse_any(struct bytes untrusted, unsigned kinds, const char *field, struct name *ret, struct err *e);
RESULT name_parse_short(struct bytes untrusted, struct name *ret, struct err *e); /* or the full form: kmsctl */
/* Canonical full text into out; NUL-terminated; returns its length. */
size_t name_format(const struct name *n, char out[NAME_MAX_BYTES]);
size_t name_format_short(const struct name *n, char out[NAME_MAX_BYTES]);
struct name name_parent(const struct name *n); /* one level up; NAME_NONE at the top */
struct name name_truncate(const struct name *n, enum name_kind kind);
bool name_valid_id(struct bytes id, enum name_kind kind); /* one segment of that kind */
/* A principal's name: [a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?: lower case, so that no two names differ by case alone. */
bool name_valid_principal(struct bytes id);
bool name_equal(const struct name *a, const struct name *b);

#endif
