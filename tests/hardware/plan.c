#include "tests/hardware/plan.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum when { ALWAYS, NTH, EVERY, FROM, FIRST, CHANCE };
struct rule {
    int call; /* -1: every one */
    enum action action;
    unsigned long value;
    enum when when;
    uint64_t n, seed;
};

/* Shared by all processes that load the shim, so that "the third" means the third of all of them. */
struct shared {
    _Atomic uint64_t plan, calls[SHIM_N], seen[PLAN_RULES_MAX], hit[PLAN_RULES_MAX];
};

static const char *const names[] = {
#define X(name) #name,
    SHIM_CALLS(X)
#undef X
};

static struct {
    char dir[4096];
    int state_fd, log_fd;
    struct shared *shared;
    struct stat read; /* of the plan that rules[] came from */
    struct rule rules[PLAN_RULES_MAX];
    size_t n;
} plan;

static void give_up(const char *why)
{
    (void)!write(STDERR_FILENO, why, strlen(why));
    _exit(99);
}

static bool find_dir(char dir[4096])
{
    const char *conf = getenv("SOFTHSM2_CONF");
    char line[4096];
    dir[0] = '\0';
    FILE *f = conf != NULL ? fopen(conf, "re") : NULL;
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "# shim = %4000s", dir) == 1)
            break;
    if (f != NULL)
        (void)fclose(f);
    return dir[0] != '\0';
}

static int open_in(const char *name, int flags)
{
    char path[4200];
    (void)snprintf(path, sizeof path, "%s/%s", plan.dir, name);
    return open(path, flags | O_CLOEXEC, 0600);
}

void plan_open(void)
{
    char dir[4096];
    bool found = find_dir(dir);
    if (plan.shared != NULL && strcmp(dir, plan.dir) == 0)
        return;
    if (plan.shared != NULL) { /* a program with several tokens, one after the other */
        (void)munmap(plan.shared, sizeof *plan.shared);
        (void)close(plan.state_fd);
        (void)close(plan.log_fd);
        memset(&plan, 0, sizeof plan);
    }
    if (!found)
        return;
    (void)snprintf(plan.dir, sizeof plan.dir, "%s", dir);
    plan.state_fd = open_in("state", O_RDWR | O_CREAT);
    plan.log_fd = open_in("log", O_WRONLY | O_CREAT | O_APPEND);
    if (plan.state_fd < 0 || plan.log_fd < 0 || ftruncate(plan.state_fd, sizeof *plan.shared) != 0)
        give_up("shim: its folder cannot be used\n");
    plan.shared = mmap(NULL, sizeof *plan.shared, PROT_READ | PROT_WRITE, MAP_SHARED, plan.state_fd, 0);
    if (plan.shared == MAP_FAILED)
        give_up("shim: state cannot be mapped\n");
}

