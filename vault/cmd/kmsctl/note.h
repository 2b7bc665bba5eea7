/*
 * Purpose: signed notes (c2sp.org/signed-note) as somebody reads them who trusts only a public key. It shares nothing with what writes
 *          them (kms/audit/signed_note.h), so that one mistake cannot stand on both sides.
 * Owns:    struct note_key owns the public key: note_key_release. Threads: one.
 * Errors:  reason USAGE: the key's text; NOTE_MALFORMED, NOTE_UNKNOWN_KEY (no signature of this key), NOTE_FORGED, all INVALID_ARGUMENT.
 * Limits:  NOTE_MAX bytes, NOTE_SIGNATURES_MAX signatures. Secrets: none.
 */
#ifndef VAULT_CMD_KMSCTL_NOTE_H
#define VAULT_CMD_KMSCTL_NOTE_H

#include "vault/cmd/kmsctl/kmsctl.h"

enum { NOTE_MAX = 65536, NOTE_SIGNATURES_MAX = 64, NOTE_ID_BYTES = 4 };

struct note_key {
    struct bytes name; /* view of the text given */
    uint8_t id[NOTE_ID_BYTES];
    bool ed25519; /* else ECDSA on P-256 */
    struct evp_pkey_st *key;
};
/* text: name+id+key. */
RESULT note_key_parse(const char *text, struct note_key *ret, struct claviger_error *e);
void note_key_release(struct note_key *k); /* {0} accepted */
/* ret_text: what was signed; it may be believed. */
RESULT note_verify(struct bytes untrusted_note, const struct note_key *k, struct bytes *ret_text, struct claviger_error *e);

#endif
