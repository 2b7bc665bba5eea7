/* Installs the library into an empty prefix and builds the example service against it, as C with pkg-config alone, then
 * compiles the header as C++; then runs the service against the stand-in. */
#include "tests/unit/vault/client/standin.h"
#include "tests/unit/vault/client/testing.h"

#include <fcntl.h>

static struct standin server;

static int setup(void **state)
{
    (void)state;
    return standin_start(&server) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char cmd[256];
    snprintf(cmd, sizeof cmd, "rm -rf '%s/prefix' '%s/cc'", server.dir, server.dir);
    int rc = system(cmd);
    standin_stop(&server);
    return rc;
}

static int shell(const char *script)
{
    setenv("DIR", server.dir, 1);
    int rc = system(script);
    return WIFEXITED(rc) ? WEXITSTATUS(rc) : 128;
}

static void build_dir(void)
{
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    assert_true(n > 0);
    exe[n] = 0;
    setenv("BUILD_DIR", dirname(dirname(dirname(dirname(exe)))), 1);
}

static void test_installs_and_builds(void **state)
{
    (void)state;
    build_dir();
    assert_int_equal(shell("set -e; p=$DIR/prefix; mkdir -p $p/include $p/lib/pkgconfig; install -m 644 vault/client/claviger.h "
                           "$p/include/; install -m 644 $BUILD_DIR/lib/libclaviger.a $p/lib/; sed -e \"s|@PREFIX@|$p|\" -e "
                           "'s|@VERSION@|0|' vault/client/claviger.pc.in > $p/lib/pkgconfig/claviger.pc"), 0);
    assert_int_equal(shell("set -e; export PKG_CONFIG_PATH=$DIR/prefix/lib/pkgconfig; ${CC:-cc} $CLV_TEST_FLAGS -Wall -Wextra "
                           "-Werror -o $DIR/cc docs/examples/service.c $(pkg-config --cflags --libs claviger)"), 0);
    assert_int_equal(shell("test $(wc -l < docs/examples/service.c) -le 60"), 0);
}

static void test_header_is_plain(void **state)
{
    (void)state;
    assert_int_equal(shell("printf '#include <claviger.h>\\nint main(void){return 0;}\\n' | ${CC:-cc} -std=c99 -pedantic -Wall -Werror "
                           "-I$DIR/prefix/include -fsyntax-only -x c -"), 0);
    assert_int_equal(shell("command -v c++ >/dev/null || exit 0; printf '#include <claviger.h>\\nint main(){claviger_options o = "
                           "claviger_options(); return (int)o.size;}\\n' | c++ -std=c++11 -pedantic -Wall -Werror "
                           "-I$DIR/prefix/include -fsyntax-only -x c++ -"), 0);
    /* nothing of ours but claviger_* is visible to a service's linker */
    assert_int_equal(shell("! nm --defined-only --extern-only $DIR/prefix/lib/libclaviger.a | grep ' [A-Z] ' | grep -v ' claviger_'"), 0);
}

static void test_service_runs(void **state)
{
    (void)state;
    setenv("KMS_ENDPOINT", server.endpoint, 1);
    setenv("KMS_CA", server.ca, 1);
    setenv("KMS_CERT", server.cert, 1);
    setenv("KMS_KEY", server.key, 1);
    assert_int_equal(shell("printf 'jane@example.com\\njoe\\n' | $DIR/cc acme/eu/pii/email | grep -c 'read back: j' | grep -qx 2"), 0);
    assert_int_equal(shell("echo x | $DIR/cc acme/eu/pii/denied 2>&1 | grep -q 'encrypt: PERMISSION_DENIED NOT_PERMITTED'"), 0);
    setenv("KMS_CA", "/nonexistent", 1);
    assert_int_equal(shell("echo x | $DIR/cc acme/eu/pii/email 2>/dev/null"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_installs_and_builds), cmocka_unit_test(test_header_is_plain),
                                       cmocka_unit_test(test_service_runs)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
