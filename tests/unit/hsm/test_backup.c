/* The token's backup: exact, verified by a fresh process, and what is not exact is never taken for one. */
#include "tests/unit/hsm/direct.h"

#include "base/log.h"
#include "hsm/answer.h"
#include "hsm/backup.h"
#include "hsm/copy.h"
#include "hsm/seal.h"

#include <glob.h>

static struct {
    const char *pattern; /* glob pattern below state; the first match loses a bit when the PIN is asked for */
    long at;             /* which byte, negative from the end */
    int countdown;       /* at which request */
    bool removes;        /* the file goes instead */
} spoil;

static void flip(const struct fixture *in)
{
    char path[512];
    glob_t g;
    (void)snprintf(path, sizeof path, "%s/%s", in->state, spoil.pattern);
    assert_int_equal(glob(path, 0, NULL, &g), 0);
    if (spoil.removes) {
        assert_int_equal(unlink(g.gl_pathv[0]), 0);
        globfree(&g);
        return;
    }
    FILE *f = fopen(g.gl_pathv[0], "r+e");
    assert_non_null(f);
    assert_int_equal(fseek(f, spoil.at, spoil.at < 0 ? SEEK_END : SEEK_SET), 0);
    int c = fgetc(f);
    assert_int_not_equal(c, EOF);
    assert_int_equal(fseek(f, -1, SEEK_CUR), 0);
    assert_int_equal(fputc(c ^ 1, f), c ^ 1);
    assert_int_equal(fclose(f), 0);
    globfree(&g);
}

static RESULT pin(void *user, int *ret_fd, struct err *e)
{
    if (spoil.pattern != NULL && spoil.countdown-- == 0)
        flip(user);
    return fixture_pin(user, ret_fd, e);
}

static int setup(void **state)
{
    struct world *w = world_new();
    struct token_setup s = fixture_setup(&w->f, &w->clock.c);
    s.pin = pin;
    memset(&spoil, 0, sizeof spoil);
    OK(token_init(&w->t, &s, &e));
    OK(token_open(&w->t, &e));
    *state = w;
    return 0;
}

static int setup_keys(void **state)
{
    (void)setup(state);
    struct world *w = *state;
    OK(ops_generate(&w->t, &verifier, HSM_MASTER, 1, &e));
    OK(ops_generate(&w->t, &verifier, HSM_SEAL, 1, &e));
    OK(ops_generate(&w->t, &verifier, HSM_AUDIT, 1, &e));
    return 0;
}

static size_t count(const struct world *w, const char *pattern)
{
    char path[512];
    glob_t g;
    (void)snprintf(path, sizeof path, "%s/%s", w->f.state, pattern);
    int rc = glob(path, 0, NULL, &g);
    size_t n = rc == 0 ? g.gl_pathc : 0;
    globfree(&g);
    return n;
}

static void shell(const char *format, const char *a, const char *b)
{
    char text[1024];
    (void)snprintf(text, sizeof text, format, a, b);
    char *argv[] = {(char *)"sh", (char *)"-ec", text, NULL};
    run_tool(argv);
}

static void test_backup_is_exact_and_verified(void **state)
{
    struct world *w = *state;
    struct hsm_backup b;
    struct hsm_status st;
    struct stat s;
    ops_status(&w->t, &st);
    assert_true(st.copyable && st.backups == 0);
    assert_string_equal(st.weaknesses, "");
    OK(ops_backup(&w->t, &verifier, &b, &e));
    assert_string_equal(b.serial, st.serial);
    assert_string_equal(b.holds, "master-1 seal-1 audit-1");
    assert_int_equal(b.made_unix_s, 1700000000);
    assert_non_null(strstr(b.path, "-20231114T221320Z"));
    shell("cd '%s' && sha256sum --quiet -c SHA256SUMS && test -z \"$(find . -type f ! -perm 600 -o -type d ! -perm 700)\"", b.path, "");
    assert_int_equal(stat(b.path, &s), 0);
    assert_int_equal(count(w, "token-backup/.verify"), 0);
    assert_int_equal(count(w, "token-backup/*.part"), 0);
    ops_status(&w->t, &st);
    assert_int_equal(st.backups, 1);
    assert_string_equal(st.weaknesses, HSM_WEAK_BACKUP_DEVICE);
    /* Moved away: the weakness goes with it. */
    shell("mv '%s' '%s'", b.path, w->f.dir);
    ops_status(&w->t, &st);
    assert_int_equal(st.backups, 0);
    assert_string_equal(st.weaknesses, "");
}

