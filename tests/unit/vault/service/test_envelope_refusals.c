/* What the envelope's handlers refuse, each with its code and its field, and what takes a message to the slow lane. */
#include "tests/unit/vault/service/envelope_fixture.h"

static enum err_code code_when(const char *method, const void *req, const char *field)
{
    struct call c;
    struct err e = {0};
    ProtobufCMessage *resp = NULL;
    begin(&c, method, CALL_ARENA_MAX);
    bool failed = ask(&c, req, &resp, &e).failed;
    assert_int_equal(failed, e.code != ERR_NONE);
    if (field != NULL)
        assert_string_equal(e.field, field);
    arena_release(&c.arena);
    return e.code;
}

static void every_refusal_has_its_code(void **state)
{
    (void)state;
    static uint8_t big[FIELD_BYTES_MAX + FORMAT_OVERHEAD + 1], under_one[1024];
    Claviger__Envelope__V1__UnwrapRequest__ContextEntry pair = CLAVIGER__ENVELOPE__V1__UNWRAP_REQUEST__CONTEXT_ENTRY__INIT;
    Claviger__Envelope__V1__UnwrapRequest__ContextEntry *many[FORMAT_CONTEXT_PAIRS_MAX + 1];
    for (size_t i = 0; i < sizeof many / sizeof many[0]; i++)
        many[i] = &pair;
    Claviger__Envelope__V1__UnwrapRequest unwrap = CLAVIGER__ENVELOPE__V1__UNWRAP_REQUEST__INIT;
    unwrap.name = TEXT(KEYS[0]);
    unwrap.context = many;
    unwrap.n_context = sizeof many / sizeof many[0];
    assert_int_equal(code_when("Unwrap", &unwrap, "context"), ERR_INVALID);
    Claviger__Envelope__V1__GenerateDataKeyRequest data_key = CLAVIGER__ENVELOPE__V1__GENERATE_DATA_KEY_REQUEST__INIT;
    data_key.name = TEXT(KEYS[0]);
    data_key.context = (void *)many;
    data_key.n_context = sizeof many / sizeof many[0];
    assert_int_equal(code_when("GenerateDataKey", &data_key, "context"), ERR_INVALID);

    Claviger__Envelope__V1__RewrapRequest rewrap = CLAVIGER__ENVELOPE__V1__REWRAP_REQUEST__INIT;
    rewrap.name = TEXT(KEYS[0]);
    rewrap.ciphertext = (ProtobufCBinaryData){sizeof big, big};
    assert_int_equal(code_when("Rewrap", &rewrap, "ciphertext"), ERR_INVALID);
    rewrap.ciphertext.len--;
    assert_int_equal(code_when("Rewrap", &rewrap, NULL), ERR_CIPHERTEXT);
    rewrap.ciphertext = sealed_under(0, 1, KEY_USE_ENCRYPT, BYTES(plain, 100), under_one);
    assert_int_equal(code_when("Rewrap", &rewrap, NULL), ERR_NONE);
    entries[0]->versions[1].state = VERSION_DISABLED; /* the old one opens, the new one may not seal */
    assert_int_equal(code_when("Rewrap", &rewrap, NULL), ERR_STATE);
    entries[0]->versions[1].state = VERSION_ENABLED;

    Claviger__Envelope__V1__DecryptItem item = CLAVIGER__ENVELOPE__V1__DECRYPT_ITEM__INIT, *items[CALL_ITEMS_MAX + 1];
    for (size_t i = 0; i <= CALL_ITEMS_MAX; i++)
        items[i] = &item;
    Claviger__Envelope__V1__BatchDecryptRequest dr = CLAVIGER__ENVELOPE__V1__BATCH_DECRYPT_REQUEST__INIT;
    dr.name = TEXT(KEYS[0]);
    dr.items = items;
    assert_int_equal(code_when("BatchDecrypt", &dr, "items"), ERR_INVALID);
    dr.n_items = CALL_ITEMS_MAX + 1;
    assert_int_equal(code_when("BatchDecrypt", &dr, "items"), ERR_INVALID);
    dr.n_items = CALL_ITEMS_MAX;
    assert_int_equal(code_when("BatchDecrypt", &dr, NULL), ERR_NONE); /* each of them refused for itself */
}

