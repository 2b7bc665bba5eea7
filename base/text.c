#include "base/text.h"

#include <stdio.h>
#include <string.h>

/* Length of the well-formed sequence at p (RFC 3629 section 4), 0 when it is none; *ret is the code point. */
static size_t utf8_next(const uint8_t *p, size_t n, uint32_t *ret)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len = p[0] < 0x80 ? 1 : (p[0] & 0xe0) == 0xc0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : (p[0] & 0xf8) == 0xf0 ? 4 : 0;
    uint32_t c;

    if (len == 0 || len > n)
        return 0;
    c = len == 1 ? p[0] : p[0] & (0xffU >> (len + 1));
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3fU);
    }
    if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
        return 0;
    *ret = c;
    return len;
}

static bool utf8_check(struct bytes s, bool refuse_control)
{
    for (size_t i = 0; i < s.n;) {
        uint32_t c;
        size_t len = utf8_next(s.p + i, s.n - i, &c);
        if (len == 0 || (refuse_control && (c < 0x20 || (c >= 0x7f && c <= 0x9f))))
            return false;
        i += len;
    }
    return true;
}

bool text_is_utf8(struct bytes s)
{
    return utf8_check(s, false);
}

bool text_is_clean_utf8(struct bytes s)
{
    return utf8_check(s, true);
}

