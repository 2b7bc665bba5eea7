/* Stands as kmsd-core in a copy of the programs: runs the real one, which lies in core/ beside it, with inject.so preloaded and
 * the control page named. The monitor gives its children an environment of its own, so the way in is the folder of programs, which
 * only a test can choose: what is shipped knows nothing of this. */
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char self[PATH_MAX], text[PATH_MAX + 32];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    (void)argc;
    if (n < 0)
        return 126;
    self[n] = '\0';
    const char *folder = dirname(self);
    snprintf(text, sizeof text, "%s/inject.so", folder);
    setenv("LD_PRELOAD", text, 1);
    snprintf(text, sizeof text, "%s/page", folder);
    setenv("CLV_CRASH_PAGE", text, 1);
    /* the sanitizer's runtime wants to be first; it works as the second too */
    const char *asan = getenv("ASAN_OPTIONS");
    snprintf(text, sizeof text, "%s%sverify_asan_link_order=0", asan ? asan : "", asan ? ":" : "");
    setenv("ASAN_OPTIONS", text, 1);
    snprintf(text, sizeof text, "%s/core/kmsd-core", folder);
    execv(text, argv);
    return 127;
}
