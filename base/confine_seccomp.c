#include "base/confine.h"

#include "base/confine_build.h"
#include "base/log.h"

#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* Lists come from strace of gRPC 1.51, SQLite, OpenSSL 3.0, SoftHSM2, NSS softoken and opencryptoki under p11-kit and glibc 2.36, plus
 * their fallbacks (an interrupted poll, a cut-short write). Grouped by what they are for. */

#define ANY ((1U << CONFINE_FRONT) | (1U << CONFINE_CORE) | (1U << CONFINE_HSM))
#define FRONT (1U << CONFINE_FRONT)
#define CORE (1U << CONFINE_CORE)
#define HSM (1U << CONFINE_HSM)
#define C(name) SCMP_SYS(name)

struct group {
    unsigned roles;
    const int *calls;
    size_t n;
};

static const int calls_memory[] = {C(brk), C(munmap), C(mremap), C(madvise), C(mlock), C(mlock2), C(munlock), C(mincore)};
static const int calls_threads[] = {
    C(futex), C(set_robust_list), C(get_robust_list), C(rseq), C(membarrier), C(sched_yield), C(sched_getaffinity),
    C(sched_getparam), C(sched_getscheduler), C(getcpu), C(gettid), C(exit), C(exit_group), C(set_tid_address)};
static const int calls_signals[] = {C(rt_sigaction), C(rt_sigprocmask), C(rt_sigreturn), C(sigaltstack), C(rt_sigtimedwait),
                                    C(signalfd4),    C(tgkill),         C(pause),        C(restart_syscall)};
static const int calls_time[] = {C(clock_gettime),   C(clock_getres),   C(clock_nanosleep), C(nanosleep), C(gettimeofday),
                                 C(time),            C(timerfd_create), C(timerfd_settime), C(timerfd_gettime)};
static const int calls_self[] = {C(getpid), C(getppid), C(getuid), C(geteuid), C(getgid), C(getegid), C(getresuid),
                                 C(getresgid), C(getgroups), C(uname), C(sysinfo), C(getrusage), C(times), C(getrlimit),
                                 C(getcwd), C(umask), C(getrandom), C(getpriority), C(getpgrp), C(getsid), C(capget)};
static const int calls_wait[] = {C(epoll_create1), C(epoll_ctl), C(epoll_wait), C(epoll_pwait), C(epoll_pwait2), C(poll),
                                 C(ppoll), C(select), C(pselect6), C(eventfd2), C(pipe2), C(epoll_create)};
static const int calls_io[] = {C(read), C(write), C(readv), C(writev), C(pread64), C(pwrite64), C(preadv), C(pwritev),
                               C(lseek), C(close), C(close_range), C(fcntl), C(dup), C(dup2), C(dup3)};
static const int calls_read_files[] = {C(openat), C(open), C(fstat), C(stat), C(lstat), C(newfstatat), C(statx), C(access),
                                       C(faccessat), C(faccessat2), C(readlink), C(readlinkat), C(getdents64), C(statfs),
                                       C(fstatfs), C(fadvise64)};
static const int calls_sockets[] = {C(recvmsg), C(sendmsg), C(recvfrom), C(sendto), C(recvmmsg), C(sendmmsg), C(shutdown),
                                    C(getsockopt), C(setsockopt), C(getsockname), C(getpeername), C(socketpair), C(bind),
                                    C(connect)};
static const int calls_accept[] = {C(accept), C(accept4)};
static const int calls_listen[] = {C(listen)};
static const int calls_write_files[] = {C(fsync), C(fdatasync), C(sync_file_range), C(fallocate), C(ftruncate), C(truncate),
                                        C(rename), C(renameat), C(renameat2), C(unlink), C(unlinkat), C(mkdir), C(mkdirat),
                                        C(rmdir), C(chmod), C(fchmod), C(fchmodat), C(fchown), C(flock), C(utimensat),
                                        C(link), C(linkat)};
