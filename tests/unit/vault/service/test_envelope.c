/* The envelope's handlers with a keyring that is nothing but its caches, and a call whose memory runs out at every place where it
 * can: what is asked for is answered, refused as CALL_MEMORY, or stops the process by an INVARIANT; never answered in part. */
#include "vault/service/crypt.h"
#include "vault/service/rows.h"
#include "vault/service/service.h"

#include "claviger/envelope/v1/envelope.pb-c.h"
#include "kms/keyring/internal.h"

#include <setjmp.h>
#include <stdalign.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct result (*handler)(struct call *c, const ProtobufCMessage *req, ProtobufCMessage **resp, struct err *e);

/* ---- two keys, "one" and "two", each with versions 1 and 2; the primary is 2 --------------------------------------------- */
static struct keyring ring;
static struct service svc;
static struct key_entry *entries[2];
static const char *const KEYS[] = {"projects/acme/locations/eu/keyRings/r/cryptoKeys/one", "projects/acme/locations/eu/keyRings/r/cryptoKeys/two"};

static void never(struct cache_entry *e)
{
    (void)e; /* freed with the process */
}

static struct aead_key *aead_of(unsigned seed)
{
    uint8_t raw[32];
    memset(raw, (int)seed, sizeof raw);
    struct secret *s = NULL;
    struct aead_key *k = NULL;
    struct bytes fields[] = {BYTES_LIT("record"), {0}};
    struct err e;
    assert_false(secret_from(raw, sizeof raw, &s, &e).failed);
    assert_false(aead_key_derive(s, KDF_STORE, fields, 2, 1, &k, &e).failed);
    secret_free(s);
    return k;
}

static void put_handle(unsigned key, struct version_info *v, enum key_use use)
{
    char name[NAME_MAX_BYTES];
    int n = snprintf(name, sizeof name, "%s/cryptoKeyVersions/%u", KEYS[key], v->n);
    struct key_handle *h = calloc(1, sizeof *h + sizeof name);
    memcpy(h->id, v->kvid, FORMAT_KVID_BYTES);
    h->id[FORMAT_KVID_BYTES] = (uint8_t)use;
    h->version = v->n;
    h->aead = aead_of(key * 8 + v->n * 2 + (unsigned)use);
    h->name_n = (uint16_t)n;
    memcpy(h->name, name, (size_t)n);
    cache_entry_init(&h->entry, BYTES(h->id, sizeof h->id), never);
    cache_put(ring.handles, &h->entry, cache_generation(ring.handles, BYTES(h->id, sizeof h->id)));
}

static int setup(void **state)
{
    (void)state;
    struct err e = {0};
    if (secret_slab_init(256, &e).failed)
        return 1;
    ring = (struct keyring){.clock = &clock_system, .keys = cache_new(65536, 1u << 30, &clock_system), .handles = cache_new(65536, 1u << 30, &clock_system)};
    svc = (struct service){.keyring = &ring, .clock = &clock_system};
    for (unsigned key = 0; key < 2; key++) {
        struct key_entry *entry = entries[key] = calloc(1, sizeof *entry);
        entry->primary = 2;
        entry->nversions = 2;
        entry->versions = calloc(2, sizeof *entry->versions);
        for (unsigned i = 0; i < 2; i++) {
            struct version_info *v = &entry->versions[i];
            *v = (struct version_info){.n = i + 1, .state = VERSION_ENABLED};
            memset(v->kvid, (int)(0x10 + key * 2 + i), sizeof v->kvid);
            put_handle(key, v, KEY_USE_ENCRYPT);
            put_handle(key, v, KEY_USE_WRAP);
        }
        cache_entry_init(&entry->entry, bytes_str(KEYS[key]), never);
        cache_put(ring.keys, &entry->entry, cache_generation(ring.keys, bytes_str(KEYS[key])));
    }
    return 0;
}

static const struct rpc_row *row_of(const char *method)
{
    const struct row_list *lists[] = {&rows_envelope, &rows_envelope_batch, &rows_envelope_rewrap};
    for (size_t l = 0; l < sizeof lists / sizeof lists[0]; l++)
        for (size_t i = 0; i < lists[l]->n; i++)
            if (strcmp(strrchr(lists[l]->rows[i].path, '/') + 1, method) == 0)
                return &lists[l]->rows[i];
    fail_msg("no %s", method);
    return NULL;
}

static void begin(struct call *c, const char *method, size_t memory)
{
    *c = (struct call){.svc = &svc, .row = row_of(method)};
    arena_init(&c->arena, memory);
}

/* The steps that are the handler's own; *ret_resp in the call's arena. */
static RESULT ask(struct call *c, const void *req, void *ret_resp, struct err *e)
{
    handler fn = c->row->kind == RPC_UNARY ? c->row->handle : c->row->stream->message;
    TRY(c->row->resources(c, req, e));
    return fn(c, req, ret_resp, e);
}

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

#define TEXT(s) ((ProtobufCBinaryData){strlen(s), (uint8_t *)(uintptr_t)(s)})
static uint8_t plain[4000], key_bytes[600];

/* ---- requests ------------------------------------------------------------------------------------------------------------------ */
static ProtobufCBinaryData sealed_under(unsigned key, unsigned version, enum key_use use, struct bytes what, uint8_t *out)
{
    char name[NAME_MAX_BYTES];
    struct name n;
    struct err e;
    struct crypt_key k = {0};
    struct call c;
    struct bytes sealed;
    CLEANUP(buf_release) struct buf aad;
    snprintf(name, sizeof name, "%s/cryptoKeyVersions/%u", KEYS[key], version);
    assert_false(name_parse(bytes_str(name), NAME_VERSION, "name", &n, &e).failed);
    begin(&c, "Wrap", CALL_ARENA_MAX);
    buf_init(&aad, 64);
    format_plain_aad((struct bytes){0}, &aad);
    assert_false(crypt_key_for_seal(&c, &n, use, &k, &e).failed);
    assert_false(crypt_seal(&c, &k, use, buf_bytes(&aad), what, &sealed, &e).failed);
    memcpy(out, sealed.p, sealed.n);
    crypt_key_release(&k);
    arena_release(&c.arena);
    return (ProtobufCBinaryData){sealed.n, out};
}

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

/* ---- refusals, each with its field ------------------------------------------------------------------------------------------------- */
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
        cmocka_unit_test(no_answer_is_in_part), /* first: its children make their own keys */
        cmocka_unit_test_setup(items_do_not_mix, setup),
        cmocka_unit_test(items_are_rewrapped),
        cmocka_unit_test(every_refusal_has_its_code),
        cmocka_unit_test(rewrap_refusals),
        cmocka_unit_test(items_are_refused_for_themselves),
        cmocka_unit_test(the_slow_lane_and_denied_items),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
