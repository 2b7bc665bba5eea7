#include "vault/client/internal.h"

#include "tests/unit/vault/client/fixture.h"

#include "claviger/envelope/v1/envelope.pb-c.h"

#include <pthread.h>

#define RING "projects/acme/locations/eu/keyRings/pii/cryptoKeys/"

static int setup(void **state)
{
    return fixture_connect(state, (struct claviger_options){.cache_max_uses = 5, .cache_max_keys = 4});
}

static unsigned calls_of(struct claviger *c, const char *how)
{
    struct claviger_buffer out = {0};
    struct claviger_binding b = {.aad = how, .aad_len = strlen(how)};
    assert_int_equal(claviger_encrypt(c, RING "count", "x", 1, &b, &out, NULL), 0);
    char text[16] = {0};
    memcpy(text, out.data, out.len < 15 ? out.len : 15);
    claviger_buffer_free(&out);
    return (unsigned)atoi(text);
}

/* ---- encrypt, decrypt ----------------------------------------------------------------------------------------------------- */

static const struct claviger_pair pairs[] = {{"column", "email"}, {"row", "7"}}, swapped[] = {{"row", "7"}, {"column", "email"}},
                                  others[] = {{"column", "phone"}, {"row", "7"}};

static void test_encrypt_and_back(void **state)
{
    struct claviger *c = client(state);
    const struct claviger_binding bindings[] = {{0}, {.aad = "a\0b", .aad_len = 3}, {.context = pairs, .context_len = 2}};
    for (size_t i = 0; i < 3; i++) {
        struct claviger_buffer sealed = {0}, back = {0};
        struct claviger_error e;
        assert_int_equal(claviger_encrypt(c, RING "email", "jane@example.com", 16, &bindings[i], &sealed, &e), 0);
        assert_int_equal(claviger_decrypt(c, RING "email", sealed.data, sealed.len, &bindings[i], &back, &e), 0);
        assert_int_equal(back.len, 16);
        assert_memory_equal(back.data, "jane@example.com", 16);
        claviger_buffer_free(&back);
        /* denial twin: another key, another binding, a changed byte: one answer, and nothing written */
        const struct claviger_binding wrong = {.context = others, .context_len = 2};
        assert_int_equal(claviger_decrypt(c, RING "other", sealed.data, sealed.len, &bindings[i], &back, &e),
                         CLAVIGER_INVALID_ARGUMENT);
        assert_string_equal(e.reason, "CIPHERTEXT");
        assert_int_equal(claviger_decrypt(c, RING "email", sealed.data, sealed.len, &wrong, &back, &e), CLAVIGER_INVALID_ARGUMENT);
        assert_string_equal(e.reason, "CIPHERTEXT");
        sealed.data[sealed.len - 1] ^= 1;
        assert_int_equal(claviger_decrypt(c, RING "email", sealed.data, sealed.len, &bindings[i], &back, &e),
                         CLAVIGER_INVALID_ARGUMENT);
        assert_string_equal(e.reason, "CIPHERTEXT");
        assert_null(back.data);
        claviger_buffer_free(&sealed);
    }
}

static void test_pairs_have_no_order(void **state)
{
    struct claviger_buffer sealed = {0}, back = {0};
    struct claviger_binding a = {.context = pairs, .context_len = 2}, b = {.context = swapped, .context_len = 2};
    assert_int_equal(claviger_encrypt(client(state), RING "email", "x", 1, &a, &sealed, NULL), 0);
    assert_int_equal(claviger_decrypt(client(state), RING "email", sealed.data, sealed.len, &b, &back, NULL), 0);
    claviger_buffer_free(&sealed);
    claviger_buffer_free(&back);
}

