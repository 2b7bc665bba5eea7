#include "vault/service/floor.h"

#include "base/dir.h"
#include "hsm/storage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct result token_get(void *user, uint8_t out[STORE_ANCHOR_MAX], size_t *ret_n, struct err *e)
{
    return hsm_anchor_get(((struct floor *)user)->hsm, out, ret_n, e);
}

static struct result token_put(void *user, struct bytes value, struct err *e)
{
    return hsm_anchor_put(((struct floor *)user)->hsm, value, e);
}

static struct result file_get(void *user, uint8_t out[STORE_ANCHOR_MAX], size_t *ret_n, struct err *e)
{
    const char *path = ((struct floor *)user)->path;
    int fd = path[0] != 0 ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
    if (path[0] == 0 || (fd < 0 && errno == ENOENT))
        FAIL(e, ERR_NOT_FOUND, "ANCHOR_FILE", "no anchor in a file");
    if (fd < 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "ANCHOR_FILE", "open %s", path);
    ssize_t n = read(fd, out, STORE_ANCHOR_MAX);
    int errnum = errno;
    close(fd);
    errno = errnum;
    if (n < 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "ANCHOR_FILE", "read %s", path);
    *ret_n = (size_t)n;
    return ok();
}

static RESULT write_durably(const char *path, struct bytes value, struct err *e)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "ANCHOR_FILE", "open %s", path);
    bool done = write(fd, value.p, value.n) == (ssize_t)value.n && fsync(fd) == 0;
    int errnum = errno;
    close(fd);
    errno = errnum;
    if (!done)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "ANCHOR_FILE", "write %s", path);
    return ok();
}

static void folder_of(const char *path, char out[4096])
{
    snprintf(out, 4096, "%s", path);
    char *slash = strrchr(out, '/');
    if (slash != NULL)
        slash[slash == out] = 0;
}

/* Beside it, then over it: a crash leaves the old floor or the new one. */
static struct result file_put(void *user, struct bytes value, struct err *e)
{
    const char *path = ((struct floor *)user)->path;
    char part[4096 + 8], folder[4096];
    snprintf(part, sizeof part, "%s.part", path);
    folder_of(path, folder);
    TRY(write_durably(part, value, e));
    if (rename(part, path) != 0)
        FAIL_ERRNO(e, ERR_UNAVAILABLE, "ANCHOR_FILE", "rename %s", part);
    return dir_sync(folder, "ANCHOR_FILE", e);
}

void floor_init(struct floor *f, const struct config *c, struct hsm *h)
{
    *f = (struct floor){.hsm = h, .path = c->anchor_file};
    f->io = (struct store_anchor){.place = STORE_ANCHOR_TOKEN, .get = token_get, .put = token_put, .get_other = file_get, .user = f};
    if (c->anchor_file[0] != 0)
        f->io = (struct store_anchor){.place = STORE_ANCHOR_FILE, .get = file_get, .put = file_put, .get_other = token_get, .user = f};
}

void floor_folder(const struct config *c, char out[4096])
{
    out[0] = 0;
    if (c->anchor_file[0] != 0)
        folder_of(c->anchor_file, out);
}

void floor_weakness(const struct config *c, char out[FLOOR_TEXT_MAX])
{
    struct stat place, store;
    struct err e = {0};
    char folder[4096];
    out[0] = 0;
    floor_folder(c, folder);
    if (folder[0] == 0 && storage_path(c->hsm_config_file, folder, sizeof folder, &e).failed)
        folder[0] = 0;
    if (folder[0] == 0 || stat(folder, &place) != 0 || stat(c->state_dir, &store) != 0 || place.st_dev != store.st_dev)
        return;
    snprintf(out, FLOOR_TEXT_MAX, "the anchor (%s) is on the store's own device: a snapshot of that disk put back takes both, and is "
             "not noticed; anchor_file names a place on another",
             c->anchor_file[0] != 0 ? "anchor_file" : "the token's folder");
}
