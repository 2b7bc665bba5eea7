/*
 * Purpose: how far the rotation of a secret on the token has come, the master's or the seal secret's, as one record of each that changes in
 *          the transaction of each step: who dies in between goes on where it was.
 * Owns:    nothing. Threads: pure; reading blocks on the store.
 * Errors:  ERR_STATE "ILLEGAL_TRANSITION"; ERR_DATA_LOSS "RECORD_MALFORMED". Limits: one rotation of a kind at a time. Secrets: none.
 *
 * REC_META "moving-master", "moving-seal": u8 format 1, u8 state, u32 to, i64 started, i64 state since (Unix ns), u64 total, u64 done,
 * u64 tenants, u32 broken, u8 cloned, u8 inside, v16 tenant, v16 cursor, v16 by. The cursor: the id of a tenant's version row; of the seal
 * secret's: u16 kind, tenant[16], id of any row.
 */
#ifndef VAULT_SERVICE_MOVING_H
#define VAULT_SERVICE_MOVING_H

#include "base/sm.h"
#include "hsm/hsm.h"
#include "kms/name/name.h"
#include "kms/store/store.h"

/*         asked            on the token         backed up and current           nothing seen any more
 * IDLE ---------> MAKING -------------> SAVING ----------------------> MOVING --------------------> PROVING
 *  ^                                                                   ^  | ^                          |  |
 *  |                                                                   |  v |        something left    |  |
 *  |                                                                  PAUSED +--------------------------  |
 *  +------------------------------- nothing left: the one before is retired -------------------------------+
 */
enum moving_state { MOVING_IDLE = 1, MOVING_MAKING, MOVING_SAVING, MOVING_MOVING, MOVING_PAUSED, MOVING_PROVING };
extern const struct sm_table moving_machine;

enum { MOVING_WHO_MAX = 255, MOVING_CURSOR_MAX = 2 + STORE_TENANT_BYTES + STORE_ID_MAX };
struct moving {
    enum hsm_object kind;           /* HSM_MASTER or HSM_SEAL */
    unsigned state;                 /* enum moving_state */
    uint32_t to;                    /* the version that becomes current; 0: none was ever asked for */
    int64_t started_ns, since_ns;
    uint64_t total, done;           /* rows (the master's: of versions): when it began to move, and behind it */
    uint64_t tenants;               /* done; the master's only, as the next line but `broken` */
    uint32_t broken;                /* rows that do not open: the master's: of the tenant under way */
    bool cloned;                    /* somebody said that the token was cloned, which kmsd cannot see */
    bool inside;                    /* tenant is under way; else it is the last that is done */
    char tenant[NAME_SEGMENT_MAX + 1];
    uint8_t after[MOVING_CURSOR_MAX];
    size_t after_n;
    char by[MOVING_WHO_MAX + 1];    /* who asked */
    uint64_t revision;
};
/* IDLE where there is no record yet. */
RESULT moving_read(struct store *s, enum hsm_object kind, struct moving *ret, struct err *e);
void moving_put(struct store_txn *txn, const struct moving *m); /* its revision must be as read */
RESULT moving_to(struct moving *m, enum moving_state to, int64_t now_ns, struct err *e);
void moving_restart(struct moving *m); /* from the first row on */
/* For kmsd accept-rollback: a rotation that was about to make its secret is given up, for that secret may have been made and used in the future
 * that is given up, and would be taken for what a death left. *ret_changed: the row is, its body lies in `body`. */
void moving_as_given_up(struct record *row, struct buf *body, bool *ret_changed);

#endif
