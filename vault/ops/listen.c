#include "vault/ops/listen.h"

#include "base/text.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

RESULT listen_parse(const char *text, struct listen_address *ret, struct err *e)
{
    const char *colon = strrchr(text, ':');
    struct listen_address a = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&a.sa;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a.sa;
    char host[LISTEN_TEXT_BYTES];
    size_t n = colon != NULL ? (size_t)(colon - text) : 0;
    uint64_t port;

    if (n == 0 || n >= sizeof(host) || !text_parse_u64(bytes_str(colon + 1), 65535, &port))
        FAIL(e, ERR_INVALID, "LISTEN_ADDRESS", "listen: \"%s\" is not address:port, e.g. 127.0.0.1:7443 or [::1]:7443", text);
    memcpy(host, text, n);
    host[n] = '\0';
    if (host[0] == '[' && host[n - 1] == ']') {
        host[n - 1] = '\0';
        *v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
        a.n = sizeof(*v6);
        if (inet_pton(AF_INET6, host + 1, &v6->sin6_addr) != 1)
            FAIL(e, ERR_INVALID, "LISTEN_ADDRESS", "listen: \"%s\" is not an IPv6 address", host + 1);
    }
    else {
        *v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        a.n = sizeof(*v4);
        if (inet_pton(AF_INET, host, &v4->sin_addr) != 1)
            FAIL(e, ERR_INVALID, "LISTEN_ADDRESS",
                 "listen: \"%s\" is not a numeric address (IPv6 stands in brackets; names are not resolved)", host);
    }
    *ret = a;
    return ok();
}

static RESULT address_text(int fd, char out[LISTEN_TEXT_BYTES], struct err *e)
{
    struct listen_address a = {.n = sizeof(a.sa)};
    char host[INET6_ADDRSTRLEN] = "";

    if (getsockname(fd, (struct sockaddr *)&a.sa, &a.n) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "LISTEN", "read the bound address");
    if (a.sa.ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&a.sa;
        (void)inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
        (void)snprintf(out, LISTEN_TEXT_BYTES, "[%s]:%u", host, ntohs(v6->sin6_port));
    }
    else {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)&a.sa;
        (void)inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        (void)snprintf(out, LISTEN_TEXT_BYTES, "%s:%u", host, ntohs(v4->sin_port));
    }
    return ok();
}

static RESULT bind_failed(const char *text, int errnum, struct err *e)
{
    switch (errnum) {
    case EADDRINUSE:
        FAIL(e, ERR_EXISTS, "PORT_IN_USE", "cannot listen on %s: another program (or another kmsd) has the port; stop it or "
             "change listen", text);
    case EACCES:
        FAIL(e, ERR_DENIED, "PORT_DENIED", "cannot listen on %s: not allowed; use a port from 1024 up, or start as root", text);
    case EADDRNOTAVAIL:
        FAIL(e, ERR_INVALID, "LISTEN_ADDRESS", "cannot listen on %s: this machine does not have that address", text);
    default:
        errno = errnum;
        FAIL_ERRNO(e, ERR_INTERNAL, "LISTEN", "cannot listen on %s", text);
    }
}

RESULT listen_open(const char *text, int *ret_fd, char ret_text[LISTEN_TEXT_BYTES], struct err *e)
{
    CLEANUP(close_fd) int fd = -1;
    struct listen_address a;
    int on = 1;

    TRY(listen_parse(text, &a, e));
    fd = socket(a.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "LISTEN", "socket for %s", text);
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)); /* else a restart waits for TIME_WAIT */
    if (bind(fd, (const struct sockaddr *)&a.sa, a.n) != 0 || listen(fd, SOMAXCONN) != 0)
        return bind_failed(text, errno, e);
    TRY(address_text(fd, ret_text, e));
    *ret_fd = fd;
    fd = -1;
    return ok();
}

/* run_dir may belong to the core's user while we are root: never follow a link that was planted there. */
RESULT endpoint_write(const char *run_dir, const char *address, struct err *e)
{
    CLEANUP(close_fd) int dir = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CLEANUP(close_fd) int fd = -1;
    char line[LISTEN_TEXT_BYTES + 2];
    int n = snprintf(line, sizeof(line), "%s\n", address);

    if (dir < 0)
        FAIL_ERRNO(e, ERR_INVALID, "RUN_DIR", "cannot open run_dir %s", run_dir);
    (void)unlinkat(dir, "endpoint.new", 0);
    fd = openat(dir, "endpoint.new", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, line, (size_t)n) != n)
        FAIL_ERRNO(e, ERR_INTERNAL, "RUN_DIR", "cannot write %s/endpoint.new", run_dir);
    if (fchmod(fd, 0644) != 0 || renameat(dir, "endpoint.new", dir, "endpoint") != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "RUN_DIR", "cannot put %s/endpoint in place", run_dir);
    return ok();
}

void endpoint_remove(const char *run_dir)
{
    CLEANUP(close_fd) int dir = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir >= 0)
        (void)unlinkat(dir, "endpoint", 0);
}
