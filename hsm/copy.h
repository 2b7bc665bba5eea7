/*
 * Purpose: copying a token's folder of files exactly, then durably, and telling afterwards whether two folders are the same.
 * Owns:    struct copy_list owns its entries.
 * Threads: any. Errors: ERR_UNAVAILABLE "HSM_BACKUP" with errno and the file, ERR_STATE "HSM_BACKUP" when the folder holds what
 *          is no plain file or too much, ERR_DATA_LOSS "HSM_BACKUP" on a difference.
 * Limits:  COPY_FILES_MAX files, each up to COPY_FILE_MAX bytes. Folders below the folder are refused.
 * Secrets: the files hold keys, encrypted under the PIN: made 0600, never followed through a link, and the buffer they pass
 *          through is wiped.
 */
#ifndef HSM_COPY_H
#define HSM_COPY_H

#include "base/bytes.h"

enum { COPY_FILES_MAX = 70000 /* two for each of our objects, and some */, COPY_FILE_MAX = 1 << 20, COPY_DIGEST_BYTES = 32, COPY_NAME_MAX = 255 };

struct copy_file {
    char name[COPY_NAME_MAX + 1];
    uint8_t sha256[COPY_DIGEST_BYTES];
};
struct copy_list { /* sorted by name */
    struct copy_file *files;
    size_t n;
    void (*between)(void *user); /* set before copy_folder: called before each file; NULL accepted */
    void *user;
};
void copy_list_release(struct copy_list *l); /* {0} accepted */

/* Reads every file of the folder, and writes it to the folder `to` (-1: reads only): new files only. *ret has the digests of what was
 * read. What was written is durable after copy_sync: of the whole file system at once, since one sync for each of some thousand small
 * files takes seconds, in which the token answers nobody. */
RESULT copy_folder(int from, int to, struct copy_list *ret, struct err *e);
RESULT copy_sync(int folder, struct err *e);
RESULT copy_same(const struct copy_list *a, const struct copy_list *b, struct err *e);

/* A new folder of mode 0700 in `at`, opened, and its name durable. ERR_EXISTS when there is one. */
RESULT copy_make_folder(int at, const char *name, int *ret_fd, struct err *e);
RESULT copy_open_folder(int at, const char *name, int *ret_fd, struct err *e); /* never through a link */
RESULT copy_write_file(int at, const char *name, struct bytes content, struct err *e); /* new, 0600, synced; not the folder */
/* Removes a folder of files, and of folders of files; absent is fine. */
RESULT copy_remove(int at, const char *name, struct err *e);

#endif
