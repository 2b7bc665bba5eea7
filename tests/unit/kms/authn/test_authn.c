#include "kms/authn/authn.h"

#include "tests/unit/kms/authn/certs.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

#define SPIFFE_ORDERS "spiffe://" CERTS_DOMAIN "/acme/orders"
#define SECOND INT64_C(1000000000)

static struct cert root, other_root, orders, stranger;
static struct fake_clock fake;
static char pem[16384], other_pem[16384];
static struct bytes ca, other_ca;

static const struct principal ORDERS = {.name = "acme-orders", .san = SPIFFE_ORDERS, .tenant = "acme", .state = PRINCIPAL_ACTIVE};
static const struct principal ADMIN = {.name = "admin", .san = "dns:admin.example", .state = PRINCIPAL_ACTIVE};

static int setup(void **state)
{
    (void)state;
    root = cert_make(CA_SPEC("root", NULL));
    other_root = cert_make(CA_SPEC("other", NULL));
    orders = cert_make(LEAF_SPEC("x", &root, "URI:" SPIFFE_ORDERS));
    stranger = cert_make(LEAF_SPEC("x", &other_root, "URI:" SPIFFE_ORDERS));
    ca = certs_pem(pem, sizeof pem, &root, 1);
    other_ca = certs_pem(other_pem, sizeof other_pem, &other_root, 1);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cert_free(&root);
    cert_free(&other_root);
    cert_free(&orders);
    cert_free(&stranger);
    return 0;
}

static struct authn *make(void)
{
    struct authn *a = NULL;
    struct err e = {0};
    fake_clock_init(&fake, CERTS_NOW * SECOND, SECOND);
    struct authn_options o = {.clock = &fake.c, .ca_pem = ca, .trust_domain = CERTS_DOMAIN};
    assert_false(authn_new(&o, &a, &e).failed);
    struct principal list[] = {ADMIN, ORDERS};
    assert_false(authn_set_principals(a, list, 2, &e).failed);
    return a;
}

/* CONN_NEW's body for this id and these certificates. */
static void notice(struct buf *out, uint8_t id, const struct cert *const *chain, size_t n)
{
    uint8_t whole_id[IPC_CONN_ID_BYTES], der[4096];
    memset(whole_id, id, sizeof whole_id);
    buf_init(out, 65536);
    buf_put(out, whole_id, sizeof whole_id);
    buf_put_v16(out, BYTES_LIT("public"));
    buf_put_v16(out, BYTES_LIT("192.0.2.7:55555"));
    buf_put_u8(out, (uint8_t)n);
    for (size_t i = 0; i < n; i++)
        buf_put_v32(out, cert_der(chain[i], der, sizeof der));
}

static struct authn_conn *connect_with(struct authn *a, uint8_t id, const struct cert *leaf)
{
    struct buf b;
    struct err e = {0};
    uint8_t got[IPC_CONN_ID_BYTES];
    char peer[64] = "unix-abstract:clv-";
    notice(&b, id, &leaf, leaf ? 1 : 0);
    assert_false(authn_conn_add(a, buf_bytes(&b), got, &e).failed);
    buf_release(&b);
    hex_encode(got, sizeof got, peer + strlen(peer));
    struct authn_conn *c = authn_conn_by_peer(a, peer);
    assert_non_null(c);
    return c;
}

static void expect_call(struct authn *a, struct authn_conn *c, const char *name, const char *cause)
{
    struct identity id = {0};
    struct err e = {0};
    bool failed = authn_call(a, c, &id, &e).failed;
    if (!name) {
        assert_true(failed);
        assert_int_equal(e.code, ERR_UNAUTHENTICATED);
        assert_null(e.reason); /* nothing public tells one cause from another */
        assert_null(e.hint);
        assert_null(e.field);
        if (!strstr(e.detail, cause))
            fail_msg("wanted '%s', got '%s'", cause, e.detail);
        return;
    }
    if (failed)
        fail_msg("refused: %s", e.detail);
    assert_string_equal(id.principal->name, name);
    assert_string_equal(id.auth_method, "mtls");
    assert_true(bytes_equal(id.address, BYTES_LIT("192.0.2.7:55555")));
    assert_true(bytes_equal(id.listener, BYTES_LIT("public")));
    authn_identity_release(&id);
    assert_null(id.principal);
    authn_identity_release(&id);
}

