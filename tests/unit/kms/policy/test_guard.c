/* Guards: what compiles, which guard stands before a version, and the slow reference's word on it. */
#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/kms/policy/reference.h"

enum { POLICIES = 300, QUESTIONS = 60, GUARDS = 6 };

static struct fake_rng rng;
static unsigned pick(unsigned n)
{
    uint64_t v;
    rng_fill(&rng.r, &v, sizeof v);
    return (unsigned)(v % n);
}

#define GUARD(id, resources, days) "version: 1\nguards:\n  - id: " id "\n    resources: [" resources "]\n    unused_days: " days "\n"
#define PII "\"projects/acme/locations/eu/keyRings/pii/**\""

static struct result compile_text(const char *yaml, struct policy_set **ret, struct err *e, struct buf *text)
{
    struct policy_doc doc = {.name = "p.yaml", .yaml = bytes_str(yaml)};
    return policy_compile(&doc, 1, ACTIONS, NACTIONS, ret, e, text);
}

static void refused(const char *yaml, const char *message)
{
    struct policy_set *s = NULL;
    struct err e = {0};
    CLEANUP(buf_release) struct buf text;
    buf_init(&text, 1024);
    if (!compile_text(yaml, &s, &e, &text).failed)
        fail_msg("compiled, but wanted '%s' for:\n%s", message, yaml);
    assert_int_equal(e.code, ERR_INVALID);
    assert_string_equal(e.reason, "POLICY_DOCUMENT_INVALID");
    if (strncmp(buf_cstr(&text), message, strlen(message)) != 0)
        fail_msg("wanted '%s', got '%s'", message, buf_cstr(&text));
}

static void what_is_refused(void **state)
{
    (void)state;
    refused(GUARD("Bad_Id!", PII, "90"), "p.yaml:3: guard id \"Bad_Id!\" must match");
    refused(GUARD("default-deny", PII, "90"), "p.yaml:3: id \"default-deny\" is taken");
    refused(GUARD("g", PII, "0"), "p.yaml:5: unused_days must be 1 to 3650");
    refused(GUARD("g", PII, "3651"), "p.yaml:5: unused_days must be 1 to 3650");
    refused(GUARD("g", PII, "-1"), "p.yaml:5: ");
    refused(GUARD("g", PII, "soon"), "p.yaml:5: ");
    refused(GUARD("g", PII ", \"projects/{tenant}/**\"", "90"), "p.yaml:4: resource \"projects/{tenant}/**\": a guard stands before whoever asks");
    refused(GUARD("g", "\"projects/acme\"", "90"), "p.yaml:4: resource \"projects/acme\": no version is named by it");
    refused(GUARD("g", "instance", "90"), "p.yaml:4: resource \"instance\": no version is named by it");
    refused(GUARD("g", "\"projects/acme/keys/**\"", "90"), "p.yaml:4: resource");
    refused(GUARD("g", "", "90"), "p.yaml:4: ");
    refused("version: 1\nguards: []\n", "p.yaml:2: ");
    refused("version: 1\nguards:\n  - id: g\n    resources: [" PII "]\n", "p.yaml:4: Missing required mapping field: unused_days");
    refused("version: 1\nguards:\n  - id: g\n    tenant: acme\n    unused_days: 3\n", "p.yaml:4: ");
    refused(GUARD("g", PII, "90") "  - id: g\n    resources: [" PII "]\n    unused_days: 3\n", "p.yaml:6: id \"g\" is taken");
    refused(GUARD("r1.use", PII, "90") "roles:\n  - name: r1\n    rules:\n      - id: r1.use\n        effect: allow\n"
            "        actions: [audit.tail]\n        resources: [\"**\"]\n", "p.yaml:3: id \"r1.use\" is taken");
}

static const char *guard_of(const struct policy_set *s, const char *name)
{
    struct name n;
    struct err e;
    struct policy_guard g;
    assert_false(name_parse_any(bytes_str(name), ~0u, "name", &n, &e).failed);
    return policy_guard_of(s, &n, &g) ? g.id : "-";
}

