/*
 * Purpose: from untrusted wire bytes to a message in the call's arena: a bounded scan against the descriptor first, then
 *          protobuf-c's unpacker, which sees only what passed.
 * Owns:    nothing: the message lives in the arena. Bytes fields are copies.
 * Threads: pure but for the arena.
 * Errors:  ERR_INVALID "MALFORMED_MESSAGE", with the field at fault where one can be named.
 * Limits:  DECODE_DEPTH_MAX levels, DECODE_REPEATED_MAX entries of a repeated field, DECODE_MAP_MAX of a map,
 *          DECODE_UNKNOWN_MAX unknown fields in all; the memory that unpacking needs is known before it starts and must fit
 *          into what is left of the arena.
 * Secrets: plaintext passes into the arena, which the call wipes.
 *
 * Refused although the protobuf rules allow it, because parsers differ there and a difference is an attack: a submessage or
 * oneof given twice, a map key given twice, an entry's key or value given twice, groups, control characters in strings.
 */
#ifndef VAULT_SERVICE_DECODE_H
#define VAULT_SERVICE_DECODE_H

#include "base/arena.h"

#include <protobuf-c/protobuf-c.h>

enum { DECODE_DEPTH_MAX = 8, DECODE_REPEATED_MAX = 1000, DECODE_MAP_MAX = 64, DECODE_UNKNOWN_MAX = 1024 };

RESULT decode_message(const ProtobufCMessageDescriptor *d, struct bytes untrusted, struct arena *a, ProtobufCMessage **ret,
                      struct err *e);

#endif
