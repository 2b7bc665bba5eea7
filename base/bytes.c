#include "base/bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bytes bytes_str(const char *s)
{
    return s == NULL ? (struct bytes){0} : (struct bytes){(const uint8_t *)s, strlen(s)};
}

bool bytes_equal(struct bytes a, struct bytes b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

int bytes_compare(struct bytes a, struct bytes b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int d = n == 0 ? 0 : memcmp(a.p, b.p, n);

    if (d != 0)
        return d;
    return (a.n > b.n) - (a.n < b.n);
}

bool bytes_ct_equal(const void *a, const void *b, size_t n)
{
    const volatile uint8_t *x = a, *y = b; /* volatile: an optimiser must not find the early exit */
    uint8_t diff = 0;

    for (size_t i = 0; i < n; i++)
        diff = (uint8_t)(diff | (x[i] ^ y[i]));
    return diff == 0;
}

void wipe(void *p, size_t n)
{
    if (n > 0)
        explicit_bzero(p, n);
}

/* ---- growing buffer ---- */

void buf_init(struct buf *b, size_t max)
{
    *b = (struct buf){.max = max};
}

void buf_release(struct buf *b)
{
    if (b->p != NULL) {
        wipe(b->p, b->n);
        free(b->p);
    }
    *b = (struct buf){.max = b->max};
}

void buf_reset(struct buf *b)
{
    if (b->p != NULL)
        wipe(b->p, b->n);
    b->n = 0;
    b->overflow = false;
}

/* Makes room for n more bytes and one NUL (buf_cstr). realloc would leave a copy behind: move by hand and wipe. */
static bool buf_room(struct buf *b, size_t n)
{
    size_t want, cap;
    uint8_t *p;

    if (b->overflow || n > b->max || b->n > b->max - n) {
        b->overflow = true;
        return false;
    }
    want = b->n + n + 1;
    if (want <= b->cap)
        return true;
    cap = b->cap < 64 ? 64 : b->cap;
    while (cap < want)
        cap = cap > SIZE_MAX / 2 ? want : cap * 2;
    if (cap > b->max + 1 && want <= b->max + 1)
        cap = b->max + 1;
    p = malloc(cap);
    INVARIANT(p != NULL);
    if (b->p != NULL) {
        memcpy(p, b->p, b->n);
        wipe(b->p, b->n);
        free(b->p);
    }
    b->p = p;
    b->cap = cap;
    return true;
}

void buf_put(struct buf *b, const void *p, size_t n)
{
    if (n == 0 || !buf_room(b, n))
        return;
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

void buf_put_bytes(struct buf *b, struct bytes s)
{
    buf_put(b, s.p, s.n);
}

void buf_put_str(struct buf *b, const char *s)
{
    buf_put_bytes(b, bytes_str(s));
}

void buf_putf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    INVARIANT(n >= 0);
    if (!buf_room(b, (size_t)n))
        return;
    va_start(ap, fmt);
    (void)vsnprintf((char *)b->p + b->n, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->n += (size_t)n;
}

void buf_put_u8(struct buf *b, uint8_t v)
{
    buf_put(b, &v, 1);
}

void buf_put_u16(struct buf *b, uint16_t v)
{
    uint8_t t[2];

    put_be16(t, v);
    buf_put(b, t, sizeof(t));
}

void buf_put_u32(struct buf *b, uint32_t v)
{
    uint8_t t[4];

    put_be32(t, v);
    buf_put(b, t, sizeof(t));
}

void buf_put_u64(struct buf *b, uint64_t v)
{
    uint8_t t[8];

    put_be64(t, v);
    buf_put(b, t, sizeof(t));
}

void buf_put_v16(struct buf *b, struct bytes s)
{
    if (s.n > UINT16_MAX) {
        b->overflow = true;
        return;
    }
    buf_put_u16(b, (uint16_t)s.n);
    buf_put_bytes(b, s);
}

void buf_put_v32(struct buf *b, struct bytes s)
{
    if (s.n > UINT32_MAX) {
        b->overflow = true;
        return;
    }
    buf_put_u32(b, (uint32_t)s.n);
    buf_put_bytes(b, s);
}

const char *buf_cstr(struct buf *b)
{
    if (b->p == NULL)
        return "";
    b->p[b->n] = '\0'; /* buf_room always keeps this byte */
    return (const char *)b->p;
}

uint8_t *buf_steal(struct buf *b, size_t *ret_n)
{
    uint8_t *p = b->p;

    if (ret_n != NULL)
        *ret_n = b->n;
    *b = (struct buf){.max = b->max};
    return p;
}

/* ---- reader ---- */

struct bytes reader_take(struct reader *r, size_t n)
{
    struct bytes out = {r->p, n};

    if (r->bad || n > r->n) {
        r->bad = true;
        return (struct bytes){0};
    }
    if (n > 0)
        r->p += n;
    r->n -= n;
    return out;
}

void reader_copy(struct reader *r, void *out, size_t n)
{
    struct bytes s = reader_take(r, n);

    if (n == 0)
        return;
    if (r->bad)
        memset(out, 0, n);
    else
        memcpy(out, s.p, n);
}

uint8_t reader_u8(struct reader *r)
{
    uint8_t v;

    reader_copy(r, &v, 1);
    return v;
}

uint16_t reader_u16(struct reader *r)
{
    uint8_t t[2];

    reader_copy(r, t, sizeof(t));
    return get_be16(t);
}

uint32_t reader_u32(struct reader *r)
{
    uint8_t t[4];

    reader_copy(r, t, sizeof(t));
    return get_be32(t);
}

uint64_t reader_u64(struct reader *r)
{
    uint8_t t[8];

    reader_copy(r, t, sizeof(t));
    return get_be64(t);
}

struct bytes reader_v16(struct reader *r)
{
    return reader_take(r, reader_u16(r));
}

struct bytes reader_v32(struct reader *r)
{
    return reader_take(r, reader_u32(r));
}

bool reader_done(const struct reader *r)
{
    return !r->bad && r->n == 0;
}

/* ---- big endian ---- */

void put_be16(uint8_t out[2], uint16_t v)
{
    out[0] = (uint8_t)(v >> 8);
    out[1] = (uint8_t)v;
}

void put_be32(uint8_t out[4], uint32_t v)
{
    put_be16(out, (uint16_t)(v >> 16));
    put_be16(out + 2, (uint16_t)v);
}

void put_be64(uint8_t out[8], uint64_t v)
{
    put_be32(out, (uint32_t)(v >> 32));
    put_be32(out + 4, (uint32_t)v);
}

uint16_t get_be16(const uint8_t in[2])
{
    return (uint16_t)((uint16_t)in[0] << 8 | in[1]);
}

uint32_t get_be32(const uint8_t in[4])
{
    return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
}

uint64_t get_be64(const uint8_t in[8])
{
    return (uint64_t)get_be32(in) << 32 | get_be32(in + 4);
}
