/*
 * Purpose: a store of rows whose seal epoch changes: rows that are covered and not, of two tenants; copies put back; what fsck says.
 * Owns: nothing beside anchored.h's. Threads: one. Errors: a failed set-up fails the test. Limits: one fixture at a time. Secrets: none.
 */
#ifndef TESTS_UNIT_KMS_STORE_SEALED_H
#define TESTS_UNIT_KMS_STORE_SEALED_H

#include "kms/store/internal.h"
#include "tests/unit/kms/store/anchored.h"

enum { ROW_ID = 24 };

static inline void row_id(char id[ROW_ID], int i)
{
    snprintf(id, ROW_ID, "row-%d", i);
}
/* Covered and not, of two tenants, each with its id as its body. */
static inline struct record row(char id[ROW_ID], int i)
{
    row_id(id, i);
    return fx_rec(i % 5 == 0 ? REC_BUDGET : i % 2 ? REC_META : REC_TENANT, i % 3 ? TA : TB, id, id);
}
static inline void put_rows(struct fx *f, int n)
{
    char id[ROW_ID];
    for (int i = 0; i < n; i++) {
        struct record r = row(id, i);
        assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
    }
}
static inline void expect_rows(struct fx *f, int n)
{
    char id[ROW_ID];
    for (int i = 0; i < n; i++) {
        struct record r = row(id, i), out;
        assert_ok(fx_get(f, r.kind, r.tenant, id, &out));
        assert_int_equal(out.revision, 1);
        assert_bytes(out.body, id);
    }
}
static inline void reopen(struct fx *f)
{
    fx_close(f);
    fx_open(f);
}
/* Everything moved and journalled, proven, and the older secrets destroyed. */
static inline void finish(struct fx *f)
{
    (void)fx_reseal_all(f, 100);
    assert_ok(store_outbox_trim(f->s, UINT64_MAX, &f->e));
    assert_int_equal(fx_prove(f).left, 0);
    f->destroyed = store_seal_epoch(f->s) - 1;
}

static unsigned findings, told;
static char last_finding[600], last_told[600];
static void finding(void *user, const char *text)
{
    (void)user;
    findings++;
    snprintf(last_finding, sizeof last_finding, "%s", text);
}
static void information(void *user, const char *text)
{
    (void)user;
    told++;
    snprintf(last_told, sizeof last_told, "%s", text);
}
static inline struct store_check fsck(struct fx *f)
{
    struct store_check c = {.report = finding, .inform = information};
    findings = told = 0;
    fx_close(f);
    f->o.check_only = true;
    fx_open(f);
    assert_ok(store_fsck(f->s, &c, &f->e));
    fx_close(f);
    f->o.check_only = false;
    return c;
}

static inline void keep(struct fx *f, const char *name)
{
    fx_close(f);
    copy_db(f, "store.db", name);
    fx_open(f);
}
/* Of the closed store: sql may read a copy as o. */
static inline void put_back(struct fx *f, const char *from, const char *sql)
{
    char text[900];
    snprintf(text, sizeof text, "ATTACH '%s/%s' AS o; %s", f->dir, from, sql);
    edit(f, text);
}
static inline void refused(struct fx *f, enum err_code code, const char *reason, const char *says)
{
    struct store *s = NULL;
    assert_fails(store_open(&f->o, &s, &f->e), code, reason);
    if (!strstr(f->e.detail, says))
        fail_msg("\"%s\" does not say \"%s\"", f->e.detail, says);
}

#define SEALED_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
