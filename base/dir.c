#include "base/dir.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void dir_names_release(struct dir_names *d)
{
    for (int i = 0; i < d->n; i++)
        free(d->entries[i]);
    free(d->entries);
}

int dir_by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

RESULT dir_sync(const char *path, const char *reason, struct err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, reason, "open folder %s", path);
    int rc = fsync(fd), errnum = errno;
    close(fd);
    errno = errnum;
    if (rc != 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, reason, "sync folder %s", path);
    return ok();
}
