/* The envelope's handlers, and a call whose memory runs out at every place where it can: what is asked for is answered, refused as
 * CALL_MEMORY, or stops the process by an INVARIANT; never answered in part. */
#include "tests/unit/vault/service/envelope_fixture.h"

#include <signal.h>
#include <stdalign.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static uint8_t key_bytes[600];

/* ---- requests ------------------------------------------------------------------------------------------------------------------ */
static uint32_t none_failed(const ProtobufCMessage *m)
{
    (void)m;
    return 0;
}
static uint32_t encrypt_failed(const ProtobufCMessage *m)
{
    return ((const Claviger__Envelope__V1__BatchEncryptResponse *)m)->failed;
}
static uint32_t decrypt_failed(const ProtobufCMessage *m)
{
    return ((const Claviger__Envelope__V1__BatchDecryptResponse *)m)->failed;
}

static uint32_t rewrap_failed(const ProtobufCMessage *m)
{
    return ((const Claviger__Envelope__V1__BatchRewrapResponse *)m)->failed;
}

/* One request of each kind. A batch has two keys and two versions of one: what is kept from one item to the next is not taken for
 * another's. */
static const void *wrap_request(void)
{
    static Claviger__Envelope__V1__WrapRequest r = CLAVIGER__ENVELOPE__V1__WRAP_REQUEST__INIT;
    r.name = TEXT(KEYS[0]);
    r.plaintext_key = (ProtobufCBinaryData){sizeof key_bytes, key_bytes};
    return &r;
}
static const void *unwrap_request(void)
{
    static uint8_t wrapped[1024];
    static Claviger__Envelope__V1__UnwrapRequest r = CLAVIGER__ENVELOPE__V1__UNWRAP_REQUEST__INIT;
    r.name = TEXT(KEYS[0]);
    r.wrapped_key = sealed_under(0, 1, KEY_USE_WRAP, BYTES(key_bytes, sizeof key_bytes), wrapped);
    return &r;
}
static const void *data_key_request(void)
{
    static Claviger__Envelope__V1__GenerateDataKeyRequest r = CLAVIGER__ENVELOPE__V1__GENERATE_DATA_KEY_REQUEST__INIT;
    r.name = TEXT(KEYS[0]);
    r.key_bytes = 64;
    return &r;
}
static const void *rewrap_request(void)
{
    static uint8_t under_one[1024];
    static Claviger__Envelope__V1__RewrapRequest r = CLAVIGER__ENVELOPE__V1__REWRAP_REQUEST__INIT;
    r.name = TEXT(KEYS[0]);
    r.ciphertext = sealed_under(0, 1, KEY_USE_ENCRYPT, BYTES(key_bytes, sizeof key_bytes), under_one);
    return &r;
}
enum { ITEMS = 4 };
static const struct {
    unsigned key, version;
} which[ITEMS] = {{0, 1}, {0, 2}, {1, 1}, {0, 1}};
static const void *batch_encrypt_request(void)
{
    static Claviger__Envelope__V1__EncryptItem item[ITEMS], *items[ITEMS];
    static Claviger__Envelope__V1__BatchEncryptRequest r = CLAVIGER__ENVELOPE__V1__BATCH_ENCRYPT_REQUEST__INIT;
    for (unsigned i = 0; i < ITEMS; i++) {
        claviger__envelope__v1__encrypt_item__init(items[i] = &item[i]);
        item[i].name = TEXT(KEYS[which[i].key]);
        item[i].plaintext = (ProtobufCBinaryData){sizeof plain, plain};
    }
    r.name = TEXT(KEYS[0]);
    r.items = items;
    r.n_items = ITEMS;
    return &r;
}
static const void *batch_decrypt_request(void)
{
    static uint8_t buf[ITEMS][sizeof plain + FORMAT_OVERHEAD];
    static Claviger__Envelope__V1__DecryptItem item[ITEMS], *items[ITEMS];
    static Claviger__Envelope__V1__BatchDecryptRequest r = CLAVIGER__ENVELOPE__V1__BATCH_DECRYPT_REQUEST__INIT;
    for (unsigned i = 0; i < ITEMS; i++) {
        claviger__envelope__v1__decrypt_item__init(items[i] = &item[i]);
        item[i].name = TEXT(KEYS[which[i].key]);
        item[i].ciphertext = sealed_under(which[i].key, which[i].version, KEY_USE_ENCRYPT, BYTES(plain, sizeof plain), buf[i]);
    }
    r.name = TEXT(KEYS[0]);
    r.items = items;
    r.n_items = ITEMS;
    return &r;
}

