/* csv rewrap against the stand-in: what becomes of a file, and going on with it wherever a run ended. */
#include "tests/unit/vault/client/commands.h"

#include <sys/file.h>
#include <sys/stat.h>

enum { ROWS = 700 };
#define KEY "--key", "acme/eu/pii/email"

static int fresh(void **state)
{
    struct fixture *f = *state;
    unlink(f->out);
    unlink(f->part);
    unlink(f->place);
    return 0;
}

static void assert_same(const char *a, const char *b)
{
    CLEANUP(buf_release) struct buf one = {0}, two = {0};
    read_file(a, &one);
    read_file(b, &two);
    assert_int_equal(one.n, two.n);
    assert_memory_equal(one.p, two.p, one.n);
}

#define REWRAP(...) ARGS("csv", "rewrap", "--columns", "a", KEY, "--id-column", "id", "--in", f->enc, __VA_ARGS__)

static int encrypt(struct fixture *f, struct bytes text, const char *columns)
{
    struct claviger_error e;
    write_file(f->in, text);
    return run(f->enc, &e, ARGS("csv", "encrypt", "--columns", (char *)(uintptr_t)columns, KEY, "--id-column", "id", "--in", f->in));
}

static int decrypt(struct fixture *f, const char *path, const char *columns)
{
    struct claviger_error e;
    return run(f->dec, &e, ARGS("csv", "decrypt", "--columns", (char *)(uintptr_t)columns, KEY, "--id-column", "id", "--in", (char *)(uintptr_t)path));
}

/* A file of ROWS rows, encrypted: f->enc. Some fields are empty. */
static void many(struct fixture *f)
{
    CLEANUP(buf_release) struct buf text = {0};
    buf_init(&text, FILE_MAX);
    buf_put_str(&text, "id,a,\"b\"\r\n");
    for (int i = 0; i < ROWS; i++)
        buf_putf(&text, i % 7 ? "%d,\"person, %d\",keep\r\n" : "%d,,kept%d\n", i, i);
    assert_int_equal(encrypt(f, buf_bytes(&text), "a"), 0);
}

static unsigned count(struct bytes text, const char *what)
{
    unsigned n = 0;
    for (size_t i = 0; i + strlen(what) <= text.n; i++)
        n += memcmp(text.p + i, what, strlen(what)) == 0;
    return n;
}

/* ---- what becomes of a file ---------------------------------------------------------------------------------------------------- */

/* "clv1:RkFLR..." is version 1 ("FAKE"), "clv1:RkFLM..." version 2 ("FAK2"): three bytes are four characters. */
static void test_what_is_no_ciphertext_stays(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e;
    static const char *const texts[] = {"id,a,b\n1,x,y\n", "id,a,b\r\n\"1\",\"x\",\"q\"\"q\"\r\n2,,\n\n3,z,\xff\xfe", "\357\273\277id,b,a\n1,\"l\nf\",x\n", "id,a\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(encrypt(f, bytes_str(texts[i]), "a"), 0);
        assert_int_equal(run(f->out, &e, ARGS("csv", "rewrap", "--columns", "a", KEY, "--id-column", "id", "--in", f->enc)), 0);
        CLEANUP(buf_release) struct buf old = {0}, new = {0};
        read_file(f->enc, &old);
        read_file(f->out, &new);
        assert_int_equal(old.n, new.n); /* nothing but the ciphertexts' bytes */
        assert_int_equal(count(buf_bytes(&new), "clv1:RkFLM"), count(buf_bytes(&old), "clv1:RkFLR"));
        assert_int_equal(count(buf_bytes(&new), "clv1:RkFLR"), 0);
        assert_int_equal(decrypt(f, f->out, "a"), 0);
        assert_same(f->dec, f->in);
        assert_int_equal(run(f->dec, &e, ARGS("csv", "rewrap", "--columns", "a", KEY, "--id-column", "id", "--in", f->out)), 0);
        assert_same(f->dec, f->out); /* what is on the newest version is written back as it was */
    }
    /* fields that nobody encrypted stay, beside those that were */
    CLEANUP(buf_release) struct buf enc = {0}, mixed = {0};
    assert_int_equal(encrypt(f, BYTES_LIT("id,a\n1,x\n"), "a"), 0);
    read_file(f->enc, &enc);
    buf_init(&mixed, FILE_MAX);
    buf_put_bytes(&mixed, buf_bytes(&enc));
    buf_put_str(&mixed, "2,plain\n3,\"clv1\"\n");
    write_file(f->enc, buf_bytes(&mixed));
    assert_int_equal(run(f->out, &e, ARGS("csv", "rewrap", "--columns", "a", KEY, "--id-column", "id", "--in", f->enc)), 0);
    CLEANUP(buf_release) struct buf new = {0};
    read_file(f->out, &new);
    assert_int_equal(new.n, mixed.n);
    assert_non_null(strstr(buf_cstr(&new), "\n2,plain\n3,\"clv1\"\n"));
    assert_int_equal(count(buf_bytes(&new), "clv1:RkFLM"), 1);
}

