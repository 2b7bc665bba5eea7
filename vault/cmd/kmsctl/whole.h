/*
 * Purpose: files that have their name only when they are whole: what is written lies in FILE.part, is synced, and is then renamed.
 * Owns:    FILE.part while it is locked; a struct whole the stream to it. Threads: one.
 * Errors:  "OUTPUT" what the system refused; ALREADY_EXISTS "OUTPUT_EXISTS" FILE is there; FAILED_PRECONDITION "OUTPUT_BUSY" somebody
 *          else is writing it. Whatever fails, FILE is what it was.
 * Limits:  none. Secrets: files are 0600 unless said otherwise.
 */
#ifndef VAULT_CMD_KMSCTL_WHOLE_H
#define VAULT_CMD_KMSCTL_WHOLE_H

#include "base/bytes.h"
#include "vault/client/error.h"

#include <stdio.h>
#include <sys/types.h>

struct whole;
/* What a killed run left in FILE.part is written over. */
RESULT whole_open(const char *path, bool replace, mode_t mode, struct whole **ret, struct claviger_error *e);
FILE *whole_stream(struct whole *w);
RESULT whole_finish(struct whole *w, struct claviger_error *e); /* fails too where any write to the stream did */
/* All three in one. */
RESULT whole_write(const char *path, bool replace, mode_t mode, struct bytes content, struct claviger_error *e);
void whole_free(struct whole *w); /* NULL accepted; not finished: FILE.part is removed */

/* For those that go on with a FILE.part. */
RESULT whole_lock(const char *part, const char *path, mode_t mode, int *ret_fd, struct claviger_error *e); /* open for reading and writing */
RESULT whole_name(const char *part, const char *path, struct claviger_error *e); /* never over what is there */
RESULT whole_sync_folder(const char *path, struct claviger_error *e);            /* the one that path is in */
bool whole_is_there(const char *path);
RESULT whole_taken(struct claviger_error *e, const char *path, const char *why);
RESULT whole_failed(struct claviger_error *e, const char *what, const char *path); /* "... cannot be <what>", by errno */

#endif
