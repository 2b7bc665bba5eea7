#include "vault/cmd/kmsctl/kmsctl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

RESULT read_fd_all(int fd, const char *what, size_t max, struct buf *out, struct claviger_error *e)
{
    uint8_t block[16384];
    ssize_t n;
    while ((n = read(fd, block, sizeof block)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return client_fail(e, CLAVIGER_UNKNOWN, "INPUT", "%s cannot be read: %s", what, strerror(errno));
        buf_put(out, block, (size_t)n);
        if (out->n > max || out->overflow) {
            wipe(block, sizeof block);
            return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "TOO_LARGE", "%s is longer than %zu bytes", what, max);
        }
    }
    wipe(block, sizeof block);
    return ok();
}

static void close_fd(int *fd)
{
    if (*fd > STDIN_FILENO)
        close(*fd);
}

RESULT read_all(const char *path, size_t max, struct buf *out, struct claviger_error *e)
{
    if (!path)
        return read_fd_all(STDIN_FILENO, "stdin", max, out, e);
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return client_fail(e, CLAVIGER_UNKNOWN, "INPUT", "%s cannot be opened: %s", path, strerror(errno));
    return read_fd_all(fd, path, max, out, e);
}

RESULT write_fd(int fd, const char *what, struct bytes b, struct claviger_error *e)
{
    while (b.n > 0) {
        ssize_t n = write(fd, b.p, b.n);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return client_fail(e, CLAVIGER_UNKNOWN, "OUTPUT", "%s cannot be written: %s", what, strerror(errno));
        b = BYTES(b.p + n, b.n - (size_t)n);
    }
    return ok();
}

RESULT write_all(struct bytes b, struct claviger_error *e)
{
    return write_fd(STDOUT_FILENO, "stdout", b, e);
}