static const int calls_token[] = {C(wait4), C(waitid), C(syncfs), C(sync), C(msync), C(timer_create), C(timer_settime), C(timer_gettime), C(timer_delete),
                                  C(shmget), C(shmat), C(shmctl), C(shmdt), C(semget), C(semop), C(semctl), C(semtimedop)};

#define GROUP(roles, list) {roles, list, sizeof(list) / sizeof(*(list))}
static const struct group allowed[] = {
    GROUP(ANY, calls_memory),     GROUP(ANY, calls_threads),         GROUP(ANY, calls_signals),
    GROUP(ANY, calls_time),       GROUP(ANY, calls_self),            GROUP(ANY, calls_wait),
    GROUP(ANY, calls_io),         GROUP(ANY, calls_read_files),      GROUP(ANY, calls_sockets),
    GROUP(FRONT | CORE, calls_accept), GROUP(CORE, calls_listen),    GROUP(CORE | HSM, calls_write_files),
    GROUP(HSM, calls_token),
};

/* No library asks for these by mistake: the kernel ends the process, and nothing of it runs again. Everything else that is
 * not listed ends it too, after a line that says which call it was. */
static const int deadly[] = {
    C(execve), C(execveat), C(fork), C(vfork), C(ptrace), C(process_vm_readv), C(process_vm_writev), C(pidfd_getfd),
    C(kexec_load), C(kexec_file_load), C(init_module), C(finit_module), C(delete_module), C(mount), C(umount2),
    C(move_mount), C(open_tree), C(fsopen), C(pivot_root), C(chroot), C(setns), C(unshare), C(bpf), C(perf_event_open),
    C(userfaultfd), C(keyctl), C(add_key), C(request_key), C(setuid), C(setgid), C(setreuid), C(setregid), C(setresuid),
    C(setresgid), C(setfsuid), C(setfsgid), C(setgroups), C(capset), C(personality), C(io_uring_setup), C(io_uring_enter),
    C(io_uring_register), C(open_by_handle_at), C(modify_ldt), C(iopl), C(ioperm), C(swapon), C(swapoff), C(reboot),
    C(acct), C(quotactl), C(sethostname), C(settimeofday), C(clock_settime), C(adjtimex), C(memfd_secret),
};

/* Asked for by libraries that live well with a refusal. */
static const struct {
    int call, errnum;
} refused[] = {
    {C(clone3), ENOSYS}, /* its flags lie in memory, where a filter cannot look: glibc then takes clone */
    {C(sched_setscheduler), EPERM}, {C(sched_setparam), EPERM}, {C(sched_setaffinity), EPERM},
    {C(kill), EPERM}, {C(tkill), EPERM}, {C(memfd_create), ENOSYS}, {C(chown), EPERM}, {C(fchownat), EPERM},
    {C(symlink), EPERM}, {C(symlinkat), EPERM}, {C(mknod), EPERM}, {C(mknodat), EPERM}, {C(inotify_init1), ENOSYS},
    {C(setrlimit), EPERM}, {C(copy_file_range), ENOSYS}, {C(arch_prctl), EPERM}, {C(get_mempolicy), ENOSYS},
    {C(mbind), ENOSYS}, {C(getxattr), ENOTSUP}, {C(lgetxattr), ENOTSUP}, {C(syslog), EPERM},
};

/* struct result as a filter builder's own: libseccomp answers -errno. */
static RESULT rule(scmp_filter_ctx f, uint32_t action, int call, const struct scmp_arg_cmp *args, unsigned n, struct err *e)
{
    int rc = seccomp_rule_add_array(f, action, call, n, args);

    if (rc != 0)
        return err_set_errno(e, ERR_INTERNAL, "CONFINE_SECCOMP", -rc, __FILE__, __LINE__, "rule for system call %d", call);
    return ok();
}

static RESULT allow_if(scmp_filter_ctx f, int call, struct scmp_arg_cmp arg, struct err *e)
{
    return rule(f, SCMP_ACT_ALLOW, call, &arg, 1, e);
}

