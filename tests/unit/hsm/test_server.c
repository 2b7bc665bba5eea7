/* The real kmsd-hsm, confined, over its real channels. Needs bin/kmsd-hsm and hardware/shim.so (tests/tests.mk). */
#include "base/confine_build.h"
#include "tests/unit/hsm/monitor.h"
#include "tests/unit/hsm/shim.h"

#include <glob.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

struct world {
    struct fixture f;
    struct monitor m;
    struct hsm *hsm;
    char shim[256];
};

static void connect_core(struct world *w, struct monitor *m, const char *module, bool init)
{
    int fds[2];
    OK(chan_pair(fds, &e));
    monitor_start(m, &w->f, module, NULL, init, fds[1]);
    (void)close(fds[1]);
    if (w->hsm == NULL)
        OK(hsm_client_new(fds[0], (uint64_t)slower(TIMEOUT_MS), &w->hsm, &e));
    else
        hsm_client_set_channel(w->hsm, fds[0]);
}

static int setup_empty(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    fixture_make(&w->f);
    binary_path("../../hardware/shim.so", w->shim);
    shim_attach(&w->f);
    *state = w;
    return 0;
}

/* A token as kmsd init leaves it, made by kmsd-hsm --init itself. */
static int setup(void **state)
{
    (void)setup_empty(state);
    struct world *w = *state;
    connect_core(w, &w->m, NULL, true);
    assert_true(monitor_ready(&w->m));
    OK(hsm_generate(w->hsm, HSM_MASTER, 1, &e));
    OK(hsm_generate(w->hsm, HSM_SEAL, 1, &e));
    OK(hsm_generate(w->hsm, HSM_AUDIT, 1, &e));
    assert_int_equal(monitor_drain(&w->m), 0);
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    hsm_free(w->hsm);
    fixture_remove(&w->f);
    free(w);
    return 0;
}

static RESULT derive(struct world *w, struct secret **ret, struct err *e)
{
    CLEANUP(buf_release) struct buf in = {0};
    tenant_kek_input(&in);
    return hsm_derive(w->hsm, HSM_MASTER, 1, buf_bytes(&in), ret, e);
}

static RESULT derive_only(struct world *w, struct err *e)
{
    CLEANUP(secret_freep) struct secret *key = NULL;
    return derive(w, &key, e);
}

/* How long until it answers again; fails the test after the promise. */
static int64_t wait_for_service(struct world *w, int64_t promise_ms)
{
    const int64_t begin = now_ms();
    struct err e = {0};
    while (derive_only(w, &e).failed) {
        assert_int_equal(e.code, ERR_UNAVAILABLE);
        if (now_ms() - begin > promise_ms)
            fail_msg("no service for %d ms: %s", (int)(now_ms() - begin), e.detail);
        const struct timespec nap = {.tv_nsec = 10000000};
        (void)nanosleep(&nap, NULL);
    }
    return now_ms() - begin;
}

/* Calls until one is refused in these words. */
static void await_detail(struct world *w, const char *says)
{
    const int64_t begin = now_ms();
    for (;;) {
        struct err e = {0};
        bool refused = derive_only(w, &e).failed;
        assert_true(!refused || e.code == ERR_UNAVAILABLE);
        if (refused && strstr(e.detail, says) != NULL)
            return;
        if (now_ms() - begin > slower(5000))
            fail_msg("not refused with \"%s\" but \"%s\"", says, e.detail);
    }
}

