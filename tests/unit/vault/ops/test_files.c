#include "vault/ops/files.h"

#include "tests/unit/base/testing.h"
#include "vault/ops/init.h"

#include "base/chan.h"

#include <sys/stat.h>

static char dir[] = "/tmp/clv-files-XXXXXX";

static const char *at(const char *name)
{
    static char path[4][128];
    static unsigned turn;
    char *p = path[turn++ % 4];

    (void)snprintf(p, 128, "%s/%s", dir, name);
    return p;
}

static void put(const char *name, const char *text, mode_t mode)
{
    FILE *f = fopen(at(name), "we");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(at(name), mode), 0);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) == NULL;
}

static int teardown(void **state)
{
    (void)state;
    static const char *const left[] = {"secret", "link", "fifo", "s/kmsd.lock", "s/journal", "s/hsm", "s", "r", "j", "p/a.yaml",
                                       "p/b.yaml", "p/.hidden.yaml", "p/notes.txt", "p/tables", "p"};
    for (size_t i = 0; i < sizeof(left) / sizeof(*left); i++)
        (void)remove(at(left[i]));
    return rmdir(dir);
}

static void opens(const char *name, bool private)
{
    struct err e;
    int fd = -1;

    assert_ok(files_open("hsm_pin_file", at(name), private, &fd, &e));
    assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    (void)close(fd);
}

static void refuses(const char *name, bool private, const char *reason)
{
    struct err e;
    int fd = -1;

    assert_err(files_open("hsm_pin_file", at(name), private, &fd, &e), &e, ERR_INVALID, reason);
    assert_int_equal(fd, -1);
    assert_non_null(strstr(e.detail, "hsm_pin_file"));
    assert_non_null(strstr(e.detail, at(name)));
}

static void test_private_and_public_files(void **state)
{
    (void)state;
    put("secret", "4711", 0600);
    opens("secret", true);
    assert_int_equal(chmod(at("secret"), 0400), 0);
    opens("secret", true);
    for (mode_t bit = 1; bit <= 040; bit <<= 1) {
        assert_int_equal(chmod(at("secret"), 0600 | bit), 0);
        refuses("secret", true, "FILE_MODE");
    }
    assert_int_equal(chmod(at("secret"), 0644), 0);
    opens("secret", false);
    assert_int_equal(chmod(at("secret"), 0664), 0);
    refuses("secret", false, "FILE_MODE");
    assert_int_equal(symlink(at("secret"), at("link")), 0);
    refuses("link", true, "FILE_MODE"); /* what counts is the file behind it */
    refuses("absent", true, "FILE_OPEN");
    refuses("", true, "FILE_KIND");
    assert_int_equal(mkfifo(at("fifo"), 0600), 0);
    refuses("fifo", true, "FILE_KIND"); /* and does not hang */
    if (geteuid() == 0) {
        assert_int_equal(chmod(at("secret"), 0600) + chown(at("secret"), 12345, (gid_t)-1), 0);
        refuses("secret", true, "FILE_OWNER");
    }
}

static struct config *config(const char *extra)
{
    char text[1024];
    struct config *c = NULL;
    struct err e;

    (void)snprintf(text, sizeof(text),
                   "state_dir = s\nrun_dir = r\nlocations = eu\ntrust_domain = example.org\ntls_cert_file = c\n"
                   "tls_key_file = k\nclient_ca_file = ca\nhsm_token = pkcs11:token=t\nhsm_pin_file = pin\n%s",
                   extra);
    assert_ok(config_parse(bytes_str(text), dir, "test", &c, &e));
    return c;
}

static mode_t mode_of(const char *name)
{
    struct stat st;

    assert_int_equal(stat(at(name), &st), 0);
    return st.st_mode & 07777U;
}

static void test_folders_are_made_and_checked(void **state)
{
    CLEANUP(config_freep) struct config *c = config("");
    CLEANUP(buf_release) struct buf journal;
    struct err e;

    (void)state;
    assert_ok(files_check_dirs(c, &e)); /* not there yet, nothing wrong, nothing made */
    assert_int_equal(access(at("s"), F_OK), -1);
    assert_ok(files_prepare_dirs(c, &e));
    assert_int_equal(mode_of("s"), 0700);
    assert_int_equal(mode_of("s/journal"), 0700);
    assert_int_equal(mode_of("r"), 0700);
    buf_init(&journal, 1000);
    files_journal_dir(c, &journal);
    assert_string_equal(buf_cstr(&journal), at("s/journal"));
    assert_int_equal(chmod(at("s"), 0755), 0); /* narrower is made, wider is repaired */
    assert_ok(files_prepare_dirs(c, &e));
    assert_int_equal(mode_of("s"), 0700);
    assert_int_equal(chmod(at("r"), 0777), 0); /* somebody may have put something in it already */
    assert_err(files_prepare_dirs(c, &e), &e, ERR_INVALID, "DIR_MODE");
    assert_err(files_check_dirs(c, &e), &e, ERR_INVALID, "DIR_MODE");
    assert_int_equal(chmod(at("r"), 0700), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(at("s"), 12345, (gid_t)-1), 0);
        assert_err(files_prepare_dirs(c, &e), &e, ERR_INVALID, "DIR_OWNER");
        assert_int_equal(chown(at("s"), 0, (gid_t)-1), 0);
    }
}