static struct scmp_arg_cmp arg_eq(unsigned arg, scmp_datum_t value)
{
    return (struct scmp_arg_cmp){.arg = arg, .op = SCMP_CMP_EQ, .datum_a = value, .datum_b = 0};
}

static struct scmp_arg_cmp arg_ne(unsigned arg, scmp_datum_t value)
{
    return (struct scmp_arg_cmp){.arg = arg, .op = SCMP_CMP_NE, .datum_a = value, .datum_b = 0};
}

static struct scmp_arg_cmp arg_masked(unsigned arg, scmp_datum_t mask, scmp_datum_t value)
{
    return (struct scmp_arg_cmp){.arg = arg, .op = SCMP_CMP_MASKED_EQ, .datum_a = mask, .datum_b = value};
}

/* Threads, never processes. */
static RESULT rules_clone(scmp_filter_ctx f, struct err *e)
{
    const struct scmp_arg_cmp process = arg_masked(0, CLONE_THREAD, 0);

    TRY(allow_if(f, C(clone), arg_masked(0, CLONE_THREAD, CLONE_THREAD), e));
    return rule(f, SCMP_ACT_KILL_PROCESS, C(clone), &process, 1, e);
}

/* Memory is never writable and executable. Front and core have all their code by now; hsm loads the module. */
static RESULT rules_memory(scmp_filter_ctx f, enum confine_role role, struct err *e)
{
    const scmp_datum_t bad = role == CONFINE_HSM ? PROT_WRITE | PROT_EXEC : PROT_EXEC;
    static const int calls[] = {C(mmap), C(mprotect)};

    for (size_t i = 0; i < 2; i++) {
        const struct scmp_arg_cmp refuse = arg_masked(2, bad, bad);
        TRY(rule(f, SCMP_ACT_ERRNO(EACCES), calls[i], &refuse, 1, e));
        TRY(allow_if(f, calls[i], arg_masked(2, bad, 0), e));
        if (role == CONFINE_HSM) {
            TRY(allow_if(f, calls[i], arg_masked(2, bad, PROT_EXEC), e));
            TRY(allow_if(f, calls[i], arg_masked(2, bad, PROT_WRITE), e));
        }
    }
    return rule(f, SCMP_ACT_ERRNO(ENOSYS), C(pkey_mprotect), NULL, 0, e);
}

/* gRPC probes IPv6 by making a socket: a refusal is what it expects on machines without. */
static RESULT rules_socket(scmp_filter_ctx f, enum confine_role role, struct err *e)
{
    static const int network[] = {AF_INET, AF_INET6, AF_NETLINK}; /* NETLINK: the resolver asks for addresses */

    TRY(allow_if(f, C(socket), arg_eq(0, AF_UNIX), e));
    if (role != CONFINE_HSM) {
        const struct scmp_arg_cmp other = arg_ne(0, AF_UNIX);
        return rule(f, SCMP_ACT_ERRNO(EAFNOSUPPORT), C(socket), &other, 1, e);
    }
    for (size_t i = 0; i < sizeof(network) / sizeof(*network); i++)
        TRY(allow_if(f, C(socket), arg_eq(0, (scmp_datum_t)network[i]), e));
    return ok();
}

static RESULT rules_control(scmp_filter_ctx f, struct err *e)
{
    static const scmp_datum_t prctls[] = {PR_SET_NAME, PR_GET_NAME, PR_SET_VMA, PR_GET_DUMPABLE, PR_GET_PDEATHSIG,
                                          PR_GET_NO_NEW_PRIVS, PR_GET_SECCOMP, PR_CAPBSET_READ};
    static const scmp_datum_t ioctls[] = {FIONREAD, FIONBIO, FIOCLEX, FIONCLEX, TIOCGWINSZ, TCGETS};

    for (size_t i = 0; i < sizeof(prctls) / sizeof(*prctls); i++)
        TRY(allow_if(f, C(prctl), arg_eq(0, prctls[i]), e));
    for (size_t i = 0; i < sizeof(ioctls) / sizeof(*ioctls); i++)
        TRY(allow_if(f, C(ioctl), arg_eq(1, ioctls[i]), e));
    /* reading a limit; setting one is not for it any more */
    return allow_if(f, C(prlimit64), arg_eq(2, 0), e);
}

