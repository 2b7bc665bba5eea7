#include "tests/unit/vault/front/testing.h"
#include "vault/front/peers.h"

#include <arpa/inet.h>
#include <string.h>

enum { CAP = 5 };

enum { ALL_STREAMS = 3072 };

static struct sockaddr_storage addr(const char *text)
{
    struct sockaddr_storage a = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&a;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&a;
    if (strchr(text, ':') != NULL) {
        a.ss_family = AF_INET6;
        assert_int_equal(inet_pton(AF_INET6, text, &in6->sin6_addr), 1);
    } else {
        a.ss_family = AF_INET;
        assert_int_equal(inet_pton(AF_INET, text, &in->sin_addr), 1);
    }
    return a;
}

static enum peers_verdict join(struct peers *ps, const char *text, int64_t now_ms, struct peer **ret)
{
    struct sockaddr_storage a = addr(text);
    return peers_join(ps, &a, now_ms, ret);
}

static void test_cap(void **state)
{
    (void)state;
    struct peers *ps = peers_new(CAP, ALL_STREAMS);
    struct peer *p = NULL, *q = NULL;
    for (int i = 0; i < CAP; i++)
        assert_int_equal(join(ps, "192.0.2.1", 1000, &p), PEERS_OK);
    assert_int_equal(join(ps, "192.0.2.1", 1000, &q), PEERS_TOO_MANY);
    assert_null(q);
    assert_int_equal(join(ps, "::ffff:192.0.2.1", 1000, &q), PEERS_TOO_MANY); /* the same address, written differently */
    assert_int_equal(join(ps, "192.0.2.2", 1000, &q), PEERS_OK);
    peers_leave(ps, p, 1000);
    assert_int_equal(join(ps, "192.0.2.1", 1000, &p), PEERS_OK);
    peers_free(ps);
}

static void test_v6_counts_by_64(void **state)
{
    (void)state;
    struct peers *ps = peers_new(1, ALL_STREAMS);
    struct peer *p;
    assert_int_equal(join(ps, "2001:db8::1", 1000, &p), PEERS_OK);
    assert_int_equal(join(ps, "2001:db8::ffff:2", 1000, &p), PEERS_TOO_MANY);
    assert_int_equal(join(ps, "2001:db8:0:1::1", 1000, &p), PEERS_OK);
    peers_free(ps);
}

static void test_rate(void **state)
{
    (void)state;
    struct peers *ps = peers_new(10, ALL_STREAMS);
    struct peer *p;
    for (int i = 0; i < PEERS_NEW_BURST; i++) {
        assert_int_equal(join(ps, "192.0.2.1", 1000, &p), PEERS_OK);
        peers_leave(ps, p, 1000); /* leaving does not make it new */
    }
    assert_int_equal(join(ps, "192.0.2.1", 1000, &p), PEERS_TOO_FAST);
    assert_int_equal(join(ps, "192.0.2.1", 1000 + 1000 / PEERS_NEW_PER_S, &p), PEERS_OK);
    peers_free(ps);
}

static void test_penalty_doubles_and_is_forgotten(void **state)
{
    (void)state;
    struct peers *ps = peers_new(10, ALL_STREAMS);
    struct peer *p, *q;
    int64_t now_ms = 1000, ms = PEERS_PENALTY_FIRST_MS;
    assert_int_equal(join(ps, "192.0.2.1", now_ms, &p), PEERS_OK);
    for (int i = 0; i < 10; i++) {
        peers_penalise(p, now_ms);
        assert_int_equal(join(ps, "192.0.2.1", now_ms + ms - 1, &q), PEERS_PENALISED);
        assert_int_equal(join(ps, "192.0.2.2", now_ms, &q), PEERS_OK);
        peers_leave(ps, q, now_ms);
        assert_int_equal(join(ps, "192.0.2.1", now_ms + ms, &q), PEERS_OK);
        peers_leave(ps, q, now_ms);
        now_ms += ms;
        ms = ms * 2 < PEERS_PENALTY_MAX_MS ? ms * 2 : PEERS_PENALTY_MAX_MS;
    }
    peers_leave(ps, p, now_ms); /* going away does not help */
    peers_free(ps);
    ps = peers_new(10, ALL_STREAMS);
    assert_int_equal(join(ps, "192.0.2.1", 1000, &p), PEERS_OK);
    peers_penalise(p, 1000);
    peers_leave(ps, p, 1001);
    assert_int_equal(join(ps, "192.0.2.1", 1002, &p), PEERS_PENALISED);
    now_ms = 1000 + PEERS_FORGET_MS;
    assert_int_equal(join(ps, "192.0.2.1", now_ms, &p), PEERS_OK);
    peers_penalise(p, now_ms);
    assert_int_equal(join(ps, "192.0.2.1", now_ms + PEERS_PENALTY_FIRST_MS, &q), PEERS_OK); /* a first time again */
    peers_free(ps);
}

