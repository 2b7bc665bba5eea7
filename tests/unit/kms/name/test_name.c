#include "kms/name/name.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define S63 "abcdefghijklmnopqrstuvwxyz0123456789-abcdefghijklmnopqrstuvwxyz"
#define KEY "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email"
#define V(lit) BYTES_LIT(lit) /* keeps an embedded NUL */

static void expect_ok(const char *text, enum name_kind kind, const char *short_text)
{
    struct name n = {0}, again = {0};
    struct err e = {0};
    char full[NAME_MAX_BYTES], brief[NAME_MAX_BYTES];
    assert_false(name_parse(bytes_str(text), kind, "name", &n, &e).failed);
    assert_int_equal(n.kind, kind);
    assert_int_equal(name_format(&n, full), strlen(text));
    assert_string_equal(full, text);
    assert_int_equal(name_format_short(&n, brief), strlen(short_text));
    assert_string_equal(brief, short_text);
    assert_false(name_parse_short(bytes_str(brief), &again, &e).failed);
    assert_true(name_equal(&n, &again));
    assert_false(name_parse_short(bytes_str(text), &again, &e).failed);
    assert_true(name_equal(&n, &again));
    assert_int_equal(e.code, ERR_NONE);
}

static void canonical_names_round_trip(void **state)
{
    (void)state;
    expect_ok("projects/acme", NAME_TENANT, "acme");
    expect_ok("projects/a1", NAME_TENANT, "a1");
    expect_ok("projects/acme/locations/eu-west1", NAME_LOCATION, "acme/eu-west1");
    expect_ok("projects/acme/locations/eu/keyRings/P_i-1", NAME_KEYRING, "acme/eu/P_i-1");
    expect_ok(KEY, NAME_CRYPTOKEY, "acme/eu/pii/email");
    expect_ok(KEY "/cryptoKeyVersions/3", NAME_VERSION, "acme/eu/pii/email@3");
    expect_ok(KEY "/cryptoKeyVersions/2147483647", NAME_VERSION, "acme/eu/pii/email@2147483647");
    expect_ok("projects/" S63 "/locations/" S63 "/keyRings/" S63 "/cryptoKeys/" S63 "/cryptoKeyVersions/2147483647",
              NAME_VERSION, S63 "/" S63 "/" S63 "/" S63 "@2147483647");
}

/* What no call may take for a name, whatever kind it asks for. */
static const struct bytes REFUSED[] = {
    V(""), V("/"), V("projects"), V("projects/"), V("/projects/acme"), V("projects//acme"), V("projects/acme/"),
    V("projects/acme\0"), V("projects/ac\0me"), V("\0projects/acme"), V("projects/acme\0/locations/eu"),
    V("projects/Acme"), V("projects/ACME"), V("Projects/acme"), V("projects/acme "), V(" projects/acme"),
    V("projects/acme\n"), V("projects/acme\t"), V("projects/acme\r\n"), V("projects/a"), V("projects/1acme"),
    V("projects/-acme"), V("projects/acme-"), V("projects/ac_me"), V("projects/ac.me"), V("projects/.."), V("projects/."),
    V("projects/*"), V("projects/-"), V("projects/{tenant}"), V("projects/%61cme"), V("projects/acme%2flocations%2feu"),
    V("projects%2facme"), V("projects/acme%00"), V("projects/acm\xc3\xa9"), V("projects/acm\xff"), V("projects/\xc0\xaf"),
    V("projects/\xef\xbc\x81" "acme"), V("projects/" S63 "x"), V("projects/platform"), V("projects/projects"),
    V("projects/acme/locations"), V("projects/acme/locations/"), V("projects/acme/locations/EU"),
    V("projects/acme/locations/e"), V("projects/acme/locations/.."), V("projects/acme/locations/" S63 "x"),
    V("projects/acme/regions/eu"), V("projects/acme/keyRings/pii"), V("projects/acme/locations/eu/keyrings/pii"),
    V("projects/acme/locations/eu/keyRings/"), V("projects/acme/locations/eu/keyRings/p.i"),
    V("projects/acme/locations/eu/keyRings/.."), V("projects/acme/locations/eu/keyRings/../keyRings/pii"),
    V("projects/acme/locations/eu/keyRings/pi%69"), V("projects/acme/locations/eu/keyRings/pi\\i"),
    V("projects/acme/locations/eu/keyRings/" S63 "x"), V("projects/acme/locations/eu/keyRings/pi\0i"),
    V("projects/acme/locations/eu/keyRings/pii/cryptoKeys"), V("projects/acme/locations/eu/keyRings/pii/keys/email"),
    V(KEY "/"), V(KEY "//"), V(KEY "@3"), V(KEY "\0"), V(KEY "/cryptoKeyVersions"), V(KEY "/cryptoKeyVersions/"),
    V(KEY "/cryptoKeyVersions/0"), V(KEY "/cryptoKeyVersions/01"), V(KEY "/cryptoKeyVersions/+1"),
    V(KEY "/cryptoKeyVersions/-1"), V(KEY "/cryptoKeyVersions/1 "), V(KEY "/cryptoKeyVersions/0x1"),
    V(KEY "/cryptoKeyVersions/1a"), V(KEY "/cryptoKeyVersions/2147483648"), V(KEY "/cryptoKeyVersions/4294967297"),
    V(KEY "/cryptoKeyVersions/18446744073709551617"), V(KEY "/cryptoKeyVersions/1/"),
    V(KEY "/cryptoKeyVersions/1/x/y"), V(KEY "/cryptoKeyVersions/primary"),
    V("projects/" S63 "/locations/" S63 "/keyRings/" S63 "/cryptoKeys/" S63 "/cryptoKeyVersions/12345678901"),
};

