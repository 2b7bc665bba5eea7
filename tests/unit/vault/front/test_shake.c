#include "tests/unit/vault/front/testing.h"
#include "vault/front/openssl.h"
#include "vault/front/shake.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Many clients by OpenSSL in this thread, their servers' handshakes on the pool's: as many of these as there may be. */

enum { CLIENTS = 60, WAIT_MS = 10000 };

struct world {
    struct tls_ctx *ctx;
    SSL_CTX *client;
    struct shake *pool;
};
struct pair {
    int fds[2];
    struct tls server;
    struct shake_job job;
    SSL *client;
    bool back;
};

static int file_of(BIO *b)
{
    char *p, name[] = "/tmp/clv-shake-XXXXXX";
    long n = BIO_get_mem_data(b, &p);
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    assert_int_equal(unlink(name), 0);
    assert_int_equal(write(fd, p, (size_t)n), n);
    BIO_free(b);
    return fd;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct err e;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = X509_new();
    X509_gmtime_adj(X509_getm_notBefore(x), -60);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, key);
    assert_true(X509_sign(x, key, EVP_sha256()) > 0);
    BIO *c = BIO_new(BIO_s_mem()), *k = BIO_new(BIO_s_mem());
    assert_true(PEM_write_bio_X509(c, x) && PEM_write_bio_PrivateKey(k, key, NULL, NULL, 0, NULL, NULL));
    int cert_fd = file_of(c), key_fd = file_of(k);
    assert_false(tls_ctx_new(cert_fd, key_fd, &w->ctx, &e).failed);
    close(cert_fd);
    close(key_fd);
    w->client = SSL_CTX_new(TLS_client_method());
    SSL_CTX_use_certificate(w->client, x);
    SSL_CTX_use_PrivateKey(w->client, key);
    SSL_CTX_set_alpn_protos(w->client, (const unsigned char *)"\2h2", 3);
    X509_free(x);
    EVP_PKEY_free(key);
    assert_false(shake_new(SHAKE_THREADS_MAX, &w->pool, &e).failed);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    shake_free(w->pool);
    tls_ctx_free(w->ctx);
    SSL_CTX_free(w->client);
    free(w);
    return 0;
}

static void open_pair(struct world *w, struct pair *p)
{
    struct err e;
    *p = (struct pair){0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p->fds), 0);
    assert_false(tls_open(&p->server, w->ctx, p->fds[0], &e).failed);
    p->job.tls = &p->server;
    p->client = SSL_new(w->client);
    SSL_set_fd(p->client, p->fds[1]);
    SSL_set_connect_state(p->client);
    assert_false(shake_give(w->pool, &p->job, &e).failed);
}

static void close_pair(struct pair *p)
{
    tls_close(&p->server);
    SSL_free(p->client);
    close(p->fds[0]);
    close(p->fds[1]);
}

/* Until n are back; clients of which `speaks` is false say nothing. */
static void run(struct world *w, struct pair *pairs, size_t total, size_t n, bool (*speaks)(size_t i))
{
    struct pollfd ready = {.fd = shake_fd(w->pool), .events = POLLIN};
    for (int waited = 0; n > 0 && waited < WAIT_MS;) {
        for (size_t i = 0; i < total; i++) {
            ERR_clear_error();
            if (speaks(i) && !SSL_is_init_finished(pairs[i].client))
                (void)SSL_do_handshake(pairs[i].client);
        }
        if (poll(&ready, 1, 1) == 0)
            waited++;
        for (struct shake_job *j = shake_take(w->pool), *next; j != NULL; j = next) {
            next = j->next;
            struct pair *p = (struct pair *)(void *)((char *)j - offsetof(struct pair, job));
            assert_false(p->back);
            p->back = true;
            n--;
        }
    }
    assert_int_equal(n, 0);
}

static bool everybody(size_t i)
{
    (void)i;
    return true;
}

static bool every_third(size_t i)
{
    return i % 3 == 0;
}

static void test_handshakes_of_many(void **state)
{
    static struct pair pairs[CLIENTS];
    char buf[8];
    size_t n;
    for (size_t i = 0; i < CLIENTS; i++)
        open_pair(*state, &pairs[i]);
    run(*state, pairs, CLIENTS, CLIENTS, everybody);
    for (size_t i = 0; i < CLIENTS; i++) {
        struct pair *p = &pairs[i];
        assert_int_equal(p->job.outcome, TLS_OK);
        unsigned digest_n = TLS_DIGEST_BYTES;
        uint8_t digest[TLS_DIGEST_BYTES];
        assert_true(X509_digest(SSL_get_certificate(p->client), EVP_sha256(), digest, &digest_n));
        assert_memory_equal(p->server.certificate, digest, TLS_DIGEST_BYTES);
        assert_int_equal(SSL_write(p->client, "hello", 5), 5); /* and it is all ours again */
        p->server.readable = true;
        assert_int_equal(tls_read(&p->server, buf, sizeof buf, &n), TLS_OK);
        assert_int_equal(n, 5);
        close_pair(p);
    }
}

/* Clients that say nothing stay with the pool; a shutdown of the socket brings each back, broken, and no other. */
static void test_shutdown_brings_back(void **state)
{
    static struct pair pairs[CLIENTS];
    for (size_t i = 0; i < CLIENTS; i++)
        open_pair(*state, &pairs[i]);
    run(*state, pairs, CLIENTS, CLIENTS / 3, every_third);
    for (size_t i = 0; i < CLIENTS; i++) {
        assert_int_equal(pairs[i].back, every_third(i));
        if (!pairs[i].back)
            (void)shutdown(pairs[i].fds[0], SHUT_RDWR);
    }
    run(*state, pairs, CLIENTS, CLIENTS - CLIENTS / 3, every_third);
    for (size_t i = 0; i < CLIENTS; i++) {
        assert_int_equal(pairs[i].job.outcome, every_third(i) ? TLS_OK : TLS_BROKEN);
        close_pair(&pairs[i]);
    }
}

static void test_what_breaks_is_back_with_a_reason(void **state)
{
    struct pair p;
    open_pair(*state, &p);
    assert_int_equal(write(p.fds[1], "GET / HTTP/1.1\r\n\r\n", 18), 18);
    run(*state, &p, 1, 1, every_third);
    assert_int_equal(p.job.outcome, TLS_BROKEN);
    assert_string_equal(p.server.why, "http request");
    close_pair(&p);
}

/* Freed in the middle: the threads are gone, and the jobs are their owners' again. */
static void test_free_in_the_middle(void **state)
{
    struct world *w = *state;
    struct err e;
    static struct pair pairs[CLIENTS];
    for (size_t i = 0; i < CLIENTS; i++) {
        open_pair(w, &pairs[i]);
        (void)SSL_do_handshake(pairs[i].client);
    }
    shake_free(w->pool);
    for (size_t i = 0; i < CLIENTS; i++)
        close_pair(&pairs[i]);
    assert_false(shake_new(0, &w->pool, &e).failed);
    shake_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handshakes_of_many),
        cmocka_unit_test(test_shutdown_brings_back),
        cmocka_unit_test(test_what_breaks_is_back_with_a_reason),
        cmocka_unit_test(test_free_in_the_middle),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
