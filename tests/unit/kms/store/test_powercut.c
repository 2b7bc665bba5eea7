/* The power goes while transactions commit, checkpoints run and the store is sealed under one epoch after the other: of what was not synced any part is lost or torn (tests/unit/kms/disk.h).
 * What was acknowledged is there, whole, with its events; the file is sound; the floor was never ahead; and nothing needs a seal secret
 * that was proven to be needed no more. */
#include "tests/unit/kms/cuts.h"
#include "tests/unit/kms/store/edit.h"

enum { THREADS = 4, RING = 16, ROUND = 25 * CUT_VARIANTS, FIRST_SEAL = 3, SEALS = 1 << 20, MOVE_EACH = 16 };

struct cut {
    uint64_t acked[THREADS];
    uint32_t sealed, proven; /* seal epochs */
    struct place floor;
    char dir[DISK_PATH];
};
struct world {
    struct cuts c; /* first */
    struct fx f;
    struct place place;
    _Atomic uint64_t acked[THREADS];
    _Atomic uint32_t sealed, proven;
    struct cut cuts[ROUND];
};

static void note(struct cuts *cuts, size_t i, const char *dir)
{
    struct world *w = (struct world *)cuts;
    struct cut *c = &w->cuts[i];
    for (int t = 0; t < THREADS; t++)
        c->acked[t] = atomic_load(&w->acked[t]);
    c->proven = atomic_load(&w->proven);
    c->sealed = atomic_load(&w->sealed);
    pthread_mutex_lock(&w->place.mu);
    memcpy(c->floor.value, w->place.value, sizeof c->floor.value);
    c->floor.n = w->place.n;
    pthread_mutex_unlock(&w->place.mu);
    snprintf(c->dir, sizeof c->dir, "%s", dir);
}

static void must(struct result r, const struct err *e)
{
    char why[512];
    if (!r.failed)
        return;
    fprintf(stderr, "move: %s\n", err_log_text(e, why, sizeof why));
    abort();
}
/* One change of the seal epoch, all rows moved, and the proof. */
static void move_once(struct world *w, uint32_t epoch)
{
    struct store *s = w->f.s;
    struct store_reseal at = {.limit = 16};
    struct store_seal_proof p;
    struct err e = {0};
    CLEANUP(store_txn_freep) struct store_txn *change = store_txn_new(s);
    must(store_txn_seal(change, epoch, &e), &e);
    store_txn_event(change, T0, bytes_str("seal"));
    must(store_txn_commit(change, NULL, &e), &e);
    atomic_store(&w->sealed, epoch);
    while (!at.end) {
        CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(s);
        must(store_reseal(s, &at, t, &e), &e);
        must(store_txn_commit(t, NULL, &e), &e);
    }
    must(store_outbox_trim(s, UINT64_MAX, &e), &e);
    must(store_seal_prove(s, NULL, NULL, &p, &e), &e);
    must((struct result){p.left > 0}, &(struct err){.detail = "something was left"});
    atomic_store(&w->proven, epoch);
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
    if (me == 0 && n % MOVE_EACH == 0)
        move_once(w, atomic_load(&w->sealed) + 1);
}
static void *work(void *arg)
{
    struct worker *me = arg;
    for (uint64_t n = 1; !atomic_load(&me->w->c.stop); n++)
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

static void sound(struct fx *f)
{
    struct store_check c = {.report = cuts_found};
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
    f->destroyed = c->proven - 1; /* none that is needed no more */
    arena_init(&f->a, 64 << 20);
}

/* How many commits beyond the acknowledged ones survived. */
static uint64_t examine(struct cuts *cuts, size_t which)
{
    struct world *w = (struct world *)cuts;
    struct cut *c = &w->cuts[which];
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
    const uint32_t seal = store_seal_epoch(f->s);
    assert_true(seal >= c->sealed && seal <= c->sealed + 1);
    beyond += seal - c->sealed;
    assert_int_equal(store_outbox_last(f->s), total + seal - FIRST_SEAL); /* each with its event */
    memcpy(q.tenant, TA, 16);
    assert_ok(store_scan(f->s, &q, &f->a, &rows, &n, &f->e));
    assert_int_equal(n, live); /* each whole: what it added and what it deleted */
    sound(f);
    arena_release(&f->a);
    disk_remove(c->dir);
    return beyond;
}

static void run_round(struct cuts *cuts, size_t wanted)
{
    struct world *w = (struct world *)cuts;
    struct fx *f = &w->f;
    pthread_t th[THREADS];
    struct worker worker[THREADS];
    cut_disk = NULL;
    fx_init(&w->f);
    rmdir(w->f.dir);
    snprintf(w->f.dir, sizeof w->f.dir, "%.50s/live", cuts->root);
    assert_int_equal(mkdir(w->f.dir, 0700), 0);
    w->place = (struct place){0};
    place_init(&w->place);
    w->f.o.anchor = &w->place.io;
    assert_ok(store_create(&f->o, &f->e));
    w->f.o.epoch = SEALS; /* on the token */
    fx_open(&w->f);
    move_once(w, FIRST_SEAL + 1); /* before the first cut: no image needs the first secret */
    fx_close(&w->f);
    cuts_begin(cuts, wanted, w->f.dir, w->f.dir);
    for (int i = 0; i < THREADS; i++)
        atomic_store(&w->acked[i], 0);
    cuts_next(cuts);
    fx_open(&w->f);
    for (int i = 0; i < THREADS; i++) {
        worker[i] = (struct worker){w, i};
        assert_int_equal(pthread_create(&th[i], NULL, work, &worker[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(th[i], NULL);
    fx_close(&w->f);
    cuts_end(cuts);
    arena_release(&w->f.a);
    disk_remove(w->f.dir);
}

static int setup(void **state)
{
    static struct world w;
    w = (struct world){.c = {.near = 40, .far = 1500, .round = ROUND, .note = note, .run = run_round, .examine = examine}};
    cuts_init(&w.c);
    *state = &w;
    return 0;
}
static int teardown(void **state)
{
    cuts_release(*state);
    return 0;
}

static void test_power_cuts(void **state)
{
    struct world *w = *state;
    cuts_test(&w->c, "commits");
    printf("the last round ended at seal epoch %u\n", atomic_load(&w->sealed));
}

/* The control: a log that is never synced loses what was acknowledged, and that shows. */
static void test_a_sync_that_lies(void **state)
{
    struct world *w = *state;
    unsigned lost = 0;
    cut_lies = true;
    run_round(&w->c, 20);
    cut_lies = false;
    for (size_t i = 0; i < w->c.n; i++) {
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