static void everything_else_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof REFUSED / sizeof REFUSED[0]; i++) {
        struct name n = {.kind = NAME_NONE, .version = 77};
        struct err e = {0};
        if (!name_parse_any(REFUSED[i], ~0u, "parent", &n, &e).failed)
            fail_msg("case %zu was taken: %.*s", i, (int)REFUSED[i].n, (const char *)REFUSED[i].p);
        assert_int_equal(e.code, ERR_INVALID);
        assert_string_equal(e.field, "parent");
        assert_non_null(e.hint);
        assert_int_equal(n.version, 77); /* untouched on failure */
    }
}

static void kinds_are_exact(void **state)
{
    (void)state;
    static const char *const NAMES[] = {[NAME_TENANT] = "projects/acme",
                                        [NAME_LOCATION] = "projects/acme/locations/eu",
                                        [NAME_KEYRING] = "projects/acme/locations/eu/keyRings/pii",
                                        [NAME_CRYPTOKEY] = KEY,
                                        [NAME_VERSION] = KEY "/cryptoKeyVersions/3"};
    for (unsigned have = NAME_TENANT; have <= NAME_VERSION; have++)
        for (unsigned want = NAME_NONE; want <= NAME_VERSION; want++) {
            struct name n;
            struct err e = {0};
            bool failed = name_parse(bytes_str(NAMES[have]), (enum name_kind)want, "name", &n, &e).failed;
            assert_int_equal(failed, have != want);
            assert_int_equal(e.code, have == want ? ERR_NONE : ERR_INVALID);
            bool failed_any =
                name_parse_any(bytes_str(NAMES[have]), 1u << want | 1u << NAME_VERSION, "name", &n, &e).failed;
            assert_int_equal(failed_any, have != want && have != NAME_VERSION);
        }
    struct err e = {0};
    struct name n;
    assert_true(name_parse(BYTES_LIT("x"), NAME_LOCATION, "parent", &n, &e).failed);
    assert_string_equal(e.hint, "must be projects/{tenant}/locations/{location}");
}

