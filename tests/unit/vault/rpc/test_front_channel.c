/* The front's control channel: announcements are answered, closings passed on, and a front that dies leaves nothing open. */
#include "vault/rpc/front_channel.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static atomic_int added, closed;

/* authn, reduced to a count: a body whose last byte is 'n' is refused, one with 's' is a stranger's. */
static atomic_int held;
static atomic_bool stranger;

RESULT authn_conn_add(struct authn *a, struct bytes body, uint8_t ret_id[IPC_CONN_ID_BYTES], struct err *e)
{
    (void)a;
    if (body.p[body.n - 1] == 'n')
        FAIL(e, ERR_INVALID, "BAD_PACKET", "refused");
    atomic_store(&stranger, body.p[body.n - 1] == 's');
    memcpy(ret_id, body.p, IPC_CONN_ID_BYTES);
    atomic_fetch_add(&added, 1);
    return ok();
}

struct authn_conn *authn_conn_by_peer(struct authn *a, const char *peer)
{
    (void)a;
    INVARIANT(strncmp(peer, "unix-abstract:" IPC_CONN_PREFIX, sizeof("unix-abstract:" IPC_CONN_PREFIX) - 1) == 0);
    atomic_fetch_add(&held, 1);
    return (struct authn_conn *)&held;
}

RESULT authn_call(struct authn *a, struct authn_conn *c, struct identity *ret, struct err *e)
{
    (void)a, (void)c, (void)ret;
    if (atomic_load(&stranger))
        FAIL(e, ERR_UNAUTHENTICATED, "STRANGER", "nobody");
    return ok();
}

void authn_identity_release(struct identity *id)
{
    (void)id;
}

void authn_conn_unref(struct authn_conn *c)
{
    if (c != NULL)
        atomic_fetch_sub(&held, 1);
}

void authn_conn_closed(struct authn *a, const uint8_t id[IPC_CONN_ID_BYTES])
{
    (void)a, (void)id;
    atomic_fetch_add(&closed, 1);
}

struct fixture {
    struct front_channel *f;
    int fd; /* the front's end */
};

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));
    int fds[2];
    struct err e;

    atomic_store(&added, 0);
    atomic_store(&closed, 0);
    assert_false(chan_pair(fds, &e).failed);
    assert_false(front_channel_start(NULL, fds[0], &x->f, &e).failed);
    x->fd = fds[1];
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *x = *state;

    front_channel_stop(x->f);
    if (x->fd >= 0)
        close(x->fd);
    assert_int_equal(atomic_load(&added), atomic_load(&closed)); /* nothing stays open */
    free(x);
    return 0;
}

static void make_id(uint8_t id[IPC_CONN_ID_BYTES], unsigned n)
{
    memset(id, 0, IPC_CONN_ID_BYTES);
    put_be64(id, (uint64_t)(n % 7) << 8); /* few homes: collisions, runs, re-insertion */
    put_be32(id + 12, n);
}

static void say(struct fixture *x, enum ipc_conn type, uint32_t seq, struct bytes body)
{
    struct chan_msg m = {.type = (uint16_t)type, .seq = seq, .body = body};
    struct err e;

    assert_false(chan_send(x->fd, &m, &e).failed);
}

static bool hear(struct fixture *x, struct chan_msg *m)
{
    static uint8_t buf[CHAN_MAX_BYTES + 16];
    struct err e;

    return !chan_recv(x->fd, 60000, buf, sizeof(buf), m, &e).failed;
}

static void announce(struct fixture *x, unsigned n, char last, enum ipc_ack want)
{
    uint8_t body[IPC_CONN_ID_BYTES + 1];
    struct chan_msg m;

    make_id(body, n);
    body[IPC_CONN_ID_BYTES] = (uint8_t)last;
    say(x, IPC_CONN_NEW, n + 1, BYTES(body, sizeof(body)));
    assert_true(hear(x, &m));
    assert_int_equal(m.type, IPC_CONN_ACK);
    assert_int_equal(m.seq, n + 1);
    assert_int_equal(m.body.n, IPC_CONN_ID_BYTES + 1);
    assert_memory_equal(m.body.p, body, IPC_CONN_ID_BYTES);
    assert_int_equal(m.body.p[IPC_CONN_ID_BYTES], want);
}

