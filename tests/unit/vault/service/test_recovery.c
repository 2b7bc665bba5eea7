/* What a recovery administrator may do, held against the table of RPCs: whatever is added there, keys stay out of reach. */
#include "vault/service/recovery.h"
#include "vault/service/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

static void no_key_is_in_reach(void **state)
{
    (void)state;
    size_t n, allowed = 0;
    const struct rpc_row *const *rows = table_rows(&n);
    for (size_t i = 0; i < n; i++) {
        if (rows[i]->action == NULL)
            continue;
        struct policy_decision d = recovery_decide(rows[i]->action);
        bool keys = rows[i]->plane == PLANE_DATA || strncmp(rows[i]->action, "kms.", 4) == 0 || strncmp(rows[i]->action, "envelope.", 9) == 0 ||
                    strncmp(rows[i]->action, "masters.", 8) == 0 || strncmp(rows[i]->action, "seals.", 6) == 0; /* what all keys hang from */
        assert_int_equal(d.allowed, !keys);
        assert_string_equal(d.rule, keys ? "recovery.no-keys" : "recovery.administer");
        allowed += d.allowed;
    }
    assert_true(allowed >= 13 && allowed < n);
}

static void areas_are_whole_words(void **state)
{
    (void)state;
    static const char *const not[] = {"", "identity", "policyx.apply", "kms.identity.x", "Policy.apply", "grants.approve"};
    for (size_t i = 0; i < sizeof not / sizeof not[0]; i++)
        assert_false(recovery_decide(not[i]).allowed);
    assert_true(recovery_decide("policy.apply").allowed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_key_is_in_reach),
        cmocka_unit_test(areas_are_whole_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
