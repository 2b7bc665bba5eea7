/* Each case runs in a process of its own, because confinement is for good. The child reports by its exit status. */
#include "base/confine.h"
#include "base/confine_build.h"
#include "base/log.h"
#include "base/thread.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

typedef int body_fn(enum confine_role role); /* 0: as expected */

/* Exit status, or 1000 + signal. */
static int in_child(body_fn *body, enum confine_role role)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        log_set_level(LOG_ERROR);
        (void)dup2(open("/dev/null", O_WRONLY), STDERR_FILENO); /* the refusal line is expected */
        _exit(body(role));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

static bool filter(enum confine_role role)
{
    struct err e;

    return !confine_limits(&e).failed && !confine_seccomp(role, &e).failed;
}

static void *thread_main(void *arg)
{
    *(int *)arg = 7;
    return arg;
}

static int body_works(enum confine_role role)
{
    pthread_t t;
    int value = 0;
    char *p;

    if (!filter(role))
        return 1;
    if (pthread_create(&t, NULL, thread_main, &value) != 0 || pthread_join(t, NULL) != 0 || value != 7)
        return 2;
    p = malloc(1 << 20);
    if (p == NULL)
        return 3;
    memset(p, 1, 1 << 20);
    free(p);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || close(fd) != 0)
        return 4;
    return access("/etc/passwd", R_OK) == 0 ? 0 : 5;
}

static int body_exec(enum confine_role role)
{
    static char name[] = "true";
    char *argv[] = {name, NULL}, *env[] = {NULL};

    if (filter(role))
        (void)execve("/bin/true", argv, env);
    return 1;
}

static int body_fork(enum confine_role role)
{
    if (filter(role) && fork() == 0)
        _exit(0);
    return 1;
}

static int body_vfork_like(enum confine_role role)
{
    if (filter(role))
        (void)syscall(SYS_clone, (unsigned long)(CLONE_VM | SIGCHLD), 0UL, 0UL, 0UL, 0UL);
    return 1;
}

static int body_ptrace(enum confine_role role)
{
    if (filter(role))
        (void)ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    return 1;
}

static int body_sethostname(enum confine_role role)
{
    if (filter(role))
        (void)syscall(SYS_sethostname, "", 0UL);
    return 1;
}

static int body_unlisted(enum confine_role role)
{
    if (filter(role))
        (void)syscall(SYS_vhangup);
    return 1;
}

static void *call_unlisted(void *arg)
{
    (void)syscall(SYS_vhangup);
    return arg;
}

/* A thread takes no signals from outside, but the filter's. */
static int body_unlisted_in_thread(enum confine_role role)
{
    pthread_t t;
    struct err e;

    if (filter(role) && !thread_spawn(&t, "refused", call_unlisted, NULL, &e).failed)
        (void)pthread_join(t, NULL);
    return 1;
}

static int body_network(enum confine_role role)
{
    int fd;

    if (!filter(role))
        return 1;
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (role == CONFINE_HSM)
        return fd >= 0 ? 0 : 2;
    return fd < 0 && errno == EAFNOSUPPORT ? 0 : 3;
}

static int body_write_exec(enum confine_role role)
{
    void *p;

    if (!filter(role))
        return 1;
    p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p != MAP_FAILED || errno != EACCES)
        return 2;
    p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return 3;
    int rc = mprotect(p, 4096, PROT_READ | PROT_EXEC);
    return role == CONFINE_HSM ? (rc == 0 ? 0 : 4) : (rc != 0 && errno == EACCES ? 0 : 5);
}

/* Down for itself; not for others, and never up. */
static int body_priority(enum confine_role role)
{
    struct err e;

    if (confine_limits(&e).failed || !filter(role)) /* without root's power, as every child is */
        return 1;
    if ((setpriority(PRIO_PROCESS, 0, 3) == 0) != (role != CONFINE_HSM))
        return 2;
    if (role != CONFINE_HSM && (setpriority(PRIO_PROCESS, 0, 0) == 0 || errno != EACCES))
        return 3;
    return setpriority(PRIO_PGRP, 0, 5) != 0 && setpriority(PRIO_PROCESS, (id_t)getpid(), 5) != 0 && errno == EPERM ? 0 : 4;
}

