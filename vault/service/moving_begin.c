/* The beginning of a rotation of a secret on the token: its number, and what lies there that no record speaks of. */
#include "base/kdfenc.h"
#include "base/rng.h"
#include "vault/service/moving_kind.h"
#include "vault/service/review.h"
#include "vault/service/token_backup.h"

#include <string.h>

/* Asked by a challenge: hsm says what is newest, not what there is. */
RESULT moving_lies_there(struct service *s, enum hsm_object kind, uint32_t version, bool *ret, struct err *e)
{
    CLEANUP(buf_release) struct buf input;
    CLEANUP(secret_freep) struct secret *answer = NULL;
    uint8_t nonce[32];
    const struct bytes fields[] = {BYTES(nonce, sizeof nonce)};
    struct err why = {0};
    rng_fill(&rng_system, nonce, sizeof nonce);
    buf_init(&input, KDFENC_MAX_BYTES);
    INVARIANT(kdfenc_build(KDF_CHALLENGE, fields, 1, &input));
    *ret = !hsm_derive(s->hsm, kind, version, buf_bytes(&input), &answer, &why).failed;
    if (*ret || why.code == ERR_NOT_FOUND)
        return ok();
    *e = why;
    return (struct result){1};
}

/* Room for one more row: of those that are gone, the oldest is forgotten. */
static RESULT make_room(struct token_secrets *all, struct store_txn *txn, struct err *e)
{
    if (all->n < TOKEN_SECRETS_MAX)
        return ok();
    struct token_secret *oldest = token_secrets_in(all, SECRET_DESTROYED);
    if (oldest == NULL)
        FAIL(e, ERR_EXHAUSTED, "TOO_MANY_TOKEN_SECRETS", "%zu secrets of that kind are on record, and none of them is destroyed", all->n);
    token_secret_forget(txn, oldest);
    all->n--;
    memmove(oldest, oldest + 1, (size_t)(all->all + all->n - oldest) * sizeof *oldest);
    return ok();
}

static RESULT was_accepted(struct store *s, bool *ret, struct err *e)
{
    struct review_note n;
    uint64_t revision;
    struct err why = {0};
    *ret = !review_note_get(s, REVIEW_ROLLBACK, &n, &revision, &why).failed;
    if (*ret || why.code == ERR_NOT_FOUND)
        return ok();
    *e = why;
    return (struct result){1};
}

/* Secrets that lie above all on record, in a store that was accepted as an older copy: of the future that was given up. Copies of the store from
 * there are under them, so they go as others do that nothing here needs. In any other store they are not ours to say. */
static RESULT adopt(struct service *s, enum hsm_object kind, uint32_t known, uint32_t newest, struct token_secrets *all, struct store_txn *txn,
                    struct err *e)
{
    bool accepted, there;
    struct err none = {0};
    if (newest <= known)
        return ok();
    TRY(was_accepted(s->store, &accepted, e));
    for (uint32_t v = known + 1; accepted && v <= newest && v - known <= TOKEN_SECRETS_MAX; v++) {
        TRY(moving_lies_there(s, kind, v, &there, e));
        if (!there)
            continue;
        if (make_room(all, txn, &none).failed)
            return ok();
        all->all[all->n] = (struct token_secret){.kind = kind, .version = v, .state = SECRET_RETIRED, .retired_ns = clock_wall_ns(s->clock), .unsure = true, .revision = STORE_ABSENT};
        token_secret_put(txn, &all->all[all->n++]);
    }
    return ok();
}

/* Above all that store and token know: a number is never used for two secrets. */
static RESULT next_version(struct service *s, enum hsm_object kind, struct token_secrets *all, struct store_txn *txn, uint32_t *ret, struct err *e)
{
    struct hsm_status st;
    uint32_t known = 0;
    TRY(token_backup_fit(s, &st, e));
    for (size_t i = 0; i < all->n; i++)
        known = all->all[i].version > known ? all->all[i].version : known;
    const uint32_t there = hsm_newest(&st, kind), newest = there > known ? there : known;
    TRY(adopt(s, kind, known, there, all, txn, e));
    TRY(make_room(all, txn, e));
    if (newest == UINT32_MAX)
        FAIL(e, ERR_EXHAUSTED, "TOO_MANY_TOKEN_SECRETS", "there is no higher version");
    *ret = newest + 1;
    return ok();
}

RESULT moving_begin(struct service *s, struct moving *v, struct token_secrets *all, const char *by, struct store_txn *txn, struct err *e)
{
    uint32_t to = 0;
    if (v->state != MOVING_IDLE)
        FAIL(e, ERR_STATE, "ROTATION_STATE", "a rotation to %s %u is under way: %s", token_secret_word(v->kind), v->to, sm_name(&moving_machine, v->state));
    TRY(next_version(s, v->kind, all, txn, &to, e));
    *v = (struct moving){.kind = v->kind, .state = v->state, .to = to, .started_ns = clock_wall_ns(s->clock), .revision = v->revision};
    INVARIANT(strlen(by) < sizeof v->by);
    memcpy(v->by, by, strlen(by) + 1);
    TRY(moving_to(v, MOVING_MAKING, v->started_ns, e));
    moving_put(txn, v);
    return ok();
}