static void test_the_table_is_bounded(void **state)
{
    (void)state;
    struct peers *ps = peers_new(10, ALL_STREAMS);
    struct peer *p, *last = NULL;
    struct sockaddr_storage a = addr("10.0.0.0");
    struct sockaddr_in *in = (struct sockaddr_in *)&a;
    for (uint32_t i = 0; i < PEERS_MAX; i++) {
        in->sin_addr.s_addr = htonl(0x0a000000 + i);
        assert_int_equal(peers_join(ps, &a, 1000, &last), PEERS_OK);
    }
    assert_int_equal(join(ps, "192.0.2.1", 1000, &p), PEERS_TABLE_FULL);
    assert_int_equal(join(ps, "10.0.0.7", 1000, &p), PEERS_OK); /* who is known goes on */
    peers_leave(ps, last, 1100);
    assert_int_equal(join(ps, "192.0.2.1", 1100, &p), PEERS_OK);
    peers_free(ps);
}

static void test_streams_of_one_address(void **state)
{
    (void)state;
    struct peers *ps = peers_new(10, ALL_STREAMS);
    struct peer *p, *q, *other;
    assert_int_equal(join(ps, "192.0.2.1", 1000, &p), PEERS_OK);
    assert_int_equal(join(ps, "192.0.2.1", 1000, &q), PEERS_OK);
    assert_int_equal(join(ps, "192.0.2.2", 1000, &other), PEERS_OK);
    peers_count(p, 1000, &(struct peer_change){PEERS_STREAMS - 1, 0, 0, 0});
    assert_int_equal(peers_stream_room(q, 1000), 1);
    peers_count(q, 1000, &(struct peer_change){1, 0, 0, 0});
    assert_int_equal(peers_stream_room(p, 1000), 0);
    assert_int_equal(peers_stream_room(other, 1000), PEERS_STREAMS);
    peers_count(p, 1000, &(struct peer_change){-100, 0, 100, 0});
    assert_int_equal(peers_stream_room(q, 1000), 100);
    peers_free(ps);
}

static void test_unfinished_bytes_of_one_address(void **state)
{
    (void)state;
    struct peers *ps = peers_new(10, ALL_STREAMS);
    struct peer *p, *q;
    assert_int_equal(join(ps, "192.0.2.1", 1000, &p), PEERS_OK);
    assert_int_equal(join(ps, "192.0.2.1", 1000, &q), PEERS_OK);
    peers_count(p, 1000, &(struct peer_change){.unfinished_bytes = PEERS_UNFINISHED_BYTES - 1});
    assert_int_equal(peers_unfinished_room(q), 1);
    peers_count(q, 1000, &(struct peer_change){.unfinished_bytes = 5}); /* a frame may carry it over */
    assert_int_equal(peers_unfinished_room(p), 0);
    peers_count(p, 1000, &(struct peer_change){.unfinished_bytes = 1 - PEERS_UNFINISHED_BYTES});
    assert_int_equal(peers_unfinished_room(q), PEERS_UNFINISHED_BYTES - 5);
    peers_free(ps);
}

