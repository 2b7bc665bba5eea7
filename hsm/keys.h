/*
 * Purpose: keys of protection level HSM on the token: the table of their handles, in order of kvid, and the audit of their objects.
 * Owns:    struct keys owns its table; nothing on the token.
 * Threads: the main loop's.
 * Errors:  ERR_NOT_FOUND "HSM_OBJECT_ABSENT", ERR_STATE "HSM_OBJECT_WEAK" (one object of the two is not what it must be: that key is
 *          refused, the others serve), ERR_EXHAUSTED "HSM_KEYS_MAX", else as ckr_fail.
 * Limits:  HSM_KEYS_MAX keys. An absent key is looked for once in KEYS_ABSENT_MS. A start reads the labels alone: each key is audited
 *          before it is first used after it, and the others by and by while nothing else is asked (keys_audit_some).
 * Secrets: none leave the token. Objects are found by exact class, label and id, and read in one call each:
 *              AES    "claviger-key-<kvid hex>",    CKA_ID u8 4, kvid: CKK_AES of 32 bytes, ENCRYPT and DECRYPT only, {CKM_AES_GCM}
 *              commit "claviger-commit-<kvid hex>", CKA_ID u8 5, kvid: generic secret of 32 bytes, SIGN only, {CKM_SHA256_HMAC}
 *          both TOKEN, PRIVATE, SENSITIVE, not EXTRACTABLE, ALWAYS_SENSITIVE, NEVER_EXTRACTABLE (no import passes); MODIFIABLE and
 *          COPYABLE false and the mechanisms as above where the token knows these attributes.
 */
#ifndef HSM_KEYS_H
#define HSM_KEYS_H

#include "base/bytes.h"
#include "hsm/hsm.h"
#include "hsm/module.h"

enum { KEYS_LABEL_MAX = 64, KEYS_ID_BYTES = 1 + HSM_KVID_BYTES, KEYS_ABSENT = 16, KEYS_ABSENT_MS = 5000, KEYS_FIND_MAX = 4, KEYS_CENSUS_BYTES = 32 };
enum key_half { KEY_AES, KEY_COMMIT, KEY_HALVES };

struct key_pair {
    uint8_t kvid[HSM_KVID_BYTES];
    CK_OBJECT_HANDLE handle[KEY_HALVES]; /* CK_INVALID_HANDLE: not there */
    bool audited[KEY_HALVES];
    const char *weak;                    /* a literal: what is wrong with it; NULL: nothing, as far as it was audited */
    bool checked;                        /* it opened its check message since it was looked up */
    uint8_t aad_hash[HSM_AAD_HASH_BYTES], check[HSM_CHECK_BYTES];
};
struct keys {
    struct key_pair *all; /* in order of kvid */
    size_t n, cap;
    struct keys_absent {
        uint8_t kvid[HSM_KVID_BYTES];
        int64_t until_ms; /* boot time */
    } absent[KEYS_ABSENT];
    unsigned absent_next;
    size_t audit_next; /* of keys_audit_some */
};
struct token;

void keys_label(enum key_half half, const uint8_t kvid[HSM_KVID_BYTES], char out[KEYS_LABEL_MAX]);
void keys_id(enum key_half half, const uint8_t kvid[HSM_KVID_BYTES], uint8_t out[KEYS_ID_BYTES]);
/* True when the label is one of ours; a kvid that is no kvid is not ours. */
bool keys_parse_label(struct bytes label, enum key_half *ret_half, uint8_t ret_kvid[HSM_KVID_BYTES]);

/* An object of that name was found: into the table. */
RESULT keys_take(struct keys *k, CK_OBJECT_HANDLE h, enum key_half half, const uint8_t kvid[HSM_KVID_BYTES], struct err *e);
/* Audits up to n more of those that nobody has asked for yet. *ret_found: one of them is not what it must be. */
RESULT keys_audit_some(struct token *t, size_t n, bool *ret_found, struct err *e);
/* On the token, by class, type and label. */
RESULT keys_find(struct token *t, enum key_half half, const uint8_t kvid[HSM_KVID_BYTES], CK_OBJECT_HANDLE ret[KEYS_FIND_MAX], size_t *ret_n,
                 struct err *e);
struct key_pair *keys_entry(struct keys *k, const uint8_t kvid[HSM_KVID_BYTES]); /* NULL: not in the table */
/* Whole and fit for use; one that is not in the table is looked for on the token. */
RESULT keys_get(struct token *t, const uint8_t kvid[HSM_KVID_BYTES], struct key_pair **ret, struct err *e);
/* SHA-256 over the kvid of each and which of its two objects are there, in order: two tokens of one digest have the same keys, by name. */
void keys_census(const struct keys *k, uint8_t out[KEYS_CENSUS_BYTES]);
bool key_whole(const struct key_pair *p); /* both objects are there */
size_t keys_whole(const struct keys *k);
void keys_forget(struct keys *k, const uint8_t kvid[HSM_KVID_BYTES]);
void keys_clear(struct keys *k);
void keys_release(struct keys *k);
/* "3 keys refused, one is key-00..: EXTRACTABLE": appended after "; " where the buffer is not empty. */
void keys_weaknesses(const struct keys *k, struct buf *out);

#endif
