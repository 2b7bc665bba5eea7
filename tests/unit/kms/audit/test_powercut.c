/* The power goes while the journal, the store and the relay between them are at work: of what was not synced any part is lost or torn
 * (tests/unit/kms/disk.h). Who was answered finds the event where its receipt says; the torn end is cut; the outbox follows, each once. */
#include "kms/store/store.h"
#include "tests/unit/kms/audit/fixture.h"
#include "tests/unit/kms/cuts.h"

#include <sys/syscall.h>

enum { CHANGERS = 3, USERS = 3, EACH_MAX = 100000, ROUND = 10 * CUT_VARIANTS, FDS = 4096, PADDING = 1200 };

/* ---- the journal's calls, seen by the disk: by its hooks, and those it has no hooks for in place of the C library's ---- */
static int file_of[FDS]; /* + 1; 0: none */

static int io_open(void *user, const char *path, int flags, mode_t mode)
{
    (void)user;
    int fd = open(path, flags, mode);
    assert_true(fd < FDS);
    if (fd >= 0)
        file_of[fd] = cut_disk && (flags & O_ACCMODE) != O_RDONLY ? disk_open(cut_disk, path) + 1 : 0;
    return fd;
}
static ssize_t io_pwrite(void *user, int fd, const void *p, size_t n, off_t at)
{
    (void)user;
    ssize_t w = pwrite(fd, p, n, at);
    if (w > 0 && cut_disk)
        disk_write(cut_disk, file_of[fd] - 1, p, (size_t)w, (uint64_t)at);
    return w;
}
static atomic_bool journal_lies; /* its syncs do nothing */
static int io_sync(void *user, int fd)
{
    (void)user;
    int rc = fdatasync(fd);
    if (rc == 0 && cut_disk && !atomic_load(&journal_lies))
        disk_sync(cut_disk, file_of[fd] - 1);
    return rc;
}
int rename(const char *from, const char *to)
{
    int rc = (int)syscall(SYS_rename, from, to);
    if (rc == 0 && cut_disk)
        disk_rename(cut_disk, from, to);
    return rc;
}
int fsync(int fd)
{
    char link[32], path[DISK_PATH] = {0};
    struct stat st;
    int rc = (int)syscall(SYS_fsync, fd);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (rc == 0 && cut_disk && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && readlink(link, path, sizeof path - 1) > 0)
        disk_sync_folder(cut_disk, path);
    return rc;
}
int fallocate(int fd, int mode, off_t at, off_t n)
{
    int rc = (int)syscall(SYS_fallocate, fd, mode, at, n);
    if (rc == 0 && cut_disk && fd < FDS)
        disk_resize(cut_disk, file_of[fd] - 1, (uint64_t)(at + n));
    return rc;
}

/* ---- a journal, a store, and the relay ---- */
struct node {
    struct jx jx;
    struct store_options so;
    char store_dir[96];
    struct store *s;
    struct relay *r;
};
static const struct audit_tenant *tenant(void *user, const uint8_t id[16])
{
    (void)id;
    return &((struct node *)user)->jx.tenant;
}
static void must(struct result r, const struct err *e, const char *what)
{
    char text[512];
    if (r.failed)
        fail_msg("%s: %s", what, err_log_text(e, text, sizeof text));
}
static void node_init(struct node *x, const char *root)
{
    jx_init(&x->jx);
    rmdir(x->jx.dir);
    snprintf(x->jx.dir, sizeof x->jx.dir, "%.50s/journal", root);
    snprintf(x->store_dir, sizeof x->store_dir, "%.50s/store", root);
    mkdir(root, 0700);
    mkdir(x->store_dir, 0700);
    x->jx.io = (struct journal_io){io_open, io_pwrite, io_sync, NULL};
    x->so = (struct store_options){.dir = x->store_dir, .clock = &clock_system, .instance = "instance-16bytes", .store_key = kms_store_key,
                                   .epoch = 1, .readers = 2};
}
static void node_up(struct node *x)
{
    struct relay_hooks h = {tenant, x};
    must(store_open(&x->so, &x->s, &x->jx.e), &x->jx.e, "store");
    must(journal_open(&x->jx.o, &x->jx.j, &x->jx.e), &x->jx.e, "journal");
    must(relay_start(x->jx.j, x->s, &h, &x->r, &x->jx.e), &x->jx.e, "relay");
}
static void node_down(struct node *x)
{
    relay_stop(x->r);
    jx_close(&x->jx);
    store_close(x->s);
}
static void node_release(struct node *x)
{
    arena_release(&x->jx.a);
    aead_key_free(x->jx.key);
}

