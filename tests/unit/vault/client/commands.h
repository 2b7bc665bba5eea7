/*
 * Purpose: kmsctl's command lines run in a test program, against the stand-in.
 * Owns: nothing. Threads: one; stdout and stderr are somebody else's meanwhile. Errors: assert. Limits: FILE_MAX. Secrets: none.
 */
#ifndef TESTS_UNIT_VAULT_CLIENT_COMMANDS_H
#define TESTS_UNIT_VAULT_CLIENT_COMMANDS_H

#include "vault/cmd/kmsctl/kmsctl.h"

#include "tests/unit/vault/client/fixture.h"

#include <fcntl.h>

enum { FILE_MAX = 8 << 20 };

/* The fixture, and an environment in which every command goes to its stand-in. */
static inline int commands_start(void **state)
{
    if (fixture_start(state) != 0)
        return -1;
    const struct standin *s = &((struct fixture *)*state)->server;
    setenv("KMS_ENDPOINT", s->endpoint, 1);
    setenv("KMS_CA", s->ca, 1);
    setenv("KMS_CERT", s->cert, 1);
    setenv("KMS_KEY", s->key, 1);
    setenv("HOME", s->dir, 1);
    unsetenv("XDG_CONFIG_HOME");
    return 0;
}

static inline void write_file(const char *path, struct bytes b)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(b.p, 1, b.n, f), b.n);
    fclose(f);
}

static inline void read_file(const char *path, struct buf *out /* empty, or not initialised */)
{
    struct claviger_error e;
    buf_init(out, FILE_MAX);
    assert_false(read_all(path, FILE_MAX, out, &e).failed);
}

/* Runs a command line with stdout in a file and stderr in /dev/null; returns the exit code. */
static inline int run(const char *out_path, struct claviger_error *e, char **argv)
{
    struct ctl c = {0};
    struct words w;
    int argc = 0, saved = dup(1), saved_err = dup(2);
    while (argv[argc])
        argc++;
    arena_init(&c.arena, 64 << 20);
    fflush(stdout);
    int fd = open(out_path, O_WRONLY | O_CREAT | O_TRUNC, 0600), null = open("/dev/null", O_WRONLY);
    dup2(fd, 1);
    dup2(null, 2);
    struct result r = args_parse(argc, argv, &w, &c.args, e);
    const struct command *cmd = r.failed ? NULL : command_find(w.noun, w.verb);
    if (cmd)
        r = args_allowed(&c.args, cmd, e);
    if (cmd && !r.failed) {
        c.role = cmd->role;
        r = cmd->run(&c, e);
    }
    int code = r.failed ? exit_code(e) : 0;
    fflush(stdout);
    dup2(saved, 1);
    dup2(saved_err, 2);
    close(saved);
    close(saved_err);
    close(fd);
    close(null);
    claviger_free(c.client);
    arena_release(&c.arena);
    return code;
}

#define ARGS(...) ((char *[]){"kmsctl", __VA_ARGS__, NULL})

#endif
