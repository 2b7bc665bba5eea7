/*
 * Purpose: preloaded into kmsd-core by tests/crash/core.c: counts the calls that change the world outside (files, sockets), and at
 *          the one that the control page names kills the process, fails, or writes short. Nothing of it is in what is shipped.
 * Owns:    the mapping of the control page, a table of what each descriptor is.
 * Threads: any. Errors: without a page it counts nothing. Limits: DESCRIPTORS. Secrets: none.
 *
 * Every wrapper makes the system call itself: no symbol is looked up, and nothing is allocated, so it works in any thread at any
 * time. The page is mapped before core confines itself.
 */
#undef _FORTIFY_SOURCE
#include "tests/crash/page.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { DESCRIPTORS = 65536 };
static struct page *page;
static uint32_t my_start;
static _Atomic uint8_t kinds[DESCRIPTORS]; /* enum page_file */

__attribute__((constructor)) static void map_page(void)
{
    const char *path = getenv("CLV_CRASH_PAGE");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0) : -1;
    if (fd < 0)
        return;
    void *p = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (p == MAP_FAILED || ((struct page *)p)->magic != PAGE_MAGIC)
        return;
    atomic_store(&kinds[STDERR_FILENO], (uint8_t)FILE_LOG);
    atomic_store(&kinds[STDOUT_FILENO], (uint8_t)FILE_LOG);
    page = p;
    unsetenv("CLV_CRASH_PAGE");
    unsetenv("LD_PRELOAD");
    atomic_store(&page->pid, (uint32_t)syscall(SYS_getpid));
    my_start = atomic_fetch_add(&page->starts, 1) + 1;
}

/* ---- what it is ---- */
static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), t = strlen(tail);
    return n >= t && memcmp(s + n - t, tail, t) == 0;
}

static enum page_file kind_of_path(const char *path, int flags)
{
    if (flags & O_DIRECTORY)
        return FILE_FOLDER;
    if (ends_with(path, "-wal"))
        return FILE_WAL;
    if (ends_with(path, "-shm"))
        return FILE_SHM;
    if (ends_with(path, ".db"))
        return FILE_DB;
    if (strstr(path, "anchor"))
        return FILE_ANCHOR;
    if (ends_with(path, ".part"))
        return FILE_PART;
    return ends_with(path, ".log") && strstr(path, "journal-") ? FILE_JOURNAL : FILE_OTHER;
}

static enum page_file kind_of(int fd)
{
    return fd >= 0 && fd < DESCRIPTORS ? (enum page_file)atomic_load_explicit(&kinds[fd], memory_order_relaxed) : FILE_OTHER;
}

static void set_kind(int fd, enum page_file kind)
{
    if (fd >= 0 && fd < DESCRIPTORS)
        atomic_store_explicit(&kinds[fd], (uint8_t)kind, memory_order_relaxed);
}

/* ---- the point ---- */
__attribute__((noreturn)) static void die(void)
{
    for (;;)
        syscall(SYS_tgkill, syscall(SYS_getpid), syscall(SYS_gettid), SIGKILL); /* the whole process: it is no thread's signal */
}

/* What is to happen to this call; the page says so before it happens. */
static enum page_action point(enum page_call call, enum page_file file)
{
    if (!page)
        return ACT_NONE;
    atomic_fetch_add_explicit(&page->counts[call][file], 1, memory_order_relaxed);
    enum page_action act = (enum page_action)atomic_load_explicit(&page->action, memory_order_acquire);
    if (act == ACT_NONE || !page->selected[call][file] || (page->only_start && page->only_start != my_start))
        return ACT_NONE;
    uint64_t at = atomic_fetch_add(&page->seen, 1) + 1;
    if (at < page->nth || at - page->nth >= page->times)
        return ACT_NONE;
    if (atomic_fetch_add(&page->fired, 1) == 0) {
        page->fired_call = call;
        page->fired_file = file;
        page->fired_pid = (uint32_t)syscall(SYS_getpid);
    }
    if (act == ACT_KILL_BEFORE)
        die();
    return act;
}

