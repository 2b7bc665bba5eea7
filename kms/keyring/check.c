/* What fsck asks of the keys: can everything that is stored be used? */
#include "base/rng.h"
#include "kms/keyring/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHECK_PAGE = 256, CHECK_ARENA_BYTES = 64 << 20 };

enum { GONE_MAX = TOKEN_SECRETS_MAX };
struct checking {
    struct keyring *k;
    struct keyring_check *c;
    struct {
        uint32_t version;
        bool gone;
    } asked[GONE_MAX]; /* masters, by what the token says */
    size_t nasked;
    struct kvid {
        uint8_t b[FORMAT_KVID_BYTES];
    } *on_token; /* of the versions that lie there */
    size_t n_on_token;
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

/* The token is there and says that it has no such master: what is under it can never be opened by this token. */
static RESULT master_gone(struct checking *x, uint32_t version, bool *ret, struct err *e)
{
    CLEANUP(secret_freep) struct secret *answer = NULL;
    CLEANUP(buf_release) struct buf input = {0};
    uint8_t nonce[32];
    const struct bytes fields[] = {BYTES(nonce, sizeof nonce)};
    struct err why = {0};
    for (size_t i = 0; i < x->nasked; i++)
        if (x->asked[i].version == version) {
            *ret = x->asked[i].gone;
            return ok();
        }
    buf_init(&input, KDFENC_MAX_BYTES);
    rng_fill(&rng_system, nonce, sizeof nonce);
    INVARIANT(kdfenc_build(KDF_CHALLENGE, fields, 1, &input));
    *ret = hsm_derive(x->k->hsm, HSM_MASTER, version, buf_bytes(&input), &answer, &why).failed;
    if (*ret && why.code != ERR_NOT_FOUND) {
        *e = why;
        return (struct result){1};
    }
    if (x->nasked < GONE_MAX) {
        x->asked[x->nasked].version = version;
        x->asked[x->nasked++].gone = *ret;
    }
    return ok();
}

static RESULT under(struct checking *x, uint32_t version, struct err *e)
{
    bool gone;
    TRY(master_gone(x, version, &gone, e));
    if (gone)
        FAIL(e, ERR_DATA_LOSS, "KEY_MASTER_GONE", "it is under master %u, which is not on the token", version);
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
    for (size_t i = 0; i < t->nkeks; i++) {
        TRY(under(x, t->keks[i].is.master, e));
        TRY(tenant_kek(x->k, t, t->keks[i].is.master, &kek, e));
    }
    return ok();
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
    if (m.primary == 0 || tenant_ref_info(t)->state == TENANT_PURGING) /* there versions go before their keys */
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

static void expect_on_token(struct checking *x, const uint8_t kvid[FORMAT_KVID_BYTES])
{
    x->on_token = reallocarray(x->on_token, x->n_on_token + 1, sizeof *x->on_token);
    INVARIANT(x->on_token != NULL);
    memcpy(x->on_token[x->n_on_token++].b, kvid, FORMAT_KVID_BYTES);
}

static RESULT check_version(struct checking *x, const struct record *r, struct arena *a, struct err *e)
{
    CLEANUP(tenant_ref_dropp) struct tenant_ref *t = NULL;
    CLEANUP(version_l2_release) struct version_l2 u = {0};
    struct keyring_version m;
    struct name n;
    struct err why = {0};
    (void)a;
    x->c->versions++;
    TRY(holder(x, r, NAME_VERSION, &n, &t, e));
    TRY(model_version_get(r, &m, e));
    if (m.state == VERSION_DESTROYED)
        return ok();
    if (m.protection == PROTECTION_HSM) {
        expect_on_token(x, m.kvid);
        /* Where the tenant is PURGING the object goes before its row. */
        return tenant_ref_info(t)->state == TENANT_PURGING ? ok() : token_key_examine(x->k, t, &n, &m, e);
    }
    TRY(under(x, m.master_version, e));
    if (!version_unwrap(x->k, t, &n, &m, &u, &why).failed)
        return ok();
    if (tenant_moved(&why))
        FAIL(e, ERR_DATA_LOSS, "KEY_MASTER_UNKNOWN", "it is under master %u, which its tenant does not name", m.master_version);
    *e = why;
    return (struct result){1};
}

/* ---- keys on the token that no version has ---- */
static int by_kvid(const void *a, const void *b)
{
    return memcmp(a, b, FORMAT_KVID_BYTES);
}

/* A creation that did not finish, or a destruction that is still to be: the daemon removes those by itself. */
static RESULT expect_removals(struct checking *x, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct due *all;
    size_t n = CHECK_PAGE;
    uint8_t after[DUE_ID_BYTES], kvid[FORMAT_KVID_BYTES];
    size_t after_n = 0;
    arena_init(&a, CHECK_ARENA_BYTES);
    while (n == CHECK_PAGE) {
        arena_reset(&a);
        TRY(due_read(x->k->store, BYTES(after, after_n), INT64_MAX, CHECK_PAGE, &a, &all, &n, e));
        for (size_t i = 0; i < n; i++) {
            if ((all[i].what == DUE_HSM_UNFINISHED || all[i].what == DUE_HSM_REMOVAL) && keyring_token_kvid(&all[i], kvid))
                expect_on_token(x, kvid);
            due_id(&all[i], after);
            after_n = sizeof after;
        }
    }
    return ok();
}

static RESULT check_strays(struct checking *x, struct err *e)
{
    uint8_t page[HSM_KEY_PAGE][HSM_KVID_BYTES], last[HSM_KVID_BYTES];
    size_t n = HSM_KEY_PAGE;
    bool first = true;
    TRY(expect_removals(x, e));
    if (x->n_on_token > 0)
        qsort(x->on_token, x->n_on_token, sizeof *x->on_token, by_kvid);
    while (n == HSM_KEY_PAGE) {
        TRY(hsm_key_list(x->k->hsm, first ? NULL : last, page, &n, e));
        for (size_t i = 0; i < n; i++) {
            char hex[2 * HSM_KVID_BYTES + 1], text[160];
            if (x->n_on_token > 0 && bsearch(page[i], x->on_token, x->n_on_token, sizeof *x->on_token, by_kvid) != NULL)
                continue;
            hex_encode(page[i], HSM_KVID_BYTES, hex);
            snprintf(text, sizeof text, "token: claviger-key-%s belongs to no version", hex);
            x->c->report(x->c->user, text);
        }
        if (n > 0)
            memcpy(last, page[n - 1], sizeof last);
        first = false;
    }
    return ok();
}

static RESULT check_all(struct checking *x, struct err *e)
{
    TRY(each(x, REC_TENANT, check_tenant, e));
    TRY(each(x, REC_CRYPTOKEY, check_key, e));
    TRY(each(x, REC_VERSION, check_version, e));
    return check_strays(x, e);
}

RESULT keyring_check(struct keyring *k, struct keyring_check *c, struct err *e)
{
    struct checking x = {.k = k, .c = c};
    struct result r = check_all(&x, e);
    free(x.on_token);
    return r;
}
