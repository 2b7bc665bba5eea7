#include "vault/cmd/kmsctl/kmsctl.h"

#include "claviger/identity/v1/identity.pb-c.h"
#include "claviger/system/v1/system.pb-c.h"
#include "claviger/tenants/v1/tenants.pb-c.h"

#define SYSTEM "/claviger.system.v1.System/"
#define TENANTS "/claviger.tenants.v1.Tenants/"
#define IDENTITY "/claviger.identity.v1.Identity/"
#define TENANT_COLUMNS "NAME name|STATE state|LOCATION location|DISPLAY_NAME display_name|CREATED create_time"
#define PRINCIPAL_COLUMNS "NAME name|TENANT tenant|STATE state|SAN san|CREATED create_time|EXPIRES expire_time"

static struct result status(struct ctl *c, struct claviger_error *e)
{
    Claviger__System__V1__GetStatusRequest q = CLAVIGER__SYSTEM__V1__GET_STATUS_REQUEST__INIT;
    const Claviger__System__V1__Status *p = NULL;
    /* Sent once: when the service is closed to all, its refusal says why, and there is nothing to wait for. */
    TRY(ctl_change(c, SYSTEM "GetStatus", &q.base, &claviger__system__v1__status__descriptor, &p, e));
    json_t *j = json_of(&p->base);
    if (c->json) {
        print_json(j);
    } else {
        print_record(j, "health health");
        for (size_t i = 0; i < p->n_reasons; i++)
            printf("%-14s %.*s\n", i == 0 ? "reasons" : "", (int)p->reasons[i].len, (const char *)p->reasons[i].data);
        for (size_t i = 0; i < p->n_warnings; i++)
            printf("%-14s %.*s\n", i == 0 ? "warnings" : "", (int)p->warnings[i].len, (const char *)p->warnings[i].data);
        print_record(j, "version version|uptime uptime|locations locations|tenants tenants|"
                        "principals principals|policy policy_version|trust_domain trust_domain");
        print_record(j, "token hsm.token_label|token_model hsm.model|logged_in hsm.logged_in|master hsm.master_version|"
                        "seal_epoch hsm.seal_epoch|hsm_calls hsm.calls|hsm_failures hsm.failures|missing hsm.missing|"
                        "weaknesses hsm.weaknesses|token_backup hsm.backup.create_time|keys_unsaved hsm.keys_unsaved");
        print_record(j, "store store.backend|schema store.schema_version|store_weak store.weaknesses|audit_log journal.origin|"
                        "entries journal.entries|admits journal.admits|keys_cached cache.entries|cache_hits cache.hits|"
                        "cache_miss cache.misses|connections traffic.connections_open|in_flight traffic.calls_in_flight");
    }
    json_decref(j);
    return ok();
}

static struct result review(struct ctl *c, Claviger__System__V1__ReviewRequest__What what, struct claviger_error *e)
{
    if (!c->args.value[OPT_REASON])
        return usage(e, "--reason is missing: what was looked into, and found");
    Claviger__System__V1__ReviewRequest q = CLAVIGER__SYSTEM__V1__REVIEW_REQUEST__INIT;
    q.what = what;
    q.reason = pb_of(bytes_str(c->args.value[OPT_REASON]));
    const Claviger__System__V1__ReviewResponse *p = NULL;
    TRY(ctl_change(c, SYSTEM "Review", &q.base, &claviger__system__v1__review_response__descriptor, &p, e));
    if (c->json)
        return show(c, &p->base, "", e);
    puts("reviewed");
    return ok();
}

static struct result review_rollback(struct ctl *c, struct claviger_error *e)
{
    return review(c, CLAVIGER__SYSTEM__V1__REVIEW_REQUEST__WHAT__ROLLBACK, e);
}

static struct result review_recovery(struct ctl *c, struct claviger_error *e)
{
    return review(c, CLAVIGER__SYSTEM__V1__REVIEW_REQUEST__WHAT__RECOVERY, e);
}

