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
/* The proof finds so many under an older epoch or broken, the first of which it names so: returns the rows that are as they should be. */
static inline uint64_t proof_names(struct fx *f, uint64_t left, const char *first)
{
    struct store_seal_proof p = fx_prove(f);
    assert_int_equal(p.left, left);
    assert_string_equal(p.first, first);
    return p.rows;
}

/* The floor in its place (anchored.h), kept aside while the store goes on, and put back. */
struct floor_copy {
    size_t n;
    uint8_t value[STORE_ANCHOR_MAX];
};
static inline void floor_back(const struct floor_copy *c)
{
    memcpy(place.value, c->value, sizeof place.value);
    place.n = c->n;
}
/* Five rows, and seal epoch 4 made current over them, with all that follows or without; closed. *ret_before is the floor of before. */
static inline void change_of_epoch(struct fx *f, bool finished, struct floor_copy *ret_before)
{
    put_rows(f, 5);
    fx_close(f);
    ret_before->n = place.n;
    memcpy(ret_before->value, place.value, sizeof ret_before->value);
    fx_open(f);
    assert_ok(fx_seal(f, 4, "changed"));
    if (finished)
        finish(f);
    fx_close(f);
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
