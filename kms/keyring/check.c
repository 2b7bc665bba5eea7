/* What fsck asks of the keys: can everything that is stored be used? */
#include "kms/keyring/internal.h"

#include <stdio.h>
#include <string.h>

enum { CHECK_PAGE = 256, CHECK_ARENA_BYTES = 64 << 20 };

struct checking {
    struct keyring *k;
    struct keyring_check *c;
};
typedef RESULT check_fn(struct checking *x, const struct record *r, struct arena *a, struct err *e);

static void report(struct checking *x, const struct record *r, const struct err *why)
{
    char text[512], id[160];
    store_id_text(r->id, id, sizeof id);
    snprintf(text, sizeof text, "%s \"%s\": %.200s [%s]", store_kind_name(r->kind), id, why->detail,
             why->reason ? why->reason : err_name(why->code));
    x->c->report(x->c->user, text);
}

/* What is wrong with the row is a finding; that it cannot be known now is not. */
static RESULT outcome(struct checking *x, const struct record *r, struct result done, const struct err *why, struct err *e)
{
    if (!done.failed)
        return ok();
    if (why->code == ERR_UNAVAILABLE || why->code == ERR_EXHAUSTED) {
        *e = *why;
        return done;
    }
    report(x, r, why);
    return ok();
}

static RESULT page(struct checking *x, struct store_scan *q, check_fn *check, uint8_t after[STORE_ID_MAX], size_t *ret_n,
                   struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct record *rows;
    size_t n = 0;
    arena_init(&a, CHECK_ARENA_BYTES);
    TRY(store_scan(x->k->store, q, &a, &rows, &n, e));
    for (size_t i = 0; i < n; i++) {
        struct err why = {0};
        struct result done = check(x, &rows[i], &a, &why);
        TRY(outcome(x, &rows[i], done, &why, e));
    }
    *ret_n = n;
    if (n == 0)
        return ok();
    memcpy(after, rows[n - 1].id.p, rows[n - 1].id.n);
    q->after = BYTES(after, rows[n - 1].id.n);
    memcpy(q->after_tenant, rows[n - 1].tenant, sizeof q->after_tenant);
    return ok();
}

static RESULT each(struct checking *x, enum rec_kind kind, check_fn *check, struct err *e)
{
    struct store_scan q = {.kind = kind, .limit = CHECK_PAGE, .all_tenants = true};
    uint8_t after[STORE_ID_MAX];
    size_t n = CHECK_PAGE;
    while (n == CHECK_PAGE)
        TRY(page(x, &q, check, after, &n, e));
    return ok();
}

static RESULT check_tenant(struct checking *x, const struct record *r, struct arena *a, struct err *e)
{
    static const uint8_t no_tenant[STORE_TENANT_BYTES];
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    const struct aead_key *kek;
    struct record by_id;
    x->c->tenants++;
    TRY(keyring_tenant_hold(x->k, r->id, true, &t, e));
    TRY(store_get(x->k->store, REC_TENANT_ID, no_tenant, BYTES(t->t.id, 16), a, &by_id, e));
    if (!bytes_equal(by_id.body, r->id))
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "its id does not lead back to it");
    return tenant_kek(x->k, t, &kek, e);
}

/* The tenant that the row's column names must be the one that its name names: else two tenants share a key. */
static RESULT holder(struct checking *x, const struct record *r, enum name_kind kind, struct name *n, struct tenant_ref **ret,
                     struct err *e)
{
    TRY(name_parse(r->name, kind, "name", n, e));
    TRY(keyring_tenant_hold_by_id(x->k, r->tenant, ret, e));
    const struct tenant *t = tenant_ref_info(*ret);
    if (!bytes_equal(n->tenant, bytes_str(t->name)) || !bytes_equal(n->location, bytes_str(t->location)))
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "its name is of another tenant or location than its row");
    return ok();
}

static RESULT check_key(struct checking *x, const struct record *r, struct arena *a, struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    struct keyring_key m;
    struct keyring_version v;
    struct name n;
    struct err why = {0};
    x->c->keys++;
    TRY(holder(x, r, NAME_CRYPTOKEY, &n, &t, e));
    TRY(model_key_get(r, a, &m, e));
    if (m.primary == 0)
        return ok();
    n.kind = NAME_VERSION;
    n.version = m.primary;
    if (!keyring_version_get(x->k, &n, a, &v, &why).failed)
        return ok();
    if (why.code == ERR_NOT_FOUND)
        FAIL(e, ERR_DATA_LOSS, "KEY_NO_PRIMARY", "its primary version %u does not exist", m.primary);
    *e = why;
    return (struct result){1};
}

static RESULT check_version(struct checking *x, const struct record *r, struct arena *a, struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    CLEANUP(version_l2_release) struct version_l2 u = {0};
    struct keyring_version m;
    struct name n;
    (void)a;
    x->c->versions++;
    TRY(holder(x, r, NAME_VERSION, &n, &t, e));
    TRY(model_version_get(r, &m, e));
    if (m.state == VERSION_DESTROYED)
        return ok();
    return version_unwrap(x->k, t, &n, &m, &u, e);
}

RESULT keyring_check(struct keyring *k, struct keyring_check *c, struct err *e)
{
    struct checking x = {k, c};
    TRY(each(&x, REC_TENANT, check_tenant, e));
    TRY(each(&x, REC_CRYPTOKEY, check_key, e));
    return each(&x, REC_VERSION, check_version, e);
}
