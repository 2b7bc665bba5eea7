/* A disk that fills, fails and dies under the store: a shim file system between SQLite and the real one. */
#include "tests/unit/kms/store/fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>

/* ---- the shim: forwards all, but fails writes and syncs of the write-ahead log on demand, and counts ---- */
static atomic_int write_fault, sync_fault; /* SQLite result code, 0: works */
static atomic_int write_fault_after_sync;  /* becomes write_fault when a sync has failed */
static atomic_uint faults;
static sqlite3_vfs *real_vfs;
struct shim_file {
    sqlite3_file base;
    bool is_wal;
    sqlite3_file *real; /* behind this struct */
};
static sqlite3_file *real_of(sqlite3_file *f)
{
    return ((struct shim_file *)(void *)f)->real;
}
#define FORWARD(f, call, ...) real_of(f)->pMethods->call(real_of(f) __VA_OPT__(, ) __VA_ARGS__)
static int s_close(sqlite3_file *f) { return FORWARD(f, xClose); }
static int s_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at) { return FORWARD(f, xRead, p, n, at); }
static int s_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
    int rc = ((struct shim_file *)(void *)f)->is_wal ? atomic_load(&write_fault) : 0;
    if (rc)
        atomic_fetch_add(&faults, 1);
    return rc ? rc : FORWARD(f, xWrite, p, n, at);
}
static int s_truncate(sqlite3_file *f, sqlite3_int64 n) { return FORWARD(f, xTruncate, n); }
static int s_sync(sqlite3_file *f, int flags)
{
    int rc = ((struct shim_file *)(void *)f)->is_wal ? atomic_load(&sync_fault) : 0;
    if (rc) {
        atomic_fetch_add(&faults, 1);
        atomic_store(&write_fault, atomic_load(&write_fault_after_sync));
    }
    return rc ? rc : FORWARD(f, xSync, flags);
}
static int s_size(sqlite3_file *f, sqlite3_int64 *n) { return FORWARD(f, xFileSize, n); }
static int s_lock(sqlite3_file *f, int l) { return FORWARD(f, xLock, l); }
static int s_unlock(sqlite3_file *f, int l) { return FORWARD(f, xUnlock, l); }
static int s_reserved(sqlite3_file *f, int *out) { return FORWARD(f, xCheckReservedLock, out); }
static int s_control(sqlite3_file *f, int op, void *arg) { return FORWARD(f, xFileControl, op, arg); }
static int s_sector(sqlite3_file *f) { return FORWARD(f, xSectorSize); }
static int s_device(sqlite3_file *f) { return FORWARD(f, xDeviceCharacteristics); }
static int s_shm_map(sqlite3_file *f, int a, int b, int c, void volatile **d) { return FORWARD(f, xShmMap, a, b, c, d); }
static int s_shm_lock(sqlite3_file *f, int a, int b, int c) { return FORWARD(f, xShmLock, a, b, c); }
static void s_shm_barrier(sqlite3_file *f) { FORWARD(f, xShmBarrier); }
static int s_shm_unmap(sqlite3_file *f, int a) { return FORWARD(f, xShmUnmap, a); }
static const sqlite3_io_methods shim_methods = {
    .iVersion = 2, .xClose = s_close, .xRead = s_read, .xWrite = s_write, .xTruncate = s_truncate, .xSync = s_sync,
    .xFileSize = s_size, .xLock = s_lock, .xUnlock = s_unlock, .xCheckReservedLock = s_reserved, .xFileControl = s_control,
    .xSectorSize = s_sector, .xDeviceCharacteristics = s_device, .xShmMap = s_shm_map, .xShmLock = s_shm_lock,
    .xShmBarrier = s_shm_barrier, .xShmUnmap = s_shm_unmap};
