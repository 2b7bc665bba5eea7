/* Every action of the service with its plane: what policies/ACTIONS.md lists and the tests of this folder compile against. */
#ifndef TESTS_UNIT_KMS_POLICY_ACTIONS_H
#define TESTS_UNIT_KMS_POLICY_ACTIONS_H

#include "kms/policy/policy.h"

static const struct policy_action ACTIONS[] = {
    {"tenants.create", false},
    {"tenants.get", false},
    {"tenants.list", false},
    {"tenants.suspend", false},
    {"tenants.resume", false},
    {"tenants.delete", false},
    {"tenants.restore", false},
    {"tenants.export", false},
    {"identity.principals.create", false},
    {"identity.principals.get", false},
    {"identity.principals.list", false},
    {"identity.principals.update", false},
    {"policy.get", false},
    {"policy.apply", false},
    {"policy.test", false},
    {"audit.tail", false},
    {"system.status", false},
    {"system.review", false},
    {"masters.rotate", false},
    {"masters.get", false},
    {"masters.destroy", false},
    {"kms.keyRings.create", false},
    {"kms.keyRings.get", false},
    {"kms.keyRings.list", false},
    {"kms.cryptoKeys.create", false},
    {"kms.cryptoKeys.get", false},
    {"kms.cryptoKeys.list", false},
    {"kms.cryptoKeys.update", false},
    {"kms.cryptoKeys.setPrimary", false},
    {"kms.cryptoKeys.rotate", false},
    {"kms.usage.get", false},
    {"kms.cryptoKeyVersions.create", false},
    {"kms.cryptoKeyVersions.get", false},
    {"kms.cryptoKeyVersions.list", false},
    {"kms.cryptoKeyVersions.update", false},
    {"kms.cryptoKeyVersions.destroy", false},
    {"kms.cryptoKeyVersions.restore", false},
    {"kms.certificates.get", false},
    {"kms.certificates.list", false},
    {"kms.cryptoKeys.encrypt", true},
    {"kms.cryptoKeys.decrypt", true},
    {"kms.random.generate", true},
    {"envelope.wrap", true},
    {"envelope.unwrap", true},
    {"envelope.generateDataKey", true},
    {"envelope.rewrap", true},
    {"envelope.encrypt", true},
    {"envelope.decrypt", true},
};
enum { NACTIONS = sizeof ACTIONS / sizeof ACTIONS[0] };

#endif
