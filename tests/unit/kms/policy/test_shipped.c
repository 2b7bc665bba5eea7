/* The shipped policy against its decision tables (policies/tables/README.md), and the pages beside it against the truth. */
#include "kms/policy/policy.h"
#include "tests/unit/kms/policy/actions.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { FILE_MAX = 131072, ROWS_MAX = 2048, COLUMNS = 6 };

static struct bytes read_file(const char *path)
{
    FILE *f = fopen(path, "re");
    if (!f)
        fail_msg("%s cannot be opened (tests run at the repository's root)", path);
    char *p = malloc(FILE_MAX + 1);
    size_t n = fread(p, 1, FILE_MAX, f);
    fclose(f);
    assert_in_range(n, 1, FILE_MAX - 1);
    p[n] = '\0';
    return BYTES(p, n);
}

static struct policy_set *compile_files(const char *a, const char *b)
{
    struct policy_doc docs[] = {{a, read_file(a)}, {b, read_file(b)}};
    struct policy_set *s = NULL;
    struct err e = {0};
    if (policy_compile(docs, 2, ACTIONS, NACTIONS, &s, &e, NULL).failed)
        fail_msg("%s", e.detail);
    free((void *)(uintptr_t)docs[0].yaml.p);
    free((void *)(uintptr_t)docs[1].yaml.p);
    return s;
}

struct row {
    char *principal, *tenant, *action, *resource, *expected, *rule;
    unsigned line;
};
struct table {
    char *text;
    struct row rows[ROWS_MAX];
    size_t n;
};

static struct table *read_table(const char *path)
{
    struct table *t = calloc(1, sizeof *t);
    unsigned line = 0;
    t->text = (char *)(uintptr_t)read_file(path).p;
    for (char *next = t->text, *at; next && *next;) {
        at = next;
        next = strchr(at, '\n');
        if (next)
            *next++ = '\0';
        line++;
        if (line == 1)
            assert_string_equal(at, "principal,tenant,action,resource,expected,rule");
        if (line == 1 || *at == '\0' || *at == '#')
            continue;
        char *cells[COLUMNS], *comma = NULL;
        for (size_t i = 0; i < COLUMNS; i++) {
            cells[i] = i == 0 ? at : comma + 1;
            comma = strchr(cells[i], ',');
            if ((comma == NULL) != (i + 1 == COLUMNS))
                fail_msg("%s:%u: not %d columns", path, line, COLUMNS);
            if (comma)
                *comma = '\0';
        }
        assert_true(t->n < ROWS_MAX);
        t->rows[t->n++] = (struct row){cells[0], cells[1], cells[2], cells[3], cells[4], cells[5], line};
    }
    return t;
}

static struct policy_decision ask(const struct policy_set *s, const struct row *r)
{
    struct name n = {0};
    struct err e;
    if (strcmp(r->resource, "instance") != 0 && name_parse_any(bytes_str(r->resource), ~0u, "name", &n, &e).failed)
        fail_msg("line %u: %s is no name", r->line, r->resource);
    struct policy_question q = {.principal = bytes_str(r->principal),
                                .principal_tenant = bytes_str(strcmp(r->tenant, "platform") == 0 ? "" : r->tenant),
                                .action = r->action,
                                .resource = &n};
    return policy_decide(s, &q);
}

static bool has_denial_twin(const struct table *t, const struct row *allowed)
{
    for (size_t i = 0; i < t->n; i++)
        if (strcmp(t->rows[i].expected, "deny") == 0 && strcmp(t->rows[i].action, allowed->action) == 0 &&
            strcmp(t->rows[i].resource, allowed->resource) == 0)
            return true;
    return false;
}

static void check_table(const char *table, const char *bindings, size_t at_least)
{
    struct policy_set *s = compile_files("policies/roles.yaml", bindings);
    struct table *t = read_table(table);
    size_t allowed = 0;
    for (size_t i = 0; i < t->n; i++) {
        const struct row *r = &t->rows[i];
        struct policy_decision d = ask(s, r);
        bool want = strcmp(r->expected, "allow") == 0;
        if (!want && strcmp(r->expected, "deny") != 0)
            fail_msg("%s:%u: expected is allow or deny", table, r->line);
        if (d.allowed != want || strcmp(d.rule, r->rule) != 0)
            fail_msg("%s:%u: %s of %s, %s on %s: got %s by %s", table, r->line, r->principal, r->tenant, r->action, r->resource,
                     d.allowed ? "allow" : "deny", d.rule);
        if (want && !has_denial_twin(t, r))
            fail_msg("%s:%u: nobody is denied this", table, r->line);
        allowed += want;
    }
    assert_in_range(t->n, at_least, ROWS_MAX);
    assert_in_range(allowed, 1, t->n / 2);
    free(t->text);
    free(t);
    policy_unref(s);
}

