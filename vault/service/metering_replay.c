#include "vault/service/metering_replay.h"

#include "base/log.h"

enum { LEAF_TIME_AT = 1 + 16, LEAF_TAG_AT = LEAF_TIME_AT + 8, NONCE_BYTES = 32, READ_ARENA_BYTES = 32 << 20 };

struct reading {
    struct replay *r;
    struct tenant_ref *held; /* whose the last record was: the next is often theirs, too */
    const struct audit_tenant *system;
    bool full;
};

static void release(struct reading *g)
{
    tenant_ref_drop(g->held);
}

/* *ret NULL: not a tenant's, or of one that is gone: nothing to count. */
static RESULT owner(struct reading *g, const uint8_t *tag, const struct audit_tenant **ret, struct err *e)
{
    struct err why = {0};
    *ret = NULL;
    if (bytes_ct_equal(tag, g->system->tag, sizeof g->system->tag))
        return ok();
    if (g->held == NULL || !bytes_ct_equal(tag, tenant_ref_audit(g->held)->tag, sizeof g->system->tag)) {
        tenant_ref_drop(g->held);
        g->held = NULL;
        if (keyring_tenant_hold_by_tag(g->r->keyring, tag, &g->held, &why).failed) {
            if (why.code == ERR_NOT_FOUND)
                return ok();
            *e = why;
            return (struct result){1};
        }
    }
    *ret = tenant_ref_audit(g->held);
    return ok();
}

static RESULT open_event(const struct journal_record *rec, const struct audit_tenant *t, struct arena *a, struct audit_event *ret, struct err *e)
{
    if (rec->sealed_body.n < AEAD_OVERHEAD + NONCE_BYTES)
        FAIL(e, ERR_DATA_LOSS, "JOURNAL_DAMAGED", "too short");
    const size_t n = rec->sealed_body.n - AEAD_OVERHEAD;
    uint8_t *plain = arena_alloc(a, n);
    INVARIANT(plain != NULL);
    TRY(aead_open(t->key, 0, BYTES(rec->leaf, sizeof rec->leaf), rec->sealed_body, plain, e));
    return event_decode(BYTES(plain + NONCE_BYTES, n - NONCE_BYTES), ret, e);
}

static void count_event(struct reading *g, const struct audit_tenant *t, const struct audit_event *ev)
{
    struct bytes uses = ev->uses;
    struct event_use use;
    size_t n = 0;
    while (event_next_use(&uses, &use))
        n++;
    g->full = !usage_table_room(g->r->into, n);
    for (uses = ev->uses; !g->full && event_next_use(&uses, &use);)
        usage_table_add(g->r->into, &(struct usage_use){.tenant = t->id, .principal = ev->principal, .at_ns = ev->time_unix_ns, .use = &use});
}

static RESULT count_record(struct reading *g, const struct journal_record *rec, struct arena *a, struct err *e)
{
    const int64_t at_ns = (int64_t)get_be64(rec->leaf + LEAF_TIME_AT);
    const struct audit_tenant *t;
    struct audit_event ev;
    struct err why = {0};
    TRY(owner(g, rec->leaf + LEAF_TAG_AT, &t, e));
    if (t == NULL)
        return ok();
    if (!open_event(rec, t, a, &ev, &why).failed) {
        if (bytes_equal(ev.outcome, BYTES_LIT("ok")) && ev.principal.n <= USAGE_NAME_MAX)
            count_event(g, t, &ev);
        return ok();
    }
    log_event(LOG_ERROR, "a journal record cannot be counted: usage is known only from there on", LF_INT("index", rec->index), LF_ERR(&why));
    if (at_ns > g->r->began_ns)
        g->r->began_ns = at_ns;
    return ok();
}

static RESULT count_page(struct reading *g, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct replay *r = g->r;
    struct journal_record *recs;
    size_t n;
    const uint64_t left = r->to - r->next;
    arena_init(&a, READ_ARENA_BYTES);
    TRY(journal_read(r->journal, r->next, left < METERING_READ ? (size_t)left : METERING_READ, &a, &recs, &n, e));
    if (n == 0)
        FAIL(e, ERR_UNAVAILABLE, "AUDIT_UNAVAILABLE", "the journal ends before record %llu", (unsigned long long)r->to);
    for (size_t i = 0; i < n; i++) {
        TRY(count_record(g, &recs[i], &a, e));
        if (g->full)
            return ok();
        r->next = recs[i].index + 1;
    }
    return ok();
}

RESULT metering_replay(struct replay *r, struct err *e)
{
    CLEANUP(release) struct reading g = {.r = r, .system = keyring_system_audit(r->keyring)};
    while (r->next < r->to && !g.full) {
        TRY(count_page(&g, e));
        TRY(r->between(r->user, e));
    }
    return ok();
}
