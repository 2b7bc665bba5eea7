/* Rewrapping many, in one call and through a stream: what comes back, what breaks and is mended, what is never tried again. */
#include "vault/client/internal.h"

#include "tests/unit/vault/client/fixture.h"

#define RING "projects/acme/locations/eu/keyRings/pii/cryptoKeys/"
enum { N = 5 };

static int setup(void **state)
{
    return fixture_connect(state, (struct claviger_options){0});
}

static const struct claviger_pair pairs[] = {{"column", "email"}, {"row", "7"}};
static const struct claviger_binding bound = {.context = pairs, .context_len = 2};

/* n ciphertexts of "<first>", "<first + 1>" ... under version 1; the bytes are the caller's to free. */
static void sealed(struct claviger *c, const char *key, struct claviger_item *items, size_t n, unsigned first)
{
    char text[N][16];
    struct claviger_item plain[N] = {{0}};
    assert_true(n <= N);
    for (size_t i = 0; i < n; i++) {
        snprintf(text[i], sizeof text[i], "%u", first + (unsigned)i);
        plain[i] = (struct claviger_item){.in = text[i], .in_len = strlen(text[i]), .binding = bound};
    }
    assert_int_equal(claviger_encrypt_batch(c, key, plain, n, NULL), 0);
    for (size_t i = 0; i < n; i++)
        items[i] = (struct claviger_item){.in = plain[i].out.data, .in_len = plain[i].out.len, .binding = bound};
}

static void unseal(struct claviger_item *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free((void *)(uintptr_t)items[i].in);
    claviger_items_free(items, n);
}

/* Each is under version 2 now and still says the same. */
static void assert_moved(struct claviger *c, const char *key, const struct claviger_item *items, size_t n, unsigned first)
{
    struct claviger_item back[N] = {{0}};
    char text[16];
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(items[i].code, CLAVIGER_OK);
        assert_int_equal(items[i].source_version, 1);
        assert_int_equal(items[i].version, 2);
        back[i] = (struct claviger_item){.in = items[i].out.data, .in_len = items[i].out.len, .binding = bound};
    }
    assert_int_equal(claviger_decrypt_batch(c, key, back, n, NULL), 0);
    for (size_t i = 0; i < n; i++) {
        snprintf(text, sizeof text, "%u", first + (unsigned)i);
        assert_int_equal(back[i].out.len, strlen(text));
        assert_memory_equal(back[i].out.data, text, strlen(text));
    }
    claviger_items_free(back, n);
}

static void test_one_call(void **state)
{
    struct claviger *c = client(state);
    struct claviger_item items[N], again[1];
    struct claviger_error e;
    sealed(c, RING "email", items, N, 10);
    assert_int_equal(claviger_rewrap_batch(c, RING "email", items, N, &e), 0);
    assert_moved(c, RING "email", items, N, 10);
    again[0] = (struct claviger_item){.in = items[0].out.data, .in_len = items[0].out.len, .binding = bound};
    assert_int_equal(claviger_rewrap_batch(c, RING "email", again, 1, &e), 0);
    assert_int_equal(again[0].version, again[0].source_version);
    assert_int_equal(again[0].out.len, again[0].in_len);
    assert_memory_equal(again[0].out.data, again[0].in, again[0].in_len);
    claviger_items_free(again, 1);
    claviger_items_free(items, N);

    items[1].binding = (struct claviger_binding){0}; /* bound to something else */
    assert_int_equal(claviger_rewrap_batch(c, RING "email", items, N, &e), CLAVIGER_ABORTED);
    assert_string_equal(e.reason, "ITEMS_FAILED");
    assert_string_equal(items[1].reason, "CIPHERTEXT");
    assert_null(items[1].out.data);
    assert_int_equal(items[1].version, 0);
    items[1].binding = bound;
    claviger_items_free(items, N);
    assert_int_equal(claviger_rewrap_batch(c, RING "denied", items, N, &e), CLAVIGER_PERMISSION_DENIED);
    assert_int_equal(claviger_rewrap_batch(c, RING "email", items, 0, &e), CLAVIGER_INVALID_ARGUMENT);
    assert_string_equal(e.reason, "BAD_BATCH");
    unseal(items, N);
    static const char *const wrong[][2] = {{"damaged", "CRC32C_MISMATCH"}, {"nocrc", "CRC32C_MISMATCH"}, {"lost", "BAD_ANSWER"}};
    for (size_t i = 0; i < 3; i++) {
        char key[128];
        snprintf(key, sizeof key, RING "%s", wrong[i][0]);
        sealed(c, i < 2 ? key : RING "email", items, N, 0);
        assert_int_equal(claviger_rewrap_batch(c, key, items, N, &e), i < 2 ? CLAVIGER_DATA_LOSS : CLAVIGER_INTERNAL);
        assert_string_equal(e.reason, wrong[i][1]);
        for (size_t k = 0; k < N; k++)
            assert_null(items[k].out.data); /* nothing of it is handed out */
        unseal(items, N);
    }
}

