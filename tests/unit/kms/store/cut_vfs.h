/*
 * Purpose: a VFS for SQLite, before its own: forwards everything, and tells a disk (tests/unit/kms/disk.h) what was written, synced,
 *          cut short and removed. Owns: the registration. Threads: as SQLite's. Errors: SQLite's. Limits: one disk at a time.
 * Secrets: none.
 */
#ifndef TESTS_UNIT_KMS_STORE_CUT_VFS_H
#define TESTS_UNIT_KMS_STORE_CUT_VFS_H

#include "tests/unit/kms/disk.h"

#include <sqlite3.h>

static struct disk *cut_disk; /* NULL: nobody is told. Set while no store is open */
static bool cut_lies;          /* the log's syncs do nothing */
static sqlite3_vfs *cut_real;
struct cut_file {
    sqlite3_file base;
    bool is_wal;
    int file;    /* on the disk; -1: not on it */
    bool synced; /* once: then its name is safe too */
    sqlite3_file *real; /* behind this struct */
};
static inline struct cut_file *cut_of(sqlite3_file *f) { return (struct cut_file *)(void *)f; }
#define CUT_FORWARD(f, call, ...) cut_of(f)->real->pMethods->call(cut_of(f)->real __VA_OPT__(, ) __VA_ARGS__)
static int cut_close(sqlite3_file *f) { return CUT_FORWARD(f, xClose); }
static int cut_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at) { return CUT_FORWARD(f, xRead, p, n, at); }
static int cut_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
    int rc = CUT_FORWARD(f, xWrite, p, n, at);
    if (rc == SQLITE_OK && cut_disk)
        disk_write(cut_disk, cut_of(f)->file, p, (size_t)n, (uint64_t)at);
    return rc;
}
static int cut_truncate(sqlite3_file *f, sqlite3_int64 n)
{
    int rc = CUT_FORWARD(f, xTruncate, n);
    if (rc == SQLITE_OK && cut_disk)
        disk_resize(cut_disk, cut_of(f)->file, (uint64_t)n);
    return rc;
}
static int cut_sync(sqlite3_file *f, int flags)
{
    int rc = CUT_FORWARD(f, xSync, flags);
    if (rc == SQLITE_OK && cut_disk && !(cut_lies && cut_of(f)->is_wal)) {
        disk_sync(cut_disk, cut_of(f)->file);
        if (!cut_of(f)->synced)
            disk_sync_name(cut_disk, cut_of(f)->file);
        cut_of(f)->synced = true;
    }
    return rc;
}
static int cut_size(sqlite3_file *f, sqlite3_int64 *n) { return CUT_FORWARD(f, xFileSize, n); }
static int cut_lock(sqlite3_file *f, int l) { return CUT_FORWARD(f, xLock, l); }
static int cut_unlock(sqlite3_file *f, int l) { return CUT_FORWARD(f, xUnlock, l); }
static int cut_reserved(sqlite3_file *f, int *out) { return CUT_FORWARD(f, xCheckReservedLock, out); }
static int cut_control(sqlite3_file *f, int op, void *arg) { return CUT_FORWARD(f, xFileControl, op, arg); }
static int cut_sector(sqlite3_file *f) { return CUT_FORWARD(f, xSectorSize); }
static int cut_device(sqlite3_file *f) { return CUT_FORWARD(f, xDeviceCharacteristics); }
static int cut_shm_map(sqlite3_file *f, int a, int b, int c, void volatile **d) { return CUT_FORWARD(f, xShmMap, a, b, c, d); }
static int cut_shm_lock(sqlite3_file *f, int a, int b, int c) { return CUT_FORWARD(f, xShmLock, a, b, c); }
static void cut_shm_barrier(sqlite3_file *f) { CUT_FORWARD(f, xShmBarrier); }
static int cut_shm_unmap(sqlite3_file *f, int a) { return CUT_FORWARD(f, xShmUnmap, a); }
static const sqlite3_io_methods cut_methods = {
    .iVersion = 2, .xClose = cut_close, .xRead = cut_read, .xWrite = cut_write, .xTruncate = cut_truncate, .xSync = cut_sync,
    .xFileSize = cut_size, .xLock = cut_lock, .xUnlock = cut_unlock, .xCheckReservedLock = cut_reserved, .xFileControl = cut_control,
    .xSectorSize = cut_sector, .xDeviceCharacteristics = cut_device, .xShmMap = cut_shm_map, .xShmLock = cut_shm_lock,
    .xShmBarrier = cut_shm_barrier, .xShmUnmap = cut_shm_unmap};
static int cut_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out)
{
    struct cut_file *c = cut_of(file);
    (void)vfs;
    *c = (struct cut_file){.is_wal = flags & SQLITE_OPEN_WAL, .file = -1, .real = (sqlite3_file *)(void *)(c + 1)};
    int rc = cut_real->xOpen(cut_real, name, c->real, flags, out);
    if (rc == SQLITE_OK && cut_disk && name)
        c->file = disk_open(cut_disk, name);
    c->base.pMethods = c->real->pMethods ? &cut_methods : NULL;
    return rc;
}
static int cut_delete(sqlite3_vfs *vfs, const char *name, int sync_folder)
{
    (void)vfs;
    int rc = cut_real->xDelete(cut_real, name, sync_folder);
    if (rc == SQLITE_OK && cut_disk)
        disk_rename(cut_disk, name, NULL);
    return rc;
}
static inline void cut_install(void)
{
    static sqlite3_vfs vfs;
    cut_real = sqlite3_vfs_find(NULL);
    vfs = *cut_real;
    vfs.zName = "cut";
    vfs.szOsFile = (int)sizeof(struct cut_file) + cut_real->szOsFile;
    vfs.xOpen = cut_open;
    vfs.xDelete = cut_delete;
    sqlite3_vfs_register(&vfs, 1);
}

#endif
