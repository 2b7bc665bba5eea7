/* csv rewrap against the stand-in: going on with a file wherever a run ended, and never with what has changed meanwhile. */
#include "tests/unit/vault/client/rewrap.h"

#include <sys/stat.h>

/* An interrupted run as it lies on the disk: the whole of an earlier run's output up to some row, and the place that says so. It is
 * made by a run that fails at a row which cannot be decrypted; the input is then as it should have been. */
static void interrupted(struct fixture *f, const struct buf *good, size_t at)
{
    struct claviger_error e;
    CLEANUP(buf_release) struct buf place = {0}, text = {0};
    struct stat st;
    (void)!truncate(f->enc, (off_t)at);
    FILE *bad = fopen(f->enc, "a");
    assert_non_null(bad);
    fputs("x,clv1:AAAA,bad\n", bad);
    fclose(bad);
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--batch", "20")), 7);
    /* its place is of another input: write down the true one, as that run would have */
    read_file(f->place, &place);
    json_t *j = json_loadb((const char *)place.p, place.n, 0, NULL), *whole;
    assert_non_null(j);
    write_file(f->enc, buf_bytes(good));
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--resume")), 5); /* as it is, it is of another input */
    assert_string_equal(e.reason, "RESUME");
    assert_int_equal(stat(f->enc, &st), 0);
    char sum[65];
    FILE *p;
    buf_init(&text, 4096);
    buf_putf(&text, "sha256sum < '%s'", f->enc);
    assert_non_null(p = popen(buf_cstr(&text), "r"));
    assert_int_equal(fread(sum, 1, 64, p), 64);
    pclose(p);
    sum[64] = 0;
    whole = json_pack("{s:I,s:s}", "input_bytes", (json_int_t)st.st_size, "input_sha256", sum);
    assert_int_equal(json_object_update(j, whole), 0);
    assert_int_equal(json_dump_file(j, f->place, 0), 0);
    json_decref(whole);
    json_decref(j);
}

static void test_going_on(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e;
    CLEANUP(buf_release) struct buf good = {0};
    many(f);
    read_file(f->enc, &good);
    for (unsigned rows = 90; rows < ROWS; rows += 150) {
        fresh(state);
        interrupted(f, &good, line_end(&good, rows));
        int part = open(f->part, O_WRONLY | O_APPEND); /* rows that nobody said were done */
        assert_int_equal(write(part, "half a ro", 9), 9);
        close(part);
        assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out)), 5); /* not asked to go on */
        assert_string_equal(e.reason, "RESUME");
        assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--resume")), 0);
        assert_int_equal(access(f->part, F_OK) + access(f->place, F_OK), -2);
        assert_int_equal(decrypt(f, f->out, "a"), 0);
        assert_same(f->dec, f->in);
        CLEANUP(buf_release) struct buf out = {0};
        read_file(f->out, &out);
        assert_int_equal(count(buf_bytes(&out), "clv1:RkFLR"), 0);
    }
}

static void test_resume_without_anything_begins(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e;
    many(f);
    write_file(f->part, BYTES_LIT("of a run that died before it said anything"));
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--resume")), 0);
    assert_int_equal(decrypt(f, f->out, "a"), 0);
    assert_same(f->dec, f->in);
}

static void put_char(const char *path, off_t at)
{
    int fd = open(path, O_RDWR);
    char c;
    assert_int_equal(pread(fd, &c, 1, at), 1);
    c = (char)(c ^ 1);
    assert_int_equal(pwrite(fd, &c, 1, at), 1);
    close(fd);
}

/* Each thing that may have changed meanwhile, and the code it is refused with; what is there stays as it is. */
static void test_what_changed_meanwhile_is_refused(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e;
    CLEANUP(buf_release) struct buf good = {0}, part = {0}, place = {0};
    many(f);
    read_file(f->enc, &good);
    fresh(state);
    interrupted(f, &good, line_end(&good, 400));
    read_file(f->part, &part);
    read_file(f->place, &place);
    assert_true(part.n > 1000);

    put_char(f->enc, (off_t)good.n - 3); /* a row that is not done yet */
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--resume")), 5);
    write_file(f->enc, buf_bytes(&good));
    assert_int_equal(run(f->dec, &e, ARGS("csv", "rewrap", "--columns", "a", "--key", "acme/eu/pii/other", "--id-column", "id", "--in", f->enc, "--out", f->out, "--resume")), 5);
    assert_non_null(strstr(e.message, "key"));
    assert_int_equal(run(f->dec, &e, ARGS("csv", "rewrap", "--columns", "b", KEY, "--id-column", "id", "--in", f->enc, "--out", f->out, "--resume")), 5);
    assert_int_equal(run(f->dec, &e, ARGS("csv", "rewrap", "--columns", "a", KEY, "--in", f->enc, "--out", f->out, "--resume")), 5);
    assert_non_null(strstr(e.message, "columns"));

    put_char(f->part, 100); /* what was written is no longer that */
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--resume")), 7);
    write_file(f->part, buf_bytes(&part));
    assert_int_equal(truncate(f->part, (off_t)part.n - 500), 0);
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--resume")), 7);
    unlink(f->part);
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--resume")), 7);
    static const char *const broken[] = {"", "{", "[]", "{\"claviger_csv_rewrap\":1}"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        write_file(f->part, buf_bytes(&part));
        write_file(f->place, bytes_str(broken[i]));
        assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--resume")), 7);
        assert_string_equal(e.reason, "RESUME");
    }
    write_file(f->place, buf_bytes(&place));
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--resume")), 0); /* the twin: as it was left, it goes on */
    assert_int_equal(decrypt(f, f->out, "a"), 0);
    assert_same(f->dec, f->in);
}

