#include "kms/authn/chain.h"

#include "kms/authn/authn.h"
#include "tests/unit/kms/authn/certs.h"

#define URI_ORDERS "URI:spiffe://" CERTS_DOMAIN "/acme/orders"

static struct cert root, middle, other_root;
static char pem[16384];

static int setup(void **state)
{
    (void)state;
    root = cert_make(CA_SPEC("root", NULL));
    middle = cert_make(CA_SPEC("middle", &root));
    other_root = cert_make(CA_SPEC("root", NULL)); /* the same name, another key */
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cert_free(&root);
    cert_free(&middle);
    cert_free(&other_root);
    return 0;
}

static struct trust *trust_in(const struct cert *ca, struct bytes crl)
{
    struct trust *t = NULL;
    struct err e = {0};
    assert_false(trust_new(certs_pem(pem, sizeof pem, ca, 1), crl, CERTS_DOMAIN, &t, &e).failed);
    return t;
}

/* Checks leaf (and one intermediate, if any); "" means accepted, else part of the cause. */
static void check_at(const struct trust *t, int64_t now, const struct cert *leaf, const struct cert *via, const char *cause,
                     struct verdict *ret)
{
    uint8_t a[4096], b[4096];
    struct bytes chain[2] = {cert_der(leaf, a, sizeof a)};
    if (via)
        chain[1] = cert_der(via, b, sizeof b);
    struct err e = {0};
    struct verdict v = {0};
    bool failed = trust_check(t, now, chain, via ? 2 : 1, &v, &e).failed;
    if (failed != (cause[0] != '\0') || (failed && !strstr(e.detail, cause)))
        fail_msg("wanted '%s', got '%s'", cause, failed ? e.detail : "accepted");
    assert_int_equal(e.code, failed ? ERR_UNAUTHENTICATED : ERR_NONE);
    assert_int_equal(ERR_peek_error(), 0); /* nothing left in this thread's queue */
    if (ret)
        *ret = v;
}

static void check(const struct spec *s, const struct cert *via, const char *cause)
{
    struct trust *t = trust_in(&root, (struct bytes){0});
    struct cert leaf = cert_make(*s);
    check_at(t, CERTS_NOW, &leaf, via, cause, NULL);
    cert_free(&leaf);
    trust_unref(t);
}

static void good_chains_name_their_holder(void **state)
{
    (void)state;
    struct trust *t = trust_in(&root, (struct bytes){0});
    struct verdict v;
    struct cert leaf = cert_make(LEAF_SPEC("x", &root, URI_ORDERS));
    check_at(t, CERTS_NOW, &leaf, NULL, "", &v);
    assert_string_equal(v.san, "spiffe://" CERTS_DOMAIN "/acme/orders");
    assert_int_equal(v.not_before_s, CERTS_NOW - 180 * DAY);
    assert_int_equal(v.not_after_s, CERTS_NOW + 180 * DAY);
    cert_free(&leaf);
    leaf = cert_make(LEAF_SPEC("x", &middle, "DNS:orders.acme.example"));
    check_at(t, CERTS_NOW, &leaf, &middle, "", &v);
    assert_string_equal(v.san, "dns:orders.acme.example");
    check_at(t, CERTS_NOW, &leaf, NULL, "unable to get local issuer", NULL);
    cert_free(&leaf);
    leaf = cert_make(LEAF_SPEC("x", &root, URI_ORDERS ",DNS:a.example,DNS:b.example")); /* a URI alone decides */
    check_at(t, CERTS_NOW, &leaf, NULL, "", &v);
    assert_string_equal(v.san, "spiffe://" CERTS_DOMAIN "/acme/orders");
    cert_free(&leaf);
    trust_unref(t);
}