static const enum confine_role roles[] = {CONFINE_FRONT, CONFINE_CORE, CONFINE_HSM};

static void for_each_role(body_fn *body, int expected)
{
    if (confine_is_sanitizer_build() || confine_is_coverage_build())
        skip();
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(in_child(body, roles[i]), expected);
}

static void test_ordinary_work_goes_on(void **state)
{
    (void)state;
    for_each_role(body_works, 0);
}

static void test_new_processes_are_fatal(void **state)
{
    (void)state;
    for_each_role(body_exec, 1000 + SIGSYS);
    for_each_role(body_fork, 1000 + SIGSYS);
    for_each_role(body_vfork_like, 1000 + SIGSYS);
    for_each_role(body_ptrace, 1000 + SIGSYS);
    for_each_role(body_sethostname, 1000 + SIGSYS);
}

static void test_unlisted_call_ends_the_process_with_a_line(void **state)
{
    (void)state;
    for_each_role(body_unlisted, CONFINE_EXIT_REFUSED);
    for_each_role(body_unlisted_in_thread, CONFINE_EXIT_REFUSED);
}

static void test_network_only_for_hsm(void **state)
{
    (void)state;
    for_each_role(body_network, 0);
}

static void test_priority_only_down_and_its_own(void **state)
{
    (void)state;
    for_each_role(body_priority, 0);
}

static void test_memory_is_not_writable_and_executable(void **state)
{
    (void)state;
    for_each_role(body_write_exec, 0);
}

/* ---- Landlock ---- */

static char folder[] = "/tmp/clv-confine-XXXXXX";

static int make(const char *name, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *f = fopen(path, "we");
    return f == NULL || fputs(text, f) < 0 || fclose(f) != 0;
}

static int open_in(const char *name, int flags)
{
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, flags | O_CLOEXEC, 0600);
    if (fd >= 0)
        (void)close(fd);
    return fd >= 0 ? 0 : errno;
}

static int body_landlock(enum confine_role role)
{
    char rw[256], ro[256];
    struct err e;

    (void)snprintf(rw, sizeof(rw), "%s/rw", folder);
    (void)snprintf(ro, sizeof(ro), "%s/ro", folder);
    const struct confine_path paths[] = {{rw, true}, {ro, false}, {"", true}};
    if (confine_limits(&e).failed || confine_landlock(paths, 3, role, &e).failed)
        return 1;
    if (open_in("rw/a", O_RDWR) != 0 || open_in("rw/new", O_RDWR | O_CREAT) != 0 || open_in("ro/a", O_RDONLY) != 0)
        return 2;
    if (open_in("ro/a", O_WRONLY) != EACCES || open_in("ro/new", O_RDWR | O_CREAT) != EACCES)
        return 3;
    if (open_in("outside", O_RDONLY) != EACCES || open("/etc/shadow", O_RDONLY | O_CLOEXEC) >= 0 || errno != EACCES)
        return 4;
    char link_path[256], target[256];
    (void)snprintf(link_path, sizeof(link_path), "%s/rw/link", folder);
    (void)snprintf(target, sizeof(target), "%s/outside", folder);
    if (link(target, link_path) == 0) /* a way around through a second name */
        return 5;
    return unlink(link_path) != 0 && open_in("rw/a", O_WRONLY | O_TRUNC) == 0 ? 0 : 6;
}

static int body_landlock_missing(enum confine_role role)
{
    const struct confine_path paths[] = {{"/nonexistent/path", false}};
    struct err e;

    if (confine_limits(&e).failed || !confine_landlock(paths, 1, role, &e).failed)
        return 1;
    return e.code == ERR_INVALID && strcmp(e.reason, "CONFINE_PATH") == 0 ? 0 : 2;
}

static bool have_landlock(void)
{
    return syscall(SYS_landlock_create_ruleset, NULL, 0, 1) >= 1 && !confine_is_sanitizer_build() && !confine_is_coverage_build();
}

static void test_landlock(void **state)
{
    (void)state;
    if (!have_landlock())
        skip();
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(in_child(body_landlock, roles[i]), 0);
}