static void a_registered_certificate_is_its_principal(void **state)
{
    (void)state;
    struct authn *a = make();
    struct authn_conn *c = connect_with(a, 1, &orders);
    uint8_t der[4096], want[32];
    struct bytes leaf = cert_der(&orders, der, sizeof der);
    EVP_Digest(leaf.p, leaf.n, want, NULL, EVP_sha256(), NULL);
    struct identity id;
    struct err e = {0};
    assert_false(authn_call(a, c, &id, &e).failed);
    assert_string_equal(id.principal->tenant, "acme");
    assert_memory_equal(id.cert_sha256, want, 32);
    assert_true(bytes_equal(authn_conn_certificate(c), BYTES(want, 32)));
    /* What a call holds outlives connection, registry and table. */
    authn_conn_unref(c);
    assert_false(authn_set_principals(a, NULL, 0, &e).failed);
    authn_free(a);
    assert_string_equal(id.principal->name, "acme-orders");
    assert_true(bytes_equal(id.address, BYTES_LIT("192.0.2.7:55555")));
    authn_identity_release(&id);
}

static void bad_certificates_are_recorded_and_refused_call_by_call(void **state)
{
    (void)state;
    struct authn *a = make();
    struct authn_conn *none = connect_with(a, 1, NULL), *foreign = connect_with(a, 2, &stranger);
    struct cert unknown = cert_make(LEAF_SPEC("x", &root, "URI:spiffe://" CERTS_DOMAIN "/acme/nobody"));
    struct authn_conn *nobody = connect_with(a, 3, &unknown);
    expect_call(a, none, NULL, "no client certificate");
    expect_call(a, foreign, NULL, "certificate 1 of the chain");
    expect_call(a, nobody, NULL, "no principal is registered");
    assert_int_equal(authn_conn_certificate(none).n, 0);
    assert_int_equal(authn_conn_certificate(foreign).n, 32); /* the audit trail names what was shown */
    assert_true(bytes_equal(authn_conn_address(foreign), BYTES_LIT("192.0.2.7:55555")));
    authn_conn_unref(none);
    authn_conn_unref(foreign);
    authn_conn_unref(nobody);
    cert_free(&unknown);
    authn_free(a);
}

static void chains_over_the_limits_are_refused_like_bad_ones(void **state)
{
    (void)state;
    struct authn *a = make();
    const struct cert *many[AUTHN_CHAIN_MAX + 1];
    for (size_t i = 0; i < AUTHN_CHAIN_MAX + 1; i++)
        many[i] = &orders;
    struct buf b;
    struct err e = {0};
    uint8_t id[IPC_CONN_ID_BYTES];
    notice(&b, 1, many, AUTHN_CHAIN_MAX + 1);
    assert_false(authn_conn_add(a, buf_bytes(&b), id, &e).failed);
    buf_release(&b);
    struct authn_conn *c = authn_conn_by_peer(a, "unix-abstract:clv-01010101010101010101010101010101");
    expect_call(a, c, NULL, "over the limit");
    assert_false(authn_reload_trust(a, ca, (struct bytes){0}, &e).failed);
    expect_call(a, c, NULL, "over the limit"); /* a reload does not forget it */
    authn_conn_unref(c);
    authn_free(a);
}

static void times_are_checked_on_every_call(void **state)
{
    (void)state;
    struct authn *a = make();
    struct authn_conn *c = connect_with(a, 1, &orders);
    expect_call(a, c, "acme-orders", NULL);
    fake_clock_step_wall(&fake, 180 * DAY * SECOND - SECOND);
    expect_call(a, c, "acme-orders", NULL);
    fake_clock_step_wall(&fake, SECOND);
    expect_call(a, c, NULL, "not valid at this time");
    fake_clock_step_wall(&fake, -360 * DAY * SECOND - SECOND);
    expect_call(a, c, NULL, "not valid at this time");
    fake_clock_step_wall(&fake, SECOND);
    expect_call(a, c, "acme-orders", NULL);
    authn_conn_unref(c);
    authn_free(a);
}

