/*
 * Purpose: known answers of secrets on a token that keeps no data objects: in a file of hsm's folder, "hsm-answers", a line for each:
 *          "master-1 <nonce, 64 hex digits> <answer, 64 hex digits>". Elsewhere there is no such file.
 * Owns:    nothing. Threads: the main loop's, and a fresh process that reads.
 * Errors:  ERR_STATE "HSM_STORAGE": it holds what we did not write; ERR_INTERNAL "HSM_STORAGE" with errno.
 * Limits:  ANSWER_FILE_MAX bytes.
 * Secrets: none, as answer.h says of what it holds.
 */
#ifndef HSM_ANSWER_FILE_H
#define HSM_ANSWER_FILE_H

#include "hsm/object.h"

enum { ANSWER_FILE_MAX = 65536 };

struct answer_line {
    const char *name; /* "master-1" */
    uint8_t nonce[ANSWER_NONCE_BYTES], answer[ANSWER_BYTES];
};
/* The text of such a file: the line of that name into found (NULL: not wanted), all others into others (NULL: not wanted). */
RESULT answer_lines(struct bytes untrusted, const char *name, struct answer_line *found, bool *ret_found, struct buf *others, struct err *e);
/* Fills line->nonce and answer of line->name; *ret_found false: there is none, or no file. */
RESULT answer_file_get(const char *folder, struct answer_line *line, bool *ret_found, struct err *e);
/* Durable when it returns; a crash leaves the old file or the new one. */
RESULT answer_file_put(const char *folder, const struct answer_line *line, struct err *e);
RESULT answer_file_remove(const char *folder, const char *name, struct err *e); /* absent is fine */

#endif
