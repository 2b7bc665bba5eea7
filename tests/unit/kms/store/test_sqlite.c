#include "tests/unit/kms/store/conformance.h"
#include "tests/unit/kms/store/edit.h"

#include <fcntl.h>

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
    assert_fails(store_open(&f->o, &s, &f->e), ERR_STATE, "STORE_FOREIGN");
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        CONFORMANCE_TESTS,
        CONFORMANCE_TEST(test_create_once),
        CONFORMANCE_TEST(test_open_refusals),
        CONFORMANCE_TEST(test_versions),
        CONFORMANCE_TEST(test_missing_and_garbage),
        CONFORMANCE_TEST(test_sealed_on_disk),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
