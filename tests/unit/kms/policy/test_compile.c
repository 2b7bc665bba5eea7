#include "kms/policy/policy.h"
#include "tests/unit/kms/policy/actions.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ROLE(rule_id, actions, resources)                                                                              \
    "version: 1\n"                                                                                                     \
    "roles:\n"                                                                                                         \
    "  - name: r1\n"                                                                                                   \
    "    rules:\n"                                                                                                     \
    "      - id: " rule_id "\n"                                                                                         \
    "        effect: allow\n"                                                                                          \
    "        actions: [" actions "]\n"                                                                                 \
    "        resources: [" resources "]\n"
#define BIND(role, tenant, principals)                                                                                 \
    "bindings:\n"                                                                                                      \
    "  - role: " role "\n"                                                                                             \
    "    tenant: " tenant "\n"                                                                                         \
    "    principals: [" principals "]\n"
#define GOOD_ROLE ROLE("r1.use", "kms.cryptoKeys.encrypt", "\"projects/{tenant}/**\"")
#define GOOD GOOD_ROLE BIND("r1", "acme", "orders")

static struct result compile_bytes(struct bytes yaml, struct policy_set **ret, struct err *e, struct buf *text)
{
    struct policy_doc doc = {.name = "p.yaml", .yaml = yaml};
    return policy_compile(&doc, 1, ACTIONS, NACTIONS, ret, e, text);
}

static void expect_refused_bytes(struct bytes yaml, const char *message)
{
    struct policy_set *s = NULL;
    struct err e = {0};
    struct buf text;
    buf_init(&text, 1024);
    if (!compile_bytes(yaml, &s, &e, &text).failed)
        fail_msg("compiled, but wanted '%s' for:\n%.*s", message, (int)yaml.n, (const char *)yaml.p);
    assert_int_equal(e.code, ERR_INVALID);
    assert_string_equal(e.reason, "POLICY_DOCUMENT_INVALID");
    assert_null(s);
    if (strncmp(buf_cstr(&text), message, strlen(message)) != 0)
        fail_msg("wanted '%s', got '%s'", message, buf_cstr(&text));
    assert_string_equal(e.detail, buf_cstr(&text)); /* the log has the same words */
    buf_release(&text);
}

static void expect_refused(const char *yaml, const char *message)
{
    expect_refused_bytes(bytes_str(yaml), message);
}

static struct policy_set *compiled(const char *yaml)
{
    struct policy_set *s = NULL;
    struct err e = {0};
    if (compile_bytes(bytes_str(yaml), &s, &e, NULL).failed)
        fail_msg("refused: %s", e.detail);
    return s;
}

static void good_documents_compile(void **state)
{
    (void)state;
    policy_unref(compiled(GOOD));
    policy_unref(compiled("---\n# a comment\n" GOOD "...\n"));
    policy_unref(compiled(GOOD_ROLE));
    policy_unref(compiled(GOOD_ROLE BIND("r1", "\"*\"", "\"*\"")));
    policy_unref(compiled(ROLE("x", "\"*\"", "\"**\"")));                         /* unbound: nobody has it */
    policy_unref(compiled(ROLE("x", "audit.tail", "instance, \"projects/*/locations/*/keyRings/**\"") BIND("r1", "platform", "admin")));
    policy_unref(NULL);
}

