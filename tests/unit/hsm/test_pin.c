#include "tests/unit/hsm/fixture.h"

struct world {
    char dir[64], path[96];
    struct pin_tries t;
    struct fake_clock clock;
};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    (void)snprintf(w->dir, sizeof w->dir, "/tmp/clv-pin-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    (void)snprintf(w->path, sizeof w->path, "%s/" PIN_TRIES_FILE, w->dir);
    fake_clock_init(&w->clock, 1700000000000000000, 1000000000);
    OK(pin_tries_open(&w->t, w->dir, &w->clock.c, &e));
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    pin_tries_close(&w->t);
    (void)unlink(w->path);
    (void)rmdir(w->dir);
    free(w);
    return 0;
}

static uint32_t try_pin(struct world *w, uint64_t stamp, enum pin_outcome outcome)
{
    uint32_t count = 99;
    OK(pin_tries_check(&w->t, &e));
    OK(pin_tries_begin(&w->t, stamp, &e));
    OK(pin_tries_end(&w->t, outcome, &count, &e));
    return count;
}

static void wait_s(struct world *w, int s)
{
    fake_clock_advance(&w->clock, (int64_t)s * 1000000000);
}

static void test_one_a_minute_three_in_all(void **state)
{
    struct world *w = *state;
    assert_int_equal(try_pin(w, 1, PIN_WRONG), 1);
    REFUSED(ERR_STATE, "HSM_PIN_WAIT", pin_tries_check(&w->t, &e));
    wait_s(w, 60);
    REFUSED(ERR_STATE, "HSM_PIN_WAIT", pin_tries_check(&w->t, &e));
    wait_s(w, 1);
    assert_int_equal(try_pin(w, 1, PIN_WRONG), 2);
    wait_s(w, 61);
    assert_int_equal(try_pin(w, 1, PIN_WRONG), 3);
    wait_s(w, 100000);
    REFUSED(ERR_STATE, "HSM_PIN_TRIES", pin_tries_check(&w->t, &e));
    /* not even for another process */
    struct pin_tries again;
    OK(pin_tries_open(&again, w->dir, &w->clock.c, &e));
    REFUSED(ERR_STATE, "HSM_PIN_TRIES", pin_tries_check(&again, &e));
    pin_tries_close(&again);
    assert_int_equal(unlink(w->path), 0);
    OK(pin_tries_check(&w->t, &e));
}

static void test_success_resets(void **state)
{
    struct world *w = *state;
    assert_int_equal(try_pin(w, 1, PIN_WRONG), 1);
    wait_s(w, 61);
    assert_int_equal(try_pin(w, 2, PIN_RIGHT), 0);
    assert_int_equal(try_pin(w, 2, PIN_RIGHT), 0); /* at once: recovery must not wait a minute */
    assert_int_equal(try_pin(w, 2, PIN_NOT_TRIED), 0);
    OK(pin_tries_check(&w->t, &e));
    assert_int_equal(try_pin(w, 2, PIN_LOCKED), 3);
    wait_s(w, 61);
    REFUSED(ERR_STATE, "HSM_PIN_TRIES", pin_tries_check(&w->t, &e));
}

/* A crash between the try and its outcome: counted, unless it is the PIN file that last succeeded. */
static void test_unseen_outcome(void **state)
{
    struct world *w = *state;
    OK(pin_tries_begin(&w->t, 5, &e));
    REFUSED(ERR_STATE, "HSM_PIN_WAIT", pin_tries_check(&w->t, &e));
    wait_s(w, 61);
    assert_int_equal(try_pin(w, 5, PIN_RIGHT), 0);
    OK(pin_tries_begin(&w->t, 5, &e));
    OK(pin_tries_check(&w->t, &e));
    OK(pin_tries_begin(&w->t, 6, &e));
    REFUSED(ERR_STATE, "HSM_PIN_WAIT", pin_tries_check(&w->t, &e));
}

static void test_clock_set_back(void **state)
{
    struct world *w = *state;
    assert_int_equal(try_pin(w, 1, PIN_WRONG), 1);
    fake_clock_step_wall(&w->clock, -(int64_t)86400 * 365 * 1000000000);
    REFUSED(ERR_STATE, "HSM_PIN_WAIT", pin_tries_check(&w->t, &e));
    wait_s(w, 61);
    OK(pin_tries_check(&w->t, &e));
}

static void test_damaged_record(void **state)
{
    struct world *w = *state;
    static const char *const damage[] = {"x", "wrong=0\n", "wrong=-1 last=000000000000 pending=0 try=0 good=0\n",
                                         "wrong=00 last=000000000000 pending=0 try=0000000000000000 good=0000000000000000\n"};
    for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
        write_file(w->path, damage[i]);
        REFUSED(ERR_STATE, "HSM_PIN_TRIES", pin_tries_check(&w->t, &e));
    }
    write_file(w->path, "wrong=0 last=000000000000 pending=0 try=0000000000000000 good=0000000000000000\n");
    OK(pin_tries_check(&w->t, &e));
}

#define PIN_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {PIN_TEST(test_one_a_minute_three_in_all), PIN_TEST(test_success_resets),
                                       PIN_TEST(test_unseen_outcome), PIN_TEST(test_clock_set_back),
                                       PIN_TEST(test_damaged_record)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
