/*
 * Purpose: the directory of a token that is files. SoftHSM writes new keys with no fsync at all: what was created must be on
 *          the disk before it is used; and files can be copied (backup.h).
 * Owns: the directory's descriptor. Threads: any.
 * Errors: ERR_INTERNAL "HSM_STORAGE" with errno, ERR_UNIMPLEMENTED "HSM_BACKUP" where the token is no files.
 * Limits: a vendor configuration of STORAGE_CONF_MAX bytes. Secrets: none.
 */
#ifndef HSM_STORAGE_H
#define HSM_STORAGE_H

#include "base/bytes.h"

#include <stdint.h>

enum { STORAGE_CONF_MAX = 65536, STORAGE_FOLDER_MAX = 256 };

struct storage {
    char path[4096]; /* "": the token is no files that we know of, and keeps its own promises */
    int fd;          /* -1: absent */
    uint64_t dev, ino;
};
/* "key = value" in vendor_config, the last one; "" when there is none. */
RESULT storage_setting(const char *vendor_config, const char *key, char *ret, size_t n, struct err *e);
/* directories.tokendir of vendor_config; "" when none is named. SoftHSM needs hsm_config_file: no environment reaches us. */
RESULT storage_path(const char *vendor_config, char *ret, size_t n, struct err *e);
RESULT storage_open(struct storage *s, const char *vendor_config, struct err *e); /* an absent directory is no error */
void storage_close(struct storage *s);
bool storage_absent(const struct storage *s); /* nothing stands at the path */
/* Another directory stands at the path than the one that was opened. A confined process cannot enter it: a new one can. */
bool storage_replaced(const struct storage *s);
/* Returns when everything written so far is durable: syncfs of that file system, or of all when it is not known. */
RESULT storage_sync(const struct storage *s, struct err *e);
/* The folder of one token in the directory. SoftHSM names it by a UUID, and takes the token's serial number from its end. */
RESULT storage_token_folder(const struct storage *s, const char *serial, char ret[STORAGE_FOLDER_MAX], struct err *e);
/* The vendor configuration again, for a token directory elsewhere. */
RESULT storage_config_for(const char *vendor_config, const char *tokendir, struct buf *out, struct err *e);

#endif
