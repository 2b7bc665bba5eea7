/* What somebody who may write policy can give themselves: random documents, written to reach as far as they can (stars, other
 * tenants' names, platform bindings of roles that use keys, the writer bound to everything). Whatever of them compiles gives no
 * operator the use of a key, and nobody of a tenant anything outside it (docs/THREATS.md, incident 28). */
#include "base/rng.h"
#include "kms/policy/policy.h"
#include "tests/unit/kms/policy/actions.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { POLICIES = 2500, ROLES = 3, RULES = 2, BINDINGS = 3 };

static struct fake_rng rng;
static unsigned pick(unsigned n)
{
    uint64_t v;
    rng_fill(&rng.r, &v, sizeof v);
    return (unsigned)(v % n);
}
#define PICK(list) ((list)[pick(sizeof(list) / sizeof((list)[0]))])

static const char *const WIDE_ACTIONS[] = {"*", "kms.*", "envelope.*", "kms.cryptoKeys.*", "kms.random.*", "tenants.*", "policy.*", "identity.*", "audit.*", "kms.keyRings.*", "kms.cryptoKeyVersions.*"};
static const char *const PLACES[] = {"instance", "**", "projects/{tenant}", "projects/{tenant}/**", "projects/{tenant}/locations/*/keyRings/*/cryptoKeys/*",
                                     "projects/*", "projects/*/**", "projects/acme/**", "projects/globex/locations/*/keyRings/**", "projects/{tenant}/locations/eu/keyRings/**"};
static const char *const WRITERS[] = {"mallory", "alice"};
static const char *const TENANTS[] = {"platform", "acme", "*"};

static void write_rule(struct buf *out, unsigned role, unsigned rule, bool tame)
{
    const char *place = tame ? PLACES[2 + pick(3)] : PICK(PLACES);
    const char *action = pick(2) ? ACTIONS[pick(NACTIONS)].name : PICK(WIDE_ACTIONS);
    buf_putf(out, "      - id: r%u.%u\n        effect: %s\n        actions: [\"%s\"]\n        resources: [\"%s\"]\n", role, rule,
             pick(6) ? "allow" : "deny", action, place);
}

static void write_policy(struct buf *out)
{
    bool tame = pick(2);
    buf_put_str(out, "version: 1\nroles:\n");
    for (unsigned i = 0; i < ROLES; i++) {
        buf_putf(out, "  - name: role%u\n    rules:\n", i);
        for (unsigned j = 0; j < RULES; j++)
            write_rule(out, i, j, tame);
    }
    buf_put_str(out, "bindings:\n");
    for (unsigned i = 0; i < BINDINGS; i++) /* each role once: the compiler refuses to be told a thing twice */
        buf_putf(out, "  - {role: role%u, tenant: \"%s\", principals: [\"%s\"]}\n", i, tame ? TENANTS[1 + pick(2)] : PICK(TENANTS), PICK(WRITERS));
}

static const char *const ASKED[] = {"", "projects/acme", "projects/acme/locations/eu/keyRings/r/cryptoKeys/k", "projects/acme/locations/eu/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
                                    "projects/globex", "projects/globex/locations/us/keyRings/r/cryptoKeys/k", "projects/globex/locations/us"};

enum { PLACES_ASKED = sizeof ASKED / sizeof ASKED[0] };
static struct name asked[PLACES_ASKED];

static int parse_places(void **state)
{
    (void)state;
    struct err e;
    for (size_t i = 1; i < PLACES_ASKED; i++) /* the first is the instance itself */
        if (name_parse_any(bytes_str(ASKED[i]), ~0u, "name", &asked[i], &e).failed)
            return 1;
    return 0;
}

static bool allowed(const struct policy_set *s, const char *tenant, const char *who, const char *action, const struct name *place)
{
    struct policy_question q = {.principal = bytes_str(who), .principal_tenant = bytes_str(tenant), .action = action, .resource = place};
    return policy_decide(s, &q).allowed;
}

struct tally {
    unsigned compiled, refused, rights, operators;
};

static void judge(const struct policy_set *s, const char *text, struct tally *t)
{
    for (size_t w = 0; w < sizeof WRITERS / sizeof WRITERS[0]; w++)
        for (size_t a = 0; a < NACTIONS; a++)
            for (size_t p = 0; p < PLACES_ASKED; p++) {
                const char *who = WRITERS[w], *action = ACTIONS[a].name, *place = ASKED[p];
                bool operator_may = allowed(s, "", who, action, &asked[p]), tenant_may = allowed(s, "acme", who, action, &asked[p]);
                if (operator_may && ACTIONS[a].data_plane)
                    fail_msg("the operator %s may %s on %s\n%s", who, action, place, text);
                if (tenant_may && strncmp(place, "projects/acme", 13) != 0)
                    fail_msg("acme's %s may %s on %s\n%s", who, action, place, text);
                t->operators += operator_may;
                t->rights += tenant_may;
            }
}

static void no_writer_gives_themselves_the_use_of_keys(void **state)
{
    (void)state;
    struct tally t = {0};
    fake_rng_init(&rng, 20260428);
    for (unsigned i = 0; i < POLICIES; i++) {
        struct buf b;
        struct policy_set *s = NULL;
        struct err e = {0};
        buf_init(&b, 65536);
        write_policy(&b);
        struct policy_doc doc = {.name = "written.yaml", .yaml = buf_bytes(&b)};
        if (policy_compile(&doc, 1, ACTIONS, NACTIONS, &s, &e, NULL).failed) {
            assert_int_equal(e.code, ERR_INVALID);
            t.refused++;
        } else {
            judge(s, buf_cstr(&b), &t);
            t.compiled++;
        }
        policy_unref(s);
        buf_release(&b);
    }
    printf("%u policies compiled, %u were refused; %u rights of operators, %u of a tenant's people\n", t.compiled, t.refused, t.operators, t.rights);
    assert_true(t.compiled > POLICIES / 10 && t.refused > POLICIES / 10); /* or nothing was tried */
    assert_true(t.operators > 10 && t.rights > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_writer_gives_themselves_the_use_of_keys)};
    return cmocka_run_group_tests(tests, parse_places, NULL);
}