static void test_one_a_second_and_never_over_another(void **state)
{
    struct world *w = *state;
    struct hsm_backup b;
    OK(ops_backup(&w->t, &verifier, &b, &e));
    REFUSED(ERR_EXISTS, "HSM_BACKUP", ops_backup(&w->t, &verifier, &b, &e));
    fake_clock_advance(&w->clock, 1000000000);
    OK(ops_backup(&w->t, &verifier, &b, &e));
    assert_int_equal(count(w, "token-backup/*Z"), 2);
    _Static_assert(BACKUPS_MAX == 64, "the loop below fills it");
    shell("cd '%s/token-backup' && for i in $(seq 3 64); do mkdir %s-$i; done", w->f.state, b.serial);
    fake_clock_advance(&w->clock, 1000000000);
    REFUSED(ERR_EXHAUSTED, "HSM_BACKUP", ops_backup(&w->t, &verifier, &b, &e));
}

/* With a seal secret that was destroyed, what was destroyed in the store can be read in older copies of it: such backups go when they have expired,
 * and no sooner; others stay. */
static void test_expired_ones_with_a_destroyed_seal_go(void **state)
{
    struct world *w = *state;
    struct hsm_backup b[8];
    const int64_t day = INT64_C(86400) * 1000000000;
    w->t.setup.backup_retention_ms = UINT64_C(35) * 86400000;
    OK(ops_generate(&w->t, &verifier, HSM_SEAL, 2, &e));
    for (unsigned i = 0; i < 3; i++) { /* day 0, 10, 20: with both */
        OK(ops_backup(&w->t, &verifier, &b[i], &e));
        fake_clock_advance(&w->clock, 10 * day);
    }
    OK(ops_destroy(&w->t, HSM_SEAL, 1, &e));
    OK(ops_backup(&w->t, &verifier, &b[3], &e)); /* day 30: nothing has expired */
    assert_int_equal(count(w, "token-backup/*Z"), 4);
    fake_clock_advance(&w->clock, 10 * day);
    OK(ops_backup(&w->t, &verifier, &b[4], &e)); /* day 40 */
    assert_int_equal(count(w, "token-backup/*Z"), 4);
    assert_true(access(b[0].path, F_OK) != 0 && access(b[1].path, F_OK) == 0);
    fake_clock_advance(&w->clock, 60 * day);
    OK(ops_backup(&w->t, &verifier, &b[5], &e)); /* day 100: all with it have, those without it stay */
    assert_int_equal(count(w, "token-backup/*Z"), 3);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(access(b[i].path, F_OK) == 0, i >= 3);
    assert_non_null(strstr(b[5].holds, "seal-2"));
    fake_clock_advance(&w->clock, 60 * day); /* one whose word cannot be read, or that is no backup, is left alone */
    shell("echo '# holds seal-1' > '%s/SHA256SUMS.x' && rm '%s/SHA256SUMS'", b[3].path, b[3].path);
    OK(ops_backup(&w->t, &verifier, &b[6], &e));
    assert_int_equal(count(w, "token-backup/*Z"), 4);
    assert_int_equal(count(w, "token-backup/*.part"), 0);
}

/* A token that lost the newest seal secret, or was put back from before it, is no witness that it was destroyed: what has it is all that can
 * open the store again, and stays however often such a token is backed up. */
static void test_what_a_token_lost_is_not_destroyed(void **state)
{
    struct world *w = *state;
    struct hsm_backup has, b;
    const int64_t day = INT64_C(86400) * 1000000000;
    w->t.setup.backup_retention_ms = UINT64_C(35) * 86400000;
    OK(ops_generate(&w->t, &verifier, HSM_SEAL, 2, &e));
    OK(ops_backup(&w->t, &verifier, &has, &e));
    OK(ops_destroy(&w->t, HSM_SEAL, 2, &e)); /* as the token would look */
    for (unsigned i = 0; i < BACKUPS_KEPT + 2; i++) {
        fake_clock_advance(&w->clock, 40 * day);
        OK(ops_backup(&w->t, &verifier, &b, &e));
        assert_null(strstr(b.holds, "seal-2"));
    }
    assert_int_equal(access(has.path, F_OK), 0);
    OK(ops_generate(&w->t, &verifier, HSM_SEAL, 3, &e)); /* the twin: with a later one there it is */
    fake_clock_advance(&w->clock, 40 * day);
    OK(ops_backup(&w->t, &verifier, &b, &e));
    assert_int_not_equal(access(has.path, F_OK), 0);
}

