#include "hsm/copy.h"

#include "base/dir.h"
#include "hsm/openssl.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

void copy_list_release(struct copy_list *l)
{
    free(l->files);
    *l = (struct copy_list){0};
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

static int not_dots(const struct dirent *d)
{
    return strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
}

static RESULT list(int dir, struct dir_names *ret, struct err *e)
{
    ret->n = scandirat(dir, ".", &ret->entries, not_dots, dir_by_name);
    if (ret->n < 0) {
        ret->n = 0;
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "HSM_BACKUP", "listing a folder of token files");
    }
    if (ret->n > COPY_FILES_MAX)
        FAIL(e, ERR_STATE, "HSM_BACKUP", "%d files in one folder of token files, more than %d", ret->n, COPY_FILES_MAX);
    return ok();
}

/* ---- one file ---------------------------------------------------------------------------------------------------- */

static RESULT read_file(int at, const char *name, struct buf *content, struct err *e)
{
    CLEANUP(close_fd) int fd = openat(at, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    uint8_t chunk[8192];
    ssize_t n;
    if (fd < 0 || fstat(fd, &st) != 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "HSM_BACKUP", "opening token file %.100s", name);
    if (!S_ISREG(st.st_mode))
        FAIL(e, ERR_STATE, "HSM_BACKUP", "%.100s among the token's files is no plain file", name);
    while ((n = read(fd, chunk, sizeof chunk)) > 0)
        buf_put(content, chunk, (size_t)n);
    wipe(chunk, sizeof chunk);
    if (n < 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "HSM_BACKUP", "reading token file %.100s", name);
    if (content->overflow)
        FAIL(e, ERR_STATE, "HSM_BACKUP", "token file %.100s is larger than %d bytes", name, COPY_FILE_MAX);
    return ok();
}

static RESULT write_file(int at, const char *name, struct bytes content, int *ret_fd, struct err *e)
{
    CLEANUP(close_fd) int fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "HSM_BACKUP", "making %.100s", name);
    for (size_t done = 0; done < content.n;) {
        ssize_t n = write(fd, content.p + done, content.n - done);
        if (n <= 0)
            FAIL_ERRNO(e, ERR_UNAVAILABLE, "HSM_BACKUP", "writing %.100s", name);
        done += (size_t)n;
    }
    *ret_fd = fd;
    fd = -1;
    return ok();
}

RESULT copy_write_file(int at, const char *name, struct bytes content, struct err *e)
{
    CLEANUP(close_fd) int fd = -1;
    TRY(write_file(at, name, content, &fd, e));
    if (fsync(fd) != 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "HSM_BACKUP", "syncing %.100s", name);
    return ok();
}

static RESULT copy_one(int from, int to, const char *name, struct copy_file *ret, struct err *e)
{
    CLEANUP(buf_release) struct buf content = {0};
    CLEANUP(close_fd) int fd = -1;
    if (strlen(name) > COPY_NAME_MAX)
        FAIL(e, ERR_STATE, "HSM_BACKUP", "a token file has a name of more than %d bytes", COPY_NAME_MAX);
    buf_init(&content, COPY_FILE_MAX);
    TRY(read_file(from, name, &content, e));
    memcpy(ret->name, name, strlen(name) + 1);
    INVARIANT(EVP_Digest(content.p, content.n, ret->sha256, NULL, EVP_sha256(), NULL) == 1);
    return to < 0 ? ok() : write_file(to, name, buf_bytes(&content), &fd, e);
}

/* ---- folders ----------------------------------------------------------------------------------------------------- */

RESULT copy_folder(int from, int to, struct copy_list *ret, struct err *e)
{
    CLEANUP(dir_names_release) struct dir_names l = {0};
    CLEANUP(copy_list_release) struct copy_list out = {0};
    TRY(list(from, &l, e));
    out.files = calloc((size_t)l.n + 1, sizeof *out.files);
    INVARIANT(out.files != NULL);
    for (; out.n < (size_t)l.n; out.n++) {
        if (ret->between != NULL)
            ret->between(ret->user);
        TRY(copy_one(from, to, l.entries[out.n]->d_name, &out.files[out.n], e));
    }
    *ret = out;
    out = (struct copy_list){0};
    return ok();
}

RESULT copy_sync(int folder, struct err *e)
{
    if (syncfs(folder) != 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "HSM_BACKUP", "syncing a folder of token files");
    return ok();
}

RESULT copy_same(const struct copy_list *a, const struct copy_list *b, struct err *e)
{
    if (a->n != b->n)
        FAIL(e, ERR_DATA_LOSS, "HSM_BACKUP", "the copy has %zu files where the token has %zu", b->n, a->n);
    for (size_t i = 0; i < a->n; i++)
        if (strcmp(a->files[i].name, b->files[i].name) != 0 ||
            !bytes_ct_equal(a->files[i].sha256, b->files[i].sha256, COPY_DIGEST_BYTES))
            FAIL(e, ERR_DATA_LOSS, "HSM_BACKUP", "the copy of token file %.100s differs from it", a->files[i].name);
    return ok();
}

RESULT copy_open_folder(int at, const char *name, int *ret_fd, struct err *e)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        FAIL_ERRNO(e, errno == ENOENT ? ERR_NOT_FOUND : ERR_UNAVAILABLE, "HSM_BACKUP", "opening folder %.100s", name);
    *ret_fd = fd;
    return ok();
}

RESULT copy_make_folder(int at, const char *name, int *ret_fd, struct err *e)
{
    if (mkdirat(at, name, 0700) != 0)
        FAIL_ERRNO(e, errno == EEXIST ? ERR_EXISTS : ERR_UNAVAILABLE, "HSM_BACKUP", "making folder %.100s", name);
    if (fsync(at) != 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "HSM_BACKUP", "syncing the folder of %.100s", name);
    return copy_open_folder(at, name, ret_fd, e);
}

static RESULT empty_folder(int dir, bool deeper, struct err *e)
{
    CLEANUP(dir_names_release) struct dir_names l = {0};
    TRY(list(dir, &l, e));
    for (int i = 0; i < l.n; i++) {
        const char *name = l.entries[i]->d_name;
        CLEANUP(close_fd) int below = -1;
        struct err none = {0};
        bool folder = deeper && !copy_open_folder(dir, name, &below, &none).failed;
        if (folder)
            TRY(empty_folder(below, false, e));
        if (unlinkat(dir, name, folder ? AT_REMOVEDIR : 0) != 0)
            FAIL_ERRNO(e, ERR_UNAVAILABLE, "HSM_BACKUP", "removing %.100s", name);
    }
    return ok();
}

RESULT copy_remove(int at, const char *name, struct err *e)
{
    CLEANUP(close_fd) int dir = -1;
    struct err why = {0};
    if (copy_open_folder(at, name, &dir, &why).failed) {
        if (why.code == ERR_NOT_FOUND)
            return ok();
        *e = why;
        return (struct result){1};
    }
    TRY(empty_folder(dir, true, e));
    if (unlinkat(at, name, AT_REMOVEDIR) != 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "HSM_BACKUP", "removing folder %.100s", name);
    return ok();
}
