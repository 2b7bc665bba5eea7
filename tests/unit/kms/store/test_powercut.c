/* The power goes while transactions commit and checkpoints run: of what was not synced any part is lost or torn (tests/unit/kms/disk.h).
 * What was acknowledged is there, whole, with its events; the file is sound; the floor was never ahead. CLV_CUT_POINTS and CLV_CUT_SEED:
 * how many cuts, and which. */
#include "tests/unit/kms/store/edit.h"
#include "tests/unit/kms/store/cut_vfs.h"

enum { THREADS = 4, RING = 16, ROUND_CUTS = 25, VARIANTS = 4 };

struct cut {
    uint64_t acked[THREADS];
    struct place floor;
    char dir[DISK_PATH];
};
struct world {
    struct fx f;
    struct disk d;
    struct place place;
    char root[DISK_PATH];
    _Atomic uint64_t acked[THREADS];
    uint64_t random;
    struct cut *cuts;
    size_t ncuts, wanted;
    atomic_bool stop;
};

static void next_cut(struct world *w)
{
    uint64_t r = disk_random(&w->random);
    w->d.cut_at = w->ncuts < w->wanted ? w->d.ops + 1 + (r % 4 ? r / 4 % 40 : r / 4 % 1500) : UINT64_MAX;
}

/* Under the disk's lock. Who was answered was answered before this, so what the disk has must hold it. */
static void power_cut(struct disk *d, void *user)
{
    struct world *w = user;
    for (unsigned v = 0; v < VARIANTS && w->ncuts < w->wanted; v++) {
        struct cut *c = &w->cuts[w->ncuts];
        for (int i = 0; i < THREADS; i++)
            c->acked[i] = atomic_load(&w->acked[i]);
        pthread_mutex_lock(&w->place.mu);
        memcpy(c->floor.value, w->place.value, sizeof c->floor.value);
        c->floor.n = w->place.n;
        pthread_mutex_unlock(&w->place.mu);
        snprintf(c->dir, sizeof c->dir, "%.50s/c%zu", w->root, w->ncuts++);
        disk_image(d, disk_random(&w->random), c->dir);
    }
    next_cut(w);
    if (w->ncuts == w->wanted)
        atomic_store(&w->stop, true);
}

struct worker {
    struct world *w;
    int number;
};
static void commit_one(struct world *w, int me, uint64_t n)
{
    char counter[8], row[16], old[16], text[24];
    struct err e = {0};
    snprintf(counter, sizeof counter, "t%d", me);
    snprintf(row, sizeof row, "t%d-%llu", me, (unsigned long long)n);
    snprintf(old, sizeof old, "t%d-%llu", me, (unsigned long long)(n - RING));
    snprintf(text, sizeof text, "%llu", (unsigned long long)n);
    struct record count = fx_rec(REC_META, T0, counter, text), fresh = fx_rec(REC_PRINCIPAL, TA, row, text);
    CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(w->f.s);
    store_txn_put(t, &count, n - 1);
    store_txn_put(t, &fresh, STORE_ABSENT);
    if (n > RING)
        store_txn_delete(t, REC_PRINCIPAL, TA, bytes_str(old), 1);
    store_txn_event(t, T0, bytes_str(row));
    if (n % 32 == 0)
        store_txn_urgent(t);
    if (store_txn_commit(t, NULL, &e).failed) {
        char why[512];
        fprintf(stderr, "commit: %s\n", err_log_text(&e, why, sizeof why));
        abort();
    }
    atomic_store(&w->acked[me], n);
    if (me == 0 && n % 16 == 0 && store_outbox_trim(w->f.s, store_outbox_last(w->f.s) - 5, &e).failed)
        abort();
}
static void *work(void *arg)
{
    struct worker *me = arg;
    for (uint64_t n = 1; !atomic_load(&me->w->stop); n++)
        commit_one(me->w, me->number, n);
    return NULL;
}

static uint64_t counter_of(struct fx *f, int i)
{
    char id[8];
    struct record out;
    struct err e = {0};
    snprintf(id, sizeof id, "t%d", i);
    if (store_get(f->s, REC_META, T0, bytes_str(id), &f->a, &out, &e).failed) {
        assert_int_equal(e.code, ERR_NOT_FOUND);
        return 0;
    }
    char text[24] = {0};
    memcpy(text, out.body.p, out.body.n);
    assert_int_equal(strtoull(text, NULL, 10), out.revision);
    return out.revision;
}

static void found(void *user, const char *text)
{
    (void)user;
    fail_msg("fsck: %s", text);
}

