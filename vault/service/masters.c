/* claviger.masters.v1: what may be asked of the masters; the mover does it. */
#include "vault/service/fields.h"
#include "vault/service/mover.h"
#include "vault/service/moving.h"
#include "vault/service/rows.h"

#include "claviger/masters/v1/masters.pb-c.h"

#include <string.h>

typedef Claviger__Masters__V1__MasterStatus MasterStatus;
typedef Claviger__Masters__V1__Master Master;
typedef Claviger__Masters__V1__Rotation Rotation;
#define MESSAGE(d) call_new_message(c, &claviger__masters__v1__##d##__descriptor)
#define NS_PER_MS INT64_C(1000000)
#define FORFEIT_NS (INT64_C(86400) * 1000000000) /* how long the first of two waits for the second */

static struct result resources(struct call *c, const ProtobufCMessage *req, struct err *e)
{
    (void)req;
    return field_instance(c, e);
}

/* ---- views ---- */
/* Backups of the store that name it were made until it was proven unused; those of the token, for as long as it lies there. */
static int64_t destroyable_ns(const struct call *c, const struct master *m)
{
    const int64_t last = m->saved_ns > m->retired_ns ? m->saved_ns : m->retired_ns;
    return last + (int64_t)c->svc->config->backup_retention * NS_PER_MS;
}

static bool forfeit_asked(const struct call *c, const struct master *m)
{
    return m->state == MASTER_RETIRED && m->forfeit_ns != 0 && clock_wall_ns(call_clock(c)) - m->forfeit_ns < FORFEIT_NS;
}

static void view_master(struct call *c, const struct master *m, Master *r)
{
    r->version = m->version;
    r->state = (Claviger__Masters__V1__Master__State)m->state; /* the same numbers */
    r->create_time = field_time(c, m->made_ns);
    r->backup_time = field_time(c, m->saved_ns);
    r->retire_time = field_time(c, m->retired_ns);
    r->destroyable_time = m->state == MASTER_RETIRED ? field_time(c, destroyable_ns(c, m)) : NULL;
    r->destroy_event_time = field_time(c, m->destroyed_ns);
    if (forfeit_asked(c, m) || m->state > MASTER_RETIRED) {
        r->forfeit_requested_by = call_text(c, m->forfeit_by);
        r->forfeit_request_time = field_time(c, m->forfeit_ns);
    }
}

static Rotation *view_rotation(struct call *c, const struct moving *v)
{
    Rotation *r = MESSAGE(rotation);
    struct mover_status st;
    INVARIANT(r != NULL);
    mover_status(c->svc->mover, &st);
    r->state = (Claviger__Masters__V1__Rotation__State)v->state; /* the same numbers */
    r->to = v->to;
    r->requested_by = call_text(c, v->by);
    r->start_time = field_time(c, v->started_ns);
    r->state_time = field_time(c, v->since_ns);
    r->versions_total = v->total;
    r->versions_done = v->done;
    r->tenants_done = v->tenants;
    r->trouble = call_text(c, st.failing ? st.why : "");
    if (v->state != MOVING_MOVING || st.per_second == 0)
        return r;
    r->versions_per_second = st.per_second;
    r->time_left = field_duration(c, (int64_t)((v->total - v->done) / st.per_second + 1));
    return r;
}

static MasterStatus *view_status(struct call *c, const struct moving *v, const struct masters *all)
{
    MasterStatus *r = call_response(c);
    r->current = keyring_master(c->svc->keyring);
    r->rotation = view_rotation(c, v);
    r->masters = arena_alloc(&c->arena, (all->n + 1) * sizeof *r->masters);
    INVARIANT(r->masters != NULL);
    for (; r->n_masters < all->n; r->n_masters++) {
        r->masters[r->n_masters] = MESSAGE(master);
        INVARIANT(r->masters[r->n_masters] != NULL);
        view_master(c, &all->all[r->n_masters], r->masters[r->n_masters]);
    }
    return r;
}

static struct result get(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    struct moving v;
    struct masters all;
    TRY(moving_read(c->svc->store, &v, e));
    TRY(masters_read(c->svc->store, &all, e));
    *resp = &view_status(c, &v, &all)->base;
    return ok();
}

/* ---- the rotation ---- */
static struct bytes rotation_json(struct call *c, const struct moving *v)
{
    return bytes_str(arena_printf(&c->arena, "{\"rotation\":\"%s\",\"to\":%u}", sm_name(&moving_machine, v->state), v->to));
}

