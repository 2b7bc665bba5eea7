/* What may be registered, connections and principals; all else is refused. */
#include "tests/unit/kms/authn/parties.h"

static void peers_are_known_by_exact_id_only(void **state)
{
    (void)state;
    struct authn *a = make();
    authn_conn_unref(connect_with(a, 0xab, &orders));
#define HEX "abababababababababababababababab"
    static const char *const good[] = {"unix-abstract:clv-" HEX, "unix:%00clv-" HEX, "unix:@clv-" HEX};
    static const char *const bad[] = {
        NULL, "", "clv-" HEX, HEX, "unix-abstract:clv-" HEX "0", "unix-abstract:clv-" HEX "/", "unix-abstract:clv-abab", "unix-abstract:clv-",
        "unix-abstract:", "unix:clv-" HEX, "unix:/tmp/clv-" HEX, "ipv4:127.0.0.1:1", "unix-abstract:clv-acababababababababababababababab",
        "unix-abstract:clv-gbababababababababababababababab", "unix-abstract:xclv-" HEX, "unix-abstract:clv- " HEX,
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct authn_conn *c = authn_conn_by_peer(a, good[i]);
        assert_non_null(c);
        authn_conn_unref(c);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_null(authn_conn_by_peer(a, bad[i]));
    uint8_t id[IPC_CONN_ID_BYTES];
    memset(id, 0xab, sizeof id);
    authn_conn_closed(a, id);
    authn_conn_closed(a, id);
    assert_null(authn_conn_by_peer(a, good[0])); /* closed: unknown */
    authn_free(a);
}

static void broken_notices_are_refused(void **state)
{
    (void)state;
    struct authn *a = make();
    struct buf b;
    struct err e = {0};
    uint8_t id[IPC_CONN_ID_BYTES] = {0};
    const struct cert *leaf = &orders;
    notice(&b, 5, &leaf, 1);
    for (size_t n = 0; n < b.n; n++) { /* cut at every byte */
        e = (struct err){0};
        assert_true(authn_conn_add(a, BYTES(b.p, n), id, &e).failed);
        assert_int_equal(e.code, ERR_INVALID);
        assert_int_equal(id[0], 0);
    }
    buf_put_u8(&b, 0);
    assert_true(authn_conn_add(a, buf_bytes(&b), id, &e).failed); /* a byte too many */
    b.n--;
    assert_false(authn_conn_add(a, buf_bytes(&b), id, &e).failed);
    e = (struct err){0};
    assert_true(authn_conn_add(a, buf_bytes(&b), id, &e).failed); /* ids are never re-used while open */
    assert_int_equal(e.code, ERR_EXISTS);
    buf_release(&b);

    static const char *const labels[] = {"a\nb", "\x01", "\xff", "0123456789012345678901234567890123456789012345678901234567890123456789"};
    for (size_t i = 0; i < sizeof labels / sizeof labels[0]; i++) {
        uint8_t raw[IPC_CONN_ID_BYTES] = {9, (uint8_t)i};
        buf_init(&b, 4096);
        buf_put(&b, raw, sizeof raw);
        buf_put_v16(&b, BYTES_LIT("public"));
        buf_put_v16(&b, bytes_str(labels[i]));
        buf_put_u8(&b, 0);
        e = (struct err){0};
        assert_true(authn_conn_add(a, buf_bytes(&b), id, &e).failed);
        assert_int_equal(e.code, ERR_INVALID);
        buf_release(&b);
    }
    authn_free(a);
}

static void the_registry_refuses_ambiguity(void **state)
{
    (void)state;
    struct authn *a = make();
    struct authn_conn *c = connect_with(a, 1, &orders);
    struct err e = {0};
    struct principal twice[] = {ORDERS, ADMIN, ORDERS};
    memcpy(twice[2].san, "dns:other.example", 18);
    assert_true(authn_set_principals(a, twice, 3, &e).failed); /* one name */
    assert_int_equal(e.code, ERR_INVALID);
    twice[2] = ORDERS;
    memcpy(twice[2].name, "acme-other", 11);
    e = (struct err){0};
    assert_true(authn_set_principals(a, twice, 3, &e).failed); /* one certificate name */
    assert_int_equal(e.code, ERR_INVALID);
    expect_call(a, c, "acme-orders", NULL); /* the old snapshot still serves */
    authn_conn_unref(c);
    authn_free(a);
}

static void principals_have_a_grammar(void **state)
{
    (void)state;
    static const struct {
        struct principal p;
        const char *field;
    } cases[] = {
        {{.name = "a", .san = "dns:a.example", .state = PRINCIPAL_ACTIVE}, NULL},
        {{.name = "a", .san = SPIFFE_ORDERS, .tenant = "acme", .state = PRINCIPAL_DISABLED}, NULL},
        {{.name = "", .san = "dns:a.example", .state = PRINCIPAL_ACTIVE}, "name"},
        {{.name = "A", .san = "dns:a.example", .state = PRINCIPAL_ACTIVE}, "name"},
        {{.name = "*", .san = "dns:a.example", .state = PRINCIPAL_ACTIVE}, "name"},
        {{.name = "a", .san = "", .state = PRINCIPAL_ACTIVE}, "san"},
        {{.name = "a", .san = "a.example", .state = PRINCIPAL_ACTIVE}, "san"},
        {{.name = "a", .san = "spiffe://elsewhere/x", .state = PRINCIPAL_ACTIVE}, "san"},
        {{.name = "a", .san = "dns:A.example", .state = PRINCIPAL_ACTIVE}, "san"},
        {{.name = "a", .san = "dns:a.example", .tenant = "Acme", .state = PRINCIPAL_ACTIVE}, "tenant"},
        {{.name = "a", .san = "dns:a.example", .tenant = "platform", .state = PRINCIPAL_ACTIVE}, "tenant"},
        {{.name = "a", .san = "dns:a.example"}, "state"},
        {{.name = "a", .san = "dns:a.example", .state = (enum principal_state)3}, "state"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct err e = {0};
        assert_int_equal(authn_principal_check(&cases[i].p, CERTS_DOMAIN, &e).failed, cases[i].field != NULL);
        assert_int_equal(e.code, cases[i].field ? ERR_INVALID : ERR_NONE);
        if (cases[i].field)
            assert_string_equal(e.field, cases[i].field);
    }
    struct principal unterminated = ORDERS;
    struct err e = {0};
    memset(unterminated.san, 'a', sizeof unterminated.san);
    assert_true(authn_principal_check(&unterminated, CERTS_DOMAIN, &e).failed);
    unterminated = ORDERS;
    memset(unterminated.tenant, 'a', sizeof unterminated.tenant);
    assert_true(authn_principal_check(&unterminated, CERTS_DOMAIN, &e).failed);
    unterminated = ORDERS;
    memset(unterminated.name, 'a', sizeof unterminated.name);
    assert_true(authn_principal_check(&unterminated, CERTS_DOMAIN, &e).failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(peers_are_known_by_exact_id_only),
        cmocka_unit_test(broken_notices_are_refused),
        cmocka_unit_test(the_registry_refuses_ambiguity),
        cmocka_unit_test(principals_have_a_grammar),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