void plan_log(enum shim_call call, const char *what, CK_RV rv)
{
    char line[160];
    struct timespec t;
    if (plan.shared == NULL)
        return;
    (void)clock_gettime(CLOCK_BOOTTIME, &t);
    int n = snprintf(line, sizeof line, "%lld.%03ld %d %s %s 0x%lx\n", (long long)t.tv_sec, t.tv_nsec / 1000000, (int)getpid(),
                     names[call], what, rv);
    (void)!write(plan.log_fd, line, (size_t)n);
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

static bool parse_action(const char *s, struct rule *r)
{
    static const struct {
        const char *name;
        enum action action;
    } words[] = {{"hang", ACT_HANG}, {"crash", ACT_CRASH}, {"few", ACT_FEW}, {"endless", ACT_ENDLESS}, {"lose", ACT_LOSE}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(s, words[i].name) == 0) {
            r->action = words[i].action;
            return true;
        }
    if (sscanf(s, "flip:%lu", &r->seed) == 1) { /* another bit each time */
        r->action = ACT_FLIP;
        r->value = ULONG_MAX;
        return true;
    }
    r->action = strncmp(s, "0x", 2) == 0 ? ACT_RV : ACT_NONE;
    r->value = strtoul(s, NULL, 16);
    return r->action == ACT_RV || (sscanf(s, "slow:%lu", &r->value) == 1 && (r->action = ACT_SLOW)) ||
           (sscanf(s, "bit:%lu", &r->value) == 1 && (r->action = ACT_FLIP)) ||
           (sscanf(s, "length:%lu", &r->value) == 1 && (r->action = ACT_LENGTH));
}

static bool parse_when(const char *s, struct rule *r)
{
    static const struct {
        const char *pattern;
        enum when when;
    } words[] = {{"nth:%lu", NTH}, {"every:%lu", EVERY}, {"from:%lu", FROM}, {"first:%lu", FIRST}};
    r->when = ALWAYS;
    if (strcmp(s, "always") == 0)
        return true;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (sscanf(s, words[i].pattern, &r->n) == 1) { /* the patterns are the four above */
            r->when = words[i].when;
            return r->n > 0;
        }
    r->when = CHANCE; /* in millionths, from a seed */
    return sscanf(s, "chance:%lu:%lu", &r->n, &r->seed) == 2;
}

static bool parse_call(const char *s, struct rule *r)
{
    r->call = -1;
    if (strcmp(s, "*") == 0)
        return true;
    for (int i = 0; i < SHIM_N; i++)
        if (strcmp(s, names[i]) == 0) {
            r->call = i;
            return true;
        }
    return false;
}

static void parse(FILE *f)
{
    char line[256], call[64], what[64], when[64];
    uint64_t id = 0;
    if (fgets(line, sizeof line, f) == NULL || sscanf(line, "plan %lu", &id) != 1)
        give_up("shim: a plan begins with its number\n");
    plan.n = 0;
    while (fgets(line, sizeof line, f) != NULL) {
        struct rule *r = &plan.rules[plan.n % PLAN_RULES_MAX];
        if (line[0] == '\n')
            continue;
        *r = (struct rule){0};
        if (plan.n == PLAN_RULES_MAX || sscanf(line, "%63s %63s %63s", call, what, when) != 3 || !parse_call(call, r) ||
            !parse_action(what, r) || !parse_when(when, r))
            give_up("shim: a rule cannot be read\n");
        plan.n++;
    }
    /* Whoever sees a new plan first begins its counting. */
    (void)flock(plan.state_fd, LOCK_EX);
    if (plan.shared->plan != id) {
        for (size_t i = 0; i < PLAN_RULES_MAX; i++)
            plan.shared->seen[i] = plan.shared->hit[i] = 0;
        plan.shared->plan = id;
    }
    (void)flock(plan.state_fd, LOCK_UN);
}

static void refresh(void)
{
    struct stat st;
    char path[4200];
    (void)snprintf(path, sizeof path, "%s/plan", plan.dir);
    if (stat(path, &st) != 0) {
        plan.n = 0;
        plan.read = (struct stat){0};
        return;
    }
    if (st.st_ino == plan.read.st_ino && st.st_mtim.tv_sec == plan.read.st_mtim.tv_sec &&
        st.st_mtim.tv_nsec == plan.read.st_mtim.tv_nsec)
        return;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return; /* lifted just now */
    (void)fstat(fileno(f), &plan.read);
    parse(f);
    (void)fclose(f);
}

/* ---- deciding ------------------------------------------------------------------------------------------------------ */

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static bool fires(const struct rule *r, uint64_t count)
{
    switch (r->when) {
    case ALWAYS:
        return true;
    case NTH:
        return count == r->n;
    case EVERY:
        return count % r->n == 0;
    case FROM:
        return count >= r->n;
    case FIRST:
        return count <= r->n;
    case CHANCE:
        return mix(r->seed * 0x9e3779b97f4a7c15u + count) % 1000000 < r->n;
    }
    return false;
}

static bool lifted(uint64_t id)
{
    refresh();
    return plan.n == 0 || plan.shared->plan != id;
}

static void nap(unsigned long ms)
{
    const struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    (void)nanosleep(&t, NULL);
}

/* A hang lasts until the plan is lifted or somebody ends the process; what it was waiting for then comes. */
static void perform(enum shim_call call, struct fault *f)
{
    static const char *const actions[] = {"none", "rv", "slow", "hang", "crash", "flip", "length", "few", "endless", "lose"};
    const uint64_t id = plan.shared->plan;
    plan_log(call, actions[f->action], f->value);
    if (f->action == ACT_SLOW)
        nap(f->value);
    if (f->action == ACT_CRASH)
        (void)raise(SIGILL); /* SEGV, BUS and ABRT in a log or a report are crashes of ours */
    while (f->action == ACT_HANG && !lifted(id))
        nap(5);
}

void plan_decide(enum shim_call call, struct fault *f)
{
    *f = (struct fault){ACT_NONE, 0};
    if (plan.shared == NULL)
        return;
    plan.shared->calls[call]++;
    refresh();
    for (size_t i = 0; i < plan.n; i++) {
        const struct rule *r = &plan.rules[i];
        if (r->call != -1 && r->call != (int)call)
            continue;
        if (!fires(r, ++plan.shared->seen[i]))
            continue;
        *f = (struct fault){r->action, r->value};
        uint64_t hit = ++plan.shared->hit[i];
        if (f->action == ACT_FLIP && f->value == ULONG_MAX)
            f->value = mix(r->seed + hit) % 65536;
        perform(call, f);
        return;
    }
}
