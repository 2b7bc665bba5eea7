#include "vault/service/admin.h"

#include "base/log.h"
#include "base/text.h"
#include "kms/crypto/kdf.h"
#include "vault/service/table.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { BODY_FORMAT = 1, BODY_RECOVERY = 2, LOAD_PAGE = 512 };

struct admin {
    struct store *store;
    struct authn *authn;
    const struct clock *clock;
    const char *trust_domain;
    uint8_t boot_id[BOOT_ID_BYTES];
    uint64_t principals_max;
    pthread_mutex_t lock;   /* guards policy */
    pthread_mutex_t reload; /* one at a time: a slower, older load never wins */
    struct policy_set *policy;
    atomic_bool stale;
};

static const uint8_t no_tenant[STORE_TENANT_BYTES];

/* ---- policy documents --------------------------------------------------------------------------------------------
 * body: u8 1, i64 created, v16 creator, u16 n, n x { v16 name, v32 yaml } */
static void policy_body(const struct policy_doc *docs, size_t n, struct bytes creator, int64_t created, struct buf *out)
{
    buf_put_u8(out, BODY_FORMAT);
    buf_put_u64(out, (uint64_t)created);
    buf_put_v16(out, creator);
    buf_put_u16(out, (uint16_t)n);
    for (size_t i = 0; i < n; i++) {
        buf_put_v16(out, bytes_str(docs[i].name));
        buf_put_v32(out, docs[i].yaml);
    }
}

static RESULT malformed(struct err *e)
{
    FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "a policy or principal record is not ours");
}

static RESULT policy_parse(const struct record *r, struct arena *a, struct admin_policy_version *ret, struct err *e)
{
    struct reader in = reader_of(r->body);
    if (reader_u8(&in) != BODY_FORMAT || r->id.n != 8)
        return malformed(e);
    struct admin_policy_version v = {.version = get_be64(r->id.p), .revision = r->revision};
    v.created_ns = (int64_t)reader_u64(&in);
    v.creator = reader_v16(&in);
    v.ndocs = reader_u16(&in);
    if (in.bad || v.ndocs > ADMIN_DOCS_MAX)
        return malformed(e);
    v.docs = arena_zalloc(a, (v.ndocs + 1) * sizeof *v.docs);
    for (size_t i = 0; v.docs != NULL && i < v.ndocs; i++) {
        v.docs[i].name = arena_strdup(a, reader_v16(&in));
        v.docs[i].yaml = reader_v32(&in);
    }
    if (v.docs == NULL || !reader_done(&in))
        return malformed(e);
    *ret = v;
    return ok();
}

static RESULT policy_latest(struct store *s, struct arena *a, struct admin_policy_version *ret, struct err *e)
{
    struct record *rows;
    size_t n;
    struct store_scan q = {.kind = REC_POLICY, .limit = 1, .descending = true};
    TRY(store_scan(s, &q, a, &rows, &n, e));
    if (n == 0)
        FAIL(e, ERR_STATE, "NOT_INITIALISED", "the store has no policy: run kmsd init");
    return policy_parse(&rows[0], a, ret, e);
}

RESULT admin_policy_check(const struct policy_doc *docs, size_t n, struct policy_set **ret, struct buf *ret_text, struct err *e)
{
    struct policy_action actions[RPC_ROWS_MAX + 1];
    size_t rows_n, nactions = 0;
    const struct rpc_row *const *rows = table_rows(&rows_n);
    for (size_t i = 0; i < rows_n; i++) {
        size_t j = 0;
        while (rows[i]->action != NULL && j < nactions && strcmp(actions[j].name, rows[i]->action) != 0)
            j++;
        if (rows[i]->action != NULL && j == nactions)
            actions[nactions++] = (struct policy_action){rows[i]->action, rows[i]->plane == PLANE_DATA};
    }
    return policy_compile(docs, n, actions, nactions, ret, e, ret_text);
}

