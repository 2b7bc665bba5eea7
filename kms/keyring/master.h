/*
 * Purpose: the store's word on the master secrets: which one new keys are wrapped under, which are still needed, which are gone. A
 *          secret that only lies on the token is used for nothing.
 * Owns:    nothing. Threads: pure; reading blocks on the store.
 * Errors:  ERR_STATE "MASTER_STATE" for a move that the table does not have; ERR_DATA_LOSS "RECORD_MALFORMED".
 * Limits:  MASTERS_MAX rows: of those that are destroyed the oldest are forgotten. Secrets: none: versions and times.
 *
 * REC_META "master-<version>": u8 format 1, u8 state, u8 origin (1: made in the token), i64 made, saved, retired, destroyed, forfeit
 * asked (Unix ns, 0: not yet), v16 by whom. "token" for version 1: current, made in the token, times unknown.
 */
#ifndef KMS_KEYRING_MASTER_H
#define KMS_KEYRING_MASTER_H

#include "base/sm.h"
#include "kms/store/store.h"

enum { MASTERS_MAX = 64, MASTER_WHO_MAX = 255 };

/* BORN ------> CURRENT -------> RETIRING -------> RETIRED <-----> DESTROYING ------> DESTROYED
 *  made, and    tenants and      the next one      proven: no      asked for; once    gone from the
 *  backed up    versions are     is current;       record needs    more proven, then  token
 *  before use   wrapped under it  records move     it               the effect
 */
enum master_state { MASTER_BORN = 1, MASTER_CURRENT, MASTER_RETIRING, MASTER_RETIRED, MASTER_DESTROYING, MASTER_DESTROYED };
extern const struct sm_table master_machine;

struct master {
    uint32_t version;
    unsigned state; /* enum master_state */
    int64_t made_ns, retired_ns, destroyed_ns;
    int64_t saved_ns;                     /* the last backup of the token that holds it */
    int64_t forfeit_ns;                   /* when the first of two asked to destroy it before its backups expire; 0: nobody */
    char forfeit_by[MASTER_WHO_MAX + 1];
    uint64_t revision;                    /* as read; STORE_ABSENT: a new row */
};
static inline bool master_needed(const struct master *m) /* something may be wrapped under it */
{
    return m->state == MASTER_CURRENT || m->state == MASTER_RETIRING;
}
struct masters {
    struct master all[MASTERS_MAX]; /* by version */
    size_t n;
};
RESULT masters_read(struct store *s, struct masters *ret, struct err *e);
struct master *masters_find(struct masters *m, uint32_t version); /* NULL: none */
struct master *masters_current(struct masters *m);                /* NULL: none, or more than one */
/* The puts of one master; its revision must be as read. */
void master_put(struct store_txn *txn, const struct master *m);
void master_forget(struct store_txn *txn, const struct master *m);
enum { MASTER_ID_MAX = 24 };
struct bytes master_id(uint32_t version, char out[MASTER_ID_MAX]);
/* `kmsd init`: version 1, current. */
void master_first(struct store_txn *txn, int64_t now_ns);

#endif