/* A rewrap item's own refusals, and what is refused with the message. */
static void rewrap_refusals(void **state)
{
    (void)state;
    static uint8_t big[FIELD_BYTES_MAX + FORMAT_OVERHEAD + 1], good[256];
    Claviger__Envelope__V1__RewrapItem item = CLAVIGER__ENVELOPE__V1__REWRAP_ITEM__INIT, fine = CLAVIGER__ENVELOPE__V1__REWRAP_ITEM__INIT;
    Claviger__Envelope__V1__RewrapItem *items[CALL_ITEMS_MAX + 1];
    Claviger__Envelope__V1__BatchRewrapRequest br = CLAVIGER__ENVELOPE__V1__BATCH_REWRAP_REQUEST__INIT;
    Claviger__Envelope__V1__RewrapStreamRequest sr = CLAVIGER__ENVELOPE__V1__REWRAP_STREAM_REQUEST__INIT;
    Google__Protobuf__Int64Value crc = GOOGLE__PROTOBUF__INT64_VALUE__INIT;
    for (size_t i = 0; i <= CALL_ITEMS_MAX; i++)
        items[i] = &fine;
    br.name = sr.name = TEXT(KEYS[0]);
    br.items = sr.items = items;
    assert_int_equal(code_when("BatchRewrap", &br, "items"), ERR_INVALID);
    br.n_items = CALL_ITEMS_MAX + 1;
    assert_int_equal(code_when("BatchRewrap", &br, "items"), ERR_INVALID);
    br.n_items = sr.n_items = 2;
    sr.name = TEXT("projects/acme/locations/eu/keyRings/r/cryptoKeys/not-cached");
    assert_int_equal(code_when("RewrapStream", &sr, NULL), ERR_WOULD_BLOCK);

    fine.ciphertext = sealed_under(0, 1, KEY_USE_ENCRYPT, BYTES(plain, 10), good);
    static const struct {
        int what, code;
    } t[] = {{0, 0}, {1, 3}, {2, 3}, {3, 0}, {4, 7}, {5, 9}};
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        struct call c;
        struct err e = {0};
        ProtobufCMessage *resp = NULL;
        item = fine;
        items[0] = &item;
        if (t[i].what == 1)
            item.ciphertext = (ProtobufCBinaryData){sizeof big, big};
        crc.value = (int64_t)crc32c(pb_bytes(item.ciphertext)) + (t[i].what == 2);
        if (t[i].what == 2 || t[i].what == 3)
            item.ciphertext_crc32c = &crc;
        begin(&c, "BatchRewrap", CALL_ARENA_MAX);
        assert_false(c.row->resources(&c, &br.base, &e).failed);
        c.resources[0].denied = t[i].what == 4;
        c.resources[0].rule = "some-rule";
        entries[0]->versions[1].state = t[i].what == 5 ? VERSION_DISABLED : VERSION_ENABLED; /* opens, but may not be sealed again */
        assert_false(c.row->handle(&c, &br.base, &resp, &e).failed);
        const Claviger__Envelope__V1__BatchRewrapResponse *r = (const void *)resp;
        assert_int_equal(r->results[0]->status != NULL ? r->results[0]->status->code : 0, t[i].code);
        assert_int_equal(r->results[0]->ciphertext.len > 0, t[i].code == 0);
        assert_int_equal(r->failed, (t[i].code != 0) + (t[i].what == 5)); /* the fine one beside it */
        assert_int_equal(c.ev.items_failed, r->failed);
        arena_release(&c.arena);
    }
    entries[0]->versions[1].state = VERSION_ENABLED;
}

static uint32_t failed_of(const Claviger__Envelope__V1__BatchDecryptRequest *dr, uint32_t *ret_code)
{
    struct call c;
    struct err e = {0};
    ProtobufCMessage *resp = NULL;
    begin(&c, "BatchDecrypt", CALL_ARENA_MAX);
    assert_false(ask(&c, dr, &resp, &e).failed);
    const Claviger__Envelope__V1__BatchDecryptResponse *r = (const void *)resp;
    uint32_t failed = r->failed;
    *ret_code = r->results[0]->status != NULL ? (uint32_t)r->results[0]->status->code : 0;
    arena_release(&c.arena);
    return failed;
}

