/*
 * Purpose: the queue of what falls due by itself: rows in order of time, each written in the transaction that sets the time. A row
 *          only finds what is due; the record that it names decides.
 * Owns:    nothing. Threads: any; reading blocks on the store.
 * Errors:  the store's; ERR_DATA_LOSS "RECORD_MALFORMED". Limits: one row for each (time, what, name). Secrets: none.
 *
 * REC_DUE: tenant column zero, id = u64 Unix ns, u8 what, SHA-256(name)[0..15]; body: u8 format 1, u8 what, u8 tries, v16 name.
 */
#ifndef KMS_KEYRING_DUE_H
#define KMS_KEYRING_DUE_H

#include "kms/store/store.h"

enum due_what {
    DUE_ROTATION = 1,    /* of a key */
    DUE_DESTRUCTION = 2, /* of a version */
    DUE_PURGE = 3,       /* of a tenant */
    DUE_RETURN = 5,      /* a tenant is ACTIVE again: its keys go back into the queue */
    DUE_CERTIFICATE = 4, /* that one is signed: name of what was destroyed */
    DUE_HSM_UNFINISHED = 20, /* an object on the token, of a version that may never be: kms/keyring/onboard.c */
    DUE_HSM_REMOVAL = 21,    /* an object on the token that is to go */
    DUE_EXHAUSTION = 22,     /* of a version on the token: half of its random nonces are used */
};
/* The plain state of what DUE_CERTIFICATE leads to, the rows of REC_CERTIFICATE. */
enum certificate_state { CERTIFICATE_UNSIGNED = 1, CERTIFICATE_SIGNED = 2 };
struct due {
    enum due_what what;
    int64_t at_ns;     /* Unix time, > 0 */
    struct bytes name; /* canonical: projects/... */
    uint8_t tries;     /* that failed */
    bool broken;       /* due_look: the row does not open, or is not ours; of it only id is known */
    struct bytes id;   /* as it was read */
};
enum { DUE_ID_BYTES = 8 + 1 + 16 };
/* The queue follows a time that changed in the same transaction; 0: none. */
void due_move(struct store_txn *txn, enum due_what what, struct bytes name, int64_t from_ns, int64_t to_ns);
/* It failed: tried again in 2 s, 4 s, ... DUE_RETRY_MAX_S, behind what is due by then. The record that it names keeps its own time. */
enum { DUE_RETRY_MAX_S = 60 };
void due_put_off(struct store_txn *txn, const struct due *d, int64_t now_ns);
/* What led here is not due any more: its row goes, in a transaction of its own, and nothing else happens. */
RESULT due_drop(struct store *s, const struct due *d, struct err *e);
/* The same where what it names could not be read because it is not there (ERR_NOT_FOUND); any other reason is passed on. */
RESULT due_drop_gone(struct store *s, const struct due *d, const struct err *why, struct err *e);
void due_id(const struct due *d, uint8_t out[DUE_ID_BYTES]);
/* The first `limit` after that id (empty: from the start) of at most that time, earliest first; views into the arena. */
RESULT due_read(struct store *s, struct bytes after_id, int64_t until_ns, size_t limit, struct arena *a, struct due **ret,
                size_t *ret_n, struct err *e);
/* The same for who must go on: rows that say nothing any more are among them, as broken, whatever their time. */
RESULT due_look(struct store *s, struct bytes after_id, int64_t until_ns, size_t limit, struct arena *a, struct due **ret,
                size_t *ret_n, struct err *e);

#endif