static void assert_taken(struct fixture *f)
{
    struct claviger_error e;
    struct stat before, after;
    CLEANUP(buf_release) struct buf place = {0}, still = {0};
    read_file(f->place, &place);
    assert_int_equal(lstat(f->out, &before), 0);
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--resume")), 5);
    assert_string_equal(e.reason, "OUTPUT_EXISTS");
    assert_int_equal(lstat(f->out, &after), 0); /* nothing is touched, and the proof stays */
    assert_int_equal(before.st_ino, after.st_ino);
    assert_int_equal(before.st_size, after.st_size);
    read_file(f->place, &still);
    assert_true(bytes_equal(buf_bytes(&place), buf_bytes(&still)));
}

/* FILE that the place does not prove, one byte each: somebody else's, for all that is known. */
static void not_proven(struct fixture *f, struct bytes out, struct bytes place, struct bytes good)
{
    static const char *const broken[] = {"", "{", "{\"claviger_csv_rewrap\":1}"};
    const off_t at[] = {0, 50, (off_t)out.n - 1};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        put_char(f->out, at[i]);
        assert_taken(f);
        put_char(f->out, at[i]);
    }
    assert_int_equal(truncate(f->out, (off_t)out.n - 1), 0);
    assert_taken(f);
    assert_int_equal(truncate(f->out, (off_t)out.n + 1), 0);
    assert_taken(f);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        write_file(f->out, out);
        write_file(f->place, bytes_str(broken[i]));
        assert_taken(f);
    }
    write_file(f->place, place);
    put_char(f->enc, (off_t)good.n - 3); /* of another input */
    assert_taken(f);
    write_file(f->enc, good);
    unlink(f->out);
    assert_int_equal(mkfifo(f->out, 0600), 0); /* and nobody waits for a writer */
    assert_taken(f);
    unlink(f->out);
    assert_int_equal(symlink("enc.csv", f->out), 0);
    assert_taken(f);
    unlink(f->out);
    write_file(f->out, out);
}

/* Between the renaming and the end: FILE is complete, and the place still there, which proves it. */
static void test_the_very_end(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e;
    struct stat before, after;
    CLEANUP(buf_release) struct buf good = {0}, place = {0}, out = {0};
    many(f);
    read_file(f->enc, &good);
    fresh(state);
    interrupted(f, &good, good.n); /* all rows, then a bad one */
    read_file(f->place, &place);
    assert_int_equal(rename(f->part, f->out), 0);
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out)), 5);
    assert_int_equal(access(f->place, F_OK), 0);
    read_file(f->out, &out);
    not_proven(f, buf_bytes(&out), buf_bytes(&place), buf_bytes(&good));
    assert_int_equal(stat(f->out, &before), 0);
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--resume")), 0);
    assert_int_equal(access(f->place, F_OK), -1);
    assert_int_equal(stat(f->out, &after), 0);
    assert_true(before.st_ino == after.st_ino && before.st_mtim.tv_sec == after.st_mtim.tv_sec && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
    assert_int_equal(decrypt(f, f->out, "a"), 0);
    assert_same(f->dec, f->in);
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--resume")), 5); /* nothing proves it any more */
    assert_string_equal(e.reason, "OUTPUT_EXISTS");
    assert_non_null(strstr(e.message, "complete"));
}

/* A place that proves only a part of the input, beside a FILE that is just that part. */
static void test_a_part_is_not_the_whole(void **state)
{
    struct fixture *f = *state;
    CLEANUP(buf_release) struct buf good = {0};
    many(f);
    read_file(f->enc, &good);
    fresh(state);
    interrupted(f, &good, line_end(&good, 400));
    assert_int_equal(rename(f->part, f->out), 0);
    assert_taken(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_going_on, fresh),
        cmocka_unit_test_setup(test_resume_without_anything_begins, fresh),
        cmocka_unit_test_setup(test_what_changed_meanwhile_is_refused, fresh),
        cmocka_unit_test_setup(test_the_very_end, fresh),
        cmocka_unit_test_setup(test_a_part_is_not_the_whole, fresh),
    };
    return cmocka_run_group_tests(tests, commands_start, fixture_stop);
}
