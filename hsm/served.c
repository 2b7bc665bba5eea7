#include "hsm/served.h"

#include "base/err.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4200, STAT_BYTES = 1024, STARTTIME = 22 /* field of /proc/<pid>/stat, proc(5) */, AFTER_COMM = 3 };

static bool read_text(const char *path, char *out, size_t n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return false;
    ssize_t got = read(fd, out, n - 1);
    (void)close(fd);
    if (got <= 0)
        return false;
    out[got] = '\0';
    return true;
}

void served_monitor_id(char out[SERVED_ID_BYTES])
{
    char path[64], stat[STAT_BYTES];
    const int parent = getppid();
    out[0] = '\0';
    (void)snprintf(path, sizeof path, "/proc/%d/stat", parent);
    if (!read_text(path, stat, sizeof stat))
        return;
    /* The name in brackets may hold anything, blanks and brackets too: the last one ends it. */
    const char *p = strrchr(stat, ')');
    for (int field = AFTER_COMM - 1; p != NULL && field < STARTTIME; field++)
        p = strchr(p + 1, ' ');
    if (p != NULL)
        (void)snprintf(out, SERVED_ID_BYTES, "%d %.*s\n", parent, (int)strspn(p + 1, "0123456789"), p + 1);
}

static bool marker_path(const char *state_dir, char out[PATH_BYTES])
{
    int n = snprintf(out, PATH_BYTES, "%s/hsm-served", state_dir);
    return n > 0 && n < PATH_BYTES;
}

bool served_before(const char *state_dir, const char *monitor_id)
{
    char path[PATH_BYTES], text[SERVED_ID_BYTES];
    return monitor_id[0] != '\0' && marker_path(state_dir, path) && read_text(path, text, sizeof text) &&
           strcmp(text, monitor_id) == 0;
}

void served_mark(const char *state_dir, const char *monitor_id)
{
    char path[PATH_BYTES];
    if (monitor_id[0] == '\0' || !marker_path(state_dir, path))
        return;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return;
    (void)!write(fd, monitor_id, strlen(monitor_id));
    (void)close(fd);
}
