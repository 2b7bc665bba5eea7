/*
 * Purpose: one audit event and its canonical bytes: a protobuf message claviger.audit.v1.Event (proto/claviger/audit/v1),
 *          written by hand on the hot path, fields in number order, defaults omitted. Bounded: large values become hash + length.
 * Owns: nothing. Threads: pure. Errors: event_encode never fails: what is too long is cut and marked. Limits: EVENT_MAX_BYTES.
 * Secrets: no plaintext, no key, no secret: the struct has no field that could hold one. Personal data only as HMAC.
 */
#ifndef KMS_AUDIT_EVENT_H
#define KMS_AUDIT_EVENT_H

#include "base/bytes.h"

enum { EVENT_MAX_BYTES = 8192, EVENT_TEXT_MAX = 512 };

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
};
void event_encode(const struct audit_event *ev, struct buf *out);

#endif