static void test_users(void **state)
{
    CLEANUP(config_freep) struct config *unknown = config("user_core = no-such-user\n");
    CLEANUP(config_freep) struct config *apart = config("user_core = nobody\nuser_front = daemon\nuser_hsm = games\njournal_dir = j\n");
    struct stat st;
    struct err e;

    (void)state;
    assert_err(files_prepare_dirs(unknown, &e), &e, ERR_INVALID, "USER_UNKNOWN");
    if (geteuid() != 0) {
        assert_err(files_prepare_dirs(apart, &e), &e, ERR_INVALID, "USER_NOT_ROOT");
        return;
    }
    assert_ok(files_prepare_dirs(apart, &e));
    assert_int_equal(stat(at("r"), &st), 0);
    assert_int_not_equal(st.st_uid, 0);
    assert_int_equal(st.st_mode & 07777U, 0710); /* the front may pass to the socket, not list */
    assert_int_not_equal(st.st_gid, 0);
    assert_int_equal(mode_of("j"), 0700);
    assert_int_equal(mode_of("s"), 0711);
    assert_int_equal(mode_of("s/hsm"), 0700);
    uid_t core = st.st_uid;
    assert_int_equal(stat(at("s/hsm"), &st), 0);
    assert_int_not_equal(st.st_uid, core);
    assert_int_equal(chown(at("r"), 0, 0) + chown(at("s"), 0, 0) + chown(at("j"), 0, 0) + chown(at("s/hsm"), 0, 0), 0);
}

static void test_lock_is_exclusive(void **state)
{
    CLEANUP(config_freep) struct config *c = config("");
    struct err e;
    int a = -1, b = -1;

    (void)state;
    assert_ok(files_prepare_dirs(c, &e));
    assert_ok(files_lock(c, &a, &e));
    assert_err(files_lock(c, &b, &e), &e, ERR_EXISTS, "ALREADY_RUNNING");
    assert_int_equal(b, -1);
    (void)close(a);
    assert_ok(files_lock(c, &b, &e));
    (void)close(b);
}

/* ---- init.h ---- */

static void init_fails(const struct init_request *r, enum err_code code, const char *reason)
{
    CLEANUP(buf_release) struct buf b;
    struct err e;

    buf_init(&b, 2 * CHAN_MAX_BYTES);
    assert_err(init_message(r, &b, &e), &e, code, reason);
}

static void test_init_message(void **state)
{
    CLEANUP(buf_release) struct buf b;
    char folder[128]; /* at() hands out its buffers in turn */
    struct init_request r = {.admin = "alice", .admin_san = "spiffe://x/alice", .policy_dir = folder};
    static char big[40000];
    struct err e;

    (void)state;
    (void)snprintf(folder, sizeof(folder), "%s/p", dir);
    init_fails(&r, ERR_NOT_FOUND, "POLICY_DIR"); /* no folder */
    assert_int_equal(mkdir(at("p"), 0700) + mkdir(at("p/tables"), 0700), 0);
    put("p/notes.txt", "no", 0644);
    put("p/.hidden.yaml", "no", 0644);
    init_fails(&r, ERR_NOT_FOUND, "POLICY_DIR"); /* no document */
    put("p/b.yaml", "two", 0644);
    put("p/a.yaml", "one", 0644);
    buf_init(&b, 2 * CHAN_MAX_BYTES);
    assert_ok(init_message(&r, &b, &e));
    struct reader in = reader_of(buf_bytes(&b));
    assert_true(bytes_equal(reader_v16(&in), BYTES_LIT("alice")));
    assert_true(bytes_equal(reader_v16(&in), BYTES_LIT("spiffe://x/alice")));
    assert_int_equal(reader_u16(&in), 2);
    assert_true(bytes_equal(reader_v16(&in), BYTES_LIT("a.yaml")));
    assert_true(bytes_equal(reader_v32(&in), BYTES_LIT("one")));
    assert_true(bytes_equal(reader_v16(&in), BYTES_LIT("b.yaml")));
    assert_true(bytes_equal(reader_v32(&in), BYTES_LIT("two")));
    assert_int_equal(reader_u8(&in), 0);
    assert_true(reader_done(&in));

    r.token_backup = "vendor-clone";
    buf_reset(&b);
    assert_ok(init_message(&r, &b, &e));
    assert_int_equal(b.p[b.n - 1], 1);
    r.token_backup = "none";
    init_fails(&r, ERR_INVALID, "INIT_ARGUMENT");
    r.token_backup = NULL;

    init_fails(&(struct init_request){.admin = "", .admin_san = "san", .policy_dir = r.policy_dir}, ERR_INVALID, "INIT_ARGUMENT");
    init_fails(&(struct init_request){.admin = "alice", .admin_san = "a\nb", .policy_dir = r.policy_dir}, ERR_INVALID, "INIT_ARGUMENT");
    assert_int_equal(chmod(at("p/a.yaml"), 0666), 0); /* anybody could have written that policy */
    init_fails(&r, ERR_INVALID, "FILE_MODE");
    put("p/a.yaml", "\xff", 0644);
    init_fails(&r, ERR_INVALID, "POLICY_DIR");
    memset(big, 'x', sizeof(big) - 1);
    put("p/a.yaml", big, 0644);
    put("p/b.yaml", big, 0644);
    init_fails(&r, ERR_INVALID, "POLICY_DIR");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_private_and_public_files),
        cmocka_unit_test(test_folders_are_made_and_checked),
        cmocka_unit_test(test_users),
        cmocka_unit_test(test_lock_is_exclusive),
        cmocka_unit_test(test_init_message),
    };
    return cmocka_run_group_tests_name("files", tests, setup, teardown);
}
