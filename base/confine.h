/*
 * Purpose: what each process locks itself into once it has opened what it needs: user, no new privileges, resource limits,
 *          Landlock, and a seccomp allow-list for its role.
 * Owns:    nothing. Threads: call once, before the process starts any thread (Landlock binds the calling thread and what it
 *          starts later): before grpc_init, before C_Initialize.
 * Errors:  fails closed: a step that fails is an error, and the child reports it as FATAL. What the *kernel lacks* is not an
 *          error but a named weakness, logged: "landlock" (before 5.13), "landlock-net" (before 6.7), "seccomp" (sanitizers).
 * Limits:  CONFINE_PATHS_MAX paths.
 * Secrets: none. After it the process can't exec, fork, trace, mount or change identity; who tries dies, with a log line that
 *          names the role and the system call.
 */
#ifndef BASE_CONFINE_H
#define BASE_CONFINE_H

#include "base/err.h"

enum { CONFINE_PATHS_MAX = 32, CONFINE_EXIT_REFUSED = 159 /* exit status after a call that is not in the filter */ };

enum confine_role {
    CONFINE_FRONT, /* accepts on given sockets, unix sockets to core; opens no network socket itself */
    CONFINE_CORE,  /* gRPC, SQLite, journal; unix sockets only */
    CONFINE_HSM,   /* PKCS#11 module: may reach a network token */
};

struct confine_path {
    const char *path; /* folder (with all below it) or file; "" is skipped, one that does not exist is an error */
    bool write;       /* read-write: also create, rename, truncate, remove, make sockets. Otherwise read only */
};

struct confine {
    enum confine_role role;
    const char *user; /* "" or NULL: unchanged. Needs root */
    const struct confine_path *paths; /* beside these always read-only: /usr /lib /lib64 /etc/ssl /etc/pkcs11 ... (confine.c) */
    size_t npaths;
};

/* All steps, in the one right order. */
RESULT confine_self(const struct confine *c, struct err *e);

/* The steps, for tests. */
RESULT confine_user(const char *user, struct err *e); /* groups cleared, set*id for good, verified; "" keeps the user */
RESULT confine_limits(struct err *e);                 /* no core file; no new privileges; PDEATHSIG and dumpable again */
RESULT confine_landlock(const struct confine_path *paths, size_t npaths, enum confine_role role, struct err *e);
RESULT confine_seccomp(enum confine_role role, struct err *e);

#endif
