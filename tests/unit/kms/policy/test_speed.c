/* What a decision costs: printed, and held to a bound that only a change of algorithm would pass. */
#include "kms/policy/policy.h"
#include "tests/unit/kms/policy/actions.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define KEY "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email"

static struct policy_set *compiled(const struct policy_doc *docs, size_t n)
{
    struct policy_set *s = NULL;
    struct err e = {0};
    if (policy_compile(docs, n, ACTIONS, NACTIONS, &s, &e, NULL).failed)
        fail_msg("%s", e.detail);
    return s;
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* what others do on the machine is no cost of ours */
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void measure(const char *what, const struct policy_set *s, const char *action, bool allowed, int64_t at_most_ns)
{
    struct name n;
    struct err e;
    enum { N = 20000 };
    assert_false(name_parse(BYTES_LIT(KEY), NAME_CRYPTOKEY, "name", &n, &e).failed);
    struct policy_question q = {.principal = BYTES_LIT("acme-orders"), .principal_tenant = BYTES_LIT("acme"), .action = action, .resource = &n};
    int64_t start = now_ns();
    for (int i = 0; i < N; i++)
        if (policy_decide(s, &q).allowed != allowed)
            fail_msg("%s: not the decision expected", what);
    int64_t ns = (now_ns() - start) / N;
    printf("%-60s %6lld ns\n", what, (long long)ns);
    assert_in_range(ns, 0, at_most_ns);
}

static struct bytes read_file(const char *path, char *out, size_t size)
{
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    size_t n = fread(out, 1, size, f);
    fclose(f);
    return BYTES(out, n);
}

static void shipped(void **state)
{
    (void)state;
    static char a[65536], b[65536];
    struct policy_doc docs[] = {{"roles.yaml", read_file("policies/roles.yaml", a, sizeof a)}, {"bindings.yaml", read_file("policies/bindings.yaml", b, sizeof b)}};
    struct policy_set *s = compiled(docs, 2);
    measure("shipped policy, allowed", s, "kms.cryptoKeys.encrypt", true, 20000);
    measure("shipped policy, denied", s, "kms.cryptoKeys.create", false, 20000);
    policy_unref(s);
}

/* 1,000 rules: of other roles, or all of this caller's and for this action, the last one deciding. */
static void thousand(const char *what, bool all_mine)
{
    struct buf b;
    buf_init(&b, POLICY_DOC_MAX);
    buf_put_str(&b, "version: 1\nroles:\n");
    for (int i = 0; i < 1000; i++) {
        if (i == 0 || !all_mine)
            buf_putf(&b, "- name: r%d\n  rules:\n", i);
        buf_putf(&b, "  - {id: r%d, effect: allow, actions: [kms.cryptoKeys.encrypt], resources: [\"projects/{tenant}/%s\"]}\n", i,
                 all_mine && i < 999 ? "locations/eu/keyRings/other" : "**");
    }
    struct buf bind;
    buf_init(&bind, POLICY_DOC_MAX);
    buf_putf(&bind, "version: 1\nbindings:\n- {role: %s, tenant: acme, principals: [acme-orders]}\n", all_mine ? "r0" : "r999");
    for (int i = 0; i < 999 && !all_mine; i++)
        buf_putf(&bind, "- {role: r%d, tenant: acme, principals: [other%d]}\n", i, i);
    assert_false(b.overflow || bind.overflow);
    struct policy_doc docs[] = {{"r", buf_bytes(&b)}, {"b", buf_bytes(&bind)}};
    int64_t start = now_ns();
    struct policy_set *s = compiled(docs, 2);
    printf("%-60s %6lld us\n", "compiled in", (long long)((now_ns() - start) / 1000));
    measure(what, s, "kms.cryptoKeys.encrypt", true, all_mine ? 1000000 : 20000);
    policy_unref(s);
    buf_release(&b);
    buf_release(&bind);
}

static void many_rules_of_others(void **state)
{
    (void)state;
    thousand("1,000 rules, one of them this caller's", false);
}

static void many_rules_of_ones_own(void **state)
{
    (void)state;
    thousand("1,000 rules, all this caller's for this action", true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shipped),
        cmocka_unit_test(many_rules_of_others),
        cmocka_unit_test(many_rules_of_ones_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
