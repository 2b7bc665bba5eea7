#include "base/confine.h"

#include "base/secret.h"

#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The saved ids are what makes the way back: all three change, and then the way back is tried. */
RESULT confine_user(const char *user, struct err *e)
{
    struct passwd pw, *found = NULL;
    char buf[4096];

    if (user == NULL || user[0] == '\0')
        return ok();
    if (getpwnam_r(user, &pw, buf, sizeof(buf), &found) != 0 || found == NULL)
        FAIL(e, ERR_INVALID, "USER_UNKNOWN", "there is no user \"%s\" on this machine", user);
    if (pw.pw_uid == geteuid() && geteuid() != 0)
        return ok();
    if (setgroups(0, NULL) != 0)
        FAIL_ERRNO(e, ERR_INVALID, "USER_NOT_ROOT", "cannot change to user \"%s\": clearing the groups", user);
    if (setresgid(pw.pw_gid, pw.pw_gid, pw.pw_gid) != 0 || setresuid(pw.pw_uid, pw.pw_uid, pw.pw_uid) != 0)
        FAIL_ERRNO(e, ERR_INVALID, "USER_NOT_ROOT", "cannot change to user \"%s\"", user);
    INVARIANT(getuid() == pw.pw_uid && geteuid() == pw.pw_uid && getegid() == pw.pw_gid);
    INVARIANT(pw.pw_uid == 0 || (setuid(0) != 0 && setgid(0) != 0));
    return ok();
}

/* A process that stays root (no user configured) keeps the files that root owns, and nothing of root's power. */
static RESULT drop_capabilities(struct err *e)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[2] = {0};

    if (prctl(PR_CAP_AMBIENT, (long)PR_CAP_AMBIENT_CLEAR_ALL, 0L, 0L, 0L) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "CONFINE", "clear ambient capabilities");
    if (syscall(SYS_capset, &header, none) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "CONFINE", "drop capabilities");
    return ok();
}

RESULT confine_limits(struct err *e)
{
    /* Changing the user cleared both: the kernel takes them for a new program's choice. */
    TRY(secret_process_harden(e));
    if (getppid() != 1 && prctl(PR_SET_PDEATHSIG, (long)SIGKILL, 0L, 0L, 0L) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "CONFINE", "PR_SET_PDEATHSIG");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "CONFINE", "PR_SET_NO_NEW_PRIVS");
    /* No RLIMIT_NPROC: it counts threads, of every process of the user. Forking is denied by the filter instead. */
    return drop_capabilities(e);
}

RESULT confine_self(const struct confine *c, struct err *e)
{
    TRY(confine_user(c->user, e));
    TRY(confine_limits(e));
    TRY(confine_landlock(c->paths, c->npaths, c->role, e));
    return confine_seccomp(c->role, e);
}
