/*
 * Purpose: byte strings: borrowed views, bounded growing buffers, big-endian readers and writers, hex, base64, CRC32C.
 * Owns:    struct buf owns its heap block; struct bytes borrows and never frees.
 * Threads: none shared.
 * Errors:  a buf that would pass its max turns `overflow` on and ignores further writes; check once at the end.
 *          A reader that runs out turns `bad` on and returns zeros; check once at the end. Allocation failure is INVARIANT.
 * Limits:  each buf has a `max` given at init.
 * Secrets: buf_release wipes what it held; key bytes live in struct secret, never here. bytes_ct_equal is constant-time.
 */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include "base/err.h"

#include <stdint.h>

struct bytes {
    const uint8_t *p;
    size_t n;
};
#define BYTES(ptr, len) ((struct bytes){(const uint8_t *)(ptr), (len)})
#define BYTES_LIT(s) ((struct bytes){(const uint8_t *)("" s), sizeof(s) - 1})
struct bytes bytes_str(const char *s); /* view of a C string, without its NUL; NULL gives empty */
bool bytes_equal(struct bytes a, struct bytes b);    /* not constant time: public data only */
int bytes_compare(struct bytes a, struct bytes b);   /* bytewise, shorter first: <0, 0, >0 */
/* Constant time in n; use for tags, tokens, hashes. */
bool bytes_ct_equal(const void *a, const void *b, size_t n);

struct buf {
    uint8_t *p;
    size_t n, cap, max;
    bool overflow;
};
void buf_init(struct buf *b, size_t max); /* empty; allocates on first write */
void buf_release(struct buf *b);          /* wipes, frees, re-usable after buf_init; {0} accepted */
void buf_reset(struct buf *b);            /* wipes the content, keeps the block */
void buf_put(struct buf *b, const void *p, size_t n);
void buf_put_bytes(struct buf *b, struct bytes s);
void buf_put_str(struct buf *b, const char *s);
void buf_putf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_put_u8(struct buf *b, uint8_t v);
void buf_put_u16(struct buf *b, uint16_t v); /* big endian, as all below */
void buf_put_u32(struct buf *b, uint32_t v);
void buf_put_u64(struct buf *b, uint64_t v);
void buf_put_v16(struct buf *b, struct bytes s); /* u16 length, then bytes; over 65,535 sets overflow */
void buf_put_v32(struct buf *b, struct bytes s); /* u32 length, then bytes */
static inline struct bytes buf_bytes(const struct buf *b)
{
    return (struct bytes){b->p, b->n};
}
const char *buf_cstr(struct buf *b); /* NUL-terminates in place (NUL not counted); "" when empty */
uint8_t *buf_steal(struct buf *b, size_t *ret_n); /* caller frees; buf becomes empty */

struct reader {
    const uint8_t *p;
    size_t n;
    bool bad;
};
static inline struct reader reader_of(struct bytes b)
{
    return (struct reader){b.p, b.n, false};
}
uint8_t reader_u8(struct reader *r);
uint16_t reader_u16(struct reader *r);
uint32_t reader_u32(struct reader *r);
uint64_t reader_u64(struct reader *r);
struct bytes reader_take(struct reader *r, size_t n); /* view into the input */
struct bytes reader_v16(struct reader *r);
struct bytes reader_v32(struct reader *r);
void reader_copy(struct reader *r, void *out, size_t n); /* zero-fills when bad */
bool reader_done(const struct reader *r);                /* all consumed and not bad */

void put_be16(uint8_t out[2], uint16_t v);
void put_be32(uint8_t out[4], uint32_t v);
void put_be64(uint8_t out[8], uint64_t v);
uint16_t get_be16(const uint8_t in[2]);
uint32_t get_be32(const uint8_t in[4]);
uint64_t get_be64(const uint8_t in[8]);

void hex_encode(const void *p, size_t n, char *out /* 2n+1 bytes, lower case, NUL */);
bool hex_decode(struct bytes text, uint8_t *out, size_t n); /* exactly 2n hex digits */
void base64_encode(struct bytes in, bool url_no_pad, struct buf *out);
bool base64_decode(struct bytes text, bool url_no_pad, struct buf *out); /* strict: canonical padding and trailing bits */

/* CRC-32C (Castagnoli, RFC 3720 appendix B.4; reflected, init and xor-out 0xffffffff). Uses SSE4.2 where the CPU has it. */
uint32_t crc32c(struct bytes data);
uint32_t crc32c_extend(uint32_t crc, struct bytes data); /* start from 0 */
uint32_t crc32c_extend_portable(uint32_t crc, struct bytes data); /* the table alone: CPUs without SSE4.2, and tests */

void wipe(void *p, size_t n); /* explicit_bzero */

#endif
