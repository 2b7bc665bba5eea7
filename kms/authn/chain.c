#include "kms/authn/chain.h"

#include "base/ref.h"
#include "kms/authn/authn.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct trust {
    struct ref refs;
    X509_STORE *store;
    STACK_OF(X509_CRL) *crls;
    char trust_domain[SAN_MAX_BYTES];
};

static void bio_freep(BIO **b)
{
    BIO_free(*b);
}
static void x509_freep(X509 **c)
{
    X509_free(*c);
}
static void crl_freep(X509_CRL **c)
{
    X509_CRL_free(*c);
}
static void stack_freep(STACK_OF(X509) * *s)
{
    sk_X509_pop_free(*s, X509_free);
}
static void ctx_freep(X509_STORE_CTX **c)
{
    X509_STORE_CTX_free(*c);
}
static void trust_unrefp(struct trust **t)
{
    trust_unref(*t);
}
static void drop_openssl_errors(const int *unused)
{
    (void)unused;
    ERR_clear_error();
}
/* OpenSSL's error queue is per thread and outlives calls: leave it as empty as it was found. */
#define OPENSSL_ERRORS_END_HERE CLEANUP(drop_openssl_errors) int clear_at_end = 0; (void)clear_at_end; ERR_clear_error()

static bool may_issue(X509 *cert)
{
    uint32_t flags = X509_get_extension_flags(cert);
    return (flags & EXFLAG_CA) && (flags & EXFLAG_BCONS) && (flags & EXFLAG_KUSAGE) &&
           (X509_get_key_usage(cert) & KU_KEY_CERT_SIGN) && !(flags & EXFLAG_INVALID);
}

/* True at a clean end of a PEM file: nothing more to read, rather than something unreadable. */
static bool at_pem_end(void)
{
    unsigned long code = ERR_peek_last_error();
    return ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;
}

static RESULT add_authorities(struct trust *t, struct bytes pem, struct err *e)
{
    if (pem.n == 0 || pem.n > TRUST_PEM_MAX)
        FAIL(e, ERR_INVALID, NULL, "CA file of %zu bytes; 1 to %d are read", pem.n, TRUST_PEM_MAX);
    CLEANUP(bio_freep) BIO *bio = BIO_new_mem_buf(pem.p, (int)pem.n);
    INVARIANT(bio);
    for (unsigned n = 1;; n++) {
        CLEANUP(x509_freep) X509 *cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);
        if (!cert && n > 1 && at_pem_end())
            return ok();
        if (!cert)
            FAIL(e, ERR_INVALID, NULL, "CA file: certificate %u cannot be read", n);
        if (!may_issue(cert))
            FAIL(e, ERR_INVALID, NULL, "CA file: certificate %u may not issue (needs CA:TRUE and keyCertSign)", n);
        INVARIANT(X509_STORE_add_cert(t->store, cert) == 1);
    }
}

static RESULT add_revocations(struct trust *t, struct bytes pem, struct err *e)
{
    if (pem.n == 0)
        return ok();
    if (pem.n > TRUST_PEM_MAX)
        FAIL(e, ERR_INVALID, NULL, "CRL file of %zu bytes; at most %d are read", pem.n, TRUST_PEM_MAX);
    CLEANUP(bio_freep) BIO *bio = BIO_new_mem_buf(pem.p, (int)pem.n);
    INVARIANT(bio);
    X509_STORE_set_flags(t->store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    for (unsigned n = 1;; n++) {
        CLEANUP(crl_freep) X509_CRL *crl = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL);
        if (!crl && n > 1 && at_pem_end())
            return ok();
        if (!crl)
            FAIL(e, ERR_INVALID, NULL, "CRL file: list %u cannot be read", n);
        INVARIANT(X509_STORE_add_crl(t->store, crl) == 1 && X509_CRL_up_ref(crl) == 1 && sk_X509_CRL_push(t->crls, crl) > 0);
    }
}

RESULT trust_new(struct bytes ca_pem, struct bytes crl_pem, const char *trust_domain, struct trust **ret, struct err *e)
{
    OPENSSL_ERRORS_END_HERE;
    if (!san_valid_trust_domain(bytes_str(trust_domain)))
        FAIL(e, ERR_INVALID, NULL, "trust domain must be [a-z0-9._-], at most 200 bytes");
    CLEANUP(trust_unrefp) struct trust *t = calloc(1, sizeof *t);
    INVARIANT(t);
    ref_init(&t->refs);
    t->store = X509_STORE_new();
    t->crls = sk_X509_CRL_new_null();
    INVARIANT(t->store && t->crls);
    memcpy(t->trust_domain, trust_domain, strlen(trust_domain) + 1);
    TRY(add_authorities(t, ca_pem, e));
    TRY(add_revocations(t, crl_pem, e));
    *ret = t;
    t = NULL;
    return ok();
}

struct trust *trust_ref(struct trust *t)
{
    ref_take(&t->refs);
    return t;
}

void trust_unref(struct trust *t)
{
    if (!t || !ref_drop(&t->refs))
        return;
    X509_STORE_free(t->store);
    sk_X509_CRL_pop_free(t->crls, X509_CRL_free);
    free(t);
}