static void test_refused_files_and_options(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e;
    static const struct {
        const char *text;
        int exit;
    } bad[] = {{"", 7}, {"id,a\n1,clv1:!\n", 7}, {"id,a\n1,clv1:AAAA\n", 7}, {"id,b\n1,2\n", 2}, {"id,a\n1\n", 7}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fresh(state);
        write_file(f->enc, bytes_str(bad[i].text));
        assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out)), bad[i].exit);
        assert_int_equal(access(f->out, F_OK), -1); /* nothing that looks complete */
    }
    write_file(f->enc, BYTES_LIT("id,a\n1,\n"));
    assert_int_equal(run(f->dec, &e, REWRAP("--resume")), 2);
    assert_int_equal(run(f->dec, &e, REWRAP("--in-flight", "3")), 2);
    assert_int_equal(run(f->dec, &e, REWRAP("--out", "/nonexistent/x")), 1);
    int pipe_ends[2], saved = dup(0);
    assert_int_equal(pipe(pipe_ends), 0);
    dup2(pipe_ends[0], 0);
    assert_int_equal(run(f->dec, &e, ARGS("csv", "rewrap", "--columns", "a", KEY, "--out", f->out)), 2); /* a pipe has no place to go back to */
    dup2(saved, 0);
    close(saved);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

/* ---- an output file ---------------------------------------------------------------------------------------------------------------- */

static void test_a_file_is_there_when_it_is_complete(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e;
    struct stat st;
    many(f);
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out)), 0);
    assert_int_equal(stat(f->out, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(access(f->part, F_OK), -1);
    assert_int_equal(access(f->place, F_OK), -1);
    assert_int_equal(decrypt(f, f->out, "a"), 0);
    assert_same(f->dec, f->in);
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out)), 5); /* never over what is there */
    assert_string_equal(e.reason, "OUTPUT_EXISTS");
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--resume")), 5);
    assert_string_equal(e.reason, "OUTPUT_EXISTS");
}

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

static size_t line_end(const struct buf *b, unsigned rows)
{
    size_t at = 0;
    for (unsigned seen = 0; seen <= rows; at++)
        seen += b->p[at] == '\n';
    return at;
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

/* What cannot be decrypted ends a run, which --keep-bad goes on with: as it is, named, counted, and the code says so at the end. */
static void test_bad_fields(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e;
    CLEANUP(buf_release) struct buf good = {0}, with_bad = {0}, out = {0};
    many(f);
    read_file(f->enc, &good);
    size_t at = line_end(&good, 300);
    static const char bad[] = "b1,clv1:AAAA,keep\nb2,clv1:?,keep\nb3,\"clv1:QUJD\",keep\r\n";
    buf_init(&with_bad, FILE_MAX);
    buf_put(&with_bad, good.p, at);
    buf_put_str(&with_bad, bad);
    buf_put(&with_bad, good.p + at, good.n - at);
    write_file(f->enc, buf_bytes(&with_bad));
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--batch", "20")), 7);
    assert_int_equal(access(f->out, F_OK), -1);
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out, "--resume", "--keep-bad")), 7);
    assert_string_equal(e.reason, "CIPHERTEXT");
    assert_non_null(strstr(e.message, "3 fields"));
    read_file(f->out, &out);
    assert_int_equal(out.n, with_bad.n);
    assert_memory_equal(out.p + at, bad, sizeof bad - 1);
    assert_int_equal(count(buf_bytes(&out), "clv1:RkFLR"), 0);
    assert_int_equal(count(buf_bytes(&out), "clv1:RkFLM"), count(buf_bytes(&good), "clv1:RkFLR"));
    fresh(state);
    assert_int_equal(run(f->dec, &e, ARGS("csv", "rewrap", "--columns", "a", "--key", "acme/eu/pii/denied", "--id-column", "id", "--in", f->enc, "--keep-bad")), 3);
    assert_int_equal(run(f->dec, &e, ARGS("csv", "decrypt", "--columns", "a", KEY, "--in", f->enc, "--keep-bad")), 2);
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

static void test_one_run_at_a_time(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e;
    many(f);
    int fd = open(f->part, O_RDWR | O_CREAT, 0600);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out)), 5);
    assert_non_null(strstr(e.message, "another run"));
    close(fd);
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out)), 0);
}