static struct result tenants_create(struct ctl *c, struct claviger_error *e)
{
    if (!c->args.value[OPT_LOCATION])
        return usage(e, "--location is missing: it says where the tenant's data must stay, and cannot be changed later");
    Claviger__Tenants__V1__Tenant t = CLAVIGER__TENANTS__V1__TENANT__INIT;
    t.location = pb_of(bytes_str(c->args.value[OPT_LOCATION]));
    t.display_name = pb_of(bytes_str(c->args.value[OPT_DISPLAY_NAME]));
    Claviger__Tenants__V1__CreateTenantRequest q = CLAVIGER__TENANTS__V1__CREATE_TENANT_REQUEST__INIT;
    q.tenant_id = pb_of(bytes_str(c->args.pos[0]));
    q.tenant = &t;
    return ask_change(c, TENANTS "CreateTenant", &q.base, &claviger__tenants__v1__tenant__descriptor, TENANT_COLUMNS, e);
}

static struct result tenants_get(struct ctl *c, struct claviger_error *e)
{
    Claviger__Tenants__V1__GetTenantRequest q = CLAVIGER__TENANTS__V1__GET_TENANT_REQUEST__INIT;
    q.name = name_prefixed(c, "projects/", c->args.pos[0]);
    return ask_read(c, TENANTS "GetTenant", &q.base, &claviger__tenants__v1__tenant__descriptor, TENANT_COLUMNS, e);
}

static struct result tenants_list(struct ctl *c, struct claviger_error *e)
{
    Claviger__Tenants__V1__ListTenantsRequest q = CLAVIGER__TENANTS__V1__LIST_TENANTS_REQUEST__INIT;
    return ask_list(c, TENANTS "ListTenants", &q.base, &claviger__tenants__v1__list_tenants_response__descriptor, "tenants",
                    TENANT_COLUMNS, e);
}

static struct result principals_create(struct ctl *c, struct claviger_error *e)
{
    if (!c->args.value[OPT_SAN])
        return usage(e, "--san is missing: the name in the principal's certificate, e.g. spiffe://dev.claviger/acme-orders");
    Claviger__Identity__V1__Principal pr = CLAVIGER__IDENTITY__V1__PRINCIPAL__INIT;
    if (c->args.value[OPT_TENANT])
        pr.tenant = name_prefixed(c, "projects/", c->args.value[OPT_TENANT]);
    pr.san = pb_of(bytes_str(c->args.value[OPT_SAN]));
    pr.state = CLAVIGER__IDENTITY__V1__PRINCIPAL__STATE__ACTIVE;
    Claviger__Identity__V1__CreatePrincipalRequest q = CLAVIGER__IDENTITY__V1__CREATE_PRINCIPAL_REQUEST__INIT;
    q.principal_id = pb_of(bytes_str(c->args.pos[0]));
    q.principal = &pr;
    return ask_change(c, IDENTITY "CreatePrincipal", &q.base, &claviger__identity__v1__principal__descriptor, PRINCIPAL_COLUMNS, e);
}

static struct result principals_get(struct ctl *c, struct claviger_error *e)
{
    Claviger__Identity__V1__GetPrincipalRequest q = CLAVIGER__IDENTITY__V1__GET_PRINCIPAL_REQUEST__INIT;
    q.name = name_prefixed(c, "principals/", c->args.pos[0]);
    return ask_read(c, IDENTITY "GetPrincipal", &q.base, &claviger__identity__v1__principal__descriptor, PRINCIPAL_COLUMNS, e);
}

static struct result principals_list(struct ctl *c, struct claviger_error *e)
{
    Claviger__Identity__V1__ListPrincipalsRequest q = CLAVIGER__IDENTITY__V1__LIST_PRINCIPALS_REQUEST__INIT;
    if (c->args.value[OPT_TENANT])
        q.tenant = name_prefixed(c, "projects/", c->args.value[OPT_TENANT]);
    return ask_list(c, IDENTITY "ListPrincipals", &q.base, &claviger__identity__v1__list_principals_response__descriptor, "principals",
                    PRINCIPAL_COLUMNS, e);
}

