/*
 * Purpose: starts tests/unit/vault/client/standin.py for a test program and stops it: a server of chosen answers over mTLS.
 * Owns: the child process and its directory of certificates. Threads: one. Errors: assert. Limits: one at a time.
 * Secrets: throw-away keys, removed at the end.
 */
#ifndef TESTS_UNIT_VAULT_CLIENT_STANDIN_H
#define TESTS_UNIT_VAULT_CLIENT_STANDIN_H

#include <ctype.h>
#include <dirent.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct standin {
    char dir[64], endpoint[64], ca[128], cert[128], key[128];
    pid_t pid;
    int stdin_fd;
};

static inline void standin_path(char out[128], const struct standin *s, const char *file)
{
    snprintf(out, 128, "%s/%s", s->dir, file);
}

static inline bool standin_start(struct standin *s)
{
    char exe[4096], stubs[4200];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n < 0)
        return false;
    exe[n] = 0; /* BUILD/unit/vault/client/test_x */
    char *up = exe;
    for (int i = 0; i < 4; i++)
        up = dirname(up);
    snprintf(stubs, sizeof stubs, "%s/pygen", up);
    strcpy(s->dir, "/tmp/clv-client-XXXXXX");
    int in[2], out[2];
    if (!mkdtemp(s->dir) || pipe(in) != 0 || pipe(out) != 0)
        return false;
    s->pid = fork();
    if (s->pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        close(in[1]);
        close(out[0]);
        unsetenv("LD_PRELOAD");
        execl("/usr/bin/python3", "python3", "tests/unit/vault/client/standin.py", s->dir, stubs, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    s->stdin_fd = in[1];
    char port[16] = {0};
    size_t got = 0;
    while (got < sizeof port - 1 && read(out[0], port + got, 1) == 1 && port[got] != '\n')
        got++;
    close(out[0]);
    port[got] = 0;
    snprintf(s->endpoint, sizeof s->endpoint, "127.0.0.1:%s", port);
    standin_path(s->ca, s, "ca.pem");
    standin_path(s->cert, s, "client.pem");
    standin_path(s->key, s, "client.key");
    return got > 0 && isdigit((unsigned char)port[0]);
}

static inline void standin_stop(struct standin *s)
{
    close(s->stdin_fd);
    waitpid(s->pid, NULL, 0);
    DIR *d = opendir(s->dir);
    struct dirent *f;
    while (d && (f = readdir(d))) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", s->dir, f->d_name);
        unlink(path);
    }
    if (d)
        closedir(d);
    rmdir(s->dir);
}

#endif
