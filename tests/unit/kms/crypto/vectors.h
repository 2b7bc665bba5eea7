/*
 * Purpose: published vectors for the tests of this folder. Each file is looked for in VECTORS_DIR, then among Debian's
 *          python3-cryptography-vectors, then in tests/vectors (a few published values in the same form): which one it was
 *          decides how many cases the test must have run, so nothing is ever skipped in silence.
 * Owns:    struct vector_file owns the text. Threads: none. Errors: cmocka failures. Limits: none. Secrets: published values.
 */
#ifndef TESTS_UNIT_KMS_CRYPTO_VECTORS_H
#define TESTS_UNIT_KMS_CRYPTO_VECTORS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/secret.h"

#define DEBIAN_VECTORS "/usr/lib/python3/dist-packages/cryptography_vectors"

struct vector_file {
    char *text;
    bool full; /* the large published file, not our few values */
};

static inline char *read_whole(const char *path)
{
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return NULL;
    struct stat st;
    assert_int_equal(fstat(fileno(f), &st), 0);
    size_t n = (size_t)st.st_size;
    char *text = malloc(n + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, n, f), n);
    text[n] = '\0';
    fclose(f);
    return text;
}

/* debian: path below DEBIAN_VECTORS or NULL. small: name in tests/vectors. */
static inline struct vector_file vector_open(const char *name, const char *debian, const char *small)
{
    const char *dir = getenv("VECTORS_DIR");
    char path[1024];
    struct stat st;
    if (dir == NULL)
        dir = "../shared/vectors";
    bool small_only = getenv("CLV_SMALL_VECTORS") != NULL; /* as on a machine that has neither of the others */
    if (!small_only && stat(dir, &st) == 0) {
        snprintf(path, sizeof path, "%s/%s", dir, name);
        char *text = read_whole(path);
        assert_non_null(text); /* the folder is there, so the file must be */
        return (struct vector_file){text, true};
    }
    snprintf(path, sizeof path, DEBIAN_VECTORS "/%s", debian == NULL ? "" : debian);
    char *text = small_only || debian == NULL ? NULL : read_whole(path);
    if (text != NULL)
        return (struct vector_file){text, true};
    snprintf(path, sizeof path, "tests/vectors/%s", small);
    text = read_whole(path);
    assert_non_null(text);
    return (struct vector_file){text, false};
}

/* Next line, cut in place, without its end; NULL at the end. */
static inline char *next_line(char **rest)
{
    char *line = *rest;
    if (line == NULL || *line == '\0')
        return NULL;
    char *end = strchr(line, '\n');
    *rest = end == NULL ? NULL : end + 1;
    if (end != NULL)
        *end = '\0';
    size_t n = strlen(line);
    if (n > 0 && line[n - 1] == '\r')
        line[n - 1] = '\0';
    return line;
}

struct hexed {
    uint8_t p[8192];
    size_t n;
};

static inline void unhex(const char *text, struct hexed *out)
{
    size_t n = strlen(text);
    assert_true(n % 2 == 0 && n / 2 <= sizeof out->p);
    out->n = n / 2;
    assert_true(hex_decode(BYTES(text, n), out->p, out->n));
}

static inline struct bytes hexed_bytes(const struct hexed *h)
{
    return BYTES(h->p, h->n);
}

/* "Name = value" or "Name=value": the value, else NULL. */
static inline const char *value_of(const char *line, const char *name)
{
    size_t n = strlen(name);
    if (strncmp(line, name, n) != 0)
        return NULL;
    line += n;
    while (*line == ' ')
        line++;
    if (*line != '=')
        return NULL;
    line++;
    while (*line == ' ')
        line++;
    return line;
}

static inline int slab_setup(void **state)
{
    (void)state;
    struct err e;
    return secret_slab_init(256, &e).failed ? -1 : 0;
}

static inline int slab_teardown(void **state)
{
    (void)state;
    assert_int_equal(secret_stats().used, 0); /* every test frees what it made */
    secret_slab_release();
    return 0;
}

static inline struct secret *secret_of(struct bytes b)
{
    struct secret *s = NULL;
    struct err e;
    assert_false(secret_from(b.p, b.n, &s, &e).failed);
    return s;
}

/* For a call that must fail: its code. The result is spelt out so that an unexpected success shows. */
static inline enum err_code code_of(struct result r, const struct err *e)
{
    return r.failed ? e->code : ERR_NONE;
}

#endif