/* ---- at work ---- */
struct cut {
    uint64_t changed[CHANGERS], used[USERS], told[CHANGERS]; /* answered; told: with a receipt */
    char dir[DISK_PATH];
};
struct world {
    struct cuts c; /* first */
    struct node x;
    _Atomic uint64_t changed[CHANGERS], used[USERS], told[CHANGERS];
    _Atomic uint64_t told_changed[CHANGERS][EACH_MAX], told_used[USERS][EACH_MAX]; /* the index in the receipt */
    struct cut cuts[ROUND];
};

static void note(struct cuts *cuts, size_t which, const char *dir)
{
    struct world *w = (struct world *)cuts;
    struct cut *c = &w->cuts[which];
    for (int i = 0; i < CHANGERS; i++) {
        c->changed[i] = atomic_load(&w->changed[i]);
        c->told[i] = atomic_load(&w->told[i]);
    }
    for (int i = 0; i < USERS; i++)
        c->used[i] = atomic_load(&w->used[i]);
    snprintf(c->dir, sizeof c->dir, "%s", dir);
}

static void encode(const char *resource, struct buf *out)
{
    static char padding[PADDING];
    memset(padding, 'p', sizeof padding);
    struct audit_event ev = {.time_unix_ns = 77, .resource = bytes_str(resource), .after = BYTES(padding, sizeof padding)};
    event_encode(&ev, out);
}
struct worker {
    struct world *w;
    int number;
};
static void *change(void *arg)
{
    struct worker *me = arg;
    struct world *w = me->w;
    for (uint64_t n = 1; !atomic_load(&w->c.stop) && n < EACH_MAX; n++) {
        char id[16], resource[32], text[24];
        struct err e = {0};
        uint64_t seq = 0;
        CLEANUP(buf_release) struct buf bytes;
        CLEANUP(store_txn_freep) struct store_txn *t = store_txn_new(w->x.s);
        static const uint8_t t0[16];
        buf_init(&bytes, EVENT_MAX_BYTES);
        snprintf(id, sizeof id, "m%d", me->number);
        snprintf(text, sizeof text, "%llu", (unsigned long long)n);
        snprintf(resource, sizeof resource, "m%d:%llu", me->number, (unsigned long long)n);
        encode(resource, &bytes);
        struct record r = {.kind = REC_META, .id = bytes_str(id), .body = bytes_str(text)};
        store_txn_put(t, &r, n - 1);
        store_txn_event(t, t0, buf_bytes(&bytes));
        DISK_MUST(!store_txn_commit(t, &seq, &e).failed);
        atomic_store(&w->changed[me->number], n); /* the commit is the point of no return, whatever the journal does */
        struct jx_entry wait;
        jx_entry_init(&wait);
        relay_when_durable(w->x.r, seq, &wait.en);
        jx_await(&wait);
        DISK_MUST(!wait.failed);
        atomic_store(&w->told_changed[me->number][n], wait.en.receipt.index);
        atomic_store(&w->told[me->number], n);
    }
    return NULL;
}
static void *use(void *arg)
{
    struct worker *me = arg;
    struct world *w = me->w;
    for (uint64_t n = 1; !atomic_load(&w->c.stop) && n < EACH_MAX; n++) {
        char resource[32];
        uint8_t id[16];
        struct err e = {0};
        struct jx_entry wait;
        CLEANUP(buf_release) struct buf bytes;
        buf_init(&bytes, EVENT_MAX_BYTES);
        snprintf(resource, sizeof resource, "u%d:%llu", me->number, (unsigned long long)n);
        encode(resource, &bytes);
        jx_entry_init(&wait);
        journal_next_event_id(w->x.jx.j, id);
        DISK_MUST(!journal_submit(w->x.jx.j, &wait.en, &w->x.jx.tenant, id, 77, buf_bytes(&bytes), &e).failed);
        jx_await(&wait);
        DISK_MUST(!wait.failed);
        atomic_store(&w->told_used[me->number][n], wait.en.receipt.index);
        atomic_store(&w->used[me->number], n);
    }
    return NULL;
}

