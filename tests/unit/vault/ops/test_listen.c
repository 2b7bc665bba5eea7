#include "vault/ops/listen.h"

#include "tests/unit/base/testing.h"

#include <netinet/in.h>
#include <sys/stat.h>

static void test_addresses(void **state)
{
    struct listen_address a;
    struct err e;

    (void)state;
    assert_ok(listen_parse("127.0.0.1:7443", &a, &e));
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&a.sa;
    assert_int_equal(v4->sin_family, AF_INET);
    assert_int_equal(ntohs(v4->sin_port), 7443);
    assert_int_equal(ntohl(v4->sin_addr.s_addr), INADDR_LOOPBACK);
    assert_ok(listen_parse("[::1]:0", &a, &e));
    assert_int_equal(a.sa.ss_family, AF_INET6);
    static const char *const bad[] = {"",          "127.0.0.1",    ":7443",          "localhost:7443", "127.0.0.1:65536", "127.0.0.1:",
                                      "::1:7443",  "[::1]",        "[::g]:1",        "1.2.3:1",        "127.0.0.1:07443", "127.0.0.1:-1",
                                      "127.0.0.1:1 ", "[127.0.0.1]:1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_err(listen_parse(bad[i], &a, &e), &e, ERR_INVALID, "LISTEN_ADDRESS");
}

static void test_opens_and_finds_the_port_taken(void **state)
{
    char text[LISTEN_TEXT_BYTES] = "", again[LISTEN_TEXT_BYTES];
    struct listen_address a;
    struct err e;
    int fd = -1, other = -1;

    (void)state;
    assert_ok(listen_open("127.0.0.1:0", &fd, text, &e));
    assert_ok(listen_parse(text, &a, &e));
    assert_int_not_equal(((const struct sockaddr_in *)&a.sa)->sin_port, 0);
    assert_true((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(client, (const struct sockaddr *)&a.sa, a.n), 0);
    (void)close(client);
    assert_err(listen_open(text, &other, again, &e), &e, ERR_EXISTS, "PORT_IN_USE");
    assert_non_null(strstr(e.detail, text));
    assert_int_equal(other, -1);
    (void)close(fd);
    assert_err(listen_open("203.0.113.7:0", &other, again, &e), &e, ERR_INVALID, "LISTEN_ADDRESS"); /* TEST-NET-3 */
}

static void test_endpoint_file(void **state)
{
    char dir[] = "/tmp/clv-listen-XXXXXX", path[64], planted[64], text[64] = "";
    struct stat st;
    struct err e;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/endpoint", dir);
    (void)snprintf(planted, sizeof(planted), "%s/endpoint.new", dir);
    assert_int_equal(symlink("/tmp/clv-must-not-be-written", planted), 0);
    assert_ok(endpoint_write(dir, "127.0.0.1:5", &e));
    assert_int_equal(access("/tmp/clv-must-not-be-written", F_OK), -1);
    assert_ok(endpoint_write(dir, "127.0.0.1:6", &e));
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    assert_true(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && fstat(fd, &st) == 0);
    assert_string_equal(text, "127.0.0.1:6\n");
    assert_int_equal(st.st_mode & 07777U, 0644);
    (void)close(fd);
    endpoint_remove(dir);
    assert_int_equal(access(path, F_OK), -1);
    endpoint_remove(dir);
    assert_int_equal(rmdir(dir), 0);
    assert_err(endpoint_write(dir, "127.0.0.1:6", &e), &e, ERR_INVALID, "RUN_DIR");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_opens_and_finds_the_port_taken),
        cmocka_unit_test(test_endpoint_file),
    };
    return cmocka_run_group_tests_name("listen", tests, NULL, NULL);
}