static atomic_uint open_fault; /* which opening of the database, from 1, is for reading only, as SQLite does where it cannot otherwise; 0: none */
static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out)
{
    struct shim_file *s = (struct shim_file *)(void *)file;
    if ((flags & SQLITE_OPEN_MAIN_DB) && atomic_load(&open_fault) && atomic_fetch_sub(&open_fault, 1) == 1) {
        atomic_fetch_add(&faults, 1);
        flags = (flags & ~(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE)) | SQLITE_OPEN_READONLY;
    }
    (void)vfs;
    *s = (struct shim_file){.is_wal = flags & SQLITE_OPEN_WAL, .real = (sqlite3_file *)(void *)(s + 1)};
    int rc = real_vfs->xOpen(real_vfs, name, s->real, flags, out);
    s->base.pMethods = s->real->pMethods ? &shim_methods : NULL;
    return rc;
}
static void shim_install(void)
{
    static sqlite3_vfs shim;
    real_vfs = sqlite3_vfs_find(NULL);
    shim = *real_vfs;
    shim.zName = "shim";
    shim.szOsFile = (int)sizeof(struct shim_file) + real_vfs->szOsFile;
    shim.xOpen = shim_open;
    sqlite3_vfs_register(&shim, 1);
}

static int setup(void **state)
{
    static struct fx f;
    fx_start(&f);
    atomic_store(&faults, 0);
    *state = &f;
    return 0;
}
static int teardown(void **state)
{
    atomic_store(&write_fault_after_sync, 0);
    atomic_store(&write_fault, 0);
    atomic_store(&sync_fault, 0);
    fx_stop(*state);
    return 0;
}

static void trouble(struct fx *f, atomic_int *fault, int rc, const char *reason)
{
    struct record r = fx_rec(REC_META, T0, "x", "before"), out;
    struct outbox_event *ev;
    size_t n;
    assert_ok(fx_put(f, &r, STORE_ABSENT, "e1"));
    atomic_store(fault, rc);
    r.body = bytes_str("never");
    assert_fails(fx_put(f, &r, 1, "e2"), ERR_UNAVAILABLE, reason);
    assert_fails(fx_put(f, &r, STORE_ANY, "e2"), ERR_UNAVAILABLE, reason);
    assert_true(atomic_load(&faults) >= 2);
    assert_ok(fx_get(f, REC_META, T0, "x", &out)); /* reading goes on */
    assert_bytes(out.body, "before");
    assert_int_equal(store_outbox_last(f->s), 1);
    atomic_store(fault, 0);
    r.body = bytes_str("after");
    assert_ok(fx_put(f, &r, 1, "e2")); /* the next one works, on the revision that stood, with the sequence that was not used */
    assert_ok(fx_get(f, REC_META, T0, "x", &out));
    assert_bytes(out.body, "after");
    fx_close(f);
    fx_open(f);
    assert_ok(fx_get(f, REC_META, T0, "x", &out));
    assert_bytes(out.body, "after");
    assert_int_equal(out.revision, 2);
    assert_ok(store_outbox_read(f->s, 0, 10, &f->a, &ev, &n, &f->e));
    assert_int_equal(n, 2);
}
static void test_disk_full(void **state) { trouble(*state, &write_fault, SQLITE_FULL, "STORE_FULL"); }
static void test_write_error(void **state) { trouble(*state, &write_fault, SQLITE_IOERR_WRITE, "STORE_IO"); }
static void test_sync_error(void **state) { trouble(*state, &sync_fault, SQLITE_IOERR_FSYNC, "STORE_IO"); }