static void short_names_refuse_what_is_not_one(void **state)
{
    (void)state;
    static const struct bytes bad[] = {
        V(""), V("/"), V("@"), V("@3"), V("acme/"), V("/acme"), V("acme//pii"), V("acme/eu/"), V("acme/eu/pii/"),
        V("acme/eu/pii/email/"), V("acme/eu/pii/email/3"), V("acme/eu/pii/email@"), V("acme/eu/pii/email@0"),
        V("acme/eu/pii/email@03"), V("acme/eu/pii/email@3@4"), V("acme/eu/pii/email@3/x"), V("acme/eu/pii@3"),
        V("acme/eu@3"), V("acme@3"), V("Acme"), V("acme/EU"), V("acme/../pii"), V("acme/eu/%2f"), V("acme/eu/pi\0i"),
        V("acme\0"), V("projects/acme/locations"), V("projects/acme/eu"), V("projects"), V("platform"), V("platform/eu"),
        V("acme/eu/" S63 "x"), V("acme/eu/pii/email@2147483648"), V("acme/eu/p\xc3\xad"), V("acme eu"),
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct name n;
        struct err e = {0};
        if (!name_parse_short(bad[i], &n, &e).failed)
            fail_msg("case %zu was taken: %.*s", i, (int)bad[i].n, (const char *)bad[i].p);
        assert_int_equal(e.code, ERR_INVALID);
    }
}

static void overlong_text_is_refused_before_it_is_read(void **state)
{
    (void)state;
    char *big = malloc(1 << 20);
    assert_non_null(big);
    memset(big, 'a', 1 << 20);
    memcpy(big, "projects/", 9);
    struct name n;
    struct err e = {0};
    assert_true(name_parse_any(BYTES(big, 1 << 20), ~0u, "name", &n, &e).failed);
    assert_int_equal(e.code, ERR_INVALID);
    assert_true(name_parse_short(BYTES(big + 9, (1 << 20) - 9), &n, &e).failed);
    free(big);
}

