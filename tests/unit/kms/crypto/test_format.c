/* The released bytes: header and canonical AAD, written out by hand; each byte changed is refused. */
#include "vectors.h"

#include "kms/crypto/format.h"

static const uint8_t header_bytes[FORMAT_HEADER_BYTES] = "CLVE\1\0\0\0" "0123456789abcdef" "fedcba9876543210";

static void header_is_these_bytes(void **state)
{
    (void)state;
    struct format_header h = {.type = FORMAT_ENCRYPTED}, back;
    struct err e;
    uint8_t out[FORMAT_OVERHEAD] = {0};
    memcpy(h.kvid, "0123456789abcdef", 16);
    memcpy(h.subject, "fedcba9876543210", 16);
    format_header_put(&h, out);
    assert_memory_equal(out, header_bytes, sizeof header_bytes);
    assert_false(format_header_parse(BYTES(out, sizeof out), &back, &e).failed);
    assert_int_equal(back.type, FORMAT_ENCRYPTED);
    assert_memory_equal(back.kvid, h.kvid, 16);
    assert_memory_equal(back.subject, h.subject, 16);
}

static void anything_else_is_refused(void **state)
{
    (void)state;
    struct format_header h;
    struct err e;
    uint8_t in[FORMAT_OVERHEAD] = {0};
    memcpy(in, header_bytes, sizeof header_bytes);
    for (size_t n = 0; n < sizeof in; n++)
        assert_int_equal(code_of(format_header_parse(BYTES(in, n), &h, &e), &e), ERR_CIPHERTEXT);
    for (size_t at = 0; at < 8; at++)
        for (unsigned v = 0; v < 256; v++) {
            memcpy(in, header_bytes, sizeof header_bytes);
            in[at] = (uint8_t)v;
            bool known = v == header_bytes[at] || (at == 3 && memchr("WKewk", (int)v, 5) != NULL);
            assert_int_equal(code_of(format_header_parse(BYTES(in, sizeof in), &h, &e), &e),
                             known ? ERR_NONE : ERR_CIPHERTEXT);
        }
}

/* What was sealed on the token is shorter by the shorter nonce: each type has its own least length. */
static void types_have_their_lengths(void **state)
{
    (void)state;
    struct format_header h;
    struct err e;
    uint8_t in[FORMAT_OVERHEAD] = {0};
    memcpy(in, header_bytes, sizeof header_bytes);
    assert_int_equal(FORMAT_OVERHEAD - FORMAT_TOKEN_OVERHEAD, 12);
    for (const char *t = "EWKewk"; *t != 0; t++) {
        const size_t least = *t >= 'a' ? FORMAT_TOKEN_OVERHEAD : FORMAT_OVERHEAD;
        in[3] = (uint8_t)*t;
        assert_int_equal(format_overhead((enum format_type)*t), least);
        assert_int_equal(code_of(format_header_parse(BYTES(in, least - 1), &h, &e), &e), ERR_CIPHERTEXT);
        assert_int_equal(code_of(format_header_parse(BYTES(in, least), &h, &e), &e), ERR_NONE);
        assert_int_equal(h.type, *t);
    }
}

static void context_is_sorted_and_counted(void **state)
{
    (void)state;
    struct format_pair pairs[] = {
        {BYTES_LIT("table"), BYTES_LIT("people")}, {BYTES_LIT("a"), {0}}, {BYTES_LIT("tab"), BYTES_LIT("\xff")}};
    static const uint8_t want[] = "ctx1\0\3" "\0\1" "a\0\0" "\0\3" "tab\0\1\xff" "\0\5" "table\0\6" "people";
    struct err e;
    CLEANUP(buf_release) struct buf out = {0};
    buf_init(&out, 1024);
    assert_false(format_context_aad(pairs, 3, &out, &e).failed);
    assert_int_equal(out.n, sizeof want - 1);
    assert_memory_equal(out.p, want, sizeof want - 1);

    /* Any order in, one order out; the caller's array is left alone. */
    struct format_pair turned[] = {pairs[2], pairs[0], pairs[1]};
    buf_reset(&out);
    assert_false(format_context_aad(turned, 3, &out, &e).failed);
    assert_memory_equal(out.p, want, sizeof want - 1);
    assert_ptr_equal(turned[0].key.p, pairs[2].key.p);

    buf_reset(&out);
    assert_false(format_context_aad(NULL, 0, &out, &e).failed);
    assert_int_equal(out.n, 6);
    assert_memory_equal(out.p, "ctx1\0\0", 6);
}