static unsigned messages_of(struct claviger *c, const char *how)
{
    struct claviger_buffer out = {0};
    struct claviger_binding b = {.aad = how, .aad_len = strlen(how)};
    char text[16] = {0};
    assert_int_equal(claviger_encrypt(c, RING "count", "x", 1, &b, &out, NULL), 0);
    memcpy(text, out.data, out.len < 15 ? out.len : 15);
    claviger_buffer_free(&out);
    return (unsigned)atoi(text);
}

/* ---- streams ------------------------------------------------------------------------------------------------------------------ */

/* So many batches through a stream, two on their way; all of it must come back in order. */
static void campaign(struct claviger *c, const char *key, unsigned batches)
{
    struct claviger_item items[CLAVIGER_REWRAP_WINDOW][N];
    struct claviger_rewrap_stream *s = NULL;
    struct claviger_error e = {0};
    unsigned sent = 0;
    assert_int_equal(claviger_rewrap_stream_open(c, key, &s, &e), 0);
    for (unsigned done = 0; done < batches; done++) {
        for (; sent < batches && sent < done + CLAVIGER_REWRAP_WINDOW; sent++) {
            sealed(c, key, items[sent % CLAVIGER_REWRAP_WINDOW], N, sent * N);
            assert_int_equal(claviger_rewrap_stream_send(s, items[sent % CLAVIGER_REWRAP_WINDOW], N, &e), 0);
        }
        if (claviger_rewrap_stream_receive(s, &e) != 0)
            fail_msg("%s: batch %u: %s %s", key, done, e.reason, e.message);
        assert_moved(c, key, items[done % CLAVIGER_REWRAP_WINDOW], N, done * N);
        unseal(items[done % CLAVIGER_REWRAP_WINDOW], N);
    }
    claviger_rewrap_stream_close(s);
}

static void test_batches_come_back_in_order(void **state)
{
    campaign(client(state), RING "email", 20);
    campaign(client(state), RING "email", 1);
}

/* A server that ends the stream now and then: nothing is lost, doubled or out of order, and nobody is told. */
static void test_a_broken_stream_is_mended(void **state)
{
    campaign(client(state), RING "breaks", 12);
    campaign(client(state), RING "leaves", 12);
    assert_true(messages_of(client(state), "stream breaks") > 15 && messages_of(client(state), "stream leaves") > 15);
}

