/* The proof that nothing depends on an older seal epoch: what it finds, and that the keys are gone after it. */
#include "kms/crypto/kdf.h"
#include "tests/unit/kms/store/sealed.h"

#include <fcntl.h>

static bool stop_at_once(void *user)
{
    (*(unsigned *)user)++;
    return true;
}
static void test_stopped(void **state)
{
    struct fx *f = *state;
    struct store_seal_proof p = {.left = 99};
    unsigned asked = 0;
    put_rows(f, 5);
    assert_ok(fx_seal(f, 4, NULL));
    (void)fx_reseal_all(f, 10);
    assert_fails(store_seal_prove(f->s, stop_at_once, &asked, &p, &f->e), ERR_CANCELLED, NULL);
    assert_true(asked == 1 && p.left == 99 && seal_holds(&f->s->seal, 3));
}

/* Rows that no program of ours writes: no cursor can stand on them. The pages come to their end all the same, and the proof counts them. */
static void test_foreign_keys(void **state)
{
    struct fx *f = *state;
    put_rows(f, 10);
    assert_ok(fx_seal(f, 4, "changed"));
    for (int i = 0; i < 3; i++)
        edit(f, "INSERT INTO record SELECT kind, x'0102', id, revision, name, state, time, count, epoch, body FROM record WHERE kind = 1 AND"
                " length(tenant) = 16 AND id NOT IN (SELECT id FROM record WHERE length(tenant) = 2) LIMIT 1");
    edit(f, "INSERT INTO record SELECT 70000 + rowid, tenant, id, revision, name, state, time, count, epoch, body FROM (SELECT row_number() OVER"
            " () AS rowid, * FROM record WHERE kind = 2); INSERT INTO record SELECT 0, tenant, x'', revision, name, state, time, count, epoch,"
            " body FROM record LIMIT 1; INSERT INTO record SELECT -1, tenant, id, revision, name, state, time, count, epoch, body FROM record LIMIT 1");
    const uint64_t foreign = fx_older(f) - 10;
    assert_true(foreign >= 6);
    assert_int_equal(fx_reseal_all(f, 1), 10);
    assert_int_equal(fx_older(f), foreign);
    struct store_reseal at = {.limit = 100};
    assert_false(fx_reseal(f, &at));
    assert_true(at.rows == 0 && at.broken == foreign);
    struct store_seal_proof p = fx_prove(f);
    assert_true(p.rows == 10 && p.left == foreign);
}

/* A row that does not open stays, and is named; until it goes the older secret is needed. */
static void test_broken_row(void **state)
{
    struct fx *f = *state;
    put_rows(f, 8);
    edit(f, "UPDATE record SET state = state + 1 WHERE id = CAST('row-3' AS BLOB)");
    assert_ok(fx_seal(f, 4, "changed"));
    struct store_reseal at = {.limit = 100};
    assert_false(fx_reseal(f, &at));
    assert_true(at.rows == 7 && at.broken == 1);
    assert_int_equal(proof_names(f, 1, "instance fact \"row-3\" is of seal epoch 3"), 7);
    assert_true(seal_holds(&f->s->seal, 3));
    edit(f, "UPDATE record SET state = state - 1 WHERE id = CAST('row-3' AS BLOB)");
    finish(f);
    assert_false(seal_holds(&f->s->seal, 3));
    edit(f, "UPDATE record SET state = state + 1 WHERE id = CAST('row-3' AS BLOB)"); /* of the current epoch now: it counts as well */
    assert_int_equal(proof_names(f, 1, "instance fact \"row-3\": record: does not open under its columns"), 7);
}

static void break_place(bool broken)
{
    pthread_mutex_lock(&place.mu);
    place.broken = broken;
    pthread_mutex_unlock(&place.mu);
}

static void test_outbox_and_itself(void **state)
{
    struct fx *f = *state;
    struct outbox_event *ev;
    size_t n;
    struct record r = fx_rec(REC_META, T0, "x", "x");
    for (uint64_t i = 0; i < 4; i++)
        assert_ok(fx_put(f, &r, i, "event"));
    assert_ok(fx_seal(f, 4, NULL)); /* without an event of its own: the newest one stays behind */
    (void)fx_reseal_all(f, 10);
    (void)proof_names(f, 4, "event 1 is of seal epoch 3");
    assert_ok(store_outbox_trim(f->s, 4, &f->e));
    assert_int_equal(fx_prove(f).left, 1);
    assert_ok(store_outbox_read(f->s, 0, 10, &f->a, &ev, &n, &f->e));
    assert_int_equal(n, 1);
    assert_ok(fx_put(f, &r, 4, "event"));
    assert_ok(store_outbox_trim(f->s, 4, &f->e));
    assert_int_equal(fx_prove(f).left, 0);
    fx_close(f);
    copy_db(f, "store.db", "new.db");
    fx_open(f);
    edit(f, "UPDATE identity SET epoch = 3");
    (void)proof_names(f, 1, "the store's identity is of seal epoch 3");
    edit(f, "UPDATE identity SET epoch = 4, seal = x'00'");
    assert_int_equal(fx_prove(f).left, 1);
    edit(f, "DELETE FROM identity");
    (void)proof_names(f, 1, "root or identity are gone");
    fx_close(f);
    copy_db(f, "new.db", "store.db");
    fx_open(f);
    edit(f, "INSERT INTO root SELECT 0, 3, body, x'' FROM root LIMIT 1");
    (void)proof_names(f, 1, "a root record is of seal epoch 3");
    edit(f, "DELETE FROM root WHERE epoch = 0");
    /* The floor: it cannot be written just now. */
    break_place(true);
    assert_ok(fx_seal(f, 5, "changed"));
    (void)fx_reseal_all(f, 10);
    assert_ok(store_outbox_trim(f->s, UINT64_MAX, &f->e));
    (void)proof_names(f, 1, "the anchor could not be written anew");
    break_place(false);
    assert_int_equal(fx_prove(f).left, 0);
    fx_close(f);
    assert_int_equal(get_be32(place.value), 5);
    fx_open(f);
}

