#include "tests/unit/vault/front/pair.h"
#include "vault/front/shake.h"

#include <poll.h>
#include <string.h>

/* Many clients by OpenSSL in this thread, their servers' handshakes on the pool's: as many of these as there may be. */

enum { CLIENTS = 60, WAIT_MS = 60000 };

struct world {
    struct ends ends;
    struct shake *pool;
};
struct one {
    struct pair p;
    struct shake_job job;
    bool back;
};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct err e;
    ends_init(&w->ends);
    assert_false(shake_new(SHAKE_THREADS_MAX, &w->pool, &e).failed);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    shake_free(w->pool);
    ends_release(&w->ends);
    free(w);
    return 0;
}

static void give(struct world *w, struct one *o)
{
    struct err e;
    *o = (struct one){0};
    open_pair(&w->ends, &o->p);
    o->job.tls = &o->p.server;
    assert_false(shake_give(w->pool, &o->job, &e).failed);
}

/* Until n are back; clients of which `speaks` is false say nothing. */
static void run(struct world *w, struct one *all, size_t total, size_t n, bool (*speaks)(size_t i))
{
    struct pollfd ready = {.fd = shake_fd(w->pool), .events = POLLIN};
    for (int waited = 0; n > 0 && waited < WAIT_MS;) {
        for (size_t i = 0; i < total; i++) {
            ERR_clear_error();
            if (speaks(i) && !SSL_is_init_finished(all[i].p.client))
                (void)SSL_do_handshake(all[i].p.client);
        }
        if (poll(&ready, 1, 1) == 0)
            waited++;
        for (struct shake_job *j = shake_take(w->pool), *next; j != NULL; j = next) {
            next = j->next;
            struct one *o = (struct one *)(void *)((char *)j - offsetof(struct one, job));
            assert_false(o->back);
            o->back = true;
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
    static struct one all[CLIENTS];
    char buf[8];
    size_t n;
    for (size_t i = 0; i < CLIENTS; i++)
        give(*state, &all[i]);
    run(*state, all, CLIENTS, CLIENTS, everybody);
    for (size_t i = 0; i < CLIENTS; i++) {
        struct pair *p = &all[i].p;
        assert_int_equal(all[i].job.outcome, TLS_OK);
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
    static struct one all[CLIENTS];
    for (size_t i = 0; i < CLIENTS; i++)
        give(*state, &all[i]);
    run(*state, all, CLIENTS, CLIENTS / 3, every_third);
    for (size_t i = 0; i < CLIENTS; i++) {
        assert_int_equal(all[i].back, every_third(i));
        if (!all[i].back)
            (void)shutdown(all[i].p.fds[0], SHUT_RDWR);
    }
    run(*state, all, CLIENTS, CLIENTS - CLIENTS / 3, every_third);
    for (size_t i = 0; i < CLIENTS; i++) {
        assert_int_equal(all[i].job.outcome, every_third(i) ? TLS_OK : TLS_BROKEN);
        close_pair(&all[i].p);
    }
}

static void test_what_breaks_is_back_with_a_reason(void **state)
{
    struct one o;
    give(*state, &o);
    assert_int_equal(write(o.p.fds[1], "GET / HTTP/1.1\r\n\r\n", 18), 18);
    run(*state, &o, 1, 1, every_third);
    assert_int_equal(o.job.outcome, TLS_BROKEN);
    assert_string_equal(o.p.server.why, "http request");
    close_pair(&o.p);
}

/* Freed in the middle: the threads are gone, and the jobs are their owners' again. */
static void test_free_in_the_middle(void **state)
{
    struct world *w = *state;
    struct err e;
    static struct one all[CLIENTS];
    for (size_t i = 0; i < CLIENTS; i++) {
        give(w, &all[i]);
        (void)SSL_do_handshake(all[i].p.client);
    }
    shake_free(w->pool);
    for (size_t i = 0; i < CLIENTS; i++)
        close_pair(&all[i].p);
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