static void test_landlock_refuses_a_missing_path(void **state)
{
    (void)state;
    if (!have_landlock())
        skip();
    assert_int_equal(in_child(body_landlock_missing, CONFINE_CORE), 0);
}

/* ---- user ---- */

static int body_user(enum confine_role role)
{
    struct err e;

    (void)role;
    if (confine_user("nobody", &e).failed || confine_limits(&e).failed)
        return 1;
    if (geteuid() == 0 || getuid() == 0 || getgroups(0, NULL) != 0 || setuid(0) == 0 || seteuid(0) == 0)
        return 2;
    return open("/etc/shadow", O_RDONLY | O_CLOEXEC) < 0 ? 0 : 3;
}

static int body_root_without_power(enum confine_role role)
{
    struct err e;

    (void)role;
    if (confine_user("", &e).failed || confine_limits(&e).failed)
        return 1;
    return geteuid() == 0 && chroot("/") != 0 && errno == EPERM ? 0 : 2;
}

static int body_unknown_user(enum confine_role role)
{
    struct err e;

    (void)role;
    return confine_user("no-such-user", &e).failed && e.code == ERR_INVALID && strcmp(e.reason, "USER_UNKNOWN") == 0 ? 0 : 1;
}

static int body_not_root(enum confine_role role)
{
    struct err e;

    (void)role;
    if (confine_user("nobody", &e).failed)
        return 1;
    return confine_user("daemon", &e).failed && strcmp(e.reason, "USER_NOT_ROOT") == 0 ? 0 : 2;
}

static void test_user_is_dropped_for_good(void **state)
{
    (void)state;
    assert_int_equal(in_child(body_unknown_user, CONFINE_CORE), 0);
    if (geteuid() != 0)
        skip();
    assert_int_equal(in_child(body_user, CONFINE_CORE), 0);
    assert_int_equal(in_child(body_not_root, CONFINE_CORE), 0);
    assert_int_equal(in_child(body_root_without_power, CONFINE_CORE), 0);
}

static int body_all(enum confine_role role)
{
    char rw[256];
    struct err e;

    (void)snprintf(rw, sizeof(rw), "%s/rw", folder);
    const struct confine_path paths[] = {{rw, true}};
    const struct confine c = {.role = role, .paths = paths, .npaths = 1};
    if (confine_self(&c, &e).failed)
        return 1;
    return open_in("rw/a", O_RDONLY) == 0 && open_in("outside", O_RDONLY) != 0 ? 0 : 2;
}

static void test_all_together(void **state)
{
    (void)state;
    if (!have_landlock())
        skip();
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(in_child(body_all, roles[i]), 0);
}

static int setup(void **state)
{
    char path[256];
    (void)state;
    if (mkdtemp(folder) == NULL)
        return -1;
    (void)snprintf(path, sizeof(path), "%s/rw", folder);
    if (mkdir(path, 0700) != 0)
        return -1;
    (void)snprintf(path, sizeof(path), "%s/ro", folder);
    return mkdir(path, 0700) != 0 || make("rw/a", "a") || make("ro/a", "a") || make("outside", "a") ? -1 : 0;
}

static int teardown(void **state)
{
    static const char *const names[] = {"rw/a", "rw/new", "ro/a", "outside", "rw", "ro", ""};
    char path[256];
    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        (void)remove(path);
    }
    return access(folder, F_OK) == 0 ? -1 : 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ordinary_work_goes_on),
        cmocka_unit_test(test_new_processes_are_fatal),
        cmocka_unit_test(test_unlisted_call_ends_the_process_with_a_line),
        cmocka_unit_test(test_network_only_for_hsm),
        cmocka_unit_test(test_memory_is_not_writable_and_executable),
        cmocka_unit_test(test_priority_only_down_and_its_own),
        cmocka_unit_test(test_landlock),
        cmocka_unit_test(test_landlock_refuses_a_missing_path),
        cmocka_unit_test(test_user_is_dropped_for_good),
        cmocka_unit_test(test_all_together),
    };
    return cmocka_run_group_tests_name("confine", tests, setup, teardown);
}
