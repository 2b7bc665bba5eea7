/*
 * Purpose: trust in client certificates: CA certificates and CRLs as one immutable, counted set, and the verdict on a chain.
 * Owns:    the OpenSSL store and copies of what it was made from.
 * Threads: a set is read-only after trust_new; check from any thread.
 * Errors:  trust_new: ERR_INVALID, detail says which certificate and why. trust_check: ERR_UNAUTHENTICATED, cause in detail.
 * Limits:  TRUST_PEM_MAX bytes of each file; AUTHN_CHAIN_MAX certificates a chain; keys and digests of at least 112 bits.
 * Secrets: none.
 *
 * RFC 5280 path validation for TLS clients, and stricter: issuers (anchors too) need CA:TRUE and keyCertSign, the leaf needs
 * the clientAuth usage and must not be able to issue, no partial chains, CRLs for every issuer once any CRL is given.
 */
#ifndef KMS_AUTHN_CHAIN_H
#define KMS_AUTHN_CHAIN_H

#include "kms/authn/san.h"

enum { TRUST_PEM_MAX = 1 << 20 };

struct trust;
struct verdict {
    int64_t not_before_s, not_after_s; /* the whole chain's, and its CRLs': valid while not_before <= now < not_after */
    char san[SAN_MAX_BYTES];
};
RESULT trust_new(struct bytes ca_pem, struct bytes crl_pem, const char *trust_domain, struct trust **ret, struct err *e);
struct trust *trust_ref(struct trust *t);
void trust_unref(struct trust *t); /* NULL accepted */
/* der: n certificates, leaf first. */
RESULT trust_check(const struct trust *t, int64_t now_s, const struct bytes *untrusted_der, size_t n, struct verdict *ret,
                   struct err *e);

#endif
