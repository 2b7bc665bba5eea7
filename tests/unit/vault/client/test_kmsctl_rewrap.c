/* csv rewrap against the stand-in: what becomes of a file, and of files that are in the way. */
#include "tests/unit/vault/client/rewrap.h"

#include <sys/file.h>
#include <sys/stat.h>

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
        assert_int_equal(run(f->dec, &e, ARGS("csv", "rewrap", "--columns", "a", "--key", key, "--in", f->enc, "--out", f->out, "--batch", "1", "--timeout", strstr(key, "/down") ? "1s" : "200s")), t[i].exit);
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
        cmocka_unit_test_setup(test_bad_fields, fresh),
        cmocka_unit_test_setup(test_one_run_at_a_time, fresh),
        cmocka_unit_test_setup(test_the_input_is_never_written_over, fresh),
        cmocka_unit_test_setup(test_a_part_that_others_can_read, fresh),
        cmocka_unit_test_setup(test_servers_that_are_not_always_there, fresh),
    };
    return cmocka_run_group_tests(tests, commands_start, fixture_stop);
}
