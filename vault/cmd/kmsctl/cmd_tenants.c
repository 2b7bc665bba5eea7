/* tenants suspend, resume, delete, restore, export. */
#include "vault/cmd/kmsctl/kmsctl.h"
#include "vault/cmd/kmsctl/whole.h"

#include "base/text.h"
#include "claviger/tenants/v1/tenants.pb-c.h"

#include <string.h>

#define TENANTS "/claviger.tenants.v1.Tenants/"
#define COLUMNS "NAME name|STATE state|LOCATION location|DELETED delete_time|PURGE purge_time"
#define EXPORT_FORMAT "claviger.tenant-export/v1"

typedef Claviger__Tenants__V1__Tenant tenant;
typedef Claviger__Tenants__V1__ExportTenantResponse export_part;
static const ProtobufCMessageDescriptor *const tenant_d = &claviger__tenants__v1__tenant__descriptor;

static struct result tenants_suspend(struct ctl *c, struct claviger_error *e)
{
    Claviger__Tenants__V1__SuspendTenantRequest q = CLAVIGER__TENANTS__V1__SUSPEND_TENANT_REQUEST__INIT;
    q.name = name_prefixed(c, "projects/", c->args.pos[0]);
    return ask_change(c, TENANTS "SuspendTenant", &q.base, tenant_d, COLUMNS, e);
}

static struct result tenants_resume(struct ctl *c, struct claviger_error *e)
{
    Claviger__Tenants__V1__ResumeTenantRequest q = CLAVIGER__TENANTS__V1__RESUME_TENANT_REQUEST__INIT;
    q.name = name_prefixed(c, "projects/", c->args.pos[0]);
    return ask_change(c, TENANTS "ResumeTenant", &q.base, tenant_d, COLUMNS, e);
}

static struct result tenants_restore(struct ctl *c, struct claviger_error *e)
{
    Claviger__Tenants__V1__RestoreTenantRequest q = CLAVIGER__TENANTS__V1__RESTORE_TENANT_REQUEST__INIT;
    q.name = name_prefixed(c, "projects/", c->args.pos[0]);
    return ask_change(c, TENANTS "RestoreTenant", &q.base, tenant_d, COLUMNS, e);
}

/* ---- delete ---- */
/* The name must be typed twice, in either form: a slip of the hand must not cost a tenant. */
static struct result confirmed(struct ctl *c, ProtobufCBinaryData name, struct claviger_error *e)
{
    const char *typed = c->args.value[OPT_CONFIRM];
    if (typed == NULL)
        return usage(e, "nothing of this tenant can be used from now on, and nothing of it is left after the retention; repeat the name: "
                     "--confirm %s", c->args.pos[0]);
    if (!bytes_equal(pb_bytes_of(name), pb_bytes_of(name_prefixed(c, "projects/", typed))))
        return usage(e, "--confirm names another tenant than %s", c->args.pos[0]);
    return ok();
}

static struct result tenants_delete(struct ctl *c, struct claviger_error *e)
{
    Google__Protobuf__Duration retention = GOOGLE__PROTOBUF__DURATION__INIT;
    Claviger__Tenants__V1__GetTenantRequest g = CLAVIGER__TENANTS__V1__GET_TENANT_REQUEST__INIT;
    Claviger__Tenants__V1__DeleteTenantRequest q = CLAVIGER__TENANTS__V1__DELETE_TENANT_REQUEST__INIT;
    const char *text = c->args.value[OPT_RETENTION];
    const tenant *is = NULL;
    uint64_t ms = 0;
    q.name = g.name = name_prefixed(c, "projects/", c->args.pos[0]);
    if (text == NULL || !text_parse_duration_ms(bytes_str(text), &ms))
        return usage(e, "--retention is 30d or 90d: until then the tenant can be restored");
    TRY(confirmed(c, q.name, e));
    TRY(ctl_read(c, TENANTS "GetTenant", &g.base, tenant_d, &is, e));
    retention.seconds = (int64_t)(ms / 1000);
    q.retention = &retention;
    q.etag = is->etag;
    return ask_change(c, TENANTS "DeleteTenant", &q.base, tenant_d, COLUMNS, e);
}

/* ---- export: one JSON document, written as it comes ---- */
struct document {
    FILE *to;
    char section[64]; /* open now; "": none yet */
    bool items;       /* it has some */
};

