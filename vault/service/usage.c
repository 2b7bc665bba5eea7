/* claviger.lifecycle.v1: what versions were used for, as far as this server has seen. */
#include "kms/keyring/usage.h"
#include "vault/service/guard.h"
#include "vault/service/kms_view.h"
#include "vault/service/metering.h"
#include "vault/service/rows.h"

#include "claviger/lifecycle/v1/lifecycle.pb-c.h"

#include <string.h>

typedef Claviger__Lifecycle__V1__GetUsageRequest GetRequest;
typedef Claviger__Lifecycle__V1__ListUsageRequest ListRequest;
typedef Claviger__Lifecycle__V1__Usage Usage;
typedef Claviger__Lifecycle__V1__VersionUsage VersionUsage;
typedef Claviger__Lifecycle__V1__Caller Caller;

enum { PAGE_MAX = 100 };
#define MEANING "what this server has seen: items that it answered. Ciphertexts that nobody has sent it since are in no figure"

static struct result get_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const GetRequest *)req)->name, 1u << NAME_VERSION, "name", e);
}

static struct result list_resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    return field_resource(c, ((const ListRequest *)req)->parent, 1u << NAME_CRYPTOKEY, "parent", e);
}

struct viewing {
    struct metering_status st;
    uint8_t tenant[16];
    uint32_t primary;
};

static int64_t latest(int64_t a, int64_t b, int64_t c)
{
    const int64_t d = a > b ? a : b;
    return c > d ? c : d;
}

static RESULT view_callers(struct call *c, const struct usage *u, VersionUsage *r, struct err *e)
{
    r->callers = arena_alloc(&c->arena, (u->ncallers + 1) * sizeof *r->callers);
    for (size_t i = 0; r->callers != NULL && i < u->ncallers; i++) {
        Caller *who = call_new_message(c, &claviger__lifecycle__v1__caller__descriptor);
        if (who == NULL)
            break;
        who->principal = pb_view(u->callers[i].name);
        who->last_use = field_time(c, u->callers[i].last_ns);
        r->callers[r->n_callers++] = who;
    }
    if (r->n_callers != u->ncallers)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "no room for the callers of a version");
    r->more_callers = u->more;
    return ok();
}

static RESULT view_usage(struct call *c, const struct viewing *v, const struct keyring_version *m, VersionUsage **ret, struct err *e)
{
    VersionUsage *r = call_new_message(c, &claviger__lifecycle__v1__version_usage__descriptor);
    struct usage u;
    if (r == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "no room for the usage of a version");
    TRY(usage_read(c->svc->store, v->tenant, m->kvid, &c->arena, &u, e));
    r->name = pb_view(m->name);
    r->state = pb_view(bytes_str(version_state_name(m->state)));
    r->encrypted = u.items[EVENT_USE_ENCRYPT];
    r->decrypted = u.items[EVENT_USE_DECRYPT];
    r->wrapped = u.items[EVENT_USE_WRAP];
    r->unwrapped = u.items[EVENT_USE_UNWRAP];
    r->last_use = field_time(c, u.last_ns);
    r->counted_since = field_time(c, latest(m->created_ns, v->st.began_ns, u.since_ns));
    for (int i = 0; i < 2; i++)
        if (v->primary != 0 && u.during[i].primary == v->primary)
            r->opened_since_rotation = u.during[i].opened;
    TRY(view_callers(c, &u, r, e));
    *ret = r;
    return ok();
}

static RESULT page_of_key(struct call *c, const ListRequest *q, const struct viewing *v, Usage *r, struct err *e)
{
    const ProtobufCBinaryData none = {0};
    struct keyring_version *rows;
    struct listing l;
    size_t n;
    TRY(listing_parse(c, q->page_size, q->page_token, none, none, (struct bytes){0}, 0, &l, e));
    const size_t page = l.page < PAGE_MAX ? l.page : PAGE_MAX;
    const uint32_t after = l.after.n == 4 ? get_be32(l.after.p) : 0;
    TRY(keyring_version_list(c->svc->keyring, &c->resources[0].name, after, false, page + 1, &c->arena, &rows, &n, e));
    r->versions = arena_zalloc(&c->arena, (page + 1) * sizeof *r->versions);
    INVARIANT(r->versions != NULL);
    for (; r->n_versions < n && r->n_versions < page; r->n_versions++)
        TRY(view_usage(c, v, &rows[r->n_versions], &r->versions[r->n_versions], e));
    if (n > page) {
        uint8_t be[4];
        put_be32(be, rows[page - 1].n);
        r->next_page_token = listing_token(c, &l, BYTES(be, sizeof be));
    }
    return ok();
}

static RESULT one_version(struct call *c, const struct viewing *v, Usage *r, struct err *e)
{
    struct keyring_version m;
    TRY(keyring_version_get(c->svc->keyring, &c->resources[0].name, &c->arena, &m, e));
    r->versions = arena_zalloc(&c->arena, sizeof *r->versions);
    INVARIANT(r->versions != NULL);
    TRY(view_usage(c, v, &m, r->versions, e));
    r->n_versions = 1;
    return ok();
}

/* Figures that are not complete are given all the same, and say so: only a guard must know for certain. */
static RESULT begin(struct call *c, struct viewing *v, Usage *r, struct err *e)
{
    const struct name *n = &c->resources[0].name, key_name = name_truncate(n, NAME_CRYPTOKEY);
    struct keyring_key key;
    struct tenant t;
    struct err why = {0};
    TRY(keyring_key_get(c->svc->keyring, &key_name, &c->arena, &key, e));
    TRY(keyring_tenant_get(c->svc->keyring, n->tenant, true, &t, e));
    memcpy(v->tenant, t.id, sizeof v->tenant);
    v->primary = key.primary;
    r->complete = !metering_sync(c->svc->metering, &why).failed;
    metering_status(c->svc->metering, &v->st);
    r->meaning = call_text(c, MEANING);
    if (key.primary != 0)
        r->primary = call_text(c, arena_printf(&c->arena, "%.*s/cryptoKeyVersions/%u", (int)key.name.n, (const char *)key.name.p, key.primary));
    return ok();
}

static struct result get(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    Usage *r = call_response(c);
    struct viewing v = {0};
    TRY(begin(c, &v, r, e));
    TRY(one_version(c, &v, r, e));
    *resp = &r->base;
    return ok();
}

static struct result list(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    Usage *r = call_response(c);
    struct viewing v = {0};
    TRY(begin(c, &v, r, e));
    TRY(page_of_key(c, (const ListRequest *)req, &v, r, e));
    *resp = &r->base;
    return ok();
}

#define SERVICE "/claviger.lifecycle.v1.Lifecycle/"
#define M(q, r) .request = &claviger__lifecycle__v1__##q##__descriptor, .response = &claviger__lifecycle__v1__##r##__descriptor
static const struct rpc_row rows[] = {
    {KMS_READ, .path = SERVICE "GetUsage", M(get_usage_request, usage), .action = "kms.usage.get", .resources = get_resources, .handle = get},
    {KMS_READ, .path = SERVICE "ListUsage", M(list_usage_request, usage), .action = "kms.usage.get", .resources = list_resources, .handle = list},
};
const struct row_list rows_usage = {rows, sizeof rows / sizeof rows[0]};
