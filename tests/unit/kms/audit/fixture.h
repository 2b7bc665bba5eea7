/*
 * Purpose: a journal in a fresh folder for each test, a disk that fails on demand, and entries that can be waited for.
 * Owns: the folder, removed by jx_stop. Threads: done runs on the audit thread; a waiting entry has its own lock.
 * Errors: a failed set-up fails the test. Limits: one fixture at a time. Secrets: one fixed test key.
 */
#ifndef TESTS_UNIT_KMS_AUDIT_FIXTURE_H
#define TESTS_UNIT_KMS_AUDIT_FIXTURE_H

#include "kms/audit/event.h"
#include "kms/audit/journal.h"
#include "kms/audit/segment.h"
#include "kms/crypto/kdf.h"
#include "tests/unit/kms/testing.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct jx {
    char dir[64];
    struct journal_options o;
    struct journal_io io;
    struct journal *j;
    struct aead_key *key;
    struct audit_tenant tenant;
    struct arena a;
    struct err e;
    /* the disk: errno to fail with, 0: works; counted, so that a test can assert that its fault happened */
    atomic_int open_fault, write_fault, sync_fault, short_writes;
    atomic_uint faults, syncs;
    atomic_bool hold_sync;   /* fdatasync waits while set */
    atomic_bool hold_create; /* so does making a file */
};
enum { JX_SEGMENT = 1 << 18, JX_RESERVE = 1 << 16 };

static int jx_fault(struct jx *f, atomic_int *which)
{
    int err = atomic_load(which);
    if (err) {
        atomic_fetch_add(&f->faults, 1);
        errno = err;
    }
    return err;
}
static int jx_io_open(void *user, const char *path, int flags, mode_t mode)
{
    struct jx *f = user;
    while ((flags & O_CREAT) && atomic_load(&f->hold_create))
        sched_yield();
    return jx_fault(f, &f->open_fault) ? -1 : open(path, flags, mode);
}
static ssize_t jx_io_pwrite(void *user, int fd, const void *p, size_t n, off_t at)
{
    struct jx *f = user;
    if (jx_fault(f, &f->write_fault))
        return -1;
    if (atomic_load(&f->short_writes) && n > 1) {
        atomic_fetch_add(&f->faults, 1);
        n = n / 2;
    }
    return pwrite(fd, p, n, at);
}
static int jx_io_sync(void *user, int fd)
{
    struct jx *f = user;
    while (atomic_load(&f->hold_sync))
        sched_yield();
    atomic_fetch_add(&f->syncs, 1);
    return jx_fault(f, &f->sync_fault) ? -1 : fdatasync(fd);
}

static inline void jx_init(struct jx *f)
{
    CLEANUP(secret_freep) struct secret *parent = NULL;
    struct bytes field = {0};
    uint8_t k[32];
    memset(f, 0, sizeof *f);
    memcpy(f->dir, "/tmp/clv-audit-XXXXXX", 22);
    assert_non_null(mkdtemp(f->dir));
    memset(k, 7, sizeof k);
    assert_false(secret_from(k, sizeof k, &parent, &f->e).failed);
    assert_false(aead_key_derive(parent, KDF_AUDIT, &field, 1, 0, &f->key, &f->e).failed);
    f->tenant = (struct audit_tenant){.id = "tenant-16-bytes", .tag = "tag", .key = f->key};
    f->io = (struct journal_io){jx_io_open, jx_io_pwrite, jx_io_sync, f};
    f->o = (struct journal_options){.dir = f->dir, .origin = "test/node1", .segment_bytes = JX_SEGMENT, .reserve_bytes = JX_RESERVE,
                                    .clock = &clock_system, .instance = "instance-16bytes", .io = &f->io};
    arena_init(&f->a, 256 << 20);
}
static inline void jx_open(struct jx *f)
{
    if (journal_open(&f->o, &f->j, &f->e).failed) {
        char text[512];
        fail_msg("open: %s", err_log_text(&f->e, text, sizeof text));
    }
}
static inline void jx_close(struct jx *f)
{
    journal_close(f->j);
    f->j = NULL;
}
static inline void jx_stop(struct jx *f)
{
    jx_close(f);
    kms_empty(f->dir);
    rmdir(f->dir);
    arena_release(&f->a);
    aead_key_free(f->key);
}
/* Of each test, where it wants nothing more. */
static inline int jx_setup(void **state)
{
    static struct jx f;
    jx_init(&f);
    jx_open(&f);
    *state = &f;
    return 0;
}
static inline int jx_teardown(void **state)
{
    jx_stop(*state);
    return 0;
}

