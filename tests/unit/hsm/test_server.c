/* The real kmsd-hsm serves: from its start to its end, over a death, with a new channel, a backup, a wrong PIN. */
#include "tests/unit/hsm/world.h"

#include <glob.h>
#include <sys/prctl.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        FRESH(test_start_errors),
        MADE(test_serves),
        MADE(test_killed_and_replaced),
        MADE(test_new_core_channel),
        MADE(test_backup),
        MADE(test_wrong_pin_while_serving),
        MADE(test_derive_rate),
    };
    struct err e = {0};
    if (secret_slab_init(64, &e).failed)
        return 2;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