static void test_damage_on_the_way_is_found(void **state)
{
    struct claviger *c = client(state);
    struct claviger_buffer out = {0};
    struct claviger_error e;
    static const struct {
        const char *key, *reason;
    } bad[] = {{RING "damaged", "CRC32C_MISMATCH"}, {RING "nocrc", "CRC32C_MISMATCH"}, {RING "unverified", "CRC32C_NOT_VERIFIED"}};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(claviger_encrypt(c, bad[i].key, "x", 1, NULL, &out, &e), CLAVIGER_DATA_LOSS);
        assert_string_equal(e.reason, bad[i].reason);
        assert_null(out.data);
    }
    assert_int_equal(claviger_encrypt(c, RING "damaged-back", "x", 1, NULL, &out, &e), 0);
    struct claviger_buffer back = {0};
    assert_int_equal(claviger_decrypt(c, RING "damaged-back", out.data, out.len, NULL, &back, &e), CLAVIGER_DATA_LOSS);
    assert_null(back.data);
    claviger_buffer_free(&out);
}

static void test_refused_before_sending(void **state)
{
    struct claviger *c = client(state);
    struct claviger_buffer out = {0};
    struct claviger_error e;
    struct claviger_binding both = {.context = pairs, .context_len = 2, .aad = "x", .aad_len = 1};
    assert_int_equal(claviger_encrypt(c, RING "email", "x", 1, &both, &out, &e), CLAVIGER_INVALID_ARGUMENT);
    assert_string_equal(e.reason, "BAD_BINDING");
    const struct claviger_pair twice[] = {{"a", "1"}, {"a", "2"}};
    struct claviger_binding dup = {.context = twice, .context_len = 2};
    assert_int_equal(claviger_encrypt(c, RING "email", "x", 1, &dup, &out, &e), CLAVIGER_INVALID_ARGUMENT);
    assert_string_equal(e.reason, "BAD_BINDING");
    struct claviger_binding aad = {.aad = "x", .aad_len = 1};
    assert_int_equal(claviger_wrap(c, RING "email", "x", 1, &aad, &out, &e), CLAVIGER_INVALID_ARGUMENT);
    assert_string_equal(e.reason, "BAD_BINDING");
    uint8_t *large = calloc(1, CLAVIGER_PLAINTEXT_MAX + 1);
    assert_int_equal(claviger_encrypt(c, RING "email", large, CLAVIGER_PLAINTEXT_MAX + 1, NULL, &out, &e), CLAVIGER_INVALID_ARGUMENT);
    assert_string_equal(e.reason, "TOO_LARGE");
    assert_int_equal(claviger_encrypt(c, RING "email", large, CLAVIGER_PLAINTEXT_MAX, NULL, &out, &e), 0);
    claviger_buffer_free(&out);
    free(large);
}

/* ---- errors, retries, deadlines --------------------------------------------------------------------------------------------- */

static void test_errors_are_read(void **state)
{
    struct claviger *c = client(state);
    static const struct {
        const char *key;
        int code;
        const char *reason, *field;
        uint64_t retry_ms;
    } want[] = {
        {RING "denied", CLAVIGER_PERMISSION_DENIED, "NOT_PERMITTED", "", 0},
        {RING "state", CLAVIGER_FAILED_PRECONDITION, "KEY_VERSION_DISABLED", "name", 0},
        {RING "absent", CLAVIGER_NOT_FOUND, "NOT_FOUND", "", 0},
        {RING "limit", CLAVIGER_RESOURCE_EXHAUSTED, "RATE", "", 1250},
        {RING "lying", CLAVIGER_NOT_FOUND, "", "", 0},  /* its details claim another code: not believed */
        {RING "garbage", CLAVIGER_ABORTED, "", "", 0},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct claviger_error e;
        struct claviger_buffer out = {0};
        assert_int_equal(claviger_encrypt(c, want[i].key, "x", 1, NULL, &out, &e), want[i].code);
        assert_int_equal(e.code, want[i].code);
        assert_string_equal(e.reason, want[i].reason);
        assert_string_equal(e.field, want[i].field);
        assert_int_equal(e.retry_after_ms, want[i].retry_ms);
        assert_int_equal(strlen(e.request_id), 32);
        assert_null(strchr(e.message, 0x1b)); /* nothing reaches a terminal as an escape */
        assert_null(out.data);
    }
}