/* ---- afterwards ---- */
static void read_resource(struct node *x, const struct journal_record *rec, char out[32])
{
    uint8_t plain[9000];
    struct audit_event ev;
    must(aead_open(x->jx.key, 0, BYTES(rec->leaf, JOURNAL_LEAF_BYTES), rec->sealed_body, plain, &x->jx.e), &x->jx.e, "body");
    must(event_decode(BYTES(plain + 32, rec->sealed_body.n - AEAD_OVERHEAD - 32), &ev, &x->jx.e), &x->jx.e, "event");
    snprintf(out, 32, "%.*s", (int)ev.resource.n, (const char *)ev.resource.p);
}
static uint64_t counter_of(struct node *x, int i)
{
    static const uint8_t t0[16];
    char id[16];
    struct record r;
    struct err e = {0};
    snprintf(id, sizeof id, "m%d", i);
    if (store_get(x->s, REC_META, t0, bytes_str(id), &x->jx.a, &r, &e).failed) {
        assert_int_equal(e.code, ERR_NOT_FOUND);
        return 0;
    }
    return r.revision;
}
static const struct aead_key *key_of(void *user, const uint8_t tag[32], struct err *e)
{
    (void)tag, (void)e;
    return ((struct node *)user)->jx.key;
}

/* Every record, in order: of each kind and thread 1, 2, 3 ..., each where its receipt says. */
static void read_all(const struct world *w, const struct cut *c, struct node *x, uint64_t changed[CHANGERS], uint64_t used[USERS])
{
    struct journal_record *rec;
    size_t n;
    must(journal_read(x->jx.j, 0, 1000000, &x->jx.a, &rec, &n, &x->jx.e), &x->jx.e, "read");
    for (size_t i = 0; i < n; i++) {
        char resource[32], kind;
        unsigned who;
        unsigned long long number;
        read_resource(x, &rec[i], resource);
        assert_int_equal(sscanf(resource, "%c%u:%llu", &kind, &who, &number), 3);
        assert_true(who < (kind == 'm' ? CHANGERS : USERS));
        uint64_t *last = kind == 'm' ? &changed[who] : &used[who];
        assert_int_equal(number, ++*last);
        if (number <= (kind == 'm' ? c->told[who] : c->used[who]))
            assert_int_equal(rec[i].index, kind == 'm' ? w->told_changed[who][number] : w->told_used[who][number]);
        assert_int_equal(rec[i].index, i);
    }
}

/* How much more survived than anybody had been told. */
static uint64_t examine(struct cuts *cuts, size_t which)
{
    struct world *w = (struct world *)cuts;
    struct cut *c = &w->cuts[which];
    static struct node x;
    uint64_t changed[CHANGERS] = {0}, used[USERS] = {0}, beyond = 0;
    memset(&x, 0, sizeof x);
    node_init(&x, c->dir);
    node_up(&x);
    uint64_t last = store_outbox_last(x.s);
    struct jx_entry wait;
    jx_entry_init(&wait);
    if (last > 0) { /* the relay brings what the journal has not */
        relay_when_durable(x.r, last, &wait.en);
        jx_await(&wait);
        assert_false(wait.failed);
    }
    read_all(w, c, &x, changed, used);
    for (int i = 0; i < CHANGERS; i++) {
        assert_int_equal(changed[i], counter_of(&x, i)); /* no effect without its event, no event without its effect */
        assert_true(changed[i] >= c->changed[i] && changed[i] <= c->changed[i] + 1);
        beyond += changed[i] - c->changed[i];
    }
    for (int i = 0; i < USERS; i++) {
        assert_true(used[i] >= c->used[i] && used[i] <= c->used[i] + 1);
        beyond += used[i] - c->used[i];
    }
    node_down(&x);
    struct journal_checking check = {.report = cuts_found, .key = key_of, .user = &x};
    must(journal_check(&x.jx.o, &check, &x.jx.e), &x.jx.e, "fsck");
    assert_int_equal(check.torn_bytes, 0); /* it was cut when it was opened */
    node_release(&x);
    disk_remove(c->dir);
    return beyond;
}

