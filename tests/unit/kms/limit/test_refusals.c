#include "kms/limit/limit.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SECOND INT64_C(1000000000)

static struct refusals *make(struct fake_clock *clock, size_t sources, unsigned full)
{
    struct refusals *r = NULL;
    struct err e = {0};
    fake_clock_init(clock, 0, 7 * SECOND);
    assert_false(refusals_new(&clock->c, sources, full, &r, &e).failed);
    return r;
}

static bool full(struct refusals *r, const char *source, const char *code)
{
    return refusals_full(r, bytes_str(source), "kms.cryptoKeys.encrypt", code, "WHY");
}

static void first_ones_in_full_then_counted(void **state)
{
    (void)state;
    struct fake_clock c;
    struct refusals *r = make(&c, 16, 3);
    struct refusal_count out[8];
    for (int i = 0; i < 10; i++)
        assert_int_equal(full(r, "10.0.0.1", "UNAUTHENTICATED"), i < 3);
    assert_true(full(r, "10.0.0.1", "PERMISSION_DENIED")); /* another code has its own allowance */
    assert_true(full(r, "10.0.0.2", "UNAUTHENTICATED"));   /* and another source */
    assert_int_equal(refusals_drain(r, false, out, 8), 0); /* its minute is not over */
    fake_clock_advance(&c, 60 * SECOND);
    assert_int_equal(refusals_drain(r, false, out, 8), 1);
    assert_string_equal(out[0].source, "10.0.0.1");
    assert_string_equal(out[0].action, "kms.cryptoKeys.encrypt");
    assert_string_equal(out[0].code, "UNAUTHENTICATED");
    assert_string_equal(out[0].reason, "WHY");
    assert_int_equal(out[0].repeats, 7);
    assert_int_equal(refusals_drain(r, true, out, 8), 0);
    assert_true(full(r, "10.0.0.1", "UNAUTHENTICATED")); /* a new minute, a new allowance */
    refusals_free(r);
}

static void counts_keep_action_and_reason_apart(void **state)
{
    (void)state;
    struct fake_clock c;
    struct refusals *r = make(&c, 16, 0);
    struct refusal_count out[8];
    assert_false(refusals_full(r, BYTES_LIT("a"), "x", "C", "y"));
    assert_false(refusals_full(r, BYTES_LIT("a"), "xC", "", "y")); /* fields do not run together */
    assert_false(refusals_full(r, BYTES_LIT("a"), "x", "C", NULL));
    assert_false(refusals_full(r, BYTES_LIT("ax"), "", "C", "y"));
    assert_false(refusals_full(r, BYTES_LIT("a"), "x", "C", "y"));
    assert_int_equal(refusals_drain(r, true, out, 2), 2); /* as many as there is room for */
    assert_int_equal(refusals_drain(r, true, out + 2, 6), 2);
    uint64_t sum = 0;
    for (int i = 0; i < 4; i++)
        sum += out[i].repeats;
    assert_int_equal(sum, 5);
    refusals_free(r);
}

