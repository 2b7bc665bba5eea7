/*
 * Purpose: a backup of the token and its place on record: made and verified where the token is files, else somebody's word that its
 *          vendor's tool has cloned it; to each secret on the token the time at which it was last saved; and of the keys of level HSM that
 *          no backup had before (kms/keyring/unsaved.h), that this one has them.
 * Owns:    a struct token_backup the list of those. Threads: any that may block; while hsm copies it makes and removes nothing else.
 * Errors:  the HSM's; ERR_STATE "TOKEN_NOT_CLONED": kmsd cannot copy this token, and nobody has said that it was cloned.
 * Limits:  hsm/backup.h. Secrets: none here; the copy is as secret as the token.
 */
#ifndef VAULT_SERVICE_TOKEN_BACKUP_H
#define VAULT_SERVICE_TOKEN_BACKUP_H

#include "kms/keyring/unsaved.h"
#include "vault/service/service.h"

struct token_backup { /* {0}: none */
    enum instance_backup kind;
    struct hsm_backup b;   /* of a clone: serial, time, and how many keys the token has */
    struct unsaved first;  /* keys on record that no backup had before; those made since may be in it, and are saved by the next */
    uint32_t absent;       /* of those: not on the token, so in no backup either */
    size_t dropped;        /* of those: the row is in a transaction that drops it */
};
void token_backup_release(struct token_backup *b);
/* That it is the token of this store, with the secrets that are in use: another one, or one put back from before them, must not be taken for
 * it, backed up in its place, or be given new ones. ERR_UNAVAILABLE; ERR_STATE "SEAL_ABSENT", "KEY_MASTER_GONE". */
RESULT token_backup_fit(struct service *s, struct hsm_status *ret, struct err *e);
/* May take HSM_BACKUP_MS. */
RESULT token_backup_make(struct service *s, bool cloned, struct token_backup *ret, struct err *e);
/* A clone holds whatever the token has: nobody can look. */
bool token_backup_holds(const struct token_backup *b, enum hsm_object kind, uint32_t version);
/* Adds to txn the record of it, and the put of each secret that is not destroyed, as it is on record, or in `changed` (of one kind, or NULL);
 * then keyring_master_changed after the commit: the current master's row is another revision. */
RESULT token_backup_put(struct store *s, struct store_txn *txn, struct token_backup *b, struct token_secrets *changed, int64_t now_ns, struct err *e);
/* After that commit: what did not fit that transaction, and what health knows. What fails is logged, and warned of until the next. */
void token_backup_done(struct service *s, struct token_backup *b);
/* How many keys of level HSM no backup has: counts them anew for service_health. */
void token_backup_look(struct service *s);

#endif
