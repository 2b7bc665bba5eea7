/* claviger.tenants.v1: everything that is held about a tenant but its key material, as JSON objects in sections (docs/API.md). Each message
 * is of what the store holds at that moment, and each asks again whether the caller may. */
#include "vault/service/export.h"
#include "vault/service/pipeline.h"
#include "vault/service/rows.h"
#include "vault/service/tenant_view.h"

#include <stdlib.h>
#include <string.h>

typedef Claviger__Tenants__V1__ExportTenantRequest ExportRequest;
typedef Claviger__Tenants__V1__ExportTenantResponse ExportResponse;

enum { PAGE_ROWS = 64, PAGE_BYTES = 65536, ITEM_MAX = 65536, PRINCIPALS_CHUNK = 200, PRINCIPALS_CHUNKS = 50, LEAVES_CHUNK = 512, LEAVES_A_STEP = 32768,
       LEAF_TIME_AT = 1 + 16, LEAF_TAG_AT = LEAF_TIME_AT + 8 };

struct export {
    bool started, said; /* said: this section has had a message */
    struct tenant t;
    uint8_t tag[32];
    unsigned section;
    uint8_t after[STORE_ID_MAX]; /* within the section */
    size_t after_n;
    size_t cursor; /* of bindings */
    uint64_t index, end, events, first_index, last_index;
    int64_t first_ns, last_ns;
};
struct page {
    struct call *c;
    struct export *x;
    ExportResponse *r;
    size_t bytes;
    bool done; /* of this section there is no more */
};

/* False: the page is full; ask again for the same. */
static RESULT add(struct page *p, struct buf *item, struct err *e)
{
    if (item->overflow || p->r->n_items == PAGE_ROWS)
        FAIL(e, ERR_OUT_OF_RANGE, "STORE_LIMIT", "a record does not fit the export");
    char *text = arena_dup(&p->c->arena, buf_cstr(item), item->n + 1);
    INVARIANT(text != NULL);
    p->r->items[p->r->n_items++] = (ProtobufCBinaryData){item->n, (uint8_t *)text};
    p->bytes += item->n;
    return ok();
}

static bool full(const struct page *p)
{
    return p->bytes >= PAGE_BYTES || p->r->n_items == PAGE_ROWS;
}

static void remember(struct export *x, struct bytes id)
{
    memcpy(x->after, id.p, id.n);
    x->after_n = id.n;
}

/* ---- rows of the store that bear the tenant's id ---- */
typedef RESULT render_fn(const struct record *r, struct arena *a, struct buf *out, struct err *e);

static RESULT rows_of(struct page *p, enum rec_kind kind, render_fn *render, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct store_scan q = {.kind = kind, .after = BYTES(p->x->after, p->x->after_n), .limit = PAGE_ROWS};
    struct record *rows;
    size_t n, i = 0;
    arena_init(&a, PAGE_ROWS * (STORE_BODY_MAX + 4096));
    memcpy(q.tenant, p->x->t.id, sizeof q.tenant);
    TRY(store_scan(p->c->svc->store, &q, &a, &rows, &n, e));
    for (; i < n && !full(p); i++) {
        CLEANUP(buf_release) struct buf item;
        buf_init(&item, ITEM_MAX);
        TRY(render(&rows[i], &a, &item, e));
        TRY(add(p, &item, e));
        remember(p->x, rows[i].id);
    }
    p->done = i == n && n < PAGE_ROWS;
    return ok();
}

static RESULT key_rings(struct page *p, struct err *e)
{
    return rows_of(p, REC_KEYRING, export_ring, e);
}

static RESULT crypto_keys(struct page *p, struct err *e)
{
    return rows_of(p, REC_CRYPTOKEY, export_key, e);
}

static RESULT versions(struct page *p, struct err *e)
{
    return rows_of(p, REC_VERSION, export_version, e);
}

static RESULT usage_row(const struct record *r, struct arena *a, struct buf *out, struct err *e)
{
    struct usage u;
    TRY(usage_decode(r->body, a, &u, e));
    export_usage(r->id, &u, out);
    return ok();
}