static void overlong_text_is_cut_but_not_confused(void **state)
{
    (void)state;
    struct fake_clock c;
    struct refusals *r = make(&c, 16, 0);
    struct refusal_count out[4];
    char a[300], b[300];
    memset(a, 's', sizeof a);
    memset(b, 's', sizeof b);
    a[299] = b[299] = '\0';
    b[298] = 't';
    assert_false(refusals_full(r, bytes_str(a), a, a, a));
    assert_false(refusals_full(r, bytes_str(b), a, a, a));
    assert_false(refusals_full(r, (struct bytes){NULL, 0}, "", "", ""));
    assert_int_equal(refusals_drain(r, true, out, 4), 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(out[i].repeats, 1);
    refusals_free(r);
}

/* Whoever comes from ever new addresses gets few full records, and every refusal is still counted. */
static void a_flood_of_sources_loses_nothing_and_grows_nothing(void **state)
{
    (void)state;
    struct fake_clock c;
    struct refusals *r = make(&c, 32, 1);
    enum { FLOOD = 20000 };
    uint64_t in_full = 0, counted = 0;
    for (int i = 0; i < FLOOD; i++) {
        char source[32];
        snprintf(source, sizeof source, "2001:db8::%x", i);
        for (int j = 0; j < 2; j++)
            in_full += full(r, source, "RESOURCE_EXHAUSTED") ? 1u : 0u;
    }
    assert_in_range(in_full, 32, 64); /* no more than there are slots */
    struct refusal_count out[256];
    size_t n = refusals_drain(r, true, out, 256);
    assert_in_range(n, 2, 65);
    bool other = false;
    for (size_t i = 0; i < n; i++) {
        counted += out[i].repeats;
        other = other || strcmp(out[i].source, "other") == 0;
    }
    assert_true(other);
    assert_int_equal(in_full + counted, 2 * FLOOD);
    fake_clock_advance(&c, 61 * SECOND); /* the table is usable again */
    assert_true(full(r, "192.0.2.1", "RESOURCE_EXHAUSTED"));
    refusals_free(r);
}

static void many_codes_still_lose_nothing(void **state)
{
    (void)state;
    struct fake_clock c;
    struct refusals *r = make(&c, 1, 0);
    uint64_t counted = 0;
    for (int i = 0; i < 500; i++) {
        char code[24];
        snprintf(code, sizeof code, "CODE_%d", i);
        assert_false(full(r, "s", code));
    }
    struct refusal_count out[64];
    for (size_t n; (n = refusals_drain(r, true, out, 64)) > 0;)
        for (size_t i = 0; i < n; i++)
            counted += out[i].repeats;
    assert_int_equal(counted, 500);
    refusals_free(r);
}

struct worker {
    struct refusals *r;
    int id;
    uint64_t in_full;
};
static void *work(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; i < 5000; i++) {
        char source[16];
        snprintf(source, sizeof source, "s%d", i % 40);
        w->in_full += full(w->r, source, "UNAUTHENTICATED") ? 1u : 0u;
    }
    return NULL;
}

static void threads_and_a_drain_at_once_lose_nothing(void **state)
{
    (void)state;
    struct fake_clock c;
    struct refusals *r = make(&c, 16, 2);
    struct worker w[4];
    pthread_t t[4];
    uint64_t counted = 0;
    struct refusal_count out[64];
    for (int i = 0; i < 4; i++) {
        w[i] = (struct worker){.r = r, .id = i};
        assert_int_equal(pthread_create(&t[i], NULL, work, &w[i]), 0);
    }
    for (int round = 0; round < 200; round++)
        for (size_t n = refusals_drain(r, true, out, 64), i = 0; i < n; i++)
            counted += out[i].repeats;
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
        counted += w[i].in_full;
    }
    for (size_t n; (n = refusals_drain(r, true, out, 64)) > 0;)
        for (size_t i = 0; i < n; i++)
            counted += out[i].repeats;
    assert_int_equal(counted, 20000);
    refusals_free(r);
}

static void nonsense_sizes_are_refused(void **state)
{
    (void)state;
    struct refusals *r = NULL;
    struct err e = {0};
    assert_true(refusals_new(&clock_system, 0, 1, &r, &e).failed);
    assert_int_equal(e.code, ERR_INVALID);
    assert_null(r);
    refusals_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_ones_in_full_then_counted),
        cmocka_unit_test(counts_keep_action_and_reason_apart),
        cmocka_unit_test(overlong_text_is_cut_but_not_confused),
        cmocka_unit_test(a_flood_of_sources_loses_nothing_and_grows_nothing),
        cmocka_unit_test(many_codes_still_lose_nothing),
        cmocka_unit_test(threads_and_a_drain_at_once_lose_nothing),
        cmocka_unit_test(nonsense_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
