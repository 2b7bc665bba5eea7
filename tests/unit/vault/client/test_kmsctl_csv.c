#include "base/rng.h"
#include "vault/cmd/kmsctl/csv.h"

#include "tests/unit/vault/client/commands.h"

/* ---- the parser ----------------------------------------------------------------------------------------------------------- */

static enum csv_parse parse(const char *text, struct csv_record *r, size_t *used)
{
    const char *why = NULL;
    enum csv_parse p = csv_parse(bytes_str(text), true, r, used, &why);
    assert_true((p == CSV_BAD) == (why != NULL));
    return p;
}

static void test_fields(void **state)
{
    (void)state;
    static struct csv_record r;
    size_t used;
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, 4096);
    assert_int_equal(parse("a,\"b,\"\"c\"\"\r\n\",,\"\"\r\nnext", &r, &used), CSV_RECORD);
    static const char *const raw[] = {"a", "\"b,\"\"c\"\"\r\n\"", "", "\"\""}, *const value[] = {"a", "b,\"c\"\r\n", "", ""};
    assert_int_equal(r.n, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_true(bytes_equal(r.field[i].raw, bytes_str(raw[i])));
        assert_true(bytes_equal(csv_value(&r.field[i], &a), bytes_str(value[i])));
        assert_int_equal(r.field[i].quoted, i % 2);
    }
    assert_true(bytes_equal(r.eol, BYTES_LIT("\r\n")));
    assert_int_equal(used, strlen("a,\"b,\"\"c\"\"\r\n\",,\"\"\r\n"));
    assert_int_equal(parse("last", &r, &used), CSV_RECORD);
    assert_int_equal(r.eol.n, 0);
    assert_int_equal(parse("x,", &r, &used), CSV_RECORD);
    assert_int_equal(r.n, 2);
    assert_int_equal(parse("\n", &r, &used), CSV_RECORD);
    assert_int_equal(r.n, 1);
}

