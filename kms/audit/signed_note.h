/*
 * Purpose: what is signed by the audit key, as others read it: C2SP signed notes (c2sp.org/signed-note), written here and nowhere read:
 *          who verifies shares none of this code.
 * Owns:    nothing. Threads: pure.
 * Errors:  ERR_STATE "AUDIT_ORIGIN": the log's origin cannot be the name of a key (a space, "+" or a control character in it).
 * Limits:  SIGNED_NOTE_KEY_TEXT_MAX. Secrets: none.
 *
 * A key: name (the log's origin), type 1 (Ed25519) or 2 (ECDSA on P-256, SHA-256, signature in DER), and its public bytes: 32, or
 * the DER SubjectPublicKeyInfo. Id, 4 bytes: of SHA-256(name || 0A || 01 || 32 bytes), or of SHA-256(SubjectPublicKeyInfo).
 */
#ifndef KMS_AUDIT_SIGNED_NOTE_H
#define KMS_AUDIT_SIGNED_NOTE_H

#include "base/bytes.h"

enum { SIGNED_NOTE_NAME_MAX = 160, SIGNED_NOTE_PUBLIC_MAX = 96, SIGNED_NOTE_KEY_TEXT_MAX = 320, SIGNED_NOTE_ID_BYTES = 4 };

struct signed_note_key {
    char name[SIGNED_NOTE_NAME_MAX];
    uint8_t id[SIGNED_NOTE_ID_BYTES];
    uint8_t public[SIGNED_NOTE_PUBLIC_MAX]; /* type, then what it names */
    size_t public_n;
};
/* raw: as hsm_audit_pubkey gives it, 32 bytes or an uncompressed point of 65. */
RESULT signed_note_key_init(const char *name, struct bytes raw, bool ed25519, struct signed_note_key *ret, struct err *e);
/* name+id+key: what is given to those who verify. */
void signed_note_key_text(const struct signed_note_key *k, char out[SIGNED_NOTE_KEY_TEXT_MAX]);
/* text (it ends in a newline), an empty line, and the line of this signature. */
void signed_note_put(const struct signed_note_key *k, struct bytes text, struct bytes signature, struct buf *out);

#endif