static void test_all_addresses_together(void **state)
{
    (void)state;
    struct peers *ps = peers_new(10, ALL_STREAMS);
    struct peer *p[4];
    for (int i = 0; i < 4; i++) {
        char from[16] = "192.0.2.1";
        from[8] = (char)('1' + i);
        assert_int_equal(join(ps, from, 1000, &p[i]), PEERS_OK);
    }
    for (int i = 0; i < 3; i++)
        peers_count(p[i], 1000, &(struct peer_change){.streams = ALL_STREAMS / 3, .unfinished_bytes = PEERS_ALL_UNFINISHED_BYTES / 3});
    assert_int_equal(peers_stream_room(p[0], 1000), 0);
    assert_int_equal(peers_unfinished_room(p[0]), 0);
    assert_int_equal(peers_stream_room(p[3], 1000), PEERS_LEAST_STREAMS); /* the fourth has its least */
    assert_int_equal(peers_unfinished_room(p[3]), PEERS_LEAST_UNFINISHED_BYTES);
    peers_count(p[3], 1000, &(struct peer_change){.streams = PEERS_LEAST_STREAMS, .unfinished_bytes = PEERS_LEAST_UNFINISHED_BYTES - 1});
    assert_int_equal(peers_stream_room(p[3], 1000), 0);
    assert_int_equal(peers_unfinished_room(p[3]), 1);
    peers_count(p[0], 1000, &(struct peer_change){-200, -(2 << 20), 200, 0}); /* and what one gives back is everybody's */
    assert_int_equal(peers_stream_room(p[3], 1000), 200 - PEERS_LEAST_STREAMS);
    assert_int_equal(peers_unfinished_room(p[3]), (2 << 20) - PEERS_LEAST_UNFINISHED_BYTES + 1);
    peers_free(ps);
}

static void test_undone_streams_outlive_their_connection(void **state)
{
    (void)state;
    struct peers *ps = peers_new(10, ALL_STREAMS);
    struct peer *p, *q;
    int64_t now_ms = 1000;
    assert_int_equal(join(ps, "192.0.2.1", now_ms, &p), PEERS_OK);
    peers_count(p, now_ms, &(struct peer_change){0, 0, 0, PEERS_UNDONE_BURST});
    assert_int_equal(join(ps, "192.0.2.1", now_ms, &q), PEERS_OK); /* just allowed */
    peers_leave(ps, q, now_ms);
    assert_int_equal(peers_stream_room(p, now_ms), PEERS_STREAMS);
    peers_count(p, now_ms, &(struct peer_change){0, 0, 0, 1});
    assert_int_equal(peers_stream_room(p, now_ms), 0);
    peers_leave(ps, p, now_ms);
    assert_int_equal(join(ps, "192.0.2.1", now_ms, &p), PEERS_UNDONE);
    assert_int_equal(join(ps, "192.0.2.2", now_ms, &p), PEERS_OK);
    now_ms += 1000 / PEERS_UNDONE_PER_S + 1;
    assert_int_equal(join(ps, "192.0.2.1", now_ms, &p), PEERS_OK);
    peers_count(p, now_ms, &(struct peer_change){0, 0, 0, 2});
    assert_int_equal(peers_stream_room(p, now_ms), 0);
    peers_count(p, now_ms, &(struct peer_change){0, 0, 4, 0}); /* completed ones pay, too */
    assert_int_equal(peers_stream_room(p, now_ms), PEERS_STREAMS);
    peers_count(p, now_ms, &(struct peer_change){0, 0, 0, 1000 * PEERS_UNDONE_BURST}); /* the debt is bounded */
    assert_int_equal(peers_stream_room(p, now_ms + 1000LL * PEERS_UNDONE_BURST / PEERS_UNDONE_PER_S - 100), 0);
    assert_int_equal(peers_stream_room(p, now_ms + 1000LL * PEERS_UNDONE_BURST / PEERS_UNDONE_PER_S), PEERS_STREAMS);
    peers_free(ps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cap),
        cmocka_unit_test(test_v6_counts_by_64),
        cmocka_unit_test(test_rate),
        cmocka_unit_test(test_penalty_doubles_and_is_forgotten),
        cmocka_unit_test(test_the_table_is_bounded),
        cmocka_unit_test(test_streams_of_one_address),
        cmocka_unit_test(test_all_addresses_together),
        cmocka_unit_test(test_unfinished_bytes_of_one_address),
        cmocka_unit_test(test_undone_streams_outlive_their_connection),
    };
    return cmocka_run_group_tests_name("peers", tests, NULL, NULL);
}