static void the_window_is_the_narrowest_of_the_chain(void **state)
{
    (void)state;
    struct spec ca = CA_SPEC("short", &root);
    ca.until_s = CERTS_NOW + 3 * DAY;
    ca.from_s = CERTS_NOW - 2 * DAY;
    struct cert via = cert_make(ca), leaf = cert_make(LEAF_SPEC("x", &via, URI_ORDERS));
    struct trust *t = trust_in(&root, (struct bytes){0});
    struct verdict v;
    check_at(t, CERTS_NOW, &leaf, &via, "", &v);
    assert_int_equal(v.not_before_s, CERTS_NOW - 2 * DAY);
    assert_int_equal(v.not_after_s, CERTS_NOW + 3 * DAY);
    check_at(t, CERTS_NOW + 3 * DAY - 1, &leaf, &via, "", NULL);
    check_at(t, CERTS_NOW + 3 * DAY + 1, &leaf, &via, "certificate has expired", NULL);
    check_at(t, CERTS_NOW - 2 * DAY - 1, &leaf, &via, "not yet valid", NULL);
    cert_free(&leaf);
    cert_free(&via);
    trust_unref(t);
}

static void bad_leaves_are_refused(void **state)
{
    (void)state;
    struct spec s = LEAF_SPEC("x", &root, URI_ORDERS);
    check(&s, NULL, "");
    s.eku = "serverAuth";
    check(&s, NULL, "clientAuth");
    s.eku = NULL;
    check(&s, NULL, "clientAuth");
    s.eku = "anyExtendedKeyUsage";
    check(&s, NULL, "clientAuth");
    s = LEAF_SPEC("x", &root, URI_ORDERS);
    s.basic = "critical,CA:TRUE";
    check(&s, NULL, "CA's own certificate");
    s = LEAF_SPEC("x", &root, URI_ORDERS);
    s.usage = "critical,digitalSignature,keyCertSign";
    check(&s, NULL, "CA's own certificate");
    s = LEAF_SPEC("x", &root, URI_ORDERS);
    s.usage = "critical,keyEncipherment";
    check(&s, NULL, "certificate purpose");
    s = LEAF_SPEC("x", &root, URI_ORDERS);
    s.from_s = CERTS_NOW - 10 * DAY;
    s.until_s = CERTS_NOW - 1;
    check(&s, NULL, "expired");
    s = LEAF_SPEC("x", &root, URI_ORDERS);
    s.from_s = CERTS_NOW + 1;
    check(&s, NULL, "not yet valid");
    s = LEAF_SPEC("x", &root, URI_ORDERS);
    s.md = EVP_sha1();
    check(&s, NULL, "digest algorithm too weak");
    s = LEAF_SPEC("x", NULL, URI_ORDERS);
    check(&s, NULL, "self");
    s = LEAF_SPEC("x", &other_root, URI_ORDERS); /* the right issuer name, the wrong key */
    check(&s, NULL, "signature");
}

static void bad_names_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        NULL,
        "IP:127.0.0.1",
        "email:a@b.example",
        URI_ORDERS ",URI:spiffe://" CERTS_DOMAIN "/acme/billing",
        URI_ORDERS "," URI_ORDERS,
        "DNS:a.example,DNS:b.example",
        "URI:https://a.example/,DNS:b.example",
        "URI:dns:a.example",
        "URI:spiffe://other.domain/acme/orders",
        "URI:spiffe://" CERTS_DOMAIN,
        "URI:spiffe://" CERTS_DOMAIN "/",
        "URI:spiffe://" CERTS_DOMAIN "/acme//orders",
        "URI:spiffe://" CERTS_DOMAIN "/acme/",
        "URI:spiffe://" CERTS_DOMAIN "/acme/../globex",
        "URI:spiffe://" CERTS_DOMAIN "/acme/%2e",
        "URI:spiffe://" CERTS_DOMAIN "/acme?x=1",
        "URI:spiffe://" CERTS_DOMAIN "/acme#x",
        "URI:spiffe://user@" CERTS_DOMAIN "/acme",
        "URI:spiffe://" CERTS_DOMAIN ":443/acme",
        "URI:spiffe://" CERTS_DOMAIN ".evil/acme",
        "URI:SPIFFE://" CERTS_DOMAIN "/acme",
        "DNS:*.acme.example",
        "DNS:Orders.acme.example",
        "DNS:orders..example",
        "DNS:.example",
        "DNS:example.",
        "DNS:-a.example",
        "DNS:a_b.example",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct spec s = LEAF_SPEC("spiffe://" CERTS_DOMAIN "/acme/orders", &root, bad[i]); /* a CN never helps */
        check(&s, NULL, "certificate");
    }
    struct spec s = LEAF_SPEC("x", &root, NULL);
    s.san_nul = "spiffe://" CERTS_DOMAIN "/acme/orders|.evil";
    check(&s, NULL, "certificate name");
}

