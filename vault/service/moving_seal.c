/* What moves when the seal secret rotates: every row of the store, page by page; and what happens by itself: a new one when the period of
 * the current one is over, and the end of one that no backup needs any more (DESIGN section 5). */
#include "vault/service/moving_kind.h"

#include <stdio.h>
#include <string.h>

#define NS_PER_MS INT64_C(1000000)

static RESULT agree(struct step *t, struct err *e)
{
    const struct token_secret *now = token_secrets_current(&t->all);
    const uint32_t epoch = store_seal_epoch(t->x->s->store);
    if (now == NULL || now->version != epoch)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "the store is sealed under epoch %u, and its records call another one current", epoch);
    if (t->v.state >= MOVING_MOVING && epoch != t->v.to)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "the rotation is to seal %u, and %u is current", t->v.to, epoch);
    return ok();
}

static RESULT begin(struct step *t, struct err *e)
{
    store_txn_urgent(t->txn); /* the floor is sealed too */
    return store_txn_seal(t->txn, t->v.to, e);
}

/* ---- page by page ---- */
static RESULT cursor_get(const struct moving *v, struct store_reseal *ret, struct err *e)
{
    struct reader in = reader_of(BYTES(v->after, v->after_n));
    *ret = (struct store_reseal){.limit = MOVING_SEAL_PAGE};
    if (v->after_n == 0)
        return ok();
    ret->kind = reader_u16(&in);
    reader_copy(&in, ret->tenant, sizeof ret->tenant);
    if (in.bad || in.n > sizeof ret->id)
        FAIL(e, ERR_DATA_LOSS, "RECORD_MALFORMED", "the cursor of the rotation of the seal secret is not ours");
    ret->id_n = in.n;
    memcpy(ret->id, in.p, in.n);
    return ok();
}

static void cursor_put(const struct store_reseal *at, struct moving *v)
{
    put_be16(v->after, at->kind);
    memcpy(v->after + 2, at->tenant, sizeof at->tenant);
    memcpy(v->after + 2 + sizeof at->tenant, at->id, at->id_n);
    v->after_n = 2 + sizeof at->tenant + at->id_n;
}

static RESULT move(struct step *t, struct err *e)
{
    struct store_reseal at;
    const struct token_secret *from = token_secrets_in(&t->all, SECRET_RETIRING);
    TRY(step_going(t, e));
    TRY(cursor_get(&t->v, &at, e));
    if (t->v.after_n == 0) { /* from the first row on: only now is it known how many there are */
        TRY(store_reseal_count(t->x->s->store, &t->v.total, e));
        t->v.total += t->v.done;
    }
    TRY(store_reseal(t->x->s->store, &at, t->txn, e));
    if (at.rows == 0 && at.broken == 0)
        return step_to_proving(t, e);
    cursor_put(&at, &t->v);
    t->v.broken += at.broken;
    step_passed(t, at.rows + at.broken);
    (void)snprintf(t->before, sizeof t->before, "{\"seal\":%u}", from != NULL ? from->version : 0);
    (void)snprintf(t->after, sizeof t->after, "{\"seal\":%u,\"rows\":%u,\"done\":%s}", t->v.to, at.rows, at.end ? "true" : "false");
    moving_put(t->txn, &t->v);
    t->ret->moved = at.rows;
    return step_commit(t, "move", t->v.to, NULL, at.rows, e);
}

/* ---- the proof ---- */
/* An event lies in the outbox until the journal has it: those from before are under the old secret. What the journal has is taken away. */
static RESULT settle_outbox(struct step *t, bool *ret_wait, struct err *e)
{
    struct service *s = t->x->s;
    *ret_wait = false;
    if (s->journal == NULL)
        return ok();
    if (t->x->events_before == 0)
        t->x->events_before = store_outbox_last(s->store);
    const uint64_t has = journal_outbox_seq(s->journal);
    *ret_wait = has < t->x->events_before;
    return *ret_wait ? ok() : store_outbox_trim(s->store, has, e);
}

/* Of every row, whichever version is asked about: what does not open may be under any. */
static RESULT prove(struct step *t, uint32_t version, struct moving_proof *ret, struct err *e)
{
    struct store_seal_proof p;
    (void)version;
    *ret = (struct moving_proof){0};
    TRY(settle_outbox(t, &ret->wait, e));
    if (ret->wait)
        return ok();
    t->x->events_before = 0;
    TRY(store_seal_prove(t->x->s->store, t->x->stop, t->x->user, &p, e));
    ret->left = p.left;
    (void)snprintf(ret->first, sizeof ret->first, "%s", p.first);
    (void)snprintf(ret->counts, sizeof ret->counts, "\"rows\":%llu", (unsigned long long)p.rows);
    return ok();
}

/* Not even in the log is anything under it: its end erases what it sealed. */
static void retire(struct step *t)
{
    store_txn_erases(t->txn);
    store_txn_urgent(t->txn);
}

/* ---- by itself ---- */
static RESULT end(struct step *t, struct token_secret *m, struct err *e)
{
    (void)snprintf(t->before, sizeof t->before, "{\"seal\":\"RETIRED\"}");
    TRY(sm_move(&token_secret_machine, &m->state, SECRET_DESTROYING, e));
    (void)snprintf(t->after, sizeof t->after, "{\"seal\":\"DESTROYING\"}");
    token_secret_put(t->txn, m);
    return step_commit(t, "destroy", m->version, NULL, 0, e);
}

static RESULT rotate(struct step *t, uint32_t from, struct err *e)
{
    (void)snprintf(t->before, sizeof t->before, "{\"rotation\":\"%s\",\"current\":%u}", step_state(t), from);
    TRY(moving_begin(t->x->s, &t->v, &t->all, t->kind->principal, t->txn, e));
    (void)snprintf(t->after, sizeof t->after, "{\"rotation\":\"%s\",\"to\":%u}", step_state(t), t->v.to);
    return step_commit(t, "rotate", t->v.to, NULL, 0, e);
}

static struct token_secret *expired(struct step *t)
{
    for (size_t i = 0; i < t->all.n; i++) {
        struct token_secret *m = &t->all.all[i];
        if (m->state == SECRET_RETIRED && !m->unsure && step_now(t) >= moving_destroyable_ns(t->x->s->config, m))
            return m;
    }
    return NULL;
}

static RESULT by_itself(struct step *t, bool *ret_did, struct err *e)
{
    const struct config *c = t->x->s->config;
    *ret_did = false;
    if (c == NULL || c->seal_period == 0 || !step_steady(t))
        return ok();
    struct token_secret *old = clock_boot_ms(t->x->s->clock) >= t->x->ends_again_boot_ms ? expired(t) : NULL;
    *ret_did = old != NULL;
    if (old != NULL)
        return end(t, old, e);
    const struct token_secret *now = token_secrets_current(&t->all);
    *ret_did = t->v.state == MOVING_IDLE && step_now(t) - now->used_ns >= (int64_t)c->seal_period * NS_PER_MS;
    return *ret_did ? rotate(t, now->version, e) : ok();
}

const struct moving_kind moving_seal = {.object = HSM_SEAL, .principal = "system:seal", .area = "seals", .rows = "rows", .agree = agree,
                                        .begin = begin, .move = move, .prove = prove, .retire = retire, .by_itself = by_itself};