static void yaml_itself_is_kept_plain(void **state)
{
    (void)state;
    expect_refused("", "p.yaml:1: the document has 0 bytes");
    expect_refused("# nothing\n", "p.yaml:1: the document is empty");
    expect_refused("version: 1\n\troles: []\n", "p.yaml:2: a tab");
    expect_refused("version: 1\r\n", "p.yaml:1: a control character (0x0d)");
    expect_refused_bytes(BYTES_LIT("version: 1\nroles: \0\n"), "p.yaml:2: a control character (0x00)");
    expect_refused("version: \xff\n", "p.yaml:1: the document is not UTF-8");
    expect_refused_bytes(BYTES_LIT("\xff\xfev\0e\0r\0"), "p.yaml:1: a control character");
    expect_refused("version: 1\nroles: \"a\\0b\"\n", "p.yaml:2: a value that is too long or has control");
    expect_refused("version: 1\nroles: \"a\\nb\"\n", "p.yaml:2: a value that is too long or has control");
    expect_refused(GOOD "---\nversion: 1\n", "p.yaml:13: a second document");
    expect_refused("%YAML 1.1\n---\n" GOOD, "p.yaml:1: a % directive");
    expect_refused("version: &v 1\n", "p.yaml:1: an anchor");
    expect_refused("version: *v\n", "p.yaml:1: an alias");
    expect_refused("version: !!int 1\n", "p.yaml:1: a tag");
    expect_refused("version: 1\nroles: !x []\n", "p.yaml:2: a tag");
    expect_refused("version: 1\nversion: 1\n", "p.yaml:2: key \"version\" appears twice");
    expect_refused("version: 1\nroles: {a: 1}\n", "p.yaml:2: unknown key \"a\"");
    expect_refused("? [a, b]\n: 1\n", "p.yaml:1: a key must be a word");
    expect_refused("version: 1\nroles: [[[[[[[[[[1]]]]]]]]]]\n", "p.yaml:2: nested deeper");
    expect_refused("version: 1\nroles: [\n", "p.yaml:3: ");
    expect_refused("version: 1\nroles: - a\n", "p.yaml:2: ");
    expect_refused("\"" "0123456789012345678901234567890123" "\": 1\n", "p.yaml:1: an unknown, overlong key");
    char *big = malloc(POLICY_DOC_MAX + 1);
    memset(big, '#', POLICY_DOC_MAX + 1);
    expect_refused_bytes(BYTES(big, POLICY_DOC_MAX + 1), "p.yaml:1: the document has 131073 bytes");
    free(big);
}

static void the_schema_is_strict(void **state)
{
    (void)state;
    expect_refused("roles: []\n", "p.yaml:1: ");
    expect_refused("version: 1\n", "p.yaml:1: the document has neither roles nor bindings nor guards");
    expect_refused("- 1\n", "p.yaml:1: ");
    expect_refused("word\n", "p.yaml:1: ");
    expect_refused("version: 2\n" BIND("r1", "acme", "a"), "p.yaml:1: version must be 1");
    expect_refused("version: one\n" BIND("r1", "acme", "a"), "p.yaml:1: Invalid uint64_t value");
    expect_refused("version: 1\nroles: []\n", "p.yaml:2: ");
    expect_refused("version: 1\nroles:\n", "p.yaml:2: ");
    expect_refused(GOOD "extra: 1\n", "p.yaml:13: unknown key \"extra\"");
    expect_refused(GOOD_ROLE "        conditions: []\n", "p.yaml:9: unknown key \"conditions\"");
    expect_refused(GOOD_ROLE "    Rules: []\n", "p.yaml:9: unknown key \"Rules\"");
    expect_refused(GOOD "    until: never\n", "p.yaml:13: unknown key \"until\"");
    expect_refused("version: 1\nroles:\n  - name: r1\n", "p.yaml:3: Missing required mapping field: rules");
    expect_refused("version: 1\nroles:\n  - name: r1\n    rules:\n      - id: x\n        effect: permit\n", "p.yaml:6: ");
    expect_refused("version: 1\nroles:\n  - name: r1\n    rules:\n      - id: x\n        effect: Allow\n", "p.yaml:6: ");
    expect_refused("version: 1\nroles:\n  - name: r1\n    rules: []\n", "p.yaml:4: ");
    expect_refused(ROLE("x", "", "instance"), "p.yaml:7: ");
    expect_refused(ROLE("x", "audit.tail", ""), "p.yaml:8: ");
    expect_refused("version: 1\n" BIND("r1", "acme", ""), "p.yaml:5: ");
    expect_refused("version: 1\nbindings:\n  - role: r1\n    tenant: acme\n    principals: orders\n", "p.yaml:5: ");
    expect_refused(ROLE("a23456789012345678901234567890123456789012345678901234567890123456789", "audit.tail", "instance"), "p.yaml:5: ");
}

