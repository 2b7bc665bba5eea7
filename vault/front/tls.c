#include "vault/front/tls.h"

#include "base/ipc.h"
#include "vault/front/openssl.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* Every call into an SSL is preceded by ERR_clear_error: SSL_get_error looks at the thread's error queue first, and a
 * leftover of another connection's failure would end this one (MEASURED 10). */

struct tls_ctx {
    _Atomic unsigned refs; /* each connection's: its BIO goes on using the method when the certificate is replaced */
    SSL_CTX *ssl;
    BIO_METHOD *bio;
};

/* ---- the socket below: knows when it is drained, which saves the read that would say so ------------------------- */

static int bio_read(BIO *b, char *out, int n)
{
    struct tls *t = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    if (!t->readable) {
        BIO_set_retry_read(b);
        errno = EAGAIN;
        return -1;
    }
    ssize_t got;
    do
        got = recv(t->fd, out, (size_t)n, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        t->readable = false;
        BIO_set_retry_read(b);
    } else if (got > 0 && got < n && !t->hup) {
        t->readable = false; /* edge-triggered: what comes now brings a new event */
    }
    return (int)got;
}

static int bio_write(BIO *b, const char *p, int n)
{
    struct tls *t = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    ssize_t put;
    do
        put = send(t->fd, p, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (put < 0 && errno == EINTR);
    if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        t->writable = false;
        BIO_set_retry_write(b);
    }
    return (int)put;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
    (void)b;
    (void)num;
    (void)ptr;
    return cmd == BIO_CTRL_FLUSH || cmd == BIO_CTRL_DUP;
}

static BIO_METHOD *bio_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "front socket");
    INVARIANT(m != NULL && BIO_meth_set_read(m, bio_read) && BIO_meth_set_write(m, bio_write) &&
              BIO_meth_set_ctrl(m, bio_ctrl));
    return m;
}

/* ---- the context ------------------------------------------------------------------------------------------------ */

/* Form only: at most so many certificates. Whose they are is for the core, with its own trust store. */
static int accept_chain(X509_STORE_CTX *x, void *arg)
{
    (void)arg;
    STACK_OF(X509) *chain = X509_STORE_CTX_get0_untrusted(x);
    if (X509_STORE_CTX_get0_cert(x) == NULL || sk_X509_num(chain) > TLS_CHAIN_MAX_CERTS) {
        X509_STORE_CTX_set_error(x, X509_V_ERR_CERT_CHAIN_TOO_LONG);
        return 0;
    }
    X509_STORE_CTX_set_error(x, X509_V_OK);
    return 1;
}

