/*
 * Purpose: who is calling. Connections (from the front: id, certificate chain, address) become one verified identity;
 *          certificates name *registered* principals; checked again on every call.
 * Owns:    the trust store, the connection table, the principal registry (an immutable snapshot, swapped whole).
 * Threads: everything from any thread. authn_call is fast-lane: no disk, no HSM, a few hundred ns.
 * Errors:  ERR_UNAUTHENTICATED, one public text; the cause is in detail and goes to the audit event.
 * Limits:  chains of IPC_CHAIN_MAX_BYTES, AUTHN_CHAIN_MAX certificates; AUTHN_CONNECTIONS_MAX connections.
 * Secrets: none (public certificates).
 */
#ifndef KMS_AUTHN_AUTHN_H
#define KMS_AUTHN_AUTHN_H

#include "base/clock.h"
#include "base/ipc.h"
#include "kms/name/name.h"

enum { AUTHN_CHAIN_MAX = 6, AUTHN_PRINCIPAL_MAX = NAME_PRINCIPAL_MAX, AUTHN_CONNECTIONS_MAX = 1 << 17, AUTHN_RECHECK_MS = 1000 };

enum principal_state { PRINCIPAL_ACTIVE = 1, PRINCIPAL_DISABLED = 2 };
struct principal { /* read-only, counted */
    char name[AUTHN_PRINCIPAL_MAX + 1]; /* e.g. "acme-orders" ; the audit trail's word for it */
    char san[256];                      /* "spiffe://domain/path" or "dns:host" exactly as registered */
    char tenant[NAME_SEGMENT_MAX + 1];  /* "" : platform principal (operators) */
    enum principal_state state;
    uint64_t revision;
    /* Made by `kmsd recover-admin`, for a time: it counts while the wall clock is in [from, until) and the boot clock before
     * until_boot, so that neither clock set back prolongs it. 0 there: it ended with the boot that made it. */
    bool recovery;
    int64_t from_unix_ns, until_unix_ns, until_boot_ns;
};
struct authn_conn; /* counted */
/* The one verified value that policy ever sees. Views live as long as the identity is held. */
struct identity {
    const struct principal *principal;
    const char *auth_method;            /* "mtls" */
    struct bytes address, listener;
    uint8_t cert_sha256[32];
    struct authn_conn *conn;            /* held: what the views above point into */
};

struct authn;
struct authn_options {
    const struct clock *clock;
    struct bytes ca_pem, crl_pem;       /* crl empty: none */
    const char *trust_domain;
};
RESULT authn_new(const struct authn_options *o, struct authn **ret, struct err *e);
void authn_free(struct authn *a);
RESULT authn_reload_trust(struct authn *a, struct bytes ca_pem, struct bytes crl_pem, struct err *e); /* all or nothing */
/* Swaps the registry; duplicate names or SANs: ERR_INVALID. Takes effect on the next call. Copies. */
RESULT authn_set_principals(struct authn *a, const struct principal *list, size_t n, struct err *e);
RESULT authn_principal_check(const struct principal *untrusted, const char *trust_domain, struct err *e); /* grammar */

/* Connection table. add: CONN_NEW's body; the chain is validated here (purpose client, CA:TRUE on issuers, times, CRL) and
 * the SAN extracted (exactly one URI SAN, or exactly one DNS SAN and no URI; never CN). A chain that does not validate is
 * still recorded (with its cause) so that calls on it are answered UNAUTHENTICATED and audited. */
RESULT authn_conn_add(struct authn *a, struct bytes untrusted_conn_new, uint8_t ret_id[IPC_CONN_ID_BYTES], struct err *e);
void authn_conn_closed(struct authn *a, const uint8_t id[IPC_CONN_ID_BYTES]);
/* "unix-abstract:clv-<hex>" (grpc_call_get_peer; also "unix:\0clv-..." forms) to a counted connection; NULL: unknown. */
struct authn_conn *authn_conn_by_peer(struct authn *a, const char *peer);
struct authn_conn *authn_conn_ref(struct authn_conn *c);
void authn_conn_unref(struct authn_conn *c); /* NULL accepted */
struct bytes authn_conn_address(const struct authn_conn *c);
struct bytes authn_conn_listener(const struct authn_conn *c);
struct bytes authn_conn_certificate(const struct authn_conn *c); /* SHA-256 of the leaf as sent, valid or not; empty: none */

/* On every call: certificate times, CRL, principal registered and active. *ret is valid until authn_identity_release. */
RESULT authn_call(struct authn *a, struct authn_conn *c, struct identity *ret, struct err *e);
void authn_identity_release(struct identity *id); /* drops its references; {0} accepted */

#endif