RESULT admin_policy_get(struct admin *a, struct arena *ar, struct admin_policy_version *ret, struct err *e)
{
    TRY(policy_latest(a->store, ar, ret, e));
    struct policy_set *set = admin_policy(a);
    policy_digest(set, ret->digest);
    policy_unref(set);
    return ok();
}

static void put_policy(struct store_txn *txn, uint64_t version, const struct policy_doc *docs, size_t n, struct bytes creator,
                       int64_t now_ns)
{
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, STORE_BODY_MAX);
    policy_body(docs, n, creator, now_ns, &body);
    uint8_t id[8];
    put_be64(id, version);
    struct record r = {.kind = REC_POLICY, .id = BYTES(id, sizeof id), .time_unix_ns = now_ns, .count = n, .body = buf_bytes(&body)};
    store_txn_put(txn, &r, STORE_ABSENT); /* two at once: one version, the later commit fails */
}

RESULT admin_policy_put(struct admin *a, const struct policy_doc *docs, size_t n, uint64_t expected_version, struct bytes creator,
                        struct store_txn *txn, struct arena *ar, struct admin_policy_version *ret, struct err *e)
{
    struct admin_policy_version now;
    TRY(policy_latest(a->store, ar, &now, e));
    if (expected_version != now.version)
        FAIL(e, ERR_CONFLICT, "POLICY_CHANGED", "version %llu is current", (unsigned long long)now.version);
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += docs[i].yaml.n + strlen(docs[i].name) + 8;
    if (n == 0 || n > ADMIN_DOCS_MAX || total > STORE_BODY_MAX - 1024)
        return err_field(e, "documents", "1 to 16 documents, 250 KiB in all");
    *ret = (struct admin_policy_version){.version = now.version + 1, .created_ns = clock_wall_ns(a->clock), .creator = creator,
                                         .docs = (struct policy_doc *)(uintptr_t)docs, .ndocs = n};
    put_policy(txn, ret->version, docs, n, creator, ret->created_ns);
    return ok();
}

void admin_policy_first(const struct policy_doc *docs, size_t n, struct bytes creator, int64_t now_ns, struct store_txn *txn)
{
    put_policy(txn, 1, docs, n, creator, now_ns);
}

static RESULT reload_policy(struct admin *a, struct err *e)
{
    CLEANUP(arena_release) struct arena ar;
    arena_init(&ar, 4 << 20);
    CLEANUP(buf_release) struct buf text;
    buf_init(&text, 4096);
    struct admin_policy_version v;
    TRY(policy_latest(a->store, &ar, &v, e));
    struct policy_set *set, *old;
    TRY(admin_policy_check(v.docs, v.ndocs, &set, &text, e));
    pthread_mutex_lock(&a->lock);
    old = a->policy;
    a->policy = set;
    pthread_mutex_unlock(&a->lock);
    policy_unref(old);
    return ok();
}

RESULT admin_policy_reload(struct admin *a, struct err *e)
{
    pthread_mutex_lock(&a->reload);
    struct result done = reload_policy(a, e);
    pthread_mutex_unlock(&a->reload);
    return done;
}

struct policy_set *admin_policy(struct admin *a)
{
    pthread_mutex_lock(&a->lock);
    struct policy_set *s = policy_ref(a->policy);
    pthread_mutex_unlock(&a->lock);
    return s;
}

/* ---- principals --------------------------------------------------------------------------------------------------
 * id: name; body: u8 1, i64 created, u8 state, v16 san, v16 tenant. A REC_SAN record claims its SAN. A recovery administrator's
 * begins with u8 2 and ends in i64 from, i64 until, i64 until by the boot clock, boot id[16]. */