static void words_are_known_and_unique(void **state)
{
    (void)state;
    expect_refused(ROLE("X", "audit.tail", "instance"), "p.yaml:5: rule id \"X\" must match");
    expect_refused(ROLE("default-deny", "audit.tail", "instance"), "p.yaml:5: rule id \"default-deny\" means");
    expect_refused(ROLE("x", "kms.cryptoKeys.encypt", "instance"), "p.yaml:7: unknown action \"kms.cryptoKeys.encypt\"");
    expect_refused(ROLE("x", "kms.cryptoKeys", "instance"), "p.yaml:7: unknown action");
    expect_refused(ROLE("x", "kms.cryptoKeys.enc*", "instance"), "p.yaml:7: unknown action");
    expect_refused(ROLE("x", "\"kms.*.encrypt\"", "instance"), "p.yaml:7: unknown action");
    expect_refused(ROLE("x", "\"kms*\"", "instance"), "p.yaml:7: unknown action");
    expect_refused(ROLE("x", "\".*\"", "instance"), "p.yaml:7: unknown action");
    expect_refused(ROLE("x", "\"**\"", "instance"), "p.yaml:7: unknown action");
    expect_refused(ROLE("x", "\"secrets.*\"", "instance"), "p.yaml:7: unknown action");
    expect_refused(ROLE("x", "KMS.cryptoKeys.encrypt", "instance"), "p.yaml:7: unknown action");
    expect_refused(GOOD_ROLE "      - id: r1.use\n        effect: deny\n        actions: [audit.tail]\n        resources: [instance]\n",
                   "p.yaml:9: rule id \"r1.use\" appears twice");
    expect_refused(GOOD_ROLE "  - name: r1\n    rules:\n      - id: y\n        effect: deny\n        actions: [audit.tail]\n"
                             "        resources: [instance]\n",
                   "p.yaml:9: role \"r1\" appears twice");
    /* The second line of a list is named by its own line. */
    expect_refused("version: 1\nroles:\n  - name: r1\n    rules:\n      - id: x\n        effect: allow\n        actions:\n          - audit.tail\n"
                   "          - audit.tial\n        resources:\n          - instance\n",
                   "p.yaml:9: unknown action \"audit.tial\"");
    /* Uniqueness is over all documents, and the message names the later one. */
    struct policy_doc docs[] = {{"a.yaml", BYTES_LIT(GOOD_ROLE)}, {"b.yaml", BYTES_LIT("version: 1\n\n" "roles:\n  - name: r2\n    rules:\n      - id: r1.use\n        effect: allow\n        actions: [audit.tail]\n        resources: [instance]\n")}};
    struct policy_set *s = NULL;
    struct err e = {0};
    assert_true(policy_compile(docs, 2, ACTIONS, NACTIONS, &s, &e, NULL).failed);
    assert_string_equal(e.detail, "b.yaml:6: rule id \"r1.use\" appears twice");
    assert_true(policy_compile(docs, 0, ACTIONS, NACTIONS, &s, &e, NULL).failed);
    assert_int_equal(e.code, ERR_INVALID);
}

static void resources_follow_the_name_grammar(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "projects", "projects/", "projects/Acme", "projects/acme/", "/projects/acme", "projects/acme/**/x", "\"**/x\"", "instances",
        "\"**/projects/acme\"", "\"projects/**/projects/acme\"", "\"projects/{tenant}/**/locations/eu\"", "\"**/**\"",
        "\"*\"", "\"projects/ac*\"", "\"projects/{tenant}x\"", "\"projects/{Tenant}\"", "\"projects/{tenant}/locations/{tenant}\"",
        "\"projects/{tenant}/*/eu\"", "\"projects/{tenant}/keyRings/pii\"", "\"projects/{tenant}/locations/..\"",
        "\"projects/{tenant}/locations/%65u\"", "\"projects/{tenant}/locations/EU\"", "\"projects/{tenant}/locations\"",
        "\"projects/{tenant}/locations/eu/keyRings/p.i\"", "\"projects//locations/eu\"", "\"projects/***\"", "\"projects/ {tenant}\"",
        "\"projects/{tenant}/locations/eu/keyRings/a/cryptoKeys/b/cryptoKeyVersions/01\"",
        "\"projects/{tenant}/locations/eu/keyRings/a/cryptoKeys/b/cryptoKeyVersions/1/x/y\"", "projects/platform",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char yaml[1024];
        snprintf(yaml, sizeof yaml, ROLE("x", "audit.tail", "%s"), bad[i]);
        expect_refused(yaml, "p.yaml:8: resource \"");
    }
}