static RESULT parse(const struct bytes *der, size_t n, STACK_OF(X509) * out, struct err *e)
{
    if (n == 0)
        FAIL(e, ERR_UNAUTHENTICATED, NULL, "no client certificate");
    if (n > AUTHN_CHAIN_MAX)
        FAIL(e, ERR_UNAUTHENTICATED, NULL, "chain of %zu certificates; at most %d", n, AUTHN_CHAIN_MAX);
    for (size_t i = 0; i < n; i++) {
        const unsigned char *p = der[i].p;
        CLEANUP(x509_freep) X509 *cert = der[i].n && der[i].n <= IPC_CHAIN_MAX_BYTES ? d2i_X509(NULL, &p, (long)der[i].n) : NULL;
        if (!cert || p != der[i].p + der[i].n)
            FAIL(e, ERR_UNAUTHENTICATED, NULL, "certificate %zu of the chain is not one DER certificate", i + 1);
        INVARIANT(sk_X509_push(out, cert) > 0);
        cert = NULL;
    }
    return ok();
}

static RESULT check_leaf(X509 *leaf, struct err *e)
{
    uint32_t flags = X509_get_extension_flags(leaf);
    if (flags & EXFLAG_INVALID)
        FAIL(e, ERR_UNAUTHENTICATED, NULL, "certificate has an extension that cannot be read");
    if ((flags & EXFLAG_CA) || ((flags & EXFLAG_KUSAGE) && (X509_get_key_usage(leaf) & KU_KEY_CERT_SIGN)))
        FAIL(e, ERR_UNAUTHENTICATED, NULL, "a CA's own certificate names no caller");
    if (!(flags & EXFLAG_XKUSAGE) || !(X509_get_extended_key_usage(leaf) & XKU_SSL_CLIENT))
        FAIL(e, ERR_UNAUTHENTICATED, NULL, "certificate lacks the extended key usage clientAuth");
    return ok();
}

static int64_t unix_s(const ASN1_TIME *t, int64_t when_absent)
{
    struct tm tm;
    return t && ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : when_absent;
}

/* When the newest list of this issuer counts: an older one beside it does not end trust early. */
static void listed(const struct trust *t, const X509_NAME *issuer, int64_t *from, int64_t *until)
{
    *from = *until = INT64_MIN;
    for (int i = 0; i < sk_X509_CRL_num(t->crls); i++) {
        const X509_CRL *crl = sk_X509_CRL_value(t->crls, i);
        if (X509_NAME_cmp(X509_CRL_get_issuer(crl), issuer) != 0)
            continue;
        int64_t end = unix_s(X509_CRL_get0_nextUpdate(crl), INT64_MAX);
        if (end > *until) {
            *until = end;
            *from = unix_s(X509_CRL_get0_lastUpdate(crl), INT64_MAX);
        }
    }
}

static void narrow_to(struct verdict *v, int64_t from, int64_t until)
{
    v->not_before_s = from > v->not_before_s ? from : v->not_before_s;
    v->not_after_s = until < v->not_after_s ? until : v->not_after_s;
}

static void narrow(const struct trust *t, X509 *cert, struct verdict *v)
{
    int64_t from, until;
    narrow_to(v, unix_s(X509_get0_notBefore(cert), INT64_MAX), unix_s(X509_get0_notAfter(cert), INT64_MIN));
    if (sk_X509_CRL_num(t->crls) == 0)
        return;
    listed(t, X509_get_issuer_name(cert), &from, &until);
    narrow_to(v, from, until);
}

static RESULT verify(const struct trust *t, int64_t now_s, STACK_OF(X509) * chain, X509_STORE_CTX *ctx, struct err *e)
{
    INVARIANT(X509_STORE_CTX_init(ctx, t->store, sk_X509_value(chain, 0), chain) == 1);
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(ctx);
    INVARIANT(X509_VERIFY_PARAM_set_purpose(param, X509_PURPOSE_SSL_CLIENT) == 1);
    X509_VERIFY_PARAM_set_time(param, (time_t)now_s);
    X509_VERIFY_PARAM_set_depth(param, AUTHN_CHAIN_MAX);
    X509_VERIFY_PARAM_set_auth_level(param, 2);
    if (X509_verify_cert(ctx) != 1)
        FAIL(e, ERR_UNAUTHENTICATED, NULL, "certificate %d of the chain: %s", X509_STORE_CTX_get_error_depth(ctx) + 1,
             X509_verify_cert_error_string(X509_STORE_CTX_get_error(ctx)));
    return ok();
}

RESULT trust_check(const struct trust *t, int64_t now_s, const struct bytes *untrusted_der, size_t n, struct verdict *ret,
                   struct err *e)
{
    OPENSSL_ERRORS_END_HERE;
    CLEANUP(stack_freep) STACK_OF(X509) *chain = sk_X509_new_null();
    CLEANUP(ctx_freep) X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    INVARIANT(chain && ctx);
    TRY(parse(untrusted_der, n, chain, e));
    X509 *leaf = sk_X509_value(chain, 0);
    TRY(check_leaf(leaf, e));
    TRY(verify(t, now_s, chain, ctx, e));

    struct verdict v = {.not_before_s = INT64_MIN, .not_after_s = INT64_MAX};
    STACK_OF(X509) *path = X509_STORE_CTX_get0_chain(ctx);
    if (sk_X509_num(path) < 2)
        FAIL(e, ERR_UNAUTHENTICATED, NULL, "certificate is its own issuer");
    for (int i = 0; i < sk_X509_num(path); i++) {
        X509 *cert = sk_X509_value(path, i);
        if (i > 0 && !may_issue(cert))
            FAIL(e, ERR_UNAUTHENTICATED, NULL, "certificate %d of the path may not issue (CA:TRUE and keyCertSign)", i + 1);
        narrow(t, cert, &v);
    }
    TRY(san_from_certificate(leaf, t->trust_domain, v.san, e));
    *ret = v;
    return ok();
}
