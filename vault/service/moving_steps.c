#include "vault/service/moving_steps.h"

#include "base/log.h"
#include "base/text.h"
#include "vault/service/act.h"
#include "vault/service/moving_kind.h"
#include "vault/service/token_backup.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { RESOURCE_MAX = 32 };
#define NS_PER_MS INT64_C(1000000)
#define CLOCK_SLACK_NS (INT64_C(3600) * 1000000000)

static void step_release(struct step *t)
{
    store_txn_free(t->txn);
}

void moving_steps_release(struct moving_steps *x)
{
    rekey_release(&x->rekey);
}

static RESULT step_begin(struct step *t, struct err *e)
{
    struct store *s = t->x->s->store;
    t->kind = t->x->kind == HSM_MASTER ? &moving_master : &moving_seal;
    TRY(moving_read(s, t->x->kind, &t->v, e));
    TRY(token_secrets_read(s, t->x->kind, &t->all, e));
    TRY(t->kind->agree(t, e));
    t->txn = store_txn_new(s);
    return ok();
}

static const char *word(const struct step *t)
{
    return token_secret_word(t->kind->object);
}

const char *step_state(const struct step *t)
{
    return sm_name(&moving_machine, t->v.state);
}

RESULT step_commit(struct step *t, const char *verb, uint32_t version, const struct tenant_ref *tenant, uint64_t items, struct err *e)
{
    char action[MOVING_ACTION_MAX], resource[RESOURCE_MAX];
    (void)snprintf(action, sizeof action, "%s.%s", t->kind->area, verb);
    (void)snprintf(resource, sizeof resource, "%s/%u", t->kind->area, version);
    const struct act act = {.principal = t->kind->principal,
                            .action = action,
                            .resource = bytes_str(resource),
                            .before = bytes_str(t->before),
                            .after = bytes_str(t->after),
                            .items = items};
    t->ret->done = t->v.done;
    t->ret->more = true;
    return act_commit(t->txn, t->x->s->clock, tenant, &act, e);
}

RESULT step_going(const struct step *t, struct err *e)
{
    if (t->x->stop != NULL && t->x->stop(t->x->user))
        FAIL(e, ERR_CANCELLED, NULL, "stopping");
    return ok();
}

void step_passed(struct step *t, uint64_t rows)
{
    t->v.done += rows;
    if (t->v.total < t->v.done)
        t->v.total = t->v.done;
}

int64_t moving_destroyable_ns(const struct config *c, const struct token_secret *m)
{
    return m->retired_ns + (int64_t)c->backup_retention * NS_PER_MS;
}

/* ---- MAKING: the object on the token ---- */
/* An object of that number is of a making that was cut short: nothing was ever under it, and it may be half made. */
static RESULT make_object(struct step *t, struct err *e)
{
    struct hsm *h = t->x->s->hsm;
    struct err why = {0};
    if (!hsm_generate(h, t->kind->object, t->v.to, &why).failed)
        return ok();
    if (why.code != ERR_EXISTS) {
        *e = why;
        return (struct result){1};
    }
    TRY(hsm_destroy(h, t->kind->object, t->v.to, e));
    return hsm_generate(h, t->kind->object, t->v.to, e);
}

static RESULT making(struct step *t, struct err *e)
{
    struct hsm_status st;
    TRY(token_backup_fit(t->x->s, &st, e));
    TRY(make_object(t, e));
    atomic_store(&t->x->s->made[t->kind->object], t->v.to);
    const struct token_secret born = {.kind = t->kind->object, .version = t->v.to, .state = SECRET_BORN, .made_ns = step_now(t), .revision = STORE_ABSENT};
    (void)snprintf(t->before, sizeof t->before, "{\"rotation\":\"%s\"}", step_state(t));
    TRY(moving_to(&t->v, MOVING_SAVING, step_now(t), e));
    (void)snprintf(t->after, sizeof t->after, "{\"rotation\":\"%s\",\"%s\":\"BORN\"}", step_state(t), word(t));
    token_secret_put(t->txn, &born);
    moving_put(t->txn, &t->v);
    return step_commit(t, "make", t->v.to, NULL, 0, e);
}

/* ---- SAVING: never used before it is backed up; then current ---- */
/* The one that was current is being left, the new one is; and the backup holds each that is on the token. */
static RESULT switch_current(struct step *t, struct err *e)
{
    struct token_secret *old = token_secrets_current(&t->all), *new = token_secrets_find(&t->all, t->v.to);
    if (old == NULL || new == NULL)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "%s %u is to become current, and the records do not fit", word(t), t->v.to);
    TRY(sm_move(&token_secret_machine, &old->state, SECRET_RETIRING, e));
    TRY(sm_move(&token_secret_machine, &new->state, SECRET_CURRENT, e));
    new->used_ns = step_now(t);
    return ok();
}

