/* Records for the independent decryptor, made by the daemon's own code under a test master secret: JSON on stdout.
 *   make_records           nonces drawn as the daemon draws them
 *   make_records --fixed   given nonces and every intermediate value: the worked examples of docs/FORMATS.md */
#include "kms/crypto/aead_at.h"
#include "kms/crypto/cipher.h"
#include "kms/crypto/hierarchy.h"
#include "kms/crypto/kdf.h"
#include "kms/crypto/xaes.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { PLAIN_MAX = 65536, AAD_MAX = 16384 };

struct sample {
    const char *name, *location, *key;
    uint32_t master, version;
    enum hierarchy_purpose purpose;
    bool subject, context;
    const char *aad; /* plain additional data, when there is no context */
    size_t plain_n;  /* 0: "" ; else so many bytes, or the text below when shorter */
};

static const char plain_text[] = "jane.doe@example.org";
static const struct format_pair context_pairs[] = {{BYTES_LIT("table"), BYTES_LIT("people")},
                                                   {BYTES_LIT("column"), BYTES_LIT("e-mail")},
                                                   {BYTES_LIT("\xc3\xa9tage"), BYTES_LIT("")}};
enum { PAIRS = sizeof context_pairs / sizeof context_pairs[0] };

static const struct sample samples[] = {
    {"encrypted, no additional data", "eu", "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email", 1, 1, HIERARCHY_ENCRYPT,
     false, false, "", 20},
    {"encrypted, plain additional data", "eu", "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email", 1, 3,
     HIERARCHY_ENCRYPT, false, false, "row 17", 20},
    {"encrypted, context of pairs", "us-east1", "projects/globex/locations/us-east1/keyRings/pii/cryptoKeys/tax_id", 2, 1,
     HIERARCHY_ENCRYPT, false, true, NULL, 20},
    {"encrypted for one subject", "eu", "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email", 1, 3, HIERARCHY_ENCRYPT, true,
     true, NULL, 20},
    {"wrapped data key", "eu", "projects/acme/locations/eu/keyRings/files/cryptoKeys/backup", 1, 4000000000u, HIERARCHY_WRAP,
     false, false, "file 9", 32},
    {"empty plaintext", "eu", "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email", 1, 3, HIERARCHY_ENCRYPT, false, false,
     "", 0},
    {"64 KiB", "eu", "projects/acme/locations/eu/keyRings/pii/cryptoKeys/email", 1, 3, HIERARCHY_ENCRYPT, false, false, "",
     PLAIN_MAX},
};
enum { SAMPLES = sizeof samples / sizeof samples[0], FIXED_SAMPLES = 5 /* short enough for a page */ };

#define MUST(expr) INVARIANT(!(expr).failed)

static void put_hex(json_t *o, const char *name, struct bytes b)
{
    static char text[2 * (PLAIN_MAX + FORMAT_OVERHEAD) + 1];
    INVARIANT(b.n <= PLAIN_MAX + FORMAT_OVERHEAD);
    hex_encode(b.p, b.n, text);
    INVARIANT(json_object_set_new(o, name, json_string(text)) == 0);
}

static void put_secret(json_t *o, const char *name, const struct secret *s)
{
    put_hex(o, name, BYTES(secret_borrow(s), secret_len(s)));
}

/* Test identities, each byte its own so that a mix-up shows. */
static void count_up(uint8_t *p, size_t n, uint8_t from)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(from + i);
}

/* As aead_seal, or with a nonce that the page can show. */
static void seal(const struct aead_key *k, bool fixed, uint8_t nonce_from, const struct format_header *h, struct bytes aad,
                 struct bytes plain, uint8_t *out)
{
    uint8_t header[FORMAT_HEADER_BYTES], nonce[AEAD_NONCE_BYTES];
    if (!fixed) {
        envelope_seal(k, h->type, h->kvid, h->subject, aad, plain, out);
        return;
    }
    format_header_put(h, header);
    count_up(nonce, sizeof nonce, nonce_from);
    aead_seal_at(k, nonce, BYTES(header, sizeof header), aad, plain, out);
}