/* A call whose effect is all or nothing. */
#define WHOLE(call, file, system_call)                                                                                           \
    ({                                                                                                                           \
        enum page_action act_ = point(call, file);                                                                               \
        long r_ = -1;                                                                                                            \
        if (act_ == ACT_FAIL)                                                                                                    \
            errno = (int)page->error;                                                                                            \
        else                                                                                                                     \
            r_ = act_ == ACT_LOSE ? 0 : (system_call);                                                                           \
        if (act_ == ACT_KILL_AFTER || act_ == ACT_KILL_TORN)                                                                     \
            die();                                                                                                               \
        r_;                                                                                                                      \
    })

/* A write of n_ bytes (n_ is shortened when it is to be torn). */
#define PARTIAL(call, file, n_, system_call)                                                                                     \
    ({                                                                                                                           \
        enum page_action act_ = point(call, file);                                                                               \
        long r_ = -1;                                                                                                            \
        if ((act_ == ACT_KILL_TORN || act_ == ACT_SHORT) && n_ > 1)                                                              \
            n_ = n_ / 2;                                                                                                         \
        if (act_ == ACT_FAIL)                                                                                                    \
            errno = (int)page->error;                                                                                            \
        else                                                                                                                     \
            r_ = act_ == ACT_LOSE ? (long)n_ : (system_call);                                                                    \
        if (act_ == ACT_KILL_AFTER || act_ == ACT_KILL_TORN)                                                                     \
            die();                                                                                                               \
        r_;                                                                                                                      \
    })

/* ---- open ---- */
/* Reading files is no point: core opens its own only, and each that it may change (or a folder, to sync it) is one. */
static int open_at(int dir, const char *path, int flags, mode_t mode)
{
    enum page_file kind = kind_of_path(path, flags);
    bool changes = (flags & (O_ACCMODE | O_CREAT | O_TRUNC)) != O_RDONLY || kind == FILE_FOLDER;
    long fd = changes ? WHOLE(CALL_OPEN, kind, syscall(SYS_openat, dir, path, flags, mode)) : syscall(SYS_openat, dir, path, flags, mode);
    set_kind((int)fd, kind);
    return (int)fd;
}

#define MODE_OF(flags)                                                                                                           \
    ({                                                                                                                           \
        mode_t mode_ = 0;                                                                                                        \
        if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                                                 \
            va_list ap_;                                                                                                         \
            va_start(ap_, flags);                                                                                                \
            mode_ = va_arg(ap_, mode_t);                                                                                         \
            va_end(ap_);                                                                                                         \
        }                                                                                                                        \
        mode_;                                                                                                                   \
    })
int open(const char *path, int flags, ...) { return open_at(AT_FDCWD, path, flags, MODE_OF(flags)); }
int open64(const char *path, int flags, ...) { return open_at(AT_FDCWD, path, flags, MODE_OF(flags)); }
int openat(int dir, const char *path, int flags, ...) { return open_at(dir, path, flags, MODE_OF(flags)); }
int openat64(int dir, const char *path, int flags, ...) { return open_at(dir, path, flags, MODE_OF(flags)); }
int __open_2(const char *path, int flags);
int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags);
int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }

/* ---- write ---- */
ssize_t write(int fd, const void *p, size_t n) { return PARTIAL(CALL_WRITE, kind_of(fd), n, syscall(SYS_write, fd, p, n)); }
ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    return PARTIAL(CALL_WRITE, kind_of(fd), n, syscall(SYS_pwrite64, fd, p, n, at));
}
ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at)
{
    return PARTIAL(CALL_WRITE, kind_of(fd), n, syscall(SYS_pwrite64, fd, p, n, at));
}
ssize_t writev(int fd, const struct iovec *v, int n) { return WHOLE(CALL_WRITE, kind_of(fd), syscall(SYS_writev, fd, v, n)); }
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at)
{
    return WHOLE(CALL_WRITE, kind_of(fd), syscall(SYS_pwritev, fd, v, n, at & 0xffffffff, at >> 32));
}