static void issuers_must_be_issuers(void **state)
{
    (void)state;
    struct spec bent[] = {CA_SPEC("m", &root), CA_SPEC("m", &root), CA_SPEC("m", &root), CA_SPEC("m", &root)};
    bent[0].basic = "critical,CA:FALSE";
    bent[1].basic = NULL;
    bent[2].usage = "critical,cRLSign";
    bent[3].usage = NULL;
    for (size_t i = 0; i < 4; i++) {
        struct cert via = cert_make(bent[i]), leaf = cert_make(LEAF_SPEC("x", &via, URI_ORDERS));
        struct trust *t = trust_in(&root, (struct bytes){0});
        check_at(t, CERTS_NOW, &leaf, &via, "certificate", NULL);
        trust_unref(t);
        struct err e = {0};
        assert_true(trust_new(certs_pem(pem, sizeof pem, &via, 1), (struct bytes){0}, CERTS_DOMAIN, &t, &e).failed);
        assert_int_equal(e.code, ERR_INVALID);
        cert_free(&leaf);
        cert_free(&via);
    }
    /* A trusted intermediate is no anchor: partial chains are off. */
    struct cert leaf = cert_make(LEAF_SPEC("x", &middle, URI_ORDERS));
    struct trust *t = trust_in(&middle, (struct bytes){0});
    check_at(t, CERTS_NOW, &leaf, NULL, "unable to get issuer", NULL);
    trust_unref(t);
    cert_free(&leaf);
    /* A leaf cannot issue, even for its own name. */
    struct cert signer = cert_make(LEAF_SPEC("s", &root, URI_ORDERS)), child = cert_make(LEAF_SPEC("x", &signer, URI_ORDERS));
    t = trust_in(&root, (struct bytes){0});
    check_at(t, CERTS_NOW, &child, &signer, "certificate", NULL);
    trust_unref(t);
    cert_free(&signer);
    cert_free(&child);
}

static void revocation_lists_are_obeyed(void **state)
{
    (void)state;
    char list[8192], two[16384];
    struct spec s = LEAF_SPEC("x", &root, URI_ORDERS);
    s.serial = 77;
    struct cert revoked = cert_make(s), fine = cert_make(LEAF_SPEC("y", &root, URI_ORDERS));
    struct cert under_middle = cert_make(LEAF_SPEC("z", &middle, URI_ORDERS));
    struct verdict v;
    struct bytes crl = crl_pem(list, sizeof list, &root, 77, CERTS_NOW + 7 * DAY);
    struct trust *t = trust_in(&root, crl);
    check_at(t, CERTS_NOW, &revoked, NULL, "revoked", NULL);
    check_at(t, CERTS_NOW, &fine, NULL, "", &v);
    assert_int_equal(v.not_after_s, CERTS_NOW + 7 * DAY); /* trust ends with the list */
    assert_int_equal(v.not_before_s, CERTS_NOW - DAY);    /* and begins with it */
    check_at(t, CERTS_NOW - 2 * DAY, &fine, NULL, "CRL is not yet valid", NULL);
    check_at(t, CERTS_NOW + 8 * DAY, &fine, NULL, "CRL has expired", NULL);
    check_at(t, CERTS_NOW, &under_middle, &middle, "unable to get certificate CRL", NULL); /* every issuer needs one */
    trust_unref(t);

    memcpy(two, list, crl.n);
    struct bytes second = crl_pem(two + crl.n, sizeof two - crl.n, &middle, 0, CERTS_NOW + 3 * DAY);
    t = trust_in(&root, BYTES(two, crl.n + second.n));
    check_at(t, CERTS_NOW, &under_middle, &middle, "", &v);
    assert_int_equal(v.not_after_s, CERTS_NOW + 3 * DAY);
    trust_unref(t);

    t = trust_in(&root, BYTES(two + crl.n, second.n)); /* the leaf's issuer has one, the intermediate's has none */
    check_at(t, CERTS_NOW, &under_middle, &middle, "unable to get certificate CRL", NULL);
    trust_unref(t);

    crl = crl_pem(list, sizeof list, &other_root, 0, CERTS_NOW + 7 * DAY); /* forged by a namesake */
    t = trust_in(&root, crl);
    check_at(t, CERTS_NOW, &fine, NULL, "CRL signature failure", NULL);
    trust_unref(t);
    cert_free(&revoked);
    cert_free(&fine);
    cert_free(&under_middle);
}

