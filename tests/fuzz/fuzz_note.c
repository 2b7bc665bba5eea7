/* Target functions: note_verify and note_key_parse of kmsctl: nothing that the key did not sign verifies, what it did sign comes back as it
 * was, and a public key that is accepted has the id that it says.
 *
 * Input: u8 how, then bytes. how & 1: they are a key's text. Else a note: how & 2: its text, which gets a good signature between others as
 * the rest of how says; else the whole note. */
#include "vault/cmd/kmsctl/note.h"

#include <sodium.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t public[1 + crypto_sign_PUBLICKEYBYTES] = {1}, secret_key[crypto_sign_SECRETKEYBYTES];
static struct note_key key;
static char key_text[256];

static void prepare(void)
{
    static const uint8_t seed[crypto_sign_SEEDBYTES] = "no secret";
    static const char name[] = "fuzz/node";
    struct claviger_error e = {0};
    uint8_t hash[crypto_hash_sha256_BYTES], input[sizeof name + sizeof public];
    CLEANUP(buf_release) struct buf b64 = {0};
    if (key.key != NULL)
        return;
    INVARIANT(sodium_init() >= 0 && crypto_sign_seed_keypair(public + 1, secret_key, seed) == 0);
    memcpy(input, name, sizeof name - 1);
    input[sizeof name - 1] = '\n';
    memcpy(input + sizeof name, public, sizeof public);
    crypto_hash_sha256(hash, input, sizeof input);
    buf_init(&b64, 128);
    base64_encode(BYTES(public, sizeof public), false, &b64);
    (void)snprintf(key_text, sizeof key_text, "%s+%02x%02x%02x%02x+%s", name, hash[0], hash[1], hash[2], hash[3], buf_cstr(&b64));
    INVARIANT(!note_key_parse(key_text, &key, &e).failed);
}

static void put_signature(struct buf *note, struct bytes text)
{
    uint8_t raw[NOTE_ID_BYTES + crypto_sign_BYTES];
    memcpy(raw, key.id, NOTE_ID_BYTES);
    INVARIANT(crypto_sign_detached(raw + NOTE_ID_BYTES, NULL, text.p, text.n, secret_key) == 0);
    buf_put_str(note, "\xe2\x80\x94 fuzz/node ");
    base64_encode(BYTES(raw, sizeof raw), false, note);
    buf_put_str(note, "\n");
}

static void signed_text(struct bytes text, unsigned how)
{
    CLEANUP(buf_release) struct buf note;
    struct claviger_error e = {0};
    struct bytes got;
    buf_init(&note, NOTE_MAX + 1024);
    buf_put_bytes(&note, text);
    buf_put_str(&note, "\n");
    if (how & 4)
        buf_put_str(&note, "\xe2\x80\x94 somebody/else AAAAAAAA\n");
    put_signature(&note, text);
    if (how & 8)
        buf_put_str(&note, "\xe2\x80\x94 fuzz/node AAAAAAAA\n"); /* of our name, and another id */
    if (note_verify(buf_bytes(&note), &key, &got, &e).failed) {
        INVARIANT(strcmp(e.reason, "NOTE_MALFORMED") == 0);
        return;
    }
    INVARIANT(bytes_equal(got, text));
    note.p[text.n / 2] ^= 1;
    INVARIANT(note_verify(buf_bytes(&note), &key, &got, &e).failed);
}

static void key_given(struct bytes in)
{
    char text[512];
    struct note_key k;
    struct claviger_error e = {0};
    if (in.n >= sizeof text || memchr(in.p, 0, in.n) != NULL)
        return;
    memcpy(text, in.p, in.n);
    text[in.n] = 0;
    if (!note_key_parse(text, &k, &e).failed) {
        INVARIANT(k.key != NULL && k.name.n > 0 && k.name.n < in.n);
        note_key_release(&k);
        char *id = strchr(text, '+') + 1; /* another id is another key's */
        *id = *id == '0' ? '1' : '0';
        INVARIANT(note_key_parse(text, &k, &e).failed);
    }
    note_key_release(&k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct claviger_error e = {0};
    struct bytes text;
    prepare();
    if (size < 1 || size > NOTE_MAX)
        return 0;
    const struct bytes in = BYTES(data + 1, size - 1);
    if (data[0] & 1)
        key_given(in);
    else if (data[0] & 2)
        signed_text(in, data[0]);
    else
        INVARIANT(note_verify(in, &key, &text, &e).failed); /* it would be a forgery */
    return 0;
}
