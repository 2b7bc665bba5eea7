/* Every way in which a call to the disk can go wrong, one at a time: writing, syncing, making the next file and changing to it. */
#include "tests/unit/kms/audit/edges.h"

static void interrupted_calls_are_made_again(void **state)
{
    (void)state;
    make(JX_SEGMENT);
    arm(PWRITE, 1, EINTR);
    assert_false(disk_write(j, j->fd, "abcd", 4, j->off, &fx.e).failed);
    assert_int_equal(happened, 1);
    char back[4];
    assert_int_equal(pread(j->fd, back, 4, (off_t)j->off), 4);
    assert_memory_equal(back, "abcd", 4);
    assert_false(disk_zero(j, j->fd, j->off, 4, &fx.e).failed);
    arm(FDATASYNC, 1, EINTR);
    assert_false(disk_sync(j, j->fd, &fx.e).failed);
    assert_int_equal(happened, 1);
    arm(PWRITE, 1, -1); /* a disk that takes nothing and says nothing */
    assert_unavailable(disk_write(j, j->fd, "abcd", 4, j->off, &fx.e));
    drop();
}

static void a_folder_that_cannot_be_synced(void **state)
{
    (void)state;
    make(JX_SEGMENT);
    arm(OPEN, 1, EACCES);
    assert_unavailable(disk_sync_dir(j, &fx.e));
    arm(FSYNC, 1, EIO);
    assert_unavailable(disk_sync_dir(j, &fx.e));
    assert_false(disk_sync_dir(j, &fx.e).failed);
    drop();
}

static bool part_is_there(void)
{
    char path[JOURNAL_PATH_MAX];
    journal_part_path(j, path);
    return __real_access(path, F_OK) == 0;
}

/* The next file: no room, by any name; or a write or sync that fails. Then half a file would be in the way. */
static void a_next_file_that_cannot_be_made(void **state)
{
    (void)state;
    static const int full[] = {ENOSPC, EDQUOT, EFBIG};
    int fd = -1;
    make(JX_SEGMENT);
    for (size_t i = 0; i < 3; i++) {
        arm(FALLOCATE, 1, full[i]);
        assert_unavailable(disk_prealloc(j, &fd, &fx.e));
        assert_false(part_is_there());
    }
    arm(PWRITE, 1, ENOSPC);
    assert_unavailable(disk_prealloc(j, &fd, &fx.e));
    assert_false(part_is_there());
    arm(FDATASYNC, 1, EIO);
    assert_unavailable(disk_prealloc(j, &fd, &fx.e));
    assert_false(part_is_there());
    arm(FALLOCATE, 1, EOPNOTSUPP); /* a file system without it: zeros are written all the same */
    assert_false(disk_prealloc(j, &fd, &fx.e).failed);
    assert_int_equal(happened, 1);
    assert_int_equal(lseek(fd, 0, SEEK_END), JX_SEGMENT);
    close(fd);
    drop();
}

/* Changing to it, step by step: until it has its name the old file goes on. */
static void a_change_of_files_that_fails(void **state)
{
    (void)state;
    static const struct {
        enum call c;
        int error;
        enum err_code code;
    } steps[] = {{PWRITE, EIO, ERR_UNAVAILABLE}, {FDATASYNC, EIO, ERR_UNAVAILABLE}, {ACCESS, -1, ERR_DATA_LOSS},
                 {RENAME, EIO, ERR_UNAVAILABLE}};
    int fd = -1;
    make(JX_SEGMENT);
    begin();
    int old = j->fd;
    assert_false(disk_prealloc(j, &fd, &fx.e).failed);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        arm(steps[i].c, 1, steps[i].error);
        fx.e = (struct err){0};
        assert_true(disk_roll(j, fd, &fx.e).failed);
        assert_int_equal(fx.e.code, steps[i].code);
        assert_int_equal(happened, 1);
        assert_int_equal(j->fd, old);
        assert_false(j->dir_dirty);
        assert_true(part_is_there());
    }
    arm(FSYNC, 1, EIO); /* it has its name, but who knows for how long */
    assert_unavailable(disk_roll(j, fd, &fx.e));
    assert_int_equal(j->fd, fd);
    assert_true(j->dir_dirty);
    drop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(interrupted_calls_are_made_again),
        cmocka_unit_test(a_folder_that_cannot_be_synced),
        cmocka_unit_test(a_next_file_that_cannot_be_made),
        cmocka_unit_test(a_change_of_files_that_fails),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