static void items_are_refused_for_themselves(void **state)
{
    (void)state;
    static uint8_t big[FIELD_BYTES_MAX + FORMAT_OVERHEAD + 1], good[256];
    Claviger__Envelope__V1__DecryptItem bad = CLAVIGER__ENVELOPE__V1__DECRYPT_ITEM__INIT, fine = CLAVIGER__ENVELOPE__V1__DECRYPT_ITEM__INIT;
    Claviger__Envelope__V1__DecryptItem__ContextEntry pair = CLAVIGER__ENVELOPE__V1__DECRYPT_ITEM__CONTEXT_ENTRY__INIT;
    Claviger__Envelope__V1__DecryptItem__ContextEntry *many[FORMAT_CONTEXT_PAIRS_MAX + 1];
    Claviger__Envelope__V1__DecryptItem *items[] = {&bad, &fine};
    Claviger__Envelope__V1__BatchDecryptRequest dr = CLAVIGER__ENVELOPE__V1__BATCH_DECRYPT_REQUEST__INIT;
    uint32_t code;
    for (size_t i = 0; i < sizeof many / sizeof many[0]; i++)
        many[i] = &pair;
    fine.ciphertext = sealed_under(0, 1, KEY_USE_ENCRYPT, BYTES(plain, 10), good);
    dr.name = TEXT(KEYS[0]);
    dr.items = items;
    dr.n_items = 2;
    bad.ciphertext = (ProtobufCBinaryData){sizeof big, big};
    assert_int_equal(failed_of(&dr, &code), 1);
    assert_int_equal(code, 3); /* INVALID_ARGUMENT */
    bad.ciphertext = fine.ciphertext;
    bad.context = many;
    bad.n_context = sizeof many / sizeof many[0];
    assert_int_equal(failed_of(&dr, &code), 1);
    assert_int_equal(code, 3);
    bad.n_context = 0;
    assert_int_equal(failed_of(&dr, &code), 0);
}

/* What is not cached takes the whole batch or message to the slow lane, whatever else is wrong with it; an item that is denied is
 * not looked at. */
static void the_slow_lane_and_denied_items(void **state)
{
    (void)state;
    static uint8_t good[256];
    Claviger__Envelope__V1__DecryptItem item = CLAVIGER__ENVELOPE__V1__DECRYPT_ITEM__INIT, *items[] = {&item};
    Claviger__Envelope__V1__BatchDecryptRequest dr = CLAVIGER__ENVELOPE__V1__BATCH_DECRYPT_REQUEST__INIT;
    Claviger__Envelope__V1__DecryptStreamRequest sr = CLAVIGER__ENVELOPE__V1__DECRYPT_STREAM_REQUEST__INIT;
    dr.name = sr.name = TEXT("projects/acme/locations/eu/keyRings/r/cryptoKeys/not-cached");
    dr.items = sr.items = items;
    dr.n_items = sr.n_items = 1;
    item.ciphertext = TEXT("no ciphertext at all");
    assert_int_equal(code_when("BatchDecrypt", &dr, NULL), ERR_WOULD_BLOCK);
    assert_int_equal(code_when("DecryptStream", &sr, NULL), ERR_WOULD_BLOCK);

    struct call c;
    struct err e = {0};
    ProtobufCMessage *resp = NULL;
    dr.name = TEXT(KEYS[0]);
    item.ciphertext = sealed_under(0, 1, KEY_USE_ENCRYPT, BYTES(plain, 10), good);
    begin(&c, "BatchDecrypt", CALL_ARENA_MAX);
    assert_false(c.row->resources(&c, (const void *)&dr, &e).failed);
    c.resources[0].denied = true;
    c.resources[0].rule = "some-rule";
    assert_false(c.row->handle(&c, (const void *)&dr, &resp, &e).failed);
    const Claviger__Envelope__V1__BatchDecryptResponse *r = (const void *)resp;
    assert_int_equal(r->failed, 1);
    assert_int_equal(r->results[0]->status->code, 7); /* PERMISSION_DENIED */
    assert_int_equal(r->results[0]->plaintext.len, 0);
    arena_release(&c.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(every_refusal_has_its_code, setup),
        cmocka_unit_test(rewrap_refusals),
        cmocka_unit_test(items_are_refused_for_themselves),
        cmocka_unit_test(the_slow_lane_and_denied_items),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
