/* claviger.masters.v1: what may be asked of the masters and of the seal secrets; the mover does it. */
#include "vault/service/fields.h"
#include "vault/service/mover.h"
#include "vault/service/moving_steps.h"
#include "vault/service/rows.h"

#include "claviger/masters/v1/masters.pb-c.h"

#include <string.h>

typedef Claviger__Masters__V1__TokenSecretStatus Status;
typedef Claviger__Masters__V1__TokenSecret TokenSecret;
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
static bool forfeit_asked(const struct call *c, const struct token_secret *m)
{
    const int64_t ago = clock_wall_ns(call_clock(c)) - m->forfeit_ns;
    return m->state == SECRET_RETIRED && m->forfeit_ns != 0 && ago < FORFEIT_NS && ago > -FORFEIT_NS; /* asked by a clock that was ahead: not for ever */
}

static void view_secret(struct call *c, const struct token_secret *m, TokenSecret *r)
{
    r->version = m->version;
    r->state = (Claviger__Masters__V1__TokenSecret__State)m->state; /* the same numbers */
    r->create_time = field_time(c, m->made_ns);
    r->use_time = field_time(c, m->used_ns);
    r->backup_time = field_time(c, m->saved_ns);
    r->retire_time = field_time(c, m->retired_ns);
    r->destroyable_time = m->state == SECRET_RETIRED ? field_time(c, moving_destroyable_ns(c->svc->config, m)) : NULL;
    r->destroy_event_time = field_time(c, m->destroyed_ns);
    if (forfeit_asked(c, m) || m->state > SECRET_RETIRED) {
        r->forfeit_requested_by = call_text(c, m->forfeit_by);
        r->forfeit_request_time = field_time(c, m->forfeit_ns);
    }
}

static Rotation *view_rotation(struct call *c, const struct moving *v)
{
    Rotation *r = MESSAGE(rotation);
    struct mover_status st;
    INVARIANT(r != NULL);
    mover_status(c->svc->mover, v->kind, &st);
    r->state = (Claviger__Masters__V1__Rotation__State)v->state; /* the same numbers */
    r->to = v->to;
    r->requested_by = call_text(c, v->by);
    r->start_time = field_time(c, v->started_ns);
    r->state_time = field_time(c, v->since_ns);
    r->rows_total = v->total;
    r->rows_done = v->done;
    r->tenants_done = v->tenants;
    r->trouble = call_text(c, st.failing ? st.why : "");
    if (v->state != MOVING_MOVING || st.per_second == 0)
        return r;
    r->rows_per_second = st.per_second;
    r->time_left = field_duration(c, (int64_t)((v->total - v->done) / st.per_second + 1));
    return r;
}

static Status *view_status(struct call *c, const struct moving *v, struct token_secrets *all)
{
    Status *r = call_response(c);
    const struct token_secret *now = token_secrets_current(all);
    const uint64_t period = c->svc->config->seal_period;
    r->current = now != NULL ? now->version : 0;
    r->rotation = view_rotation(c, v);
    if (v->kind == HSM_SEAL && v->state == MOVING_IDLE && now != NULL && period > 0)
        r->next_rotation_time = field_time(c, now->used_ns + (int64_t)period * NS_PER_MS);
    r->versions = arena_alloc(&c->arena, (all->n + 1) * sizeof *r->versions);
    INVARIANT(r->versions != NULL);
    for (; r->n_versions < all->n; r->n_versions++) {
        r->versions[r->n_versions] = MESSAGE(token_secret);
        INVARIANT(r->versions[r->n_versions] != NULL);
        view_secret(c, &all->all[r->n_versions], r->versions[r->n_versions]);
    }
    return r;
}

struct both {
    struct moving v;
    struct token_secrets all;
};
static RESULT read_both(struct call *c, enum hsm_object kind, struct both *ret, struct err *e)
{
    TRY(moving_read(c->svc->store, kind, &ret->v, e));
    return token_secrets_read(c->svc->store, kind, &ret->all, e);
}

static struct result get(struct call *c, enum hsm_object kind, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    struct both b;
    TRY(read_both(c, kind, &b, e));
    *resp = &view_status(c, &b.v, &b.all)->base;
    return ok();
}

/* ---- the rotation ---- */
static struct bytes rotation_json(struct call *c, const struct moving *v)
{
    return bytes_str(arena_printf(&c->arena, "{\"rotation\":\"%s\",\"to\":%u}", sm_name(&moving_machine, v->state), v->to));
}