static void test_unavailable_is_tried_again(void **state)
{
    struct claviger *c = client(state);
    struct claviger_buffer out = {0};
    assert_int_equal(claviger_encrypt(c, RING "flaky", "x", 1, NULL, &out, NULL), 0);
    assert_int_equal(calls_of(c, "flaky"), 3);
    claviger_buffer_free(&out);
    assert_int_equal(claviger_encrypt(c, RING "denied", "x", 1, NULL, &out, NULL), CLAVIGER_PERMISSION_DENIED);
    unsigned before = calls_of(c, "denied");
    assert_int_equal(claviger_encrypt(c, RING "denied", "x", 1, NULL, &out, NULL), CLAVIGER_PERMISSION_DENIED);
    assert_int_equal(calls_of(c, "denied"), before + 1); /* any other refusal is final */
}

static void test_changes_are_never_repeated(void **state)
{
    struct claviger *c = client(state);
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    Claviger__Envelope__V1__GenerateDataKeyRequest q = CLAVIGER__ENVELOPE__V1__GENERATE_DATA_KEY_REQUEST__INIT;
    q.name = pb_of(BYTES_LIT(RING "flaky-change"));
    ProtobufCMessage *m = NULL;
    struct claviger_error e;
    struct rpc_options o = {.path = "/claviger.envelope.v1.Envelope/GenerateDataKey", .idempotency_key = "k"};
    assert_true(rpc_unary(client_transport(c), &o, &q.base, &claviger__envelope__v1__generate_data_key_response__descriptor, &a, &m, &e).failed);
    assert_int_equal(e.code, CLAVIGER_UNAVAILABLE);
    assert_string_equal(e.reason, "RESTARTING");
    assert_int_equal(calls_of(c, "flaky-change"), 1);
}

static void test_deadline(void **state)
{
    struct fixture *f = *state;
    struct claviger *c = connect_with(&f->server, (struct claviger_options){.timeout_ms = 300});
    struct claviger_buffer out = {0};
    struct claviger_error e;
    assert_int_equal(claviger_encrypt(c, RING "slow", "x", 1, NULL, &out, &e), CLAVIGER_DEADLINE_EXCEEDED);
    /* retries stay within the deadline too, which on a busy machine may come before the first answer */
    const int code = claviger_encrypt(c, RING "down", "x", 1, NULL, &out, &e);
    assert_true(code == CLAVIGER_UNAVAILABLE || code == CLAVIGER_DEADLINE_EXCEEDED);
    assert_in_range(calls_of(client(state), "down"), 0, 3);
    claviger_free(c);
    assert_int_equal(claviger_encrypt(client(state), RING "down", "x", 1, NULL, &out, &e), CLAVIGER_UNAVAILABLE); /* the twin: time enough */
}

static void test_nobody_there(void **state)
{
    struct fixture *f = *state;
    struct claviger *c = connect_with(&f->server, (struct claviger_options){.endpoint = "127.0.0.1:1", .max_attempts = 1});
    struct claviger_buffer out = {0};
    struct claviger_error e;
    assert_int_equal(claviger_encrypt(c, RING "email", "x", 1, NULL, &out, &e), CLAVIGER_UNAVAILABLE);
    assert_true(e.message[0] != 0);
    claviger_free(c);
}

static void test_strangers_are_refused(void **state)
{
    struct fixture *f = *state;
    char cert[128], key[128], ca[128];
    standin_path(cert, &f->server, "stranger.pem");
    standin_path(key, &f->server, "stranger.key");
    standin_path(ca, &f->server, "other-ca.pem");
    struct claviger_buffer out = {0};
    struct claviger *c = connect_with(&f->server, (struct claviger_options){.cert_file = cert, .key_file = key, .max_attempts = 1});
    assert_int_equal(claviger_encrypt(c, RING "email", "x", 1, NULL, &out, NULL), CLAVIGER_UNAVAILABLE);
    claviger_free(c);
    /* the server is not trusted either: another CA, another name */
    c = connect_with(&f->server, (struct claviger_options){.ca_file = ca, .max_attempts = 1});
    assert_int_equal(claviger_encrypt(c, RING "email", "x", 1, NULL, &out, NULL), CLAVIGER_UNAVAILABLE);
    claviger_free(c);
    c = connect_with(&f->server, (struct claviger_options){.server_name = "evil.example", .max_attempts = 1});
    assert_int_equal(claviger_encrypt(c, RING "email", "x", 1, NULL, &out, NULL), CLAVIGER_UNAVAILABLE);
    claviger_free(c);
    c = connect_with(&f->server, (struct claviger_options){.server_name = "localhost", .max_attempts = 1});
    assert_int_equal(claviger_encrypt(c, RING "email", "x", 1, NULL, &out, NULL), 0);
    claviger_buffer_free(&out);
    claviger_free(c);
}

