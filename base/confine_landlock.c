#include "base/confine.h"

#include "base/confine_build.h"
#include "base/log.h"

#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Debian 12's headers know ABI 2; the kernel below may know more. Values are kernel ABI (landlock(7)). */
enum {
    FS_EXECUTE = 1 << 0,
    FS_WRITE_FILE = 1 << 1,
    FS_READ_FILE = 1 << 2,
    FS_READ_DIR = 1 << 3,
    FS_REMOVE_DIR = 1 << 4,
    FS_REMOVE_FILE = 1 << 5,
    FS_MAKE_DIR = 1 << 7,
    FS_MAKE_REG = 1 << 8,
    FS_MAKE_SOCK = 1 << 9,
    FS_ALL_V1 = (1 << 13) - 1,
    FS_REFER = 1 << 13,     /* ABI 2: rename between folders */
    FS_TRUNCATE = 1 << 14,  /* ABI 3 */
    FS_IOCTL_DEV = 1 << 15, /* ABI 5 */
    FS_ON_FILES = FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE,
    NET_BIND_TCP = 1 << 0, /* ABI 4 */
    NET_CONNECT_TCP = 1 << 1,
    SCOPE_ABSTRACT_UNIX = 1 << 0, /* ABI 6 */
    SCOPE_SIGNAL = 1 << 1,
    CREATE_VERSION = 1 << 0,
    RULE_PATH_BENEATH = 1,
    READ_ONLY = FS_READ_FILE | FS_READ_DIR,
    READ_WRITE = READ_ONLY | FS_WRITE_FILE | FS_REMOVE_DIR | FS_REMOVE_FILE | FS_MAKE_DIR | FS_MAKE_REG | FS_MAKE_SOCK |
                 FS_REFER | FS_TRUNCATE,
};

struct ruleset_attr {
    uint64_t fs, net, scoped;
};
struct path_attr {
    uint64_t allowed;
    int32_t parent_fd;
} __attribute__((packed));

/* What libraries read on their own: shared objects, OpenSSL's and p11-kit's settings, resolver and locale, CPU counts. No
 * private file is among them. What a machine does not have is skipped. */
static const struct confine_path always[] = {
    {"/usr", false},          {"/lib", false},          {"/lib64", false},
    {"/etc/ld.so.cache", false}, {"/etc/ssl", false},   {"/etc/pkcs11", false},
    {"/etc/localtime", false}, {"/etc/nsswitch.conf", false}, {"/etc/passwd", false},
    {"/etc/group", false},    {"/etc/hosts", false},    {"/etc/resolv.conf", false},
    {"/etc/gai.conf", false}, {"/dev/null", true},      {"/dev/zero", false},
    {"/dev/random", false},   {"/dev/urandom", false},  {"/proc/self", false},
    {"/proc/sys/kernel", false}, {"/proc/sys/crypto", false}, {"/proc/sys/vm", false}, {"/proc/cpuinfo", false},
    {"/proc/meminfo", false}, {"/proc/stat", false},    {"/sys/devices/system/cpu", false},
    {"/sys/fs/cgroup", false},
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

static RESULT allow(int ruleset, const struct confine_path *p, uint64_t handled, bool may_miss, struct err *e)
{
    CLEANUP(close_fd) int fd = open(p->path, O_PATH | O_CLOEXEC);
    struct path_attr a = {.allowed = (p->write ? READ_WRITE : READ_ONLY) & handled, .parent_fd = fd};
    struct stat st;

    if (fd < 0 && may_miss)
        return ok();
    if (fd < 0 || fstat(fd, &st) != 0)
        FAIL_ERRNO(e, ERR_INVALID, "CONFINE_PATH", "cannot open %s, which this process is meant to use", p->path);
    if (!S_ISDIR(st.st_mode))
        a.allowed &= FS_ON_FILES;
    if (syscall(SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &a, 0) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "CONFINE_LANDLOCK", "allow %s", p->path);
    return ok();
}

static struct ruleset_attr handled_by(long abi, enum confine_role role)
{
    struct ruleset_attr a = {.fs = FS_ALL_V1};

    if (abi >= 2)
        a.fs |= FS_REFER;
    if (abi >= 3)
        a.fs |= FS_TRUNCATE;
    if (abi >= 5)
        a.fs |= FS_IOCTL_DEV;
    if (abi >= 4) /* nobody binds a TCP port: the monitor did. Tokens on the network are reached from hsm only */
        a.net = role == CONFINE_HSM ? NET_BIND_TCP : NET_BIND_TCP | NET_CONNECT_TCP;
    if (abi >= 6)
        a.scoped = SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL;
    return a;
}

/* Older kernels refuse a structure that is longer than they know. */
static size_t attr_bytes(long abi)
{
    return abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
}

RESULT confine_landlock(const struct confine_path *paths, size_t npaths, enum confine_role role, struct err *e)
{
    CLEANUP(close_fd) int ruleset = -1;
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_VERSION);
    struct ruleset_attr a;

    if (npaths > CONFINE_PATHS_MAX)
        FAIL(e, ERR_INVALID, "CONFINE_PATH", "%zu paths, at most %d", npaths, CONFINE_PATHS_MAX);
    if (abi < 1 || confine_is_sanitizer_build() || confine_is_coverage_build()) {
        log_event(LOG_WARN, "weakness: this process can open any file of its user", LF_STR("missing", "landlock"));
        return ok();
    }
    if (abi < 4)
        log_event(LOG_WARN, "weakness: network use is limited by the system call filter only", LF_STR("missing", "landlock-net"));
    a = handled_by(abi, role);
    ruleset = (int)syscall(SYS_landlock_create_ruleset, &a, attr_bytes(abi), 0);
    if (ruleset < 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "CONFINE_LANDLOCK", "create a ruleset (ABI %ld)", abi);
    for (size_t i = 0; i < sizeof(always) / sizeof(*always); i++)
        TRY(allow(ruleset, &always[i], a.fs, true, e));
    for (size_t i = 0; i < npaths; i++)
        if (paths[i].path[0] != '\0')
            TRY(allow(ruleset, &paths[i], a.fs, false, e));
    if (syscall(SYS_landlock_restrict_self, ruleset, 0) != 0)
        FAIL_ERRNO(e, ERR_INTERNAL, "CONFINE_LANDLOCK", "enforce the ruleset");
    return ok();
}
