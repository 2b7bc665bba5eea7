/* Who calls: the certificate of a connection and what is registered now, asked on every call. */
#include "tests/unit/kms/authn/parties.h"

#include <pthread.h>
#include <time.h>

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
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t0); /* what others do on the machine is no cost of ours */
    for (int i = 0; i < N; i++) {
        struct identity id;
        struct err e;
        assert_false(authn_call(a, c, &id, &e).failed);
        authn_identity_release(&id);
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t1);
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
        cmocka_unit_test(calls_and_changes_at_once),
        cmocka_unit_test(a_call_costs_little),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