static void test_bad_options(void **state)
{
    struct fixture *f = *state;
    struct claviger_options good = {.size = sizeof good, .endpoint = f->server.endpoint, .ca_file = f->server.ca,
                                    .cert_file = f->server.cert, .key_file = f->server.key};
    struct claviger *c = NULL;
    struct claviger_error e;
    char other[128];
    standin_path(other, &f->server, "stranger.key");
    static const char *const reasons[] = {"BAD_OPTION", "BAD_CA_FILE", "BAD_CERT_FILE", "BAD_KEY_FILE", "KEY_MISMATCH", "BAD_CA_FILE"};
    struct claviger_options bad[6] = {good, good, good, good, good, good};
    bad[0].size = 1;
    bad[1].ca_file = f->server.key;
    bad[2].cert_file = f->server.key;
    bad[3].key_file = f->server.cert;
    bad[4].key_file = other;
    bad[5].ca_file = "/nonexistent";
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(claviger_connect(&bad[i], &c, &e), CLAVIGER_INVALID_ARGUMENT);
        assert_string_equal(e.reason, reasons[i]);
        assert_null(c);
    }
    bad[0] = good;
    bad[0].cache_max_keys = 5000;
    assert_int_equal(claviger_connect(&bad[0], &c, &e), CLAVIGER_OUT_OF_RANGE);
}

/* ---- keys, batches, streams --------------------------------------------------------------------------------------------------- */

static void test_wrap_and_data_keys(void **state)
{
    struct claviger *c = client(state);
    struct claviger_binding b = {.context = pairs, .context_len = 2}, wrong = {.context = others, .context_len = 2};
    struct claviger_buffer plain = {0}, wrapped = {0}, back = {0};
    struct claviger_error e;
    assert_int_equal(claviger_generate_data_key(c, RING "email", 48, &b, &plain, &wrapped, &e), 0);
    assert_int_equal(plain.len, 48);
    assert_int_equal(claviger_unwrap(c, RING "email", wrapped.data, wrapped.len, &b, &back, &e), 0);
    assert_memory_equal(back.data, plain.data, 48);
    claviger_buffer_free(&back);
    assert_int_equal(claviger_unwrap(c, RING "email", wrapped.data, wrapped.len, &wrong, &back, &e), CLAVIGER_INVALID_ARGUMENT);
    assert_string_equal(e.reason, "CIPHERTEXT");
    claviger_buffer_free(&wrapped);
    assert_int_equal(claviger_wrap(c, RING "email", plain.data, plain.len, &b, &wrapped, &e), 0);
    assert_int_equal(claviger_unwrap(c, RING "email", wrapped.data, wrapped.len, &b, &back, &e), 0);
    assert_memory_equal(back.data, plain.data, 48);
    claviger_buffer_free(&back);
    claviger_buffer_free(&wrapped);
    claviger_buffer_free(&plain);
    assert_int_equal(claviger_generate_data_key(c, RING "email", 32, NULL, NULL, &wrapped, &e), 0);
    claviger_buffer_free(&wrapped);
    assert_int_equal(claviger_generate_data_key(c, RING "short", 32, NULL, &plain, &wrapped, &e), CLAVIGER_INTERNAL);
    assert_null(plain.data);
}

