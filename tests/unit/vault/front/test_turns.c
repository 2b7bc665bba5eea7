#include "tests/unit/vault/front/testing.h"
#include "vault/front/turns.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

static struct sockaddr_storage at(const char *text)
{
    struct sockaddr_storage a = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&a;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&a;
    if (inet_pton(AF_INET, text, &in->sin_addr) == 1)
        a.ss_family = AF_INET;
    else if (inet_pton(AF_INET6, text, &in6->sin6_addr) == 1)
        a.ss_family = AF_INET6;
    assert_int_not_equal(a.ss_family, 0);
    return a;
}

static bool join(struct turns *ts, const char *from, struct turn *t, struct turn **ret_displaced)
{
    struct sockaddr_storage a = at(from);
    *ret_displaced = NULL;
    return turns_join(ts, &a, t, ret_displaced);
}

static void lines_up(struct turns *ts, const char *from, struct turn *t, size_t n)
{
    struct turn *displaced;
    for (size_t i = 0; i < n; i++) {
        assert_true(join(ts, from, &t[i], &displaced));
        assert_null(displaced);
    }
}

static void leave(struct turns *ts, struct turn *t, size_t n)
{
    for (size_t i = 0; i < n; i++)
        turns_leave(ts, &t[i]);
}

static void test_nets_take_turns(void **state)
{
    (void)state;
    struct turns *ts = turns_new();
    struct turn crowd[5], other[2], six[1];
    lines_up(ts, "192.0.2.1", crowd, 5);
    lines_up(ts, "198.51.100.9", other, 2);
    lines_up(ts, "2001:db8:1::1", six, 1);
    struct turn *want[] = {&crowd[0], &other[0], &six[0], &crowd[1], &other[1], &crowd[2], &crowd[3], &crowd[4]};
    for (size_t i = 0; i < 8; i++) {
        assert_true(turns_waiting(ts));
        assert_ptr_equal(turns_next(ts, 1), want[i]);
    }
    assert_false(turns_waiting(ts));
    assert_null(turns_next(ts, 1));
    leave(ts, crowd, 5);
    leave(ts, other, 2);
    leave(ts, six, 1);
    turns_free(ts);
}

static void test_what_a_net_is(void **state)
{
    (void)state;
    /* Each pair shares a net, so that of three in line the second of the same net comes last; or it does not. */
    static const struct {
        const char *a, *b;
        bool same;
    } rows[] = {{"192.0.2.1", "192.0.2.254", true},          {"192.0.2.1", "192.0.3.1", false},
                {"192.0.2.1", "::ffff:192.0.2.9", true},     {"::ffff:192.0.2.1", "::ffff:192.1.2.1", false},
                {"2001:db8:1:2::1", "2001:db8:1:3::1", true}, {"2001:db8:1::1", "2001:db8:2::1", false},
                {"192.0.2.1", "c000:201::", false}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct turns *ts = turns_new();
        struct turn t[3];
        lines_up(ts, rows[i].a, &t[0], 1);
        lines_up(ts, rows[i].b, &t[1], 1);
        lines_up(ts, "203.0.113.1", &t[2], 1);
        assert_ptr_equal(turns_next(ts, 1), &t[0]);
        assert_ptr_equal(turns_next(ts, 1), rows[i].same ? &t[2] : &t[1]);
        leave(ts, t, 3);
        turns_free(ts);
    }
}

static void test_slots(void **state)
{
    (void)state;
    struct turns *ts = turns_new();
    static struct turn a[TURNS_NET_SLOTS + 1], b[TURNS_NET_SLOTS + 1], c[1];
    lines_up(ts, "192.0.2.1", a, TURNS_NET_SLOTS + 1);
    for (int i = 0; i < TURNS_NET_SLOTS; i++)
        assert_non_null(turns_next(ts, 1));
    assert_null(turns_next(ts, 1)); /* its net has all it may have, and others have room */
    lines_up(ts, "198.51.100.1", b, TURNS_NET_SLOTS + 1);
    for (int i = 0; i < TURNS_NET_SLOTS; i++)
        assert_int_equal(turns_next(ts, 1)->place, TURN_SHAKING);
    lines_up(ts, "203.0.113.1", c, 1);
    assert_null(turns_next(ts, 1)); /* no slot is left at all */
    assert_true(turns_waiting(ts));
    turns_leave(ts, &a[3]);
    assert_int_equal(a[3].place, TURN_NONE);
    turns_leave(ts, &a[3]); /* twice is no harm */
    struct turn *next = turns_next(ts, 1);
    assert_non_null(next);
    assert_null(turns_next(ts, 1));
    leave(ts, a, TURNS_NET_SLOTS + 1);
    leave(ts, b, TURNS_NET_SLOTS + 1);
    leave(ts, c, 1);
    turns_free(ts);
}