/* Types alternate too: a wrapped key is opened and sealed as one beside data of the same version. */
static const void *batch_rewrap_request(void)
{
    static uint8_t buf[ITEMS][sizeof key_bytes + FORMAT_OVERHEAD];
    static Claviger__Envelope__V1__RewrapItem item[ITEMS], *items[ITEMS];
    static Claviger__Envelope__V1__BatchRewrapRequest r = CLAVIGER__ENVELOPE__V1__BATCH_REWRAP_REQUEST__INIT;
    for (unsigned i = 0; i < ITEMS; i++) {
        claviger__envelope__v1__rewrap_item__init(items[i] = &item[i]);
        item[i].name = TEXT(KEYS[which[i].key]);
        item[i].ciphertext = sealed_under(which[i].key, which[i].version, i & 1 ? KEY_USE_WRAP : KEY_USE_ENCRYPT, BYTES(key_bytes, sizeof key_bytes), buf[i]);
    }
    r.name = TEXT(KEYS[0]);
    r.items = items;
    r.n_items = ITEMS;
    return &r;
}

/* ---- memory that runs out: every size up to what it takes. An INVARIANT ends the child; the next one goes on behind that size.
 * The keys are each child's own, for a fork finds none of its parent's. -------------------------------------------------------- */
struct progress {
    size_t next, whole;
    unsigned ok, refused, stopped, wrong;
};
struct kind {
    const char *method;
    const void *(*request)(void);
    uint32_t (*failed)(const ProtobufCMessage *); /* items of the answer that were refused for themselves */
};

static void judge(const struct kind *k, const void *req, struct progress *p)
{
    struct call c;
    struct err e = {0};
    ProtobufCMessage *resp = NULL;
    begin(&c, k->method, p->next);
    bool failed = ask(&c, req, &resp, &e).failed;
    bool for_memory = failed && e.code == ERR_EXHAUSTED && strcmp(e.reason, "CALL_MEMORY") == 0 && resp == NULL;
    if (!failed && resp != NULL)
        *(k->failed(resp) > 0 ? &p->refused : &p->ok) += 1;
    else
        *(for_memory ? &p->refused : &p->wrong) += 1;
    arena_release(&c.arena);
}

/* Not by the signal's own way: counters of coverage are written on the way out. */
enum { STOPPED = 42 };
static void on_abort(int number)
{
    (void)number;
    _exit(STOPPED);
}

static void child_main(const struct kind *k, struct progress *p)
{
    struct call c;
    struct err e = {0};
    ProtobufCMessage *resp = NULL;
    if (setup(NULL) != 0)
        _exit(1);
    signal(SIGABRT, on_abort);
    const void *req = k->request();
    begin(&c, k->method, CALL_ARENA_MAX);
    if (ask(&c, req, &resp, &e).failed || k->failed(resp) > 0)
        _exit(2);
    p->whole = c.arena.used;
    for (; p->next <= p->whole; p->next += 16)
        judge(k, req, p);
    _exit(0);
}

static void memory_runs_out(const struct kind *k)
{
    struct progress *p = mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status = -1;
    assert_ptr_not_equal(p, MAP_FAILED);
    do {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            fclose(stderr); /* an INVARIANT speaks */
            child_main(k, p);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        if (WIFEXITED(status) && WEXITSTATUS(status) == STOPPED) {
            p->stopped++;
            p->next += 16;
        } else if (status != 0) {
            fail_msg("%s: status %x", k->method, (unsigned)status);
        }
    } while (status != 0);
    assert_int_equal(p->wrong, 0);
    assert_int_equal(p->ok, 1); /* all of it is needed */
    assert_true(p->refused > 3 && p->stopped < 200);
    assert_int_equal(p->ok + p->refused + p->stopped, p->whole / 16 + 1);
    munmap(p, sizeof *p);
}

