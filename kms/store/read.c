#include "kms/store/internal.h"

#include <stdio.h>
#include <string.h>

struct db *conn_take(struct store *s)
{
    pthread_mutex_lock(&s->mu);
    while (!s->free_readers)
        pthread_cond_wait(&s->reader_free, &s->mu);
    struct db *d = s->free_readers;
    s->free_readers = d->next_free;
    pthread_mutex_unlock(&s->mu);
    return d;
}

void conn_return(struct store *s, struct db *d)
{
    pthread_mutex_lock(&s->mu);
    d->next_free = s->free_readers;
    s->free_readers = d;
    pthread_cond_signal(&s->reader_free);
    pthread_mutex_unlock(&s->mu);
}

static void *keep(struct arena *a, struct bytes b)
{
    return arena_dup(a, b.n ? b.p : (const uint8_t *)"", b.n ? b.n : 1);
}

/* What the file says of the row under st, without its body: nobody has vouched for it. */
static RESULT read_columns(sqlite3_stmt *st, struct arena *a, struct record *ret, uint32_t *ret_epoch, struct err *e)
{
    struct bytes tenant = db_column_bytes(st, 1), id = db_column_bytes(st, 2), name = db_column_bytes(st, 4);
    int64_t kind = sqlite3_column_int64(st, 0), state = sqlite3_column_int64(st, 5), epoch = sqlite3_column_int64(st, 8);
    struct record r = {.kind = (enum rec_kind)kind,
                       .revision = (uint64_t)sqlite3_column_int64(st, 3),
                       .state = (uint32_t)state,
                       .time_unix_ns = sqlite3_column_int64(st, 6),
                       .count = (uint64_t)sqlite3_column_int64(st, 7)};
    if (tenant.n != STORE_TENANT_BYTES || id.n > STORE_ID_MAX || name.n > STORE_NAME_MAX || state < 0 || state > UINT32_MAX ||
        kind < 0 || kind > UINT16_MAX /* the AAD has 16 bits of it */ || epoch < 0 || epoch > UINT32_MAX)
        FAIL(e, ERR_DATA_LOSS, "RECORD_TAMPERED", "kind %d: a column no program of ours writes", (int)r.kind);
    memcpy(r.tenant, tenant.p, sizeof r.tenant);
    r.id = BYTES(keep(a, id), id.n);
    r.name = BYTES(keep(a, name), name.n);
    if (!r.id.p || !r.name.p)
        FAIL(e, ERR_EXHAUSTED, NULL, "no room for a row");
    *ret = r;
    *ret_epoch = (uint32_t)epoch;
    return ok();
}

/* The row under st, opened. Nothing is believed before seal_open_record: all that comes before copies columns into the AAD. */
RESULT read_row(struct store *s, sqlite3_stmt *st, struct arena *a, struct record *ret, struct err *e)
{
    struct record r;
    uint32_t epoch;
    TRY(read_columns(st, a, &r, &epoch, e));
    TRY(seal_open_record(&s->seal, epoch, &r, db_column_bytes(st, 9), a, e));
    *ret = r;
    return ok();
}

/* The same for those who asked for it: the log must name a row that was tampered with. */
static RESULT open_row(struct store *s, sqlite3_stmt *st, struct arena *a, struct record *ret, struct err *e)
{
    char id[128];
    struct err why = {0};
    if (!read_row(s, st, a, ret, &why).failed)
        return ok();
    *e = why;
    if (why.code == ERR_DATA_LOSS) {
        store_id_text(db_column_bytes(st, 2), id, sizeof id);
        snprintf(e->detail, sizeof e->detail, "%s \"%s\": %.100s", store_kind_name((enum rec_kind)sqlite3_column_int(st, 0)), id, why.detail);
    }
    return (struct result){1};
}

static RESULT get_with(struct store *s, struct db *d, const struct record *key, struct arena *a, struct record *ret,
                       struct err *e)
{
    uint8_t tag[ENTRY_TAG_BYTES];
    struct record r = {0};
    sqlite3_bind_int(d->get, 1, (int)key->kind);
    db_bind_bytes(d->get, 2, BYTES(key->tenant, STORE_TENANT_BYTES));
    db_bind_bytes(d->get, 3, key->id);
    int rc = sqlite3_step(d->get);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return db_fail(d, rc, "get", e);
    bool present = rc == SQLITE_ROW;
    if (present) {
        TRY(open_row(s, d->get, a, &r, e));
        tag_of(db_column_bytes(d->get, 9), tag);
    }
    if (fresh_covers(key->kind) && !s->check_only)
        TRY(fresh_prove_row(s, d, key, present, r.revision, tag, e));
    if (!present)
        FAIL(e, ERR_NOT_FOUND, NULL, "kind %d: no such row", (int)key->kind);
    *ret = r;
    return ok();
}

