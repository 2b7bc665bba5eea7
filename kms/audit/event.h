/*
 * Purpose: one audit event and its canonical bytes: a protobuf message claviger.audit.v1.Event (proto/claviger/audit/v1),
 *          written by hand on the hot path, fields in number order, defaults omitted. Bounded: large values become hash + length.
 * Owns: nothing. Threads: pure. Errors: event_encode never fails: what is too long is cut and marked. Limits: EVENT_MAX_BYTES
 *          without what was used of keys, EVENT_LONGEST with it.
 * Secrets: no plaintext, no key, no secret: the struct has no field that could hold one. Personal data only as HMAC.
 */
#ifndef KMS_AUDIT_EVENT_H
#define KMS_AUDIT_EVENT_H

#include "base/bytes.h"

/* Longest value of a field after cutting: names (principal, resource, key version), other texts, before and after. */
enum { EVENT_MAX_BYTES = 8192, EVENT_TEXT_MAX = 512, EVENT_SHORT_MAX = 256, EVENT_CHANGE_MAX = 1390 };
/* Key versions used: at most EVENT_USES_MAX items in all, so that an entry for each, of EVENT_USE_BYTES, finds its place. */
enum { EVENT_KVID_BYTES = 16, EVENT_USES_MAX = 2000, EVENT_USE_BYTES = 27, EVENT_USES_BYTES = EVENT_USES_MAX * EVENT_USE_BYTES,
       EVENT_LONGEST = EVENT_MAX_BYTES + EVENT_USES_BYTES };

enum event_use_what { EVENT_USE_ENCRYPT = 1, EVENT_USE_DECRYPT = 2, EVENT_USE_WRAP = 3, EVENT_USE_UNWRAP = 4 };
struct event_use {
    uint8_t kvid[EVENT_KVID_BYTES];
    enum event_use_what what;
    uint32_t primary; /* number of the key's primary version then; 0: none */
    uint64_t items;   /* at least 1 */
};

struct audit_event {
    uint8_t id[16];              /* incarnation-unique: u64 source (high bit: outbox), u64 sequence */
    int64_t time_unix_ns;
    struct bytes principal;      /* registered name, or "" when unknown */
    struct bytes auth_method;    /* "mtls" ... */
    struct bytes tenant;         /* the caller's (real) */
    struct bytes active_tenant;  /* the one acted in */
    struct bytes grant;
    struct bytes action;         /* "kms.cryptoKeys.encrypt" */
    struct bytes resource;       /* canonical full name */
    struct bytes key_version;    /* canonical version name actually used */
    struct bytes outcome;        /* "ok", "denied", "error", "refused" */
    struct bytes code;           /* "OK", "PERMISSION_DENIED" ... */
    struct bytes reason;         /* ErrorInfo.reason */
    struct bytes rule;           /* deciding rule's id */
    struct bytes policy_digest;  /* 32 bytes or empty */
    struct bytes request_id;
    struct bytes trace_id;
    struct bytes address;
    struct bytes listener;
    struct bytes certificate;    /* SHA-256 of the leaf, 32 bytes or empty */
    uint64_t duration_ns;
    uint64_t items, items_failed; /* batch */
    uint64_t repeats;            /* > 1: a counting event for this many equal refusals */
    struct bytes before, after;  /* changes: short canonical JSON text; over the limit: hash + length */
    struct bytes cause;          /* why a caller could not be authenticated; the caller itself is not told */
    const struct event_use *use; /* to encode: what succeeded with which key version */
    size_t nuse;
    struct bytes uses;           /* decoded: the same, for event_next_use; encoded behind `use` as it is */
};
void event_encode(const struct audit_event *ev, struct buf *out); /* appends; an all-zero id is left out, as are empty fields */
/* Strict: fields ascending, none twice, sizes within limits; fields of a later version are skipped. Views into `encoded`.
 * ERR_DATA_LOSS "EVENT_MALFORMED". */
RESULT event_decode(struct bytes encoded, struct audit_event *ret, struct err *e);
bool event_next_use(struct bytes *uses, struct event_use *ret); /* takes the first off; false: there is none */

/* An event that goes through the outbox is encoded without id, because its sequence is known only at the commit; the relay puts
 * the id in front, where field 1 belongs. The id: u64 high bit and 63 bits of the store's incarnation | u64 sequence. */
void event_outbox_id(const uint8_t incarnation[16], uint64_t seq, uint8_t out[16]);
void event_put_id(const uint8_t id[16], struct buf *out);

#endif