static void bindings_are_checked(void **state)
{
    (void)state;
    expect_refused(GOOD_ROLE BIND("r2", "acme", "a"), "p.yaml:10: unknown role \"r2\"");
    expect_refused(GOOD_ROLE BIND("r1", "Acme", "a"), "p.yaml:11: tenant \"Acme\" is neither");
    expect_refused(GOOD_ROLE BIND("r1", "acme*", "a"), "p.yaml:11: tenant \"acme*\" is neither");
    expect_refused(GOOD_ROLE BIND("r1", "Platform", "a"), "p.yaml:11: tenant \"Platform\" is neither");
    expect_refused(GOOD_ROLE BIND("r1", "acme", "\"*-keyadmin\""), "p.yaml:12: principal \"*-keyadmin\": is not a principal's name");
    expect_refused(GOOD_ROLE BIND("r1", "acme", "Orders"), "p.yaml:12: principal \"Orders\"");
    expect_refused(GOOD_ROLE BIND("r1", "acme", "a, \"*\""), "p.yaml:12: principal \"*\": \"*\" stands alone");
    expect_refused(GOOD_ROLE BIND("r1", "acme", "a, b, a"), "p.yaml:12: principal \"a\" has role \"r1\" already");
    expect_refused(GOOD "  - role: r1\n    tenant: acme\n    principals:\n      - x\n      - orders\n", "p.yaml:17: principal \"orders\" has role");
}

static void no_tenant_reaches_outside_itself(void **state)
{
    (void)state;
    static const char *const outside[] = {"\"projects/*\"", "\"projects/**\"", "\"**\"", "instance", "projects/acme", "projects/globex",
                                          "\"projects/{tenant}/**\", \"projects/*/locations/eu\""};
    expect_refused(ROLE("x", "audit.tail", "\"projects/*\", \"projects/{tenant}\"") BIND("r1", "acme", "a"), "p.yaml:8: a role of a tenant must stay");
    static const char *const tenants[] = {"acme", "\"*\""};
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++)
        for (size_t t = 0; t < 2; t++)
            for (int deny = 0; deny < 2; deny++) {
                char yaml[1024];
                snprintf(yaml, sizeof yaml, ROLE("x", "audit.tail", "%s") "bindings:\n  - role: r1\n    tenant: %s\n    principals: [a]\n", outside[i], tenants[t]);
                if (deny)
                    memcpy(strstr(yaml, "allow"), "deny ", 5);
                expect_refused(yaml, "p.yaml:8: a role of a tenant must stay inside it: begin with projects/{tenant} (bound at p.yaml:10)");
            }
    policy_unref(compiled(ROLE("x", "audit.tail", "\"projects/{tenant}\", \"projects/{tenant}/**\"") BIND("r1", "acme", "a")));
}

static void platform_principals_never_use_keys(void **state)
{
    (void)state;
    expect_refused(ROLE("x", "audit.tail, kms.cryptoKeys.decrypt", "\"**\"") BIND("r1", "platform", "admin"),
                   "p.yaml:7: \"kms.cryptoKeys.decrypt\" gives kms.cryptoKeys.decrypt, which uses keys, to platform principals (bound at p.yaml:10)");
    expect_refused(ROLE("x", "\"kms.*\"", "\"**\"") BIND("r1", "platform", "admin"), "p.yaml:7: \"kms.*\" gives kms.cryptoKeys.encrypt");
    expect_refused(ROLE("x", "\"*\"", "\"**\"") BIND("r1", "platform", "admin"), "p.yaml:7: \"*\" gives ");
    for (size_t i = 0; i < NACTIONS; i++) { /* each data-plane action, by its own name */
        char yaml[1024];
        snprintf(yaml, sizeof yaml, ROLE("x", "%s", "\"**\"") BIND("r1", "platform", "admin"), ACTIONS[i].name);
        if (ACTIONS[i].data_plane)
            expect_refused(yaml, "p.yaml:7: \"");
        if (!ACTIONS[i].data_plane)
            policy_unref(compiled(yaml));
    }
    expect_refused(GOOD_ROLE BIND("r1", "platform", "admin"), "p.yaml:7: \"kms.cryptoKeys.encrypt\" gives");
    expect_refused(ROLE("x", "audit.tail", "\"projects/{tenant}\"") BIND("r1", "platform", "admin"), "p.yaml:8: {tenant} means nothing for platform");
    expect_refused(ROLE("x", "audit.tail", "\"**\"") BIND("r1", "platform", "\"*\""), "p.yaml:12: principal \"*\": platform principals are named one by one");
    /* To deny key use to the platform takes nothing away from anyone, so it may be said. */
    char deny[] = ROLE("x", "\"*\"", "\"**\"") BIND("r1", "platform", "admin");
    memcpy(strstr(deny, "allow"), "deny ", 5);
    policy_unref(compiled(deny));
}

