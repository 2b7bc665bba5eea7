#include "vault/cmd/kmsctl/whole.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct whole {
    char *path, *part;
    FILE *stream;
    bool replace, named;
};

RESULT whole_failed(struct claviger_error *e, const char *what, const char *path)
{
    return client_fail(e, CLAVIGER_UNKNOWN, "OUTPUT", "%s cannot be %s: %s", path, what, strerror(errno));
}

RESULT whole_taken(struct claviger_error *e, const char *path, const char *why)
{
    return client_fail(e, CLAVIGER_ALREADY_EXISTS, "OUTPUT_EXISTS", "%s is there already%s", path, why);
}

bool whole_is_there(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

RESULT whole_sync_folder(const char *path, struct claviger_error *e)
{
    char *copy = strdup(path);
    INVARIANT(copy);
    const char *folder = dirname(copy);
    CLEANUP(close_fd) int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct result r = fd >= 0 && fsync(fd) == 0 ? ok() : whole_failed(e, "synced", folder);
    free(copy);
    return r;
}

/* The lock is of the file, not of its name: who waited for a run that then finished holds one that is FILE by now. */
RESULT whole_lock(const char *part, const char *path, mode_t mode, int *ret_fd, struct claviger_error *e)
{
    struct stat mine, there;
    CLEANUP(close_fd) int fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, mode);
    if (fd < 0)
        return whole_failed(e, "made", part);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 || fstat(fd, &mine) != 0 || lstat(part, &there) != 0 || mine.st_ino != there.st_ino)
        return client_fail(e, CLAVIGER_FAILED_PRECONDITION, "OUTPUT_BUSY", "another run is at work on %s", path);
    /* In a folder that others write to, somebody may have made it before us, and would read what we put there. */
    if (!S_ISREG(mine.st_mode) || mine.st_uid != geteuid() || mine.st_nlink != 1 || fchmod(fd, mine.st_mode & mode) != 0)
        return whole_taken(e, part, ", and it is no file of ours");
    *ret_fd = fd;
    fd = -1;
    return ok();
}

/* Not every file system knows how to say "but not over another". */
RESULT whole_name(const char *part, const char *path, struct claviger_error *e)
{
    if (renameat2(AT_FDCWD, part, AT_FDCWD, path, RENAME_NOREPLACE) == 0)
        return ok();
    if (errno == EINVAL && !whole_is_there(path) && rename(part, path) == 0)
        return ok();
    return whole_is_there(path) ? whole_taken(e, path, "") : whole_failed(e, "made", path);
}

static struct result open_part(struct whole *w, mode_t mode, struct claviger_error *e)
{
    int fd = -1;
    if (!w->replace && whole_is_there(w->path))
        return whole_taken(e, w->path, "");
    TRY(whole_lock(w->part, w->path, mode, &fd, e));
    w->stream = fdopen(fd, "w"); /* the lock goes with it */
    if (w->stream == NULL)
        close(fd);
    return w->stream != NULL && ftruncate(fd, 0) == 0 ? ok() : whole_failed(e, "opened", w->part);
}

RESULT whole_open(const char *path, bool replace, mode_t mode, struct whole **ret, struct claviger_error *e)
{
    struct whole *w = calloc(1, sizeof *w);
    INVARIANT(w);
    w->replace = replace;
    w->path = strdup(path);
    INVARIANT(w->path && asprintf(&w->part, "%s.part", path) >= 0);
    struct result r = open_part(w, mode, e);
    if (r.failed)
        whole_free(w);
    else
        *ret = w;
    return r;
}

FILE *whole_stream(struct whole *w)
{
    return w->stream;
}

RESULT whole_finish(struct whole *w, struct claviger_error *e)
{
    if (fflush(w->stream) != 0 || ferror(w->stream) || fsync(fileno(w->stream)) != 0)
        return whole_failed(e, "written", w->part);
    if (!w->replace)
        TRY(whole_name(w->part, w->path, e));
    else if (rename(w->part, w->path) != 0)
        return whole_failed(e, "made", w->path);
    w->named = true;
    return whole_sync_folder(w->path, e);
}

static void whole_freep(struct whole **w)
{
    whole_free(*w);
}

RESULT whole_write(const char *path, bool replace, mode_t mode, struct bytes content, struct claviger_error *e)
{
    CLEANUP(whole_freep) struct whole *w = NULL;
    TRY(whole_open(path, replace, mode, &w, e));
    (void)!fwrite(content.p, 1, content.n, w->stream); /* whole_finish asks whether it could */
    return whole_finish(w, e);
}

void whole_free(struct whole *w)
{
    if (!w)
        return;
    if (w->stream != NULL && !w->named)
        (void)unlink(w->part);
    if (w->stream != NULL)
        (void)fclose(w->stream);
    free(w->path);
    free(w->part);
    free(w);
}