static void a_chain_refused_by_a_wrong_clock_is_looked_at_again(void **state)
{
    (void)state;
    struct authn *a = make();
    fake_clock_step_wall(&fake, 3600 * DAY * SECOND);
    struct authn_conn *c = connect_with(a, 1, &orders);
    expect_call(a, c, NULL, "certificate");
    fake_clock_step_wall(&fake, -3600 * DAY * SECOND);
    expect_call(a, c, NULL, "certificate"); /* not for every call: validating is dear */
    fake_clock_advance(&fake, SECOND);
    expect_call(a, c, "acme-orders", NULL);
    authn_conn_unref(c);
    authn_free(a);
}

static void disabling_and_removing_take_effect_on_the_next_call(void **state)
{
    (void)state;
    struct authn *a = make();
    struct authn_conn *c = connect_with(a, 1, &orders);
    struct principal p = ORDERS;
    struct err e = {0};
    expect_call(a, c, "acme-orders", NULL);
    p.state = PRINCIPAL_DISABLED;
    assert_false(authn_set_principals(a, &p, 1, &e).failed);
    expect_call(a, c, NULL, "disabled");
    p.state = PRINCIPAL_ACTIVE;
    assert_false(authn_set_principals(a, &p, 1, &e).failed);
    expect_call(a, c, "acme-orders", NULL);
    assert_false(authn_set_principals(a, &ADMIN, 1, &e).failed);
    expect_call(a, c, NULL, "no principal is registered");
    authn_conn_unref(c);
    authn_free(a);
}

/* Who was let in for an hour is out after it by whichever clock says so first. */
static void a_recovery_ends_by_both_clocks(void **state)
{
    (void)state;
    const int64_t hour = 3600 * SECOND;
    struct authn *a = make();
    struct err e = {0};
    struct principal p = {.name = "rescue", .san = SPIFFE_ORDERS, .state = PRINCIPAL_ACTIVE, .recovery = true,
                          .from_unix_ns = CERTS_NOW * SECOND, .until_unix_ns = CERTS_NOW * SECOND + hour, .until_boot_ns = SECOND + hour};
    assert_false(authn_set_principals(a, &p, 1, &e).failed);
    struct authn_conn *c = connect_with(a, 1, &orders);
    expect_call(a, c, "rescue", NULL);
    fake_clock_step_wall(&fake, -1); /* before it was made */
    expect_call(a, c, NULL, "time has ended");
    fake_clock_step_wall(&fake, hour);
    expect_call(a, c, "rescue", NULL); /* the last nanosecond by the wall */
    fake_clock_step_wall(&fake, 1);
    expect_call(a, c, NULL, "time has ended");
    fake_clock_step_wall(&fake, -hour);
    expect_call(a, c, "rescue", NULL);
    fake_clock_advance(&fake, hour / 2);
    fake_clock_step_wall(&fake, -hour / 2); /* set back again and again */
    expect_call(a, c, "rescue", NULL);
    fake_clock_advance(&fake, hour / 2);
    fake_clock_step_wall(&fake, -hour / 2); /* does not prolong it */
    expect_call(a, c, NULL, "time has ended");
    p.until_boot_ns = 0; /* of another boot */
    assert_false(authn_set_principals(a, &p, 1, &e).failed);
    expect_call(a, c, NULL, "time has ended");
    authn_conn_unref(c);
    authn_free(a);
}

static void new_trust_is_applied_to_open_connections(void **state)
{
    (void)state;
    char list[8192];
    struct authn *a = make();
    struct authn_conn *c = connect_with(a, 1, &orders);
    struct err e = {0};
    expect_call(a, c, "acme-orders", NULL);
    assert_true(authn_reload_trust(a, BYTES_LIT("garbage"), (struct bytes){0}, &e).failed);
    assert_int_equal(e.code, ERR_INVALID);
    expect_call(a, c, "acme-orders", NULL); /* all or nothing */
    assert_false(authn_reload_trust(a, other_ca, (struct bytes){0}, &e).failed);
    expect_call(a, c, NULL, "certificate 1 of the chain");
    assert_false(authn_reload_trust(a, ca, (struct bytes){0}, &e).failed);
    expect_call(a, c, "acme-orders", NULL);
    long serial = ASN1_INTEGER_get(X509_get0_serialNumber(orders.x509));
    assert_false(authn_reload_trust(a, ca, crl_pem(list, sizeof list, &root, serial, CERTS_NOW + DAY), &e).failed);
    expect_call(a, c, NULL, "revoked");
    assert_false(authn_reload_trust(a, ca, crl_pem(list, sizeof list, &root, 1, CERTS_NOW + DAY), &e).failed);
    expect_call(a, c, "acme-orders", NULL);
    fake_clock_step_wall(&fake, DAY * SECOND); /* and an outdated list is no list */
    expect_call(a, c, NULL, "not valid at this time");
    authn_conn_unref(c);
    authn_free(a);
}

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

