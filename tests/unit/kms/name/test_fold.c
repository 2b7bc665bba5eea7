/* One name, one spelling: of tenants, locations and principals no two accepted names fold to the same, by case, space or Unicode;
 * built-in names are nobody's in any spelling; no byte of a segment can end it or begin another. Where the alphabet is small enough
 * to try everything, everything is tried. */
#include "kms/name/name.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static bool lower(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
}

static bool any_case(uint8_t c)
{
    return lower(c) || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool principal_byte(uint8_t c)
{
    return lower(c) || c == '.' || c == '_';
}

static bool accepted(struct bytes s, enum name_kind kind) /* NAME_NONE: a principal */
{
    return kind == NAME_NONE ? name_valid_principal(s) : name_valid_id(s, kind);
}

/* Every string of one, two and three bytes: what is accepted is made of the alphabet alone, so no two of them fold to one. */
static void all_short_strings(void **state)
{
    (void)state;
    static const struct {
        enum name_kind kind;
        bool (*alphabet)(uint8_t);
    } kinds[] = {{NAME_TENANT, lower}, {NAME_LOCATION, lower}, {NAME_NONE, principal_byte}, {NAME_KEYRING, any_case}, {NAME_CRYPTOKEY, any_case}};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        unsigned long yes = 0;
        for (unsigned n = 1; n <= 3; n++)
            for (uint32_t v = 0; v < 1u << 8 * n; v++) {
                uint8_t s[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16)};
                if (!accepted(BYTES(s, n), kinds[k].kind))
                    continue;
                yes++;
                for (unsigned i = 0; i < n; i++)
                    if (!kinds[k].alphabet(s[i]))
                        fail_msg("kind %d: accepted with byte %02x", (int)kinds[k].kind, s[i]);
            }
        assert_true(yes > 20000); /* and enough are */
    }
}

/* In a longer name, each byte at each place. */
static void each_byte_at_each_place(void **state)
{
    (void)state;
    for (unsigned at = 0; at < 12; at++)
        for (unsigned b = 0; b < 256; b++) {
            uint8_t s[] = "abcdef-ghijk";
            s[at] = (uint8_t)b;
            struct bytes name = BYTES(s, 12);
            bool edge = at == 0 || at == 11;
            assert_int_equal(name_valid_id(name, NAME_KEYRING), any_case((uint8_t)b));
            assert_int_equal(name_valid_id(name, NAME_CRYPTOKEY), any_case((uint8_t)b));
            bool first_letter = at != 0 || (b >= 'a' && b <= 'z');
            assert_int_equal(name_valid_id(name, NAME_TENANT), lower((uint8_t)b) && first_letter && !(edge && b == '-'));
            assert_int_equal(name_valid_id(name, NAME_LOCATION), lower((uint8_t)b) && first_letter && !(edge && b == '-'));
            assert_int_equal(name_valid_principal(name), principal_byte((uint8_t)b) && !(edge && (b == '-' || b == '.' || b == '_')));
        }
}

/* What Unicode folds into an accepted name: wide, mathematical, circled, ligature, Kelvin and long s, dotless i, zero widths, the
 * blanks, and all overlong and broken encodings of the letter itself. */
static const char *const disguises[] = {
    "\xef\xbd\x81", "\xf0\x9d\x90\x9a", "\xe2\x93\x90", "\xef\xac\x81", "\xe2\x84\xaa", "\xc5\xbf", "\xc4\xb1", "\xc4\xb0", "a\xcc\x81", "\xc3\xa1",
    "a\xe2\x80\x8b", "\xe2\x80\x8d" "a", "a\xc2\xad", "\xef\xbb\xbf" "a", "a\xe2\x81\xa0", "a\xc2\xa0", "\xe3\x80\x80" "a", "a\xe2\x80\xae", "\xc1\xa1",
    "\xe0\x81\xa1", "\xf0\x80\x81\xa1", "a\x80", "\xd0\xb0", "\xce\xb1", "a ", " a", "a\t", "a\n", "a\r", "a\v", "a\x1f", "a\x7f", "%61", "a%00", "&#97;",
};

static void a_name_in_disguise_is_none(void **state)
{
    (void)state;
    static const char *const names[] = {"acme", "a", "eu", "orders", "platform", "projects", "admin"};
    unsigned tried = 0;
    for (size_t d = 0; d < sizeof disguises / sizeof disguises[0]; d++)
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
            for (size_t at = 0; at <= strlen(names[i]); at++)
                for (int replace = 0; replace <= 1; replace++) {
                    char s[64];
                    size_t skip = replace && names[i][at] ? 1 : 0;
                    (void)snprintf(s, sizeof s, "%.*s%s%s", (int)at, names[i], disguises[d], names[i] + at + skip);
                    for (enum name_kind k = NAME_NONE; k <= NAME_CRYPTOKEY; k++)
                        if (accepted(bytes_str(s), k))
                            fail_msg("kind %d: %s", (int)k, s);
                    tried++;
                }
    assert_true(tried > 2000);
}

/* "platform" stands for nobody's tenant in bindings, "projects" begins every name; nobody's event is by "system:...". */
static void built_in_names_are_nobodys(void **state)
{
    (void)state;
    static const char *const words[] = {"platform", "projects"};
    for (size_t i = 0; i < 2; i++) {
        char s[16];
        for (unsigned mask = 0; mask < 256; mask++) { /* in every mixture of cases */
            strcpy(s, words[i]);
            for (unsigned b = 0; b < 8; b++)
                if (mask >> b & 1)
                    s[b] = (char)(s[b] - 'a' + 'A');
            assert_false(name_valid_id(bytes_str(s), NAME_TENANT));
        }
    }
    assert_true(name_valid_id(BYTES_LIT("platforms"), NAME_TENANT)); /* the twin */
    static const char *const reserved[] = {"*", "**", "{tenant}", "system:init", "system:offline", "system:clock", "system:", "instance/", "principals/x"};
    for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++) {
        assert_false(name_valid_principal(bytes_str(reserved[i])));
        for (enum name_kind k = NAME_TENANT; k <= NAME_VERSION; k++)
            assert_false(name_valid_id(bytes_str(reserved[i]), k));
    }
}

/* A name is its segments: what is formatted from them parses into the same, whatever words of the grammar they spell. */
static void segments_are_never_split_again(void **state)
{
    (void)state;
    static const char *const ids[] = {"locations", "keyRings", "cryptoKeys", "cryptoKeyVersions", "projects-x", "eu", "1", "a-b", "A_B"};
    enum { N = sizeof ids / sizeof ids[0] };
    for (unsigned v = 0; v < N * N * N; v++) {
        struct name n = {.kind = NAME_VERSION, .tenant = BYTES_LIT("locations"), .location = BYTES_LIT("projects-eu"), .ring = bytes_str(ids[v % N]),
                         .key = bytes_str(ids[v / N % N]), .version = v / (N * N) + 1}, again;
        char text[NAME_MAX_BYTES];
        struct err e = {0};
        size_t len = name_format(&n, text);
        assert_false(name_parse(BYTES(text, len), NAME_VERSION, "name", &again, &e).failed);
        assert_true(name_equal(&n, &again));
        for (size_t cut = 1; cut < len; cut++) { /* and no shorter text is that name */
            struct name other;
            if (!name_parse_any(BYTES(text, cut), ~0u, "name", &other, &e).failed)
                assert_false(name_equal(&n, &other));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_short_strings),          cmocka_unit_test(each_byte_at_each_place),       cmocka_unit_test(a_name_in_disguise_is_none),
        cmocka_unit_test(built_in_names_are_nobodys), cmocka_unit_test(segments_are_never_split_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