static int select_h2(SSL *ssl, const unsigned char **out, unsigned char *out_n, const unsigned char *in, unsigned in_n,
                     void *arg)
{
    static const unsigned char h2[] = {2, 'h', '2'};
    (void)ssl;
    (void)arg;
    unsigned char *chosen;
    if (SSL_select_next_proto(&chosen, out_n, h2, sizeof h2, in, in_n) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

/* OpenSSL bounds neither the number of KeyUpdates nor what each makes us send. */
static void count_messages(int write_p, int version, int type, const void *p, size_t n, SSL *ssl, void *arg)
{
    (void)version;
    (void)p;
    (void)n;
    (void)arg;
    struct tls *t = SSL_get_app_data(ssl);
    if (!write_p && type == SSL3_RT_HANDSHAKE && t->established)
        t->post_messages++;
}

static int no_password(char *out, int n, int writing, void *arg)
{
    (void)out;
    (void)n;
    (void)writing;
    (void)arg;
    return -1; /* an encrypted key must fail, not ask a terminal */
}

static RESULT ssl_fail(const char *what, struct err *e)
{
    char text[160] = "no reason given";
    unsigned long code = ERR_peek_last_error();
    if (code != 0)
        ERR_error_string_n(code, text, sizeof text);
    ERR_clear_error();
    FAIL(e, ERR_INVALID, "TLS_FILES", "%s: %s", what, text);
}

static RESULT read_file(int fd, struct buf *out, struct err *e)
{
    uint8_t part[4096];
    for (off_t at = 0;;) {
        ssize_t got = pread(fd, part, sizeof part, at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            wipe(part, sizeof part);
            FAIL_ERRNO(e, ERR_INVALID, "TLS_FILES", "cannot read");
        }
        buf_put(out, part, (size_t)got);
        at += got;
        if (got == 0)
            break;
    }
    wipe(part, sizeof part);
    if (out->overflow || out->n == 0)
        FAIL(e, ERR_INVALID, "TLS_FILES", "empty, or more than %d bytes", TLS_FILE_MAX_BYTES);
    return ok();
}

static void bio_freep(BIO **b)
{
    BIO_free(*b);
}

static void x509_freep(X509 **x)
{
    X509_free(*x);
}

static void pkey_freep(EVP_PKEY **k)
{
    EVP_PKEY_free(*k);
}

/* The file's text, which *ret_in views; file is empty, and its owner's to release. */
static RESULT open_pem(int fd, struct buf *file, BIO **ret_in, struct err *e)
{
    buf_init(file, TLS_FILE_MAX_BYTES);
    TRY(read_file(fd, file, e));
    *ret_in = BIO_new_mem_buf(file->p, (int)file->n);
    INVARIANT(*ret_in != NULL);
    ERR_clear_error();
    return ok();
}

static RESULT use_chain(SSL_CTX *c, int fd, struct err *e)
{
    CLEANUP(buf_release) struct buf file = {0};
    CLEANUP(bio_freep) BIO *in = NULL;
    TRY(open_pem(fd, &file, &in, e));
    for (bool leaf = true;; leaf = false) {
        CLEANUP(x509_freep) X509 *x = PEM_read_bio_X509(in, NULL, no_password, NULL);
        if (x == NULL && (leaf || ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE))
            return ssl_fail("the certificate file holds no PEM certificate chain", e);
        if (x == NULL)
            break;
        if ((leaf ? SSL_CTX_use_certificate(c, x) : (int)SSL_CTX_add1_chain_cert(c, x)) != 1)
            return ssl_fail("the certificate cannot be used", e);
    }
    ERR_clear_error();
    return ok();
}

static RESULT use_key(SSL_CTX *c, int fd, struct err *e)
{
    CLEANUP(buf_release) struct buf file = {0};
    CLEANUP(bio_freep) BIO *in = NULL;
    TRY(open_pem(fd, &file, &in, e));
    CLEANUP(pkey_freep) EVP_PKEY *k = PEM_read_bio_PrivateKey(in, NULL, no_password, NULL);
    if (k == NULL)
        return ssl_fail("the key file holds no unencrypted PEM private key", e);
    if (SSL_CTX_use_PrivateKey(c, k) != 1 || SSL_CTX_check_private_key(c) != 1)
        return ssl_fail("the private key is not the certificate's", e);
    return ok();
}

static void harden(SSL_CTX *c)
{
    SSL_CTX_set_options(c, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                               SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA | SSL_OP_CLEANSE_PLAINTEXT);
    SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_read_ahead(c, 1);
    SSL_CTX_set_max_cert_list(c, IPC_CHAIN_MAX_BYTES);
    SSL_CTX_set_verify(c, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_cert_verify_callback(c, accept_chain, NULL);
    SSL_CTX_set_alpn_select_cb(c, select_h2, NULL);
    SSL_CTX_set_msg_callback(c, count_messages);
    INVARIANT(SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION) && SSL_CTX_set_max_proto_version(c, TLS1_3_VERSION) &&
              SSL_CTX_set_num_tickets(c, 0) && SSL_CTX_set_max_early_data(c, 0) &&
              SSL_CTX_set_ciphersuites(c, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256") &&
              SSL_CTX_set1_groups_list(c, "X25519:P-256"));
}

/* OpenSSL keeps the private parts of keys, and what it computes from them, in its secure heap where there is one. It says 2 when
 * the heap could not be locked or kept out of core dumps. */
RESULT tls_memory_init(struct err *e)
{
    enum { SMALLEST = 32 };
    if (CRYPTO_secure_malloc_initialized() || CRYPTO_secure_malloc_init(TLS_KEY_MEMORY_BYTES, SMALLEST) == 1)
        return ok();
    (void)CRYPTO_secure_malloc_done();
    FAIL(e, ERR_EXHAUSTED, "SECRET_MEMORY",
         "cannot lock %d bytes for the TLS key; raise the limit (systemd: LimitMEMLOCK=, shell: ulimit -l)", TLS_KEY_MEMORY_BYTES);
}

RESULT tls_ctx_new(int cert_fd, int key_fd, struct tls_ctx **ret, struct err *e)
{
    struct tls_ctx *c = calloc(1, sizeof *c);
    INVARIANT(c != NULL);
    ERR_clear_error();
    c->refs = 1;
    c->ssl = SSL_CTX_new(TLS_server_method());
    INVARIANT(c->ssl != NULL);
    c->bio = bio_method();
    harden(c->ssl);
    if (use_chain(c->ssl, cert_fd, e).failed || use_key(c->ssl, key_fd, e).failed) {
        tls_ctx_free(c);
        return (struct result){1};
    }
    *ret = c;
    return ok();
}

void tls_ctx_free(struct tls_ctx *c)
{
    if (c == NULL || --c->refs > 0)
        return;
    SSL_CTX_free(c->ssl);
    BIO_meth_free(c->bio);
    free(c);
}

/* ---- a connection ------------------------------------------------------------------------------------------------ */

RESULT tls_open(struct tls *t, struct tls_ctx *c, int fd, struct err *e)
{
    *t = (struct tls){.fd = fd, .readable = true, .writable = true};
    ERR_clear_error();
    BIO *b = BIO_new(c->bio);
    t->ssl = SSL_new(c->ssl);
    if (b == NULL || t->ssl == NULL) {
        BIO_free(b);
        SSL_free(t->ssl);
        t->ssl = NULL;
        FAIL(e, ERR_EXHAUSTED, NULL, "no memory for a connection");
    }
    c->refs++;
    t->ctx = c;
    BIO_set_data(b, t);
    BIO_set_init(b, 1);
    SSL_set_app_data(t->ssl, t);
    SSL_set_bio(t->ssl, b, b);
    SSL_set_accept_state(t->ssl);
    return ok();
}

void tls_close(struct tls *t)
{
    ERR_clear_error();
    SSL_free(t->ssl);
    t->ssl = NULL;
    tls_ctx_free(t->ctx);
    t->ctx = NULL;
    ERR_clear_error();
}

/* After SSL_ERROR_SSL or _SYSCALL the SSL is only good for being freed. */
static enum tls_io outcome(struct tls *t, int rc, const char *failed)
{
    switch (SSL_get_error(t->ssl, rc)) {
    case SSL_ERROR_NONE:
        break;
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return TLS_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return TLS_EOF;
    default:
        t->broken = true;
        t->why = ERR_peek_error() == 0 ? failed : ERR_reason_error_string(ERR_peek_error());
        t->why = t->why == NULL ? failed : t->why;
        ERR_clear_error();
        return TLS_BROKEN;
    }
    if (t->post_messages <= TLS_POST_HANDSHAKE_MAX)
        return TLS_OK;
    t->broken = true;
    t->why = "too many post-handshake messages";
    return TLS_BROKEN;
}

static enum tls_io established(struct tls *t)
{
    const unsigned char *proto;
    unsigned n;
    SSL_get0_alpn_selected(t->ssl, &proto, &n);
    X509 *leaf = SSL_get0_peer_certificate(t->ssl);
    unsigned digest_n = sizeof t->certificate;
    if (bytes_equal(BYTES(proto, n), BYTES_LIT("h2")) && leaf != NULL &&
        X509_digest(leaf, EVP_sha256(), t->certificate, &digest_n) == 1) {
        t->established = true;
        return TLS_OK;
    }
    t->why = "no application protocol agreed on";
    return TLS_BROKEN;
}

bool tls_wants_write(const struct tls *t)
{
    return SSL_want_write(t->ssl);
}

enum tls_io tls_handshake(struct tls *t)
{
    if (t->broken)
        return TLS_BROKEN;
    ERR_clear_error();
    int rc = SSL_do_handshake(t->ssl);
    enum tls_io io = outcome(t, rc, "connection closed in the handshake");
    return io == TLS_OK ? established(t) : io == TLS_EOF ? TLS_BROKEN : io;
}

enum tls_io tls_read(struct tls *t, void *out, size_t n, size_t *ret_n)
{
    *ret_n = 0;
    if (t->broken)
        return TLS_BROKEN;
    ERR_clear_error();
    int rc = SSL_read_ex(t->ssl, out, n, ret_n);
    enum tls_io io = outcome(t, rc, "connection closed without close_notify");
    /* A KeyUpdate flood carries no data: the count has to be looked at where nothing was read, too. */
    if (io == TLS_AGAIN && t->post_messages > TLS_POST_HANDSHAKE_MAX) {
        t->broken = true;
        t->why = "too many post-handshake messages";
        return TLS_BROKEN;
    }
    return io;
}

enum tls_io tls_write(struct tls *t, const void *p, size_t n, size_t *ret_n)
{
    *ret_n = 0;
    if (t->broken)
        return TLS_BROKEN;
    ERR_clear_error();
    int rc = SSL_write_ex(t->ssl, p, n < TLS_RECORD_BYTES ? n : TLS_RECORD_BYTES, ret_n);
    return outcome(t, rc, "connection closed while writing");
}

bool tls_pending(const struct tls *t)
{
    return t->ssl != NULL && !t->broken && SSL_has_pending(t->ssl);
}

/* In place of SSL_MODE_RELEASE_BUFFERS, which frees and cleanses all of both buffers after every single read. Plaintext is
 * cleansed as it is read, all the same (SSL_OP_CLEANSE_PLAINTEXT). */
bool tls_release_buffers(struct tls *t)
{
    if (t->ssl == NULL || t->broken)
        return true;
    ERR_clear_error();
    return SSL_free_buffers(t->ssl) == 1;
}

void tls_close_notify(struct tls *t)
{
    if (t->ssl == NULL || t->broken || !t->established)
        return;
    ERR_clear_error();
    if (SSL_shutdown(t->ssl) < 0)
        ERR_clear_error();
}

static bool put_cert(struct buf *out, X509 *x)
{
    unsigned char *der = NULL;
    int n = i2d_X509(x, &der);
    if (n > 0)
        buf_put_v32(out, BYTES(der, (size_t)n));
    OPENSSL_free(der);
    return n > 0;
}

RESULT tls_peer_chain(const struct tls *t, struct buf *out, struct err *e)
{
    ERR_clear_error();
    X509 *leaf = SSL_get0_peer_certificate(t->ssl);
    STACK_OF(X509) *rest = SSL_get_peer_cert_chain(t->ssl); /* a server's view leaves the leaf out */
    int n = rest == NULL ? 0 : sk_X509_num(rest);
    if (leaf == NULL || n > TLS_CHAIN_MAX_CERTS)
        FAIL(e, ERR_UNAUTHENTICATED, NULL, "no certificate, or %d of them", n + 1);
    buf_put_u8(out, (uint8_t)(n + 1));
    bool good = put_cert(out, leaf);
    for (int i = 0; good && i < n; i++)
        good = put_cert(out, sk_X509_value(rest, i));
    if (!good || out->overflow)
        FAIL(e, ERR_UNAUTHENTICATED, NULL, "the certificate chain is too long");
    return ok();
}
