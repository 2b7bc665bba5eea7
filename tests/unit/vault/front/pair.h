/* A server by tls.c and a client by OpenSSL over a socketpair, each with the one certificate there is. */
#ifndef TEST_FRONT_PAIR_H
#define TEST_FRONT_PAIR_H

#include "tests/unit/vault/front/testing.h"
#include "vault/front/openssl.h"
#include "vault/front/tls.h"

#include <openssl/x509v3.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct files {
    int cert, key;
};
struct pair {
    int fds[2];
    struct tls server;
    SSL *client;
};
struct ends {
    EVP_PKEY *key;
    X509 *cert;
    struct files files;
    struct tls_ctx *ctx;
    SSL_CTX *client;
};

static inline int file_of(BIO *b)
{
    char *p;
    long n = BIO_get_mem_data(b, &p);
    char name[] = "/tmp/clv-pair-XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    assert_int_equal(unlink(name), 0);
    assert_int_equal(write(fd, p, (size_t)n), n);
    BIO_free(b);
    return fd;
}

static inline struct files make_files(EVP_PKEY **ret_key, X509 **ret_cert)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = X509_new();
    assert_non_null(key);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 7);
    X509_gmtime_adj(X509_getm_notBefore(x), -60);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, (const unsigned char *)"t", -1, -1, 0);
    X509_set_issuer_name(x, X509_get_subject_name(x));
    assert_true(X509_sign(x, key, EVP_sha256()) > 0);
    BIO *c = BIO_new(BIO_s_mem()), *k = BIO_new(BIO_s_mem());
    assert_true(PEM_write_bio_X509(c, x) && PEM_write_bio_PrivateKey(k, key, NULL, NULL, 0, NULL, NULL));
    *ret_key = key;
    *ret_cert = x;
    return (struct files){file_of(c), file_of(k)};
}

static inline void ends_init(struct ends *w)
{
    struct err e;
    w->files = make_files(&w->key, &w->cert);
    assert_false(tls_ctx_new(w->files.cert, w->files.key, &w->ctx, &e).failed);
    w->client = SSL_CTX_new(TLS_client_method());
    SSL_CTX_use_certificate(w->client, w->cert);
    SSL_CTX_use_PrivateKey(w->client, w->key);
    SSL_CTX_set_alpn_protos(w->client, (const unsigned char *)"\2h2", 3);
}

static inline void ends_release(struct ends *w)
{
    tls_ctx_free(w->ctx);
    SSL_CTX_free(w->client);
    X509_free(w->cert);
    EVP_PKEY_free(w->key);
    close(w->files.cert);
    close(w->files.key);
}

static inline void open_pair(const struct ends *w, struct pair *p)
{
    struct err e;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p->fds), 0);
    assert_false(tls_open(&p->server, w->ctx, p->fds[0], &e).failed);
    p->client = SSL_new(w->client);
    SSL_set_fd(p->client, p->fds[1]);
    SSL_set_connect_state(p->client);
}

static inline void close_pair(struct pair *p)
{
    tls_close(&p->server);
    SSL_free(p->client);
    close(p->fds[0]);
    close(p->fds[1]);
}

#endif