/* The wrapped key version again with a nonce that the page can show; its AAD put together here, not by hierarchy.h. */
static void rewrap_fixed(const struct aead_key *kek, const struct hierarchy_tenant *t, const struct hierarchy_ctx *c,
                         const struct secret *l2, uint8_t nonce_from, uint8_t *out)
{
    struct format_header h = {.type = FORMAT_KEY_VERSION};
    CLEANUP(buf_release) struct buf aad = {0};
    buf_init(&aad, AAD_MAX);
    memcpy(h.kvid, c->kvid, sizeof h.kvid);
    buf_put_str(&aad, "l2v1");
    buf_put(&aad, t->instance, 16);
    buf_put(&aad, t->tenant, 16);
    buf_put_v16(&aad, t->location);
    buf_put_v16(&aad, c->key);
    buf_put_u32(&aad, c->version);
    buf_put_u32(&aad, t->master);
    buf_put_u32(&aad, 1);
    seal(kek, true, nonce_from, &h, buf_bytes(&aad), BYTES(secret_borrow(l2), secret_len(l2)), out);
}

static struct secret *derived(const struct secret *parent, enum kdf_label label, const struct bytes *fields, size_t n)
{
    struct err e;
    struct secret *s = NULL;
    MUST(kdf_derive(parent, label, fields, n, &s, &e));
    return s;
}

static void put_derived(json_t *o, const char *name, const struct secret *parent, enum kdf_label label, const struct bytes *fields,
                        size_t n)
{
    CLEANUP(secret_freep) struct secret *s = derived(parent, label, fields, n);
    put_secret(o, name, s);
}

static void put_kx(json_t *o, const struct secret *encrypt, const uint8_t *sealed)
{
    uint8_t k1[XAES_K1_BYTES], kx[XAES_KEY_BYTES];
    xaes_k1(secret_borrow(encrypt), k1);
    xaes_kx(secret_borrow(encrypt), k1, sealed + FORMAT_HEADER_BYTES + AEAD_COMMIT_BYTES, kx);
    put_hex(o, "l3_kx", BYTES(kx, sizeof kx));
}

/* What lies between the master secret and the ciphertext: derived here field by field, not through hierarchy.h. */
static json_t *steps(const struct sample *s, const struct hierarchy_ctx *c, const struct secret *l1, const struct secret *l2,
                     struct bytes l1_input, struct bytes subject_salt, struct bytes aad, const uint8_t *sealed)
{
    json_t *o = json_object();
    struct err e;
    uint8_t kcv[HIERARCHY_KCV_BYTES], version[4];
    put_hex(o, "l1_input", l1_input);
    put_secret(o, "l1", l1);
    MUST(hierarchy_kcv(l1, kcv, &e));
    put_hex(o, "kcv", BYTES(kcv, sizeof kcv));
    put_derived(o, "kek_encrypt", l1, KDF_KEK_WRAP, (struct bytes[]){BYTES_LIT("encrypt")}, 1);
    put_derived(o, "kek_commit", l1, KDF_KEK_WRAP, (struct bytes[]){BYTES_LIT("commit")}, 1);
    put_secret(o, "l2", l2);
    put_be32(version, c->version);
    struct bytes purpose = s->purpose == HIERARCHY_WRAP ? BYTES_LIT("wrap") : BYTES_LIT("encrypt");
    struct bytes f[] = {BYTES(c->tenant, 16), c->location, c->key,          BYTES(version, 4), BYTES(c->kvid, 16), purpose,
                        BYTES_LIT("encrypt"), subject_salt};
    CLEANUP(secret_freep) struct secret *l3 = derived(l2, KDF_PURPOSE, f, 8);
    put_secret(o, "l3_encrypt", l3);
    f[6] = BYTES_LIT("commit");
    put_derived(o, "l3_commit", l2, KDF_PURPOSE, f, 8);
    put_hex(o, "canonical_aad", aad);
    put_kx(o, l3, sealed);
    return o;
}

static void put_context(json_t *o)
{
    json_t *pairs = json_object();
    for (size_t i = 0; i < PAIRS; i++) {
        char key[64] = {0};
        memcpy(key, context_pairs[i].key.p, context_pairs[i].key.n);
        json_object_set_new(pairs, key, json_stringn((const char *)context_pairs[i].value.p, context_pairs[i].value.n));
    }
    json_object_set_new(o, "context", pairs);
}

static void put_inputs(json_t *o, const struct sample *s, const struct hierarchy_tenant *t, const struct hierarchy_ctx *c,
                       const struct secret *master, const uint8_t salt[32])
{
    json_object_set_new(o, "name", json_string(s->name));
    put_secret(o, "master_secret", master);
    json_object_set_new(o, "master_version", json_integer(t->master));
    put_hex(o, "instance", BYTES(t->instance, 16));
    put_hex(o, "tenant", BYTES(t->tenant, 16));
    json_object_set_new(o, "location", json_string(s->location));
    put_hex(o, "salt", BYTES(salt, 32));
    json_object_set_new(o, "crypto_key", json_string(s->key));
    json_object_set_new(o, "version", json_integer(c->version));
    if (s->context)
        put_context(o);
    if (!s->context)
        put_hex(o, "aad", bytes_str(s->aad));
}

