#include "kms/policy/policy.h"
#include "tests/unit/kms/policy/actions.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct policy_set *compiled(struct bytes yaml)
{
    struct policy_doc doc = {.name = "p.yaml", .yaml = yaml};
    struct policy_set *s = NULL;
    struct err e = {0};
    if (policy_compile(&doc, 1, ACTIONS, NACTIONS, &s, &e, NULL).failed)
        fail_msg("refused: %s", e.detail);
    return s;
}

/* who: "tenant/principal", or "/principal" for the platform. */
static struct policy_decision ask(const struct policy_set *s, const char *who, const char *action, const char *resource)
{
    struct name n = {0};
    struct err e;
    const char *slash = strchr(who, '/');
    if (strcmp(resource, "instance") != 0)
        assert_false(name_parse_any(bytes_str(resource), ~0u, "name", &n, &e).failed);
    struct policy_question q = {.principal = bytes_str(slash + 1),
                                .principal_tenant = BYTES(who, (size_t)(slash - who)),
                                .action = action,
                                .resource = &n};
    return policy_decide(s, &q);
}

static void expect(const struct policy_set *s, const char *who, const char *action, const char *resource, bool allowed, const char *rule)
{
    struct policy_decision d = ask(s, who, action, resource);
    if (d.allowed != allowed || strcmp(d.rule, rule) != 0)
        fail_msg("%s %s %s: got %s by %s", who, action, resource, d.allowed ? "allow" : "deny", d.rule);
}

static const char EXAMPLE[] =
    "version: 1\n"
    "roles:\n"
    "  - name: users\n"
    "    rules:\n"
    "      - id: use\n"
    "        effect: allow\n"
    "        actions: [kms.cryptoKeys.encrypt, kms.cryptoKeys.decrypt]\n"
    "        resources: [\"projects/{tenant}/locations/eu/**\", \"projects/{tenant}/locations/us/keyRings/*/cryptoKeys/mail\"]\n"
    "      - id: not-payroll\n"
    "        effect: deny\n"
    "        actions: [\"kms.cryptoKeys.*\"]\n"
    "        resources: [\"projects/{tenant}/locations/*/keyRings/payroll/**\"]\n"
    "      - id: use-again\n"
    "        effect: allow\n"
    "        actions: [\"kms.*\"]\n"
    "        resources: [\"projects/{tenant}/locations/eu/**\"]\n"
    "      - id: third-version\n"
    "        effect: allow\n"
    "        actions: [kms.cryptoKeyVersions.get]\n"
    "        resources: [\"projects/{tenant}/locations/us/keyRings/a/cryptoKeys/b/cryptoKeyVersions/3\"]\n"
    "  - name: freeze\n"
    "    rules:\n"
    "      - id: frozen\n"
    "        effect: deny\n"
    "        actions: [\"*\"]\n"
    "        resources: [\"projects/{tenant}/**\"]\n"
    "  - name: operators\n"
    "    rules:\n"
    "      - id: status\n"
    "        effect: allow\n"
    "        actions: [system.status]\n"
    "        resources: [instance]\n"
    "      - id: tenants\n"
    "        effect: allow\n"
    "        actions: [\"tenants.*\"]\n"
    "        resources: [\"projects/**\"]\n"
    "bindings:\n"
    "  - {role: users, tenant: acme, principals: [orders]}\n"
    "  - {role: users, tenant: globex, principals: [\"*\"]}\n"
    "  - {role: freeze, tenant: globex, principals: [mallory]}\n"
    "  - {role: users, tenant: \"*\", principals: [robot]}\n"
    "  - {role: operators, tenant: platform, principals: [root]}\n";

#define EU "projects/acme/locations/eu/keyRings/pii/cryptoKeys/mail"

