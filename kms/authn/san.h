/*
 * Purpose: the one name a certificate gives its holder: exactly one URI SAN spiffe://{trust domain}/{path}, or, without any
 *          URI SAN, exactly one DNS SAN (as "dns:host"). Never the common name.
 * Owns:    nothing.
 * Threads: pure.
 * Errors:  ERR_UNAUTHENTICATED with the cause in detail; san_check: ERR_INVALID field "san".
 * Limits:  SAN_MAX_BYTES with NUL. SPIFFE path segments [a-zA-Z0-9._-]+ but "." and ".."; hosts are lower-case, without
 *          wildcard. NUL, "%", "?", "#", empty segments, upper-case hosts: refused, never folded.
 * Secrets: none.
 */
#ifndef KMS_AUTHN_SAN_H
#define KMS_AUTHN_SAN_H

#include "base/bytes.h"
#include "kms/authn/openssl.h"

enum { SAN_MAX_BYTES = 256 };

bool san_valid_trust_domain(struct bytes domain);
RESULT san_check(struct bytes untrusted, const char *trust_domain, struct err *e);
RESULT san_from_names(const GENERAL_NAMES *names, const char *trust_domain, char ret[SAN_MAX_BYTES], struct err *e);
RESULT san_from_certificate(const X509 *leaf, const char *trust_domain, char ret[SAN_MAX_BYTES], struct err *e);

#endif
