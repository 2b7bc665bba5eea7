#include "tests/unit/vault/front/pair.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* Both ends in one thread: as the front's loop sees it. */

static int setup(void **state)
{
    struct ends *w = calloc(1, sizeof *w);
    ends_init(w);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    ends_release(*state);
    free(*state);
    return 0;
}

static enum tls_io shake(struct pair *p)
{
    enum tls_io io = TLS_AGAIN;
    for (int i = 0; i < 20 && io == TLS_AGAIN; i++) {
        ERR_clear_error();
        (void)SSL_do_handshake(p->client);
        p->server.readable = true;
        io = tls_handshake(&p->server);
    }
    return io;
}

static void test_data_passes(void **state)
{
    struct pair p;
    char buf[64];
    size_t n;
    open_pair(*state, &p);
    assert_int_equal(shake(&p), TLS_OK);
    assert_string_equal(SSL_get_version(p.client), "TLSv1.3");
    assert_int_equal(tls_read(&p.server, buf, sizeof buf, &n), TLS_AGAIN);
    assert_int_equal(SSL_write(p.client, "hello", 5), 5);
    p.server.readable = true;
    assert_int_equal(tls_read(&p.server, buf, sizeof buf, &n), TLS_OK);
    assert_int_equal(n, 5);
    assert_int_equal(tls_write(&p.server, "there", 5, &n), TLS_OK);
    assert_int_equal(SSL_read(p.client, buf, sizeof buf), 5);
    close_pair(&p);
}

/* Without ERR_clear_error before each call the leftovers of one connection's failure end another one. */
static void test_leftover_errors_hurt_nobody(void **state)
{
    struct pair p;
    char buf[64];
    size_t n;
    open_pair(*state, &p);
    assert_int_equal(shake(&p), TLS_OK);
    ERR_raise(ERR_LIB_SSL, SSL_R_UNEXPECTED_EOF_WHILE_READING);
    p.server.readable = true;
    assert_int_equal(tls_read(&p.server, buf, sizeof buf, &n), TLS_AGAIN);
    ERR_raise(ERR_LIB_SSL, SSL_R_UNEXPECTED_EOF_WHILE_READING);
    while (tls_write(&p.server, "0123456789abcdef0123456789abcdef", 32, &n) == TLS_OK)
        ERR_raise(ERR_LIB_SSL, SSL_R_UNEXPECTED_EOF_WHILE_READING);
    assert_false(p.server.broken); /* the socket was full, no more */
    close_pair(&p);
    assert_int_equal(ERR_peek_error(), 0);
    open_pair(*state, &p);
    ERR_raise(ERR_LIB_SSL, SSL_R_UNEXPECTED_EOF_WHILE_READING);
    assert_int_equal(tls_handshake(&p.server), TLS_AGAIN);
    ERR_clear_error();
    close_pair(&p);
}

static void test_a_failed_connection_leaves_no_error(void **state)
{
    struct pair p;
    char buf[64];
    size_t n;
    open_pair(*state, &p);
    assert_int_equal(shake(&p), TLS_OK);
    shutdown(p.fds[1], SHUT_RDWR); /* no close_notify */
    p.server.readable = true;
    assert_int_equal(tls_read(&p.server, buf, sizeof buf, &n), TLS_BROKEN);
    assert_int_equal(ERR_peek_error(), 0);
    assert_int_equal(tls_write(&p.server, "x", 1, &n), TLS_BROKEN);
    tls_close_notify(&p.server);
    close_pair(&p);
}

static void test_close_notify_is_the_end(void **state)
{
    struct pair p;
    char buf[64];
    size_t n;
    open_pair(*state, &p);
    assert_int_equal(shake(&p), TLS_OK);
    (void)SSL_shutdown(p.client);
    p.server.readable = true;
    assert_int_equal(tls_read(&p.server, buf, sizeof buf, &n), TLS_EOF);
    close_pair(&p);
}

static void expect_refused(struct ends *w, SSL_CTX *client, const char *why)
{
    struct pair p;
    SSL_CTX *usual = w->client;
    w->client = client;
    open_pair(w, &p);
    w->client = usual;
    assert_int_equal(shake(&p), TLS_BROKEN);
    assert_string_equal(p.server.why, why);
    close_pair(&p);
    SSL_CTX_free(client);
}

static void test_who_is_refused(void **state)
{
    struct ends *w = *state;
    SSL_CTX *c = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_alpn_protos(c, (const unsigned char *)"\2h2", 3);
    expect_refused(w, c, "peer did not return a certificate");
    c = SSL_CTX_new(TLS_client_method());
    SSL_CTX_use_certificate(c, w->cert);
    SSL_CTX_use_PrivateKey(c, w->key);
    expect_refused(w, c, "no application protocol agreed on");
    c = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(c, TLS1_2_VERSION);
    expect_refused(w, c, "unsupported protocol");
    c = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set1_groups_list(c, "P-384");
    expect_refused(w, c, "no suitable key share");
}

