/*
 * Purpose: how far the rotation of a secret on the token has come, as one record that changes in the transaction of each step: who dies
 *          in between goes on where it was. Made for the master; the seal secret takes the same states.
 * Owns:    nothing. Threads: pure; reading blocks on the store.
 * Errors:  ERR_STATE "ILLEGAL_TRANSITION"; ERR_DATA_LOSS "RECORD_MALFORMED". Limits: one rotation of a kind at a time. Secrets: none.
 *
 * REC_META "moving-master": u8 format 1, u8 state, u32 to, i64 started, i64 state since (Unix ns), u64 total, u64 done, u64 tenants,
 * u32 broken, u8 cloned, u8 inside, v16 tenant, v16 cursor, v16 by.
 */
#ifndef VAULT_SERVICE_MOVING_H
#define VAULT_SERVICE_MOVING_H

#include "base/sm.h"
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

enum { MOVING_WHO_MAX = 255 };
struct moving {
    unsigned state;                 /* enum moving_state */
    uint32_t to;                    /* the version that becomes current; 0: none was ever asked for */
    int64_t started_ns, since_ns;
    uint64_t total, done;           /* rows of versions: when it began to move, and behind it */
    uint64_t tenants;               /* done */
    uint32_t broken;                /* versions of the tenant under way that do not unwrap */
    bool cloned;                    /* somebody said that the token was cloned, which kmsd cannot see */
    bool inside;                    /* tenant is under way; else it is the last that is done */
    char tenant[NAME_SEGMENT_MAX + 1];
    uint8_t after[STORE_ID_MAX];    /* the cursor among its versions */
    size_t after_n;
    char by[MOVING_WHO_MAX + 1];    /* who asked */
    uint64_t revision;
};
/* IDLE where there is no record yet. */
RESULT moving_read(struct store *s, struct moving *ret, struct err *e);
void moving_put(struct store_txn *txn, const struct moving *m); /* its revision must be as read */
RESULT moving_to(struct moving *m, enum moving_state to, int64_t now_ns, struct err *e);
void moving_restart(struct moving *m); /* from the first tenant on */

#endif
