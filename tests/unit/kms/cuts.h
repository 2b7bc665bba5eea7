/*
 * Purpose: power cuts while something works, in rounds: at random moments the disk's possible contents become folders, and a test
 *          looks at each of them. CLV_CUT_POINTS and CLV_CUT_SEED: how many cuts, and which.
 * Owns: its folder, removed by cuts_release. Threads: cuts_take runs on whoever wrote, under the disk's lock.
 * Errors: a failed set-up fails the test. Limits: one round at a time. Secrets: none.
 */
#ifndef TESTS_UNIT_KMS_CUTS_H
#define TESTS_UNIT_KMS_CUTS_H

#include "tests/unit/kms/store/cut_vfs.h"
#include "tests/unit/kms/testing.h"

enum { CUT_VARIANTS = 4 /* different images of one moment */, CUT_PATIENCE = 20 };

struct cuts {
    uint64_t near, far; /* the next cut is up to near calls away, one in four up to far */
    size_t round;       /* images, at the most */
    /* Who was answered was answered before this, so what the disk has must hold it: kept with image i. Under the disk's lock. */
    void (*note)(struct cuts *c, size_t i, const char *dir);
    void (*run)(struct cuts *c, size_t wanted);           /* makes that many images */
    uint64_t (*examine)(struct cuts *c, size_t i); /* how much more survived than anybody had been told */
    struct disk d;
    char root[DISK_PATH];
    uint64_t random;
    size_t n, wanted;
    atomic_bool stop;
};

static inline void cuts_init(struct cuts *c)
{
    c->random = disk_seed();
    disk_folder(c->root);
}
static inline void cuts_release(struct cuts *c) { disk_remove(c->root); }

static inline void cuts_next(struct cuts *c)
{
    uint64_t r = disk_random(&c->random);
    c->d.cut_at = c->n < c->wanted ? c->d.ops + 1 + (r % 4 ? r / 4 % c->near : r / 4 % c->far) : UINT64_MAX;
}
static inline void cuts_take(struct disk *d, void *user)
{
    struct cuts *c = user;
    for (unsigned v = 0; v < CUT_VARIANTS && c->n < c->wanted; v++) {
        char dir[DISK_PATH];
        snprintf(dir, sizeof dir, "%.40s/c%zu", c->root, c->n);
        c->note(c, c->n++, dir);
        disk_image(d, disk_random(&c->random), dir);
    }
    cuts_next(c);
    if (c->n == c->wanted)
        atomic_store(&c->stop, true);
}

/* A round, between these: the disk below live sees every call, beginning with a store that is whole. */
static inline void cuts_begin(struct cuts *c, size_t wanted, const char *live, const char *store_dir)
{
    char db[DISK_PATH];
    c->n = 0;
    c->wanted = wanted;
    atomic_store(&c->stop, false);
    disk_init(&c->d, live);
    c->d.cut = cuts_take;
    c->d.user = c;
    snprintf(db, sizeof db, "%.90s/store.db", store_dir);
    disk_adopt(&c->d, db);
    cut_disk = &c->d;
}
static inline void cuts_end(struct cuts *c)
{
    cut_disk = NULL;
    assert_int_equal(c->n, c->wanted);
    disk_release(&c->d);
}

static inline void cuts_test(struct cuts *c, const char *what)
{
    size_t points = disk_points(100), done = 0;
    uint64_t beyond = 0;
    /* Whether a moment falls into a commit is chance: on until one did. */
    for (size_t n; done < points || (beyond == 0 && done < CUT_PATIENCE * points); done += n) {
        n = done < points && points - done < c->round ? points - done : c->round;
        c->run(c, n);
        for (size_t i = 0; i < n; i++)
            beyond += c->examine(c, i);
    }
    printf("%zu power cuts; %llu %s that nobody had been told of survived\n", done, (unsigned long long)beyond, what);
    assert_true(beyond > 0); /* or the cuts came at idle moments only */
}

/* For the file check of what was found. */
static inline void cuts_found(void *user, const char *text)
{
    (void)user;
    fail_msg("fsck: %s", text);
}

#endif
