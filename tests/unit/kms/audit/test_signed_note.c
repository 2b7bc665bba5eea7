/* Keys of signed notes and their lines, against values that another program made from the page (tests/vectors/certificates). */
#include "kms/audit/signed_note.h"
#include "tests/unit/kms/testing.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct fixture {
    struct err e;
};
#define POINT                                                                                                                      \
    "041fba54ef96d38c142e340f1baf20d1c42712df75a3aae6931abd50bf5afaff189564ffc18647ab2b94296d1f8c41db550653155037f2e927a6279cf6dd3b1ddb"

static size_t file(const char *name, uint8_t out[8192])
{
    char path[128];
    (void)snprintf(path, sizeof path, "tests/vectors/certificates/%s", name);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    const ssize_t n = read(fd, out, 8192);
    close(fd);
    assert_true(n > 0 && n < 8192);
    return (size_t)n;
}

/* The note made again of its own text and signature. */
static void again(const struct signed_note_key *k, const char *name)
{
    uint8_t note[8192];
    const size_t n = file(name, note);
    const uint8_t *end = memmem(note, n, "\n\n", 2), *space = memrchr(note, ' ', n);
    CLEANUP(buf_release) struct buf raw, out;
    buf_init(&raw, 256);
    buf_init(&out, 8192);
    assert_true(end != NULL && space != NULL && base64_decode(BYTES(space + 1, n - (size_t)(space + 1 - note) - 1), false, &raw));
    assert_memory_equal(raw.p, k->id, sizeof k->id);
    signed_note_put(k, BYTES(note, (size_t)(end + 1 - note)), BYTES(raw.p + 4, raw.n - 4), &out);
    assert_true(bytes_equal(buf_bytes(&out), BYTES(note, n)));
}

static void keys_are_those_of_the_vectors(void **state)
{
    (void)state;
    struct signed_note_key k;
    struct fixture fx = {0}, *f = &fx;
    uint8_t want[8192], raw[65];
    char text[SIGNED_NOTE_KEY_TEXT_MAX];
    size_t n = file("key-p256.txt", want);
    assert_true(hex_decode(BYTES_LIT(POINT), raw, sizeof raw));
    assert_ok(signed_note_key_init("claviger/node1", BYTES(raw, 65), false, &k, &f->e));
    signed_note_key_text(&k, text);
    assert_true(n == strlen(text) + 1 && memcmp(text, want, n - 1) == 0);
    again(&k, "version-p256.txt");
    n = file("key.txt", want);
    CLEANUP(buf_release) struct buf public;
    buf_init(&public, 64);
    want[n - 1] = 0;
    assert_true(base64_decode(bytes_str(strchr(strchr((char *)want, '+') + 1, '+') + 1), false, &public));
    assert_int_equal(public.n, 33);
    assert_ok(signed_note_key_init("claviger/node1", BYTES(public.p + 1, 32), true, &k, &f->e));
    signed_note_key_text(&k, text);
    assert_true(n == strlen(text) + 1 && memcmp(text, want, n - 1) == 0);
    again(&k, "version.txt");
    again(&k, "tenant.txt");
}

static void names_that_name_no_key(void **state)
{
    (void)state;
    static const char *const wrong[] = {"", "two words/node1", "plus+plus/node1", "tab\t/node1", "line\n/node1", "é/node1", "\x7f/node1"};
    struct signed_note_key k;
    struct fixture fx = {0}, *f = &fx;
    const uint8_t raw[32] = {1};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_fails(signed_note_key_init(wrong[i], BYTES(raw, 32), true, &k, &f->e), ERR_STATE, "AUDIT_ORIGIN");
    assert_ok(signed_note_key_init("c/n", BYTES(raw, 32), true, &k, &f->e));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(keys_are_those_of_the_vectors), cmocka_unit_test(names_that_name_no_key)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