/* What has been counted so far; the figures of the last seconds come later. */
static RESULT usage(struct page *p, struct err *e)
{
    return rows_of(p, REC_USAGE, usage_row, e);
}

static RESULT certificates(struct page *p, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    const struct name location = {.kind = NAME_LOCATION, .tenant = bytes_str(p->x->t.name), .location = bytes_str(p->x->t.location)};
    struct certificate_row *rows;
    size_t n, i = 0;
    arena_init(&a, 8 << 20);
    TRY(certificate_list(p->c->svc, &location, BYTES(p->x->after, p->x->after_n), PAGE_ROWS, &a, &rows, &n, e));
    for (; i < n && !full(p); i++) {
        CLEANUP(buf_release) struct buf item;
        buf_init(&item, ITEM_MAX);
        export_certificate(&rows[i], &item);
        TRY(add(p, &item, e));
        remember(p->x, rows[i].id);
    }
    p->done = i == n && n < PAGE_ROWS;
    return ok();
}

/* ---- what lies elsewhere ---- */
static RESULT tenant(struct page *p, struct err *e)
{
    CLEANUP(buf_release) struct buf item;
    buf_init(&item, ITEM_MAX);
    p->done = true;
    export_tenant(&p->x->t, &item);
    return add(p, &item, e);
}

/* They are kept in one list, whatever their tenant. */
static RESULT principals_chunk(struct page *p, struct err *e)
{
    CLEANUP(arena_release) struct arena a;
    struct admin_principal *rows;
    size_t n, i = 0;
    arena_init(&a, 4 << 20);
    TRY(admin_principal_list(p->c->svc->admin, BYTES(p->x->after, p->x->after_n), PRINCIPALS_CHUNK, &a, &rows, &n, e));
    for (; i < n && !full(p); i++) {
        remember(p->x, bytes_str(rows[i].p.name));
        if (strcmp(rows[i].p.tenant, p->x->t.name) != 0)
            continue;
        CLEANUP(buf_release) struct buf item;
        buf_init(&item, ITEM_MAX);
        export_principal(&rows[i], &item);
        TRY(add(p, &item, e));
    }
    p->done = i == n && n < PRINCIPALS_CHUNK;
    return ok();
}

static RESULT principals(struct page *p, struct err *e)
{
    for (unsigned i = 0; i < PRINCIPALS_CHUNKS && !p->done && !full(p); i++)
        TRY(principals_chunk(p, e));
    return ok();
}

static RESULT bindings(struct page *p, struct err *e)
{
    struct policy_binding b;
    while (!full(p)) {
        CLEANUP(buf_release) struct buf item;
        buf_init(&item, STORE_BODY_MAX);
        if (!policy_binding_next(p->c->policy, bytes_str(p->x->t.name), &p->x->cursor, &b)) {
            p->done = true;
            return ok();
        }
        export_binding(&b, &item);
        TRY(add(p, &item, e));
    }
    return ok();
}

static RESULT budgets(struct page *p, struct err *e)
{
    static const uint8_t no_tenant[STORE_TENANT_BYTES];
    CLEANUP(arena_release) struct arena a;
    CLEANUP(buf_release) struct buf item;
    struct record r;
    struct err why = {0};
    arena_init(&a, 65536);
    buf_init(&item, ITEM_MAX);
    p->done = true;
    if (store_get(p->c->svc->store, REC_BUDGET, no_tenant, BYTES(p->x->t.id, 16), &a, &r, &why).failed) {
        if (why.code == ERR_NOT_FOUND)
            return ok();
        *e = why;
        return (struct result){1};
    }
    TRY(export_budget(&r, &item, e));
    return add(p, &item, e);
}

static void look_at(struct export *x, const struct journal_record *r)
{
    x->index = r->index + 1;
    if (!bytes_ct_equal(r->leaf + LEAF_TAG_AT, x->tag, sizeof x->tag))
        return;
    x->last_index = r->index;
    x->last_ns = (int64_t)get_be64(r->leaf + LEAF_TIME_AT);
    if (x->events++ > 0)
        return;
    x->first_index = x->last_index;
    x->first_ns = x->last_ns;
}

