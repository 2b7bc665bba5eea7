#include "vault/ops/files.h"

#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

RESULT files_open(const char *what, const char *path, bool private, int *ret_fd, struct err *e)
{
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    mode_t forbidden = private ? (S_IRWXG | S_IRWXO) : (S_IWGRP | S_IWOTH);
    struct stat st;

    if (fd < 0)
        FAIL_ERRNO(e, ERR_INVALID, "FILE_OPEN", "%s: cannot open %s", what, path);
    if (fstat(fd, &st) != 0)
        FAIL_ERRNO(e, ERR_INVALID, "FILE_OPEN", "%s: cannot examine %s", what, path);
    if (!S_ISREG(st.st_mode))
        FAIL(e, ERR_INVALID, "FILE_KIND", "%s: %s is not a regular file", what, path);
    if (st.st_uid != 0 && st.st_uid != geteuid())
        FAIL(e, ERR_INVALID, "FILE_OWNER", "%s: %s belongs to user %u; it must belong to root or to the user of kmsd", what,
             path, st.st_uid);
    if ((st.st_mode & forbidden) != 0)
        FAIL(e, ERR_INVALID, "FILE_MODE", "%s: %s is open to others (mode %04o); run: chmod %s %s", what, path,
             st.st_mode & 07777U, private ? "600" : "go-w", path);
    *ret_fd = fd;
    fd = -1;
    return ok();
}

RESULT files_open_tls(const struct config *c, int *ret_cert, int *ret_key, struct err *e)
{
    CLEANUP(close_fd) int cert = -1;
    int key;

    TRY(files_open("tls_cert_file", c->tls_cert_file, false, &cert, e));
    TRY(files_open("tls_key_file", c->tls_key_file, true, &key, e));
    *ret_cert = cert;
    *ret_key = key;
    cert = -1;
    return ok();
}

static RESULT find_user(const char *what, const char *name, uid_t *ret_uid, gid_t *ret_gid, struct err *e)
{
    struct passwd pw, *found = NULL;
    char buf[4096];

    *ret_uid = geteuid();
    *ret_gid = getegid();
    if (name[0] == '\0')
        return ok();
    if (getpwnam_r(name, &pw, buf, sizeof(buf), &found) != 0 || found == NULL)
        FAIL(e, ERR_INVALID, "USER_UNKNOWN", "%s: there is no user \"%s\" on this machine", what, name);
    if (geteuid() != 0)
        FAIL(e, ERR_INVALID, "USER_NOT_ROOT", "%s: only root can change to user \"%s\"; leave it empty or start as root", what,
             name);
    *ret_uid = pw.pw_uid;
    *ret_gid = pw.pw_gid;
    return ok();
}

struct folder {
    const char *what, *path;
    uid_t uid;
    gid_t gid;
    mode_t mode;
};

/* On the opened folder, so that nobody can swap it between check and change. */
static RESULT check_folder(const struct folder *f, int fd, bool made, struct stat *st, struct err *e)
{
    if (fd < 0 || fstat(fd, st) != 0)
        FAIL_ERRNO(e, ERR_INVALID, "DIR_OPEN", "%s: cannot open folder %s", f->what, f->path);
    if (st->st_uid != 0 && st->st_uid != geteuid() && st->st_uid != f->uid)
        FAIL(e, ERR_INVALID, "DIR_OWNER", "%s: %s belongs to user %u, not to root or to the daemon's users", f->what, f->path,
             st->st_uid);
    if (!made && (st->st_mode & (S_IWGRP | S_IWOTH)) != 0)
        FAIL(e, ERR_INVALID, "DIR_MODE", "%s: %s can be written by others (mode %04o); run: chmod %04o %s", f->what, f->path,
             st->st_mode & 07777U, f->mode, f->path);
    return ok();
}