static void test_misuse(void **state)
{
    struct claviger *c = client(state);
    struct claviger_rewrap_stream *s = NULL;
    struct claviger_item items[N], *none = NULL;
    struct claviger_error e;
    assert_int_equal(claviger_rewrap_stream_open(c, "", &s, &e), CLAVIGER_INVALID_ARGUMENT);
    assert_null(s);
    assert_int_equal(claviger_rewrap_stream_open(c, RING "email", &s, &e), 0);
    assert_int_equal(claviger_rewrap_stream_receive(s, &e), CLAVIGER_FAILED_PRECONDITION);
    assert_string_equal(e.reason, "NOTHING_SENT");
    assert_int_equal(claviger_rewrap_stream_send(s, none, 0, &e), CLAVIGER_INVALID_ARGUMENT);
    sealed(c, RING "email", items, N, 0);
    assert_int_equal(claviger_rewrap_stream_send(s, items, 1, &e), 0);
    assert_int_equal(claviger_rewrap_stream_send(s, items + 1, 1, &e), 0);
    assert_int_equal(claviger_rewrap_stream_send(s, items + 2, 1, &e), CLAVIGER_FAILED_PRECONDITION);
    assert_string_equal(e.reason, "WINDOW_FULL");
    assert_int_equal(claviger_rewrap_stream_receive(s, &e), 0);
    assert_int_equal(items[0].version, 2);
    claviger_rewrap_stream_close(s); /* with one on its way */
    claviger_rewrap_stream_close(NULL);
    unseal(items, N);
}

/* What is no broken connection is told at once, and the batch stays the oldest: asked again, it is tried again. */
static void test_refusals_are_final_until_asked_again(void **state)
{
    static const struct {
        const char *key, *reason;
        int code;
    } t[] = {{RING "denied", "NOT_PERMITTED", CLAVIGER_PERMISSION_DENIED},
             {RING "state", "KEY_VERSION_DISABLED", CLAVIGER_FAILED_PRECONDITION},
             {RING "budget", "BUDGET_DAY", CLAVIGER_RESOURCE_EXHAUSTED},
             {RING "swapped", "BAD_ANSWER", CLAVIGER_INTERNAL},
             {RING "lost", "BAD_ANSWER", CLAVIGER_INTERNAL},
             {RING "down", "RESTARTING", CLAVIGER_UNAVAILABLE}};
    struct claviger *c = client(state);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct claviger_rewrap_stream *s = NULL;
        struct claviger_item items[N];
        struct claviger_error e;
        sealed(c, RING "email", items, N, 0);
        assert_int_equal(claviger_rewrap_stream_open(c, t[i].key, &s, &e), 0);
        assert_int_equal(claviger_rewrap_stream_send(s, items, N, &e), 0);
        for (int again = 0; again < (t[i].code == CLAVIGER_UNAVAILABLE ? 1 : 2); again++) {
            assert_int_equal(claviger_rewrap_stream_receive(s, &e), t[i].code);
            assert_string_equal(e.reason, t[i].reason);
            assert_null(items[0].out.data);
        }
        claviger_rewrap_stream_close(s);
        unseal(items, N);
    }
}

static void test_over_the_rate_and_then_not(void **state)
{
    struct claviger *c = client(state);
    struct claviger_rewrap_stream *s = NULL;
    struct claviger_item items[N];
    struct claviger_error e;
    unsigned refused = 0;
    sealed(c, RING "throttled", items, N, 3);
    assert_int_equal(claviger_rewrap_stream_open(c, RING "throttled", &s, &e), 0);
    assert_int_equal(claviger_rewrap_stream_send(s, items, N, &e), 0);
    while (claviger_rewrap_stream_receive(s, &e) != 0) {
        assert_string_equal(e.reason, "RATE_LIMITED");
        assert_int_equal(e.retry_after_ms, 20);
        assert_true(++refused < 5);
    }
    assert_true(refused >= 1);
    assert_moved(c, RING "throttled", items, N, 3);
    claviger_rewrap_stream_close(s);
    unseal(items, N);
}

static void test_one_failed_item_ends_nothing(void **state)
{
    struct claviger *c = client(state);
    struct claviger_rewrap_stream *s = NULL;
    struct claviger_item one[N], two[N];
    struct claviger_error e;
    sealed(c, RING "email", one, N, 0);
    sealed(c, RING "email", two, N, 50);
    one[2].in_len--;
    assert_int_equal(claviger_rewrap_stream_open(c, RING "email", &s, &e), 0);
    assert_int_equal(claviger_rewrap_stream_send(s, one, N, &e), 0);
    assert_int_equal(claviger_rewrap_stream_send(s, two, N, &e), 0);
    assert_int_equal(claviger_rewrap_stream_receive(s, &e), CLAVIGER_ABORTED);
    assert_string_equal(e.reason, "ITEMS_FAILED");
    assert_int_equal(one[2].code, CLAVIGER_INVALID_ARGUMENT);
    assert_string_equal(one[2].reason, "CIPHERTEXT");
    assert_moved(c, RING "email", one, 2, 0);
    assert_int_equal(claviger_rewrap_stream_receive(s, &e), 0);
    assert_moved(c, RING "email", two, N, 50);
    claviger_rewrap_stream_close(s);
    unseal(one, N);
    unseal(two, N);
}

