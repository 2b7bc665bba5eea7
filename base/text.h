/*
 * Purpose: strict text parsing: UTF-8, integers, durations, RFC 3339 times. Refuse, never fold or guess.
 * Owns: nothing. Threads: pure. Errors: false, output untouched. Limits: named at each function. Secrets: none.
 */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include "base/bytes.h"

bool text_is_utf8(struct bytes s);                 /* RFC 3629: no surrogates, no overlong, at most U+10FFFF */
bool text_is_clean_utf8(struct bytes s);           /* UTF-8 without NUL or other C0/C1 control characters */
bool text_parse_u64(struct bytes s, uint64_t max, uint64_t *ret); /* decimal digits only, no sign, no leading zero but "0" */
bool text_parse_i64(struct bytes s, int64_t min, int64_t max, int64_t *ret);
bool text_parse_bool(struct bytes s, bool *ret);   /* true, false */
bool text_parse_duration_ms(struct bytes s, uint64_t *ret); /* "250ms", "5s", "10m", "24h", "30d": one number, one unit */
enum { TEXT_RFC3339_BYTES = 32 };
void text_format_rfc3339(int64_t unix_ns, char out[TEXT_RFC3339_BYTES]); /* 2026-11-20T12:00:00.123456789Z, zeros trimmed */
bool text_parse_rfc3339(struct bytes s, int64_t *ret_unix_ns);           /* Z only */
bool text_copy(struct bytes s, char *out, size_t cap); /* and its NUL; false when both do not fit */
bool text_in_set(uint8_t c, const char *set /* "a-z0-9_-" */);

#endif