static void broken_files_are_refused(void **state)
{
    (void)state;
    char list[8192];
    struct trust *t = NULL;
    struct bytes good = certs_pem(pem, sizeof pem, &root, 1), crl = crl_pem(list, sizeof list, &root, 0, CERTS_NOW + DAY);
    char *cut = malloc(good.n * 2);
    memcpy(cut, good.p, good.n);
    memcpy(cut + good.n, good.p, good.n);
    const struct {
        struct bytes ca, crl;
        const char *domain;
    } bad[] = {
        {{0}, {0}, CERTS_DOMAIN},
        {BYTES_LIT("not PEM"), {0}, CERTS_DOMAIN},
        {BYTES(cut, good.n / 2), {0}, CERTS_DOMAIN},
        {BYTES(cut, good.n + good.n / 2), {0}, CERTS_DOMAIN}, /* a good one, then half a one */
        {good, BYTES_LIT("no list in here"), CERTS_DOMAIN},
        {good, good, CERTS_DOMAIN}, /* certificates where lists belong */
        {crl, {0}, CERTS_DOMAIN},
        {good, BYTES(list, crl.n - 40), CERTS_DOMAIN},
        {BYTES(cut, (size_t)TRUST_PEM_MAX + 1), {0}, CERTS_DOMAIN},
        {good, {0}, "UPPER"},
        {good, {0}, ""},
        {good, {0}, "a/b"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err e = {0};
        assert_true(trust_new(bad[i].ca, bad[i].crl, bad[i].domain, &t, &e).failed);
        assert_int_equal(e.code, ERR_INVALID);
        assert_null(t);
    }
    free(cut);
    t = trust_in(&root, crl);
    trust_unref(t);
    trust_unref(NULL);
}

static void broken_chains_are_refused(void **state)
{
    (void)state;
    struct trust *t = trust_in(&root, (struct bytes){0});
    struct cert leaf = cert_make(LEAF_SPEC("x", &root, URI_ORDERS));
    uint8_t der[4096];
    struct bytes good = cert_der(&leaf, der, sizeof der - 1), seven[7];
    struct verdict v;
    struct err e = {0};
    assert_true(trust_check(t, CERTS_NOW, NULL, 0, &v, &e).failed);
    assert_int_equal(e.code, ERR_UNAUTHENTICATED);
    assert_string_equal(e.detail, "no client certificate");
    for (size_t i = 0; i < 7; i++)
        seven[i] = good;
    assert_false(trust_check(t, CERTS_NOW, seven, AUTHN_CHAIN_MAX, &v, &e).failed);
    assert_true(trust_check(t, CERTS_NOW, seven, 7, &v, &e).failed);
    struct bytes bad[] = {BYTES(der, 0), BYTES(der, good.n - 1), BYTES(der, good.n + 1), BYTES_LIT("\x30\x00"), BYTES_LIT("\x30\x84\xff\xff\xff\xff")};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        e = (struct err){0};
        assert_true(trust_check(t, CERTS_NOW, &bad[i], 1, &v, &e).failed);
        assert_int_equal(e.code, ERR_UNAUTHENTICATED);
    }
    der[good.n - 5] ^= 1; /* one bit of the signature */
    assert_true(trust_check(t, CERTS_NOW, &good, 1, &v, &e).failed);
    assert_int_equal(ERR_peek_error(), 0);
    cert_free(&leaf);
    trust_unref(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_chains_name_their_holder),
        cmocka_unit_test(the_window_is_the_narrowest_of_the_chain),
        cmocka_unit_test(bad_leaves_are_refused),
        cmocka_unit_test(bad_names_are_refused),
        cmocka_unit_test(issuers_must_be_issuers),
        cmocka_unit_test(revocation_lists_are_obeyed),
        cmocka_unit_test(broken_files_are_refused),
        cmocka_unit_test(broken_chains_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