struct caller {
    struct authn *a;
    struct authn_conn *c;
    unsigned allowed, refused;
    bool wrong;
};
static void *call_often(void *arg)
{
    struct caller *w = arg;
    for (int i = 0; i < 3000; i++) {
        struct identity id;
        struct err e = {0};
        if (authn_call(w->a, w->c, &id, &e).failed) {
            w->wrong = w->wrong || e.code != ERR_UNAUTHENTICATED;
            w->refused++;
            continue;
        }
        w->wrong = w->wrong || id.principal->state != PRINCIPAL_ACTIVE || strcmp(id.principal->name, "acme-orders") != 0;
        authn_identity_release(&id);
        w->allowed++;
    }
    return NULL;
}

static void calls_and_changes_at_once(void **state)
{
    (void)state;
    struct authn *a = make();
    struct authn_conn *c = connect_with(a, 1, &orders);
    struct caller w[3];
    pthread_t t[3];
    struct principal p = ORDERS;
    struct err e = {0};
    for (int i = 0; i < 3; i++) {
        w[i] = (struct caller){.a = a, .c = c};
        assert_int_equal(pthread_create(&t[i], NULL, call_often, &w[i]), 0);
    }
    for (int i = 0; i < 30; i++) {
        p.state = i % 2 ? PRINCIPAL_ACTIVE : PRINCIPAL_DISABLED;
        assert_false(authn_set_principals(a, &p, 1, &e).failed);
        assert_false(authn_reload_trust(a, ca, (struct bytes){0}, &e).failed);
        struct authn_conn *other = connect_with(a, (uint8_t)(10 + i), &orders);
        expect_call(a, other, i % 2 ? "acme-orders" : NULL, "disabled");
        uint8_t id[IPC_CONN_ID_BYTES];
        memset(id, 10 + i, sizeof id);
        authn_conn_closed(a, id);
        authn_conn_unref(other);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(t[i], NULL);
        assert_false(w[i].wrong);
        assert_int_equal(w[i].allowed + w[i].refused, 3000);
    }
    authn_conn_unref(c);
    authn_free(a);
}

static void a_call_costs_little(void **state)
{
    (void)state;
    struct authn *a = make();
    struct authn_conn *c = connect_with(a, 1, &orders);
    struct timespec t0, t1;
    enum { N = 100000 };
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (int i = 0; i < N; i++) {
        struct identity id;
        struct err e;
        assert_false(authn_call(a, c, &id, &e).failed);
        authn_identity_release(&id);
    }
    clock_gettime(CLOCK_MONOTONIC, &t1);
    int64_t ns = ((t1.tv_sec - t0.tv_sec) * SECOND + (t1.tv_nsec - t0.tv_nsec)) / N;
    printf("authn_call and release: %lld ns\n", (long long)ns);
    assert_in_range(ns, 0, 20000); /* a lookup by chain would cost 100,000 and more, even under a sanitizer */
    authn_conn_unref(c);
    authn_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_registered_certificate_is_its_principal),
        cmocka_unit_test(bad_certificates_are_recorded_and_refused_call_by_call),
        cmocka_unit_test(chains_over_the_limits_are_refused_like_bad_ones),
        cmocka_unit_test(times_are_checked_on_every_call),
        cmocka_unit_test(a_chain_refused_by_a_wrong_clock_is_looked_at_again),
        cmocka_unit_test(disabling_and_removing_take_effect_on_the_next_call),
        cmocka_unit_test(a_recovery_ends_by_both_clocks),
        cmocka_unit_test(new_trust_is_applied_to_open_connections),
        cmocka_unit_test(peers_are_known_by_exact_id_only),
        cmocka_unit_test(broken_notices_are_refused),
        cmocka_unit_test(the_registry_refuses_ambiguity),
        cmocka_unit_test(principals_have_a_grammar),
        cmocka_unit_test(calls_and_changes_at_once),
        cmocka_unit_test(a_call_costs_little),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
