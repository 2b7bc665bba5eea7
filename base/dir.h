/*
 * Purpose: folders: their entries in an order that is the same everywhere, and a change of names made durable.
 * Owns:    struct dir_names owns what scandir allocated. Threads: none shared.
 * Errors:  ERR_UNAVAILABLE with the caller's reason.
 * Limits:  the caller's. Secrets: none.
 */
#ifndef BASE_DIR_H
#define BASE_DIR_H

#include "base/err.h"

#include <dirent.h>

/* As scandir and scandirat fill it; n < 0: they failed. */
struct dir_names {
    struct dirent **entries;
    int n;
};
void dir_names_release(struct dir_names *d); /* {0} accepted */
int dir_by_name(const struct dirent **a, const struct dirent **b); /* bytewise: alphasort depends on the locale */

/* A new, renamed or removed file is so durably only once its folder is synced. reason: a literal. */
RESULT dir_sync(const char *path, const char *reason, struct err *e);

#endif
