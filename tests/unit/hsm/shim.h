/* Orders for the shim (tests/hardware/shim.c) from a unit test, and what came of them. */
#ifndef TESTS_UNIT_HSM_SHIM_H
#define TESTS_UNIT_HSM_SHIM_H

#include "tests/unit/hsm/fixture.h"

/* The shim of the build tree that this test is in. */
static inline void shim_path(char out[256])
{
    char exe[200];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    assert_true(n > 0);
    exe[n] = '\0';
    *strrchr(exe, '/') = '\0';
    (void)snprintf(out, 256, "%s/../../hardware/shim.so", exe);
}

/* In state_dir, where the confined process may write; named in the vendor configuration, from which the shim learns it. */
static inline void shim_attach(const struct fixture *f)
{
    char line[160];
    (void)snprintf(line, sizeof line, "# shim = %s\n", f->state);
    int fd = open(f->conf, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_int_equal(write(fd, line, strlen(line)), strlen(line));
    assert_int_equal(close(fd), 0);
}

/* Rules, one a line (tests/hardware/README.md); counting begins anew. */
static inline void shim_plan(const struct fixture *f, const char *rules)
{
    static unsigned id;
    char path[160], next[160], text[1024];
    (void)snprintf(path, sizeof path, "%s/plan", f->state);
    (void)snprintf(next, sizeof next, "%s/plan.next", f->state);
    (void)snprintf(text, sizeof text, "plan %u\n%s\n", ++id, rules);
    write_file(next, text);
    assert_int_equal(rename(next, path), 0);
}

static inline void shim_lift(const struct fixture *f)
{
    char path[160];
    (void)snprintf(path, sizeof path, "%s/plan", f->state);
    assert_int_equal(unlink(path), 0);
}

/* Lines of the shim's log in which this call did this: "C_Sign", "flip"; every login is "called". NULL: any. */
static inline unsigned shim_count(const struct fixture *f, const char *call, const char *what)
{
    char path[160], line[200], pid[32], seen_call[64], seen_what[32];
    unsigned n = 0;
    (void)snprintf(path, sizeof path, "%s/log", f->state);
    FILE *log = fopen(path, "re");
    while (log != NULL && fgets(line, sizeof line, log) != NULL)
        n += sscanf(line, "%*s %31s %63s %31s", pid, seen_call, seen_what) == 3 && (call == NULL || strcmp(seen_call, call) == 0) &&
             (what != NULL ? strcmp(seen_what, what) == 0 : strcmp(seen_what, "called") != 0);
    if (log != NULL)
        (void)fclose(log);
    return n;
}

static inline unsigned shim_faults(const struct fixture *f)
{
    return shim_count(f, NULL, NULL);
}

#endif