/* A server that says nothing more: given up after timeout_ms, not waited for. */
static void test_silence(void **state)
{
    struct fixture *f = *state;
    struct claviger *c = connect_with(&f->server, (struct claviger_options){.timeout_ms = 2000});
    struct claviger_rewrap_stream *s = NULL;
    struct claviger_item items[N];
    struct claviger_error e;
    sealed(f->c, RING "silent", items, N, 0);
    assert_int_equal(claviger_rewrap_stream_open(c, RING "silent", &s, &e), 0);
    assert_int_equal(claviger_rewrap_stream_send(s, items, N, &e), 0);
    assert_int_equal(claviger_rewrap_stream_receive(s, &e), CLAVIGER_DEADLINE_EXCEEDED);
    claviger_rewrap_stream_close(s);
    unseal(items, N);
    claviger_free(c);
}

/* Messages and answers far beyond any window of HTTP/2, both ways at once: a send that waits for the server, which waits for its
 * answer to be taken, must not wait for ever. */
static void test_large_batches_do_not_block_each_other(void **state)
{
    enum { LARGE = 60000, BATCHES = 8 };
    struct claviger *c = client(state);
    struct claviger_rewrap_stream *s = NULL;
    struct claviger_item old[3] = {{0}}, items[CLAVIGER_REWRAP_WINDOW][3];
    struct claviger_error e;
    uint8_t *text = calloc(1, LARGE);
    assert_non_null(text);
    for (size_t i = 0; i < 3; i++)
        old[i] = (struct claviger_item){.in = text, .in_len = LARGE, .binding = bound};
    assert_int_equal(claviger_encrypt_batch(c, RING "email", old, 3, &e), 0);
    assert_int_equal(claviger_rewrap_stream_open(c, RING "email", &s, &e), 0);
    for (unsigned i = 0; i < BATCHES; i++) {
        struct claviger_item *mine = items[i % CLAVIGER_REWRAP_WINDOW];
        if (i >= CLAVIGER_REWRAP_WINDOW) {
            assert_int_equal(claviger_rewrap_stream_receive(s, &e), 0);
            assert_int_equal(mine[2].out.len, old[2].out.len);
            claviger_items_free(mine, 3);
        }
        for (size_t k = 0; k < 3; k++)
            mine[k] = (struct claviger_item){.in = old[k].out.data, .in_len = old[k].out.len, .binding = bound};
        assert_int_equal(claviger_rewrap_stream_send(s, mine, 3, &e), 0);
    }
    for (unsigned i = 0; i < CLAVIGER_REWRAP_WINDOW; i++) {
        assert_int_equal(claviger_rewrap_stream_receive(s, &e), 0);
        claviger_items_free(items[(BATCHES + i) % CLAVIGER_REWRAP_WINDOW], 3);
    }
    claviger_rewrap_stream_close(s);
    claviger_items_free(old, 3);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_call),
        cmocka_unit_test(test_batches_come_back_in_order),
        cmocka_unit_test(test_a_broken_stream_is_mended),
        cmocka_unit_test(test_misuse),
        cmocka_unit_test(test_refusals_are_final_until_asked_again),
        cmocka_unit_test(test_over_the_rate_and_then_not),
        cmocka_unit_test(test_one_failed_item_ends_nothing),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_large_batches_do_not_block_each_other),
    };
    return cmocka_run_group_tests(tests, setup, fixture_stop);
}