static void principal_body(const struct admin_principal *p, struct buf *out)
{
    buf_put_u8(out, p->p.recovery ? BODY_RECOVERY : BODY_FORMAT);
    buf_put_u64(out, (uint64_t)p->created_ns);
    buf_put_u8(out, (uint8_t)p->p.state);
    buf_put_v16(out, bytes_str(p->p.san));
    buf_put_v16(out, bytes_str(p->p.tenant));
    if (!p->p.recovery)
        return;
    buf_put_u64(out, (uint64_t)p->p.from_unix_ns);
    buf_put_u64(out, (uint64_t)p->p.until_unix_ns);
    buf_put_u64(out, (uint64_t)p->p.until_boot_ns);
    buf_put(out, p->boot_id, sizeof p->boot_id);
}

static RESULT principal_parse(const struct record *r, struct admin_principal *ret, struct err *e)
{
    struct reader in = reader_of(r->body);
    struct admin_principal p = {0};
    uint8_t format = reader_u8(&in);
    if (format != BODY_FORMAT && format != BODY_RECOVERY)
        return malformed(e);
    p.created_ns = (int64_t)reader_u64(&in);
    p.p.state = (enum principal_state)reader_u8(&in);
    bool fits = text_copy(reader_v16(&in), p.p.san, sizeof p.p.san) && text_copy(reader_v16(&in), p.p.tenant, sizeof p.p.tenant) &&
                text_copy(r->id, p.p.name, sizeof p.p.name);
    p.p.revision = r->revision;
    p.p.recovery = format == BODY_RECOVERY;
    if (p.p.recovery) {
        p.p.from_unix_ns = (int64_t)reader_u64(&in);
        p.p.until_unix_ns = (int64_t)reader_u64(&in);
        p.p.until_boot_ns = (int64_t)reader_u64(&in);
        reader_copy(&in, p.boot_id, sizeof p.boot_id);
    }
    if (!fits || !reader_done(&in) || (p.p.state != PRINCIPAL_ACTIVE && p.p.state != PRINCIPAL_DISABLED))
        return malformed(e);
    *ret = p;
    return ok();
}

/* Time that another boot has counted is over: how long that machine was off nobody knows. */
static void end_of_boot(const struct admin *a, struct admin_principal *p)
{
    static const uint8_t unknown[sizeof a->boot_id];
    if (p->p.recovery && (memcmp(a->boot_id, unknown, sizeof unknown) == 0 || memcmp(a->boot_id, p->boot_id, sizeof unknown) != 0))
        p->p.until_boot_ns = 0;
}

RESULT admin_principal_get(struct admin *a, struct bytes name, struct arena *ar, struct admin_principal *ret, struct err *e)
{
    struct record r;
    TRY(store_get(a->store, REC_PRINCIPAL, no_tenant, name, ar, &r, e));
    TRY(principal_parse(&r, ret, e));
    end_of_boot(a, ret);
    return ok();
}

RESULT admin_principal_list(struct admin *a, struct bytes after, size_t limit, struct arena *ar, struct admin_principal **ret,
                            size_t *ret_n, struct err *e)
{
    struct record *rows;
    struct store_scan q = {.kind = REC_PRINCIPAL, .after = after, .limit = limit};
    TRY(store_scan(a->store, &q, ar, &rows, ret_n, e));
    *ret = arena_zalloc(ar, (*ret_n + 1) * sizeof **ret);
    if (*ret == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "the list does not fit the call's memory");
    for (size_t i = 0; i < *ret_n; i++) {
        TRY(principal_parse(&rows[i], &(*ret)[i], e));
        end_of_boot(a, &(*ret)[i]);
    }
    return ok();
}

static void put_principal(struct store_txn *txn, const struct admin_principal *p, uint64_t expected)
{
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, 2048);
    principal_body(p, &body);
    struct record r = {.kind = REC_PRINCIPAL, .id = bytes_str(p->p.name), .name = bytes_str(p->p.name), .state = (uint32_t)p->p.state,
                       .time_unix_ns = p->created_ns, .body = buf_bytes(&body)};
    store_txn_put(txn, &r, expected);
    if (expected == STORE_ABSENT) { /* one SAN, one principal: the claim is part of the same transaction */
        uint8_t id[32];
        struct bytes san = bytes_str(p->p.san);
        sha256(&san, 1, id);
        struct record claim = {.kind = REC_SAN, .id = BYTES(id, sizeof id), .body = bytes_str(p->p.name)};
        store_txn_put(txn, &claim, STORE_ABSENT);
    }
}

