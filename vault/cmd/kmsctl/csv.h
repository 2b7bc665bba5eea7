/*
 * Purpose: RFC 4180 records, read without losing one byte: each field is known by its place in the record's own text, so that
 *          what is not touched is written back exactly, and a replaced field keeps its quotes.
 * Owns:    struct csv_reader owns its buffer; records view it until the next csv_next.
 * Threads: one.
 * Errors:  CLAVIGER_INVALID_ARGUMENT "BAD_CSV" with the record's number. Strict: a quote inside an unquoted field, text after a
 *          closing quote, a carriage return without line feed, an open quote at the end: refused, never guessed.
 * Limits:  CSV_RECORD_MAX bytes and CSV_FIELDS_MAX fields a record.
 * Secrets: buffers hold plaintext and are wiped on release.
 */
#ifndef VAULT_CMD_KMSCTL_CSV_H
#define VAULT_CMD_KMSCTL_CSV_H

#include "base/arena.h"
#include "base/bytes.h"
#include "vault/client/error.h"

enum { CSV_RECORD_MAX = 1 << 20, CSV_FIELDS_MAX = 1024 };

struct csv_field {
    struct bytes raw; /* as in the file, with quotes */
    bool quoted;
};
struct csv_record {
    struct csv_field field[CSV_FIELDS_MAX];
    size_t n;
    struct bytes text; /* the whole record without its line end */
    struct bytes eol;  /* "\n", "\r\n" or, at the end of the file, "" */
};
/* Parses the record at the front of `in`. eof: nothing follows. Uses *ret_used bytes. */
enum csv_parse { CSV_RECORD, CSV_MORE, CSV_BAD };
enum csv_parse csv_parse(struct bytes in, bool eof, struct csv_record *ret, size_t *ret_used, const char **ret_why);

struct csv_reader {
    int fd;
    struct buf buf;
    size_t at;
    bool eof;
    uint64_t records, bytes; /* read so far */
};
void csv_reader_init(struct csv_reader *r, int fd);
void csv_reader_release(struct csv_reader *r);
/* The next record begins at that byte of the file, and so many came before it. */
RESULT csv_reader_seek(struct csv_reader *r, uint64_t bytes, uint64_t records, struct claviger_error *e);
/* *ret_more false: the file has ended. The views live until the next call. */
RESULT csv_next(struct csv_reader *r, struct csv_record *ret, bool *ret_more, struct claviger_error *e);

struct bytes csv_value(const struct csv_field *f, struct arena *a); /* without quotes; a view or a copy in the arena; p NULL: no memory */
void csv_put(struct buf *out, struct bytes value, bool quoted);     /* quotes also when the value needs them */

#endif