static void no_answer_is_in_part(void **state)
{
    (void)state;
    static const struct kind kinds[] = {{"Wrap", wrap_request, none_failed},
                                        {"Unwrap", unwrap_request, none_failed},
                                        {"GenerateDataKey", data_key_request, none_failed},
                                        {"Rewrap", rewrap_request, none_failed},
                                        {"BatchEncrypt", batch_encrypt_request, encrypt_failed},
                                        {"BatchDecrypt", batch_decrypt_request, decrypt_failed},
                                        {"BatchRewrap", batch_rewrap_request, rewrap_failed}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        memory_runs_out(&kinds[i]);
}

static void items_do_not_mix(void **state)
{
    (void)state;
    struct call c;
    struct err e = {0};
    ProtobufCMessage *resp = NULL;
    for (unsigned i = 0; i < sizeof plain; i++)
        plain[i] = (uint8_t)i;
    begin(&c, "BatchDecrypt", CALL_ARENA_MAX);
    assert_false(ask(&c, batch_decrypt_request(), &resp, &e).failed);
    const Claviger__Envelope__V1__BatchDecryptResponse *r = (const void *)resp;
    assert_int_equal(r->n_results, ITEMS);
    for (unsigned i = 0; i < ITEMS; i++)
        assert_true(bytes_equal(pb_bytes(r->results[i]->plaintext), BYTES(plain, sizeof plain)));
    arena_release(&c.arena);
}

struct arena_block { /* as base/arena.c has it */
    struct arena_block *next;
    size_t cap, used;
    alignas(16) uint8_t data[];
};

static bool arena_holds(const struct arena *a, struct bytes what)
{
    for (const struct arena_block *b = a->head; b != NULL; b = b->next)
        if (memmem(b->data, b->used, what.p, what.n) != NULL)
            return true;
    return false;
}

/* What was sealed again opens to the same, under the newest version and as the type it was; what was there already is as it was. And
 * when the handler is done, no plaintext is left in the call's memory. */
static void items_are_rewrapped(void **state)
{
    (void)state;
    struct call c;
    struct err e = {0};
    ProtobufCMessage *resp = NULL;
    for (unsigned i = 0; i < sizeof key_bytes; i++)
        key_bytes[i] = (uint8_t)(i * 7 + 3);
    const Claviger__Envelope__V1__BatchRewrapRequest *q = batch_rewrap_request();
    begin(&c, "BatchRewrap", CALL_ARENA_MAX);
    assert_false(ask(&c, q, &resp, &e).failed);
    const Claviger__Envelope__V1__BatchRewrapResponse *r = (const void *)resp;
    assert_int_equal(r->n_results, ITEMS);
    assert_int_equal(r->failed, 0);
    struct bytes sealed[ITEMS];
    for (unsigned i = 0; i < ITEMS; i++) {
        const Claviger__Envelope__V1__RewrapResult *one = r->results[i];
        sealed[i] = pb_bytes(one->ciphertext);
        assert_int_equal(one->source_version, which[i].version);
        assert_int_equal(one->version, 2);
        assert_int_equal(one->already_newest, which[i].version == 2);
        assert_int_equal(bytes_equal(sealed[i], pb_bytes(q->items[i]->ciphertext)), which[i].version == 2);
        assert_int_equal(one->ciphertext_crc32c->value, crc32c(sealed[i]));
    }
    assert_true(arena_holds(&c.arena, sealed[0]));
    assert_false(arena_holds(&c.arena, BYTES(key_bytes, 32)));
    for (unsigned i = 0; i < ITEMS; i++) {
        struct crypt_key k = {0};
        struct bytes back;
        CLEANUP(buf_release) struct buf aad;
        buf_init(&aad, 64);
        format_plain_aad((struct bytes){0}, &aad);
        assert_false(crypt_open(&c, &c.resources[i].name, i & 1 ? KEY_USE_WRAP : KEY_USE_ENCRYPT, buf_bytes(&aad), sealed[i], &k, &back, &e).failed);
        assert_true(bytes_equal(back, BYTES(key_bytes, sizeof key_bytes)));
        assert_true(arena_holds(&c.arena, BYTES(key_bytes, 32))); /* where it would be found */
        crypt_key_release(&k);
    }
    assert_int_equal(c.ev.key_version.p[c.ev.key_version.n - 1], '2'); /* .../cryptoKeyVersions/2 */
    arena_release(&c.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_answer_is_in_part), /* first: its children make their own keys */
        cmocka_unit_test_setup(items_do_not_mix, setup),
        cmocka_unit_test(items_are_rewrapped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