/* The process dies right after a commit whose sync failed: the next start must not find what was refused. */
static void copy_folder(const char *from, const char *to)
{
    DIR *d = opendir(from);
    assert_non_null(d);
    for (struct dirent *de; (de = readdir(d));) {
        char a[400], b[400];
        static char all[8 << 20];
        if (de->d_name[0] == '.' || strstr(de->d_name, "-shm")) /* what is in memory dies with the process */
            continue;
        snprintf(a, sizeof a, "%s/%s", from, de->d_name);
        snprintf(b, sizeof b, "%s/%s", to, de->d_name);
        int in = open(a, O_RDONLY | O_CLOEXEC), out = open(b, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ssize_t n = read(in, all, sizeof all);
        assert_true(in >= 0 && out >= 0 && n >= 0 && n < (ssize_t)sizeof all && write(out, all, (size_t)n) == n);
        close(in);
        close(out);
    }
    closedir(d);
}
static void finding(void *user, const char *text)
{
    (void)user;
    fail_msg("fsck: %s", text);
}
static void die_after_failed_sync(struct fx *f, int then_writes_fail, const char *reason, const char *found)
{
    static struct fx after;
    struct record r = fx_rec(REC_META, T0, "x", "before"), out;
    assert_ok(fx_put(f, &r, STORE_ABSENT, "e1"));
    r.body = bytes_str("refused");
    atomic_store(&sync_fault, SQLITE_IOERR_FSYNC);
    atomic_store(&write_fault_after_sync, then_writes_fail);
    assert_fails(fx_put(f, &r, 1, "e2"), ERR_UNAVAILABLE, reason);
    assert_true(atomic_load(&faults) >= 2); /* the commit's, and that of what buries it */
    fx_init(&after);
    copy_folder(f->dir, after.dir);
    atomic_store(&write_fault_after_sync, 0);
    atomic_store(&write_fault, 0);
    atomic_store(&sync_fault, 0);
    fx_open(&after);
    assert_ok(fx_get(&after, REC_META, T0, "x", &out));
    assert_bytes(out.body, found);
    assert_int_equal(store_outbox_last(after.s), out.revision);
    fx_close(&after);
    fx_remove(&after);
    arena_release(&after.a);
    r.body = bytes_str("again"); /* and who lives goes on */
    assert_ok(fx_put(f, &r, 1, "e2"));
}
static void test_died_after_failed_sync(void **state) { die_after_failed_sync(*state, 0, "STORE_IO", "before"); }
/* Nothing can be written any more: then the caller is told that it is open, for it may be there. */
static void test_died_when_all_fails(void **state) { die_after_failed_sync(*state, SQLITE_IOERR_WRITE, "STORE_UNSURE", "refused"); }

/* A change of the seal epoch is written whole or not at all: root and identity, and what is sealed from then on. */
static void test_seal_change_not_written(void **state)
{
    struct fx *f = *state;
    struct record r = fx_rec(REC_META, T0, "x", "before"), out;
    static const struct {
        atomic_int *fault;
        int rc;
        const char *reason;
    } faults_of[] = {{&write_fault, SQLITE_FULL, "STORE_FULL"}, {&write_fault, SQLITE_IOERR_WRITE, "STORE_IO"}, {&sync_fault, SQLITE_IOERR_FSYNC, "STORE_IO"}};
    for (uint32_t i = 0; i < 3; i++) {
        assert_ok(fx_put(f, &r, STORE_ANY, NULL));
        unsigned before = atomic_load(&faults);
        atomic_store(faults_of[i].fault, faults_of[i].rc);
        assert_fails(fx_seal(f, 4 + i, "changed"), ERR_UNAVAILABLE, faults_of[i].reason);
        atomic_store(faults_of[i].fault, 0);
        assert_true(atomic_load(&faults) > before);
        assert_int_equal(store_seal_epoch(f->s), 3 + i);
        assert_ok(fx_put(f, &r, STORE_ANY, NULL)); /* under the old one */
        assert_int_equal(fx_older(f), 0);
        fx_close(f);
        fx_open(f);
        assert_int_equal(store_seal_epoch(f->s), 3 + i);
        assert_ok(fx_seal(f, 4 + i, "changed"));
        assert_int_equal(fx_older(f), 1);
        struct store_reseal at = {.limit = 10};
        CLEANUP(store_txn_freep) struct store_txn *page = store_txn_new(f->s);
        assert_ok(store_reseal(f->s, &at, page, &f->e));
        atomic_store(faults_of[i].fault, faults_of[i].rc);
        assert_fails(store_txn_commit(page, NULL, &f->e), ERR_UNAVAILABLE, faults_of[i].reason);
        atomic_store(faults_of[i].fault, 0);
        assert_ok(fx_get(f, REC_META, T0, "x", &out));
        assert_int_equal(fx_older(f), 1);
        assert_ok(store_txn_commit(page, NULL, &f->e)); /* the same once more: it is still what was there */
        assert_int_equal(fx_older(f), 0);
        assert_ok(store_outbox_trim(f->s, UINT64_MAX, &f->e));
        assert_int_equal(fx_prove(f).left, 0);
        f->destroyed = 3 + i;
    }
}

/* The process dies after a change of the seal epoch whose sync failed. */
static void die_after_seal_change(struct fx *f, int then_writes_fail, const char *reason, uint32_t found)
{
    static struct fx after;
    struct store_check c = {.report = finding};
    struct record r = fx_rec(REC_META, T0, "x", "before"), out;
    assert_ok(fx_put(f, &r, STORE_ABSENT, "e1"));
    atomic_store(&sync_fault, SQLITE_IOERR_FSYNC);
    atomic_store(&write_fault_after_sync, then_writes_fail);
    assert_fails(fx_seal(f, 4, "changed"), ERR_UNAVAILABLE, reason);
    assert_true(atomic_load(&faults) >= 2);
    assert_int_equal(store_seal_epoch(f->s), 3);
    fx_init(&after);
    after.o.epoch = 4;
    copy_folder(f->dir, after.dir);
    atomic_store(&write_fault_after_sync, 0);
    atomic_store(&write_fault, 0);
    atomic_store(&sync_fault, 0);
    fx_open(&after);
    assert_int_equal(store_seal_epoch(after.s), found);
    assert_int_equal(store_outbox_last(after.s), found - 2);
    assert_ok(fx_get(&after, REC_META, T0, "x", &out));
    assert_ok(fx_put(&after, &r, 1, "e"));
    fx_close(&after);
    after.o.check_only = true;
    fx_open(&after);
    assert_ok(store_fsck(after.s, &c, &f->e));
    assert_int_equal(c.seal_epoch, found);
    fx_close(&after);
    fx_remove(&after);
    arena_release(&after.a);
    assert_ok(fx_put(f, &r, 1, "e2")); /* and who lives goes on, under what it was */
    assert_int_equal(fx_older(f), 0);
    assert_ok(fx_seal(f, 4, "changed"));
}
static void test_died_after_seal_change(void **state) { die_after_seal_change(*state, 0, "STORE_IO", 3); }
static void test_died_in_doubt_of_the_seal(void **state) { die_after_seal_change(*state, SQLITE_IOERR_WRITE, "STORE_UNSURE", 4); }

/* Any of its connections that may only read is a start that fails, to be tried again; not a store that takes no change for ever. */
static void test_opened_for_reading_only(void **state)
{
    struct fx *f = *state;
    struct record r = fx_rec(REC_META, T0, "x", "before");
    unsigned hit = 0;
    fx_close(f);
    for (unsigned n = 1; n <= 16; n++) {
        unsigned before = atomic_load(&faults);
        atomic_store(&open_fault, n);
        struct result opened = store_open(&f->o, &f->s, &f->e);
        atomic_store(&open_fault, 0);
        assert_int_equal(opened.failed, atomic_load(&faults) > before);
        hit += opened.failed ? 1 : 0;
        if (opened.failed) {
            assert_int_equal(f->e.code, ERR_UNAVAILABLE);
            assert_string_equal(f->e.reason, "STORE_IO");
        }
        fx_close(f);
    }
    assert_true(hit >= 3); /* reader, writer, checkpointer */
    fx_open(f);
    assert_ok(fx_put(f, &r, STORE_ABSENT, "e1"));
}

/* A full disk while many wait: all of one group fail together, and none of them left a row. */
static void *put_one(void *arg)
{
    struct fx *f = ((void **)arg)[0];
    struct err e = {0};
    struct record r = fx_rec(REC_META, TA, ((void **)arg)[1], "x");
    struct store_txn *t = store_txn_new(f->s);
    store_txn_put(t, &r, STORE_ABSENT);
    bool failed = store_txn_commit(t, NULL, &e).failed;
    store_txn_free(t);
    return failed ? (void *)(uintptr_t)(1 + (strcmp(e.reason, "STORE_FULL") == 0)) : NULL;
}
static void test_full_for_a_group(void **state)
{
    struct fx *f = *state;
    static char names[8][4] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    pthread_t th[8];
    void *args[8][2], *how;
    struct store_scan q = {.kind = REC_META, .limit = 100};
    struct record *rows;
    size_t n;
    memcpy(q.tenant, TA, 16);
    for (int full = 1; full >= 0; full--) {
        atomic_store(&write_fault, full ? SQLITE_FULL : 0);
        for (int i = 0; i < 8; i++) {
            args[i][0] = f;
            args[i][1] = names[i];
            assert_int_equal(pthread_create(&th[i], NULL, put_one, args[i]), 0);
        }
        for (int i = 0; i < 8; i++) {
            pthread_join(th[i], &how);
            assert_int_equal((uintptr_t)how, full ? 2 : 0);
        }
        assert_ok(store_scan(f->s, &q, &f->a, &rows, &n, &f->e));
        assert_int_equal(n, full ? 0 : 8);
    }
}

/* A child commits and says so on a pipe; it is killed at a random moment. What it said is there, with its events, and no more
 * than one transaction beyond it. */
static void child_writes(struct fx *f, int out)
{
    struct err e = {0};
    if (store_open(&f->o, &f->s, &e).failed)
        _exit(9);
    for (uint64_t i = 1;; i++) {
        struct record r = fx_rec(REC_META, T0, "counter", "x");
        struct store_txn *t = store_txn_new(f->s);
        store_txn_put(t, &r, STORE_ANY);
        store_txn_event(t, T0, bytes_str("event"));
        if (store_txn_commit(t, NULL, &e).failed)
            _exit(8);
        store_txn_free(t);
        if (write(out, &(char){1}, 1) != 1)
            _exit(7);
    }
}
static void test_killed_while_committing(void **state)
{
    struct fx *f = *state;
    uint64_t told = 0;
    fx_close(f);
    for (int round = 0; round < 15; round++) {
        int p[2], status;
        char said[4096];
        assert_int_equal(pipe2(p, O_CLOEXEC), 0);
        pid_t pid = fork();
        if (pid == 0) {
            close(p[0]);
            child_writes(f, p[1]);
        }
        close(p[1]);
        for (int i = 0; i < 3 + round * 2; i++) { /* some way in, then at once */
            ssize_t got = read(p[0], said, 1);
            assert_int_equal(got, 1);
            told++;
        }
        kill(pid, SIGKILL);
        for (ssize_t got; (got = read(p[0], said, sizeof said)) > 0;)
            told += (uint64_t)got;
        close(p[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        fx_open(f);
        struct record out;
        struct outbox_event *ev;
        size_t n;
        assert_ok(fx_get(f, REC_META, T0, "counter", &out));
        assert_true(out.revision >= told && out.revision <= told + 1);
        assert_int_equal(store_outbox_last(f->s), out.revision); /* never one without the other */
        assert_ok(store_outbox_read(f->s, 0, 100000, &f->a, &ev, &n, &f->e));
        assert_int_equal(n, out.revision);
        told = out.revision;
        fx_close(f);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_disk_full),        T(test_write_error), T(test_sync_error),
                                       T(test_died_after_failed_sync), T(test_died_when_all_fails), T(test_opened_for_reading_only),
                                       T(test_seal_change_not_written), T(test_died_after_seal_change), T(test_died_in_doubt_of_the_seal),
                                       T(test_full_for_a_group), T(test_killed_while_committing)};
    shim_install();
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