bool text_parse_u64(struct bytes s, uint64_t max, uint64_t *ret)
{
    uint64_t v = 0;

    if (s.n == 0 || (s.n > 1 && s.p[0] == '0'))
        return false;
    for (size_t i = 0; i < s.n; i++) {
        unsigned digit = (unsigned)s.p[i] - '0';
        if (digit > 9 || v > (UINT64_MAX - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    if (v > max)
        return false;
    *ret = v;
    return true;
}

bool text_parse_i64(struct bytes s, int64_t min, int64_t max, int64_t *ret)
{
    bool negative = s.n > 0 && s.p[0] == '-';
    uint64_t magnitude;
    int64_t v;

    if (negative)
        s = BYTES(s.p + 1, s.n - 1);
    if (!text_parse_u64(s, (uint64_t)INT64_MAX + (negative ? 1 : 0), &magnitude) || (negative && magnitude == 0))
        return false;
    v = negative ? -(int64_t)(magnitude - 1) - 1 : (int64_t)magnitude;
    if (v < min || v > max)
        return false;
    *ret = v;
    return true;
}

bool text_parse_bool(struct bytes s, bool *ret)
{
    bool yes = bytes_equal(s, BYTES_LIT("true"));

    if (!yes && !bytes_equal(s, BYTES_LIT("false")))
        return false;
    *ret = yes;
    return true;
}

bool text_parse_duration_ms(struct bytes s, uint64_t *ret)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
    size_t digits = 0;
    uint64_t v;

    while (digits < s.n && s.p[digits] >= '0' && s.p[digits] <= '9')
        digits++;
    for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++) {
        if (!bytes_equal(BYTES(s.p + digits, s.n - digits), bytes_str(units[i].name)))
            continue;
        if (!text_parse_u64(BYTES(s.p, digits), UINT64_MAX / units[i].ms, &v))
            return false;
        *ret = v * units[i].ms;
        return true;
    }
    return false;
}

bool text_in_set(uint8_t c, const char *set)
{
    for (const uint8_t *p = (const uint8_t *)set; *p != '\0'; p++) {
        if (p[1] == '-' && p[2] != '\0') {
            if (c >= p[0] && c <= p[2])
                return true;
            p += 2;
        }
        else if (c == *p) {
            return true;
        }
    }
    return false;
}

/* ---- RFC 3339 ---- */

static bool is_leap(int64_t y)
{
    return (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
}

static unsigned month_days(int64_t y, unsigned m)
{
    static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    return days[m - 1] + (m == 2 && is_leap(y) ? 1U : 0U);
}

/* Days from 1970-01-01 to January 1st of year y (y >= 1): whole years, and one leap day for each leap year passed. */
static int64_t days_to_year(int64_t y)
{
    int64_t p = y - 1;

    return p * 365 + p / 4 - p / 100 + p / 400 - 719162;
}

void text_format_rfc3339(int64_t unix_ns, char out[TEXT_RFC3339_BYTES])
{
    int64_t sec = unix_ns / 1000000000, frac = unix_ns % 1000000000, days, rest, year;
    unsigned month = 1;
    int n;

    if (frac < 0) {
        frac += 1000000000;
        sec--;
    }
    days = sec / 86400;
    rest = sec % 86400;
    if (rest < 0) {
        rest += 86400;
        days--;
    }
    year = 1970 + days / 366; /* a lower bound for days >= 0; int64 nanoseconds span 1677 to 2262 */
    if (days < 0)
        year = 1970 + days / 365 - 1;
    while (days_to_year(year + 1) <= days)
        year++;
    days -= days_to_year(year);
    while (days >= month_days(year, month))
        days -= month_days(year, month++);
    n = snprintf(out, TEXT_RFC3339_BYTES, "%04d-%02u-%02uT%02u:%02u:%02u", (int)year, month, (unsigned)days + 1,
                 (unsigned)(rest / 3600), (unsigned)(rest / 60 % 60), (unsigned)(rest % 60));
    if (frac > 0) {
        n += snprintf(out + n, TEXT_RFC3339_BYTES - (size_t)n, ".%09u", (unsigned)frac);
        while (out[n - 1] == '0')
            n--;
    }
    memcpy(out + n, "Z", 2);
}

static bool digits_at(struct bytes s, size_t at, size_t n, unsigned *ret)
{
    unsigned v = 0;

    for (size_t i = at; i < at + n; i++) {
        if (i >= s.n || s.p[i] < '0' || s.p[i] > '9')
            return false;
        v = v * 10 + (unsigned)(s.p[i] - '0');
    }
    *ret = v;
    return true;
}

/* ".1" to ".999999999", then Z at the end. */
static bool fraction_at(struct bytes s, size_t at, int64_t *ret)
{
    int64_t v = 0, scale = 100000000;

    if (at < s.n && s.p[at] == '.') {
        size_t first = ++at;
        for (; at < s.n && s.p[at] >= '0' && s.p[at] <= '9' && scale > 0; at++, scale /= 10)
            v += (s.p[at] - '0') * scale;
        if (at == first)
            return false;
    }
    *ret = v;
    return at + 1 == s.n && s.p[at] == 'Z';
}

bool text_parse_rfc3339(struct bytes s, int64_t *ret_unix_ns)
{
    unsigned y, mo, d, h, mi, sec;
    int64_t frac, days, total;

    if (!digits_at(s, 0, 4, &y) || !digits_at(s, 5, 2, &mo) || !digits_at(s, 8, 2, &d) || !digits_at(s, 11, 2, &h) ||
        !digits_at(s, 14, 2, &mi) || !digits_at(s, 17, 2, &sec) || !fraction_at(s, 19, &frac))
        return false;
    if (s.p[4] != '-' || s.p[7] != '-' || s.p[10] != 'T' || s.p[13] != ':' || s.p[16] != ':')
        return false;
    if (y < 1 || mo < 1 || mo > 12 || d < 1 || d > month_days(y, mo) || h > 23 || mi > 59 || sec > 59)
        return false;
    days = days_to_year(y) + d - 1;
    for (unsigned m = 1; m < mo; m++)
        days += month_days(y, m);
    total = days * 86400 + h * 3600 + mi * 60 + sec;
    /* Before 1970 the fraction counts up from a negative second: add it in the order that cannot overflow early. */
    if (total < 0) {
        total += 1;
        frac -= 1000000000;
    }
    if (__builtin_mul_overflow(total, 1000000000, &total) || __builtin_add_overflow(total, frac, &total))
        return false;
    *ret_unix_ns = total;
    return true;
}

bool text_copy(struct bytes s, char *out, size_t cap)
{
    if (s.n >= cap)
        return false;
    if (s.n > 0)
        memcpy(out, s.p, s.n);
    out[s.n] = '\0';
    return true;
}
