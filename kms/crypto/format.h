/*
 * Purpose: the released headers, to the byte (docs/FORMATS.md): client ciphertext, wrapped data key, wrapped L2.
 * Owns: nothing (views into the input). Threads: pure.
 * Errors: ERR_CIPHERTEXT for anything not exactly well formed. Limits: FORMAT_HEADER_BYTES. Secrets: headers are public.
 *
 * Client header, 40 bytes: magic "CLV" | u8 type | u8 format version = 1 | u8[3] 0 | kvid[16] | subject handle[16]
 *   (zero when none).  type: E encrypted data, W wrapped data key, K a key version (L2) under its tenant KEK; e and w the same two
 *   under a key on the token (level HSM), k the check message of such a key: shorter by 12 bytes, as their nonce is.
 */
#ifndef KMS_CRYPTO_FORMAT_H
#define KMS_CRYPTO_FORMAT_H

#include "base/bytes.h"

enum { FORMAT_VERSION = 1, FORMAT_HEADER_BYTES = 40, FORMAT_KVID_BYTES = 16, FORMAT_SUBJECT_BYTES = 16,
       FORMAT_OVERHEAD = FORMAT_HEADER_BYTES + 72, FORMAT_TOKEN_OVERHEAD = FORMAT_HEADER_BYTES + 60 };
enum format_type { FORMAT_ENCRYPTED = 'E', FORMAT_WRAPPED_KEY = 'W', FORMAT_KEY_VERSION = 'K' /* L2 under L1 */,
                   FORMAT_TOKEN_ENCRYPTED = 'e', FORMAT_TOKEN_WRAPPED_KEY = 'w', FORMAT_TOKEN_CHECK = 'k' };
size_t format_overhead(enum format_type t); /* bytes that a message of that type has beside its plaintext */

struct format_header {
    enum format_type type;
    uint8_t kvid[FORMAT_KVID_BYTES];
    uint8_t subject[FORMAT_SUBJECT_BYTES]; /* all zero: none */
};
void format_header_put(const struct format_header *h, uint8_t out[FORMAT_HEADER_BYTES]);
RESULT format_header_parse(struct bytes untrusted_sealed, struct format_header *ret, struct err *e);
/* Canonical AAD of an encryption context: pairs sorted bytewise by key, u16 count, then v16 key, v16 value each, prefixed by
 * "ctx1". Duplicate keys: ERR_INVALID. Plain Cloud KMS additional_authenticated_data: "aad1" || bytes. */
struct format_pair {
    struct bytes key, value;
};
enum { FORMAT_CONTEXT_PAIRS_MAX = 32, FORMAT_CONTEXT_MAX_BYTES = 8192 };
RESULT format_context_aad(const struct format_pair *pairs, size_t n, struct buf *out, struct err *e);
void format_plain_aad(struct bytes aad, struct buf *out);

#endif