/* A token that was put back from before the new one was saved has it no more: nothing was ever under it, so it is made again. Whoever said that
 * the token was cloned spoke of the one that is lost. */
static RESULT make_again(struct step *t, bool *ret_did, struct err *e)
{
    struct token_secret *born = token_secrets_find(&t->all, t->v.to);
    struct hsm_status st;
    TRY(token_backup_fit(t->x->s, &st, e));
    *ret_did = hsm_newest(&st, t->kind->object) < t->v.to && born != NULL;
    if (!*ret_did)
        return ok();
    (void)snprintf(t->before, sizeof t->before, "{\"rotation\":\"%s\",\"%s\":\"absent\",\"cloned\":%s}", step_state(t), word(t), t->v.cloned ? "true" : "false");
    if (!t->v.cloned)
        TRY(hsm_generate(t->x->s->hsm, t->kind->object, t->v.to, e));
    (void)snprintf(t->after, sizeof t->after, "{\"rotation\":\"%s\",\"%s\":\"%s\",\"cloned\":false}", step_state(t), word(t), t->v.cloned ? "absent" : "BORN");
    if (!t->v.cloned) {
        atomic_store(&t->x->s->made[t->kind->object], t->v.to);
        born->made_ns = step_now(t);
        token_secret_put(t->txn, born);
    }
    t->v.cloned = false;
    moving_put(t->txn, &t->v);
    return step_commit(t, "make", t->v.to, NULL, 0, e);
}

static RESULT saving(struct step *t, struct err *e)
{
    CLEANUP(token_backup_release) struct token_backup b = {0};
    const struct token_secret *old = token_secrets_current(&t->all);
    bool again;
    TRY(make_again(t, &again, e));
    if (again)
        return ok();
    TRY(token_backup_make(t->x->s, t->v.cloned, &b, e));
    if (!token_backup_holds(&b, t->kind->object, t->v.to))
        FAIL(e, ERR_DATA_LOSS, "HSM_BACKUP", "the token's backup lacks %s %u: it holds %s", word(t), t->v.to, b.b.holds);
    (void)snprintf(t->before, sizeof t->before, "{\"rotation\":\"%s\",\"current\":%u}", step_state(t), old != NULL ? old->version : 0);
    TRY(switch_current(t, e));
    moving_restart(&t->v);
    t->v.done = 0;
    t->v.cloned = false;
    TRY(t->kind->begin(t, e));
    TRY(moving_to(&t->v, MOVING_MOVING, step_now(t), e));
    (void)snprintf(t->after, sizeof t->after, "{\"rotation\":\"%s\",\"current\":%u,\"backup\":\"%s\"}", step_state(t), t->v.to,
                   b.kind == INSTANCE_BACKUP_VERIFIED ? "verified" : "vendor clone");
    TRY(token_backup_put(t->x->s->store, t->txn, &b, &t->all, step_now(t), e));
    moving_put(t->txn, &t->v);
    TRY(step_commit(t, "use", t->v.to, NULL, 0, e));
    token_backup_done(t->x->s, &b);
    return keyring_master_changed(t->x->s->keyring, e);
}

/* ---- MOVING ---- */
RESULT step_to_proving(struct step *t, struct err *e)
{
    (void)snprintf(t->before, sizeof t->before, "{\"rotation\":\"%s\"}", step_state(t));
    t->v.total = t->v.done;
    TRY(moving_to(&t->v, MOVING_PROVING, step_now(t), e));
    (void)snprintf(t->after, sizeof t->after, "{\"rotation\":\"%s\",\"%s\":%llu}", step_state(t), t->kind->rows, (unsigned long long)t->v.done);
    moving_put(t->txn, &t->v);
    return step_commit(t, "moved", t->v.to, NULL, 0, e);
}

/* ---- PROVING: nothing depends on another one any more ---- */
static RESULT needed(const struct step *t, uint32_t version, const struct moving_proof *p, struct err *e)
{
    FAIL(e, ERR_STATE, "TOKEN_SECRET_NEEDED", "%llu records depend on %s %u or do not open, the first is %.120s", (unsigned long long)p->left,
         word(t), version, p->first);
}