static RESULT prepare_folder(const struct folder *f, bool dry, struct err *e)
{
    CLEANUP(close_fd) int fd = -1;
    bool made = !dry && mkdir(f->path, 0700) == 0;
    struct stat st;

    if (!dry && !made && errno != EEXIST)
        FAIL_ERRNO(e, ERR_INVALID, "DIR_CREATE", "%s: cannot make %s", f->what, f->path);
    fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && dry && errno == ENOENT)
        return ok();
    TRY(check_folder(f, fd, made, &st, e));
    if (dry)
        return ok();
    if ((st.st_uid != f->uid || st.st_gid != f->gid) && geteuid() == 0 && fchown(fd, f->uid, f->gid) != 0)
        FAIL_ERRNO(e, ERR_INVALID, "DIR_OWNER", "%s: cannot give %s to user %u", f->what, f->path, f->uid);
    if ((st.st_mode & 07777U) != f->mode && fchmod(fd, f->mode) != 0)
        FAIL_ERRNO(e, ERR_INVALID, "DIR_MODE", "%s: cannot set mode %04o on %s", f->what, f->mode, f->path);
    return ok();
}

void files_journal_dir(const struct config *c, struct buf *out)
{
    if (c->journal_dir[0] != '\0')
        buf_put_str(out, c->journal_dir);
    else
        buf_putf(out, "%s/journal", c->state_dir);
}

static RESULT each_folder(const struct config *c, bool dry, struct err *e)
{
    CLEANUP(buf_release) struct buf journal;
    CLEANUP(buf_release) struct buf hsm;
    uid_t core_uid, front_uid, hsm_uid;
    gid_t core_gid, front_gid, hsm_gid;

    buf_init(&journal, 8192);
    files_journal_dir(c, &journal);
    buf_init(&hsm, 8192);
    buf_putf(&hsm, "%s/hsm", c->state_dir);
    TRY(find_user("user_core", c->user_core, &core_uid, &core_gid, e));
    TRY(find_user("user_front", c->user_front, &front_uid, &front_gid, e));
    TRY(find_user("user_hsm", c->user_hsm, &hsm_uid, &hsm_gid, e));
    bool apart = core_uid != front_uid && front_uid != 0;
    const struct folder folders[] = {
        /* hsm passes through it to its own folder; what lies in it is 0600 or 0700 */
        {"state_dir", c->state_dir, core_uid, core_gid, core_uid != hsm_uid && hsm_uid != 0 ? 0711 : 0700},
        {"state_dir/hsm", buf_cstr(&hsm), hsm_uid, hsm_gid, 0700},
        {"journal_dir", buf_cstr(&journal), core_uid, core_gid, 0700},
        /* the front connects to the core's socket in it: it may pass, not list */
        {"run_dir", c->run_dir, core_uid, apart ? front_gid : core_gid, apart ? 0710 : 0700},
    };
    for (size_t i = 0; i < sizeof(folders) / sizeof(*folders); i++)
        TRY(prepare_folder(&folders[i], dry, e));
    return ok();
}

RESULT files_prepare_dirs(const struct config *c, struct err *e)
{
    return each_folder(c, false, e);
}

RESULT files_check_dirs(const struct config *c, struct err *e)
{
    return each_folder(c, true, e);
}

RESULT files_lock(const struct config *c, int *ret_fd, struct err *e)
{
    CLEANUP(close_fd) int dir = open(c->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CLEANUP(close_fd) int fd = -1;
    char pid[32];

    if (dir >= 0)
        fd = openat(dir, "kmsd.lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        FAIL_ERRNO(e, ERR_INVALID, "LOCK_FILE", "cannot open %s/kmsd.lock", c->state_dir);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        FAIL(e, ERR_EXISTS, "ALREADY_RUNNING", "another kmsd works on %s; stop it first (its process id is in kmsd.lock)",
             c->state_dir);
    int n = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, pid, (size_t)n, 0) != n)
        FAIL_ERRNO(e, ERR_INTERNAL, "LOCK_FILE", "cannot write %s/kmsd.lock", c->state_dir);
    *ret_fd = fd;
    fd = -1;
    return ok();
}