static RESULT commit(struct call *c, struct store_txn *txn, struct moving *v, const struct masters *all, ProtobufCMessage **resp, struct err *e)
{
    moving_put(txn, v);
    c->ev.after = rotation_json(c, v);
    *resp = &view_status(c, v, all)->base;
    TRY(call_commit(c, txn, *resp, e));
    mover_wake(c->svc->mover);
    return ok();
}

/* Room for one more row: of those that are gone, the oldest is forgotten. */
static RESULT make_room(struct masters *all, struct store_txn *txn, struct err *e)
{
    if (all->n < MASTERS_MAX)
        return ok();
    for (size_t i = 0; i < all->n; i++)
        if (all->all[i].state == MASTER_DESTROYED) {
            master_forget(txn, &all->all[i]);
            return ok();
        }
    FAIL(e, ERR_EXHAUSTED, "TOO_MANY_MASTERS", "%zu masters are on record, and none of them is destroyed", all->n);
}

/* Above all that store and token know: a number is never used for two secrets. */
static RESULT next_version(struct call *c, const struct masters *all, uint32_t *ret, struct err *e)
{
    struct hsm_status st;
    TRY(hsm_probe(c->svc->hsm, &st, e));
    if (!st.logged_in)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token is away");
    uint32_t newest = st.master_newest;
    for (size_t i = 0; i < all->n; i++)
        newest = all->all[i].version > newest ? all->all[i].version : newest;
    if (newest == UINT32_MAX)
        FAIL(e, ERR_EXHAUSTED, "TOO_MANY_MASTERS", "there is no higher version");
    *ret = newest + 1;
    return ok();
}

static struct result say_cloned(struct call *c, struct moving *v, const struct masters *all, ProtobufCMessage **resp, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    if (v->state != MOVING_SAVING || v->cloned)
        FAIL(e, ERR_STATE, "MASTER_ROTATION", "no rotation waits for the token to be cloned: it is %s", sm_name(&moving_machine, v->state));
    c->ev.before = rotation_json(c, v);
    v->cloned = true;
    return commit(c, txn, v, all, resp, e);
}

static struct result rotate(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    struct moving v;
    struct masters all;
    uint32_t to = 0;
    TRY(moving_read(c->svc->store, &v, e));
    TRY(masters_read(c->svc->store, &all, e));
    if (((const Claviger__Masters__V1__RotateMasterRequest *)req)->token_cloned)
        return say_cloned(c, &v, &all, resp, e);
    if (v.state != MOVING_IDLE)
        FAIL(e, ERR_STATE, "MASTER_ROTATION", "a rotation to master %u is under way: %s", v.to, sm_name(&moving_machine, v.state));
    TRY(make_room(&all, txn, e));
    TRY(next_version(c, &all, &to, e));
    c->ev.before = rotation_json(c, &v);
    v = (struct moving){.state = v.state, .to = to, .started_ns = clock_wall_ns(call_clock(c)), .revision = v.revision};
    TRY(moving_to(&v, MOVING_MAKING, v.started_ns, e));
    memcpy(v.by, c->id.principal->name, strlen(c->id.principal->name) + 1);
    return commit(c, txn, &v, &all, resp, e);
}

static struct result pause_or_go(struct call *c, enum moving_state from, enum moving_state to, ProtobufCMessage **resp, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    struct moving v;
    struct masters all;
    TRY(moving_read(c->svc->store, &v, e));
    TRY(masters_read(c->svc->store, &all, e));
    if (v.state != from)
        FAIL(e, ERR_STATE, "MASTER_ROTATION", "the rotation is %s, not %s", sm_name(&moving_machine, v.state), sm_name(&moving_machine, from));
    c->ev.before = rotation_json(c, &v);
    TRY(moving_to(&v, to, clock_wall_ns(call_clock(c)), e));
    return commit(c, txn, &v, &all, resp, e);
}

static struct result pause_rotation(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    return pause_or_go(c, MOVING_MOVING, MOVING_PAUSED, resp, e);
}

static struct result resume_rotation(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    return pause_or_go(c, MOVING_PAUSED, MOVING_MOVING, resp, e);
}

/* ---- the end of one ---- */
static RESULT check_destroyable(const struct master *m, struct err *e)
{
    if (m->state == MASTER_DESTROYING || m->state == MASTER_DESTROYED)
        FAIL(e, ERR_STATE, "MASTER_DESTROYED", "master %u is %s", m->version, sm_name(&master_machine, m->state));
    if (m->state != MASTER_RETIRED) {
        struct result r = err_set(e, ERR_STATE, "MASTER_IN_USE", __FILE__, __LINE__, "master %u is %s", m->version, sm_name(&master_machine, m->state));
        e->hint = "only a master that a finished rotation has proven unused may go";
        return r;
    }
    return ok();
}