static void the_rule_that_decides_is_named(void **state)
{
    (void)state;
    struct policy_set *s = compiled(bytes_str(EXAMPLE));
    expect(s, "acme/orders", "kms.cryptoKeys.encrypt", EU, true, "use"); /* the first of two in document order */
    expect(s, "acme/orders", "kms.cryptoKeys.encrypt", "projects/acme/locations/eu", true, "use"); /* two stars: itself too */
    expect(s, "acme/orders", "kms.cryptoKeys.encrypt", "projects/acme", false, "default-deny");
    expect(s, "acme/orders", "kms.cryptoKeys.get", EU, true, "use-again");
    expect(s, "acme/orders", "kms.cryptoKeys.encrypt", "projects/acme/locations/eu/keyRings/payroll/cryptoKeys/x", false, "not-payroll");
    expect(s, "acme/orders", "kms.cryptoKeys.encrypt", "projects/acme/locations/eu/keyRings/payroll", false, "not-payroll");
    expect(s, "acme/orders", "kms.cryptoKeys.encrypt", "projects/acme/locations/us/keyRings/a/cryptoKeys/mail", true, "use");
    expect(s, "acme/orders", "kms.cryptoKeys.encrypt", "projects/acme/locations/us/keyRings/a/cryptoKeys/mail/cryptoKeyVersions/1", false, "default-deny");
    expect(s, "acme/orders", "kms.cryptoKeys.encrypt", "projects/acme/locations/us/keyRings/a/cryptoKeys/Mail", false, "default-deny");
    expect(s, "acme/orders", "kms.cryptoKeyVersions.get", "projects/acme/locations/us/keyRings/a/cryptoKeys/b/cryptoKeyVersions/3", true, "third-version");
    expect(s, "acme/orders", "kms.cryptoKeyVersions.get", "projects/acme/locations/us/keyRings/a/cryptoKeys/b/cryptoKeyVersions/4", false, "default-deny");
    expect(s, "acme/orders", "envelope.wrap", EU, false, "default-deny");
    expect(s, "acme/orders", "no.such.action", EU, false, "default-deny");
    expect(s, "acme/orders", "", EU, false, "default-deny");
    policy_unref(s);
}

static void bindings_choose_the_caller(void **state)
{
    (void)state;
    struct policy_set *s = compiled(bytes_str(EXAMPLE));
#define GLOBEX "projects/globex/locations/eu/keyRings/pii/cryptoKeys/mail"
    expect(s, "acme/order", "kms.cryptoKeys.encrypt", EU, false, "default-deny");
    expect(s, "acme/orders2", "kms.cryptoKeys.encrypt", EU, false, "default-deny");
    expect(s, "/orders", "kms.cryptoKeys.encrypt", EU, false, "default-deny");
    expect(s, "globex/anyone", "kms.cryptoKeys.encrypt", GLOBEX, true, "use");
    expect(s, "globex/mallory", "kms.cryptoKeys.encrypt", GLOBEX, false, "frozen"); /* a denial from any binding wins */
    expect(s, "initech/robot", "kms.cryptoKeys.encrypt", "projects/initech/locations/eu", true, "use");
    expect(s, "initech/human", "kms.cryptoKeys.encrypt", "projects/initech/locations/eu", false, "default-deny");
    /* {tenant} is the caller's: a binding for every tenant reaches none but one's own. */
    expect(s, "initech/robot", "kms.cryptoKeys.encrypt", EU, false, "default-deny");
    expect(s, "globex/anyone", "kms.cryptoKeys.encrypt", EU, false, "default-deny");
    expect(s, "acme/orders", "kms.cryptoKeys.encrypt", GLOBEX, false, "default-deny");
    expect(s, "acme/orders", "kms.cryptoKeys.encrypt", "projects/acmee/locations/eu", false, "default-deny");
    expect(s, "/root", "system.status", "instance", true, "status");
    expect(s, "/root", "system.status", "projects/acme", false, "default-deny");
    expect(s, "/root", "tenants.get", "projects/acme", true, "tenants");
    expect(s, "/root", "tenants.get", "instance", false, "default-deny");
    expect(s, "platform/root", "system.status", "instance", false, "default-deny");
    expect(s, "acme/root", "system.status", "instance", false, "default-deny");
    expect(s, "/robot", "kms.cryptoKeys.encrypt", "instance", false, "default-deny"); /* "*" is every tenant, not the platform */
    policy_unref(s);
}

static void a_set_lives_while_it_is_held(void **state)
{
    (void)state;
    char *yaml = strdup(EXAMPLE);
    struct policy_set *s = compiled(bytes_str(yaml)), *held = policy_ref(s);
    memset(yaml, 'x', strlen(yaml)); /* it owns copies of all */
    free(yaml);
    policy_unref(s);
    expect(held, "acme/orders", "kms.cryptoKeys.encrypt", EU, true, "use");
    policy_unref(held);
}

static void without_bindings_nobody_may_anything(void **state)
{
    (void)state;
    size_t n = (size_t)(strstr(EXAMPLE, "bindings:") - EXAMPLE);
    struct policy_set *s = compiled(BYTES(EXAMPLE, n));
    for (size_t i = 0; i < NACTIONS; i++) {
        expect(s, "acme/orders", ACTIONS[i].name, EU, false, "default-deny");
        expect(s, "/root", ACTIONS[i].name, "instance", false, "default-deny");
    }
    policy_unref(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rule_that_decides_is_named),
        cmocka_unit_test(bindings_choose_the_caller),
        cmocka_unit_test(a_set_lives_while_it_is_held),
        cmocka_unit_test(without_bindings_nobody_may_anything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