static void test_serves(void **state)
{
    struct world *w = *state;
    struct hsm_status st;
    uint8_t random[2][64], sig[HSM_SIG_MAX], pub[HSM_PUBKEY_MAX], anchor[HSM_ANCHOR_MAX];
    size_t n;
    bool ed;
    CLEANUP(secret_freep) struct secret *a = NULL, *b = NULL;
    connect_core(w, &w->m, NULL, false);
    assert_true(monitor_ready(&w->m));
    OK(hsm_probe(w->hsm, &st, &e));
    assert_true(st.logged_in);
    assert_string_equal(st.token_label, "claviger-test");
    assert_string_equal(st.weaknesses, "");
    assert_int_equal(st.master_newest + st.seal_newest + st.audit_newest, 3);
    OK(derive(w, &a, &e));
    OK(derive(w, &b, &e));
    assert_true(secret_equal(a, b));
    OK(hsm_random(w->hsm, random[0], 64, &e));
    OK(hsm_random(w->hsm, random[1], 64, &e));
    assert_memory_not_equal(random[0], random[1], 64);
    OK(hsm_sign_checkpoint(w->hsm, 1, BYTES_LIT(ORIGIN "\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"), sig, &n, &e));
    assert_int_equal(n, 64);
    OK(hsm_sign_certificate(w->hsm, 1, BYTES_LIT(CERTIFICATE), sig, &n, &e));
    assert_int_equal(n, 64);
    REFUSED(ERR_DENIED, "HSM_REFUSED", hsm_sign_certificate(w->hsm, 1, BYTES_LIT(CERTIFICATE "more\n"), sig, &n, &e));
    OK(hsm_audit_pubkey(w->hsm, 1, pub, &n, &ed, &e));
    assert_true(ed && n == 32);
    REFUSED(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", hsm_anchor_get(w->hsm, anchor, &n, &e));
    OK(hsm_anchor_put(w->hsm, BYTES_LIT("floor 7"), &e));
    OK(hsm_anchor_get(w->hsm, anchor, &n, &e));
    assert_int_equal(n, 7);
    REFUSED(ERR_DENIED, "HSM_REFUSED", hsm_sign_checkpoint(w->hsm, 1, BYTES_LIT("elsewhere\n0\nAAAA\n"), sig, &n, &e));
    REFUSED(ERR_EXISTS, "HSM_OBJECT_EXISTS", hsm_generate(w->hsm, HSM_MASTER, 1, &e));
    OK(hsm_generate(w->hsm, HSM_MASTER, 2, &e)); /* rotation, in a confined process */
    OK(hsm_destroy(w->hsm, HSM_MASTER, 2, &e));
    secret_free(a);
    a = NULL;
    REFUSED(ERR_DENIED, "HSM_REFUSED", hsm_derive(w->hsm, HSM_MASTER, 1, BYTES_LIT("free"), &a, &e));
    assert_int_equal(monitor_drain(&w->m), 0);
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", derive(w, &a, &e));
}

static void fatal_start(struct world *w, const char *module, const char *uri, const char *says)
{
    struct monitor m;
    monitor_start(&m, &w->f, module, uri, false, -1);
    assert_false(monitor_ready(&m));
    assert_int_equal(WEXITSTATUS(monitor_join(&m)), 1);
    if (strstr(m.fatal, says) == NULL)
        fail_msg("FATAL says: %s", m.fatal);
}

static void test_start_errors(void **state)
{
    struct world *w = *state;
    fatal_start(w, NULL, NULL, "kmsd init");
    fatal_start(w, NULL, "pkcs11:token=elsewhere", "no token matches hsm_token");
    fatal_start(w, NULL, "pkcs11:token=claviger-test?pin-value=1", "hsm_pin_file");
    fatal_start(w, "/usr/lib/none.so", NULL, "/usr/lib/none.so");
    write_file(w->f.pin, "000000\n");
    fatal_start(w, NULL, NULL, "CKR_PIN_INCORRECT");
    fatal_start(w, NULL, NULL, "one try a minute");
    assert_int_equal(unlink(w->f.pin), 0);
}

static void *hammer(void *arg)
{
    struct world *w = arg;
    uintptr_t strange = 0;
    for (int i = 0; i < 2000; i++) {
        struct err e = {0};
        if (derive_only(w, &e).failed && e.code != ERR_UNAVAILABLE)
            strange++;
    }
    return (void *)strange;
}

/* kill -9 under load: every call ends, with a key or UNAVAILABLE, and the next process serves the same client. */
static void test_killed_and_replaced(void **state)
{
    struct world *w = *state;
    pthread_t t[4];
    CLEANUP(secret_freep) struct secret *before = NULL, *after = NULL;
    connect_core(w, &w->m, NULL, false);
    assert_true(monitor_ready(&w->m));
    OK(derive(w, &before, &e));
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, hammer, w), 0);
    assert_int_equal(kill(w->m.pid, SIGKILL), 0);
    assert_true(WIFSIGNALED(monitor_join(&w->m)));
    connect_core(w, &w->m, NULL, false);
    assert_true(monitor_ready(&w->m));
    for (int i = 0; i < 4; i++) {
        void *strange;
        assert_int_equal(pthread_join(t[i], &strange), 0);
        assert_null(strange);
    }
    OK(derive(w, &after, &e));
    assert_true(secret_equal(before, after));
    assert_int_equal(monitor_drain(&w->m), 0);
}

/* Core was restarted: hsm gets a new channel and goes on without a new login. */
static void test_new_core_channel(void **state)
{
    struct world *w = *state;
    int fds[2];
    connect_core(w, &w->m, NULL, false);
    assert_true(monitor_ready(&w->m));
    OK(derive_only(w, &e));
    OK(chan_pair(fds, &e));
    const struct chan_msg channel = {.type = IPC_CORE_CHANNEL, .nfds = 1, .fds = {fds[1]}};
    OK(chan_send(w->m.control, &channel, &e));
    (void)close(fds[1]);
    hsm_client_set_channel(w->hsm, fds[0]);
    OK(derive_only(w, &e));
    assert_int_equal(monitor_pins(&w->m), 1);
    assert_int_equal(monitor_drain(&w->m), 0);
}

