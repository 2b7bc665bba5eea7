#include "base/bytes.h"

#include <string.h>

static const char base64_std[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char base64_url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void hex_encode(const void *p, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *in = p;

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[in[i] >> 4];
        out[2 * i + 1] = digits[in[i] & 15];
    }
    out[2 * n] = '\0';
}

static int hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool hex_decode(struct bytes text, uint8_t *out, size_t n)
{
    if (n > SIZE_MAX / 2 || text.n != 2 * n)
        return false;
    for (size_t i = 0; i < text.n; i++)
        if (hex_value(text.p[i]) < 0)
            return false;
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)((unsigned)hex_value(text.p[2 * i]) << 4 | (unsigned)hex_value(text.p[2 * i + 1]));
    return true;
}

void base64_encode(struct bytes in, bool url_no_pad, struct buf *out)
{
    const char *alphabet = url_no_pad ? base64_url : base64_std;

    for (size_t i = 0; i < in.n; i += 3) {
        size_t left = in.n - i < 3 ? in.n - i : 3;
        uint32_t v = (uint32_t)in.p[i] << 16;
        char quad[4];

        if (left > 1)
            v |= (uint32_t)in.p[i + 1] << 8;
        if (left > 2)
            v |= in.p[i + 2];
        for (unsigned k = 0; k < 4; k++)
            quad[k] = k <= left ? alphabet[v >> (18 - 6 * k) & 63] : '=';
        buf_put(out, quad, url_no_pad ? left + 1 : 4);
    }
}

static int base64_value(uint8_t c, bool url)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == (url ? '-' : '+'))
        return 62;
    if (c == (url ? '_' : '/'))
        return 63;
    return -1;
}

/* Digits without padding: 4k+1 is impossible, and bits that carry no byte must be zero, so each value has one spelling. */
static bool base64_digits(struct bytes text, bool url, struct buf *out)
{
    uint32_t acc = 0;
    unsigned bits = 0;

    if (text.n % 4 == 1)
        return false;
    for (size_t i = 0; i < text.n; i++) {
        int v = base64_value(text.p[i], url);
        if (v < 0)
            return false;
        acc = (acc << 6 | (uint32_t)v) & 0xffffff;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            buf_put_u8(out, (uint8_t)(acc >> bits));
        }
    }
    return (acc & ((1U << bits) - 1)) == 0 && !out->overflow;
}

bool base64_decode(struct bytes text, bool url_no_pad, struct buf *out)
{
    if (!url_no_pad) {
        if (text.n % 4 != 0)
            return false;
        for (unsigned pad = 0; pad < 2 && text.n > 0 && text.p[text.n - 1] == '='; pad++)
            text.n--;
    }
    return base64_digits(text, url_no_pad, out);
}