static RESULT get_once(struct store *s, struct db *d, const struct record *key, struct arena *a, struct record *ret,
                       struct err *e)
{
    struct result r = get_with(s, d, key, a, ret, e);
    sqlite3_reset(d->get); /* ends the read transaction: an open one would hold the log back */
    return r;
}

/* Stale may only mean that a commit came between the reading and the proof. Without one under way it is final. */
static bool is_stale(struct result r, const struct err *e)
{
    return r.failed && e->code == ERR_DATA_LOSS && e->reason && strcmp(e->reason, "STORE_STALE") == 0;
}

RESULT store_get(struct store *s, enum rec_kind kind, const uint8_t tenant[16], struct bytes id, struct arena *a,
                 struct record *ret, struct err *e)
{
    struct record key = {.kind = kind, .id = id};
    struct err first = {0};
    memcpy(key.tenant, tenant, sizeof key.tenant);
    struct db *d = conn_take(s);
    struct result r = get_once(s, d, &key, a, ret, &first);
    if (is_stale(r, &first)) {
        pthread_mutex_lock(&s->fresh.commit);
        r = get_once(s, d, &key, a, ret, &first);
        pthread_mutex_unlock(&s->fresh.commit);
    }
    conn_return(s, d);
    if (r.failed)
        *e = first;
    return r;
}

/* Bounds as [low, high): the successor of a byte string is itself with a zero byte behind it. */
enum { BOUND_MAX = STORE_ID_MAX + 1 };
struct range {
    uint8_t low[BOUND_MAX], high[BOUND_MAX];
    size_t low_n, high_n;
};

static void prefix_range(struct bytes prefix, struct range *r)
{
    memcpy(r->low, prefix.p ? prefix.p : (const uint8_t *)"", prefix.n);
    r->low_n = prefix.n;
    memcpy(r->high, r->low, prefix.n);
    r->high_n = prefix.n;
    while (r->high_n && r->high[r->high_n - 1] == 0xff)
        r->high_n--;
    if (r->high_n) {
        r->high[r->high_n - 1]++;
        return;
    }
    memset(r->high, 0xff, BOUND_MAX); /* above every id */
    r->high_n = BOUND_MAX;
}

static void scan_range(const struct store_scan *q, struct range *r)
{
    prefix_range(q->prefix, r);
    if (q->after.n == 0)
        return;
    if (q->descending && bytes_compare(q->after, BYTES(r->high, r->high_n)) < 0) {
        memcpy(r->high, q->after.p, q->after.n);
        r->high_n = q->after.n;
    }
    if (!q->descending && bytes_compare(q->after, BYTES(r->low, r->low_n)) >= 0) {
        memcpy(r->low, q->after.p, q->after.n);
        r->low[q->after.n] = 0;
        r->low_n = q->after.n + 1;
    }
}

static sqlite3_stmt *bind_scan(struct db *d, const struct store_scan *q, const struct range *range)
{
    sqlite3_stmt *st = q->all_tenants ? d->scan_all : q->descending ? d->scan_down : d->scan_up;
    sqlite3_bind_int(st, 1, (int)q->kind);
    sqlite3_bind_int64(st, 5, q->limit > INT64_MAX ? INT64_MAX : (sqlite3_int64)q->limit);
    if (q->all_tenants) {
        db_bind_bytes(st, 2, BYTES(q->after_tenant, STORE_TENANT_BYTES));
        db_bind_bytes(st, 3, q->after);
        sqlite3_bind_int64(st, 4, (sqlite3_int64)q->prefix.n);
        db_bind_bytes(st, 6, q->prefix);
        return st;
    }
    db_bind_bytes(st, 2, BYTES(q->tenant, STORE_TENANT_BYTES));
    db_bind_bytes(st, 3, BYTES(range->low, range->low_n));
    db_bind_bytes(st, 4, BYTES(range->high, range->high_n));
    return st;
}