/* The input may have any name, also one of those that the run would write or cut. */
static void test_the_input_is_never_written_over(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e;
    CLEANUP(buf_release) struct buf fresh_place = {0};
    char *const kept = strdup(f->enc);
    buf_init(&fresh_place, 4096);
    buf_putf(&fresh_place, "%s.new", f->place);
    char *const names[] = {f->out, f->part, f->place, fresh_place.overflow ? NULL : (char *)(uintptr_t)buf_cstr(&fresh_place)};
    many(f);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        for (int way = 0; way < 2; way++) { /* by its own name, and by a link */
            assert_int_equal(link(kept, names[i]), 0);
            assert_int_equal(run(f->dec, &e, ARGS("csv", "rewrap", "--columns", "a", KEY, "--id-column", "id", "--in", way ? kept : names[i], "--out", f->out)), 2);
            assert_non_null(strstr(e.message, "would write"));
            assert_int_equal(unlink(names[i]), 0);
        }
        assert_int_equal(access(f->out, F_OK), -1);
    }
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out)), 0);
    assert_int_equal(decrypt(f, f->out, "a"), 0);
    assert_same(f->dec, f->in);
    free(kept);
}

/* What lies under the name of FILE.part was made by somebody: not written to, or at least closed to others. */
static void test_a_part_that_others_can_read(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e;
    struct stat st;
    CLEANUP(buf_release) struct buf bait = {0};
    buf_init(&bait, 4096);
    buf_putf(&bait, "%s.bait", f->out);
    many(f);
    write_file(buf_cstr(&bait), BYTES_LIT("theirs"));
    assert_int_equal(link(buf_cstr(&bait), f->part), 0); /* another name for what they hold */
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out)), 5);
    assert_string_equal(e.reason, "OUTPUT_EXISTS");
    assert_int_equal(stat(f->part, &st), 0);
    assert_int_equal(st.st_size, 6);
    unlink(f->part);
    if (geteuid() == 0) {
        assert_int_equal(rename(buf_cstr(&bait), f->part), 0);
        assert_int_equal(chown(f->part, 65534, 65534), 0);
        assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out)), 5);
        assert_string_equal(e.reason, "OUTPUT_EXISTS");
        unlink(f->part);
    }
    unlink(buf_cstr(&bait));
    write_file(f->part, BYTES_LIT("of a run that did not come far"));
    assert_int_equal(chmod(f->part, 0666), 0);
    assert_int_equal(run(f->dec, &e, REWRAP("--out", f->out)), 0);
    assert_int_equal(stat(f->out, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

/* A daemon that goes away now and then is the stream's to mend; being over the rate is waited for; over a budget is the end. */
static void test_servers_that_are_not_always_there(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e;
    static const struct {
        const char *key;
        int exit;
    } t[] = {{"acme/eu/pii/breaks", 0}, {"acme/eu/pii/throttled", 0}, {"acme/eu/pii/budget", 6}, {"acme/eu/pii/down", 6}, {"acme/eu/pii/denied", 3}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char *key = (char *)(uintptr_t)t[i].key;
        fresh(state);
        write_file(f->in, BYTES_LIT("id,a\n1,x\n2,y\n3,z\n4,u\n"));
        bool usable = t[i].exit == 0;
        assert_int_equal(run(f->enc, &e, ARGS("csv", "encrypt", "--columns", "a", "--key", usable ? key : "acme/eu/pii/email", "--in", f->in)), 0);
        assert_int_equal(run(f->dec, &e, ARGS("csv", "rewrap", "--columns", "a", "--key", key, "--in", f->enc, "--out", f->out, "--batch", "1", "--timeout", strstr(key, "/down") ? "1s" : "20s")), t[i].exit);
        if (!usable)
            continue;
        assert_int_equal(run(f->dec, &e, ARGS("csv", "decrypt", "--columns", "a", "--key", key, "--in", f->out)), 0);
        assert_same(f->dec, f->in);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_what_is_no_ciphertext_stays, fresh),
        cmocka_unit_test_setup(test_refused_files_and_options, fresh),
        cmocka_unit_test_setup(test_a_file_is_there_when_it_is_complete, fresh),
        cmocka_unit_test_setup(test_going_on, fresh),
        cmocka_unit_test_setup(test_resume_without_anything_begins, fresh),
        cmocka_unit_test_setup(test_what_changed_meanwhile_is_refused, fresh),
        cmocka_unit_test_setup(test_bad_fields, fresh),
        cmocka_unit_test_setup(test_the_very_end, fresh),
        cmocka_unit_test_setup(test_a_part_is_not_the_whole, fresh),
        cmocka_unit_test_setup(test_one_run_at_a_time, fresh),
        cmocka_unit_test_setup(test_the_input_is_never_written_over, fresh),
        cmocka_unit_test_setup(test_a_part_that_others_can_read, fresh),
        cmocka_unit_test_setup(test_servers_that_are_not_always_there, fresh),
    };
    return cmocka_run_group_tests(tests, commands_start, fixture_stop);
}