/* Any single byte put anywhere into a full name: accepted only where the grammar has it, and then byte-identical. */
static void every_byte_at_every_place(void **state)
{
    (void)state;
    static const char base[] = KEY "/cryptoKeyVersions/3";
    char text[sizeof base], out[NAME_MAX_BYTES];
    unsigned taken = 0;
    for (size_t at = 0; at < sizeof base - 1; at++)
        for (unsigned c = 0; c < 256; c++) {
            memcpy(text, base, sizeof base);
            text[at] = (char)c;
            struct name n;
            struct err e = {0};
            if (name_parse_any(BYTES(text, sizeof base - 1), ~0u, "name", &n, &e).failed)
                continue;
            taken++;
            assert_true((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
                        c == '_' || c == '/');
            assert_int_equal(name_format(&n, out), sizeof base - 1);
            assert_memory_equal(out, text, sizeof base - 1);
        }
    assert_true(taken > 300); /* a parser that refuses everything must fail here */
}

static void parents_and_equality(void **state)
{
    (void)state;
    struct name n, other, up;
    struct err e = {0};
    char out[NAME_MAX_BYTES];
    assert_false(name_parse(BYTES_LIT(KEY "/cryptoKeyVersions/3"), NAME_VERSION, "name", &n, &e).failed);
    up = name_parent(&n);
    name_format(&up, out);
    assert_string_equal(out, KEY);
    up = name_truncate(&n, NAME_LOCATION);
    name_format(&up, out);
    assert_string_equal(out, "projects/acme/locations/eu");
    assert_int_equal(up.ring.n, 0);
    up = name_truncate(&up, NAME_VERSION); /* never invents depth */
    assert_int_equal(up.kind, NAME_LOCATION);
    up = name_truncate(&n, NAME_NONE);
    up = name_parent(&up);
    assert_int_equal(up.kind, NAME_NONE);
    assert_int_equal(name_format(&up, out), 0);

    assert_true(name_equal(&n, &n));
    assert_false(name_parse(BYTES_LIT(KEY "/cryptoKeyVersions/4"), NAME_VERSION, "name", &other, &e).failed);
    assert_false(name_equal(&n, &other));
    up = name_parent(&n);
    assert_false(name_equal(&n, &up));
    other = name_parent(&other);
    assert_true(name_equal(&up, &other));
    assert_false(name_parse(BYTES_LIT("projects/acme/locations/eu/keyRings/PII/cryptoKeys/email"), NAME_CRYPTOKEY, "name",
                            &other, &e)
                     .failed);
    assert_false(name_equal(&up, &other)); /* rings and keys keep their case */
    up = name_truncate(&n, NAME_VERSION);
    assert_true(name_equal(&up, &n));
    static const char *const unlike[] = {"projects/acm2/locations/eu/keyRings/pii/cryptoKeys/email/cryptoKeyVersions/3",
                                         "projects/acme/locations/us/keyRings/pii/cryptoKeys/email/cryptoKeyVersions/3",
                                         "projects/acme/locations/eu/keyRings/pi2/cryptoKeys/email/cryptoKeyVersions/3",
                                         "projects/acme/locations/eu/keyRings/pii/cryptoKeys/emai2/cryptoKeyVersions/3",
                                         "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email/cryptoKeyVersions/33"};
    for (size_t i = 0; i < sizeof unlike / sizeof unlike[0]; i++) { /* each segment counts */
        assert_false(name_parse(bytes_str(unlike[i]), NAME_VERSION, "name", &other, &e).failed);
        assert_false(name_equal(&n, &other));
        assert_false(name_equal(&other, &n));
    }
    other = (struct name){.kind = NAME_NONE};
    assert_int_equal(name_format_short(&other, out), 0);
    assert_string_equal(out, "");
    other.kind = NAME_TENANT; /* what no parser gives: a name of nothing is still text */
    assert_int_equal(name_format(&other, out), 9);
    assert_string_equal(out, "projects/");
}

static void ids_by_kind(void **state)
{
    (void)state;
    assert_true(name_valid_id(BYTES_LIT("acme"), NAME_TENANT));
    assert_false(name_valid_id(BYTES_LIT("platform"), NAME_TENANT));
    assert_false(name_valid_id(BYTES_LIT("projects"), NAME_TENANT));
    assert_true(name_valid_id(BYTES_LIT("platform"), NAME_LOCATION));
    assert_true(name_valid_id(BYTES_LIT("platform"), NAME_KEYRING));
    assert_true(name_valid_id(BYTES_LIT("A"), NAME_CRYPTOKEY));
    assert_false(name_valid_id(BYTES_LIT("A/B"), NAME_CRYPTOKEY));
    assert_false(name_valid_id(BYTES_LIT(""), NAME_CRYPTOKEY));
    assert_true(name_valid_id(BYTES_LIT("1"), NAME_VERSION));
    assert_false(name_valid_id(BYTES_LIT("0"), NAME_VERSION));
    assert_false(name_valid_id(BYTES_LIT("acme"), NAME_NONE));
    assert_false(name_valid_id(BYTES_LIT("acme"), (enum name_kind)99));

    assert_true(name_valid_principal(BYTES_LIT("acme-orders")));
    assert_true(name_valid_principal(BYTES_LIT("a")));
    assert_true(name_valid_principal(BYTES_LIT(S63 "." S63 "x")));
    assert_false(name_valid_principal(BYTES_LIT(S63 "." S63 "xy")));
    assert_false(name_valid_principal(BYTES_LIT("")));
    assert_false(name_valid_principal(BYTES_LIT("*")));
    assert_false(name_valid_principal(BYTES_LIT("Acme")));
    assert_false(name_valid_principal(BYTES_LIT("-acme")));
    assert_false(name_valid_principal(BYTES_LIT("acme.")));
    assert_false(name_valid_principal(BYTES_LIT("ac\0me")));
    for (const char *c = "._-"; *c; c++) { /* inside, and nowhere else */
        uint8_t in[] = {'a', (uint8_t)*c, 'b'};
        assert_true(name_valid_principal(BYTES(in, 3)));
        assert_false(name_valid_principal(BYTES(in, 2)));
        assert_false(name_valid_principal(BYTES(in + 1, 2)));
        assert_false(name_valid_principal(BYTES(in + 1, 1)));
    }
    assert_false(name_valid_principal(BYTES_LIT("ac me")));
}

/* Each level alone: what a truncated name keeps and what it drops; what two names of that level must share. */
static void every_level_counts(void **state)
{
    (void)state;
    struct name n, unlike[5], cut, other;
    struct err e = {0};
    char out[NAME_MAX_BYTES];
    static const char *const one = KEY "/cryptoKeyVersions/3";
    static const char *const texts[] = {"projects/acm2/locations/eu/keyRings/pii/cryptoKeys/email/cryptoKeyVersions/3",
                                        "projects/acme/locations/us/keyRings/pii/cryptoKeys/email/cryptoKeyVersions/3",
                                        "projects/acme/locations/eu/keyRings/pi2/cryptoKeys/email/cryptoKeyVersions/3",
                                        "projects/acme/locations/eu/keyRings/pii/cryptoKeys/emai2/cryptoKeyVersions/3",
                                        "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email/cryptoKeyVersions/33"};
    assert_false(name_parse(bytes_str(one), NAME_VERSION, "name", &n, &e).failed);
    for (size_t i = 0; i < 5; i++)
        assert_false(name_parse(bytes_str(texts[i]), NAME_VERSION, "name", &unlike[i], &e).failed);
    for (enum name_kind kind = NAME_NONE; kind <= NAME_VERSION; kind++) {
        cut = name_truncate(&n, kind);
        assert_int_equal(cut.kind, kind);
        assert_int_equal(cut.tenant.n, kind >= NAME_TENANT ? 4 : 0);
        assert_int_equal(cut.location.n, kind >= NAME_LOCATION ? 2 : 0);
        assert_int_equal(cut.ring.n, kind >= NAME_KEYRING ? 3 : 0);
        assert_int_equal(cut.key.n, kind >= NAME_CRYPTOKEY ? 5 : 0);
        assert_int_equal(cut.version, kind >= NAME_VERSION ? 3 : 0);
        memset(out, 'x', sizeof out);
        size_t full = name_format(&cut, out);
        assert_int_equal(full, strlen(out));
        memset(out, 'x', sizeof out);
        size_t brief = name_format_short(&cut, out);
        assert_int_equal(brief, strlen(out));
        for (enum name_kind differs = NAME_TENANT; differs <= NAME_VERSION; differs++) {
            other = name_truncate(&unlike[differs - 1], kind);
            assert_int_equal(name_equal(&cut, &other), kind < differs);
        }
    }
}

/* The ends of each alphabet, and what only looks like nothing. */
static void the_ends_of_alphabets(void **state)
{
    (void)state;
    struct name n;
    struct err e = {0};
    assert_true(name_valid_id(BYTES_LIT("azAZ09_-"), NAME_KEYRING));
    assert_true(name_valid_id(BYTES_LIT("az-09"), NAME_LOCATION));
    assert_true(name_valid_principal(BYTES_LIT("az09")));
    for (const char *c = "`{@[/:"; *c; c++) { /* the neighbours of a z A Z 0 9 */
        uint8_t in[] = {'a', (uint8_t)*c, 'b'};
        assert_false(name_valid_id(BYTES(in, 3), NAME_TENANT));
        assert_false(name_valid_id(BYTES(in, 3), NAME_KEYRING));
        assert_false(name_valid_principal(BYTES(in, 3)));
    }
    assert_true(name_valid_id(BYTES_LIT("1029384756"), NAME_VERSION));
    assert_true(name_valid_id(BYTES_LIT("9"), NAME_VERSION));
    assert_false(name_valid_id(BYTES_LIT("1/"), NAME_VERSION));
    assert_false(name_valid_id(BYTES_LIT("1:"), NAME_VERSION));
    assert_true(name_valid_id(BYTES_LIT("2147483647"), NAME_VERSION));
    assert_false(name_valid_id(BYTES_LIT("2147483648"), NAME_VERSION));
    assert_true(name_parse_any((struct bytes){0}, ~0u, "name", &n, &e).failed);
    assert_true(name_parse_short((struct bytes){0}, &n, &e).failed);
    assert_true(name_parse_any(BYTES_LIT(""), ~0u, "name", &n, &e).failed);
    e = (struct err){0};
    assert_true(name_parse(BYTES_LIT("x"), NAME_VERSION, "name", &n, &e).failed);
    assert_non_null(strstr(e.hint, "cryptoKeyVersions/{number}"));
    assert_null(strstr(e.hint, "["));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(canonical_names_round_trip),
        cmocka_unit_test(everything_else_is_refused),
        cmocka_unit_test(kinds_are_exact),
        cmocka_unit_test(short_names_refuse_what_is_not_one),
        cmocka_unit_test(overlong_text_is_refused_before_it_is_read),
        cmocka_unit_test(every_byte_at_every_place),
        cmocka_unit_test(parents_and_equality),
        cmocka_unit_test(ids_by_kind),
        cmocka_unit_test(every_level_counts),
        cmocka_unit_test(the_ends_of_alphabets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