static void context_limits(void **state)
{
    (void)state;
    struct err e;
    static uint8_t big[FORMAT_CONTEXT_MAX_BYTES + 1];
    CLEANUP(buf_release) struct buf out = {0};
    buf_init(&out, 2 * FORMAT_CONTEXT_MAX_BYTES);
    struct format_pair twice[] = {{BYTES_LIT("k"), BYTES_LIT("1")}, {BYTES_LIT("j"), {0}}, {BYTES_LIT("k"), BYTES_LIT("2")}};
    assert_int_equal(code_of(format_context_aad(twice, 3, &out, &e), &e), ERR_INVALID);

    struct format_pair many[FORMAT_CONTEXT_PAIRS_MAX + 1];
    for (size_t i = 0; i < FORMAT_CONTEXT_PAIRS_MAX + 1; i++) {
        big[i] = (uint8_t)i;
        many[i] = (struct format_pair){BYTES(&big[i], 1), {0}};
    }
    assert_int_equal(code_of(format_context_aad(many, FORMAT_CONTEXT_PAIRS_MAX, &out, &e), &e), ERR_NONE);
    assert_int_equal(code_of(format_context_aad(many, FORMAT_CONTEXT_PAIRS_MAX + 1, &out, &e), &e), ERR_INVALID);

    size_t room = FORMAT_CONTEXT_MAX_BYTES - 4 - 2 - 2 - 1 - 2;
    struct format_pair one = {BYTES_LIT("k"), BYTES(big, room)};
    buf_reset(&out);
    assert_int_equal(code_of(format_context_aad(&one, 1, &out, &e), &e), ERR_NONE);
    assert_int_equal(out.n, FORMAT_CONTEXT_MAX_BYTES);
    one.value.n++;
    assert_int_equal(code_of(format_context_aad(&one, 1, &out, &e), &e), ERR_INVALID);
    one.value.n = SIZE_MAX; /* no sum overflows */
    assert_int_equal(code_of(format_context_aad(&one, 1, &out, &e), &e), ERR_INVALID);
    one = (struct format_pair){BYTES(big, SIZE_MAX), {0}};
    assert_int_equal(code_of(format_context_aad(&one, 1, &out, &e), &e), ERR_INVALID);
    one.key.n = FORMAT_CONTEXT_MAX_BYTES;
    assert_int_equal(code_of(format_context_aad(&one, 1, &out, &e), &e), ERR_INVALID);
}

/* No context and no plain AAD are the same bytes, whatever a client puts into them. */
static void plain_aad_is_apart(void **state)
{
    (void)state;
    CLEANUP(buf_release) struct buf out = {0};
    buf_init(&out, 64);
    format_plain_aad(BYTES_LIT("ctx1\0\0"), &out);
    assert_int_equal(out.n, 10);
    assert_memory_equal(out.p, "aad1ctx1\0\0", 10);
    buf_reset(&out);
    format_plain_aad((struct bytes){0}, &out);
    assert_int_equal(out.n, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_is_these_bytes),
        cmocka_unit_test(anything_else_is_refused),
        cmocka_unit_test(types_have_their_lengths),
        cmocka_unit_test(context_is_sorted_and_counted),
        cmocka_unit_test(context_limits),
        cmocka_unit_test(plain_aad_is_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