static void test_the_longest_line_gets_shorter(void **state)
{
    (void)state;
    struct turns *ts = turns_new();
    static struct turn crowd[TURNS_LINE], late[3];
    struct turn *displaced;
    lines_up(ts, "192.0.2.1", crowd, TURNS_LINE - 1);
    lines_up(ts, "198.51.100.1", late, 1);
    assert_false(join(ts, "192.0.2.7", &crowd[TURNS_LINE - 1], &displaced)); /* its own line is the longest */
    assert_null(displaced);
    assert_true(join(ts, "198.51.100.2", &late[1], &displaced));
    assert_ptr_equal(displaced, &crowd[TURNS_LINE - 2]); /* the last one */
    assert_int_equal(displaced->place, TURN_NONE);
    assert_true(join(ts, "203.0.113.1", &late[2], &displaced));
    assert_ptr_equal(displaced, &crowd[TURNS_LINE - 3]);
    leave(ts, crowd, TURNS_LINE - 1);
    leave(ts, late, 3);
    turns_free(ts);
}

static void test_a_slot_is_not_for_ever(void **state)
{
    (void)state;
    struct turns *ts = turns_new();
    static struct turn slow[TURNS_NET_SLOTS], more[1], other[1];
    lines_up(ts, "192.0.2.1", slow, TURNS_NET_SLOTS);
    lines_up(ts, "198.51.100.1", other, 1);
    for (int i = 0; i <= TURNS_NET_SLOTS; i++)
        assert_non_null(turns_next(ts, 100));
    assert_null(turns_slowest(ts, 100 + TURNS_STALL_MS)); /* nobody waits */
    lines_up(ts, "192.0.2.2", more, 1);
    assert_null(turns_slowest(ts, 99 + TURNS_STALL_MS)); /* not yet */
    assert_ptr_equal(turns_slowest(ts, 100 + TURNS_STALL_MS), &slow[0]);
    turns_spare(ts, &slow[0], 100 + TURNS_STALL_MS);
    assert_ptr_equal(turns_slowest(ts, 100 + TURNS_STALL_MS), &slow[1]); /* never other[0]: its net has slots to spare */
    for (int i = 1; i < TURNS_NET_SLOTS; i++)
        turns_spare(ts, &slow[i], 100 + TURNS_STALL_MS);
    assert_null(turns_slowest(ts, 100 + TURNS_STALL_MS));
    turns_leave(ts, &slow[7]);
    assert_ptr_equal(turns_next(ts, 2000), &more[0]);
    leave(ts, slow, TURNS_NET_SLOTS);
    leave(ts, more, 1);
    leave(ts, other, 1);
    turns_free(ts);
}

static void test_strangers(void **state)
{
    (void)state;
    struct turns *ts = turns_new();
    static struct turn t[TURNS_STRANGERS + 1];
    char from[32];
    for (int i = 0; i <= TURNS_STRANGERS; i++) {
        (void)snprintf(from, sizeof from, "10.0.%d.1", i / TURNS_NET_STRANGERS);
        lines_up(ts, from, &t[i], 1);
        assert_ptr_equal(turns_next(ts, 1), &t[i]);
        bool of_net = i == TURNS_NET_STRANGERS; /* the first of the second net: try the first net once more */
        if (of_net) {
            struct turn again;
            lines_up(ts, "10.0.0.99", &again, 1);
            assert_ptr_equal(turns_next(ts, 1), &again);
            assert_false(turns_stranger(ts, &again));
            assert_int_equal(again.place, TURN_NONE);
        }
        assert_int_equal(turns_stranger(ts, &t[i]), i < TURNS_STRANGERS);
    }
    turns_leave(ts, &t[0]);
    lines_up(ts, "10.9.9.9", &t[0], 1);
    assert_ptr_equal(turns_next(ts, 1), &t[0]);
    assert_true(turns_stranger(ts, &t[0])); /* one has left, one may come */
    leave(ts, t, TURNS_STRANGERS + 1);
    turns_free(ts);
}

/* A long random history leaves nothing behind: turns_free would find it. */
static void test_any_history(void **state)
{
    (void)state;
    struct turns *ts = turns_new();
    static struct turn t[600];
    struct turn *displaced;
    char from[32];
    unsigned seed = 7;
    for (int i = 0; i < 200000; i++) {
        struct turn *x = &t[(unsigned)rand_r(&seed) % 600];
        (void)snprintf(from, sizeof from, "10.%d.%d.1", rand_r(&seed) % 3, rand_r(&seed) % 3);
        int what = rand_r(&seed) % 4;
        if (x->place == TURN_NONE)
            (void)join(ts, from, x, &displaced);
        else if (x->place == TURN_SHAKING && what == 0)
            (void)turns_stranger(ts, x);
        else if (x->place == TURN_SHAKING && what == 1)
            turns_spare(ts, x, i);
        else if (what == 2)
            turns_leave(ts, x);
        else
            (void)turns_next(ts, i);
    }
    leave(ts, t, 600);
    assert_false(turns_waiting(ts));
    turns_free(ts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nets_take_turns),
        cmocka_unit_test(test_what_a_net_is),
        cmocka_unit_test(test_slots),
        cmocka_unit_test(test_the_longest_line_gets_shorter),
        cmocka_unit_test(test_a_slot_is_not_for_ever),
        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_any_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