static void tell_closed(struct fixture *x, unsigned n)
{
    uint8_t id[IPC_CONN_ID_BYTES];

    make_id(id, n);
    say(x, IPC_CONN_CLOSED, 0, BYTES(id, sizeof(id)));
}

static void announcements_are_answered(void **state)
{
    struct fixture *x = *state;

    announce(x, 1, 'y', IPC_ACK_GO_ON);
    announce(x, 2, 'n', IPC_ACK_NO);
    announce(x, 3, 's', IPC_ACK_STRANGER);
    announce(x, 4, 'y', IPC_ACK_GO_ON);
    assert_int_equal(atomic_load(&added), 3);
    assert_int_equal(atomic_load(&held), 0);
}

/* Opened and closed in different orders, through collisions: each one exactly once, the rest when the front goes. */
static void every_connection_is_closed_once(void **state)
{
    struct fixture *x = *state;
    enum { N = 1000 };
    int after;

    for (unsigned i = 0; i < N; i++)
        announce(x, i, 'y', IPC_ACK_GO_ON);
    for (unsigned i = 0; i < N; i += 3)
        tell_closed(x, i);
    announce(x, N, 'n', IPC_ACK_NO); /* answered after the closings: they have been seen */
    after = atomic_load(&closed);
    assert_int_equal(after, (N + 2) / 3);
    for (unsigned i = 0; i < N; i += 3)
        announce(x, i + 2 * N, 'y', IPC_ACK_GO_ON);
    close(x->fd);
    x->fd = -1;
    front_channel_stop(x->f);
    x->f = NULL;
    assert_int_equal(atomic_load(&added), N + (N + 2) / 3);
    assert_int_equal(atomic_load(&closed), atomic_load(&added));
}

static void statistics_are_kept(void **state)
{
    struct fixture *x = *state;
    struct front_stats st;
    CLEANUP(buf_release) struct buf b;

    buf_init(&b, 64);
    buf_put_u32(&b, 5);
    buf_put_u64(&b, 6);
    buf_put_u64(&b, 7);
    buf_put_u64(&b, 8);
    say(x, IPC_FRONT_STATS, 0, buf_bytes(&b));
    announce(x, 1, 'n', IPC_ACK_NO);
    front_channel_stats(x->f, &st);
    assert_int_equal(st.open, 5);
    assert_int_equal(st.accepted, 6);
    assert_int_equal(st.refused, 7);
    assert_int_equal(st.policed, 8);
    front_channel_stats(NULL, &st);
    assert_int_equal(st.open, 0);
}

static void a_bad_packet_ends_the_channel(void **state)
{
    struct fixture *x = *state;
    static const struct {
        enum ipc_conn type;
        size_t n;
    } bad[] = {{IPC_CONN_NEW, 15}, {IPC_CONN_CLOSED, 15}, {IPC_CONN_CLOSED, 17}, {IPC_FRONT_STATS, 27}, {IPC_CONN_ACK, 17}, {(enum ipc_conn)99, 0}};
    static const uint8_t zeros[32];

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct chan_msg m;
        announce(x, 1, 'y', IPC_ACK_GO_ON);
        say(x, bad[i].type, 0, BYTES(zeros, bad[i].n));
        assert_false(hear(x, &m));
        assert_int_equal(teardown(state), 0);
        assert_int_equal(setup(state), 0);
        x = *state;
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(announcements_are_answered),
        T(every_connection_is_closed_once),
        T(statistics_are_kept),
        T(a_bad_packet_ends_the_channel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
