/*
 * Purpose: what a person did outside the rules and another must look into: an accepted rollback, a recovery administrator. Each
 *          leaves a note in the store (REC_META), which health shows until it is reviewed, on line or off.
 * Owns:    struct reviews: the notes that are due, as health and the pipeline see them.
 * Threads: reviews_* from any thread; reviews_closed is for the fast lane. The rest: as the store.
 * Errors:  ERR_NOT_FOUND "NO_ROLLBACK", "NO_RECOVERY": nothing is due. ERR_DATA_LOSS "RECORD_MALFORMED".
 * Limits:  a reason of 1 to REVIEW_REASON_MAX bytes. Secrets: none.
 *
 * A note's body: u8 2, u8 flags (1 reviewed, 2 closed), i64 made, i64 until, v16 reason, v16 principal. Format 1, of rollbacks
 * only, is u8 1, u8 reviewed, i64 made, v16 reason.
 */
#ifndef VAULT_SERVICE_REVIEW_H
#define VAULT_SERVICE_REVIEW_H

#include "kms/authn/authn.h"
#include "kms/store/store.h"

enum { REVIEW_REASON_MAX = 512, REVIEW_KINDS = 2 };
enum review_what { REVIEW_ROLLBACK = 1, REVIEW_RECOVERY = 2 };
struct review_note {
    bool reviewed;
    bool closed;            /* a rollback after which nobody can say what was revoked: only a recovery administrator is let in */
    int64_t made_unix_ns, until_unix_ns; /* until: of a recovery administrator */
    char reason[REVIEW_REASON_MAX + 1];
    char principal[AUTHN_PRINCIPAL_MAX + 1]; /* the recovery administrator; "" */
};
const char *review_id(enum review_what what); /* of the REC_META record: store.h names the rollback's */
void review_note_put(const struct review_note *n, struct buf *out);
/* ERR_NOT_FOUND when there never was one; a reviewed one is returned. */
RESULT review_note_get(struct store *s, enum review_what what, struct review_note *ret, uint64_t *ret_revision, struct err *e);
/* Adds to txn: reviewed from now on; a recovery administrator is disabled with it. ret: the note as it was. */
RESULT review_add(struct store *s, enum review_what what, struct store_txn *txn, struct review_note *ret, struct err *e);

struct reviews;
RESULT reviews_load(struct store *s, struct reviews **ret, struct err *e);
void reviews_free(struct reviews *r); /* NULL accepted */
void reviews_done(struct reviews *r, enum review_what what); /* after the commit of review_add */
bool reviews_due(struct reviews *r, enum review_what what, struct review_note *ret);
bool reviews_closed(const struct reviews *r);

#endif