RESULT admin_principal_put(struct admin *a, const struct admin_principal *p, uint64_t expected, struct store_txn *txn,
                           struct err *e)
{
    uint64_t there = 0;
    TRY(authn_principal_check(&p->p, a->trust_domain, e));
    if (expected == STORE_ABSENT)
        TRY(store_count(a->store, REC_PRINCIPAL, no_tenant, (struct bytes){0}, &there, e));
    if (there >= a->principals_max)
        FAIL(e, ERR_EXHAUSTED, "TOO_MANY_PRINCIPALS", "%llu principals are registered", (unsigned long long)there);
    put_principal(txn, p, expected);
    return ok();
}

void admin_principal_first(const struct admin_principal *p, struct store_txn *txn)
{
    put_principal(txn, p, STORE_ABSENT);
}

RESULT admin_principal_as_disabled(struct record *r, bool revoked, struct buf *body, bool *ret_changed, struct err *e)
{
    struct admin_principal p;
    TRY(principal_parse(r, &p, e));
    *ret_changed = p.p.state == PRINCIPAL_ACTIVE && (revoked || p.p.recovery);
    if (!*ret_changed)
        return ok();
    p.p.state = PRINCIPAL_DISABLED;
    principal_body(&p, body);
    r->state = PRINCIPAL_DISABLED;
    r->body = buf_bytes(body);
    return ok();
}

RESULT admin_principal_end(struct store *s, struct bytes name, struct store_txn *txn, struct err *e)
{
    CLEANUP(arena_release) struct arena ar;
    struct record r;
    struct admin_principal p;
    struct err why = {0};
    arena_init(&ar, 65536);
    if (store_get(s, REC_PRINCIPAL, no_tenant, name, &ar, &r, &why).failed) {
        if (why.code == ERR_NOT_FOUND)
            return ok();
        *e = why;
        return (struct result){1};
    }
    TRY(principal_parse(&r, &p, e));
    if (p.p.state == PRINCIPAL_DISABLED)
        return ok();
    p.p.state = PRINCIPAL_DISABLED;
    put_principal(txn, &p, r.revision);
    return ok();
}

static void remove_principal(const struct admin_principal *p, struct store_txn *txn)
{
    uint8_t id[32];
    const struct bytes san = bytes_str(p->p.san);
    sha256(&san, 1, id);
    store_txn_delete(txn, REC_PRINCIPAL, no_tenant, bytes_str(p->p.name), p->p.revision);
    store_txn_delete(txn, REC_SAN, no_tenant, BYTES(id, sizeof id), STORE_ANY);
}

RESULT admin_principals_remove(struct store *s, struct bytes tenant, struct store_txn *txn, uint64_t *ret_n, struct err *e)
{
    char after[AUTHN_PRINCIPAL_MAX + 1] = "";
    size_t got = LOAD_PAGE;
    INVARIANT(tenant.n > 0);
    *ret_n = 0;
    while (got == LOAD_PAGE && *ret_n < ADMIN_REMOVE) {
        CLEANUP(arena_release) struct arena ar;
        const struct store_scan q = {.kind = REC_PRINCIPAL, .after = bytes_str(after), .limit = LOAD_PAGE};
        struct admin_principal p;
        struct record *rows;
        arena_init(&ar, 4 << 20);
        TRY(store_scan(s, &q, &ar, &rows, &got, e));
        for (size_t i = 0; i < got; i++) {
            TRY(principal_parse(&rows[i], &p, e));
            memcpy(after, p.p.name, sizeof after);
            if (!bytes_equal(tenant, bytes_str(p.p.tenant)) || *ret_n == ADMIN_REMOVE)
                continue;
            remove_principal(&p, txn);
            ++*ret_n;
        }
    }
    return ok();
}