/* One that does not open is still an error where its columns cannot even be written down. */
static RESULT scan_row(struct store *s, sqlite3_stmt *st, bool with_broken, struct arena *a, struct record *ret, struct err *e)
{
    struct err why = {0}, worse = {0};
    uint32_t epoch;
    if (!open_row(s, st, a, ret, &why).failed ||
        (with_broken && why.code == ERR_DATA_LOSS && !read_columns(st, a, ret, &epoch, &worse).failed))
        return ok();
    *e = why;
    return (struct result){1};
}

static RESULT collect(struct store *s, struct db *d, sqlite3_stmt *st, bool with_broken, struct arena *a, struct buf *rows, struct err *e)
{
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct record r;
        TRY(scan_row(s, st, with_broken, a, &r, e));
        buf_put(rows, &r, sizeof r);
    }
    if (rc != SQLITE_DONE)
        return db_fail(d, rc, "scan", e);
    if (rows->overflow)
        FAIL(e, ERR_EXHAUSTED, NULL, "too many rows");
    return ok();
}

/* What of the order was covered: to the bound of the query, or to the last row that fitted the limit. */
static RESULT prove_scan(struct store *s, struct db *d, const struct store_scan *q, const struct range *range,
                         const struct record *rows, size_t n, struct err *e)
{
    uint8_t successor[BOUND_MAX];
    struct fresh_bound low = {.id = BYTES(range->low, range->low_n)}, high = {.id = BYTES(range->high, range->high_n)};
    bool full = n == q->limit;
    memcpy(low.tenant, q->all_tenants ? q->after_tenant : q->tenant, sizeof low.tenant);
    memcpy(high.tenant, q->tenant, sizeof high.tenant);
    high.none = q->all_tenants;
    if (q->all_tenants) {
        memcpy(successor, q->after.p ? q->after.p : (const uint8_t *)"", q->after.n);
        successor[q->after.n] = 0;
        low.id = BYTES(successor, q->after.n + 1);
    }
    if (n == 0 && full)
        return ok(); /* nothing was asked for */
    struct fresh_bound *end = q->descending ? &low : &high;
    if (full) {
        memcpy(end->tenant, rows[n - 1].tenant, sizeof end->tenant);
        end->id = rows[n - 1].id;
        end->none = false;
    }
    if (!high.none && bytes_compare(low.id, high.id) > 0 && memcmp(low.tenant, high.tenant, sizeof low.tenant) == 0)
        return ok(); /* an empty range */
    return fresh_prove_range(s, d, q->kind, &low, &high, full && !q->descending, e);
}

static RESULT scan_with(struct store *s, struct db *d, const struct store_scan *q, const struct range *range, struct arena *a,
                        struct buf *rows, struct err *e)
{
    sqlite3_stmt *st = bind_scan(d, q, range);
    struct result r = collect(s, d, st, q->with_broken, a, rows, e);
    sqlite3_reset(st);
    TRY(r);
    if (!fresh_covers(q->kind) || s->check_only)
        return ok();
    return prove_scan(s, d, q, range, (const struct record *)(const void *)rows->p, rows->n / sizeof(struct record), e);
}

static RESULT scan_once(struct store *s, struct db *d, const struct store_scan *q, const struct range *range, struct arena *a,
                        struct buf *rows, struct err *e)
{
    buf_reset(rows);
    TRY(db_run(d, d->begin, e)); /* rows and proof are of one moment */
    struct result r = scan_with(s, d, q, range, a, rows, e);
    struct err late = {0};
    if (db_run(d, d->commit, &late).failed)
        sqlite3_exec(d->h, "ROLLBACK", NULL, NULL, NULL);
    return r;
}

RESULT store_scan(struct store *s, const struct store_scan *q, struct arena *a, struct record **ret, size_t *ret_n,
                  struct err *e)
{
    CLEANUP(buf_release) struct buf rows;
    struct range range;
    struct err why = {0};
    buf_init(&rows, SIZE_MAX / 4);
    if (q->prefix.n > STORE_ID_MAX || q->after.n > STORE_ID_MAX || (q->all_tenants && q->descending))
        FAIL(e, ERR_INVALID, "STORE_LIMIT", "scan: prefix %zu, after %zu bytes", q->prefix.n, q->after.n);
    scan_range(q, &range);
    struct db *d = conn_take(s);
    struct result r = scan_once(s, d, q, &range, a, &rows, &why);
    if (is_stale(r, &why)) {
        pthread_mutex_lock(&s->fresh.commit);
        r = scan_once(s, d, q, &range, a, &rows, &why);
        pthread_mutex_unlock(&s->fresh.commit);
    }
    conn_return(s, d);
    if (r.failed)
        *e = why;
    TRY(r);
    struct record *out = keep(a, buf_bytes(&rows));
    if (!out)
        FAIL(e, ERR_EXHAUSTED, NULL, "no room for the rows");
    *ret = out;
    *ret_n = rows.n / sizeof **ret;
    return ok();
}

