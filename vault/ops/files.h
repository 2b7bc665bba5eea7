/*
 * Purpose: the files and folders that the monitor opens or makes for the others: private files (PIN, TLS key), the
 *          certificate, the state, journal and run folders, and the lock that keeps a second kmsd out.
 * Owns:    nothing: descriptors are the caller's.
 * Threads: the monitor's one.
 * Errors:  ERR_INVALID "FILE_..." with the path, what is wrong and the command that mends it.
 * Limits:  none.
 * Secrets: passes descriptors of secret files on; never reads them.
 */
#ifndef VAULT_OPS_FILES_H
#define VAULT_OPS_FILES_H

#include "base/config.h"

/* `what` names the configuration key. Regular, owned by root or us; private: neither group nor others may read or write;
 * else: neither may write. */
RESULT files_open(const char *what, const char *path, bool private, int *ret_fd, struct err *e);

/* Certificate chain and key, both opened anew. */
RESULT files_open_tls(const struct config *c, int *ret_cert, int *ret_key, struct err *e);

/* Makes state_dir, state_dir/hsm (for user_hsm), journal_dir and run_dir where they are missing, with the owner and mode that their users need; refuses
 * folders that others may write. */
RESULT files_prepare_dirs(const struct config *c, struct err *e);
/* The same without changing anything; a folder that is missing is fine when it can be made. */
RESULT files_check_dirs(const struct config *c, struct err *e);
/* journal_dir, or state_dir/journal when it is empty. */
void files_journal_dir(const struct config *c, struct buf *out);

/* Held until the descriptor is closed. ERR_EXISTS "ALREADY_RUNNING" when another process holds it. */
RESULT files_lock(const struct config *c, int *ret_fd, struct err *e);

#endif