static void test_one_bad_item_spares_the_rest(void **state)
{
    struct claviger *c = client(state);
    struct claviger_item items[3] = {{.in = "one", .in_len = 3, .binding = {.context = pairs, .context_len = 2}},
                                     {.in = "poison", .in_len = 6},
                                     {.in = "", .in_len = 0, .binding = {.aad = "x", .aad_len = 1}}};
    struct claviger_error e;
    assert_int_equal(claviger_encrypt_batch(c, RING "email", items, 3, &e), CLAVIGER_ABORTED);
    assert_string_equal(e.reason, "ITEMS_FAILED");
    assert_int_equal(items[0].code, 0);
    assert_int_equal(items[1].code, CLAVIGER_PERMISSION_DENIED);
    assert_string_equal(items[1].reason, "ITEM_DENIED");
    assert_null(items[1].out.data);
    assert_int_equal(items[2].code, 0);
    struct claviger_item back[2] = {{.in = items[0].out.data, .in_len = items[0].out.len, .binding = items[0].binding},
                                    {.in = items[2].out.data, .in_len = items[2].out.len, .binding = items[2].binding}};
    assert_int_equal(claviger_decrypt_batch(c, RING "email", back, 2, &e), 0);
    assert_memory_equal(back[0].out.data, "one", 3);
    assert_int_equal(back[1].out.len, 0);
    claviger_items_free(back, 2);
    claviger_items_free(items, 3);
    assert_int_equal(claviger_encrypt_batch(c, RING "lost", items, 3, &e), CLAVIGER_INTERNAL); /* two answers for three items */
    assert_int_equal(claviger_encrypt_batch(c, RING "email", items, 0, &e), CLAVIGER_INVALID_ARGUMENT);
    assert_int_equal(claviger_encrypt_batch(c, RING "email", items, CLAVIGER_BATCH_MAX + 1, &e), CLAVIGER_INVALID_ARGUMENT);
    assert_string_equal(e.reason, "BAD_BATCH");
}

static struct result stream_once(struct claviger *c, const char *name, uint64_t sequence, const char *text,
                                 struct claviger_error *e)
{
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    struct stream *s = NULL;
    TRY(stream_open(client_transport(c), &(struct rpc_options){.path = "/claviger.envelope.v1.Envelope/EncryptStream"}, &s, e));
    Claviger__Envelope__V1__EncryptItem item = CLAVIGER__ENVELOPE__V1__ENCRYPT_ITEM__INIT, *items[] = {&item};
    item.plaintext = pb_of(bytes_str(text));
    Claviger__Envelope__V1__EncryptStreamRequest q = CLAVIGER__ENVELOPE__V1__ENCRYPT_STREAM_REQUEST__INIT;
    q.name = pb_of(bytes_str(name));
    q.items = items;
    q.n_items = 1;
    const ProtobufCMessageDescriptor *d = &claviger__envelope__v1__encrypt_stream_response__descriptor;
    struct result r = ok();
    for (uint64_t i = 0; i < 3 && !r.failed; i++) {
        q.sequence = sequence + i;
        ProtobufCMessage *m = NULL;
        r = stream_send(s, &q.base, e);
        if (!r.failed)
            r = stream_recv(s, d, &a, &m, e);
        if (r.failed || !m)
            break;
        assert_int_equal(((Claviger__Envelope__V1__EncryptStreamResponse *)m)->sequence, sequence + i);
    }
    if (!r.failed && strcmp(name, "leave") != 0) {
        ProtobufCMessage *m = NULL;
        r = stream_half_close(s, e);
        if (!r.failed)
            r = stream_recv(s, d, &a, &m, e);
        assert_null(m);
    }
    stream_close(s);
    return r;
}

static void test_streams(void **state)
{
    struct claviger *c = client(state);
    struct claviger_error e = {0};
    assert_false(stream_once(c, RING "email", 7, "abc", &e).failed);
    assert_false(stream_once(c, "leave", 7, "abc", &e).failed); /* closed by us while it is open */
    assert_true(stream_once(c, "fail", 1, "abc", &e).failed);
    assert_int_equal(e.code, CLAVIGER_PERMISSION_DENIED);
    assert_string_equal(e.reason, "NOT_PERMITTED");
}

