/*
 * Purpose: between moving_steps.c, which has the steps of a rotation, and moving_master.c and moving_seal.c, which have what is moved.
 * Owns:    struct step owns its transaction. Threads: the mover's. Errors: as moving_steps.h.
 * Limits:  MOVING_JSON_MAX bytes of before and after. Secrets: none.
 */
#ifndef VAULT_SERVICE_MOVING_KIND_H
#define VAULT_SERVICE_MOVING_KIND_H

#include "vault/service/moving_steps.h"

enum { MOVING_JSON_MAX = 512, MOVING_ACTION_MAX = 32, MOVING_COUNTS_MAX = 96 };

/* What a step works on: the records as they were read, the transaction, and what goes on record. */
struct step {
    struct moving_steps *x;
    const struct moving_kind *kind;
    struct moving v;
    struct token_secrets all; /* of the kind that moves */
    struct store_txn *txn;
    char before[MOVING_JSON_MAX], after[MOVING_JSON_MAX];
    struct moving_step *ret;
};
struct moving_proof {
    uint64_t left;                  /* records that depend on it */
    char first[NAME_MAX_BYTES];     /* of them, for people; "" */
    char counts[MOVING_COUNTS_MAX]; /* what was examined, as JSON fields */
    bool wait;                      /* not now: nothing was examined */
};
struct moving_kind {
    enum hsm_object object;
    const char *principal, *area; /* of its events: "system:master", "masters" */
    const char *rows;             /* what is counted: "versions" */
    /* What the records call current must be what is used: else nothing is moved or proven. */
    RESULT (*agree)(struct step *t, struct err *e);
    RESULT (*begin)(struct step *t, struct err *e); /* counts what is ahead, adds to the transaction that makes v.to current */
    RESULT (*move)(struct step *t, struct err *e); /* one transaction; at the end step_to_proving */
    /* That nothing depends on that version; 0: on any but the current one. */
    RESULT (*prove)(struct step *t, uint32_t version, struct moving_proof *ret, struct err *e);
    void (*retire)(struct step *t); /* in the transaction that retires the one before; NULL */
    /* What is due without anybody asking, as a step of its own; NULL: nothing ever is. */
    RESULT (*by_itself)(struct step *t, bool *ret_did, struct err *e);
};
extern const struct moving_kind moving_master, moving_seal;

/* Whether that version lies on the token, for which it is asked to derive something. */
RESULT moving_lies_there(struct service *s, enum hsm_object kind, uint32_t version, bool *ret, struct err *e);

static inline int64_t step_now(const struct step *t)
{
    return clock_wall_ns(t->x->s->clock);
}
static inline bool step_steady(const struct step *t)
{
    return t->x->steady != NULL && t->x->steady(t->x->user);
}
const char *step_state(const struct step *t);
RESULT step_going(const struct step *t, struct err *e); /* ERR_CANCELLED: `stop` said so */
void step_passed(struct step *t, uint64_t rows);        /* so many more are done; there may be more of them than were counted */
/* The event of this step; what stands in before and after is the caller's JSON. */
RESULT step_commit(struct step *t, const char *verb, uint32_t version, const struct tenant_ref *tenant, uint64_t items, struct err *e);
RESULT step_to_proving(struct step *t, struct err *e);

#endif
