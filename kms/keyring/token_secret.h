/*
 * Purpose: the store's word on the secrets of a kind that lie on the token, the masters and the seal secrets: which one is in use, which
 *          are still needed, which are gone. A secret that only lies on the token is used for nothing.
 * Owns:    nothing. Threads: pure; reading blocks on the store.
 * Errors:  ERR_STATE "ILLEGAL_TRANSITION" for a move that the table does not have; ERR_DATA_LOSS "RECORD_MALFORMED".
 * Limits:  TOKEN_SECRETS_MAX rows of a kind: of those that are destroyed the oldest are forgotten. Secrets: none: versions and times.
 *
 * REC_META "master-<version>", "seal-<version>": u8 format 3, u8 state, u8 origin (1: made in the token), i64 made, used, saved, retired,
 * destroyed, forfeit asked (Unix ns, 0: not yet), v16 by whom, u8 unsure. Format 2 has no `unsure`, 1 no `used` either. "token" for master 1: current, times unknown.
 */
#ifndef KMS_KEYRING_TOKEN_SECRET_H
#define KMS_KEYRING_TOKEN_SECRET_H

#include "base/sm.h"
#include "hsm/hsm.h"
#include "kms/store/store.h"

enum { TOKEN_SECRETS_MAX = 64, TOKEN_SECRET_WHO_MAX = 255, TOKEN_SECRET_ID_MAX = 24 };

/* BORN ------> CURRENT -------> RETIRING -------> RETIRED <-----> DESTROYING <-----> DESTROYED
 *  made, and    what comes to    the next one      proven: no      asked for; once    gone from the
 *  backed up    be is under it   is current;       record needs    more proven, then  token
 *  before use                    records move      it              the effect; back with an older
 *                                                                                    token: once more
 */
enum token_secret_state { SECRET_BORN = 1, SECRET_CURRENT, SECRET_RETIRING, SECRET_RETIRED, SECRET_DESTROYING, SECRET_DESTROYED };
extern const struct sm_table token_secret_machine;

struct token_secret {
    enum hsm_object kind;  /* HSM_MASTER or HSM_SEAL */
    uint32_t version;      /* of a seal secret: the epoch */
    unsigned state;        /* enum token_secret_state */
    int64_t made_ns, used_ns /* it became current */, retired_ns, destroyed_ns;
    bool unsure;           /* retired_ns is by a clock that had not gone steadily: one that has sets it anew, and no time is up before that */
    int64_t saved_ns;      /* the last backup of the token that holds it */
    int64_t forfeit_ns;    /* when the first of two asked to destroy it before its backups expire; 0: nobody */
    char forfeit_by[TOKEN_SECRET_WHO_MAX + 1];
    uint64_t revision;     /* as read; STORE_ABSENT: a new row */
};
struct token_secrets {
    enum hsm_object kind;
    struct token_secret all[TOKEN_SECRETS_MAX]; /* by version */
    size_t n;
};
RESULT token_secrets_read(struct store *s, enum hsm_object kind, struct token_secrets *ret, struct err *e);
struct token_secret *token_secrets_find(struct token_secrets *all, uint32_t version);                 /* NULL: none */
struct token_secret *token_secrets_in(struct token_secrets *all, enum token_secret_state state);     /* the oldest; NULL: none */
struct token_secret *token_secrets_current(struct token_secrets *all);                               /* NULL: none, or more than one */

/* The puts of one; its revision must be as read. */
void token_secret_put(struct store_txn *txn, const struct token_secret *m);
void token_secret_forget(struct store_txn *txn, const struct token_secret *m);
struct bytes token_secret_id(enum hsm_object kind, uint32_t version, char out[TOKEN_SECRET_ID_MAX]);
const char *token_secret_word(enum hsm_object kind); /* "master", "seal" */
/* One that is in use from now on, with no rotation before it: `kmsd init`, and a store from before its kind had records. */
void token_secret_first(struct store_txn *txn, enum hsm_object kind, uint32_t version, int64_t now_ns);

#endif
