/* The records of usage: what is known of a version, and the table's rows added to it. */
#include "kms/keyring/usage_rows.h"

#include "base/log.h"
#include "kms/keyring/keyring.h"

#include <stdlib.h>
#include <string.h>

enum { USAGE_FORMAT = 1, MERGE_ARENA_BYTES = 4 << 20, MERGE_TRIES = 8 };
static const uint8_t no_tenant[STORE_TENANT_BYTES];
#define MARK_ID BYTES_LIT("mark")

/* ---- bodies ---- */
void usage_encode(const struct usage *u, struct buf *out)
{
    buf_put_u8(out, USAGE_FORMAT);
    buf_put_u32(out, u->series);
    buf_put_u64(out, u->counted_to);
    buf_put_u64(out, (uint64_t)u->last_ns);
    buf_put_u64(out, (uint64_t)u->since_ns);
    for (int what = EVENT_USE_ENCRYPT; what <= EVENT_USE_UNWRAP; what++)
        buf_put_u64(out, u->items[what]);
    for (int i = 0; i < 2; i++) {
        buf_put_u32(out, u->during[i].primary);
        buf_put_u64(out, u->during[i].opened);
    }
    buf_put_u8(out, u->more);
    buf_put_u8(out, (uint8_t)u->ncallers);
    for (size_t i = 0; i < u->ncallers; i++) {
        buf_put_u64(out, (uint64_t)u->callers[i].last_ns);
        buf_put_v16(out, u->callers[i].name);
    }
}

static RESULT malformed(struct err *e)
{
    FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "a usage record is not ours");
}

RESULT usage_decode(struct bytes body, struct arena *a, struct usage *ret, struct err *e)
{
    struct reader in = reader_of(body);
    struct usage u = {0};
    const uint8_t format = reader_u8(&in);
    u.series = reader_u32(&in);
    u.counted_to = reader_u64(&in);
    u.last_ns = (int64_t)reader_u64(&in);
    u.since_ns = (int64_t)reader_u64(&in);
    for (int what = EVENT_USE_ENCRYPT; what <= EVENT_USE_UNWRAP; what++)
        u.items[what] = reader_u64(&in);
    for (int i = 0; i < 2; i++) {
        u.during[i].primary = reader_u32(&in);
        u.during[i].opened = reader_u64(&in);
    }
    const uint8_t more = reader_u8(&in);
    u.more = more == 1;
    u.ncallers = reader_u8(&in);
    if (in.bad || format != USAGE_FORMAT || more > 1 || u.ncallers > USAGE_CALLERS_MAX)
        return malformed(e);
    u.callers = arena_zalloc(a, (USAGE_CALLERS_MAX + 1) * sizeof *u.callers);
    if (u.callers == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "a usage record does not fit the memory given");
    for (size_t i = 0; i < u.ncallers; i++) {
        u.callers[i].last_ns = (int64_t)reader_u64(&in);
        u.callers[i].name = reader_v16(&in);
        if (u.callers[i].name.n > USAGE_NAME_MAX || (i > 0 && u.callers[i].last_ns > u.callers[i - 1].last_ns))
            return malformed(e);
    }
    if (!reader_done(&in))
        return malformed(e);
    *ret = u;
    return ok();
}

static RESULT no_usage(struct arena *a, struct usage *ret, struct err *e)
{
    *ret = (struct usage){.callers = arena_zalloc(a, (USAGE_CALLERS_MAX + 1) * sizeof *ret->callers)};
    if (ret->callers == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "a usage record does not fit the memory given");
    return ok();
}

RESULT usage_read(struct store *s, const uint8_t tenant[16], const uint8_t kvid[16], struct arena *a, struct usage *ret, struct err *e)
{
    struct record r;
    struct err why = {0};
    if (!store_get(s, REC_USAGE, tenant, BYTES(kvid, EVENT_KVID_BYTES), a, &r, &why).failed)
        return usage_decode(r.body, a, ret, e);
    if (why.code != ERR_NOT_FOUND) {
        *e = why;
        return (struct result){1};
    }
    return no_usage(a, ret, e);
}

/* ---- the mark ---- */
RESULT usage_mark_read(struct store *s, struct usage_mark *ret, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct record r;
    struct err why = {0};
    arena_init(&a, 1 << 16);
    *ret = (struct usage_mark){0};
    if (store_get(s, REC_USAGE, no_tenant, MARK_ID, &a, &r, &why).failed) {
        if (why.code == ERR_NOT_FOUND)
            return ok();
        *e = why;
        return (struct result){1};
    }
    struct reader in = reader_of(r.body);
    const uint8_t format = reader_u8(&in);
    ret->series = reader_u32(&in);
    ret->counted_to = reader_u64(&in);
    ret->under_way = reader_u64(&in);
    ret->began_ns = (int64_t)reader_u64(&in);
    if (!reader_done(&in) || format != USAGE_FORMAT)
        return malformed(e);
    return ok();
}

