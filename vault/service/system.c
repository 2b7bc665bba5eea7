/* claviger.system.v1: how the instance is, in words; and that somebody looked into what was done outside the rules. */
#include "base/text.h"
#include "vault/service/admin.h"
#include "vault/service/fields.h"
#include "vault/service/review.h"
#include "vault/service/rows.h"
#include "vault/service/sweep.h"
#include "vault/service/token.h"
#include "vault/service/token_backup.h"

#include "claviger/system/v1/system.pb-c.h"

#include <string.h>

typedef Claviger__System__V1__Status Status;
typedef Claviger__System__V1__ReviewRequest ReviewRequest;
#define WHAT(w) CLAVIGER__SYSTEM__V1__REVIEW_REQUEST__WHAT__##w

static struct result resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    (void)req;
    return field_instance(c, e);
}

#define PART(type, d) part(c, &claviger__system__v1__##d##__descriptor)
static void *part(struct call *c, const ProtobufCMessageDescriptor *d)
{
    void *m = call_new_message(c, d);
    INVARIANT(m != NULL);
    return m;
}

static Claviger__System__V1__Hsm *view_hsm(struct call *c)
{
    Claviger__System__V1__Hsm *r = PART(Hsm, hsm);
    struct hsm_status st;
    bool up = sweep_hsm_state(c->svc->sweep, &st, NULL, NULL, 0);
    r->token_label = call_text(c, st.token_label);
    r->manufacturer = call_text(c, st.manufacturer);
    r->model = call_text(c, st.model);
    r->logged_in = up && st.logged_in;
    r->master_version = keyring_master(c->svc->keyring);
    r->seal_epoch = store_seal_epoch(c->svc->store);
    r->audit_key_version = c->svc->instance.audit_version;
    r->missing = call_text(c, st.missing);
    r->weaknesses = call_text(c, st.weaknesses);
    r->calls = st.calls;
    r->failures = st.failures;
    r->backup = view_token_backup_on_record(c);
    r->keys_unsaved = atomic_load(&c->svc->keys_unsaved);
    return r;
}

static void view_locations(struct call *c, Status *r)
{
    const char *p = c->svc->config->locations;
    r->locations = arena_alloc(&c->arena, (strlen(p) + 1) * sizeof *r->locations);
    INVARIANT(r->locations != NULL);
    while (*p != 0) {
        size_t n = strcspn(p, ",");
        r->locations[r->n_locations++] = pb_view(BYTES(p, n));
        p += n + (p[n] == ',');
    }
}

static void view_parts(struct call *c, Status *r)
{
    r->hsm = view_hsm(c);
    struct journal_status js;
    journal_status(c->svc->journal, &js);
    Claviger__System__V1__Journal *j = r->journal = PART(Journal, journal);
    j->origin = call_text(c, c->svc->instance.origin);
    j->entries = js.next_index;
    j->admits = journal_admits(c->svc->journal);
    struct keyring_stats ks;
    keyring_stats(c->svc->keyring, &ks);
    Claviger__System__V1__Cache *k = r->cache = PART(Cache, cache);
    k->entries = ks.entries;
    k->capacity = c->svc->config->key_cache_max;
    k->hits = ks.hits;
    k->misses = ks.misses;
    k->hsm_calls = ks.hsm_calls;
    Claviger__System__V1__Store *s = r->store = PART(Store, store);
    s->backend = call_text(c, "sqlite");
    s->schema_version = store_schema();
    s->epoch = store_seal_epoch(c->svc->store);
    s->weaknesses = call_text(c, c->svc->anchor_weakness);
    r->traffic = PART(Traffic, traffic);
    r->traffic->connections_open = atomic_load(&c->svc->traffic[0]);
    r->traffic->connections_accepted = atomic_load(&c->svc->traffic[1]);
    r->traffic->connections_refused = atomic_load(&c->svc->traffic[2]);
    r->traffic->connections_policed = atomic_load(&c->svc->traffic[3]);
    r->traffic->calls_in_flight = atomic_load(&c->svc->calls_in_flight);
}