static json_t *record(const struct sample *s, bool fixed, uint8_t at)
{
    struct err e;
    json_t *o = json_object();
    struct hierarchy_tenant t = {.location = bytes_str(s->location), .master = s->master};
    struct hierarchy_ctx c = {.location = t.location, .key = bytes_str(s->key), .version = s->version};
    struct format_header h = {.type = s->purpose == HIERARCHY_WRAP ? FORMAT_WRAPPED_KEY : FORMAT_ENCRYPTED};
    uint8_t salt[32], subject_salt[32], raw[32], wrapped[HIERARCHY_L2_WRAPPED_BYTES];
    static uint8_t plain[PLAIN_MAX], sealed[PLAIN_MAX + FORMAT_OVERHEAD];
    count_up(t.instance, 16, 0x10);
    count_up(t.tenant, 16, (uint8_t)(0x30 + s->location[0]));
    memcpy(c.tenant, t.tenant, 16);
    count_up(c.kvid, 16, (uint8_t)(0x50 + at));
    memcpy(h.kvid, c.kvid, 16);
    count_up(salt, 32, 0x70);
    count_up(subject_salt, 32, 0x90);
    count_up(plain, s->plain_n, at);
    if (s->plain_n == sizeof plain_text - 1)
        memcpy(plain, plain_text, s->plain_n);
    if (s->subject)
        count_up(h.subject, 16, 0xb0);

    CLEANUP(secret_freep) struct secret *master = NULL, *l1 = NULL, *l2 = NULL;
    count_up(raw, 32, (uint8_t)s->master);
    MUST(secret_from(raw, 32, &master, &e));
    count_up(raw, 32, (uint8_t)(0xd0 + at));
    MUST(secret_from(raw, 32, &l2, &e));
    CLEANUP(buf_release) struct buf input = {0}, aad = {0};
    buf_init(&input, KDFENC_MAX_BYTES);
    hierarchy_l1_input(&t, salt, &input);
    MUST(secret_new(32, &l1, &e));
    hmac_sha256(master, (struct bytes[]){buf_bytes(&input)}, 1, secret_borrow_mut(l1)); /* C_Sign, in the token */

    CLEANUP(aead_key_freep) struct aead_key *kek = NULL, *key = NULL;
    MUST(hierarchy_kek(l1, &kek, &e));
    hierarchy_l2_wrap(kek, &t, &c, l2, wrapped);
    if (fixed)
        rewrap_fixed(kek, &t, &c, l2, (uint8_t)(0xe0 + at), wrapped);
    struct bytes of_subject = s->subject ? BYTES(subject_salt, 32) : (struct bytes){0};
    MUST(hierarchy_purpose_key(l2, &c, s->purpose, of_subject, &key, &e));
    buf_init(&aad, AAD_MAX);
    if (s->context)
        MUST(format_context_aad(context_pairs, PAIRS, &aad, &e));
    if (!s->context)
        format_plain_aad(bytes_str(s->aad), &aad);
    seal(key, fixed, (uint8_t)(0xa0 + at), &h, buf_bytes(&aad), BYTES(plain, s->plain_n), sealed);

    put_inputs(o, s, &t, &c, master, salt);
    put_hex(o, "subject_salt", of_subject);
    put_hex(o, "wrapped_key_version", BYTES(wrapped, sizeof wrapped));
    put_hex(o, "ciphertext", BYTES(sealed, s->plain_n + FORMAT_OVERHEAD));
    put_hex(o, "plaintext", BYTES(plain, s->plain_n));
    json_object_set_new(o, "steps", steps(s, &c, l1, l2, buf_bytes(&input), of_subject, buf_bytes(&aad), sealed));
    return o;
}

int main(int argc, char **argv)
{
    struct err e;
    bool fixed = argc == 2 && strcmp(argv[1], "--fixed") == 0;
    INVARIANT(argc == 1 || fixed);
    MUST(secret_slab_init(64, &e));
    json_t *all = json_array();
    for (size_t i = 0; i < (size_t)(fixed ? FIXED_SAMPLES : SAMPLES); i++)
        json_array_append_new(all, record(&samples[i], fixed, (uint8_t)i));
    INVARIANT(json_dumpf(all, stdout, JSON_INDENT(1)) == 0);
    putchar('\n');
    json_decref(all);
    return secret_stats().used == 0 ? 0 : 1;
}