/* ---- local encryption ----------------------------------------------------------------------------------------------------------- */

static void test_local(void **state)
{
    struct claviger *c = client(state);
    struct claviger_binding b = {.context = pairs, .context_len = 2}, wrong = {.context = others, .context_len = 2};
    struct claviger_buffer m[6] = {{0}};
    struct claviger_error e;
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(claviger_local_encrypt(c, RING "local", "hello", 5, &b, &m[i], &e), 0);
    assert_int_equal(calls_of(c, "local"), 2); /* five uses a key */
    for (size_t i = 0; i < 6; i++) {
        struct claviger_buffer back = {0};
        assert_int_equal(claviger_local_decrypt(c, RING "local", m[i].data, m[i].len, &b, &back, &e), 0);
        assert_int_equal(back.len, 5);
        assert_memory_equal(back.data, "hello", 5);
        claviger_buffer_free(&back);
    }
    assert_int_equal(calls_of(c, "local"), 2); /* found by their wrapped form */
    claviger_forget_keys(c);
    struct claviger_buffer back = {0};
    assert_int_equal(claviger_local_decrypt(c, RING "local", m[0].data, m[0].len, &b, &back, &e), 0);
    assert_int_equal(calls_of(c, "local"), 3);
    claviger_buffer_free(&back);
    assert_int_equal(claviger_local_decrypt(c, RING "local", m[0].data, m[0].len, &wrong, &back, &e), CLAVIGER_INVALID_ARGUMENT);
    assert_string_equal(e.reason, "CIPHERTEXT");
    assert_int_equal(claviger_local_decrypt(c, RING "another", m[0].data, m[0].len, &b, &back, &e), CLAVIGER_INVALID_ARGUMENT);
    assert_int_equal(claviger_local_encrypt(c, RING "denied", "x", 1, NULL, &back, &e), CLAVIGER_PERMISSION_DENIED);
    assert_null(back.data);
    for (size_t i = 0; i < 6; i++)
        claviger_buffer_free(&m[i]);
}

static void *hammer(void *arg)
{
    struct claviger *c = arg;
    for (int i = 0; i < 40; i++) {
        struct claviger_buffer m = {0}, back = {0}, s = {0};
        if (claviger_local_encrypt(c, RING "threads", "hello", 5, NULL, &m, NULL) != 0 ||
            claviger_local_decrypt(c, RING "threads", m.data, m.len, NULL, &back, NULL) != 0 || back.len != 5 ||
            claviger_encrypt(c, RING "email", "x", 1, NULL, &s, NULL) != 0)
            return (void *)1;
        claviger_buffer_free(&m);
        claviger_buffer_free(&back);
        claviger_buffer_free(&s);
        if (i % 16 == 0)
            claviger_forget_keys(c);
    }
    return NULL;
}

static void test_one_client_many_threads(void **state)
{
    pthread_t t[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, hammer, client(state)), 0);
    for (size_t i = 0; i < 4; i++) {
        void *bad = NULL;
        pthread_join(t[i], &bad);
        assert_null(bad);
    }
    struct claviger_cache_stats s;
    claviger_cache_stats(client(state), &s);
    assert_true(s.keys <= 4 && s.hits > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encrypt_and_back),        cmocka_unit_test(test_pairs_have_no_order),
        cmocka_unit_test(test_damage_on_the_way_is_found), cmocka_unit_test(test_refused_before_sending),
        cmocka_unit_test(test_errors_are_read),         cmocka_unit_test(test_unavailable_is_tried_again),
        cmocka_unit_test(test_changes_are_never_repeated), cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_nobody_there),            cmocka_unit_test(test_strangers_are_refused),
        cmocka_unit_test(test_bad_options),             cmocka_unit_test(test_wrap_and_data_keys),
        cmocka_unit_test(test_one_bad_item_spares_the_rest), cmocka_unit_test(test_streams),
        cmocka_unit_test(test_local),                   cmocka_unit_test(test_one_client_many_threads),
    };
    return cmocka_run_group_tests(tests, setup, fixture_stop);
}