/* The transaction has the moving record already. */
static RESULT commit(struct call *c, struct store_txn *txn, struct both *b, ProtobufCMessage **resp, struct err *e)
{
    c->ev.after = rotation_json(c, &b->v);
    *resp = &view_status(c, &b->v, &b->all)->base;
    TRY(call_commit(c, txn, *resp, e));
    mover_wake(c->svc->mover);
    return ok();
}

static RESULT say_cloned(struct call *c, struct both *b, struct store_txn *txn, struct err *e)
{
    if (b->v.state != MOVING_SAVING || b->v.cloned)
        FAIL(e, ERR_STATE, "ROTATION_STATE", "no rotation waits for the token to be cloned: it is %s", sm_name(&moving_machine, b->v.state));
    c->ev.before = rotation_json(c, &b->v);
    b->v.cloned = true;
    moving_put(txn, &b->v);
    return ok();
}

static struct result rotate(struct call *c, enum hsm_object kind, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    struct both b;
    TRY(read_both(c, kind, &b, e));
    if (((const Claviger__Masters__V1__RotateRequest *)req)->token_cloned) {
        TRY(say_cloned(c, &b, txn, e));
        return commit(c, txn, &b, resp, e);
    }
    c->ev.before = rotation_json(c, &b.v);
    TRY(moving_begin(c->svc, &b.v, &b.all, c->id.principal->name, txn, e));
    return commit(c, txn, &b, resp, e);
}

static struct result pause_or_go(struct call *c, enum hsm_object kind, enum moving_state from, enum moving_state to, ProtobufCMessage **resp, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    struct both b;
    TRY(read_both(c, kind, &b, e));
    if (b.v.state != from)
        FAIL(e, ERR_STATE, "ROTATION_STATE", "the rotation is %s, not %s", sm_name(&moving_machine, b.v.state), sm_name(&moving_machine, from));
    c->ev.before = rotation_json(c, &b.v);
    TRY(moving_to(&b.v, to, clock_wall_ns(call_clock(c)), e));
    moving_put(txn, &b.v);
    return commit(c, txn, &b, resp, e);
}

static struct result pause_rotation(struct call *c, enum hsm_object kind, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    return pause_or_go(c, kind, MOVING_MOVING, MOVING_PAUSED, resp, e);
}

static struct result resume_rotation(struct call *c, enum hsm_object kind, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    (void)req;
    return pause_or_go(c, kind, MOVING_PAUSED, MOVING_MOVING, resp, e);
}

/* ---- the end of one ---- */
static RESULT check_destroyable(const struct token_secret *m, struct err *e)
{
    const char *word = token_secret_word(m->kind), *state = sm_name(&token_secret_machine, m->state);
    if (m->state == SECRET_DESTROYING || m->state == SECRET_DESTROYED)
        FAIL(e, ERR_STATE, "TOKEN_SECRET_DESTROYED", "%s %u is %s", word, m->version, state);
    if (m->state != SECRET_RETIRED) {
        struct result r = err_set(e, ERR_STATE, "TOKEN_SECRET_IN_USE", __FILE__, __LINE__, "%s %u is %s", word, m->version, state);
        e->hint = "only one that a finished rotation has proven unused may go";
        return r;
    }
    return ok();
}

static RESULT check_backups(struct call *c, const struct token_secret *m, struct err *e)
{
    if (!mover_steady(c->svc->mover) || m->unsure) {
        struct result r = err_set(e, ERR_STATE, "CLOCK_NOT_SETTLED", __FILE__, __LINE__, "the clock has not gone steadily for clock_settle");
        e->hint = "whether the backups have expired is known only by a clock that has gone steadily for clock_settle";
        return r;
    }
    if (clock_wall_ns(call_clock(c)) < moving_destroyable_ns(c->svc->config, m)) {
        struct result r = err_set(e, ERR_STATE, "BACKUPS_REMAIN", __FILE__, __LINE__, "backups that need %s %u have not expired",
                                  token_secret_word(m->kind), m->version);
        e->hint = "backups that need it may still be restored until destroyable_time; two principals may forfeit them";
        return r;
    }
    return ok();
}

/* The first of two records that it was asked; the second, somebody else, carries it out. *ret_second: this is the second. */
static RESULT forfeit(struct call *c, struct token_secret *m, bool *ret_second, struct err *e)
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

