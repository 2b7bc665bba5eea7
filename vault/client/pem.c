#include "vault/client/pem.h"

#include <errno.h>
/* OpenSSL's types.h declares a type ERR_STATE, which is the name of one of our codes. */
#define ERR_STATE OPENSSL_ERR_STATE
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#undef ERR_STATE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void close_file(FILE **f)
{
    if (*f)
        fclose(*f);
}

static struct result read_file(const char *path, const char *what, const char *reason, char **ret, size_t *ret_n,
                               struct claviger_error *e)
{
    CLEANUP(close_file) FILE *f = fopen(path, "re");
    if (!f)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, reason, "cannot read the %s %s: %s", what, path, strerror(errno));
    setvbuf(f, NULL, _IONBF, 0); /* no copy of a private key in a stdio buffer */
    char *text = malloc(PEM_MAX_BYTES + 1);
    INVARIANT(text);
    size_t n = fread(text, 1, PEM_MAX_BYTES + 1, f);
    if (ferror(f) || n == 0 || n > PEM_MAX_BYTES || memchr(text, 0, n)) {
        wipe(text, n);
        free(text);
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, reason, "the %s %s is empty, too large or no text", what, path);
    }
    text[n] = 0;
    *ret = text;
    *ret_n = n;
    return ok();
}

static X509 *parse_cert(const char *text)
{
    BIO *bio = BIO_new_mem_buf(text, -1);
    INVARIANT(bio);
    X509 *x = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    BIO_free(bio);
    return x;
}

static int no_passphrase(char *buf, int size, int writing, void *user)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)user;
    return -1; /* an encrypted key must fail, not ask on the terminal of a service */
}

static EVP_PKEY *parse_key(const char *text)
{
    BIO *bio = BIO_new_mem_buf(text, -1);
    INVARIANT(bio);
    EVP_PKEY *k = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
    BIO_free(bio);
    return k;
}

static struct result check(const struct pem_files *p, const char *ca_path, const char *cert_path, const char *key_path,
                           struct claviger_error *e)
{
    X509 *ca = parse_cert(p->ca), *cert = parse_cert(p->cert);
    EVP_PKEY *key = parse_key(p->key);
    bool ca_good = ca, cert_good = cert, key_good = key, match = cert && key && X509_check_private_key(cert, key) == 1;
    X509_free(ca);
    X509_free(cert);
    EVP_PKEY_free(key);
    ERR_clear_error(); /* ours, left in a queue that the service's own OpenSSL calls share */
    if (!ca_good)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_CA_FILE", "%s holds no PEM certificate", ca_path);
    if (!cert_good)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_CERT_FILE", "%s holds no PEM certificate", cert_path);
    if (!key_good)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_KEY_FILE", "%s holds no unencrypted PEM private key", key_path);
    if (!match)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "KEY_MISMATCH", "the private key %s does not belong to %s", key_path,
                           cert_path);
    return ok();
}

RESULT pem_load(const char *ca_path, const char *cert_path, const char *key_path, struct pem_files *ret, struct claviger_error *e)
{
    struct pem_files p = {0};
    size_t n = 0;
    struct result r = read_file(ca_path, "CA file", "BAD_CA_FILE", &p.ca, &n, e);
    if (!r.failed)
        r = read_file(cert_path, "certificate", "BAD_CERT_FILE", &p.cert, &n, e);
    if (!r.failed)
        r = read_file(key_path, "private key", "BAD_KEY_FILE", &p.key, &p.key_len, e);
    if (!r.failed)
        r = check(&p, ca_path, cert_path, key_path, e);
    if (r.failed)
        pem_release(&p);
    else
        *ret = p;
    return r;
}

void pem_release(struct pem_files *p)
{
    free(p->ca);
    free(p->cert);
    if (p->key) {
        wipe(p->key, p->key_len);
        free(p->key);
    }
    *p = (struct pem_files){0};
}
