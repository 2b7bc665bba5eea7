#include "base/dir.h"

#include "tests/unit/base/testing.h"

#include <errno.h>
#include <locale.h>
#include <sys/stat.h>

int __real_fsync(int fd);
int __wrap_fsync(int fd);
static bool no_fsync;
static unsigned synced; /* folders */
int __wrap_fsync(int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    synced += S_ISDIR(st.st_mode);
    if (!no_fsync)
        return __real_fsync(fd);
    errno = EIO;
    return -1;
}

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/clv-dir-XXXXXX");
    return mkdtemp(folder) != NULL ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

static void test_sync(void **state)
{
    struct err e = {0};

    (void)state;
    synced = 0;
    assert_false(dir_sync(folder, "HERE", &e).failed);
    assert_int_equal(synced, 1);
    no_fsync = true;
    struct result r = dir_sync(folder, "HERE", &e);
    no_fsync = false;
    assert_err(r, &e, ERR_UNAVAILABLE, "HERE");
    assert_non_null(strstr(e.detail, strerror(EIO))); /* not what close left */
    assert_int_equal(synced, 2);
}

static void test_only_folders_are_synced(void **state)
{
    static const char *const not[] = {"/proc/self/status", "/proc/self/no-such-folder", ""};
    struct err e;

    (void)state;
    synced = 0;
    for (size_t i = 0; i < sizeof not / sizeof not[0]; i++) {
        e = (struct err){0};
        struct result r = dir_sync(not[i], "THERE", &e);
        assert_err(r, &e, ERR_UNAVAILABLE, "THERE");
    }
    assert_int_equal(synced, 0);
}

static int not_dots(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

static void test_names_are_in_order_of_bytes(void **state)
{
    static const char *const names[] = {"B", "Z", "_", "a", "b", "b1", "\303\244"};
    enum { N = sizeof names / sizeof names[0] };
    char path[128];

    (void)state;
    for (size_t i = N; i-- > 0;) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    struct dir_names d = {0};
    d.n = scandir(folder, &d.entries, not_dots, dir_by_name);
    assert_int_equal(d.n, N);
    for (size_t i = 0; i < N; i++) {
        assert_string_equal(d.entries[i]->d_name, names[i]);
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        assert_int_equal(rmdir(path), 0);
    }
    dir_names_release(&d);
    struct dir_names none = {.n = -1};
    dir_names_release(&none);
}

int main(void)
{
    (void)setlocale(LC_ALL, "");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sync),
        cmocka_unit_test(test_only_folders_are_synced),
        cmocka_unit_test(test_names_are_in_order_of_bytes),
    };
    return cmocka_run_group_tests_name("dir", tests, make_folder, remove_folder);
}