/* One that does not open, in a store that was accepted as it stood, is nobody: who it was is refused, and all others are not. */
static bool take_principal(const struct admin *a, const struct record *r, struct principal *ret)
{
    struct admin_principal p;
    struct err why = {.code = ERR_DATA_LOSS, .reason = "RECORD_TAMPERED"};
    if (r->body.p == NULL || principal_parse(r, &p, &why).failed) {
        log_event(LOG_ERROR, "a principal's row does not open: it is refused", LF_TXT("principal", r->id), LF_ERR(&why));
        return false;
    }
    end_of_boot(a, &p);
    *ret = p.p;
    return true;
}

static RESULT collect_principals(struct admin *a, struct principal **ret, size_t *ret_n, struct err *e)
{
    struct principal *all = NULL;
    size_t n = 0, got = LOAD_PAGE;
    uint8_t after[STORE_ID_MAX];
    struct store_scan q = {.kind = REC_PRINCIPAL, .limit = LOAD_PAGE, .with_broken = true};
    while (got == LOAD_PAGE) {
        CLEANUP(arena_release) struct arena ar;
        arena_init(&ar, 4 << 20);
        struct record *rows;
        if (store_scan(a->store, &q, &ar, &rows, &got, e).failed) {
            free(all);
            return (struct result){1};
        }
        struct principal *grown = realloc(all, (n + got + 1) * sizeof *all);
        INVARIANT(grown != NULL); /* how many there may be is asked when one is made */
        all = grown;
        for (size_t i = 0; i < got; i++)
            n += take_principal(a, &rows[i], &all[n]);
        if (got > 0)
            memcpy(after, rows[got - 1].id.p, rows[got - 1].id.n);
        q.after = BYTES(after, got > 0 ? rows[got - 1].id.n : 0);
    }
    *ret = all;
    *ret_n = n;
    return ok();
}

static RESULT reload_principals(struct admin *a, struct err *e)
{
    struct principal *all;
    size_t n;
    TRY(collect_principals(a, &all, &n, e));
    struct result done = authn_set_principals(a->authn, all, n, e);
    free(all);
    return done;
}

RESULT admin_principals_reload(struct admin *a, struct err *e)
{
    pthread_mutex_lock(&a->reload);
    struct result done = reload_principals(a, e);
    pthread_mutex_unlock(&a->reload);
    return done;
}

void admin_refresh(struct admin *a)
{
    struct err e = {0};
    bool stale = admin_policy_reload(a, &e).failed || admin_principals_reload(a, &e).failed;
    if (stale)
        log_event(LOG_ERROR, "a committed change cannot be loaded: all work is refused until it is", LF_ERR(&e));
    atomic_store(&a->stale, stale);
}

bool admin_current(const struct admin *a)
{
    return !atomic_load_explicit(&a->stale, memory_order_acquire);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
RESULT admin_open(const struct admin_options *o, struct admin **ret, struct err *e)
{
    struct admin *a = calloc(1, sizeof *a);
    INVARIANT(a != NULL);
    *a = (struct admin){.store = o->store, .authn = o->authn, .clock = o->clock, .trust_domain = o->trust_domain,
                        .principals_max = o->principals_max > 0 ? o->principals_max : ADMIN_PRINCIPALS_MAX};
    memcpy(a->boot_id, o->boot_id, sizeof a->boot_id);
    pthread_mutex_init(&a->lock, NULL);
    pthread_mutex_init(&a->reload, NULL);
    if (admin_policy_reload(a, e).failed || admin_principals_reload(a, e).failed) {
        admin_free(a);
        return (struct result){1};
    }
    *ret = a;
    return ok();
}

void admin_free(struct admin *a)
{
    if (a == NULL)
        return;
    policy_unref(a->policy);
    pthread_mutex_destroy(&a->lock);
    pthread_mutex_destroy(&a->reload);
    free(a);
}