/* Died after the change and before its floor: the one that is there is of the older epoch, and so is needed. */
static void test_floor_left_behind(void **state)
{
    struct fx *f = *state;
    struct floor_copy old;
    change_of_epoch(f, false, &old);
    floor_back(&old);
    place.full = true;
    fx_open(f);
    (void)fx_reseal_all(f, 100);
    assert_int_equal(proof_names(f, 1, "the anchor could not be written anew"), 5);
    assert_true(seal_holds(&f->s->seal, 3));
    fx_close(f);
    assert_memory_equal(place.value, old.value, old.n);
    place.full = false;
    fx_open(f);
    finish(f);
    fx_close(f);
    assert_int_equal(get_be32(place.value), 4);
    fx_open(f);
}

/* ---- keys in memory ---- */
enum { MASK = 0x5a, LARGEST = 16 << 20 /* a sanitizer's shadow is larger */ };
static size_t count_in(const uint8_t *p, size_t n, const uint8_t masked[32])
{
    size_t found = 0;
    const uint8_t *end = p + n;
    while (p + 32 <= end && (p = memchr(p, masked[0] ^ MASK, (size_t)(end - p) - 31))) {
        size_t same = 1;
        while (same < 32 && (p[same] ^ MASK) == masked[same])
            same++;
        found += same == 32;
        p++;
    }
    return found;
}
/* In any memory of this process that can be written: the key that rows of this epoch are sealed with. */
static size_t copies_of_key(struct fx *f, uint32_t epoch)
{
    static uint8_t piece[1 << 20];
    struct secret *store_key = NULL, *key = NULL;
    struct bytes fields[2] = {BYTES_LIT("record"), BYTES_LIT("encrypt")};
    uint8_t masked[32];
    char line[512];
    size_t found = 0;
    assert_ok(fx_key(f, epoch, &store_key, &f->e));
    assert_ok(kdf_derive(store_key, KDF_STORE, fields, 2, &key, &f->e));
    for (size_t i = 0; i < sizeof masked; i++)
        masked[i] = secret_borrow(key)[i] ^ MASK;
    secret_free(store_key);
    secret_free(key); /* wiped: what is found is the store's */
    FILE *maps = fopen("/proc/self/maps", "re");
    int mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    assert_true(maps && mem >= 0);
    const uintptr_t own = (uintptr_t)piece;
    while (fgets(line, sizeof line, maps)) {
        uintptr_t from, to;
        char how[8];
        if (sscanf(line, "%lx-%lx %7s", &from, &to, how) != 3 || how[0] != 'r' || how[1] != 'w' || to - from > LARGEST)
            continue;
        for (uintptr_t at = from; at < to; at += sizeof piece - 32) {
            if (at < own + sizeof piece && own < at + sizeof piece)
                continue; /* what is looked at here would be found again */
            ssize_t n = pread(mem, piece, sizeof piece < to - at ? sizeof piece : to - at, (off_t)at);
            found += n > 0 ? count_in(piece, (size_t)n, masked) : 0;
        }
    }
    wipe(piece, sizeof piece);
    fclose(maps);
    close(mem);
    return found;
}
static void test_keys_leave_memory(void **state)
{
    struct fx *f = *state;
    put_rows(f, 10);
    assert_ok(fx_seal(f, 4, "changed"));
    (void)fx_reseal_all(f, 100);
    assert_true(copies_of_key(f, 3) >= 1);
    assert_true(copies_of_key(f, 4) >= 1);
    assert_int_equal(copies_of_key(f, 77), 0); /* the search finds no more than there is */
    assert_int_equal(fx_prove(f).left, 0);
    assert_int_equal(copies_of_key(f, 3), 0);
    assert_true(copies_of_key(f, 4) >= 1);
    expect_rows(f, 10);
}

/* More epochs than there is room for keys: the oldest makes room, and is asked for again. */
static void test_many_epochs(void **state)
{
    struct fx *f = *state;
    char id[ROW_ID];
    struct record out;
    enum { EPOCHS = STORE_EPOCHS_MAX + 6 };
    for (int i = 0; i < EPOCHS; i++) {
        struct record r = row(id, i);
        assert_ok(fx_put(f, &r, STORE_ABSENT, NULL));
        assert_ok(fx_seal(f, (uint32_t)i + 4, NULL));
    }
    assert_false(seal_holds(&f->s->seal, 3));
    expect_rows(f, EPOCHS);
    assert_true(f->s->seal.n == STORE_EPOCHS_MAX && seal_holds(&f->s->seal, EPOCHS + 3));
    assert_int_equal(fx_reseal_all(f, 16), EPOCHS);
    finish(f);
    assert_int_equal(f->s->seal.n, 1);
    reopen(f);
    expect_rows(f, EPOCHS);
    row_id(id, 1);
    assert_ok(fx_get(f, REC_META, TA, id, &out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SEALED_TEST(test_stopped),
        SEALED_TEST(test_foreign_keys),
        SEALED_TEST(test_broken_row),
        SEALED_TEST(test_outbox_and_itself),
        SEALED_TEST(test_floor_left_behind),
        SEALED_TEST(test_keys_leave_memory),
        SEALED_TEST(test_many_epochs),
    };
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