static void mark_into(struct store_txn *txn, const struct usage_mark *m)
{
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, 64);
    buf_put_u8(&body, USAGE_FORMAT);
    buf_put_u32(&body, m->series);
    buf_put_u64(&body, m->counted_to);
    buf_put_u64(&body, m->under_way);
    buf_put_u64(&body, (uint64_t)m->began_ns);
    const struct record r = {.kind = REC_USAGE, .id = MARK_ID, .body = buf_bytes(&body)};
    store_txn_put(txn, &r, STORE_ANY);
}

RESULT usage_mark_put(struct store *s, const struct usage_mark *m, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(s);
    uint64_t seq;
    mark_into(txn, m);
    return store_txn_commit(txn, &seq, e);
}

/* ---- rows into a record ---- */
static void caller_seen(struct usage *u, struct bytes name, int64_t at_ns)
{
    size_t i = 0;
    while (i < u->ncallers && !bytes_equal(u->callers[i].name, name))
        i++;
    if (i < u->ncallers && u->callers[i].last_ns >= at_ns)
        return;
    if (i == u->ncallers)
        u->ncallers++;
    for (; i > 0 && u->callers[i - 1].last_ns < at_ns; i--)
        u->callers[i] = u->callers[i - 1];
    u->callers[i] = (struct usage_caller){name, at_ns};
    if (u->ncallers > USAGE_CALLERS_MAX) { /* there is room for one too many */
        u->ncallers = USAGE_CALLERS_MAX;
        u->more = true;
    }
}

/* A straggler of the primary before is not taken for a new one. */
static void opened_during(struct usage *u, uint32_t primary, uint64_t opened)
{
    if (primary == 0 || opened == 0)
        return;
    for (int i = 0; i < 2; i++)
        if (u->during[i].primary == primary) {
            u->during[i].opened += opened;
            return;
        }
    u->during[1] = u->during[0];
    u->during[0].primary = primary;
    u->during[0].opened = opened;
}

static void add_row(const struct usage_table *t, const struct usage_row *r, struct usage *u)
{
    for (int what = EVENT_USE_ENCRYPT; what <= EVENT_USE_UNWRAP; what++)
        u->items[what] += r->items[what];
    if (r->last_ns > u->last_ns)
        u->last_ns = r->last_ns;
    opened_during(u, r->primary, r->items[EVENT_USE_DECRYPT] + r->items[EVENT_USE_UNWRAP]);
    caller_seen(u, usage_row_name(t, r), r->last_ns);
}

/* Rows of one version stand together, in the order in which they came. */
struct sorted {
    const struct usage_row *row;
    size_t at;
};
static int compare_version(const struct usage_row *a, const struct usage_row *b)
{
    const int order = memcmp(a->tenant, b->tenant, sizeof a->tenant);
    return order != 0 ? order : memcmp(a->kvid, b->kvid, sizeof a->kvid);
}
static int by_version(const void *x, const void *y)
{
    const struct sorted *a = x, *b = y;
    const int order = compare_version(a->row, b->row);
    return order != 0 ? order : (a->at > b->at) - (a->at < b->at);
}
static void free_ptr(void *p)
{
    free(*(void **)p);
}

/* A record that does not open, or is not ours, must not stop the counting of all others: this version's begins anew, and says so. */
static RESULT read_or_begin(struct store *s, const struct sorted *all, size_t n, struct arena *a, struct usage *ret, struct err *e)
{
    const struct usage_row *first = all[0].row;
    struct err why = {0};
    if (!usage_read(s, first->tenant, first->kvid, a, ret, &why).failed)
        return ok();
    if (why.code != ERR_DATA_LOSS) {
        *e = why;
        return (struct result){1};
    }
    log_event(LOG_ERROR, "a usage record is damaged: it begins anew", LF_HEX("kvid", BYTES(first->kvid, sizeof first->kvid)), LF_ERR(&why));
    TRY(no_usage(a, ret, e));
    for (size_t i = 0; i < n; i++)
        ret->since_ns = all[i].row->last_ns > ret->since_ns ? all[i].row->last_ns : ret->since_ns;
    return ok();
}

