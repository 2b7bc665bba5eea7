/*
 * Purpose: what core and hsm say to each other: request and reply packets over base/chan.h, and errors on the way back.
 *          Request: type = operation, body as listed. Reply: type | WIRE_REPLY, the same seq; body = u8 error code (0: ok),
 *          then the payload, or u8 reason (index of the closed table), v16 detail.
 * Owns: nothing. Threads: pure. Errors: ERR_UNAVAILABLE "HSM_UNAVAILABLE" on a reply that cannot be read.
 * Limits: WIRE_MAX bytes a packet.
 * Secrets: the reply to WIRE_DERIVE carries a key, WIRE_KEY_SEAL and the reply to WIRE_KEY_OPEN plaintext: both sides wipe the packet.
 */
#ifndef HSM_WIRE_H
#define HSM_WIRE_H

#include "base/bytes.h"

enum { WIRE_MAX = 9216, WIRE_REPLY = 0x8000 };

enum wire_op {
    WIRE_PROBE = 1,       /* -                                 -> status, field by field */
    WIRE_DERIVE,          /* u8 object, u32 version, v16 input -> 32 bytes */
    WIRE_RANDOM,          /* u16 n                             -> n bytes */
    WIRE_SIGN_CHECKPOINT, /* u32 version, v16 message          -> v16 signature */
    WIRE_AUDIT_PUBKEY,    /* u32 version                       -> u8 ed25519, v16 key */
    WIRE_GENERATE,        /* u8 object, u32 version            -> - */
    WIRE_DESTROY,         /* u8 object, u32 version            -> - */
    WIRE_ANCHOR_GET,      /* -                                 -> v16 value */
    WIRE_ANCHOR_PUT,      /* v16 value                         -> - */
    WIRE_BACKUP,          /* -                                 -> v16 path, v16 serial, v16 holds, u32 keys, u64 unix seconds */
    WIRE_SIGN_CERTIFICATE, /* u32 version, v16 text            -> v16 signature */
    WIRE_KEY_GENERATE,    /* kvid, aad hash                    -> check message */
    WIRE_KEY_CHECK,       /* kvid, aad hash, check message     -> - */
    WIRE_KEY_SEAL,        /* kvid, u8 type, aad hash, v16 plain -> sealed message */
    WIRE_KEY_OPEN,        /* kvid, u8 type, aad hash, v16 sealed -> plaintext */
    WIRE_KEY_DESTROY,     /* kvid                              -> - */
    WIRE_KEY_LIST,        /* v16 after: kvid or empty          -> kvids */
    WIRE_ANCHOR_TRY,      /* -                                 -> - */
    WIRE_OPS_END,
    WIRE_VERIFY = 0x100, /* hsm to its helper: hsm/verify.c */
};

void wire_put_result(struct buf *b, struct result r, const struct err *e /* read only when r failed */);
/* Reads the head of a reply: ok when the operation was; then the payload follows. */
RESULT wire_get_result(struct reader *r, struct err *e);

#endif