static void development_instance_decides_as_its_table_says(void **state)
{
    (void)state;
    check_table("policies/tables/development.csv", "policies/bindings.yaml", 300);
}

static void auditors_decide_as_their_table_says(void **state)
{
    (void)state;
    check_table("policies/tables/auditors.csv", "policies/tables/auditors.yaml", 60);
}

/* Beyond the rows: no principal of the shipped bindings can both use and administer, and none reaches another tenant. */
static void separation_holds_for_every_action_and_place(void **state)
{
    (void)state;
    struct policy_set *s = compile_files("policies/roles.yaml", "policies/bindings.yaml");
    static const char *const who[][2] = {{"admin", "platform"}, {"acme-keyadmin", "acme"}, {"acme-orders", "acme"}, {"globex-keyadmin", "globex"}, {"globex-billing", "globex"}};
    static const char *const places[] = {"instance", "projects/acme", "projects/acme/locations/eu", "projects/acme/locations/eu/keyRings/r",
                                         "projects/acme/locations/eu/keyRings/r/cryptoKeys/k",
                                         "projects/acme/locations/eu/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"};
    for (size_t w = 0; w < sizeof who / sizeof who[0]; w++) {
        unsigned uses = 0, creates = 0, foreign = 0;
        for (size_t a = 0; a < NACTIONS; a++)
            for (size_t p = 0; p < sizeof places / sizeof places[0]; p++) {
                char own[200];
                snprintf(own, sizeof own, "%s", places[p]);
                if (p > 0 && strcmp(who[w][1], "globex") == 0)
                    snprintf(own, sizeof own, "projects/globex%s", places[p] + strlen("projects/acme"));
                char action[64], other[200];
                snprintf(action, sizeof action, "%s", ACTIONS[a].name);
                snprintf(other, sizeof other, "projects/initech%s", p > 0 ? places[p] + strlen("projects/acme") : "");
                char principal[64], tenant[64];
                snprintf(principal, sizeof principal, "%s", who[w][0]);
                snprintf(tenant, sizeof tenant, "%s", who[w][1]);
                struct row r = {.principal = principal, .tenant = tenant, .action = action, .resource = own};
                bool allowed = ask(s, &r).allowed;
                uses += allowed && ACTIONS[a].data_plane;
                creates += allowed && strncmp(action, "kms.cryptoKey", 13) == 0 && !ACTIONS[a].data_plane && !strstr(action, ".get") && !strstr(action, ".list");
                r.resource = other;
                foreign += ask(s, &r).allowed && w > 0;
            }
        assert_true(uses == 0 || creates == 0);
        assert_int_equal(foreign, 0);
        assert_int_equal(uses > 0, w == 2 || w == 4);
        assert_int_equal(creates > 0, w == 1 || w == 3);
    }
    policy_unref(s);
}

static void the_action_page_lists_exactly_the_actions(void **state)
{
    (void)state;
    struct bytes page = read_file("policies/ACTIONS.md");
    size_t rows = 0;
    for (const char *at = (const char *)page.p; (at = strstr(at, "\n| `")) != NULL; at++)
        rows++;
    assert_int_equal(rows, NACTIONS);
    for (size_t i = 0; i < NACTIONS; i++) {
        char want[128];
        snprintf(want, sizeof want, "\n| `%s` | %s |", ACTIONS[i].name, ACTIONS[i].data_plane ? "data" : "control");
        if (!strstr((const char *)page.p, want))
            fail_msg("policies/ACTIONS.md lacks: %s", want + 1);
    }
    free((void *)(uintptr_t)page.p);
}

/* docs/POLICY.md shows whole documents between ```yaml fences: together they are a policy. */
static void the_documents_in_the_manual_compile(void **state)
{
    (void)state;
    struct bytes page = read_file("docs/POLICY.md");
    struct policy_doc docs[8];
    size_t n = 0;
    for (const char *at = (const char *)page.p; (at = strstr(at, "```yaml\n")) != NULL && n < 8;) {
        const char *start = at + strlen("```yaml\n"), *end = strstr(start, "```");
        assert_non_null(end);
        docs[n++] = (struct policy_doc){"POLICY.md", BYTES(start, (size_t)(end - start))};
        at = end + 3;
    }
    assert_in_range(n, 2, 8);
    struct policy_set *s = NULL;
    struct err e = {0};
    if (policy_compile(docs, n, ACTIONS, NACTIONS, &s, &e, NULL).failed)
        fail_msg("%s", e.detail);
    policy_unref(s);
    free((void *)(uintptr_t)page.p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(development_instance_decides_as_its_table_says),
        cmocka_unit_test(auditors_decide_as_their_table_says),
        cmocka_unit_test(separation_holds_for_every_action_and_place),
        cmocka_unit_test(the_action_page_lists_exactly_the_actions),
        cmocka_unit_test(the_documents_in_the_manual_compile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
