#include "vault/service/guard.h"

#include "base/text.h"
#include "vault/service/metering.h"
#include "vault/service/pipeline.h"

#define DAY_NS (INT64_C(24) * 3600 * 1000000000)

int64_t guard_last_use(const struct usage *u, int64_t created_ns, int64_t began_ns)
{
    const int64_t known = u->since_ns > began_ns ? u->since_ns : began_ns, unknown_until = created_ns < known ? known : 0;
    return u->last_ns > unknown_until ? u->last_ns : unknown_until;
}

static struct bytes finding(struct call *c, const struct keyring_version *m, const struct policy_guard *g, int64_t last_ns)
{
    char last[TEXT_RFC3339_BYTES] = "";
    if (last_ns > 0)
        text_format_rfc3339(last_ns, last);
    return bytes_str(arena_printf(&c->arena, "{\"state\":\"%s\",\"guard\":\"%s\",\"unused_days\":%u,\"last_use\":\"%s\"}", version_state_name(m->state),
                                  g->id, g->unused_days, last));
}

static RESULT in_use(struct call *c, const struct keyring_version *m, const struct policy_guard *g, struct err *e)
{
    c->priv->rule = g->id;
    struct result r = err_set(e, ERR_STATE, "KEY_VERSION_IN_USE", __FILE__, __LINE__, "guard %s: version %u was used within %u days", g->id, m->n,
                              g->unused_days);
    e->hint = arena_printf(&c->arena, "a guard of the policy wants it unused for %u days: disable it, see that nobody misses it, and come back "
                           "then; kmsctl versions usage shows who used it", g->unused_days);
    return r;
}

/* A use at a time that is still to come, by a clock that was wrong, counts as one of today. */
RESULT guard_check(struct call *c, const struct name *n, const struct keyring_version *m, struct err *e)
{
    struct policy_guard g;
    struct metering_status st;
    struct tenant t;
    struct usage u;
    if (!policy_guard_of(c->policy, n, &g))
        return ok();
    if (c->svc->metering == NULL)
        FAIL(e, ERR_UNAVAILABLE, "USAGE_UNKNOWN", "nobody counts");
    TRY(metering_sync(c->svc->metering, e));
    metering_status(c->svc->metering, &st);
    TRY(keyring_tenant_get(c->svc->keyring, n->tenant, true, &t, e));
    TRY(usage_read(c->svc->store, t.id, m->kvid, &c->arena, &u, e));
    const int64_t last_ns = guard_last_use(&u, m->created_ns, st.began_ns);
    c->ev.before = finding(c, m, &g, last_ns);
    if (last_ns > 0 && clock_wall_ns(c->svc->clock) - last_ns < (int64_t)g.unused_days * DAY_NS)
        return in_use(c, m, &g, e);
    return ok();
}