static void test_key_update_floods_end(void **state)
{
    struct pair p;
    char buf[64];
    size_t n;
    open_pair(*state, &p);
    assert_int_equal(shake(&p), TLS_OK);
    enum tls_io io = TLS_AGAIN;
    int updates = 0;
    for (; updates < 2 * TLS_POST_HANDSHAKE_MAX && io == TLS_AGAIN; updates++) {
        assert_true(SSL_key_update(p.client, SSL_KEY_UPDATE_NOT_REQUESTED));
        assert_int_equal(SSL_do_handshake(p.client), 1);
        p.server.readable = true;
        io = tls_read(&p.server, buf, sizeof buf, &n);
    }
    assert_int_equal(io, TLS_BROKEN);
    assert_int_equal(updates, TLS_POST_HANDSHAKE_MAX + 1);
    assert_string_equal(p.server.why, "too many post-handshake messages");
    close_pair(&p);
}

static void test_the_chain_is_handed_on(void **state)
{
    struct ends *w = *state;
    struct pair p;
    struct err e;
    CLEANUP(buf_release) struct buf out, small;
    buf_init(&out, 4096);
    buf_init(&small, 10);
    open_pair(w, &p);
    assert_int_equal(shake(&p), TLS_OK);
    assert_false(tls_peer_chain(&p.server, &out, &e).failed);
    unsigned char *der = NULL;
    int n = i2d_X509(w->cert, &der);
    struct reader r = reader_of(buf_bytes(&out));
    assert_int_equal(reader_u8(&r), 1);
    assert_true(bytes_equal(reader_v32(&r), BYTES(der, (size_t)n)));
    assert_true(reader_done(&r));
    assert_true(tls_peer_chain(&p.server, &small, &e).failed);
    assert_int_equal(e.code, ERR_UNAUTHENTICATED);
    OPENSSL_free(der);
    close_pair(&p);
}

static void test_files_must_fit(void **state)
{
    struct ends *w = *state;
    struct tls_ctx *c;
    struct err e;
    EVP_PKEY *key;
    X509 *cert;
    struct files other = make_files(&key, &cert);
    assert_true(tls_ctx_new(w->files.cert, other.key, &c, &e).failed);
    assert_int_equal(e.code, ERR_INVALID);
    assert_true(tls_ctx_new(w->files.key, w->files.key, &c, &e).failed);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(ftruncate(other.cert, 0), 0);
    assert_true(tls_ctx_new(other.cert, w->files.key, &c, &e).failed);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(ftruncate(other.cert, TLS_FILE_MAX_BYTES + 1), 0);
    assert_true(tls_ctx_new(other.cert, w->files.key, &c, &e).failed);
    assert_int_equal(e.code, ERR_INVALID);
    assert_false(tls_ctx_new(w->files.cert, w->files.key, &c, &e).failed); /* read from the start each time */
    tls_ctx_free(c);
    X509_free(cert);
    EVP_PKEY_free(key);
    close(other.cert);
    close(other.key);
}

/* A running connection outlives the certificate it began with. */
static void test_replacing_the_certificate(void **state)
{
    struct ends *w = *state;
    struct pair p;
    struct err e;
    char buf[8];
    size_t n;
    open_pair(w, &p);
    assert_int_equal(shake(&p), TLS_OK);
    tls_ctx_free(w->ctx);
    assert_false(tls_ctx_new(w->files.cert, w->files.key, &w->ctx, &e).failed);
    assert_int_equal(SSL_write(p.client, "on", 2), 2);
    p.server.readable = true;
    assert_int_equal(tls_read(&p.server, buf, sizeof buf, &n), TLS_OK);
    close_pair(&p);
}

/* In a child: what cannot be locked must stop the start, and stay refused when it is tried again. */
static void test_a_key_needs_locked_memory(void **state)
{
    (void)state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit none = {0};
        struct err e = {0};
        bool may_lock = setrlimit(RLIMIT_MEMLOCK, &none) != 0 || (geteuid() == 0 && setuid(65534) != 0);
        bool refused = tls_memory_init(&e).failed && e.code == ERR_EXHAUSTED && tls_memory_init(&e).failed;
        _exit(may_lock ? 2 : !refused);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* And in the secure heap it lies: the private scalar, and what a handshake computes from it. */
static void test_the_key_lies_in_locked_memory(void **state)
{
    struct ends *w = *state;
    struct pair p = {0};
    struct err e;
    assert_false(CRYPTO_secure_malloc_initialized());
    assert_false(tls_memory_init(&e).failed);
    assert_false(tls_memory_init(&e).failed); /* once is enough, twice is no error */
    tls_ctx_free(w->ctx);
    assert_false(tls_ctx_new(w->files.cert, w->files.key, &w->ctx, &e).failed);
    size_t held = CRYPTO_secure_used();
    assert_in_range(held, 32, TLS_KEY_MEMORY_BYTES / 8);
    open_pair(w, &p);
    assert_int_equal(shake(&p), TLS_OK);
    close_pair(&p);
    assert_in_range(CRYPTO_secure_used(), held, TLS_KEY_MEMORY_BYTES / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_key_needs_locked_memory),
        cmocka_unit_test(test_the_key_lies_in_locked_memory),
        cmocka_unit_test(test_data_passes),
        cmocka_unit_test(test_leftover_errors_hurt_nobody),
        cmocka_unit_test(test_a_failed_connection_leaves_no_error),
        cmocka_unit_test(test_close_notify_is_the_end),
        cmocka_unit_test(test_who_is_refused),
        cmocka_unit_test(test_key_update_floods_end),
        cmocka_unit_test(test_the_chain_is_handed_on),
        cmocka_unit_test(test_files_must_fit),
        cmocka_unit_test(test_replacing_the_certificate),
    };
    return cmocka_run_group_tests_name("tls", tests, setup, teardown);
}