static void sizes_are_bounded(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, POLICY_DOC_MAX);
    buf_put_str(&b, "version: 1\nroles:\n  - name: r\n    rules:\n");
    for (int i = 0; i < 1300; i++)
        buf_putf(&b, "    - {id: r%d, effect: allow, actions: [\"*\"], resources: [\"projects/{tenant}/**\"]}\n", i);
    struct policy_doc docs[17];
    for (size_t i = 0; i < 17; i++)
        docs[i] = (struct policy_doc){"many.yaml", buf_bytes(&b)};
    assert_false(b.overflow);
    struct policy_set *s = NULL;
    struct err e = {0};
    assert_true(policy_compile(docs, 17, ACTIONS, NACTIONS, &s, &e, NULL).failed); /* too many documents */
    assert_int_equal(e.code, ERR_INVALID);
    assert_true(policy_compile(docs, 4, ACTIONS, NACTIONS, &s, &e, NULL).failed);
    assert_string_equal(e.detail, "many.yaml:1: 5200 rules in all; at most 4096");
    struct buf bind;
    buf_init(&bind, POLICY_DOC_MAX);
    buf_put_str(&bind, "version: 1\nbindings:\n  - role: r\n    tenant: acme\n    principals: [p0");
    for (int i = 1; i < 1000; i++)
        buf_putf(&bind, ", p%d", i);
    buf_put_str(&bind, "]\n");
    docs[1] = (struct policy_doc){"bind.yaml", buf_bytes(&bind)};
    assert_true(policy_compile(docs, 2, ACTIONS, NACTIONS, &s, &e, NULL).failed);
    assert_non_null(strstr(e.detail, "roles times principals make 1300000 rules"));
    assert_null(s);
    buf_release(&b);
    buf_release(&bind);
}

static void the_digest_is_of_the_documents_in_order(void **state)
{
    (void)state;
    struct policy_doc docs[] = {{"a", BYTES_LIT(GOOD_ROLE)}, {"b", BYTES_LIT("version: 1\n" BIND("r1", "acme", "x"))}};
    struct policy_doc swapped[] = {docs[1], docs[0]};
    struct policy_doc one = {"a", BYTES_LIT(GOOD)};
    /* The same bytes, cut elsewhere. */
    struct policy_doc moved[] = {{"a", BYTES(docs[0].yaml.p, docs[0].yaml.n - 1)}, {"b", BYTES_LIT("\nversion: 1\n" BIND("r1", "acme", "x"))}};
    struct policy_set *s[5] = {0};
    struct err e = {0};
    uint8_t d[5][32];
    assert_false(policy_compile(docs, 2, ACTIONS, NACTIONS, &s[0], &e, NULL).failed);
    assert_false(policy_compile(docs, 2, ACTIONS, NACTIONS, &s[1], &e, NULL).failed);
    assert_false(policy_compile(swapped, 2, ACTIONS, NACTIONS, &s[2], &e, NULL).failed);
    assert_false(policy_compile(&one, 1, ACTIONS, NACTIONS, &s[3], &e, NULL).failed);
    assert_false(policy_compile(moved, 2, ACTIONS, NACTIONS, &s[4], &e, NULL).failed);
    for (int i = 0; i < 5; i++) {
        policy_digest(s[i], d[i]);
        policy_unref(s[i]);
    }
    assert_memory_equal(d[0], d[1], 32);
    assert_memory_not_equal(d[0], d[2], 32);
    assert_memory_not_equal(d[0], d[3], 32);
    assert_memory_not_equal(d[0], d[4], 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_documents_compile),
        cmocka_unit_test(yaml_itself_is_kept_plain),
        cmocka_unit_test(the_schema_is_strict),
        cmocka_unit_test(words_are_known_and_unique),
        cmocka_unit_test(resources_follow_the_name_grammar),
        cmocka_unit_test(bindings_are_checked),
        cmocka_unit_test(no_tenant_reaches_outside_itself),
        cmocka_unit_test(platform_principals_never_use_keys),
        cmocka_unit_test(sizes_are_bounded),
        cmocka_unit_test(the_digest_is_of_the_documents_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
