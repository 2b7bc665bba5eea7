#include "tests/unit/vault/front/testing.h"
#include "vault/front/certs.h"

#include <stdlib.h>
#include <string.h>

static void test_a_share(void **state)
{
    (void)state;
    struct certs *cs = certs_new(2);
    uint8_t a[CERTS_DIGEST_BYTES] = {1, 2, 3}, b[CERTS_DIGEST_BYTES] = {1, 2, 4}; /* one bucket, two certificates */
    struct holding h[4] = {0};
    certs_join(cs, a, &h[0]);
    certs_join(cs, a, &h[1]);
    certs_join(cs, b, &h[2]);
    assert_false(certs_over(cs, &h[1]));
    assert_false(certs_over(cs, &h[2]));
    certs_join(cs, a, &h[3]);
    assert_true(certs_over(cs, &h[3]));
    assert_false(certs_over(cs, &h[2]));
    assert_ptr_equal(certs_oldest(&h[3]), &h[0]);
    assert_ptr_equal(certs_oldest(&h[2]), &h[2]);
    certs_leave(cs, &h[0]);
    certs_leave(cs, &h[0]); /* twice is no harm */
    assert_false(certs_over(cs, &h[3]));
    assert_ptr_equal(certs_oldest(&h[3]), &h[1]);
    assert_ptr_equal(h[1].next, &h[3]);
    for (int i = 1; i < 4; i++)
        certs_leave(cs, &h[i]);
    certs_free(cs);
}

/* Counted and ordered as a plain list would have it, whatever comes and goes; and nothing is left. */
static void test_any_history(void **state)
{
    (void)state;
    struct certs *cs = certs_new(50);
    static struct holding h[300];
    static unsigned came[300], of[300];
    unsigned seed = 3, n[4] = {0}, clock = 0;
    for (int i = 0; i < 100000; i++) {
        unsigned x = (unsigned)rand_r(&seed) % 300, c = (unsigned)rand_r(&seed) % 4;
        uint8_t digest[CERTS_DIGEST_BYTES] = {(uint8_t)c};
        if (h[x].cert != NULL) {
            certs_leave(cs, &h[x]);
            n[of[x]]--;
            continue;
        }
        certs_join(cs, digest, &h[x]);
        n[of[x] = c]++;
        came[x] = ++clock;
        assert_int_equal(certs_over(cs, &h[x]), n[c] > 50);
        const struct holding *oldest = certs_oldest(&h[x]);
        for (unsigned k = 0; k < 300; k++)
            if (h[k].cert == h[x].cert)
                assert_true(came[oldest - h] <= came[k]);
    }
    for (unsigned k = 0; k < 300; k++)
        certs_leave(cs, &h[k]);
    certs_free(cs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_share), cmocka_unit_test(test_any_history)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
