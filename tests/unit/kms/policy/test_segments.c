/* The template {tenant} is the caller's tenant as one segment: whatever that text is, it is never split, never a pattern of its own,
 * and matches nothing but itself. */
#include "kms/policy/pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const char *const NAMES[] = {
    "projects/acme", "projects/globex", "projects/acme/locations/eu", "projects/globex/locations/eu", "projects/acme/locations/eu/keyRings/globex",
    "projects/globex/locations/eu/keyRings/acme", "projects/locations/locations/projects-x/keyRings/keyRings/cryptoKeys/cryptoKeys",
    "projects/globex/locations/acme/keyRings/acme/cryptoKeys/acme/cryptoKeyVersions/1",
};
static const char *const PATTERNS[] = {
    "projects/{tenant}", "projects/{tenant}/**", "projects/{tenant}/locations/*", "projects/{tenant}/locations/*/keyRings/acme",
    "projects/{tenant}/locations/acme/keyRings/*/cryptoKeys/*/**",
};
/* What a caller's tenant could be if every check before this one had failed. */
static const char *const TENANTS[] = {
    "", "*", "**", "{tenant}", "acme/", "/acme", "acme/locations/eu", "globex/locations/eu/keyRings/acme", "..", "../globex", "acme/../globex", ".",
    "acm", "acmee", "ACME", " acme", "acme ", "%2a", "acme%2flocations", "projects/globex", "globex\xe2\x80\x8b", "*/locations/eu", "acme\nglobex",
};

static struct name parsed(const char *text)
{
    struct name n;
    struct err e = {0};
    assert_false(name_parse_any(bytes_str(text), ~0u, "name", &n, &e).failed);
    return n;
}

static void only_the_callers_own_tenant_matches(void **state)
{
    (void)state;
    unsigned matched = 0;
    for (size_t p = 0; p < sizeof PATTERNS / sizeof PATTERNS[0]; p++) {
        struct pattern pattern;
        assert_null(pattern_parse(bytes_str(PATTERNS[p]), &pattern));
        for (size_t n = 0; n < sizeof NAMES / sizeof NAMES[0]; n++) {
            struct name name = parsed(NAMES[n]);
            for (size_t t = 0; t < sizeof TENANTS / sizeof TENANTS[0]; t++)
                if (pattern_match(&pattern, &name, bytes_str(TENANTS[t])))
                    fail_msg("'%s' as a tenant reaches %s by %s", TENANTS[t], NAMES[n], PATTERNS[p]);
            matched += pattern_match(&pattern, &name, name.tenant); /* the twin */
            struct bytes nul = BYTES("acme\0x", 6);
            assert_false(pattern_match(&pattern, &name, nul));
        }
    }
    assert_true(matched > 10);
}

/* And in a document nothing but the template stands for it. */
static void templates_are_whole_segments(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "projects/{tenant}x", "projects/x{tenant}", "projects/{ tenant }", "projects/{Tenant}", "projects/{tenant}/locations/{tenant}", "projects/{}",
        "projects/{tenant", "projects/tenant}", "projects/{tenant}{tenant}", "projects/{tenant}/locations/e*", "projects/a*", "projects/*x",
        "projects/***", "projects/{tenant}//locations/eu", "projects/{tenant}/", "/projects/{tenant}", "projects/../locations/eu", "projects/%2a",
        "projects/acme%2flocations/eu", "projects/{tenant}/locations", "{tenant}", "{tenant}/**", "**/locations/eu", "projects/**/locations/eu", "",
    };
    struct pattern p;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (pattern_parse(bytes_str(bad[i]), &p) == NULL)
            fail_msg("%s is a pattern", bad[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(only_the_callers_own_tenant_matches), cmocka_unit_test(templates_are_whole_segments)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
