#include "base/chan.h"

#include "tests/unit/base/testing.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

static uint8_t buf[CHAN_MAX_BYTES + 16];

static void test_carries_type_seq_body_and_descriptors(void **state)
{
    struct chan_msg m = {.type = 7, .seq = 0xdeadbeef, .body = BYTES_LIT("hello"), .nfds = 2}, got;
    struct stat a, b;
    struct err e;
    int fds[2], files[2];

    (void)state;
    assert_ok(chan_pair(fds, &e));
    assert_true((fcntl(fds[0], F_GETFD) & FD_CLOEXEC) != 0);
    assert_int_equal(pipe(files), 0);
    m.fds[0] = files[0];
    m.fds[1] = files[1];
    assert_ok(chan_send(fds[0], &m, &e));
    assert_ok(chan_recv(fds[1], 1000, buf, sizeof(buf), &got, &e));
    assert_int_equal(got.type, 7);
    assert_int_equal(got.seq, 0xdeadbeef);
    assert_true(bytes_equal(got.body, BYTES_LIT("hello")));
    assert_int_equal(got.nfds, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(fstat(files[i], &a) + fstat(got.fds[i], &b), 0);
        assert_true(a.st_ino == b.st_ino);
        assert_true((fcntl(got.fds[i], F_GETFD) & FD_CLOEXEC) != 0);
        (void)close(files[i]);
        (void)close(got.fds[i]);
    }
    m = (struct chan_msg){.type = 1};
    assert_ok(chan_send(fds[1], &m, &e)); /* the other way, without body */
    assert_ok(chan_recv(fds[0], 0, buf, sizeof(buf), &got, &e));
    assert_int_equal(got.body.n + got.nfds, 0);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static void test_limits(void **state)
{
    static uint8_t big[CHAN_MAX_BYTES + 1];
    struct chan_msg m = {.type = 1, .body = BYTES(big, CHAN_MAX_BYTES)}, got;
    struct err e;
    int fds[2];

    (void)state;
    big[CHAN_MAX_BYTES - 1] = 9;
    assert_ok(chan_pair(fds, &e));
    assert_ok(chan_send(fds[0], &m, &e));
    assert_ok(chan_recv(fds[1], 0, buf, sizeof(buf), &got, &e));
    assert_int_equal(got.body.n, CHAN_MAX_BYTES);
    assert_int_equal(got.body.p[CHAN_MAX_BYTES - 1], 9);
    m.body.n++;
    assert_err(chan_send(fds[0], &m, &e), &e, ERR_INVALID, "CHANNEL_MESSAGE");
    m = (struct chan_msg){.nfds = CHAN_MAX_FDS + 1};
    assert_err(chan_send(fds[0], &m, &e), &e, ERR_INVALID, "CHANNEL_MESSAGE");
    m = (struct chan_msg){.body = BYTES(big, 500)};
    assert_ok(chan_send(fds[0], &m, &e));
    assert_err(chan_recv(fds[1], 0, buf, 100, &got, &e), &e, ERR_INVALID, "CHANNEL_MESSAGE"); /* cut by a short buffer */
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static void test_bad_packets(void **state)
{
    static const struct {
        const char *p;
        size_t n;
    } bad[] = {{"x", 1},
               {"\xc1\xa6\0\1\0\0\0\0\0\0\0", 11},
               {"\xc1\xa7\0\1\0\0\0\0\0\0\0\0", 12},
               {"\xc1\xa6\0\1\0\0\0\0\0\0\0\1", 12},
               {"\xc1\xa6\0\1\0\0\0\0\0\0\0\0z", 13},
               {"\xc1\xa6\0\1\0\0\0\0\xff\xff\xff\xffz", 13}};
    struct chan_msg got = {.type = 99};
    struct err e;
    int fds[2];

    (void)state;
    assert_ok(chan_pair(fds, &e));
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_int_equal(send(fds[0], bad[i].p, bad[i].n, 0), (ssize_t)bad[i].n);
        assert_err(chan_recv(fds[1], 0, buf, sizeof(buf), &got, &e), &e, ERR_INVALID, "CHANNEL_MESSAGE");
    }
    assert_int_equal(got.type, 99); /* untouched */
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static int open_descriptors(void)
{
    int n = 0;

    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Descriptors that come with a bad packet, or too many of them, must not pile up. */
static void test_bad_packets_leak_no_descriptor(void **state)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * 8)];
    } control = {0};
    struct iovec iov = {(void *)(uintptr_t) "\xc1\xa6\0\1\0\0\0\0\0\0\0\0", 12};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes};
    struct chan_msg got;
    struct err e;
    int fds[2];

    (void)state;
    assert_ok(chan_pair(fds, &e));
    int before = open_descriptors();
    for (size_t n = 1; n <= 8; n += 7) {
        h.msg_controllen = CMSG_SPACE(sizeof(int) * n);
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n);
        for (size_t i = 0; i < n; i++)
            memcpy(CMSG_DATA(c) + i * sizeof(int), &(int){STDOUT_FILENO}, sizeof(int));
        iov.iov_len = n == 1 ? 5 : 12; /* one in a cut header; eight in a good one */
        assert_int_equal(sendmsg(fds[0], &h, 0), (ssize_t)iov.iov_len);
        assert_err(chan_recv(fds[1], 0, buf, sizeof(buf), &got, &e), &e, ERR_INVALID, "CHANNEL_MESSAGE");
        assert_int_equal(open_descriptors(), before);
    }
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static void test_closed_and_late(void **state)
{
    struct chan_msg m = {.type = 1}, got;
    struct timespec t0, t1;
    struct err e;
    int fds[2];

    (void)state;
    assert_ok(chan_pair(fds, &e));
    assert_err(chan_recv(fds[1], 0, buf, sizeof(buf), &got, &e), &e, ERR_DEADLINE, "CHANNEL_TIMEOUT");
    (void)clock_gettime(CLOCK_BOOTTIME, &t0);
    assert_err(chan_recv(fds[1], 30, buf, sizeof(buf), &got, &e), &e, ERR_DEADLINE, "CHANNEL_TIMEOUT");
    (void)clock_gettime(CLOCK_BOOTTIME, &t1);
    assert_true((t1.tv_sec - t0.tv_sec) * 1000000000 + t1.tv_nsec - t0.tv_nsec >= 30000000);
    assert_ok(chan_send(fds[0], &m, &e));
    (void)close(fds[0]);
    assert_ok(chan_recv(fds[1], -1, buf, sizeof(buf), &got, &e)); /* last words are still read */
    assert_err(chan_recv(fds[1], -1, buf, sizeof(buf), &got, &e), &e, ERR_UNAVAILABLE, "CHANNEL_CLOSED");
    assert_err(chan_send(fds[1], &m, &e), &e, ERR_UNAVAILABLE, "CHANNEL_CLOSED"); /* and no SIGPIPE */
    (void)close(fds[1]);
}

/* Who leaves without reading what was sent to it makes the kernel say ECONNRESET first: its own last words come after that. */
static void test_last_words_survive_a_reset(void **state)
{
    struct chan_msg m = {.type = 11, .body = BYTES_LIT("why")}, got;
    struct err e;
    int fds[2];

    (void)state;
    assert_ok(chan_pair(fds, &e));
    assert_ok(chan_send(fds[1], &m, &e)); /* never read */
    assert_ok(chan_send(fds[0], &m, &e));
    (void)close(fds[0]);
    assert_ok(chan_recv(fds[1], 0, buf, sizeof(buf), &got, &e));
    assert_int_equal(got.type, 11);
    assert_err(chan_recv(fds[1], 0, buf, sizeof(buf), &got, &e), &e, ERR_UNAVAILABLE, "CHANNEL_CLOSED");
    (void)close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_carries_type_seq_body_and_descriptors),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_bad_packets),
        cmocka_unit_test(test_bad_packets_leak_no_descriptor),
        cmocka_unit_test(test_closed_and_late),
        cmocka_unit_test(test_last_words_survive_a_reset),
    };
    return cmocka_run_group_tests_name("chan", tests, NULL, NULL);
}