/* Any complaint will do, and else something is missing. */
static bool is_missing(struct world *w, struct cut *c)
{
    static struct node x;
    uint64_t changed[CHANGERS] = {0}, used[USERS] = {0};
    memset(&x, 0, sizeof x);
    node_init(&x, c->dir);
    struct journal_record *rec;
    size_t n;
    bool bad = journal_open(&x.jx.o, &x.jx.j, &x.jx.e).failed ||
               journal_read(x.jx.j, 0, 1000000, &x.jx.a, &rec, &n, &x.jx.e).failed; /* damage before the tail shows here */
    if (!bad)
        read_all(w, &(struct cut){0}, &x, changed, used);
    for (int i = 0; i < USERS; i++)
        bad = bad || used[i] < c->used[i];
    jx_close(&x.jx);
    node_release(&x);
    disk_remove(c->dir);
    return bad;
}

static void run_round(struct cuts *cuts, size_t wanted)
{
    struct world *w = (struct world *)cuts;
    pthread_t th[CHANGERS + USERS];
    struct worker worker[CHANGERS + USERS];
    char live[DISK_PATH];
    struct node *x = &w->x;
    for (int i = 0; i < CHANGERS; i++) {
        atomic_store(&w->changed[i], 0);
        atomic_store(&w->told[i], 0);
    }
    for (int i = 0; i < USERS; i++)
        atomic_store(&w->used[i], 0);
    snprintf(live, sizeof live, "%.40s/live", cuts->root);
    memset(x, 0, sizeof *x);
    node_init(x, live);
    must(store_create(&x->so, &x->jx.e), &x->jx.e, "create");
    cuts_begin(cuts, wanted, live, x->store_dir);
    node_up(x);
    pthread_mutex_lock(&cuts->d.mu);
    cuts_next(cuts);
    pthread_mutex_unlock(&cuts->d.mu);
    for (int i = 0; i < CHANGERS + USERS; i++) {
        worker[i] = (struct worker){w, i < CHANGERS ? i : i - CHANGERS};
        assert_int_equal(pthread_create(&th[i], NULL, i < CHANGERS ? change : use, &worker[i]), 0);
    }
    for (int i = 0; i < CHANGERS + USERS; i++)
        pthread_join(th[i], NULL);
    node_down(x);
    cuts_end(cuts);
    node_release(x);
    disk_remove(live);
}

static int setup(void **state)
{
    static struct world w;
    memset(&w, 0, sizeof w);
    w.c = (struct cuts){.near = 30, .far = 800, .round = ROUND, .note = note, .run = run_round, .examine = examine};
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
    cuts_test(*state, "events and changes");
}

/* The control: a journal whose syncs do nothing loses what was answered, and that shows. */
static void test_a_sync_that_lies(void **state)
{
    struct world *w = *state;
    unsigned lost = 0;
    atomic_store(&journal_lies, true);
    run_round(&w->c, 20);
    atomic_store(&journal_lies, false);
    for (size_t i = 0; i < w->c.n; i++)
        lost += is_missing(w, &w->cuts[i]);
    assert_true(lost > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_power_cuts, setup, teardown),
                                       cmocka_unit_test_setup_teardown(test_a_sync_that_lies, setup, teardown)};
    cut_install();
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
