/* One authn with two principals and a clock that the test moves; connections to it as core announces them. */
#ifndef TESTS_UNIT_KMS_AUTHN_PARTIES_H
#define TESTS_UNIT_KMS_AUTHN_PARTIES_H

#include "kms/authn/authn.h"

#include "tests/unit/kms/authn/certs.h"

#include <stdio.h>

#define SPIFFE_ORDERS "spiffe://" CERTS_DOMAIN "/acme/orders"
#define SECOND INT64_C(1000000000)

static struct cert root, other_root, orders, stranger;
static struct fake_clock fake;
static char pem[16384], other_pem[16384];
static struct bytes ca, other_ca;

static const struct principal ORDERS = {.name = "acme-orders", .san = SPIFFE_ORDERS, .tenant = "acme", .state = PRINCIPAL_ACTIVE};
static const struct principal ADMIN = {.name = "admin", .san = "dns:admin.example", .state = PRINCIPAL_ACTIVE};

static inline int setup(void **state)
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

static inline int teardown(void **state)
{
    (void)state;
    cert_free(&root);
    cert_free(&other_root);
    cert_free(&orders);
    cert_free(&stranger);
    return 0;
}

static inline struct authn *make(void)
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
static inline void notice(struct buf *out, uint8_t id, const struct cert *const *chain, size_t n)
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

static inline struct authn_conn *connect_with(struct authn *a, uint8_t id, const struct cert *leaf)
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

static inline void expect_call(struct authn *a, struct authn_conn *c, const char *name, const char *cause)
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

#endif