/* The service makes backups by itself for years: those that nobody needs any more make room, and no others. */
static void test_expired_ones_make_room(void **state)
{
    struct world *w = *state;
    struct hsm_backup b;
    const int64_t day = INT64_C(86400) * 1000000000;
    OK(ops_backup(&w->t, &verifier, &b, &e));
    w->t.setup.backup_retention_ms = UINT64_C(35) * 86400000;
    /* 2023-10-01 and after; the clock stands at 2023-11-14: of 63 more one is a year older, two are just in time or past it. */
    shell("cd '%s/token-backup' && for i in $(seq 10 69); do mkdir -p %s-20231014T2212$i.x; done", w->f.state, b.serial);
    shell("cd '%s/token-backup' && mkdir -p %s-20221114T221320Z/x", w->f.state, b.serial);
    shell("cd '%s/token-backup' && touch %s-20221114T221320Z/x/y", w->f.state, b.serial);
    shell("cd '%s/token-backup' && mkdir %s-20231010T221319Z", w->f.state, b.serial);
    shell("cd '%s/token-backup' && mkdir %s-20231011T221320Z", w->f.state, b.serial);
    assert_int_equal(count(w, "token-backup/*-*"), BACKUPS_MAX);
    fake_clock_advance(&w->clock, 1000000000);
    OK(ops_backup(&w->t, &verifier, &b, &e)); /* the oldest goes, and that is enough */
    assert_int_equal(count(w, "token-backup/*-20221114T221320Z*"), 0);
    assert_int_equal(count(w, "token-backup/*-20231010T221319Z"), 1);
    fake_clock_advance(&w->clock, 1000000000);
    OK(ops_backup(&w->t, &verifier, &b, &e)); /* 35 days and a few seconds old */
    assert_int_equal(count(w, "token-backup/*-20231010T221319Z"), 0);
    fake_clock_advance(&w->clock, 1000000000);
    REFUSED(ERR_EXHAUSTED, "HSM_BACKUP", ops_backup(&w->t, &verifier, &b, &e)); /* 34 days: it may be needed */
    assert_int_equal(count(w, "token-backup/*-20231011T221320Z"), 1);
    assert_int_equal(count(w, "token-backup/*-*"), BACKUPS_MAX);
    /* A clock that is years ahead: all have expired by it, and the newest stay all the same. */
    for (unsigned i = 0; i < 5; i++) {
        fake_clock_advance(&w->clock, 4000 * day);
        OK(ops_backup(&w->t, &verifier, &b, &e));
        assert_int_equal(count(w, "token-backup/*Z"), BACKUPS_KEPT + 1);
        assert_int_equal(count(w, "token-backup/*-*"), BACKUPS_MAX);
    }
    assert_int_equal(count(w, "token-backup/*-2023*Z"), 0);
}