/* How many events of the tenant there are, and where: the log itself is read with Tail. Some of it at a time. */
static RESULT audit(struct page *p, struct err *e)
{
    struct export *x = p->x;
    const uint64_t stop = x->index + LEAVES_A_STEP;
    while (x->index < x->end && x->index < stop) {
        CLEANUP(arena_release) struct arena a;
        struct journal_record *recs;
        size_t n;
        arena_init(&a, 64 << 20);
        TRY(journal_read(p->c->svc->journal, x->index, LEAVES_CHUNK, &a, &recs, &n, e));
        for (size_t i = 0; i < n && recs[i].index < x->end; i++)
            look_at(x, &recs[i]);
        if (n == 0)
            break;
    }
    if (x->index < x->end && x->index >= stop)
        return ok();
    CLEANUP(buf_release) struct buf item;
    buf_init(&item, ITEM_MAX);
    p->done = true;
    export_audit(p->c->svc->instance.origin, x->events, x->first_index, x->last_index, x->first_ns, x->last_ns, &item);
    return add(p, &item, e);
}

static const struct {
    const char *name;
    RESULT (*page)(struct page *p, struct err *e);
} sections[] = {{"tenant", tenant},         {"key_rings", key_rings}, {"crypto_keys", crypto_keys}, {"crypto_key_versions", versions},
                {"principals", principals}, {"bindings", bindings},   {"budgets", budgets},         {"usage", usage},
                {"certificates", certificates}, {"audit", audit}};
enum { SECTIONS = sizeof sections / sizeof sections[0] };

/* ---- the stream ---- */
static struct result export_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const ExportRequest *)req)->name, 1u << NAME_TENANT, "name", e);
}

static struct result export_open(struct call *c, struct err *e)
{
    (void)e;
    c->stream = calloc(1, sizeof(struct export));
    INVARIANT(c->stream != NULL);
    return ok();
}

static void export_close(struct call *c)
{
    free(c->stream);
    c->stream = NULL;
}

static RESULT start(struct call *c, struct export *x, struct err *e)
{
    struct journal_status st;
    TRY(keyring_tenant_read(c->svc->keyring, c->resources[0].name.tenant, &x->t, e));
    memcpy(x->tag, pipeline_audit_tenant(c)->tag, sizeof x->tag);
    journal_status(c->svc->journal, &st);
    x->end = st.next_index;
    x->started = true;
    return ok();
}

static void next_section(struct export *x)
{
    x->section++;
    x->said = false;
    x->after_n = x->cursor = 0;
}

static struct result export_ready(struct call *c, ProtobufCMessage **resp, bool *ret_more, struct err *e)
{
    struct export *x = c->stream;
    if (!x->started)
        TRY(start(c, x, e));
    *ret_more = x->section < SECTIONS;
    if (!*ret_more)
        return ok();
    struct page p = {.c = c, .x = x, .r = call_response(c)};
    p.r->items = arena_alloc(&c->arena, PAGE_ROWS * sizeof *p.r->items);
    INVARIANT(p.r->items != NULL);
    p.r->section = call_text(c, sections[x->section].name);
    TRY(sections[x->section].page(&p, e));
    if (p.r->n_items > 0 || (p.done && !x->said)) /* an empty section is said to be empty */
        *resp = &p.r->base;
    x->said |= *resp != NULL;
    if (p.done)
        next_section(x);
    *ret_more = *resp != NULL || x->section < SECTIONS;
    return ok();
}

static const struct rpc_stream export_stream = {.open = export_open, .ready = export_ready, .close = export_close};
static const struct rpc_row rows[] = {
    {TENANTS_CONTROL, .kind = RPC_SERVER_STREAM, .path = TENANTS_SERVICE "ExportTenant",
     TENANTS_MESSAGES(export_tenant_request, export_tenant_response), .action = "tenants.export", .audit = AUDIT_READ,
     .reaches_closed = true, .resources = export_resources, .stream = &export_stream},
};
const struct row_list rows_export = {rows, sizeof rows / sizeof rows[0]};