static RESULT retire(struct step *t, const struct moving_proof *p, struct err *e)
{
    uint32_t version = 0;
    for (size_t i = 0; i < t->all.n; i++) {
        struct token_secret *m = &t->all.all[i];
        if (m->state != SECRET_RETIRING)
            continue;
        TRY(sm_move(&token_secret_machine, &m->state, SECRET_RETIRED, e));
        m->retired_ns = step_now(t);
        m->unsure = !step_steady(t);
        version = m->version;
        token_secret_put(t->txn, m);
    }
    (void)snprintf(t->before, sizeof t->before, "{\"rotation\":\"%s\",\"%s\":\"RETIRING\"}", step_state(t), word(t));
    TRY(moving_to(&t->v, MOVING_IDLE, step_now(t), e));
    (void)snprintf(t->after, sizeof t->after, "{\"rotation\":\"%s\",\"%s\":\"RETIRED\",%s,\"under_another_%s\":0}", step_state(t), word(t), p->counts, word(t));
    moving_put(t->txn, &t->v);
    if (t->kind->retire != NULL)
        t->kind->retire(t);
    return step_commit(t, "retire", version, NULL, 0, e);
}

static RESULT proving(struct step *t, struct err *e)
{
    struct moving_proof p;
    const struct token_secret *old = token_secrets_in(&t->all, SECRET_RETIRING);
    const uint32_t version = old != NULL ? old->version : 0;
    TRY(t->kind->prove(t, 0, &p, e));
    if (p.wait)
        return ok();
    if (p.left == 0)
        return retire(t, &p, e);
    (void)snprintf(t->before, sizeof t->before, "{\"rotation\":\"%s\"}", step_state(t));
    TRY(moving_to(&t->v, MOVING_MOVING, step_now(t), e));
    moving_restart(&t->v);
    (void)snprintf(t->after, sizeof t->after, "{\"rotation\":\"%s\",\"under_another_%s\":%llu}", step_state(t), word(t), (unsigned long long)p.left);
    moving_put(t->txn, &t->v);
    TRY(step_commit(t, "prove", t->v.to, NULL, 0, e));
    t->ret->more = false;
    return needed(t, version, &p, e);
}

/* ---- one that is to be destroyed ---- */
static RESULT give_up_destroying(struct step *t, struct token_secret *m, const struct moving_proof *p, struct err *e)
{
    (void)snprintf(t->before, sizeof t->before, "{\"%s\":\"DESTROYING\"}", word(t));
    TRY(sm_move(&token_secret_machine, &m->state, SECRET_RETIRED, e));
    m->forfeit_ns = 0;
    m->forfeit_by[0] = '\0';
    (void)snprintf(t->after, sizeof t->after, "{\"%s\":\"RETIRED\",\"under_it\":%llu}", word(t), (unsigned long long)p->left);
    token_secret_put(t->txn, m);
    TRY(step_commit(t, "destroy", m->version, NULL, 0, e));
    t->x->ends_again_boot_ms = clock_boot_ms(t->x->s->clock) + MOVING_ENDS_AGAIN_MS;
    t->ret->more = false;
    return needed(t, m->version, p, e);
}

/* The token without it is another token: what is needed of it now is backed up once more. */
static RESULT save_again(struct step *t, struct err *e)
{
    struct service *s = t->x->s;
    CLEANUP(store_txn_freep) struct store_txn *txn = store_txn_new(s->store);
    CLEANUP(token_backup_release) struct token_backup b = {0};
    struct hsm_status st;
    uint64_t seq;
    TRY(hsm_probe(s->hsm, &st, e));
    if (!st.copyable)
        return ok();
    TRY(token_backup_make(s, false, &b, e));
    TRY(token_backup_put(s->store, txn, &b, NULL, step_now(t), e));
    TRY(store_txn_commit(txn, &seq, e));
    token_backup_done(s, &b);
    return keyring_master_changed(s->keyring, e);
}

static void after_destroying(struct step *t, uint32_t version)
{
    struct err why = {0};
    char what[TOKEN_SECRET_ID_MAX];
    (void)token_secret_id(t->kind->object, version, what);
    if (save_again(t, &why).failed)
        log_event(LOG_WARN, "a secret was destroyed, and the token was not backed up again", LF_STR("secret", what), LF_ERR(&why));
    else
        log_event(LOG_INFO, "a secret was destroyed; backups of the token from before still hold it", LF_STR("secret", what));
}

static RESULT destroy(struct step *t, struct token_secret *m, struct err *e)
{
    struct moving_proof p;
    struct err why = {0};
    TRY(t->kind->prove(t, m->version, &p, e));
    if (p.wait)
        return ok();
    if (p.left > 0)
        return give_up_destroying(t, m, &p, e);
    if (hsm_destroy(t->x->s->hsm, t->kind->object, m->version, &why).failed && why.code != ERR_NOT_FOUND) { /* not there: we did, and died */
        *e = why;
        return (struct result){1};
    }
    (void)snprintf(t->before, sizeof t->before, "{\"%s\":\"DESTROYING\"}", word(t));
    TRY(sm_move(&token_secret_machine, &m->state, SECRET_DESTROYED, e));
    m->destroyed_ns = step_now(t);
    (void)snprintf(t->after, sizeof t->after, "{\"%s\":\"DESTROYED\",%s,\"under_it\":0}", word(t), p.counts);
    const uint32_t version = m->version;
    token_secret_put(t->txn, m);
    store_txn_urgent(t->txn); /* an older copy of the store would take it for there */
    TRY(step_commit(t, "destroy", version, NULL, 0, e));
    after_destroying(t, version);
    return ok();
}

