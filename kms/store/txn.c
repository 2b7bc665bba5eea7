#include "kms/store/internal.h"

#include <stdlib.h>
#include <string.h>

struct store_txn *store_txn_new(struct store *s)
{
    struct store_txn *t = calloc(1, sizeof *t);
    INVARIANT(t);
    t->s = s;
    buf_init(&t->data, STORE_TXN_MAX_BYTES);
    INVARIANT(pthread_cond_init(&t->settled, NULL) == 0);
    return t;
}

void store_txn_free(struct store_txn *t)
{
    if (!t)
        return;
    pthread_cond_destroy(&t->settled);
    buf_release(&t->data);
    free(t->ops);
    free(t);
}

void store_txn_freep(struct store_txn **t)
{
    store_txn_free(*t);
}

static size_t keep(struct store_txn *t, struct bytes b)
{
    size_t at = t->data.n;
    buf_put_bytes(&t->data, b);
    if (t->data.overflow)
        t->broken = "too many bytes in one transaction";
    return at;
}

static struct op *add(struct store_txn *t, enum op_kind what, enum rec_kind kind, const uint8_t tenant[16], struct bytes id,
                      uint64_t expected)
{
    if (t->nops == STORE_TXN_MAX)
        t->broken = "too many operations";
    if (id.n == 0 || id.n > STORE_ID_MAX)
        t->broken = "id length";
    if (expected != STORE_ANY && expected >= INT64_MAX)
        t->broken = "expected revision";
    if (t->broken)
        return NULL;
    if (t->nops == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 8;
        t->ops = reallocarray(t->ops, t->cap, sizeof *t->ops);
        INVARIANT(t->ops);
    }
    struct op *op = &t->ops[t->nops++];
    *op = (struct op){.what = what, .kind = kind, .id_at = keep(t, id), .id_n = id.n, .expected = expected};
    memcpy(op->tenant, tenant, sizeof op->tenant);
    return op;
}

void store_txn_put(struct store_txn *t, const struct record *r, uint64_t expected)
{
    if (r->name.n > STORE_NAME_MAX)
        t->broken = "name length";
    if (r->body.n > STORE_BODY_MAX)
        t->broken = "body length";
    if (r->count > INT64_MAX)
        t->broken = "count"; /* SQL integers are signed */
    struct op *op = add(t, OP_PUT, r->kind, r->tenant, r->id, expected);
    if (!op)
        return;
    op->name_at = keep(t, r->name);
    op->name_n = r->name.n;
    op->body_at = keep(t, r->body);
    op->body_n = r->body.n;
    op->state = r->state;
    op->time_unix_ns = r->time_unix_ns;
    op->count = r->count;
}

void store_txn_delete(struct store_txn *t, enum rec_kind kind, const uint8_t tenant[16], struct bytes id, uint64_t expected)
{
    add(t, OP_DELETE, kind, tenant, id, expected);
}

void store_txn_check(struct store_txn *t, enum rec_kind kind, const uint8_t tenant[16], struct bytes id, uint64_t expected)
{
    add(t, OP_CHECK, kind, tenant, id, expected);
}

void store_txn_event(struct store_txn *t, const uint8_t tenant[16], struct bytes event)
{
    if (t->has_event)
        t->broken = "a second event";
    if (event.n == 0 || event.n > STORE_EVENT_MAX)
        t->broken = "event length";
    t->has_event = true;
    t->event_at = keep(t, event);
    t->event_n = event.n;
    memcpy(t->event_tenant, tenant, sizeof t->event_tenant);
}

void store_txn_urgent(struct store_txn *t)
{
    t->is_urgent = true;
}

void store_txn_erases(struct store_txn *t)
{
    t->is_erasing = true;
}

RESULT store_txn_seal(struct store_txn *t, uint32_t epoch, struct err *e)
{
    CLEANUP(buf_release) struct buf identity;
    struct store *s = t->s;
    buf_init(&identity, 4096);
    if (t->seals)
        t->broken = "a second seal epoch";
    t->seals = true;
    t->seal_epoch = epoch;
    if (epoch <= store_seal_epoch(s))
        return ok(); /* the commit refuses it; the token is not asked for what may be gone */
    TRY(seal_have(&s->seal, epoch, e));
    TRY(seal_identity(&s->seal, epoch, s->instance, &identity, e));
    for (uint32_t known = s->seal.newest; known < epoch;)
        if (atomic_compare_exchange_weak(&s->seal.newest, &known, epoch))
            break;
    t->identity_at = keep(t, buf_bytes(&identity));
    t->identity_n = identity.n;
    return ok();
}

void txn_reseal(struct store_txn *t, const struct record *key, uint32_t epoch, const uint8_t tag[ENTRY_TAG_BYTES], uint32_t epoch_after,
                struct bytes sealed)
{
    struct op *op = add(t, OP_RESEAL, key->kind, key->tenant, key->id, key->revision);
    if (!op)
        return;
    op->body_at = keep(t, sealed);
    op->body_n = sealed.n;
    op->epoch_before = epoch;
    op->epoch_after = epoch_after;
    memcpy(op->tag_before, tag, sizeof op->tag_before);
}

static RESULT submit_and_wait(struct store_txn *t, struct err *e)
{
    struct store *s = t->s;
    pthread_mutex_lock(&s->mu);
    t->next = NULL;
    t->is_settled = t->failed = false;
    *s->tail = t;
    s->tail = &t->next;
    pthread_cond_signal(&s->work);
    while (!t->is_settled)
        pthread_cond_wait(&t->settled, &s->mu);
    pthread_mutex_unlock(&s->mu);
    if (t->failed)
        *e = t->err;
    return (struct result){t->failed};
}

RESULT store_txn_commit(struct store_txn *t, uint64_t *ret_seq, struct err *e)
{
    if (t->s->check_only)
        FAIL(e, ERR_STATE, "STORE_CHECK_ONLY", "opened to be examined, not to be changed");
    if (t->broken)
        FAIL(e, ERR_OUT_OF_RANGE, "STORE_LIMIT", "transaction refused: %s", t->broken);
    TRY(submit_and_wait(t, e));
    if (t->is_urgent)
        anchor_cover(t->s);
    if (ret_seq)
        *ret_seq = t->seq;
    return ok();
}

RESULT store_outbox_trim(struct store *s, uint64_t up_to, struct err *e)
{
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(s);
    if (s->check_only)
        FAIL(e, ERR_STATE, "STORE_CHECK_ONLY", "opened to be examined, not to be changed");
    t->is_trim = true;
    t->trim_up_to = up_to > INT64_MAX ? INT64_MAX : up_to;
    return submit_and_wait(t, e);
}
