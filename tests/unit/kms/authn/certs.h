/* A small certificate maker for the tests of this folder: P-256 keys, any extension left out or bent on purpose. */
#ifndef TESTS_UNIT_KMS_AUTHN_CERTS_H
#define TESTS_UNIT_KMS_AUTHN_CERTS_H

#include "base/bytes.h"
#include "kms/authn/openssl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CERTS_NOW INT64_C(1800000000) /* 2027-01-15 */
#define CERTS_DOMAIN "test.claviger"
#define DAY INT64_C(86400)

struct cert {
    X509 *x509;
    EVP_PKEY *key;
};
struct spec {
    const char *cn;
    const struct cert *issuer;       /* NULL: self-signed */
    int64_t from_s, until_s;         /* 0: a year around CERTS_NOW */
    const char *basic, *usage, *eku; /* OpenSSL's extension syntax; NULL: left out */
    const char *sans;                /* "URI:...,DNS:..." */
    const char *san_nul;             /* one URI SAN made of the bytes before and after an embedded NUL: "before|after" */
    const EVP_MD *md;                /* NULL: SHA-256 */
    long serial;
};
#define CA_SPEC(name, by) ((struct spec){.cn = (name), .issuer = (by), .basic = "critical,CA:TRUE", .usage = "critical,keyCertSign,cRLSign"})
#define LEAF_SPEC(name, by, names)                                                                                     \
    ((struct spec){.cn = (name), .issuer = (by), .basic = "critical,CA:FALSE", .usage = "critical,digitalSignature", .eku = "clientAuth", .sans = (names)})

static inline void cert_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
    X509_EXTENSION *ext = value ? X509V3_EXT_conf_nid(NULL, &ctx, nid, value) : NULL;
    assert_true(!value || ext);
    if (ext)
        assert_int_equal(X509_add_ext(x, ext, -1), 1);
    X509_EXTENSION_free(ext);
}

static inline void cert_nul_uri(X509 *x, const char *parts)
{
    char text[200];
    size_t n = strlen(parts);
    memcpy(text, parts, n);
    *(char *)memchr(text, '|', n) = '\0';
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_IA5STRING *uri = ASN1_IA5STRING_new();
    assert_int_equal(ASN1_STRING_set(uri, text, (int)n), 1);
    GENERAL_NAME_set0_value(name, GEN_URI, uri);
    sk_GENERAL_NAME_push(names, name);
    assert_int_equal(X509_add1_ext_i2d(x, NID_subject_alt_name, names, 0, 0), 1);
    GENERAL_NAMES_free(names);
}

static inline struct cert cert_make(struct spec s)
{
    static long next_serial = 1000;
    struct cert c = {.x509 = X509_new(), .key = EVP_EC_gen("P-256")};
    assert_true(c.x509 && c.key);
    X509 *issuer = s.issuer ? s.issuer->x509 : c.x509;
    X509_set_version(c.x509, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(c.x509), s.serial ? s.serial : next_serial++);
    ASN1_TIME_set(X509_getm_notBefore(c.x509), s.from_s ? s.from_s : CERTS_NOW - 180 * DAY);
    ASN1_TIME_set(X509_getm_notAfter(c.x509), s.until_s ? s.until_s : CERTS_NOW + 180 * DAY);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(c.x509), "CN", MBSTRING_UTF8, (const unsigned char *)s.cn, -1, -1, 0);
    X509_set_issuer_name(c.x509, X509_get_subject_name(issuer));
    X509_set_pubkey(c.x509, c.key);
    cert_extension(c.x509, issuer, NID_basic_constraints, s.basic);
    cert_extension(c.x509, issuer, NID_key_usage, s.usage);
    cert_extension(c.x509, issuer, NID_ext_key_usage, s.eku);
    cert_extension(c.x509, issuer, NID_subject_alt_name, s.sans);
    if (s.san_nul)
        cert_nul_uri(c.x509, s.san_nul);
    assert_true(X509_sign(c.x509, s.issuer ? s.issuer->key : c.key, s.md ? s.md : EVP_sha256()) > 0);
    return c;
}

static inline void cert_free(struct cert *c)
{
    X509_free(c->x509);
    EVP_PKEY_free(c->key);
    *c = (struct cert){0};
}

/* PEM of these certificates into a static-size buffer of the caller. */
static inline struct bytes certs_pem(char *out, size_t size, const struct cert *list, size_t n)
{
    BIO *bio = BIO_new(BIO_s_mem());
    for (size_t i = 0; i < n; i++)
        assert_int_equal(PEM_write_bio_X509(bio, list[i].x509), 1);
    int len = BIO_read(bio, out, (int)size);
    BIO_free(bio);
    assert_in_range(len, 1, (int)size - 1);
    return BYTES(out, (size_t)len);
}

static inline struct bytes crl_pem(char *out, size_t size, const struct cert *ca, long revoked_serial, int64_t next_update_s)
{
    X509_CRL *crl = X509_CRL_new();
    ASN1_TIME *t = ASN1_TIME_set(NULL, CERTS_NOW - DAY);
    X509_CRL_set_version(crl, 1);
    X509_CRL_set_issuer_name(crl, X509_get_subject_name(ca->x509));
    X509_CRL_set1_lastUpdate(crl, t);
    if (revoked_serial) {
        X509_REVOKED *r = X509_REVOKED_new();
        ASN1_INTEGER *serial = ASN1_INTEGER_new();
        ASN1_INTEGER_set(serial, revoked_serial);
        X509_REVOKED_set_serialNumber(r, serial);
        X509_REVOKED_set_revocationDate(r, t);
        X509_CRL_add0_revoked(crl, r);
        ASN1_INTEGER_free(serial);
    }
    ASN1_TIME_set(t, next_update_s);
    X509_CRL_set1_nextUpdate(crl, t);
    X509_CRL_sort(crl);
    assert_true(X509_CRL_sign(crl, ca->key, EVP_sha256()) > 0);
    BIO *bio = BIO_new(BIO_s_mem());
    assert_int_equal(PEM_write_bio_X509_CRL(bio, crl), 1);
    int len = BIO_read(bio, out, (int)size);
    BIO_free(bio);
    ASN1_TIME_free(t);
    X509_CRL_free(crl);
    return BYTES(out, (size_t)len);
}

static inline struct bytes cert_der(const struct cert *c, uint8_t *out, size_t size)
{
    unsigned char *p = out;
    int n = i2d_X509(c->x509, NULL);
    assert_in_range(n, 1, (int)size);
    i2d_X509(c->x509, &p);
    return BYTES(out, (size_t)n);
}

#endif
