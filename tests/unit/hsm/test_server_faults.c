/* The real kmsd-hsm on a token that fails it: calls that hang or err, searches that forget, a bit that flips, a token that goes away. */
#include "base/confine_build.h"
#include "tests/unit/hsm/world.h"

static void test_hung_module(void **state)
{
    struct world *w = *state;
    connect_core(w, &w->m, w->shim, false);
    assert_true(monitor_ready(&w->m));
    OK(derive_only(w, &e));
    shim_plan(&w->f, "C_Sign hang nth:1");
    const int64_t begin = now_ms();
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", derive_only(w, &e));
    assert_in_range(now_ms() - begin, slower(TIMEOUT_MS) / 2, slower(TIMEOUT_MS * 20));
    assert_int_equal(shim_count(&w->f, "C_Sign", "hang"), 1);
    assert_int_equal(WEXITSTATUS(monitor_join(&w->m)), WATCHDOG_EXIT);
    connect_core(w, &w->m, w->shim, false);
    (void)wait_for_service(w, slower(BACK_MS));
    assert_int_equal(monitor_drain(&w->m), 0);
}

/* One error of each class under a call: core never sees it. */
static void test_errors_are_mended(void **state)
{
    struct world *w = *state;
    static const char *const faults[] = {"C_SignInit 0x60 nth:1", "C_SignInit 0x82 nth:1", "C_SignInit 0xb3 nth:1",
                                         "C_SignInit 0x101 nth:1", "C_SignInit lose nth:1", "C_Sign lose nth:1",
                                         "C_Sign 0x30 nth:1",      "C_Sign 0x32 nth:1",     "C_Sign 0x5 nth:1",
                                         "C_Sign 0x90 nth:1"};
    connect_core(w, &w->m, w->shim, false);
    assert_true(monitor_ready(&w->m));
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        char call[16], what[16];
        shim_plan(&w->f, faults[i]);
        assert_int_equal(sscanf(faults[i], "%15s %15s", call, what), 2);
        if (what[0] == '0')
            (void)snprintf(what, sizeof what, "rv");
        const unsigned before = shim_count(&w->f, call, what);
        OK(derive_only(w, &e));
        assert_int_equal(shim_count(&w->f, call, what), before + 1);
    }
    shim_plan(&w->f, "C_Sign 0x70 nth:1"); /* CKR_MECHANISM_INVALID: no recovery helps */
    REFUSED(ERR_INTERNAL, "HSM_ERROR", derive_only(w, &e));
    OK(derive_only(w, &e));
    shim_plan(&w->f, "C_GenerateKey 0x30 nth:1"); /* not tried twice */
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", hsm_generate(w->hsm, HSM_MASTER, 2, &e));
    OK(hsm_generate(w->hsm, HSM_MASTER, 2, &e));
    assert_int_equal(monitor_drain(&w->m), 0);
}

/* Wherever a call hangs, the process is given up and the next one serves; the key that was being made is made then. */
static void test_hangs_anywhere(void **state)
{
    struct world *w = *state;
    static const char *const calls[] = {"C_GenerateKey", "C_FindObjects", "C_CreateObject"};
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        char rule[64];
        struct err why = {0};
        connect_core(w, &w->m, w->shim, false);
        assert_true(monitor_ready(&w->m));
        (void)snprintf(rule, sizeof rule, "%s hang always", calls[i]);
        shim_plan(&w->f, rule);
        assert_true(hsm_generate(w->hsm, HSM_MASTER, 2, &why).failed);
        assert_int_equal(why.code, ERR_UNAVAILABLE);
        assert_int_equal(WEXITSTATUS(monitor_join(&w->m)), WATCHDOG_EXIT);
        assert_true(shim_count(&w->f, calls[i], "hang") > 0);
        shim_lift(&w->f);
        connect_core(w, &w->m, w->shim, false);
        (void)wait_for_service(w, slower(BACK_MS));
        why = (struct err){0};
        /* Killed after the object was made and before its answer was stored: it is there, and is named as unfinished. */
        if (!hsm_generate(w->hsm, HSM_MASTER, 2, &why).failed || why.code == ERR_EXISTS)
            OK(hsm_destroy(w->hsm, HSM_MASTER, 2, &e));
        else
            fail_msg("%s", why.detail);
        assert_int_equal(monitor_drain(&w->m), 0);
    }
}

