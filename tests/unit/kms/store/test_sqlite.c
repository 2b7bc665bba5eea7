#include "tests/unit/kms/store/conformance.h"
#include "tests/unit/kms/store/edit.h"

#include <fcntl.h>
#include <sys/wait.h>

static void test_create_once(void **state)
{
    struct fx *f = *state;
    char path[128];
    struct stat st;
    assert_fails(store_create(&f->o, &f->e), ERR_EXISTS, NULL);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/store.db%s", f->dir, ((const char *[]){"", "-wal", "-shm"})[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    snprintf(path, sizeof path, "%s/store.db.part", f->dir);
    assert_int_not_equal(access(path, F_OK), 0);
}

static void test_open_refusals(void **state)
{
    struct fx *f = *state;
    struct store *s = NULL;
    char path[128];
    snprintf(path, sizeof path, "%s/store.db", f->dir);
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_BUSY");
    fx_close(f);
    f->o.instance[0] ^= 1;
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_FOREIGN");
    f->o.instance[0] ^= 1;
    f->key_salt = 1;
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_FOREIGN");
    f->key_salt = 0;
    f->o.epoch = 2; /* the token knows fewer epochs than the store was made in */
    assert_fails(store_open(&f->o, &s, &f->e), ERR_DATA_LOSS, "SEAL_ABSENT");
    f->o.epoch = 3;
    f->no_key = true;
    assert_fails(store_open(&f->o, &s, &f->e), ERR_UNAVAILABLE, "HSM_UNAVAILABLE");
    f->no_key = false;
    chmod(path, 0640);
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_PERMISSIONS");
    chmod(path, 0600);
    assert_null(s);
    fx_open(f); /* none of the refusals changed it */
}

static void test_versions(void **state)
{
    struct fx *f = *state;
    struct store *s = NULL;
    fx_close(f);
    edit(f, "PRAGMA user_version = 99");
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_NEWER");
    assert_non_null(strstr(f->e.detail, "99"));
    edit(f, "PRAGMA user_version = 1; UPDATE migration SET checksum = zeroblob(32)");
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_FOREIGN");
    edit(f, "PRAGMA application_id = 1");
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_FOREIGN");
}

static void test_missing_and_garbage(void **state)
{
    struct fx *f = *state;
    struct store *s = NULL;
    char path[128];
    fx_close(f);
    snprintf(path, sizeof path, "%s/store.db", f->dir);
    assert_int_equal(unlink(path), 0);
    assert_fails(store_open(&f->o, &s, &f->e), ERR_NOT_FOUND, "STORE_MISSING");
    int fd = creat(path, 0600);
    for (int i = 0; i < 200; i++)
        assert_int_equal(write(fd, "this is no database, but it is long enough", 42), 42);
    close(fd);
    assert_fails(store_open(&f->o, &s, &f->e), ERR_DATA_LOSS, "STORE_CORRUPT");
    assert_int_equal(unlink(path), 0);
    assert_ok(store_create(&f->o, &f->e));
    fx_open(f);
}

/* The thief's view: nothing that was put in a body or an event is anywhere in the files. */
static void test_sealed_on_disk(void **state)
{
    struct fx *f = *state;
    struct record r = fx_rec(REC_TENANT, T0, "acme", "CANARY-BODY-0123456789");
    size_t found_name = 0;
    assert_ok(fx_put(f, &r, STORE_ABSENT, "CANARY-EVENT-0123456789"));
    for (int i = 0; i < 2; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/store.db%s", f->dir, i ? "-wal" : "");
        FILE *in = fopen(path, "re");
        assert_non_null(in);
        static char all[1 << 22];
        size_t n = fread(all, 1, sizeof all, in);
        fclose(in);
        assert_null(memmem(all, n, "CANARY", 6));
        found_name += memmem(all, n, "acme", 4) != NULL; /* the test can find things */
    }
    assert_true(found_name > 0);
}

static off_t log_bytes(struct fx *f)
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/store.db-wal", f->dir);
    return stat(path, &st) == 0 ? st.st_size : -1;
}

static void put(struct fx *f, const char *id, bool erases)
{
    struct record r = fx_rec(REC_TENANT, T0, id, "body");
    struct store_txn *t = store_txn_new(f->s);
    store_txn_put(t, &r, STORE_ANY);
    if (erases)
        store_txn_erases(t);
    assert_ok(store_txn_commit(t, NULL, &f->e));
    store_txn_free(t);
}

/* The log is cut off after a transaction that erases, and not while somebody still reads it; what does not erase leaves it. */
static void test_erased(void **state)
{
    struct fx *f = *state;
    char path[128];
    sqlite3 *reader;
    assert_ok(store_await_erased(f->s, 30000, &f->e)); /* what came before the start */
    assert_int_equal(log_bytes(f), 0);
    put(f, "acme", false);
    assert_true(log_bytes(f) > 0);
    assert_ok(store_await_erased(f->s, 30000, &f->e));
    assert_true(log_bytes(f) > 0);
    snprintf(path, sizeof path, "%s/store.db", f->dir);
    assert_int_equal(sqlite3_open(path, &reader), SQLITE_OK);
    assert_int_equal(sqlite3_exec(reader, "BEGIN; SELECT count(*) FROM record", NULL, NULL, NULL), SQLITE_OK);
    put(f, "acme", true);
    assert_fails(store_await_erased(f->s, 300, &f->e), ERR_UNAVAILABLE, "STORE_ERASING");
    assert_true(log_bytes(f) > 0);
    put(f, "globex", false); /* writers go on meanwhile */
    assert_int_equal(sqlite3_exec(reader, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(reader), SQLITE_OK);
    assert_ok(store_await_erased(f->s, 30000, &f->e));
    assert_int_equal(log_bytes(f), 0);
}

/* Who dies before leaves it to the next one to open. */
static void test_erased_after_a_death(void **state)
{
    struct fx *f = *state;
    int status = -1;
    fx_close(f);
    const pid_t child = fork();
    if (child == 0) {
        fx_open(f);
        if (store_await_erased(f->s, 30000, &f->e).failed)
            _exit(2);
        put(f, "acme", true);
        put(f, "globex", false);
        _exit(log_bytes(f) > 0 ? 0 : 3);
    }
    assert_true(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
    assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3); /* 3: cut off between the last two lines */
    fx_open(f);
    assert_ok(store_await_erased(f->s, 30000, &f->e));
    assert_int_equal(log_bytes(f), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CONFORMANCE_TESTS,
        CONFORMANCE_TEST(test_create_once),
        CONFORMANCE_TEST(test_open_refusals),
        CONFORMANCE_TEST(test_versions),
        CONFORMANCE_TEST(test_missing_and_garbage),
        CONFORMANCE_TEST(test_sealed_on_disk),
        CONFORMANCE_TEST(test_erased),
        CONFORMANCE_TEST(test_erased_after_a_death),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