static void view_reasons(struct call *c, const struct health *h, Status *r)
{
    char text[CONDITION_TEXT_MAX];
    r->reasons = arena_alloc(&c->arena, CONDITION_COUNT * sizeof *r->reasons);
    r->warnings = arena_alloc(&c->arena, CONDITION_COUNT * sizeof *r->warnings);
    INVARIANT(r->reasons != NULL && r->warnings != NULL);
    for (int i = 0; i < CONDITION_COUNT; i++) {
        if (!h->is[i])
            continue;
        health_text(h, (enum condition)i, text);
        if (condition_row((enum condition)i)->level == WARNS)
            r->warnings[r->n_warnings++] = call_text(c, text);
        else
            r->reasons[r->n_reasons++] = call_text(c, text);
    }
}

static struct result get(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    static const uint8_t no_tenant[16];
    Status *r = call_response(c);
    struct health h;
    token_backup_look(c->svc); /* who has just made a key is told at once */
    service_health(c->svc, &h);
    r->health = call_text(c, !h.serving ? "not serving" : h.degraded ? "degraded" : "healthy");
    view_reasons(c, &h, r);
    r->version = call_text(c, CLV_VERSION);
    view_parts(c, r);
    view_locations(c, r);
    struct admin_policy_version v;
    TRY(admin_policy_get(c->svc->admin, &c->arena, &v, e));
    r->policy_version = v.version;
    TRY(store_count(c->svc->store, REC_TENANT, no_tenant, (struct bytes){0}, &r->tenants, e));
    TRY(store_count(c->svc->store, REC_PRINCIPAL, no_tenant, (struct bytes){0}, &r->principals, e));
    r->uptime = field_duration(c, (clock_wall_ns(call_clock(c)) - c->svc->started_unix_ns) / 1000000000);
    r->trust_domain = call_text(c, c->svc->config->trust_domain);
    *resp = &r->base;
    return ok();
}

/* ---- reviews ---- */
static RESULT take_review(struct call *c, const ReviewRequest *q, enum review_what *ret, struct err *e)
{
    if (q->what != WHAT(ROLLBACK) && q->what != WHAT(RECOVERY))
        return err_field(e, "what", "ROLLBACK or RECOVERY");
    if (q->reason.len == 0 || q->reason.len > REVIEW_REASON_MAX || !text_is_clean_utf8(pb_bytes(q->reason)))
        return err_field(e, "reason", "1 to 512 bytes without control characters");
    *ret = q->what == WHAT(ROLLBACK) ? REVIEW_ROLLBACK : REVIEW_RECOVERY;
    if (*ret == REVIEW_RECOVERY && c->id.principal->recovery)
        FAIL(e, ERR_DENIED, "PERMISSION_DENIED", "a recovery administrator does not review recoveries");
    return ok();
}

static struct result review(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const ReviewRequest *q = (const ReviewRequest *)req;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    enum review_what what;
    struct review_note was;
    TRY(take_review(c, q, &what, e));
    TRY(review_add(c->svc->store, what, txn, &was, e));
    c->ev.before = bytes_str(arena_strdup(&c->arena, bytes_str(was.reason)));
    c->ev.after = pb_bytes(q->reason);
    *resp = call_response(c);
    TRY(call_commit(c, txn, *resp, e));
    reviews_done(c->svc->reviews, what);
    if (what == REVIEW_RECOVERY)
        admin_refresh(c->svc->admin); /* its administrator is disabled: before the answer */
    return ok();
}

static const struct rpc_row rows[] = {
    {.kind = RPC_UNARY, .path = "/claviger.system.v1.System/GetStatus", .request = &claviger__system__v1__get_status_request__descriptor,
     .response = &claviger__system__v1__status__descriptor, .action = "system.status", .plane = PLANE_CONTROL, .resources = resources,
     .audit = AUDIT_READ, .limit = LIMIT_CONTROL, .lane = LANE_SLOW, .says_why = true, .handle = get},
    {.kind = RPC_UNARY, .path = "/claviger.system.v1.System/Review", .request = &claviger__system__v1__review_request__descriptor,
     .response = &claviger__system__v1__review_response__descriptor, .action = "system.review", .plane = PLANE_CONTROL,
     .resources = resources, .audit = AUDIT_CHANGE, .limit = LIMIT_CONTROL, .mutation = true, .lane = LANE_SLOW, .handle = review},
};
const struct row_list rows_system = {rows, sizeof rows / sizeof rows[0]};