/* Threads that work for newcomers step back, each for itself; up again no process may, having no capability. */
static RESULT rules_nice(scmp_filter_ctx f, enum confine_role role, struct err *e)
{
    const struct scmp_arg_cmp self[] = {arg_eq(0, PRIO_PROCESS), arg_eq(1, 0)};
    const struct scmp_arg_cmp others[] = {arg_ne(0, PRIO_PROCESS), arg_ne(1, 0)};

    if (role == CONFINE_HSM)
        return rule(f, SCMP_ACT_ERRNO(EPERM), C(setpriority), NULL, 0, e);
    TRY(rule(f, SCMP_ACT_ALLOW, C(setpriority), self, 2, e));
    TRY(rule(f, SCMP_ACT_ERRNO(EPERM), C(setpriority), &others[0], 1, e));
    return rule(f, SCMP_ACT_ERRNO(EPERM), C(setpriority), &others[1], 1, e);
}

static RESULT build(scmp_filter_ctx f, enum confine_role role, struct err *e)
{
    for (size_t i = 0; i < sizeof(allowed) / sizeof(*allowed); i++)
        for (size_t k = 0; k < allowed[i].n && (allowed[i].roles >> role & 1U) != 0; k++)
            TRY(rule(f, SCMP_ACT_ALLOW, allowed[i].calls[k], NULL, 0, e));
    for (size_t i = 0; i < sizeof(deadly) / sizeof(*deadly); i++)
        TRY(rule(f, SCMP_ACT_KILL_PROCESS, deadly[i], NULL, 0, e));
    for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++)
        TRY(rule(f, SCMP_ACT_ERRNO((uint32_t)refused[i].errnum), refused[i].call, NULL, 0, e));
    TRY(rules_clone(f, e));
    TRY(rules_nice(f, role, e));
    TRY(rules_memory(f, role, e));
    TRY(rules_socket(f, role, e));
    return rules_control(f, e);
}

/* Only calls that are safe in a signal handler: log_write works on its stack. */
static void on_refused_call(int signo, siginfo_t *info, void *context)
{
    (void)signo;
    (void)context;
    log_event(LOG_ERROR, "system call is not in the filter of this process: ending it", LF_INT("syscall", info->si_syscall));
    _exit(CONFINE_EXIT_REFUSED);
}

static void filter_release(scmp_filter_ctx *f)
{
    if (*f != NULL)
        seccomp_release(*f);
}

RESULT confine_seccomp(enum confine_role role, struct err *e)
{
    CLEANUP(filter_release) scmp_filter_ctx f = NULL;
    struct sigaction sa = {.sa_sigaction = on_refused_call, .sa_flags = SA_SIGINFO};
    int rc;

    if (confine_is_sanitizer_build() || confine_is_coverage_build()) {
        log_event(LOG_WARN, "weakness: no system call filter", LF_STR("missing", "seccomp"));
        return ok();
    }
    if (sigaction(SIGSYS, &sa, NULL) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "CONFINE_SECCOMP", "SIGSYS");
    f = seccomp_init(SCMP_ACT_TRAP);
    if (f == NULL)
        FAIL(e, ERR_INTERNAL, "CONFINE_SECCOMP", "no filter could be made");
    /* All threads or none; other architectures' call numbers die; a tree instead of a long list of comparisons. */
    if (seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1) != 0 ||
        seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS) != 0 ||
        seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2) != 0)
        FAIL(e, ERR_INTERNAL, "CONFINE_SECCOMP", "filter attributes");
    TRY(build(f, role, e));
    rc = seccomp_load(f);
    if (rc != 0)
        return err_set_errno(e, ERR_INTERNAL, "CONFINE_SECCOMP", -rc, __FILE__, __LINE__, "load the system call filter");
    return ok();
}
