/*
 * Purpose: one run of csv encrypt, decrypt or rewrap: columns found in the header, rows collected into chunks whose chosen fields
 *          are one batch (csv_job.c); chunks sent, and answers put back into their rows (csv_run.c).
 * Owns:    a job owns its reader, its output and its stream; a chunk its arena, with everything of its rows.
 * Threads: one.
 * Errors:  as kmsctl.h: mistakes in options are "USAGE", in the file "BAD_CSV" with the record's number.
 * Limits:  CSV_COLUMNS_MAX columns, CSV_IN_FLIGHT_MAX chunks; a chunk is at most one batch and about a megabyte of text.
 * Secrets: plaintext lives in arenas and buffers that are wiped.
 */
#ifndef VAULT_CMD_KMSCTL_CSV_JOB_H
#define VAULT_CMD_KMSCTL_CSV_JOB_H

#include "vault/cmd/kmsctl/csv.h"
#include "vault/cmd/kmsctl/csv_out.h"
#include "vault/cmd/kmsctl/kmsctl.h"
#include "vault/cmd/kmsctl/progress.h"

#include <sys/stat.h>

/* Rows are collected into chunks; the chosen fields of a chunk are one batch. Several chunks are on their way at a time, in a
 * ring, and are written in the order in which they were read. */
enum { CSV_COLUMNS_MAX = 64, CSV_IN_FLIGHT_MAX = 32 };
#define CSV_PREFIX "clv1:"

struct row {
    struct row *next;
    struct bytes text, eol;
    struct csv_field *field; /* copies of the chosen columns' fields, views into text */
    size_t nfields;
    size_t first_item;       /* items of this row follow each other */
    size_t nitems;
    size_t *item_field;      /* which of `field` each item is */
    uint64_t number;
};

struct chunk {
    struct arena arena;
    struct row *rows, **tail;
    struct claviger_item *items;
    size_t nitems, item_bytes, text_bytes;
    struct batch *batch;     /* encrypt, decrypt: its call; NULL: nothing to ask */
    bool sent;               /* rewrap: its answer is to come through the stream */
    uint64_t input_bytes, records; /* of the file, up to and with its last row */
    uint64_t kept, bad;      /* rewrap: fields that are no ciphertext; that are one, but cannot be decrypted */
};

enum job_mode { JOB_ENCRYPT, JOB_DECRYPT, JOB_REWRAP };

struct job {
    struct ctl *c;
    const char *key;
    enum job_mode mode;
    bool encrypt_empty, again, keep_bad;
    size_t batch_max, in_flight;
    const char *column[CSV_COLUMNS_MAX];
    size_t index[CSV_COLUMNS_MAX], ncolumns;
    size_t width;            /* fields of the header */
    const char *id_column;
    size_t id_index;
    struct csv_reader in;
    struct csv_record record;
    struct buf out;
    struct chunk ring[CSV_IN_FLIGHT_MAX];
    size_t head, filled;     /* oldest chunk, and how many are in the ring */
    uint64_t taken_bytes, taken_records; /* of the file, by the chunks so far */
    struct progress progress;
    uint64_t fields_done;    /* of this run */
    struct claviger_rewrap_stream *stream;
    struct csv_out *file;    /* NULL: stdout */
    struct csv_place place;  /* up to where rows are with the output */
    struct stat input_was;   /* with a file: when its sum was taken */
};

RESULT job_columns(struct job *j, const char *list, struct claviger_error *e); /* "a,b" */
RESULT job_header(struct job *j, struct claviger_error *e);                    /* reads the first row, finds the columns */
/* Fills a chunk from rows; *more false: the file has ended. *pending: j->record holds a row that did not fit any more. */
RESULT job_fill(struct job *j, struct chunk *k, bool *pending, bool *more, struct claviger_error *e);

/* From where the reader is to the end of the file. What was finished when it fails is written, and its place noted. */
RESULT job_run(struct job *j, struct claviger_error *e);
void job_release(struct job *j);

#endif
