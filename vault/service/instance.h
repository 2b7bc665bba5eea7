/*
 * Purpose: which instance this is: the random id in state_dir/instance, the newest audit key on the token, where things lie; the way
 *          to the store key of an epoch; and the records that every store has. Shared by service_start and service_init.
 * Owns:    nothing but its own buffers; hsm and config are borrowed. Threads: read-only after load.
 * Errors:  ERR_STATE "NOT_INITIALISED" with what to do; ERR_UNAVAILABLE when the HSM does not answer.
 * Limits:  path lengths. Secrets: the store key passes through as struct secret.
 */
#ifndef VAULT_SERVICE_INSTANCE_H
#define VAULT_SERVICE_INSTANCE_H

#include "base/config.h"
#include "hsm/hsm.h"
#include "kms/audit/journal.h"
#include "kms/keyring/keyring.h"
#include "kms/store/store.h"

/* Store record META "token-backup", the last backup of the token: u8 format 1, u8 kind, u64 made (unix seconds), v16 serial, v16 holds
 * ("master-1 seal-1 audit-1"; "" for a clone), v16 path ("" for a clone), u32 keys of level HSM. */
enum instance_backup { INSTANCE_BACKUP_VERIFIED = 1, INSTANCE_BACKUP_VENDOR_CLONE };
void instance_backup_put(struct store_txn *txn, enum instance_backup kind, const struct hsm_backup *b, uint64_t expected);
RESULT instance_backup_read(struct store *s, enum instance_backup *ret_kind, struct hsm_backup *ret, struct err *e);

/* Adds to txn what this version expects and the store has not: the record of the seal secret that it is under, and REC_META
 * "page-token-key", 32 random bytes, what page tokens are sealed under: it outlives every seal secret. *ret_any: something was added. */
RESULT instance_records(struct store *s, int64_t now_ns, struct store_txn *txn, bool *ret_any, struct err *e);
RESULT instance_token_key(struct store *s, struct aead_key **ret, struct err *e);

struct instance {
    uint8_t id[16];
    uint32_t seal_newest, audit_version; /* on the token; which master and seal secret are in use, the store says: keyring_master, store_seal_epoch */
    char journal_dir[4096], origin[160];
    struct hsm *hsm;
};
RESULT instance_load(const struct config *c, struct hsm *h, struct instance *ret, struct err *e);
/* kmsd init: draws the id and writes the file durably; ERR_EXISTS when there is one. */
RESULT instance_create(const struct config *c, struct hsm *h, struct instance *ret, struct err *e);
struct store_options instance_store_options(const struct instance *in, const struct config *c, const struct clock *clock);
struct keyring_options instance_keyring_options(const struct instance *in, const struct config *c, const struct clock *clock,
                                                struct store *store);
/* To open it or to check it; the strings are in's, which must outlive the call. */
struct journal_options instance_journal_options(const struct instance *in, const struct config *c, const struct clock *clock);

#endif
