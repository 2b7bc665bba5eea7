/* The compiled policy against the slow reference of reference.h. */
#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/kms/policy/reference.h"

enum { POLICIES = 600, QUESTIONS = 250 };

static struct fake_rng rng;
static unsigned pick(unsigned n)
{
    uint64_t v;
    rng_fill(&rng.r, &v, sizeof v);
    return (unsigned)(v % n);
}

struct tally {
    unsigned cases, allowed, denied_by_rule;
};

static void compare(const struct model *m, const struct policy_set *s, struct tally *t)
{
    struct answer a;
    char said[NAME_MAX_BYTES + 256];
    if (!both_agree(m, s, &a, said)) {
        struct buf b;
        buf_init(&b, 65536);
        write_yaml(m, &b);
        fail_msg("%s\n%s", said, buf_cstr(&b));
    }
    t->cases++;
    t->allowed += a.allowed;
    t->denied_by_rule += !a.allowed && strcmp(a.rule, "default-deny") != 0;
}

/* make differential CASES=10000000 */
static unsigned long policies(void)
{
    const char *cases = getenv("CLV_POLICY_CASES");
    unsigned long n = cases ? strtoul(cases, NULL, 10) / QUESTIONS : 0;
    return n > POLICIES ? n : POLICIES;
}

static void compiled_and_reference_agree(void **state)
{
    (void)state;
    struct tally t = {0};
    struct model *m = malloc(sizeof *m);
    fake_rng_init(&rng, 20261120);
    for (unsigned long i = 0, n = policies(); i < n; i++) {
        struct buf b;
        struct policy_set *s = NULL;
        struct err e = {0};
        buf_init(&b, 65536);
        random_model(m);
        write_yaml(m, &b);
        struct policy_doc doc = {.name = "random.yaml", .yaml = buf_bytes(&b)};
        if (policy_compile(&doc, 1, ACTIONS, NACTIONS, &s, &e, NULL).failed)
            fail_msg("%s\n%s", e.detail, buf_cstr(&b));
        for (unsigned j = 0; j < QUESTIONS; j++)
            compare(m, s, &t);
        policy_unref(s);
        buf_release(&b);
    }
    printf("%u cases: %u allowed, %u denied by a rule\n", t.cases, t.allowed, t.denied_by_rule);
    assert_true(t.cases >= 100000);
    assert_true(t.allowed > t.cases / 100 && t.denied_by_rule > t.cases / 100); /* or the comparison proves nothing */
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(compiled_and_reference_agree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
