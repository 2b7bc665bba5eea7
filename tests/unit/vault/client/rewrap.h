/*
 * Purpose: what the tests of csv rewrap share: a file of many rows, encrypted, and what is left of a run.
 * Owns:    nothing beside the fixture's. Threads: one. Errors: assert. Limits: ROWS. Secrets: none.
 */
#ifndef TESTS_UNIT_VAULT_CLIENT_REWRAP_H
#define TESTS_UNIT_VAULT_CLIENT_REWRAP_H

#include "tests/unit/vault/client/commands.h"

enum { ROWS = 700 };
#define KEY "--key", "acme/eu/pii/email"

static inline int fresh(void **state)
{
    struct fixture *f = *state;
    unlink(f->out);
    unlink(f->part);
    unlink(f->place);
    return 0;
}

static inline void assert_same(const char *a, const char *b)
{
    CLEANUP(buf_release) struct buf one = {0}, two = {0};
    read_file(a, &one);
    read_file(b, &two);
    assert_int_equal(one.n, two.n);
    assert_memory_equal(one.p, two.p, one.n);
}

#define REWRAP(...) ARGS("csv", "rewrap", "--columns", "a", KEY, "--id-column", "id", "--in", f->enc, __VA_ARGS__)

static inline int encrypt(struct fixture *f, struct bytes text, const char *columns)
{
    struct claviger_error e;
    write_file(f->in, text);
    return run(f->enc, &e, ARGS("csv", "encrypt", "--columns", (char *)(uintptr_t)columns, KEY, "--id-column", "id", "--in", f->in));
}

static inline int decrypt(struct fixture *f, const char *path, const char *columns)
{
    struct claviger_error e;
    return run(f->dec, &e, ARGS("csv", "decrypt", "--columns", (char *)(uintptr_t)columns, KEY, "--id-column", "id", "--in", (char *)(uintptr_t)path));
}

/* A file of ROWS rows, encrypted: f->enc. Some fields are empty. */
static inline void many(struct fixture *f)
{
    CLEANUP(buf_release) struct buf text = {0};
    buf_init(&text, FILE_MAX);
    buf_put_str(&text, "id,a,\"b\"\r\n");
    for (int i = 0; i < ROWS; i++)
        buf_putf(&text, i % 7 ? "%d,\"person, %d\",keep\r\n" : "%d,,kept%d\n", i, i);
    assert_int_equal(encrypt(f, buf_bytes(&text), "a"), 0);
}

static inline unsigned count(struct bytes text, const char *what)
{
    unsigned n = 0;
    for (size_t i = 0; i + strlen(what) <= text.n; i++)
        n += memcmp(text.p + i, what, strlen(what)) == 0;
    return n;
}

static inline size_t line_end(const struct buf *b, unsigned rows)
{
    size_t at = 0;
    for (unsigned seen = 0; seen <= rows; at++)
        seen += b->p[at] == '\n';
    return at;
}

#endif
