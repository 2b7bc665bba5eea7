#include "vault/cmd/kmsctl/csv.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { READ_BLOCK = 65536 };

/* Where the field that starts at `at` ends. Sets *ret_why when it is malformed; returns false when more bytes are needed. */
static bool quoted_end(struct bytes in, size_t at, bool eof, size_t *ret, const char **why)
{
    for (size_t i = at + 1; i < in.n; i++) {
        if (in.p[i] != '"')
            continue;
        if (i + 1 == in.n && !eof)
            return false;
        if (i + 1 < in.n && in.p[i + 1] == '"') {
            i++;
            continue;
        }
        if (i + 1 < in.n && in.p[i + 1] != ',' && in.p[i + 1] != '\n' && in.p[i + 1] != '\r')
            *why = "text follows a closing quote";
        *ret = i + 1;
        return true;
    }
    if (eof)
        *why = "a quote is not closed";
    return eof;
}

static bool plain_end(struct bytes in, size_t at, bool eof, size_t *ret, const char **why)
{
    size_t i = at;
    while (i < in.n && in.p[i] != ',' && in.p[i] != '\n' && in.p[i] != '\r' && in.p[i] != '"')
        i++;
    if (i == in.n && !eof)
        return false;
    if (i < in.n && in.p[i] == '"')
        *why = "a quote stands inside a field that does not begin with one";
    *ret = i;
    return true;
}

/* 0: not the end of a record. */
static size_t eol_at(struct bytes in, size_t at, bool eof, bool *more, const char **why)
{
    if (in.p[at] == '\n')
        return 1;
    if (in.p[at] != '\r')
        return 0;
    if (at + 1 < in.n && in.p[at + 1] == '\n')
        return 2;
    *more = at + 1 == in.n && !eof;
    if (!*more)
        *why = "a carriage return has no line feed after it";
    return 0;
}

enum csv_parse csv_parse(struct bytes in, bool eof, struct csv_record *ret, size_t *ret_used, const char **ret_why)
{
    const char *why = NULL;
    bool more = false;
    size_t at = 0;
    ret->n = 0;
    while (true) {
        size_t end = at;
        bool quoted = at < in.n && in.p[at] == '"';
        bool whole = quoted ? quoted_end(in, at, eof, &end, &why) : plain_end(in, at, eof, &end, &why);
        if (whole && !why && ret->n == CSV_FIELDS_MAX)
            why = "too many fields";
        size_t eol = whole && !why && end < in.n ? eol_at(in, end, eof, &more, &why) : 0;
        if (why) {
            *ret_why = why;
            return CSV_BAD;
        }
        if (!whole || more || (end == in.n && !eof))
            return CSV_MORE;
        ret->field[ret->n++] = (struct csv_field){BYTES(in.p + at, end - at), quoted};
        if (end == in.n || eol) {
            ret->text = BYTES(in.p, end);
            ret->eol = BYTES(in.p + end, eol);
            *ret_used = end + eol;
            return CSV_RECORD;
        }
        at = end + 1;
    }
}

void csv_reader_init(struct csv_reader *r, int fd)
{
    *r = (struct csv_reader){.fd = fd};
    buf_init(&r->buf, CSV_RECORD_MAX + 4 * READ_BLOCK);
}

void csv_reader_release(struct csv_reader *r)
{
    buf_release(&r->buf);
}

RESULT csv_reader_seek(struct csv_reader *r, uint64_t bytes, uint64_t records, struct claviger_error *e)
{
    if (lseek(r->fd, (off_t)bytes, SEEK_SET) < 0)
        return client_fail(e, CLAVIGER_UNKNOWN, "INPUT", "the input cannot be read from its middle: %s", strerror(errno));
    buf_reset(&r->buf);
    r->at = 0;
    r->eof = false;
    r->bytes = bytes;
    r->records = records;
    return ok();
}

static struct result fill(struct csv_reader *r, struct claviger_error *e)
{
    if (r->at > 0) {
        memmove(r->buf.p, r->buf.p + r->at, r->buf.n - r->at);
        r->buf.n -= r->at;
        r->at = 0;
    }
    uint8_t block[READ_BLOCK];
    ssize_t n;
    do
        n = read(r->fd, block, sizeof block);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return client_fail(e, CLAVIGER_UNKNOWN, "INPUT", "the input cannot be read: %s", strerror(errno));
    r->eof = n == 0;
    buf_put(&r->buf, block, (size_t)n);
    wipe(block, (size_t)n);
    return ok();
}

RESULT csv_next(struct csv_reader *r, struct csv_record *ret, bool *ret_more, struct claviger_error *e)
{
    *ret_more = false;
    while (true) {
        struct bytes in = BYTES(r->buf.p + r->at, r->buf.n - r->at);
        if (in.n == 0 && r->eof)
            return ok();
        const char *why = NULL;
        size_t used = 0;
        enum csv_parse p = in.n ? csv_parse(in, r->eof, ret, &used, &why) : CSV_MORE;
        if (p == CSV_RECORD && used > CSV_RECORD_MAX)
            why = "it is too long";
        if (p == CSV_MORE && in.n > CSV_RECORD_MAX)
            why = "it is too long, or a quote is not closed";
        if (why)
            return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_CSV", "record %llu: %s", (unsigned long long)r->records + 1, why);
        if (p == CSV_MORE) {
            TRY(fill(r, e));
            continue;
        }
        r->at += used;
        r->bytes += used;
        r->records++;
        *ret_more = true;
        return ok();
    }
}

struct bytes csv_value(const struct csv_field *f, struct arena *a)
{
    if (!f->quoted)
        return f->raw;
    struct bytes in = BYTES(f->raw.p + 1, f->raw.n - 2);
    uint8_t *out = arena_alloc(a, in.n + 1);
    if (!out)
        return (struct bytes){0};
    size_t n = 0;
    for (size_t i = 0; i < in.n; i++) {
        out[n++] = in.p[i];
        i += in.p[i] == '"'; /* its twin */
    }
    return BYTES(out, n);
}

void csv_put(struct buf *out, struct bytes value, bool quoted)
{
    for (size_t i = 0; i < value.n && !quoted; i++)
        quoted = value.p[i] == ',' || value.p[i] == '"' || value.p[i] == '\n' || value.p[i] == '\r';
    if (!quoted) {
        buf_put_bytes(out, value);
        return;
    }
    buf_put_u8(out, '"');
    for (size_t i = 0, from = 0; i <= value.n; i++) {
        if (i < value.n && value.p[i] != '"')
            continue;
        buf_put(out, value.p + from, i - from + (i < value.n)); /* up to and with the quote */
        if (i < value.n)
            buf_put_u8(out, '"');
        from = i + 1;
    }
    buf_put_u8(out, '"');
}
