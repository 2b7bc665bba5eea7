/*
 * Purpose: the token's name in the configuration: a PKCS#11 URI (RFC 7512) read strictly. p11-kit decodes the values; the
 *          attribute names are checked here first, because p11-kit passes over white space, unknown and repeated ones.
 * Owns:    the decoded values, in place. Threads: pure.
 * Errors:  ERR_INVALID, one reason for each cause: HSM_URI_SYNTAX, _UNKNOWN, _REPEATED, _PIN, _MODULE, _LIBRARY, _OBJECT,
 *          _TOO_LONG, _NO_TOKEN. detail names the attribute, never its value.
 * Limits:  HSM_URI_MAX bytes. Accepted: token serial model manufacturer slot-id slot-description slot-manufacturer.
 * Secrets: none: a URI with pin-value or pin-source is refused and its value is shown to nobody.
 */
#ifndef HSM_URI_H
#define HSM_URI_H

#include "base/bytes.h"

#include <p11-kit/p11-kit.h>
#include <p11-kit/uri.h>

enum { HSM_URI_MAX = 1024 };

struct hsm_uri;
RESULT hsm_uri_parse(const char *untrusted_text, struct hsm_uri **ret, struct err *e);
void hsm_uri_free(struct hsm_uri *u); /* NULL accepted */
bool hsm_uri_matches(const struct hsm_uri *u, CK_SLOT_ID slot, const CK_SLOT_INFO *si, const CK_TOKEN_INFO *ti);

#endif
