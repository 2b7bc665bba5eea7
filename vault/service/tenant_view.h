/*
 * Purpose: how a tenant looks in claviger.tenants.v1, and what the two files of its rows share.
 * Owns:    nothing: messages live in the call's arena. Threads: the call's owner. Errors: none. Limits: none. Secrets: none.
 */
#ifndef VAULT_SERVICE_TENANT_VIEW_H
#define VAULT_SERVICE_TENANT_VIEW_H

#include "vault/service/fields.h"
#include "vault/service/tenant_life.h"

#include "claviger/tenants/v1/tenants.pb-c.h"

#define TENANTS_SERVICE "/claviger.tenants.v1.Tenants/"
#define TENANTS_MESSAGES(q, r) .request = &claviger__tenants__v1__##q##__descriptor, .response = &claviger__tenants__v1__##r##__descriptor
#define TENANTS_CONTROL .plane = PLANE_CONTROL, .limit = LIMIT_CONTROL, .lane = LANE_SLOW

void tenant_view(struct call *c, const struct tenant *t, Claviger__Tenants__V1__Tenant *r);
/* Of the tenant as it stands; another tenant that gets its name some day has other ones. */
enum { TENANT_ETAG_BYTES = 40 };
void tenant_etag(const struct tenant *t, char out[TENANT_ETAG_BYTES]);

#endif