static void sound(struct fx *f)
{
    struct store_check c = {.report = found};
    fx_close(f);
    f->o.check_only = true;
    fx_open(f);
    assert_ok(store_fsck(f->s, &c, &f->e));
    fx_close(f);
    sqlite3 *h;
    sqlite3_stmt *st;
    char path[DISK_PATH * 2];
    snprintf(path, sizeof path, "%s/store.db", f->dir);
    assert_int_equal(sqlite3_open(path, &h), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(h, "PRAGMA integrity_check", -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(st, 0), "ok");
    sqlite3_finalize(st);
    sqlite3_close(h);
}

static void prepare(const struct world *w, struct cut *c, struct fx *f)
{
    struct place floor = c->floor;
    *f = (struct fx){.o = w->f.o};
    snprintf(f->dir, sizeof f->dir, "%.60s", c->dir);
    f->o.dir = f->dir;
    f->o.user = f;
    place_init(&c->floor);
    memcpy(c->floor.value, floor.value, sizeof floor.value);
    c->floor.n = floor.n;
    f->o.anchor = &c->floor.io;
    arena_init(&f->a, 64 << 20);
}

/* How many commits beyond the acknowledged ones survived. */
static uint64_t examine(const struct world *w, struct cut *c)
{
    static struct fx one;
    struct fx *f = &one;
    struct store_scan q = {.kind = REC_PRINCIPAL, .limit = 1000};
    struct record *rows;
    size_t n;
    uint64_t total = 0, beyond = 0, live = 0;
    prepare(w, c, f);
    fx_open(f);
    for (int i = 0; i < THREADS; i++) {
        uint64_t now = counter_of(f, i);
        assert_true(now >= c->acked[i] && now <= c->acked[i] + 1); /* one at a time: no more than one is under way */
        total += now;
        beyond += now - c->acked[i];
        live += now < RING ? now : RING;
    }
    assert_int_equal(store_outbox_last(f->s), total); /* each with its event */
    memcpy(q.tenant, TA, 16);
    assert_ok(store_scan(f->s, &q, &f->a, &rows, &n, &f->e));
    assert_int_equal(n, live); /* each whole: what it added and what it deleted */
    sound(f);
    arena_release(&f->a);
    disk_remove(c->dir);
    return beyond;
}

/* Makes that many images, in w->cuts. */
static void run_round(struct world *w, size_t wanted)
{
    struct fx *f = &w->f;
    pthread_t th[THREADS];
    struct worker worker[THREADS];
    char db[DISK_PATH];
    w->ncuts = 0;
    w->wanted = wanted;
    atomic_store(&w->stop, false);
    cut_disk = NULL;
    fx_init(&w->f);
    rmdir(w->f.dir);
    snprintf(w->f.dir, sizeof w->f.dir, "%.50s/live", w->root);
    assert_int_equal(mkdir(w->f.dir, 0700), 0);
    w->place = (struct place){0};
    place_init(&w->place);
    w->f.o.anchor = &w->place.io;
    assert_ok(store_create(&f->o, &f->e));
    disk_init(&w->d, w->f.dir);
    w->d.cut = power_cut;
    w->d.user = w;
    snprintf(db, sizeof db, "%.60s/store.db", w->f.dir);
    disk_adopt(&w->d, db);
    cut_disk = &w->d;
    for (int i = 0; i < THREADS; i++)
        atomic_store(&w->acked[i], 0);
    next_cut(w);
    fx_open(&w->f);
    for (int i = 0; i < THREADS; i++) {
        worker[i] = (struct worker){w, i};
        assert_int_equal(pthread_create(&th[i], NULL, work, &worker[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(th[i], NULL);
    fx_close(&w->f);
    cut_disk = NULL;
    assert_int_equal(w->ncuts, wanted);
    disk_release(&w->d);
    arena_release(&w->f.a);
    disk_remove(w->f.dir);
}

static int setup(void **state)
{
    static struct world w;
    w = (struct world){.random = disk_seed()};
    disk_folder(w.root);
    w.cuts = calloc((size_t)ROUND_CUTS * VARIANTS, sizeof *w.cuts);
    assert_non_null(w.cuts);
    *state = &w;
    return 0;
}
static int teardown(void **state)
{
    struct world *w = *state;
    free(w->cuts);
    disk_remove(w->root);
    return 0;
}

static void test_power_cuts(void **state)
{
    struct world *w = *state;
    size_t points = disk_points(100), done = 0, per_round = (size_t)ROUND_CUTS * VARIANTS;
    uint64_t beyond = 0;
    for (size_t n; done < points; done += n) {
        n = points - done < per_round ? points - done : per_round;
        run_round(w, n);
        for (size_t i = 0; i < n; i++)
            beyond += examine(w, &w->cuts[i]);
    }
    printf("%zu power cuts; %llu commits that nobody had been told of survived\n", done, (unsigned long long)beyond);
    assert_true(beyond > 0); /* or the cuts came at idle moments only */
}

/* The control: a log that is never synced loses what was acknowledged, and that shows. */
static void test_a_sync_that_lies(void **state)
{
    struct world *w = *state;
    unsigned lost = 0;
    cut_lies = true;
    run_round(w, 20);
    cut_lies = false;
    for (size_t i = 0; i < w->ncuts; i++) {
        static struct fx f;
        prepare(w, &w->cuts[i], &f);
        bool missing = store_open(&f.o, &f.s, &f.e).failed;
        for (int t = 0; !missing && t < THREADS; t++)
            missing = counter_of(&f, t) < w->cuts[i].acked[t];
        lost += missing;
        fx_close(&f);
        arena_release(&f.a);
        disk_remove(w->cuts[i].dir);
    }
    assert_true(lost > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_power_cuts, setup, teardown),
                                       cmocka_unit_test_setup_teardown(test_a_sync_that_lies, setup, teardown)};
    cut_install();
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
