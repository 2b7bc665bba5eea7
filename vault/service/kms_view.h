/*
 * Purpose: how keyring's models look in the Cloud KMS API, and what the three resource files share.
 * Owns:    nothing: messages live in the arena. Threads: the call's owner. Errors: as each function.
 * Limits:  VIEW_CHUNK rows a store scan. Secrets: models hold wrapped keys only, and no message has a field for them.
 */
#ifndef VAULT_SERVICE_KMS_VIEW_H
#define VAULT_SERVICE_KMS_VIEW_H

#include "vault/service/fields.h"
#include "vault/service/listing.h"

#include "google/cloud/kms/v1/service.pb-c.h"

enum { VIEW_CHUNK = 200, NS_PER_SECOND = 1000000000 };

typedef Google__Cloud__Kms__V1__KeyRing KeyRing;
typedef Google__Cloud__Kms__V1__CryptoKey CryptoKey;
typedef Google__Cloud__Kms__V1__CryptoKeyVersion CryptoKeyVersion;

#define KMS_SERVICE "/google.cloud.kms.v1.KeyManagementService/"
#define KMS_MESSAGES(q, r) .request = &google__cloud__kms__v1__##q##__descriptor, .response = &google__cloud__kms__v1__##r##__descriptor
#define KMS_READ .kind = RPC_UNARY, .plane = PLANE_CONTROL, .audit = AUDIT_READ, .limit = LIMIT_CONTROL, .lane = LANE_SLOW
#define KMS_CHANGE .kind = RPC_UNARY, .plane = PLANE_CONTROL, .audit = AUDIT_CHANGE, .limit = LIMIT_CONTROL, .lane = LANE_SLOW, .mutation = true

Google__Cloud__Kms__V1__ProtectionLevel view_protection(enum protection p);
void view_version(struct call *c, const struct keyring_version *m, CryptoKeyVersion *r);
/* With its primary version looked up. */
RESULT view_key(struct call *c, const struct name *n, const struct keyring_key *m, CryptoKey *r, struct err *e);
struct bytes view_last_segment(struct bytes name); /* the child's id in a full name */
/* total_size: the children of the listed parent; left 0 when a filter is in force, as Cloud KMS does. */
RESULT view_total(struct call *c, const struct listing *l, enum name_kind child, int32_t *ret, struct err *e);
/* One line of JSON for the audit event's before and after. */
struct bytes view_version_json(struct arena *a, const struct keyring_version *m);
struct bytes view_key_json(struct arena *a, const struct keyring_key *m);

#endif