static void test_hung_module(void **state)
{
    struct world *w = *state;
    connect_core(w, &w->m, w->shim, false);
    assert_true(monitor_ready(&w->m));
    OK(derive_only(w, &e));
    shim_plan(&w->f, "C_Sign hang nth:1");
    const int64_t begin = now_ms();
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", derive_only(w, &e));
    assert_in_range(now_ms() - begin, slower(TIMEOUT_MS) / 2, slower(TIMEOUT_MS + 300));
    assert_int_equal(shim_count(&w->f, "C_Sign", "hang"), 1);
    assert_int_equal(WEXITSTATUS(monitor_join(&w->m)), WATCHDOG_EXIT);
    connect_core(w, &w->m, w->shim, false);
    (void)wait_for_service(w, slower(2000));
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
        (void)wait_for_service(w, slower(2000));
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
        (void)wait_for_service(w, slower(2000));
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

/* In the confined process: Landlock and seccomp let it be made, and one that lost a bit is refused. */
static void spoil_backup(const struct fixture *f)
{
    char pattern[256];
    glob_t g;
    (void)snprintf(pattern, sizeof pattern, "%s/token-backup/*.part/*/*-*.object", f->state);
    if (glob(pattern, 0, NULL, &g) != 0)
        return;
    int fd = open(g.gl_pathv[g.gl_pathc - 1], O_RDWR | O_CLOEXEC);
    uint8_t byte;
    if (pread(fd, &byte, 1, 200) == 1) {
        byte ^= 4;
        (void)!pwrite(fd, &byte, 1, 200);
    }
    (void)close(fd);
    globfree(&g);
}

static void test_backup(void **state)
{
    struct world *w = *state;
    struct hsm_backup b;
    struct hsm_status st;
    connect_core(w, &w->m, NULL, false);
    assert_true(monitor_ready(&w->m));
    w->m.before_pin = spoil_backup;
    REFUSED(ERR_DATA_LOSS, "HSM_BACKUP", hsm_backup(w->hsm, &b, &e));
    w->m.before_pin = NULL;
    char remove[200];
    (void)snprintf(remove, sizeof remove, "rm -r %s/token-backup/*.part", w->f.state); /* it may have the name of this second */
    char *argv[] = {(char *)"sh", (char *)"-ec", remove, NULL};
    run_tool(argv);
    OK(hsm_probe(w->hsm, &st, &e));
    assert_true(st.copyable && st.backups == 0);
    assert_string_equal(st.weaknesses, "");
    const int64_t begin = now_ms();
    OK(hsm_backup(w->hsm, &b, &e));
    print_message("backup made and verified in %d ms\n", (int)(now_ms() - begin));
    assert_string_equal(b.holds, "master-1 seal-1 audit-1");
    OK(hsm_probe(w->hsm, &st, &e));
    assert_int_equal(st.backups, 1);
    assert_string_equal(st.weaknesses, HSM_WEAK_BACKUP_DEVICE);
    assert_string_equal(b.serial, st.serial);
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
        print_message("service returned %d ms after the token\n", (int)wait_for_service(w, slower(2000)));
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
    (void)wait_for_service(w, slower(2000));
    assert_int_equal(monitor_drain(&w->m), 0);
}

static void test_wrong_pin_while_serving(void **state)
{
    struct world *w = *state;
    connect_core(w, &w->m, w->shim, false);
    assert_true(monitor_ready(&w->m));
    write_file(w->f.pin, "000000\n");
    shim_plan(&w->f, "C_Sign 0x101 nth:1");
    REFUSED(ERR_UNAVAILABLE, "HSM_UNAVAILABLE", derive_only(w, &e));
    struct err e = {0};
    assert_true(derive_only(w, &e).failed);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    assert_int_equal(monitor_pins(&w->m), 2); /* one login, one wrong try, and no more */
    assert_int_equal(monitor_drain(&w->m), 0);
}

static void test_derive_rate(void **state)
{
    struct world *w = *state;
    enum { N = 5000 };
    connect_core(w, &w->m, NULL, false);
    assert_true(monitor_ready(&w->m));
    OK(derive_only(w, &e));
    int64_t begin = clock_boot_ns(&clock_system);
    for (int i = 0; i < N; i++)
        OK(derive_only(w, &e));
    int64_t one = clock_boot_ns(&clock_system) - begin;
    pthread_t t[4];
    begin = clock_boot_ns(&clock_system);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, hammer, w), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(t[i], NULL), 0);
    int64_t four = clock_boot_ns(&clock_system) - begin;
    print_message("derive: %lld/s from 1 thread, %lld/s from 4\n", (long long)N * 1000000000 / one,
                  (long long)4 * 2000 * 1000000000 / four);
    assert_int_equal(monitor_drain(&w->m), 0);
}

#define FRESH(name) cmocka_unit_test_setup_teardown(name, setup_empty, teardown)
#define MADE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FRESH(test_start_errors),
        MADE(test_serves),
        MADE(test_killed_and_replaced),
        MADE(test_new_core_channel),
        MADE(test_hung_module),
        MADE(test_errors_are_mended),
        MADE(test_hangs_anywhere),
        MADE(test_a_search_that_forgets),
        MADE(test_flipped_bit_at_birth),
        MADE(test_backup),
        MADE(test_token_comes_back),
        MADE(test_token_replaced),
        MADE(test_wrong_pin_while_serving),
        MADE(test_derive_rate),
    };
    struct err e = {0};
    if (secret_slab_init(64, &e).failed)
        return 2;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