static struct bytes secret_json(struct call *c, const struct token_secret *m)
{
    return bytes_str(arena_printf(&c->arena, "{\"%s\":%u,\"state\":\"%s\",\"forfeit_requested_by\":\"%s\"}", token_secret_word(m->kind), m->version,
                                  sm_name(&token_secret_machine, m->state), m->forfeit_by));
}

static struct result destroy(struct call *c, enum hsm_object kind, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)
{
    const Claviger__Masters__V1__DestroyRequest *q = (const Claviger__Masters__V1__DestroyRequest *)req;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(c->svc->store);
    struct token_secrets all;
    bool go = true;
    if (q->version == 0)
        return err_field(e, "version", "is required");
    TRY(token_secrets_read(c->svc->store, kind, &all, e));
    struct token_secret *m = token_secrets_find(&all, q->version);
    if (m == NULL)
        FAIL(e, ERR_NOT_FOUND, NULL, "no %s %u", token_secret_word(kind), q->version);
    TRY(check_destroyable(m, e));
    c->ev.before = secret_json(c, m);
    if (q->forfeit_backups)
        TRY(forfeit(c, m, &go, e));
    else
        TRY(check_backups(c, m, e));
    if (go)
        TRY(sm_move(&token_secret_machine, &m->state, SECRET_DESTROYING, e));
    c->ev.after = secret_json(c, m);
    token_secret_put(txn, m);
    TokenSecret *r = call_response(c);
    view_secret(c, m, r);
    *resp = &r->base;
    TRY(call_commit(c, txn, *resp, e));
    mover_wake(c->svc->mover);
    return ok();
}

/* ---- of each kind ---- */
#define BOTH(verb)                                                                                                                       \
    static struct result verb##_master(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)              \
    {                                                                                                                                    \
        return verb(c, HSM_MASTER, req, resp, e);                                                                                        \
    }                                                                                                                                    \
    static struct result verb##_seal(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e)                \
    {                                                                                                                                    \
        return verb(c, HSM_SEAL, req, resp, e);                                                                                          \
    }
BOTH(get)
BOTH(rotate)
BOTH(pause_rotation)
BOTH(resume_rotation)
BOTH(destroy)

#define MASTERS "/claviger.masters.v1.Masters/"
#define SEALS "/claviger.masters.v1.Seals/"
#define M(q, r) .request = &claviger__masters__v1__##q##__descriptor, .response = &claviger__masters__v1__##r##__descriptor
#define CONTROL .kind = RPC_UNARY, .plane = PLANE_CONTROL, .limit = LIMIT_CONTROL, .lane = LANE_SLOW, .resources = resources
#define READ CONTROL, M(get_status_request, token_secret_status), .audit = AUDIT_READ
#define CHANGE CONTROL, .audit = AUDIT_CHANGE, .mutation = true
#define ROTATE CHANGE, M(rotate_request, token_secret_status)
#define PAUSE CHANGE, M(pause_rotation_request, token_secret_status)
#define RESUME CHANGE, M(resume_rotation_request, token_secret_status)
#define DESTROY CHANGE, M(destroy_request, token_secret), .destructive = true
static const struct rpc_row rows[] = {
    {ROTATE, .path = MASTERS "RotateMaster", .action = "masters.rotate", .handle = rotate_master},
    {PAUSE, .path = MASTERS "PauseRotation", .action = "masters.rotate", .handle = pause_rotation_master},
    {RESUME, .path = MASTERS "ResumeRotation", .action = "masters.rotate", .handle = resume_rotation_master},
    {READ, .path = MASTERS "GetMasterStatus", .action = "masters.get", .handle = get_master},
    {DESTROY, .path = MASTERS "DestroyMaster", .action = "masters.destroy", .handle = destroy_master},
    {ROTATE, .path = SEALS "RotateSeal", .action = "seals.rotate", .handle = rotate_seal},
    {PAUSE, .path = SEALS "PauseRotation", .action = "seals.rotate", .handle = pause_rotation_seal},
    {RESUME, .path = SEALS "ResumeRotation", .action = "seals.rotate", .handle = resume_rotation_seal},
    {READ, .path = SEALS "GetSealStatus", .action = "seals.get", .handle = get_seal},
    {DESTROY, .path = SEALS "DestroySeal", .action = "seals.destroy", .handle = destroy_seal},
};
const struct row_list rows_masters = {rows, sizeof rows / sizeof rows[0]};
