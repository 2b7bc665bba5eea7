/*
 * Purpose: which versions of level HSM no backup of the token has yet: their keys are on the token and nowhere else. A row for each,
 *          from the transaction that makes the version until one that records a backup, or its end.
 * Owns:    nothing. Threads: any; reading blocks on the store. Errors: the store's. Limits: HSM_KEYS_MAX rows. Secrets: none.
 *
 * REC_UNSAVED: tenant column zero, id = kvid, time = when the version was made; body: u8 format 1.
 */
#ifndef KMS_KEYRING_UNSAVED_H
#define KMS_KEYRING_UNSAVED_H

#include "hsm/hsm.h"
#include "kms/store/store.h"

void unsaved_put(struct store_txn *txn, const uint8_t kvid[HSM_KVID_BYTES], int64_t made_ns);
void unsaved_drop(struct store_txn *txn, const uint8_t kvid[HSM_KVID_BYTES]); /* absent is fine */

struct unsaved { /* those there are, in order of kvid; {0}: none */
    uint8_t (*kvid)[HSM_KVID_BYTES];
    size_t n;
};
void unsaved_release(struct unsaved *u);
RESULT unsaved_read(struct store *s, struct unsaved *ret, struct err *e);
RESULT unsaved_count(struct store *s, uint64_t *ret, struct err *e); /* a figure for people: store_count */

#endif