/* ---- sync and size ---- */
int fsync(int fd) { return (int)WHOLE(CALL_SYNC, kind_of(fd), syscall(SYS_fsync, fd)); }
int fdatasync(int fd) { return (int)WHOLE(CALL_SYNC, kind_of(fd), syscall(SYS_fdatasync, fd)); }
int sync_file_range(int fd, off64_t at, off64_t n, unsigned flags)
{
    return (int)WHOLE(CALL_SYNC, kind_of(fd), syscall(SYS_sync_file_range, fd, at, n, flags));
}
int ftruncate(int fd, off_t n) { return (int)WHOLE(CALL_RESIZE, kind_of(fd), syscall(SYS_ftruncate, fd, n)); }
int ftruncate64(int fd, off64_t n) { return (int)WHOLE(CALL_RESIZE, kind_of(fd), syscall(SYS_ftruncate, fd, n)); }
int fallocate(int fd, int mode, off_t at, off_t n) { return (int)WHOLE(CALL_RESIZE, kind_of(fd), syscall(SYS_fallocate, fd, mode, at, n)); }
int fallocate64(int fd, int mode, off64_t at, off64_t n)
{
    return (int)WHOLE(CALL_RESIZE, kind_of(fd), syscall(SYS_fallocate, fd, mode, at, n));
}

/* ---- names ---- */
int rename(const char *from, const char *to)
{
    enum page_file was = kind_of_path(from, 0), kind = kind_of_path(to, 0);
    int r = (int)WHOLE(CALL_NAME, kind, syscall(SYS_rename, from, to));
    for (int fd = 0; r == 0 && was == FILE_PART && fd < DESCRIPTORS; fd++) /* there is one: it is a journal's file from now on */
        if (kind_of(fd) == FILE_PART)
            set_kind(fd, kind);
    return r;
}
int link(const char *from, const char *to) { return (int)WHOLE(CALL_NAME, kind_of_path(to, 0), syscall(SYS_link, from, to)); }
int mkdir(const char *path, mode_t mode) { return (int)WHOLE(CALL_NAME, FILE_FOLDER, syscall(SYS_mkdir, path, mode)); }
int unlink(const char *path) { return (int)WHOLE(CALL_UNLINK, kind_of_path(path, 0), syscall(SYS_unlink, path)); }

/* ---- sockets ---- */
int accept4(int fd, struct sockaddr *restrict a, socklen_t *restrict n, int flags)
{
    int got = (int)syscall(SYS_accept4, fd, a, n, flags);
    set_kind(got, FILE_CLIENT);
    return got;
}
/* Descriptors that came over a socket are the channels to the other processes; eventfds and pipes are never sent on. */
static enum page_file socket_kind(int fd)
{
    enum page_file kind = kind_of(fd);
    return kind == FILE_CLIENT ? kind : FILE_CHANNEL;
}
ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    struct msghdr part = *m;
    struct iovec first = m->msg_iovlen ? m->msg_iov[0] : (struct iovec){0};
    enum page_file kind = socket_kind(fd);
    enum page_action act = point(CALL_SEND, kind);
    if (act == ACT_FAIL) {
        errno = (int)page->error;
        return -1;
    }
    /* Only a stream may be cut short; a packet goes whole or not at all. */
    if ((act == ACT_KILL_TORN || act == ACT_SHORT) && kind == FILE_CLIENT && first.iov_len > 1) {
        first.iov_len /= 2;
        part.msg_iov = &first;
        part.msg_iovlen = 1;
    }
    ssize_t r = syscall(SYS_sendmsg, fd, &part, flags);
    if (act == ACT_KILL_AFTER || act == ACT_KILL_TORN)
        die();
    return r;
}
ssize_t sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *to, socklen_t to_n)
{
    return PARTIAL(CALL_SEND, socket_kind(fd), n, syscall(SYS_sendto, fd, p, n, flags, to, to_n));
}
ssize_t send(int fd, const void *p, size_t n, int flags)
{
    return PARTIAL(CALL_SEND, socket_kind(fd), n, syscall(SYS_sendto, fd, p, n, flags, NULL, 0));
}

int close(int fd)
{
    set_kind(fd, FILE_OTHER);
    return (int)syscall(SYS_close, fd);
}