/* An object that a search missed is looked for again before anybody is told that it is not there; the rest waits for the next look. */
static void test_a_search_that_forgets(void **state)
{
    struct world *w = *state;
    connect_core(w, &w->m, w->shim, false);
    assert_true(monitor_ready(&w->m));
    OK(hsm_generate(w->hsm, HSM_MASTER, 2, &e));
    unsigned at_once = 0;
    for (unsigned nth = 1; nth <= 14; nth++) {
        char rules[96];
        struct err why = {0};
        /* A stale handle makes it look the objects up again, and one search of that look ends early. */
        (void)snprintf(rules, sizeof rules, "C_SignInit 0x60 nth:1\nC_FindObjects few nth:%u", nth);
        shim_plan(&w->f, rules);
        bool served = !derive_only(w, &why).failed;
        if (!served && why.code != ERR_UNAVAILABLE)
            fail_msg("search %u: %s %s", nth, err_name(why.code), why.detail);
        at_once += served;
        (void)wait_for_service(w, slower(BACK_MS));
        CLEANUP(buf_release) struct buf in = {0};
        struct secret *two = NULL;
        tenant_kek_input(&in);
        OK(hsm_derive(w->hsm, HSM_MASTER, 2, buf_bytes(&in), &two, &e));
        secret_free(two);
    }
    assert_true(at_once > 0 && shim_count(&w->f, "C_FindObjects", "few") >= 12);
    assert_int_equal(monitor_drain(&w->m), 0);
}

/* A wrong bit from the token at the moment of birth: the fresh process does not agree, and no key is left. */
static void test_flipped_bit_at_birth(void **state)
{
    struct world *w = *state;
    connect_core(w, &w->m, w->shim, false);
    assert_true(monitor_ready(&w->m));
    uint8_t sig[HSM_SIG_MAX];
    size_t n;
    shim_plan(&w->f, "C_Sign flip:1 nth:1");
    REFUSED(ERR_INTERNAL, "HSM_ERROR",
            hsm_sign_checkpoint(w->hsm, 1, BYTES_LIT(ORIGIN "\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"), sig, &n, &e));
    shim_plan(&w->f, "C_Sign flip:1 nth:1");
    REFUSED(ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", hsm_generate(w->hsm, HSM_MASTER, 2, &e));
    assert_int_equal(shim_count(&w->f, "C_Sign", "flip"), 2);
    assert_int_equal(monitor_drain(&w->m), 0);
}

static void test_token_comes_back(void **state)
{
    struct world *w = *state;
    char away[160];
    (void)snprintf(away, sizeof away, "%s/away", w->f.dir);
    connect_core(w, &w->m, NULL, false);
    assert_true(monitor_ready(&w->m));
    for (int round = 0; round < 2; round++) {
        struct hsm_status st;
        assert_int_equal(rename(w->f.tokens, away), 0);
        await_detail(w, "the token is not available");
        OK(hsm_probe(w->hsm, &st, &e));
        assert_false(st.logged_in);
        assert_int_equal(rename(away, w->f.tokens), 0);
        print_message("service returned %d ms after the token\n", (int)wait_for_service(w, slower(BACK_MS)));
    }
    assert_int_equal(monitor_drain(&w->m), 0); /* the same process all the time */
}

/* Restored from a backup: another directory, which only a new process may enter. It finds the token absent first. */
static void test_token_replaced(void **state)
{
    struct world *w = *state;
    char away[160];
    if (confine_is_sanitizer_build() || confine_is_coverage_build())
        skip(); /* without Landlock the same process may enter it */
    (void)snprintf(away, sizeof away, "%s/away", w->f.dir);
    connect_core(w, &w->m, NULL, false);
    assert_true(monitor_ready(&w->m));
    assert_int_equal(rename(w->f.tokens, away), 0);
    await_detail(w, "the token is not available");
    assert_int_equal(kill(w->m.pid, SIGKILL), 0);
    (void)monitor_join(&w->m);
    connect_core(w, &w->m, NULL, false); /* no FATAL: it served before under this monitor */
    await_detail(w, "the token is not available");
    char *cp[] = {(char *)"cp", (char *)"-a", away, w->f.tokens, NULL};
    run_tool(cp);
    assert_int_equal(WEXITSTATUS(monitor_join(&w->m)), 1);
    assert_string_equal(w->m.fatal, "");
    connect_core(w, &w->m, NULL, false);
    (void)wait_for_service(w, slower(BACK_MS));
    assert_int_equal(monitor_drain(&w->m), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MADE(test_hung_module),
        MADE(test_errors_are_mended),
        MADE(test_hangs_anywhere),
        MADE(test_a_search_that_forgets),
        MADE(test_flipped_bit_at_birth),
        MADE(test_token_comes_back),
        MADE(test_token_replaced),
    };
    struct err e = {0};
    if (secret_slab_init(64, &e).failed)
        return 2;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
