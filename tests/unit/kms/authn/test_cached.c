/* What a connection remembers of its certificate and its principal holds every input of the decision: through clocks that jump, trust
 * and registries that change, a connection of long standing is answered as one that has just come, which remembers nothing.
 * And one spelling of a name is one principal: every other spelling is nobody. */
#include "base/rng.h"
#include "kms/authn/authn.h"
#include "kms/authn/san.h"
#include "tests/unit/kms/authn/certs.h"

#include <stdatomic.h>
#include <stdio.h>

#define SECOND INT64_C(1000000000)
#define URI(path) "spiffe://" CERTS_DOMAIN "/" path
enum { STEPS = 600, LEAVES = 5, TRUSTS = 4, REGISTRIES = 5 };

static struct fake_clock fake;
static struct fake_rng rng;
static unsigned pick(unsigned n)
{
    uint64_t v;
    rng_fill(&rng.r, &v, sizeof v);
    return (unsigned)(v % n);
}

static struct authn_conn *connect_with(struct authn *a, uint8_t id, const struct cert *leaf, bool keep)
{
    CLEANUP(buf_release) struct buf b = {0};
    struct err e = {0};
    uint8_t whole_id[IPC_CONN_ID_BYTES], got[IPC_CONN_ID_BYTES], der[4096];
    char peer[64] = "unix-abstract:clv-";
    memset(whole_id, id, sizeof whole_id);
    buf_init(&b, 65536);
    buf_put(&b, whole_id, sizeof whole_id);
    buf_put_v16(&b, BYTES_LIT("public"));
    buf_put_v16(&b, BYTES_LIT("192.0.2.7:5"));
    buf_put_u8(&b, 1);
    buf_put_v32(&b, cert_der(leaf, der, sizeof der));
    assert_false(authn_conn_add(a, buf_bytes(&b), got, &e).failed);
    hex_encode(got, sizeof got, peer + strlen(peer));
    struct authn_conn *c = authn_conn_by_peer(a, peer);
    assert_non_null(c);
    if (!keep)
        authn_conn_closed(a, got);
    return c;
}

/* "tenant/name", or "" where the call is refused. */
static void who(struct authn *a, struct authn_conn *c, char out[256])
{
    struct identity id = {0};
    struct err e = {0};
    out[0] = '\0';
    if (authn_call(a, c, &id, &e).failed)
        assert_int_equal(e.code, ERR_UNAUTHENTICATED);
    else
        (void)snprintf(out, 256, "%s/%s", id.principal->tenant, id.principal->name);
    authn_identity_release(&id);
}

static void apply_registry(struct authn *a, unsigned which)
{
    static const struct principal orders = {.name = "orders", .san = URI("orders"), .tenant = "acme", .state = PRINCIPAL_ACTIVE};
    static const struct principal billing = {.name = "billing", .san = URI("billing"), .tenant = "globex", .state = PRINCIPAL_ACTIVE};
    struct principal list[2] = {orders, billing};
    struct err e = {0};
    size_t n = 2;
    switch (which) {
    case 0:
        break;
    case 1:
        list[0].state = PRINCIPAL_DISABLED;
        break;
    case 2: /* each the other's name: what was remembered is now somebody else */
        memcpy(list[0].san, billing.san, sizeof billing.san);
        memcpy(list[1].san, orders.san, sizeof orders.san);
        break;
    case 3:
        memcpy(list[0].tenant, "globex", 7);
        break;
    default:
        n = 0;
    }
    assert_false(authn_set_principals(a, list, n, &e).failed);
}

static void remembered_is_as_asked_anew(void **state)
{
    (void)state;
    static const int64_t times[] = {0, -400 * DAY, -100 * DAY, -DAY - 10, -DAY + 10, 10 * DAY, 29 * DAY, 31 * DAY, 200 * DAY, 3652 * DAY, -3652 * DAY};
    struct cert root = cert_make(CA_SPEC("root", NULL)), other = cert_make(CA_SPEC("other", NULL));
    struct spec specs[LEAVES] = {LEAF_SPEC("a", &root, "URI:" URI("orders")), LEAF_SPEC("b", &root, "URI:" URI("billing")),
                                 LEAF_SPEC("c", &other, "URI:" URI("orders")), LEAF_SPEC("d", &root, "URI:" URI("orders")),
                                 LEAF_SPEC("e", &root, "URI:" URI("nobody"))};
    specs[3].from_s = CERTS_NOW - 3 * DAY; /* a short one */
    specs[3].until_s = CERTS_NOW + 20 * DAY;
    specs[1].serial = 77;
    struct cert leaves[LEAVES];
    struct authn_conn *old[LEAVES];
    static char pem[16384], other_pem[16384], list[8192], revoked[8192];
    struct bytes ca = certs_pem(pem, sizeof pem, &root, 1), other_ca = certs_pem(other_pem, sizeof other_pem, &other, 1), none = {0};
    struct bytes crl = crl_pem(list, sizeof list, &root, 0, CERTS_NOW + 30 * DAY), hit = crl_pem(revoked, sizeof revoked, &root, 77, CERTS_NOW + 30 * DAY);
    const struct bytes trusts[TRUSTS][2] = {{ca, none}, {ca, crl}, {ca, hit}, {other_ca, none}};
    struct authn_options o = {.clock = &fake.c, .ca_pem = ca, .trust_domain = CERTS_DOMAIN};
    struct authn *a = NULL;
    struct err e = {0};
    unsigned let_in = 0, refused = 0;
    fake_clock_init(&fake, CERTS_NOW * SECOND, SECOND);
    fake_rng_init(&rng, 20261121);
    assert_false(authn_new(&o, &a, &e).failed);
    apply_registry(a, 0);
    for (unsigned i = 0; i < LEAVES; i++) {
        leaves[i] = cert_make(specs[i]);
        old[i] = connect_with(a, (uint8_t)(i + 1), &leaves[i], true);
    }
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned what = pick(4), to = pick(sizeof times / sizeof times[0]);
        if (what == 0)
            apply_registry(a, pick(REGISTRIES));
        else if (what == 1)
            assert_false(authn_reload_trust(a, trusts[to % TRUSTS][0], trusts[to % TRUSTS][1], &e).failed);
        else
            atomic_store(&fake.wall, (CERTS_NOW + times[to]) * SECOND);
        fake_clock_advance(&fake, (AUTHN_RECHECK_MS + 1) * SECOND / 1000); /* refusals may be remembered for a second */
        for (unsigned i = 0; i < LEAVES; i++) {
            char before[256], anew[256];
            struct authn_conn *c = connect_with(a, 200, &leaves[i], false);
            who(a, old[i], before);
            who(a, c, anew);
            authn_conn_unref(c);
            if (strcmp(before, anew) != 0)
                fail_msg("step %u, leaf %u, %lld s: remembered '%s', asked anew '%s'", step, i, (long long)times[to], before, anew);
            let_in += before[0] != '\0';
            refused += before[0] == '\0';
        }
    }
    assert_true(let_in > STEPS / 4 && refused > STEPS / 4); /* or the comparison proves nothing */
    for (unsigned i = 0; i < LEAVES; i++) {
        authn_conn_unref(old[i]);
        cert_free(&leaves[i]);
    }
    authn_free(a);
    cert_free(&root);
    cert_free(&other);
}

