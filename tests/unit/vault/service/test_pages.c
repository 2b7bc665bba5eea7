/* Lists of what is large: however much memory their rows take, each call gets a page and a way on, and every row comes once. */
#include "tests/unit/vault/service/life.h"

#include "kms/crypto/aead.h"
#include "vault/service/kms_view.h"
#include "vault/service/pipeline.h"
#include "vault/service/rows.h"

enum { KEYS = 700, LABELS = KEYRING_LABELS_MAX, BATCH = 50, CLIENT_TAKES = 4 << 20 /* gRPC's own limit of a message, unless a client says otherwise */ };
typedef Google__Cloud__Kms__V1__ListCryptoKeysRequest ListRequest;
typedef Google__Cloud__Kms__V1__ListCryptoKeysResponse ListResponse;

static const struct rpc_row *row_of(const char *method)
{
    for (size_t i = 0; i < rows_kms_keys.n; i++)
        if (strcmp(strrchr(rows_kms_keys.rows[i].path, '/') + 1, method) == 0)
            return &rows_kms_keys.rows[i];
    fail_msg("no %s", method);
    return NULL;
}

/* Keys with as many labels as there may be, and as long. */
static void fill(struct life *f)
{
    static char keys[LABELS][KEYRING_LABEL_MAX + 1], value[KEYRING_LABEL_MAX + 1];
    struct label labels[LABELS];
    memset(value, 'v', KEYRING_LABEL_MAX);
    for (int i = 0; i < LABELS; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "k%02d%060d", i, 0);
        labels[i] = (struct label){bytes_str(keys[i]), bytes_str(value)};
    }
    for (int i = 0; i < KEYS;) {
        struct store_txn *txn = store_txn_new(f->s.store);
        for (int end = i + BATCH; i < end; i++) {
            char name[128];
            struct keyring_key m;
            struct keyring_version v;
            (void)snprintf(name, sizeof name, LIFE_RING "/cryptoKeys/k%03d", i);
            const struct keyring_key want = {.destroy_delay_s = DAY_S, .labels = labels, .nlabels = LABELS};
            const struct name n = life_name(name, NAME_CRYPTOKEY);
            assert_ok(keyring_key_create(f->s.keyring, &n, &want, true, txn, &f->a, &m, &v, &f->e));
        }
        life_commit(f, txn);
    }
}

struct pages {
    char token[1024];
    unsigned pages, keys, last;
};

/* One call, with the memory that a call has; what it answers fits an answer. */
static bool page(struct life *f, const char *filter, struct pages *p)
{
    struct principal who = {.name = "acme-keyadmin", .tenant = "acme"};
    struct call c = {.svc = &f->s, .row = row_of("ListCryptoKeys"), .id = {.principal = &who}};
    c.priv = calloc(1, sizeof *c.priv);
    ListRequest q = GOOGLE__CLOUD__KMS__V1__LIST_CRYPTO_KEYS_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;
    unsigned number;
    arena_init(&c.arena, CALL_ARENA_MAX);
    q.parent = pb_view(bytes_str(LIFE_RING));
    q.page_size = 1000;
    q.page_token = pb_view(bytes_str(p->token));
    q.filter = pb_view(bytes_str(filter));
    assert_ok(c.row->resources(&c, &q.base, &f->e));
    assert_ok(c.row->handle(&c, &q.base, &resp, &f->e));
    const ListResponse *r = (const ListResponse *)resp;
    assert_ok(pipeline_encode(&c, resp, &f->e));
    assert_true(c.priv->encoded.n < CLIENT_TAKES);
    for (size_t i = 0; i < r->n_crypto_keys; i++) {
        assert_int_equal(r->crypto_keys[i]->n_labels, LABELS);
        assert_int_equal(sscanf((const char *)r->crypto_keys[i]->name.data + strlen(LIFE_RING "/cryptoKeys/k"), "%3u", &number), 1);
        assert_int_equal(number, p->keys++);
    }
    assert_true(r->next_page_token.len < sizeof p->token);
    memcpy(p->token, r->next_page_token.data, r->next_page_token.len);
    p->token[r->next_page_token.len] = 0;
    p->pages++;
    const bool more = r->next_page_token.len > 0;
    arena_release(&c.arena);
    free(c.priv);
    return more;
}

static void every_key_once(void **state)
{
    struct life *f = *state;
    CLEANUP(secret_freep) struct secret *s = NULL;
    struct bytes fields[] = {BYTES_LIT("token"), {0}};
    static const uint8_t raw[32];
    struct pages all = {0}, none = {0};
    assert_ok(secret_from(raw, sizeof raw, &s, &f->e));
    assert_ok(aead_key_derive(s, KDF_STORE, fields, 2, 1, &f->s.token_key, &f->e));
    fill(f);
    while (page(f, "", &all))
        assert_true(all.pages < KEYS);
    assert_int_equal(all.keys, KEYS);
    assert_in_range(all.pages, 2, 8);
    while (page(f, "labels.none=none", &none))
        assert_true(none.pages < KEYS);
    assert_int_equal(none.keys, 0);
    assert_true(none.pages > 1); /* it looked at as much */
    aead_key_free(f->s.token_key);
    f->s.token_key = NULL;
}

#define LIFE(test) cmocka_unit_test_setup_teardown(test, life_start, life_stop)
int main(void)
{
    const struct CMUnitTest tests[] = {LIFE(every_key_once)};
    return cmocka_run_group_tests(tests, kms_slab, NULL);
}
