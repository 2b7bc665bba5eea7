/*
 * Purpose: the database edited by hand, as somebody with the file would; copies of it put back; a floor kept in memory.
 * Owns: nothing. Threads: one, but for the floor. Errors: a failed edit fails the test. Limits: none. Secrets: none.
 */
#ifndef TESTS_UNIT_KMS_STORE_EDIT_H
#define TESTS_UNIT_KMS_STORE_EDIT_H

#include "tests/unit/kms/store/fixture.h"

#include <pthread.h>
#include <sqlite3.h>

static inline int edit(struct fx *f, const char *text)
{
    sqlite3 *h;
    char path[128], *msg = NULL;
    snprintf(path, sizeof path, "%s/store.db", f->dir);
    assert_int_equal(sqlite3_open(path, &h), SQLITE_OK);
    sqlite3_busy_timeout(h, 10000); /* the open store cuts its log off now and then */
    if (sqlite3_exec(h, text, NULL, NULL, &msg) != SQLITE_OK)
        fail_msg("%s: %s", text, msg);
    int n = sqlite3_changes(h);
    assert_int_equal(sqlite3_close(h), SQLITE_OK);
    return n;
}

/* The closed store's file, whole: away and back. */
static inline void copy_db(struct fx *f, const char *from, const char *to)
{
    char a[160], b[160];
    static uint8_t all[8 << 20];
    snprintf(a, sizeof a, "%s/%s", f->dir, from);
    snprintf(b, sizeof b, "%s/%s", f->dir, to);
    FILE *in = fopen(a, "re");
    assert_non_null(in);
    size_t n = fread(all, 1, sizeof all, in);
    fclose(in);
    assert_true(n < sizeof all);
    FILE *out = fopen(b, "we");
    assert_non_null(out);
    assert_int_equal(fwrite(all, 1, n, out), n);
    fclose(out);
    assert_int_equal(chmod(b, 0600), 0);
}

struct place {
    pthread_mutex_t mu;
    uint8_t value[STORE_ANCHOR_MAX], other[STORE_ANCHOR_MAX];
    size_t n, other_n; /* 0: never written */
    bool broken, full; /* full: what is there can be read */
    unsigned puts;
    struct store_anchor io;
};
static inline struct result place_give(const uint8_t *p, size_t n, uint8_t *out, size_t *ret_n, struct err *e)
{
    if (n == 0)
        FAIL(e, ERR_NOT_FOUND, NULL, "never written");
    memcpy(out, p, n);
    *ret_n = n;
    return ok();
}
static struct result place_get(void *user, uint8_t out[STORE_ANCHOR_MAX], size_t *ret_n, struct err *e)
{
    struct place *p = user;
    if (p->broken)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "test");
    return place_give(p->value, p->n, out, ret_n, e);
}
static struct result place_get_other(void *user, uint8_t out[STORE_ANCHOR_MAX], size_t *ret_n, struct err *e)
{
    struct place *p = user;
    return place_give(p->other, p->other_n, out, ret_n, e);
}
static struct result place_put(void *user, struct bytes v, struct err *e)
{
    struct place *p = user;
    struct result r = ok();
    pthread_mutex_lock(&p->mu);
    p->puts++;
    if (p->broken || p->full) {
        r = err_set(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", __FILE__, __LINE__, "test");
    } else {
        memcpy(p->value, v.p, v.n);
        p->n = v.n;
    }
    pthread_mutex_unlock(&p->mu);
    return r;
}
static inline void place_init(struct place *p)
{
    *p = (struct place){.io = {.place = STORE_ANCHOR_TOKEN, .get = place_get, .put = place_put, .get_other = place_get_other}};
    p->io.user = p;
    pthread_mutex_init(&p->mu, NULL);
}

#endif
