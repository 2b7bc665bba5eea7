/*
 * Purpose: whether a row, as it lies sealed in the store's files, can still be found in any of them.
 * Owns:    nothing: copies live in the arena of struct life. Threads: one. Errors: fail the test. Limits: BODIES_MAX revisions.
 * Secrets: none worth keeping.
 */
#ifndef TESTS_UNIT_VAULT_SERVICE_IN_FILES_H
#define TESTS_UNIT_VAULT_SERVICE_IN_FILES_H

#include "tests/unit/vault/service/life.h"

#include <dirent.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

enum { BODIES_MAX = 4096, BODIES_WINDOW = 32 };
struct bodies {
    struct bytes all[BODIES_MAX];
    size_t n;
};

/* The sealed bodies of rows of that kind as they lie in the file now: each revision of a row has its own. */
static inline void bodies_collect(struct life *f, enum rec_kind kind, const char *like, struct bodies *b)
{
    char path[128];
    sqlite3 *db;
    sqlite3_stmt *st;
    (void)snprintf(path, sizeof path, "%s/store.db", f->dir);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT body FROM record WHERE kind = ?1 AND CAST(name AS TEXT) LIKE ?2", -1, &st, NULL), SQLITE_OK);
    sqlite3_bind_int(st, 1, (int)kind);
    sqlite3_bind_text(st, 2, like, -1, SQLITE_STATIC);
    while (sqlite3_step(st) == SQLITE_ROW && b->n < BODIES_MAX) {
        const size_t n = (size_t)sqlite3_column_bytes(st, 0);
        assert_true(n > 2 * BODIES_WINDOW);
        b->all[b->n++] = BYTES(arena_dup(&f->a, sqlite3_column_blob(st, 0), n), n);
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
}

/* How many of them can be seen in any file of the folder; *ret_files: how many files were looked at. */
static inline size_t bodies_found(struct life *f, const struct bodies *b, unsigned *ret_files)
{
    bool *seen = arena_zalloc(&f->a, b->n + 1);
    size_t total = 0;
    DIR *d = opendir(f->dir);
    struct dirent *entry;
    assert_non_null(d);
    *ret_files = 0;
    while ((entry = readdir(d)) != NULL) {
        char path[400];
        struct stat st;
        (void)snprintf(path, sizeof path, "%s/%s", f->dir, entry->d_name);
        const int fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0 && fstat(fd, &st) == 0);
        if (S_ISREG(st.st_mode)) {
            uint8_t *content = malloc((size_t)st.st_size + 1);
            const ssize_t n = read(fd, content, (size_t)st.st_size);
            assert_true(content != NULL && n >= 0); /* fewer: the log was cut off since its size was asked */
            for (size_t i = 0; i < b->n; i++) /* begin, middle, end: any part of it is too much */
                for (size_t part = 0; part < 3 && !seen[i]; part++)
                    seen[i] = memmem(content, (size_t)n, b->all[i].p + part * (b->all[i].n - BODIES_WINDOW) / 2, BODIES_WINDOW) != NULL;
            free(content);
            (*ret_files)++;
        }
        close(fd);
    }
    closedir(d);
    for (size_t i = 0; i < b->n; i++)
        total += seen[i];
    return total;
}

/* What is there: looked for again while a checkpoint moves it from one file to another between two readings. */
static inline size_t bodies_found_many(struct life *f, const struct bodies *b, size_t want, unsigned *ret_files)
{
    size_t n = 0;
    for (int tries = 0; tries < 100 && n < want; tries++)
        n = bodies_found(f, b, ret_files);
    return n;
}

static inline size_t bodies_found_all(struct life *f, const struct bodies *b, unsigned *ret_files)
{
    return bodies_found_many(f, b, b->n, ret_files);
}

#endif