/* One version: rows [0, n) of `all`. */
static RESULT merge_version(struct store *s, const struct usage_table *t, const struct sorted *all, size_t n, const struct usage_mark *m,
                            struct store_txn *txn, struct arena *a, struct err *e)
{
    struct usage u;
    const struct usage_row *first = all[0].row;
    TRY(read_or_begin(s, all, n, a, &u, e));
    if (u.series == m->series && u.counted_to >= m->under_way)
        return ok(); /* an earlier try got as far as this one */
    for (size_t i = 0; i < n; i++)
        add_row(t, all[i].row, &u);
    u.series = m->series;
    u.counted_to = m->under_way;
    CLEANUP(buf_release) struct buf body;
    buf_init(&body, STORE_BODY_MAX);
    usage_encode(&u, &body);
    INVARIANT(!body.overflow);
    struct record r = {.kind = REC_USAGE, .id = BYTES(first->kvid, sizeof first->kvid), .body = buf_bytes(&body)};
    memcpy(r.tenant, first->tenant, sizeof r.tenant);
    store_txn_put(txn, &r, STORE_ANY);
    return ok();
}

/* Of a tenant that is being purged, or is gone, nothing is kept any more: its rows would outlive it. The transaction holds only while the
 * tenant is what it was when this was asked. One whose own row is damaged cannot be purged either. */
static RESULT kept(struct store *s, const uint8_t id[16], struct store_txn *txn, struct arena *a, bool *ret, struct err *e)
{
    struct record by_id, t = {0};
    struct err why = {0};
    if (!store_get(s, REC_TENANT_ID, no_tenant, BYTES(id, 16), a, &by_id, &why).failed)
        (void)store_get(s, REC_TENANT, no_tenant, by_id.body, a, &t, &why).failed;
    if (why.code != ERR_NONE && why.code != ERR_NOT_FOUND && why.code != ERR_DATA_LOSS) {
        *e = why;
        return (struct result){1};
    }
    *ret = why.code == ERR_DATA_LOSS || (why.code == ERR_NONE && t.state != TENANT_PURGING);
    if (*ret && why.code == ERR_NONE)
        store_txn_check(txn, REC_TENANT, no_tenant, by_id.body, t.revision);
    return ok();
}

struct merge {
    const struct usage_table *t;
    const struct sorted *all;
    size_t n, next;
};

/* The next USAGE_BATCH versions and the mark, in one transaction. */
static RESULT merge_batch(struct store *s, struct merge *g, struct usage_mark *m, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(s);
    CLEANUP(arena_release) struct arena a;
    struct usage_mark after = *m;
    const uint8_t *tenant = NULL;
    size_t at = g->next;
    bool keeps = false;
    uint64_t seq;
    arena_init(&a, MERGE_ARENA_BYTES);
    for (int versions = 0; at < g->n && versions < USAGE_BATCH; versions++) {
        size_t end = at + 1;
        while (end < g->n && compare_version(g->all[at].row, g->all[end].row) == 0)
            end++;
        if (tenant == NULL || memcmp(tenant, g->all[at].row->tenant, STORE_TENANT_BYTES) != 0) {
            tenant = g->all[at].row->tenant;
            TRY(kept(s, tenant, txn, &a, &keeps, e));
        }
        if (keeps)
            TRY(merge_version(s, g->t, g->all + at, end - at, m, txn, &a, e));
        at = end;
    }
    if (at == g->n)
        after.counted_to = m->under_way;
    mark_into(txn, &after);
    TRY(store_txn_commit(txn, &seq, e));
    *m = after;
    g->next = at;
    return ok();
}

/* A tenant has changed in between: asked again. */
static RESULT merge_calmly(struct store *s, struct merge *g, struct usage_mark *m, struct err *e)
{
    for (unsigned tries = 1;; tries++) {
        struct err why = {0};
        if (!merge_batch(s, g, m, &why).failed)
            return ok();
        if ((why.code == ERR_CONFLICT || why.code == ERR_NOT_FOUND) && tries < MERGE_TRIES)
            continue;
        *e = why;
        return (struct result){1};
    }
}

RESULT usage_merge(struct store *s, struct usage_table *t, struct usage_mark *m, uint64_t upto, void (*between)(void *user), void *user,
                   struct err *e)
{
    CLEANUP(free_ptr) struct sorted *all = calloc(t->nrows + 1, sizeof *all);
    struct merge g = {.t = t, .all = all, .n = t->nrows};
    struct usage_mark mark = *m;
    INVARIANT(all != NULL && upto >= m->counted_to);
    for (size_t i = 0; i < t->nrows; i++)
        all[i] = (struct sorted){usage_row(t, i), i};
    qsort(all, t->nrows, sizeof *all, by_version);
    mark.under_way = upto;
    do {
        TRY(merge_calmly(s, &g, &mark, e));
        *m = mark;
        if (g.next < g.n && between != NULL)
            between(user);
    } while (g.next < g.n);
    return ok();
}