/* Fifty and more ways to write one name, as an authority might put them into a certificate: not one of them is another name for the
 * same principal, so rates, budgets and refusals have nothing to be split over. */
static void every_other_spelling_is_nobody(void **state)
{
    (void)state;
    static const char *const others[] = {
        "SPIFFE://test.claviger/acme/orders", "Spiffe://test.claviger/acme/orders", "spiffe://TEST.claviger/acme/orders",
        "spiffe://test.Claviger/acme/orders", "spiffe://test.claviger./acme/orders", "spiffe://test.claviger:443/acme/orders",
        "spiffe://user@test.claviger/acme/orders", "spiffe://test.claviger//acme/orders", "spiffe://test.claviger/acme//orders",
        "spiffe://test.claviger/acme/orders/", "spiffe://test.claviger/acme/./orders", "spiffe://test.claviger/acme/x/../orders",
        "spiffe://test.claviger/./acme/orders", "spiffe://test.claviger/../test.claviger/acme/orders", "spiffe://test.claviger/acme/orders?",
        "spiffe://test.claviger/acme/orders?a=b", "spiffe://test.claviger/acme/orders#", "spiffe://test.claviger/acme/orders#x",
        "spiffe://test.claviger/acme/%6frders", "spiffe://test.claviger/%61cme/orders", "spiffe://test.claviger/acme%2forders",
        "spiffe://test.claviger/acme%2Forders", "spiffe://test.claviger/acme/orders%00", "spiffe://test.claviger/acme/orders%20",
        " spiffe://test.claviger/acme/orders", "spiffe://test.claviger/acme/orders ", "spiffe://test.claviger/acme/ orders",
        "spiffe://test.claviger/acme/orders\t", "spiffe://test.claviger/acme/orders\n", "\tspiffe://test.claviger/acme/orders",
        "spiffe:/test.claviger/acme/orders", "spiffe:test.claviger/acme/orders", "spiffe:///test.claviger/acme/orders",
        "spiffe://test.claviger\\acme\\orders", "spiffe://test.claviger/acme\\orders", "//test.claviger/acme/orders",
        "spiffe://test%2eclaviger/acme/orders", "spiffe://test.claviger/acme/orders;v=1", "spiffe://test.claviger/acme/orders,",
        "spiffe://test.claviger/acme/orders\xc2\xa0", "spiffe://test.claviger/acme/\xef\xbd\x8frders", "spiffe://test.claviger/acme/o\xcc\x81rders",
        "spiffe://test.claviger/acme/order\xc5\xbf", "spiffe://test.claviger/acme/orders\xe2\x80\x8b", "spiffe://test.claviger/acme/\xd0\xberders",
        "spiffe://test.claviger/acme/orders\x7f", "spiffe://test.claviger/acme/orders\xff", ("spiffe://test\xe3\x80\x82" "claviger/acme/orders"),
        "spiffe://xn--test.claviger/acme/orders", "spiffe://test.claviger.evil/acme/orders", "https://test.claviger/acme/orders",
        "dns:spiffe://test.claviger/acme/orders", "URI:spiffe://test.claviger/acme/orders", "uri=spiffe://test.claviger/acme/orders",
    };
    static const char one[] = "spiffe://test.claviger/acme/orders";
    struct err e = {0};
    assert_false(san_check(bytes_str(one), CERTS_DOMAIN, &e).failed);
    assert_true(sizeof others / sizeof others[0] >= 50);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (!san_check(bytes_str(others[i]), CERTS_DOMAIN, &e).failed)
            fail_msg("%s is a name too", others[i]);
    /* Where case makes another path it makes another principal: nothing folds them into one. */
    assert_false(san_check(BYTES_LIT("spiffe://test.claviger/acme/Orders"), CERTS_DOMAIN, &e).failed);
    char nul[] = "spiffe://test.claviger/acme/orders\0x";
    assert_true(san_check(BYTES(nul, sizeof nul - 1), CERTS_DOMAIN, &e).failed);
    assert_true(san_check(BYTES(nul, strlen(nul) + 1), CERTS_DOMAIN, &e).failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(remembered_is_as_asked_anew),
        cmocka_unit_test(every_other_spelling_is_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