#define KEYS "projects/acme/locations/eu/keyRings/"
static void decisions(void **state)
{
    static const struct {
        const char *name, *guard;
    } table[] = {
        {KEYS "pii/cryptoKeys/email/cryptoKeyVersions/1", "ring"},      /* the stricter of two */
        {KEYS "pii/cryptoKeys/card/cryptoKeyVersions/7", "one"},        /* of three */
        {KEYS "pii/cryptoKeys/card/cryptoKeyVersions/8", "ring"},
        {KEYS "logs/cryptoKeys/email/cryptoKeyVersions/1", "tenant"},
        {KEYS "Logs/cryptoKeys/email/cryptoKeyVersions/1", "tenant"},
        {"projects/acme/locations/us/keyRings/pii/cryptoKeys/k/cryptoKeyVersions/1", "tenant"},
        {"projects/globex/locations/eu/keyRings/pii/cryptoKeys/k/cryptoKeyVersions/1", "-"},
        {"projects/globex/locations/eu/keyRings/vault/cryptoKeys/k/cryptoKeyVersions/1", "vaults"}, /* the first of two that are alike */
        {"projects/acme/locations/eu/keyRings/vault/cryptoKeys/k/cryptoKeyVersions/1", "vaults"},
        {"projects/acme2/locations/eu/keyRings/pii/cryptoKeys/k/cryptoKeyVersions/1", "-"},
    };
    struct policy_set *s = NULL;
    struct err e = {0};
    struct policy_guard g;
    struct name n;
    (void)state;
    if (compile_text(GUARD("tenant", "\"projects/acme/**\"", "30") "  - id: ring\n    resources: [" PII "]\n    unused_days: 90\n"
                     "  - id: one\n    resources: [\"" KEYS "pii/cryptoKeys/card/cryptoKeyVersions/7\"]\n    unused_days: 3650\n"
                     "  - id: vaults\n    resources: [\"projects/*/locations/*/keyRings/vault/cryptoKeys/*/cryptoKeyVersions/*\"]\n    unused_days: 400\n"
                     "  - id: vaults2\n    resources: [\"projects/*/locations/*/keyRings/vault/**\"]\n    unused_days: 400\n",
                     &s, &e, NULL).failed)
        fail_msg("refused: %s", e.detail);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(guard_of(s, table[i].name), table[i].guard) != 0)
            fail_msg("%s: %s, wanted %s", table[i].name, guard_of(s, table[i].name), table[i].guard);
    assert_false(name_parse_any(bytes_str(table[1].name), ~0u, "name", &n, &e).failed);
    assert_true(policy_guard_of(s, &n, &g) && g.unused_days == 3650);
    policy_unref(s);
    assert_false(compile_text("version: 1\nroles:\n  - name: r\n    rules:\n      - {id: x, effect: allow, actions: [audit.tail], resources: [\"**\"]}\n",
                              &s, &e, NULL).failed); /* a policy without guards guards nothing */
    assert_string_equal(guard_of(s, table[0].name), "-");
    policy_unref(s);
}

/* ---- against the reference ---- */
struct random_guard {
    char pattern[200];
    unsigned days;
};

static void random_guards(struct random_guard g[GUARDS], struct buf *yaml)
{
    buf_put_str(yaml, "guards:\n");
    for (int i = 0; i < GUARDS; i++) {
        do
            random_pattern(true, g[i].pattern);
        while (strstr(g[i].pattern, "**") == NULL && strstr(g[i].pattern, "cryptoKeyVersions/") == NULL);
        g[i].days = 1 + pick(4);
        buf_putf(yaml, "  - {id: g%d, resources: [\"%s\"], unused_days: %u}\n", i, g[i].pattern, g[i].days);
    }
}

static const struct random_guard *slowly(const struct random_guard g[GUARDS], const char *name)
{
    const struct random_guard *best = NULL;
    for (int i = 0; i < GUARDS; i++)
        if (reference_resource(g[i].pattern, name, "") && (best == NULL || g[i].days > best->days))
            best = &g[i];
    return best;
}

static void compiled_and_reference_agree(void **state)
{
    unsigned cases = 0, guarded = 0;
    struct model *m = malloc(sizeof *m);
    (void)state;
    fake_rng_init(&rng, 20261121);
    for (int i = 0; i < POLICIES; i++) {
        struct random_guard g[GUARDS];
        CLEANUP(buf_release) struct buf yaml;
        struct policy_set *s = NULL;
        struct err e = {0};
        buf_init(&yaml, 65536);
        random_model(m);
        write_yaml(m, &yaml);
        random_guards(g, &yaml);
        if (compile_text(buf_cstr(&yaml), &s, &e, NULL).failed)
            fail_msg("%s\n%s", e.detail, buf_cstr(&yaml));
        for (int j = 0; j < QUESTIONS; j++) {
            struct question q;
            random_question(&q);
            char rule[32];
            const struct policy_decision d = compiled(s, &q);
            assert_true(d.allowed == reference(m, q.tenant, q.principal, q.action, q.text, rule)); /* guards change no decision */
            if (q.name.kind == NAME_NONE)
                continue;
            const struct random_guard *want = slowly(g, q.text);
            char id[16] = "-";
            if (want != NULL)
                (void)snprintf(id, sizeof id, "g%d", (int)(want - g));
            if (strcmp(guard_of(s, q.text), id) != 0)
                fail_msg("%s: compiled says %s, reference %s\n%s", q.text, guard_of(s, q.text), id, buf_cstr(&yaml));
            cases++;
            guarded += want != NULL;
        }
        policy_unref(s);
    }
    free(m);
    printf("%u cases, %u guarded\n", cases, guarded);
    assert_true(cases > 10000 && guarded > cases / 20 && guarded < cases - cases / 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_refused), cmocka_unit_test(decisions), cmocka_unit_test(compiled_and_reference_agree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