RESULT store_count(struct store *s, enum rec_kind kind, const uint8_t tenant[16], struct bytes prefix, uint64_t *ret,
                   struct err *e)
{
    struct range range;
    if (prefix.n > STORE_ID_MAX)
        FAIL(e, ERR_INVALID, "STORE_LIMIT", "count: prefix of %zu bytes", prefix.n);
    prefix_range(prefix, &range);
    struct db *d = conn_take(s);
    sqlite3_bind_int(d->count, 1, (int)kind);
    db_bind_bytes(d->count, 2, BYTES(tenant, STORE_TENANT_BYTES));
    db_bind_bytes(d->count, 3, BYTES(range.low, range.low_n));
    db_bind_bytes(d->count, 4, BYTES(range.high, range.high_n));
    int rc = sqlite3_step(d->count);
    struct result r = ok();
    if (rc == SQLITE_ROW)
        *ret = (uint64_t)sqlite3_column_int64(d->count, 0);
    else
        r = db_fail(d, rc, "count", e);
    sqlite3_reset(d->count);
    conn_return(s, d);
    return r;
}

RESULT read_event(struct store *s, sqlite3_stmt *st, struct arena *a, struct outbox_event *ret, struct err *e)
{
    struct outbox_event ev = {.seq = (uint64_t)sqlite3_column_int64(st, 0)};
    struct bytes tenant = db_column_bytes(st, 1);
    int64_t epoch = sqlite3_column_int64(st, 2);
    if (tenant.n != STORE_TENANT_BYTES || epoch < 0 || epoch > UINT32_MAX)
        FAIL(e, ERR_DATA_LOSS, "RECORD_TAMPERED", "outbox %llu: a column no program of ours writes", (unsigned long long)ev.seq);
    memcpy(ev.tenant, tenant.p, sizeof ev.tenant);
    TRY(seal_open_outbox(&s->seal, (uint32_t)epoch, &ev, db_column_bytes(st, 3), a, e));
    *ret = ev;
    return ok();
}

static RESULT collect_events(struct store *s, struct db *d, struct arena *a, struct buf *rows, struct err *e)
{
    int rc;
    uint64_t last = 0;
    while ((rc = sqlite3_step(d->outbox_read)) == SQLITE_ROW) {
        struct outbox_event ev;
        TRY(read_event(s, d->outbox_read, a, &ev, e));
        /* Sequences have no holes, so a missing row was taken out by somebody else. */
        if (last && ev.seq != last + 1)
            FAIL(e, ERR_DATA_LOSS, "OUTBOX_GAP", "outbox goes from %llu to %llu", (unsigned long long)last,
                 (unsigned long long)ev.seq);
        last = ev.seq;
        buf_put(rows, &ev, sizeof ev);
    }
    if (rc != SQLITE_DONE)
        return db_fail(d, rc, "read outbox", e);
    return ok();
}

RESULT store_outbox_read(struct store *s, uint64_t after, size_t limit, struct arena *a, struct outbox_event **ret,
                         size_t *ret_n, struct err *e)
{
    CLEANUP(buf_release) struct buf rows;
    buf_init(&rows, SIZE_MAX / 4);
    struct db *d = conn_take(s);
    sqlite3_bind_int64(d->outbox_read, 1, after > INT64_MAX ? INT64_MAX : (sqlite3_int64)after);
    sqlite3_bind_int64(d->outbox_read, 2, limit > INT64_MAX ? INT64_MAX : (sqlite3_int64)limit);
    struct result r = collect_events(s, d, a, &rows, e);
    sqlite3_reset(d->outbox_read);
    conn_return(s, d);
    TRY(r);
    struct outbox_event *out = keep(a, buf_bytes(&rows));
    if (!out)
        FAIL(e, ERR_EXHAUSTED, NULL, "no room for the events");
    *ret = out;
    *ret_n = rows.n / sizeof **ret;
    return ok();
}
