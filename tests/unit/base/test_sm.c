#include "base/sm.h"

#include "tests/unit/base/testing.h"

enum { A, B, C };
static const struct sm_state states[] = {[A] = {"a", 1U << B}, [B] = {"b", 1U << A | 1U << C}, [C] = {"c", 0}};
static const struct sm_table table = {"thing", states, 3};

static void test_moves(void **state)
{
    unsigned s = A;
    struct err e;

    (void)state;
    assert_ok(sm_move(&table, &s, B, &e));
    assert_ok(sm_move(&table, &s, C, &e));
    assert_int_equal(s, C);
    assert_string_equal(sm_name(&table, s), "c");
}

static void test_refusals(void **state)
{
    struct err e;

    (void)state;
    for (unsigned from = 0; from < 5; from++)
        for (unsigned to = 0; to < 5; to++) {
            bool want = (from == A && to == B) || (from == B && (to == A || to == C));
            assert_int_equal(sm_can(&table, from, to), want);
            unsigned s = from;
            if (want)
                continue;
            assert_err(sm_move(&table, &s, to, &e), &e, ERR_STATE, "ILLEGAL_TRANSITION");
            assert_int_equal(s, from);
        }
    assert_string_equal(e.detail, "thing cannot move from ? to ?");
    assert_string_equal(sm_name(&table, 3), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_moves), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("sm", tests, NULL, NULL);
}