/* What the server sends goes out as JSON that this program has read, never as it came. */
static struct result write_item(FILE *to, ProtobufCBinaryData item, bool first, struct claviger_error *e)
{
    json_error_t why;
    json_t *j = json_loadb((const char *)item.data, item.len, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(j)) {
        json_decref(j);
        return client_fail(e, CLAVIGER_INTERNAL, "EXPORT", "the server sent an item that is no JSON object: %s", why.text);
    }
    fputs(first ? "\n  " : ",\n  ", to);
    json_dumpf(j, to, JSON_COMPACT);
    json_decref(j);
    return ok();
}

static struct result write_part(struct document *d, const export_part *p, struct claviger_error *e)
{
    char name[sizeof d->section];
    if (p->section.len == 0 || !text_copy(pb_bytes_of(p->section), name, sizeof name) || strspn(name, "abcdefghijklmnopqrstuvwxyz_") != p->section.len)
        return client_fail(e, CLAVIGER_INTERNAL, "EXPORT", "the server sent a section without a proper name");
    if (strcmp(name, d->section) != 0) {
        fprintf(d->to, "%s,\n \"%s\": [", d->section[0] == 0 ? "" : d->items ? "\n ]" : "]", name);
        memcpy(d->section, name, sizeof d->section);
        d->items = false;
    }
    for (size_t i = 0; i < p->n_items; i++, d->items = true)
        TRY(write_item(d->to, p->items[i], !d->items, e));
    return ok();
}

static struct result export_stream(struct stream *s, FILE *to, struct claviger_error *e)
{
    CLEANUP(arena_release) struct arena a;
    struct document d = {.to = to};
    arena_init(&a, CLIENT_ARENA_MAX);
    fputs("{\"format\": \"" EXPORT_FORMAT "\"", to);
    while (true) {
        ProtobufCMessage *m = NULL;
        TRY(stream_recv(s, &claviger__tenants__v1__export_tenant_response__descriptor, &a, &m, e));
        if (m == NULL)
            break;
        TRY(write_part(&d, (const void *)m, e));
        arena_reset(&a);
    }
    fprintf(to, "%s\n}\n", d.section[0] == 0 ? "" : d.items ? "\n ]" : "]");
    return ok(); /* whether all of it could be written is asked at the end */
}

static struct result export_to(struct ctl *c, FILE *to, struct claviger_error *e)
{
    Claviger__Tenants__V1__ExportTenantRequest q = CLAVIGER__TENANTS__V1__EXPORT_TENANT_REQUEST__INIT;
    struct rpc_options o = {.path = TENANTS "ExportTenant"};
    struct stream *s = NULL;
    q.name = name_prefixed(c, "projects/", c->args.pos[0]);
    TRY(ctl_connect(c, e));
    TRY(stream_open(client_transport(c->client), &o, &s, e));
    struct result r = stream_send(s, &q.base, e);
    if (!r.failed)
        r = stream_half_close(s, e);
    if (!r.failed)
        r = export_stream(s, to, e);
    stream_close(s);
    return r;
}

static struct result tenants_export(struct ctl *c, struct claviger_error *e)
{
    struct whole *w = NULL;
    if (!c->args.value[OPT_OUT])
        return export_to(c, stdout, e);
    TRY(whole_open(c->args.value[OPT_OUT], false, 0600, &w, e));
    struct result r = export_to(c, whole_stream(w), e);
    if (!r.failed)
        r = whole_finish(w, e);
    whole_free(w);
    return r;
}

static const struct command rows[] = {
    {"tenants", "suspend", "NAME", 1, 1, O(OPT_IDEMPOTENCY), ROLE_OPERATOR, tenants_suspend,
     "refuse every call of its people, from the next one on", "kmsctl tenants suspend acme"},
    {"tenants", "resume", "NAME", 1, 1, O(OPT_IDEMPOTENCY), ROLE_OPERATOR, tenants_resume, "let them in again", "kmsctl tenants resume acme"},
    {"tenants", "delete", "NAME", 1, 1, O(OPT_RETENTION) | O(OPT_CONFIRM) | O(OPT_IDEMPOTENCY), ROLE_OPERATOR, tenants_delete,
     "after 30 or 90 days nothing of it is left; restore undoes it until then",
     "kmsctl tenants delete acme --retention 30d --confirm acme"},
    {"tenants", "restore", "NAME", 1, 1, O(OPT_IDEMPOTENCY), ROLE_OPERATOR, tenants_restore, "take a deletion back: the tenant is what it was",
     "kmsctl tenants restore acme"},
    {"tenants", "export", "NAME", 1, 1, O(OPT_OUT), ROLE_OPERATOR, tenants_export, "everything that is held about it but its keys, as one JSON document",
     "kmsctl tenants export acme --out acme.json"},
};
const struct command_rows rows_tenants = {rows, sizeof rows / sizeof *rows};