static void test_malformed_is_refused(void **state)
{
    (void)state;
    static struct csv_record r;
    size_t used;
    static const char *const bad[] = {"a\"b\n", "\"a\"b\n", "\"open\n", "a\rb\n", "\"a\"\rb", "a\r", "\"", "a,b\"\n", "\"a\" ,b\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(parse(bad[i], &r, &used), CSV_BAD);
}

/* Cut anywhere, the parser asks for more or has found the same record: how input arrives never matters. */
static void test_every_cut(void **state)
{
    (void)state;
    static struct csv_record r;
    const char *text = "a,\"b\"\"\",c\r\n";
    size_t n = strlen(text), used;
    const char *why;
    for (size_t i = 0; i < n; i++)
        assert_int_equal(csv_parse(BYTES(text, i), false, &r, &used, &why), CSV_MORE);
    assert_int_equal(csv_parse(BYTES(text, n), false, &r, &used, &why), CSV_RECORD);
    assert_int_equal(used, n);
}

static void test_put_quotes_what_needs_it(void **state)
{
    (void)state;
    static const struct {
        const char *value, *plain, *quoted;
    } t[] = {{"a", "a", "\"a\""}, {"", "", "\"\""}, {"a,b", "\"a,b\"", "\"a,b\""}, {"\"", "\"\"\"\"", "\"\"\"\""},
             {"x\"y\"", "\"x\"\"y\"\"\"", "\"x\"\"y\"\"\""}, {"\n", "\"\n\"", "\"\n\""}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        CLEANUP(buf_release) struct buf a, b;
        buf_init(&a, 100);
        buf_init(&b, 100);
        csv_put(&a, bytes_str(t[i].value), false);
        csv_put(&b, bytes_str(t[i].value), true);
        assert_string_equal(buf_cstr(&a), t[i].plain);
        assert_string_equal(buf_cstr(&b), t[i].quoted);
    }
}

/* ---- the commands, against the stand-in --------------------------------------------------------------------------------------- */

#define KEY "--key", "acme/eu/pii/email"

static void round_trip(struct fixture *f, struct bytes text, const char *columns, const char *batch, char *extra)
{
    struct claviger_error e = {0};
    char *col = (char *)(uintptr_t)columns, *b = (char *)(uintptr_t)batch;
    write_file(f->in, text);
    assert_int_equal(run(f->enc, &e, ARGS("csv", "encrypt", "--columns", col, KEY, "--in", f->in, "--batch", b, extra)), 0);
    assert_int_equal(run(f->dec, &e, ARGS("csv", "decrypt", "--columns", col, KEY, "--in", f->enc, "--batch", b)), 0);
    CLEANUP(buf_release) struct buf back;
    read_file(f->dec, &back);
    assert_int_equal(back.n, text.n);
    assert_memory_equal(back.p, text.p, text.n);
}

static void test_round_trip_of_hard_cases(void **state)
{
    struct fixture *f = *state;
    static const char *const texts[] = {
        "a,b\n1,2\n", "a,b\r\n1,2\r\n", "a,b\n1,2", "a,b\n", "a,b", "a,b\n,\n", "a,b\n\"\",\"\"\n", "a,b\n\"x,y\",\"q\"\"q\"\n",
        "a,b\n\"line\nbreak\",\"cr\r\nlf\"\r\n", "a,b\n1,2\n\n3,4\n", "\357\273\277a,b\n1,2\n", "\"a\",\"b\"\n\"1\",\"2\"\n",
        "a,b\n\xff\xfe,\xc3\x28\n", "b,z,a\n1,2,3\n\"4\",5,\"6\"\n", "a,b\n'=1+1',\t \n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        round_trip(f, bytes_str(texts[i]), "a,b", "1000", NULL);
        round_trip(f, bytes_str(texts[i]), "b,a", "2", "--encrypt-empty");
    }
}

static void test_round_trip_of_random_files(void **state)
{
    struct fixture *f = *state;
    struct fake_rng r;
    fake_rng_init(&r, 42);
    static const char *const pieces[] = {"x", ",", "\"", "\n", "\r\n", "é", "漢", "", " ", "clv", "0"};
    for (int file = 0; file < 6; file++) {
        CLEANUP(buf_release) struct buf text;
        buf_init(&text, 1 << 20);
        buf_put_str(&text, "id,a,b\n");
        for (int row = 0; row < 60; row++) {
            uint8_t dice[48];
            rng_fill(&r.r, dice, sizeof dice);
            buf_putf(&text, "%d", row);
            for (int col = 0; col < 2; col++) {
                CLEANUP(buf_release) struct buf v;
                buf_init(&v, 1000);
                for (int i = 0; i < dice[col] % 9; i++)
                    buf_put_str(&v, pieces[dice[2 + col * 12 + i] % 11]);
                buf_put_u8(&text, ',');
                csv_put(&text, buf_bytes(&v), dice[40 + col] & 1);
            }
            buf_put_str(&text, dice[45] & 1 ? "\n" : "\r\n");
        }
        round_trip(f, buf_bytes(&text), "a,b", file & 1 ? "7" : "1000", file & 2 ? "--encrypt-empty" : NULL);
    }
}

static void test_what_encrypted_looks_like(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e = {0};
    write_file(f->in, BYTES_LIT("id,a,b\n1,x,keep\n2,\"y\",\n3,,keep\n"));
    assert_int_equal(run(f->enc, &e, ARGS("csv", "encrypt", "--columns", "a", KEY, "--id-column", "id", "--in", f->in)), 0);
    CLEANUP(buf_release) struct buf enc;
    read_file(f->enc, &enc);
    const char *t = buf_cstr(&enc);
    assert_memory_equal(t, "id,a,b\n1,clv1:", 14);
    assert_non_null(strstr(t, ",keep\n2,\"clv1:"));
    assert_non_null(strstr(t, "\n3,,keep\n"));
    assert_null(strstr(t, ",x,"));
}

static void test_fields_are_bound_to_column_and_row(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e = {0};
    write_file(f->in, BYTES_LIT("id,a,b\n1,x,y\n"));
    assert_int_equal(run(f->enc, &e, ARGS("csv", "encrypt", "--columns", "a", KEY, "--id-column", "id", "--in", f->in)), 0);
    CLEANUP(buf_release) struct buf enc, moved;
    buf_init(&enc, 1 << 20);
    buf_init(&moved, 1 << 20);
    read_file(f->enc, &enc);
    char *cipher = strstr((char *)(uintptr_t)buf_cstr(&enc), "clv1:"), *end = strchr(cipher, ',');
    /* another row, another column, no id column, not encrypted at all */
    buf_putf(&moved, "id,a,b\n2,%.*s,y\n", (int)(end - cipher), cipher);
    write_file(f->in, buf_bytes(&moved));
    assert_int_equal(run(f->dec, &e, ARGS("csv", "decrypt", "--columns", "a", KEY, "--id-column", "id", "--in", f->in)), 7);
    assert_string_equal(e.reason, "CIPHERTEXT");
    buf_reset(&moved);
    buf_putf(&moved, "id,b,a\n1,%.*s,y\n", (int)(end - cipher), cipher);
    write_file(f->in, buf_bytes(&moved));
    assert_int_equal(run(f->dec, &e, ARGS("csv", "decrypt", "--columns", "b", KEY, "--id-column", "id", "--in", f->in)), 7);
    assert_int_equal(run(f->dec, &e, ARGS("csv", "decrypt", "--columns", "a", KEY, "--in", f->enc)), 7);
    assert_int_equal(run(f->dec, &e, ARGS("csv", "decrypt", "--columns", "b", KEY, "--id-column", "id", "--in", f->enc)), 7);
    assert_string_equal(e.reason, "BAD_CSV");
    assert_int_equal(run(f->dec, &e, ARGS("csv", "decrypt", "--columns", "a", KEY, "--id-column", "id", "--in", f->enc)), 0);
    /* and never twice by accident */
    assert_int_equal(run(f->dec, &e, ARGS("csv", "encrypt", "--columns", "a", KEY, "--in", f->enc)), 7);
    assert_int_equal(run(f->dec, &e, ARGS("csv", "encrypt", "--columns", "a", KEY, "--in", f->enc, "--again")), 0);
}

static void test_refused_files_and_options(void **state)
{
    struct fixture *f = *state;
    struct claviger_error e = {0};
    static const struct {
        const char *text, *columns;
        int exit;
    } bad[] = {{"", "a", 7}, {"a,b\n1\n", "a", 7}, {"a,b\n1,2,3\n", "a", 7}, {"a,b\n1,\"2\n", "a", 7}, {"a,b\n1,2\n", "c", 2},
               {"a,a\n1,2\n", "a", 2}, {"a,b\n1,2\n", "a,a", 2}, {"a,b\n1,2\n", "a,,b", 2}, {"a,b\npoison,2\n", "a", 3}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file(f->in, bytes_str(bad[i].text));
        assert_int_equal(run(f->enc, &e, ARGS("csv", "encrypt", "--columns", (char *)(uintptr_t)bad[i].columns, KEY, "--in", f->in)),
                         bad[i].exit);
    }
    write_file(f->in, BYTES_LIT("id,a\n1,2\n"));
    assert_int_equal(run(f->enc, &e, ARGS("csv", "encrypt", "--columns", "id", KEY, "--id-column", "id", "--in", f->in)), 2);
    assert_int_equal(run(f->enc, &e, ARGS("csv", "encrypt", "--columns", "a", "--key", "ACME/eu/pii/x", "--in", f->in)), 2);
    assert_int_equal(run(f->enc, &e, ARGS("csv", "encrypt", "--columns", "a", "--key", "acme/eu/pii/x@1", "--in", f->in)), 2);
    assert_int_equal(run(f->enc, &e, ARGS("csv", "encrypt", "--columns", "a", KEY, "--batch", "0", "--in", f->in)), 2);
}

/* The shipped example, as `make run` does it, with several batches on their way. */
static void test_people(void **state)
{
    struct fixture *f = *state;
    CLEANUP(buf_release) struct buf text;
    read_file("docs/examples/people.csv", &text);
    round_trip(f, buf_bytes(&text), "name,email,note", "500", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_malformed_is_refused),
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_put_quotes_what_needs_it),
        cmocka_unit_test(test_round_trip_of_hard_cases),
        cmocka_unit_test(test_round_trip_of_random_files),
        cmocka_unit_test(test_what_encrypted_looks_like),
        cmocka_unit_test(test_fields_are_bound_to_column_and_row),
        cmocka_unit_test(test_refused_files_and_options),
        cmocka_unit_test(test_people),
    };
    return cmocka_run_group_tests(tests, commands_start, fixture_stop);
}