/* One bit of any file of the copy, at the last moment before the keys in it are tried. */
static void test_flipped_bit_in_the_copy(void **state)
{
    struct world *w = *state;
    struct hsm_backup b = {0};
    struct hsm_status st;
    static const char *const files[] = {"token-backup/*.part/*/token.object", "token-backup/*.part/*/generation",
                                        "token-backup/*.part/*/[0-9a-f]*-*.object"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        for (spoil.at = -1; spoil.at <= 0; spoil.at++) {
            spoil.pattern = files[i];
            spoil.countdown = 0;
            REFUSED(ERR_DATA_LOSS, "HSM_BACKUP", ops_backup(&w->t, &verifier, &b, &e));
            assert_int_equal(spoil.countdown, -3); /* it did happen: one PIN for each key */
            assert_int_equal(count(w, "token-backup/*Z"), 0);
            assert_int_equal(count(w, "token-backup/*.part"), 1);
            assert_int_equal(count(w, "token-backup/.verify"), 0);
            shell("rm -r '%s'/token-backup/*.part%s", w->f.state, "");
        }
    ops_status(&w->t, &st);
    assert_int_equal(st.backups, 0);
    assert_string_equal(b.path, "");
    spoil.pattern = NULL;
    OK(ops_backup(&w->t, &verifier, &b, &e));
}

/* What the fresh process opens is damaged, in any object: the keys and what was stored beside them are asked, not the files. */
static void test_flipped_bit_in_what_is_opened(void **state)
{
    struct world *w = *state;
    struct hsm_backup b;
    size_t objects = count(w, "../tokens/*/*-*.object");
    assert_int_equal(objects, 6); /* master, seal, their answers, both halves of the audit key */
    for (size_t i = 0; i < objects; i++) {
        char pattern[400];
        glob_t g;
        (void)snprintf(pattern, sizeof pattern, "%s/*/*-*.object", w->f.tokens);
        assert_int_equal(glob(pattern, 0, NULL, &g), 0);
        (void)snprintf(pattern, sizeof pattern, "token-backup/.verify/*/%s", strrchr(g.gl_pathv[i], '/') + 1);
        globfree(&g);
        spoil.pattern = pattern;
        spoil.at = 100; /* inside the attributes that every object has */
        spoil.countdown = 0;
        struct err e = {0};
        assert_true(ops_backup(&w->t, &verifier, &b, &e).failed);
        assert_true(e.code == ERR_NOT_FOUND || e.code == ERR_DATA_LOSS); /* a key, or a stored answer, that is no more */
        assert_int_equal(count(w, "token-backup/*Z"), 0);
        shell("rm -rf '%s'/token-backup%s", w->f.state, "");
    }
}

static void test_wrong_answer_is_refused(void **state)
{
    struct world *w = *state;
    uint8_t nonce[ANSWER_NONCE_BYTES] = {1}, answer[ANSWER_BYTES];
    for (enum hsm_object k = HSM_MASTER; k <= HSM_AUDIT; k++) {
        OK(verifier_answer(&w->t, k, 1, nonce, answer, &e));
        OK(verifier_check(&verifier, &w->t, NULL, k, 1, nonce, answer, &e));
        answer[31] ^= 1;
        REFUSED(ERR_DATA_LOSS, "HSM_KNOWN_ANSWER", verifier_check(&verifier, &w->t, NULL, k, 1, nonce, answer, &e));
        REFUSED(ERR_NOT_FOUND, "HSM_OBJECT_ABSENT", verifier_answer(&w->t, k, 2, nonce, answer, &e));
    }
}

static void test_restore(void **state)
{
    struct world *w = *state;
    struct hsm_backup b;
    CLEANUP(secret_freep) struct secret *before = world_derive(w), *after = NULL;
    OK(ops_backup(&w->t, &verifier, &b, &e));
    token_close(&w->t);
    shell("rm -r '%s'/*%s", w->f.tokens, "");
    REFUSED(ERR_UNAVAILABLE, "HSM_TOKEN", token_open(&w->t, &e));
    shell("cp -a '%s'/*-*-*-*-* '%s'", b.path, w->f.tokens);
    w->t.setup.complete = true;
    OK(token_open(&w->t, &e));
    after = world_derive(w);
    assert_true(secret_equal(before, after));
    OK(ops_generate(&w->t, &verifier, HSM_MASTER, 3, &e)); /* the restored token is as good as the first */
    OK(ops_generate(&w->t, &verifier, HSM_MASTER, 2, &e));
    fake_clock_advance(&w->clock, 1000000000);
    OK(ops_backup(&w->t, &verifier, &b, &e));
    assert_string_equal(b.holds, "master-1 master-2 master-3 seal-1 audit-1");
}

static void test_what_a_crash_left_is_in_nobodys_way(void **state)
{
    struct world *w = *state;
    struct hsm_backup b;
    struct hsm_status st;
    ops_status(&w->t, &st);
    shell("mkdir -p '%s'/token-backup/.verify/x && cd '%s'/token-backup && touch .verify/softhsm2.conf .verify/x/y", w->f.state,
          w->f.state);
    shell("mkdir '%s'/token-backup/%s-19991231T235959Z.part", w->f.state, st.serial);
    shell("mkdir '%s'/token-backup/0123456789abcdef-19991231T235959Z.part%s", w->f.state, "");
    ops_status(&w->t, &st);
    assert_int_equal(st.backups, 0);
    spoil.pattern = "token-backup/*.part/*/token.object"; /* each try fails: what they leave must not pile up */
    for (unsigned i = 0; i < 3; i++) {
        spoil.countdown = 0;
        spoil.at = 0;
        REFUSED(ERR_DATA_LOSS, "HSM_BACKUP", ops_backup(&w->t, &verifier, &b, &e));
        fake_clock_advance(&w->clock, 1000000000);
        assert_int_equal(count(w, "token-backup/*.part"), 2); /* the last one's, and another token's */
    }
    spoil.pattern = NULL;
    OK(ops_backup(&w->t, &verifier, &b, &e));
    assert_int_equal(count(w, "token-backup/*.part"), 1);
    ops_status(&w->t, &st);
    assert_int_equal(st.backups, 1);
    assert_int_equal(count(w, "token-backup/.verify"), 0);
}

static void test_refusals(void **state)
{
    struct world *w = *state;
    struct hsm_backup b;
    struct hsm_status st;
    shell("ln -s /etc/passwd '%s'/token-backup%s", w->f.state, "");
    REFUSED(ERR_UNAVAILABLE, "HSM_BACKUP", ops_backup(&w->t, &verifier, &b, &e));
    shell("rm '%s'/token-backup && mkdir '%s'/elsewhere && cd '%1$s' && ln -s elsewhere token-backup", w->f.state, w->f.state);
    REFUSED(ERR_UNAVAILABLE, "HSM_BACKUP", ops_backup(&w->t, &verifier, &b, &e)); /* not through a link */
    assert_int_equal(count(w, "elsewhere/*"), 0);
    shell("rm '%s'/token-backup && cd '%s'/* && ln -s /etc/passwd zz.object", w->f.state, w->f.tokens);
    REFUSED(ERR_UNAVAILABLE, "HSM_BACKUP", ops_backup(&w->t, &verifier, &b, &e));
    shell("cd '%s'/*%s && rm zz.object && mkfifo zz", w->f.tokens, "");
    fake_clock_advance(&w->clock, 1000000000);
    REFUSED(ERR_STATE, "HSM_BACKUP", ops_backup(&w->t, &verifier, &b, &e));
    shell("cd '%s'/*%s && rm zz && truncate -s 1048577 zz", w->f.tokens, "");
    fake_clock_advance(&w->clock, 1000000000);
    REFUSED(ERR_STATE, "HSM_BACKUP", ops_backup(&w->t, &verifier, &b, &e));
    w->t.storage.path[0] = '\0'; /* a token in a device */
    REFUSED(ERR_UNIMPLEMENTED, "HSM_BACKUP", ops_backup(&w->t, &verifier, &b, &e));
    ops_status(&w->t, &st);
    assert_false(st.copyable);
}

static void test_empty_token(void **state)
{
    struct world *w = *state;
    struct hsm_backup b;
    REFUSED(ERR_STATE, "HSM_BACKUP", ops_backup(&w->t, &verifier, &b, &e));
    assert_int_equal(count(w, "token-backup"), 0);
}

/* ---- keys of level HSM ---- */
enum { KEYS = 3 };
static const uint8_t aad_hash[HSM_AAD_HASH_BYTES] = {7};

static void kvid_of(unsigned n, uint8_t out[HSM_KVID_BYTES])
{
    memset(out, 0, HSM_KVID_BYTES);
    out[0] = (uint8_t)(0xa0 + n);
}

static void make_keys(struct world *w, uint8_t check[KEYS][HSM_CHECK_BYTES])
{
    uint8_t kvid[HSM_KVID_BYTES];
    for (unsigned i = 0; i < KEYS; i++) {
        kvid_of(i, kvid);
        OK(ops_key_generate(&w->t, &verifier, kvid, aad_hash, check[i], &e));
    }
}

static void test_keys_are_in_it(void **state)
{
    struct world *w = *state;
    struct hsm_backup b;
    uint8_t check[KEYS][HSM_CHECK_BYTES], kvid[HSM_KVID_BYTES];
    OK(ops_backup(&w->t, &verifier, &b, &e));
    assert_int_equal(b.keys, 0);
    shell("! grep '# key' '%s'/SHA256SUMS%s", b.path, "");
    make_keys(w, check);
    fake_clock_advance(&w->clock, 1000000000);
    OK(ops_backup(&w->t, &verifier, &b, &e));
    assert_int_equal(b.keys, KEYS);
    assert_string_equal(b.holds, "master-1 seal-1 audit-1");
    shell("cd '%s' && sha256sum --quiet -c SHA256SUMS && test $(grep -c '^# key a[012]000000000000000000000000000000$' SHA256SUMS) = 3%s", b.path, "");
    token_close(&w->t); /* and they work where it is put back */
    shell("rm -r '%s'/* && cp -a '%s'/*-*-*-*-* '%1$s'", w->f.tokens, b.path);
    OK(token_open(&w->t, &e));
    for (unsigned i = 0; i < KEYS; i++) {
        kvid_of(i, kvid);
        OK(ops_key_check(&w->t, kvid, aad_hash, check[i], &e));
    }
}

/* What the fresh process opens lacks one object, of any key: half a key is none. */
static void test_a_key_that_the_copy_lacks(void **state)
{
    struct world *w = *state;
    struct hsm_backup b;
    uint8_t check[KEYS][HSM_CHECK_BYTES];
    char pattern[2 * KEYS][400];
    glob_t before, after;
    size_t n = 0;
    (void)snprintf(pattern[0], sizeof pattern[0], "%s/*/*-*.object", w->f.tokens);
    assert_int_equal(glob(pattern[0], 0, NULL, &before), 0);
    make_keys(w, check);
    (void)snprintf(pattern[0], sizeof pattern[0], "%s/*/*-*.object", w->f.tokens);
    assert_int_equal(glob(pattern[0], 0, NULL, &after), 0);
    for (size_t i = 0; i < after.gl_pathc; i++) {
        bool old = false;
        for (size_t k = 0; k < before.gl_pathc; k++)
            old |= strcmp(before.gl_pathv[k], after.gl_pathv[i]) == 0;
        if (!old)
            (void)snprintf(pattern[n++], sizeof pattern[0], "token-backup/.verify/*/%s", strrchr(after.gl_pathv[i], '/') + 1);
    }
    globfree(&before);
    globfree(&after);
    assert_int_equal(n, 2 * KEYS);
    spoil.removes = true;
    for (size_t i = 0; i < n; i++) {
        spoil.pattern = pattern[i];
        spoil.countdown = 0;
        REFUSED(ERR_DATA_LOSS, "HSM_BACKUP", ops_backup(&w->t, &verifier, &b, &e));
        assert_int_equal(spoil.countdown, -1);
        assert_int_equal(count(w, "token-backup/*Z"), 0);
        shell("rm -rf '%s'/token-backup%s", w->f.state, "");
    }
    spoil.pattern = NULL;
    OK(ops_backup(&w->t, &verifier, &b, &e));
    assert_int_equal(b.keys, KEYS);
}

/* A verifier that is gone: no backup, whatever the files look like. */
static void test_without_confirmation(void **state)
{
    struct world *w = *state;
    struct hsm_backup b;
    struct verifier dead;
    OK(verifier_start(&dead, NULL, &e));
    assert_int_equal(kill(dead.pid, SIGKILL), 0);
    assert_int_equal(waitpid(dead.pid, NULL, 0), dead.pid);
    REFUSED(ERR_UNAVAILABLE, "CHANNEL_CLOSED", ops_backup(&w->t, &dead, &b, &e));
    assert_int_equal(close(dead.fd), 0);
    assert_int_equal(count(w, "token-backup/*Z"), 0);
}

#define MADE(name) cmocka_unit_test_setup_teardown(name, setup_keys, world_free)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MADE(test_backup_is_exact_and_verified),
        MADE(test_one_a_second_and_never_over_another),
        MADE(test_expired_ones_with_a_destroyed_seal_go),
        MADE(test_what_a_token_lost_is_not_destroyed),
        MADE(test_expired_ones_make_room),
        MADE(test_flipped_bit_in_the_copy),
        MADE(test_flipped_bit_in_what_is_opened),
        MADE(test_wrong_answer_is_refused),
        MADE(test_restore),
        MADE(test_what_a_crash_left_is_in_nobodys_way),
        MADE(test_refusals),
        cmocka_unit_test_setup_teardown(test_empty_token, setup, world_free),
        MADE(test_keys_are_in_it),
        MADE(test_a_key_that_the_copy_lacks),
        MADE(test_without_confirmation),
    };
    log_init("test", LOG_ERROR);
    if (!world_begin(32))
        return 2;
    world_end(cmocka_run_group_tests(tests, NULL, NULL));
}
