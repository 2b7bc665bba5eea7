#include "base/log.h"

#include "tests/unit/base/testing.h"

#include <pthread.h>

static int saved_stderr, pipe_fds[2];

static int setup(void **state)
{
    (void)state;
    saved_stderr = dup(STDERR_FILENO);
    return pipe2(pipe_fds, O_NONBLOCK) != 0 || dup2(pipe_fds[1], STDERR_FILENO) < 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)dup2(saved_stderr, STDERR_FILENO);
    (void)close(saved_stderr);
    (void)close(pipe_fds[0]);
    (void)close(pipe_fds[1]);
    log_init("test", LOG_INFO);
    return 0;
}

static char *captured(void)
{
    static char text[65536];
    ssize_t n = read(pipe_fds[0], text, sizeof(text) - 1);

    text[n > 0 ? n : 0] = '\0';
    return text;
}

static void test_line(void **state)
{
    struct err e = {.code = ERR_STATE, .reason = "R", .file = "f.c", .line = 3, .detail = "d"};

    (void)state;
    log_init("core", LOG_INFO);
    log_event(LOG_INFO, "listening", LF_STR("address", "127.0.0.1:1"), LF_INT("port", -5), LF_HEX("id", BYTES_LIT("\x01\xff")),
              LF_ERR(&e));
    char *line = captured();
    assert_memory_equal(line, "time=20", 7);
    assert_memory_equal(line + 24, ".", 1); /* time=2026-11-20T15:26:19.660Z: the same width always */
    assert_memory_equal(line + 28, "Z level=", 8);
    assert_string_equal(strstr(line, " level="), " level=info process=core msg=listening address=127.0.0.1:1 port=-5 "
                                                  "id=01ff error=\"ERR_STATE/R (d) at f.c:3\"\n");
}

static void test_level(void **state)
{
    enum log_level level = LOG_DEBUG;

    (void)state;
    log_init("x", LOG_WARN);
    log_event(LOG_INFO, "no");
    assert_string_equal(captured(), "");
    log_event(LOG_WARN, "yes");
    assert_non_null(strstr(captured(), "msg=yes"));
    log_set_level(LOG_DEBUG);
    log_event(LOG_DEBUG, "now");
    assert_non_null(strstr(captured(), "msg=now"));
    assert_true(log_level_from_text(BYTES_LIT("error"), &level));
    assert_int_equal(level, LOG_ERROR);
    assert_false(log_level_from_text(BYTES_LIT("loud"), &level));
    assert_int_equal(level, LOG_ERROR);
}

/* A value from outside can neither end the line nor add a field. */
static void test_no_injection(void **state)
{
    (void)state;
    log_event(LOG_ERROR, "x", LF_STR("name", "a\nlevel=error msg=forged \"q\" \\ \x1b[0m"), LF_TXT("bad", BYTES_LIT("\xff\x00z")),
              LF_STR("empty", ""), LF_STR("utf8", "\xc3\xa9"));
    char *line = captured();
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
    assert_non_null(strstr(line, "name=\"a\\nlevel=error msg=forged \\\"q\\\" \\\\ \\x1b[0m\""));
    assert_non_null(strstr(line, "bad=\"\\xff\\x00z\""));
    assert_non_null(strstr(line, "empty=\"\""));
    assert_non_null(strstr(line, "utf8=\"\xc3\xa9\""));
}

static void test_long_lines_are_cut(void **state)
{
    char big[5000];

    (void)state;
    memset(big, 'a', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    log_event(LOG_ERROR, "x", LF_STR("big", big), LF_INT("after", 1));
    char *line = captured();
    assert_int_equal(strlen(line), LOG_LINE_BYTES);
    assert_int_equal(line[LOG_LINE_BYTES - 1], '\n');
}

static void *writer(void *arg)
{
    for (int i = 0; i < 20; i++)
        log_event(LOG_ERROR, "threads", LF_INT("n", (intptr_t)arg));
    return NULL;
}

static void test_lines_of_threads_do_not_mix(void **state)
{
    pthread_t t[3];
    int lines = 0;

    (void)state;
    for (intptr_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&t[i], NULL, writer, (void *)i), 0);
    for (int i = 0; i < 3; i++)
        (void)pthread_join(t[i], NULL);
    char *save = NULL;
    for (char *line = strtok_r(captured(), "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save), lines++)
        assert_true(strncmp(line, "time=", 5) == 0 && strstr(line + 1, "time=") == NULL && strstr(line, " n=") != NULL);
    assert_int_equal(lines, 60);
}

static void test_errno_survives(void **state)
{
    (void)state;
    errno = EXDEV;
    log_event(LOG_ERROR, "x");
    assert_int_equal(errno, EXDEV);
    (void)captured();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_level),
        cmocka_unit_test(test_no_injection),
        cmocka_unit_test(test_long_lines_are_cut),
        cmocka_unit_test(test_lines_of_threads_do_not_mix),
        cmocka_unit_test(test_errno_survives),
    };
    return cmocka_run_group_tests_name("log", tests, setup, teardown);
}