/* One that was destroyed, and is there again: the token was put back from before. It goes again, or what was destroyed under it could be read once
 * more in copies of the store. Not at once: somebody may be about to put back the store, too. */
static RESULT look_for_destroyed(struct step *t, bool *ret_did, struct err *e)
{
    struct err none = {0};
    bool there = false;
    *ret_did = false;
    if (clock_boot_ms(t->x->s->clock) < t->x->look_boot_ms)
        return ok();
    t->x->look_boot_ms = clock_boot_ms(t->x->s->clock) + MOVING_ENDS_AGAIN_MS;
    for (size_t i = 0; i < t->all.n && !*ret_did; i++) {
        struct token_secret *m = &t->all.all[i];
        if (m->state != SECRET_DESTROYED || moving_lies_there(t->x->s, m->kind, m->version, &there, &none).failed || !there)
            continue; /* a token that is away is asked next time */
        (void)snprintf(t->before, sizeof t->before, "{\"%s\":\"DESTROYED\",\"token\":\"there again\"}", word(t));
        TRY(sm_move(&token_secret_machine, &m->state, SECRET_DESTROYING, e));
        (void)snprintf(t->after, sizeof t->after, "{\"%s\":\"DESTROYING\"}", word(t));
        token_secret_put(t->txn, m);
        t->x->look_boot_ms = 0; /* there may be more */
        *ret_did = true;
        return step_commit(t, "destroy", m->version, NULL, 0, e);
    }
    return ok();
}

/* What a clock that has gone steadily has to say about times that another one put down. A retirement by one that had not is as old as this
 * moment: its backups may be. A use that is yet to come was put down by a clock that was ahead: earlier is safe, and else nothing would rotate
 * before that. A retirement that is yet to come stays: that clock, or this one, may be wrong, and too late is safe. */
static RESULT correct_times(struct step *t, bool *ret_did, struct err *e)
{
    *ret_did = false;
    for (size_t i = 0; i < t->all.n && step_steady(t); i++) {
        struct token_secret *m = &t->all.all[i];
        const bool use = m->state == SECRET_CURRENT && m->used_ns > step_now(t) + CLOCK_SLACK_NS;
        int64_t *at = use ? &m->used_ns : &m->retired_ns;
        char was[TEXT_RFC3339_BYTES], now[TEXT_RFC3339_BYTES];
        if (!use && (m->state != SECRET_RETIRED || !m->unsure))
            continue;
        text_format_rfc3339(*at, was);
        *at = step_now(t);
        text_format_rfc3339(*at, now);
        m->unsure = false;
        (void)snprintf(t->before, sizeof t->before, "{\"%s\":\"%s\",\"since\":\"%s\"}", word(t), sm_name(&token_secret_machine, m->state), was);
        (void)snprintf(t->after, sizeof t->after, "{\"%s\":\"%s\",\"since\":\"%s\"}", word(t), sm_name(&token_secret_machine, m->state), now);
        token_secret_put(t->txn, m);
        *ret_did = true;
        return step_commit(t, "correct", m->version, NULL, 0, e);
    }
    return ok();
}

/* ---- whichever is next ---- */
RESULT moving_step(struct moving_steps *x, struct moving_step *ret, struct err *e)
{
    CLEANUP(step_release) struct step t = {.x = x, .ret = ret};
    bool did = false;
    *ret = (struct moving_step){0};
    TRY(step_begin(&t, e));
    ret->done = t.v.done;
    struct token_secret *doomed = token_secrets_in(&t.all, SECRET_DESTROYING);
    if (doomed != NULL)
        return destroy(&t, doomed, e);
    TRY(look_for_destroyed(&t, &did, e));
    if (did)
        return ok();
    TRY(correct_times(&t, &did, e));
    if (did)
        return ok();
    if (t.kind->by_itself != NULL)
        TRY(t.kind->by_itself(&t, &did, e));
    if (did)
        return ok();
    switch (t.v.state) {
    case MOVING_MAKING:
        return making(&t, e);
    case MOVING_SAVING:
        return saving(&t, e);
    case MOVING_MOVING:
        return t.kind->move(&t, e);
    case MOVING_PROVING:
        return proving(&t, e);
    default: /* IDLE, PAUSED */
        return ok();
    }
}
