/* A main for a fuzz target without libFuzzer: plays every file of the folders it is given through it, in the order of their
 * names. A finding stops it as it would stop the fuzzer. Prints how many inputs were played; none is an error. */
#include "base/err.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void play(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    INVARIANT(fd >= 0 && fstat(fd, &st) == 0);
    /* To the byte: reading past the end is then seen by a sanitizer or valgrind. */
    uint8_t *data = malloc(st.st_size > 0 ? (size_t)st.st_size : 1);
    INVARIANT(data != NULL && read(fd, data, (size_t)st.st_size) == st.st_size);
    (void)close(fd);
    (void)LLVMFuzzerTestOneInput(data, (size_t)st.st_size);
    free(data);
}

int main(int argc, char **argv)
{
    unsigned played = 0;
    for (int i = 1; i < argc; i++) {
        struct dirent **list;
        int n = scandir(argv[i], &list, NULL, alphasort);
        for (int k = 0; k < n; k++) {
            char path[PATH_MAX];
            (void)snprintf(path, sizeof path, "%s/%s", argv[i], list[k]->d_name);
            if (list[k]->d_name[0] != '.') {
                play(path);
                played++;
            }
            free(list[k]);
        }
        if (n >= 0)
            free(list);
    }
    printf("%u inputs played\n", played);
    return played == 0;
}
