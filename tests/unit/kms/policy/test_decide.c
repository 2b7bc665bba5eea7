#include "kms/policy/set.h"
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

/* ---- names that were made to collide ---------------------------------------------------------------------------------
 * The index is a hash that anybody can compute: two names of one hash are still two names. */
static const char ALPHABET[] = "abcdefghijklmnopqrstuvwxyz0123456789";

static void word_of(unsigned n, char out[8])
{
    for (size_t i = 0; i < 8; i++, n /= 36)
        out[i] = ALPHABET[n % 36];
}

/* A second word for each of two first ones, so that both end in one state of the hash: w1 ^ w2 must be h1 ^ h2. */
static bool second_words(uint64_t h1, uint64_t h2, char w1[8], char w2[8])
{
    for (size_t i = 0; i < 8; i++) {
        uint8_t differ = (uint8_t)((h1 ^ h2) >> (8 * i));
        const char *a = ALPHABET;
        while (*a && (((uint8_t)*a ^ differ) == 0 || !strchr(ALPHABET, (uint8_t)*a ^ differ)))
            a++;
        if (*a == '\0')
            return false;
        w1[i] = *a;
        w2[i] = (char)((uint8_t)*a ^ differ);
    }
    return true;
}

static uint64_t state_after(uint64_t h, const char word[8])
{
    uint64_t w;
    memcpy(&w, word, sizeof w);
    h = (h ^ w) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

struct twins {
    char one[33], two[33];
};

/* Words whose states differ only in the low five bits of each byte: there letters turn into letters. */
enum { CROWD = 60000 };
struct member {
    uint64_t state;
    unsigned word;
};
#define FAR_BITS 0xe0e0e0e0e0e0e0e0u

static int by_far_bits(const void *a, const void *b)
{
    uint64_t x = ((const struct member *)a)->state & FAR_BITS, y = ((const struct member *)b)->state & FAR_BITS;
    return (x > y) - (x < y);
}

/* Two principals of one tenant, or two tenants with a principal each ("tenant/principal"), of one hash. */
static struct twins twins_of(bool tenants)
{
    static struct member all[CROWD];
    struct twins t = {0};
    for (unsigned i = 0; i < CROWD; i++) {
        char word[9] = {0};
        word_of(i, word);
        all[i] = (struct member){tenants ? set_hash(1, bytes_str(word)) : state_after(set_hash(1, bytes_str("acme")), word), i};
    }
    qsort(all, CROWD, sizeof all[0], by_far_bits);
    for (unsigned i = 0; i + 1 < CROWD; i++) {
        char one[9] = {0}, two[9] = {0}, w1[9] = {0}, w2[9] = {0};
        if (by_far_bits(&all[i], &all[i + 1]) != 0 || !second_words(all[i].state, all[i + 1].state, w1, w2))
            continue;
        word_of(all[i].word, one);
        word_of(all[i + 1].word, two);
        snprintf(t.one, sizeof t.one, "%s%s%s", one, tenants ? "/" : "", w1);
        snprintf(t.two, sizeof t.two, "%s%s%s", two, tenants ? "/" : "", w2);
        return t;
    }
    fail_msg("no two names of one hash");
    return t;
}

static struct policy_set *bound_to(const char *tenant, const char *principal)
{
    CLEANUP(buf_release) struct buf b;
    buf_init(&b, 65536);
    buf_putf(&b, "version: 1\nroles:\n  - name: r\n    rules:\n      - {id: r.all, effect: allow, actions: [\"kms.*\"], resources: [\"projects/{tenant}/**\"]}\n"
                 "bindings:\n  - {role: r, tenant: %s, principals: [%s]}\n", tenant, principal);
    return compiled(buf_bytes(&b));
}

static void names_of_one_hash_are_two_names(void **state)
{
    (void)state;
    struct twins p = twins_of(false), t = twins_of(true);
    char who[128], where[200];
    assert_string_not_equal(p.one, p.two);
    assert_int_equal(set_hash(set_hash(1, bytes_str("acme")), bytes_str(p.one)), set_hash(set_hash(1, bytes_str("acme")), bytes_str(p.two)));
    struct policy_set *s = bound_to("acme", p.one);
    snprintf(who, sizeof who, "acme/%s", p.one);
    expect(s, who, "kms.cryptoKeys.encrypt", "projects/acme/locations/eu", true, "r.all");
    snprintf(who, sizeof who, "acme/%s", p.two);
    expect(s, who, "kms.cryptoKeys.encrypt", "projects/acme/locations/eu", false, "default-deny");
    policy_unref(s);

    char *one = strchr(t.one, '/'), *two = strchr(t.two, '/');
    assert_int_equal(set_hash(set_hash(1, BYTES(t.one, (size_t)(one - t.one))), bytes_str(one + 1)),
                     set_hash(set_hash(1, BYTES(t.two, (size_t)(two - t.two))), bytes_str(two + 1)));
    *one = '\0';
    s = bound_to(t.one, one + 1);
    snprintf(where, sizeof where, "projects/%s/locations/eu", t.one);
    *one = '/';
    expect(s, t.one, "kms.cryptoKeys.encrypt", where, true, "r.all");
    *two = '\0';
    snprintf(where, sizeof where, "projects/%s/locations/eu", t.two);
    *two = '/';
    expect(s, t.two, "kms.cryptoKeys.encrypt", where, false, "default-deny");
    policy_unref(s);
}

/* An action that is none, of the length and in the place of one that is. */
static void an_unknown_action_is_denied_wherever_it_hashes(void **state)
{
    (void)state;
    struct policy_set *s = bound_to("acme", "alice");
    unsigned met = 0;
    for (unsigned i = 0; i < 20000; i++) {
        char action[32] = "kms.cryptoKeys.";
        word_of(i, action + 15);
        action[22] = '\0'; /* as long as kms.cryptoKeys.encrypt */
        int there = s->action_slots[set_hash(0, bytes_str(action)) & s->action_mask] - 1;
        met += there >= 0 && strlen(s->actions[there]) == strlen(action);
        expect(s, "acme/alice", action, "projects/acme/locations/eu", false, "default-deny");
    }
    assert_true(met > 5);
    expect(s, "acme/alice", "kms.cryptoKeys.encrypt", "projects/acme/locations/eu", true, "r.all");
    expect(s, "acme/alice", "", "projects/acme/locations/eu", false, "default-deny");
    policy_unref(s);
}

/* "{tenant}" of a caller who has none is no segment at all. */
static void nobodys_tenant_matches_nothing(void **state)
{
    (void)state;
    struct pattern p;
    struct name n, bare = {.kind = NAME_TENANT}; /* no parser makes a name without a tenant; a bug might */
    struct err e;
    assert_non_null(strstr(pattern_parse(BYTES_LIT("projects"), &p), "ends after"));
    assert_null(pattern_parse(BYTES_LIT("projects/{tenant}/**"), &p));
    assert_false(name_parse_any(BYTES_LIT("projects/acme"), ~0u, "name", &n, &e).failed);
    assert_true(pattern_match(&p, &n, BYTES_LIT("acme")));
    assert_false(pattern_match(&p, &n, BYTES_LIT("acm2")));
    assert_false(pattern_match(&p, &n, (struct bytes){0}));
    assert_false(pattern_match(&p, &bare, (struct bytes){0}));
}

/* Who is bound in a tenant, for people: its own bindings and those of every tenant, in order; none of another's or the platform's. */
static void bindings_of_a_tenant(void **state)
{
    (void)state;
    static const char yaml[] = "version: 1\n"
                               "roles:\n"
                               "  - {name: r, rules: [{id: i, effect: allow, actions: [kms.keyRings.get], resources: [\"projects/{tenant}/**\"]}]}\n"
                               "  - {name: p, rules: [{id: j, effect: allow, actions: [system.status], resources: [instance]}]}\n"
                               "bindings:\n"
                               "  - {role: r, tenant: acme, principals: [a, b]}\n"
                               "  - {role: r, tenant: globex, principals: [c]}\n"
                               "  - {role: p, tenant: platform, principals: [d]}\n"
                               "  - {role: r, tenant: \"*\", principals: [e]}\n"
                               "  - {role: r, tenant: acme, principals: [f]}\n";
    static const char *const want[] = {"acme a", "* e", "acme f"};
    struct policy_set *s = compiled(bytes_str(yaml));
    struct policy_binding b;
    size_t cursor = 0, n = 0;
    char got[64];
    for (; policy_binding_next(s, BYTES_LIT("acme"), &cursor, &b); n++) {
        assert_true(n < 3);
        (void)snprintf(got, sizeof got, "%s %s", b.tenant, b.principals[0]);
        assert_string_equal(got, want[n]);
        assert_string_equal(b.role, "r");
        assert_int_equal(b.nprincipals, n == 0 ? 2 : 1);
    }
    assert_int_equal(n, 3);
    cursor = 0;
    assert_true(policy_binding_next(s, BYTES_LIT("absent"), &cursor, &b) && strcmp(b.tenant, "*") == 0);
    assert_false(policy_binding_next(s, BYTES_LIT("absent"), &cursor, &b));
    policy_unref(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rule_that_decides_is_named),
        cmocka_unit_test(bindings_choose_the_caller),
        cmocka_unit_test(a_set_lives_while_it_is_held),
        cmocka_unit_test(without_bindings_nobody_may_anything),
        cmocka_unit_test(names_of_one_hash_are_two_names),
        cmocka_unit_test(an_unknown_action_is_denied_wherever_it_hashes),
        cmocka_unit_test(nobodys_tenant_matches_nothing),
        cmocka_unit_test(bindings_of_a_tenant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