static RESULT check_backups(struct call *c, const struct master *m, struct err *e)
{
    if (!mover_steady(c->svc->mover)) {
        struct result r = err_set(e, ERR_STATE, "CLOCK_NOT_SETTLED", __FILE__, __LINE__, "the clock has not gone steadily for clock_settle");
        e->hint = "whether the backups have expired is known only by a clock that has gone steadily for clock_settle";
        return r;
    }
    if (clock_wall_ns(call_clock(c)) < destroyable_ns(c, m)) {
        struct result r = err_set(e, ERR_STATE, "MASTER_BACKUPS_REMAIN", __FILE__, __LINE__, "backups that name master %u have not expired", m->version);
        e->hint = "backups that need this master may still be restored until destroyable_time; two principals may forfeit them";
        return r;
    }
    return ok();
}

/* The first of two records that it was asked; the second, somebody else, carries it out. *ret_second: this is the second. */
static RESULT forfeit(struct call *c, struct master *m, bool *ret_second, struct err *e)
{
    const char *who = c->id.principal->name;
    *ret_second = forfeit_asked(c, m) && strcmp(m->forfeit_by, who) != 0;
    if (*ret_second)
        return ok();
    if (forfeit_asked(c, m)) {
        struct result r = err_set(e, ERR_STATE, "SECOND_PERSON", __FILE__, __LINE__, "%s has asked for it already", who);
        e->hint = "another principal than the one who asked must ask for the same within a day";
        return r;
    }
    memcpy(m->forfeit_by, who, strlen(who) + 1);
    m->forfeit_ns = clock_wall_ns(call_clock(c));
    return ok();
}

static struct bytes master_json(struct call *c, const struct master *m)
{
    return bytes_str(arena_printf(&c->arena, "{\"master\":%u,\"state\":\"%s\",\"forfeit_requested_by\":\"%s\"}", m->version,
                                  sm_name(&master_machine, m->state), m->forfeit_by));
}

static struct result destroy(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const Claviger__Masters__V1__DestroyMasterRequest *q = (const Claviger__Masters__V1__DestroyMasterRequest *)req;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    struct masters all;
    bool go = true;
    if (q->version == 0)
        return err_field(e, "version", "is required: the master's number");
    TRY(masters_read(c->svc->store, &all, e));
    struct master *m = masters_find(&all, q->version);
    if (m == NULL)
        FAIL(e, ERR_NOT_FOUND, NULL, "no master %u", q->version);
    TRY(check_destroyable(m, e));
    c->ev.before = master_json(c, m);
    if (q->forfeit_backups)
        TRY(forfeit(c, m, &go, e));
    else
        TRY(check_backups(c, m, e));
    if (go)
        TRY(sm_move(&master_machine, &m->state, MASTER_DESTROYING, e));
    c->ev.after = master_json(c, m);
    master_put(txn, m);
    Master *r = call_response(c);
    view_master(c, m, r);
    *resp = &r->base;
    TRY(call_commit(c, txn, *resp, e));
    mover_wake(c->svc->mover);
    return ok();
}

#define SERVICE "/claviger.masters.v1.Masters/"
#define M(q, r) .request = &claviger__masters__v1__##q##__descriptor, .response = &claviger__masters__v1__##r##__descriptor
#define CONTROL .kind = RPC_UNARY, .plane = PLANE_CONTROL, .limit = LIMIT_CONTROL, .lane = LANE_SLOW, .resources = resources
#define CHANGE CONTROL, .audit = AUDIT_CHANGE, .mutation = true
static const struct rpc_row rows[] = {
    {CHANGE, .path = SERVICE "RotateMaster", M(rotate_master_request, master_status), .action = "masters.rotate", .handle = rotate},
    {CHANGE, .path = SERVICE "PauseRotation", M(pause_rotation_request, master_status), .action = "masters.rotate", .handle = pause_rotation},
    {CHANGE, .path = SERVICE "ResumeRotation", M(resume_rotation_request, master_status), .action = "masters.rotate", .handle = resume_rotation},
    {CONTROL, .path = SERVICE "GetMasterStatus", M(get_master_status_request, master_status), .action = "masters.get", .audit = AUDIT_READ, .handle = get},
    {CHANGE, .path = SERVICE "DestroyMaster", M(destroy_master_request, master), .action = "masters.destroy", .destructive = true, .handle = destroy},
};
const struct row_list rows_masters = {rows, sizeof rows / sizeof rows[0]};