struct jx_entry {
    struct journal_entry en;
    pthread_mutex_t mu;
    pthread_cond_t cond;
    bool is_done, failed;
    struct err err;
};
static inline void jx_done(struct journal_entry *en, const struct err *failed)
{
    struct jx_entry *x = (struct jx_entry *)en;
    pthread_mutex_lock(&x->mu);
    x->is_done = true;
    x->failed = failed != NULL;
    if (failed)
        x->err = *failed;
    pthread_cond_signal(&x->cond);
    pthread_mutex_unlock(&x->mu);
}
static inline void jx_entry_init(struct jx_entry *x)
{
    memset(x, 0, sizeof *x);
    pthread_mutex_init(&x->mu, NULL);
    pthread_cond_init(&x->cond, NULL);
    x->en.done = jx_done;
}
static inline void jx_await(struct jx_entry *x)
{
    pthread_mutex_lock(&x->mu);
    while (!x->is_done)
        pthread_cond_wait(&x->cond, &x->mu);
    pthread_mutex_unlock(&x->mu);
}
static inline struct result jx_submit(struct jx *f, struct jx_entry *x, const char *event)
{
    uint8_t id[16];
    journal_next_event_id(f->j, id);
    return journal_submit(f->j, &x->en, &f->tenant, id, 42, bytes_str(event), &f->e);
}
/* Submits, waits; the submit's or done's failure. */
static inline struct result jx_write(struct jx *f, const char *event, bool reserve, uint64_t *ret_index)
{
    struct jx_entry x;
    jx_entry_init(&x);
    x.en.reserve = reserve;
    TRY(jx_submit(f, &x, event));
    jx_await(&x);
    if (x.failed)
        f->e = x.err;
    else if (ret_index)
        *ret_index = x.en.receipt.index;
    return (struct result){x.failed};
}
static inline uint64_t jx_next(struct jx *f)
{
    struct journal_status st;
    journal_status(f->j, &st);
    return st.next_index;
}
/* Records from..from+n hold "<prefix><index>". */
static inline void jx_expect(struct jx *f, uint64_t from, size_t n, const char *prefix)
{
    struct journal_record *rec;
    size_t got = 0;
    struct err e = {0};
    if (journal_read(f->j, from, n, &f->a, &rec, &got, &e).failed) {
        char text[512];
        fail_msg("read: %s", err_log_text(&e, text, sizeof text));
    }
    assert_int_equal(got, n);
    for (size_t i = 0; i < got; i++) {
        uint8_t plain[9000], sum[32];
        char want[64];
        size_t plain_n = rec[i].sealed_body.n - AEAD_OVERHEAD;
        assert_int_equal(rec[i].index, from + i);
        assert_false(aead_open(f->key, 0, BYTES(rec[i].leaf, JOURNAL_LEAF_BYTES), rec[i].sealed_body, plain, &e).failed);
        snprintf(want, sizeof want, "%s%llu", prefix, (unsigned long long)rec[i].index);
        assert_true(bytes_equal(BYTES(plain + 32, plain_n - 32), bytes_str(want)));
        struct bytes body = BYTES(plain, plain_n);
        sha256(&body, 1, sum);
        assert_memory_equal(sum, rec[i].leaf + 57, 32);
    }
}
static inline void jx_fill(struct jx *f, size_t n, const char *prefix)
{
    uint64_t next = jx_next(f);
    for (size_t i = 0; i < n; i++) {
        char text[64];
        uint64_t index = 0;
        snprintf(text, sizeof text, "%s%llu", prefix, (unsigned long long)(next + i));
        assert_false(jx_write(f, text, false, &index).failed);
        assert_int_equal(index, next + i);
    }
}
static inline void jx_segment(const struct jx *f, uint64_t first, char out[128])
{
    snprintf(out, 128, "%s/journal-%020llu.log", f->dir, (unsigned long long)first);
}

#endif