static struct result set_state(struct ctl *c, Claviger__Identity__V1__Principal__State state, struct claviger_error *e)
{
    Claviger__Identity__V1__Principal pr = CLAVIGER__IDENTITY__V1__PRINCIPAL__INIT;
    pr.name = name_prefixed(c, "principals/", c->args.pos[0]);
    pr.state = state;
    Google__Protobuf__FieldMask mask = GOOGLE__PROTOBUF__FIELD_MASK__INIT;
    ProtobufCBinaryData path = pb_of(BYTES_LIT("state"));
    mask.paths = &path;
    mask.n_paths = 1;
    Claviger__Identity__V1__UpdatePrincipalRequest q = CLAVIGER__IDENTITY__V1__UPDATE_PRINCIPAL_REQUEST__INIT;
    q.principal = &pr;
    q.update_mask = &mask;
    return ask_change(c, IDENTITY "UpdatePrincipal", &q.base, &claviger__identity__v1__principal__descriptor, PRINCIPAL_COLUMNS, e);
}

static struct result principals_disable(struct ctl *c, struct claviger_error *e)
{
    return set_state(c, CLAVIGER__IDENTITY__V1__PRINCIPAL__STATE__DISABLED, e);
}

static struct result principals_enable(struct ctl *c, struct claviger_error *e)
{
    return set_state(c, CLAVIGER__IDENTITY__V1__PRINCIPAL__STATE__ACTIVE, e);
}

static const struct command rows[] = {
    {"status", NULL, "", 0, 0, 0, ROLE_OPERATOR, status, "how the daemon, its token, store and audit log are",
     "kmsctl status --output json"},
    {"review", "rollback", "", 0, 0, O(OPT_REASON) | O(OPT_IDEMPOTENCY), ROLE_OPERATOR, review_rollback,
     "say that an accepted older store was looked into", "kmsctl review rollback --reason \"disabled again what was\""},
    {"review", "recovery", "", 0, 0, O(OPT_REASON) | O(OPT_IDEMPOTENCY), ROLE_OPERATOR, review_recovery,
     "say that a recovery administrator's acts were looked into, and end it", "kmsctl review recovery --reason \"ticket 4711\""},
    {"tenants", "create", "NAME", 1, 1, O(OPT_LOCATION) | O(OPT_DISPLAY_NAME) | O(OPT_IDEMPOTENCY), ROLE_OPERATOR, tenants_create,
     "a new tenant, whose data stays in one location", "kmsctl tenants create acme --location eu --display-name \"Acme Ltd\""},
    {"tenants", "get", "NAME", 1, 1, 0, ROLE_OPERATOR, tenants_get, "one tenant", "kmsctl tenants get acme"},
    {"tenants", "list", "", 0, 0, 0, ROLE_OPERATOR, tenants_list, "all tenants", "kmsctl tenants list"},
    {"principals", "create", "NAME", 1, 1, O(OPT_SAN) | O(OPT_TENANT) | O(OPT_IDEMPOTENCY), ROLE_OPERATOR, principals_create,
     "register who a certificate speaks for",
     "kmsctl principals create acme-orders --tenant acme --san spiffe://dev.claviger/acme-orders"},
    {"principals", "get", "NAME", 1, 1, 0, ROLE_OPERATOR, principals_get, "one principal", "kmsctl principals get acme-orders"},
    {"principals", "list", "", 0, 0, O(OPT_TENANT), ROLE_OPERATOR, principals_list, "all principals, or one tenant's",
     "kmsctl principals list --tenant acme"},
    {"principals", "disable", "NAME", 1, 1, O(OPT_IDEMPOTENCY), ROLE_OPERATOR, principals_disable,
     "refuse its very next call, on connections that are open too", "kmsctl principals disable acme-orders"},
    {"principals", "enable", "NAME", 1, 1, O(OPT_IDEMPOTENCY), ROLE_OPERATOR, principals_enable, "let it in again",
     "kmsctl principals enable acme-orders"},
};
const struct command_rows rows_system = {rows, sizeof rows / sizeof *rows};
