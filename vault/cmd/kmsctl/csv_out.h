/*
 * Purpose: a file that a long run writes and that an interrupted run goes on with, at any point and after kill -9, neither losing nor
 *          doubling a byte.
 * Owns:    beside FILE, until it is complete: FILE.part, what is written so far, and FILE.place, how far that is, as JSON. A csv_out
 *          owns the descriptor of the first, which is locked: one run at a time.
 * Threads: one.
 * Errors:  "OUTPUT" what the system refused; ALREADY_EXISTS "OUTPUT_EXISTS" where FILE is there and FILE.place does not prove (length and
 *          SHA-256) that it is this run's whole output; FAILED_PRECONDITION "OUTPUT_BUSY" when another run is at work, "RESUME" when there is an
 *          interrupted run and it was not asked for, or input, key or columns are not those of that run; DATA_LOSS
 *          "RESUME" when FILE.part or FILE.place is not what was left.
 * Limits:  a place is written down at most each CSV_NOTE_MS, so that is what a kill costs. Secrets: FILE and its companions are
 *          0600: what is not encrypted in a CSV may be personal.
 *
 * The order that makes it hold: rows reach the disk (fdatasync), then FILE.place says so (written beside, synced, renamed over). What
 * FILE.part has beyond its place is cut off. At the end FILE.part is renamed to FILE, and FILE.place goes last.
 */
#ifndef VAULT_CMD_KMSCTL_CSV_OUT_H
#define VAULT_CMD_KMSCTL_CSV_OUT_H

#include "base/arena.h"
#include "vault/client/error.h"

#include <sys/stat.h>

enum { CSV_NOTE_MS = 100, CSV_SUM_TEXT = 65 };

/* What the run is of: an interrupted run goes on with the same only. */
struct csv_work {
    const char *key, *columns, *id_column; /* "" for none */
    uint64_t input_bytes;
    char input_sum[CSV_SUM_TEXT]; /* SHA-256, hexadecimal */
    const struct stat *input;     /* of the open file */
};
/* How far it has come. */
struct csv_place {
    uint64_t input_bytes, records;  /* of the input, the first row included */
    uint64_t moved, newest, kept, bad; /* fields */
};

struct csv_out;
/* *ret NULL: FILE is complete already, as the run that died at its very end left it; place says what is in it. */
RESULT csv_out_open(const char *path, const struct csv_work *work, bool resume, struct csv_place *ret_place, struct csv_out **ret,
                    struct claviger_error *e);
RESULT csv_out_write(struct csv_out *o, struct bytes b, struct claviger_error *e);
/* All that was written belongs to that place. Written down when it is time, or now. */
RESULT csv_out_note(struct csv_out *o, const struct csv_place *at, bool now, struct claviger_error *e);
RESULT csv_out_finish(struct csv_out *o, const struct csv_place *at, struct claviger_error *e);
void csv_out_free(struct csv_out *o); /* NULL accepted; what is not finished can be gone on with */

/* SHA-256 of a file from its first byte to its end, and how long it is. */
RESULT csv_sum_file(int fd, const char *what, char ret_sum[CSV_SUM_TEXT], uint64_t *ret_bytes, struct claviger_error *e);

#endif
