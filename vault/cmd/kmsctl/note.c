#include "vault/cmd/kmsctl/note.h"

#include "base/text.h"

#define ERR_STATE OPENSSL_ERR_STATE /* a type of theirs, a code of ours */
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#undef ERR_STATE
#include <string.h>

enum { TYPE_ED25519 = 1, TYPE_ECDSA = 2, ED25519_BYTES = 32, P256_SPKI_BYTES = 91, KEY_BYTES_MAX = 256, SIGNATURE_BYTES_MAX = 256 };
#define DASH "\xe2\x80\x94 "

static struct result malformed(struct claviger_error *e, const char *what)
{
    return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "NOTE_MALFORMED", "this is no signed note: %s", what);
}

/* ---- the key ---- */
static void key_id(const struct note_key *k, struct bytes public, uint8_t out[NOTE_ID_BYTES])
{
    uint8_t hash[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    INVARIANT(c != NULL && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1);
    if (k->ed25519) /* with the name, a newline and the type before it; the other type is told by its public key alone */
        INVARIANT(EVP_DigestUpdate(c, k->name.p, k->name.n) == 1 && EVP_DigestUpdate(c, "\n\x01", 2) == 1);
    INVARIANT(EVP_DigestUpdate(c, public.p, public.n) == 1 && EVP_DigestFinal_ex(c, hash, NULL) == 1);
    EVP_MD_CTX_free(c);
    memcpy(out, hash, NOTE_ID_BYTES);
}

static EVP_PKEY *public_key(bool ed25519, struct bytes public)
{
    const unsigned char *p = public.p;
    char group[32] = "";
    if (ed25519)
        return public.n == ED25519_BYTES ? EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public.p, public.n) : NULL;
    EVP_PKEY *k = public.n == P256_SPKI_BYTES ? d2i_PUBKEY(NULL, &p, (long)public.n) : NULL;
    if (k != NULL && (p != public.p + public.n || EVP_PKEY_get_group_name(k, group, sizeof group, NULL) != 1 || strcmp(group, "prime256v1") != 0)) {
        EVP_PKEY_free(k);
        k = NULL;
    }
    return k;
}

static bool parse_key(const char *text, struct buf *raw, struct note_key *k)
{
    uint8_t want[NOTE_ID_BYTES];
    const char *id = strchr(text, '+'), *public = id != NULL ? strchr(id + 1, '+') : NULL;
    if (public == NULL || id == text || public - id != 1 + 2 * NOTE_ID_BYTES || !hex_decode(BYTES(id + 1, 2 * NOTE_ID_BYTES), k->id, NOTE_ID_BYTES))
        return false;
    k->name = BYTES(text, (size_t)(id - text));
    if (!base64_decode(bytes_str(public + 1), false, raw) || raw->overflow || raw->n < 2 || (raw->p[0] != TYPE_ED25519 && raw->p[0] != TYPE_ECDSA))
        return false;
    k->ed25519 = raw->p[0] == TYPE_ED25519;
    const struct bytes key = BYTES(raw->p + 1, raw->n - 1);
    key_id(k, key, want);
    if (memcmp(want, k->id, sizeof want) != 0)
        return false;
    k->key = public_key(k->ed25519, key);
    ERR_clear_error();
    return k->key != NULL;
}

RESULT note_key_parse(const char *text, struct note_key *ret, struct claviger_error *e)
{
    CLEANUP(buf_release) struct buf raw;
    buf_init(&raw, KEY_BYTES_MAX);
    *ret = (struct note_key){0};
    if (!parse_key(text, &raw, ret))
        return usage(e, "\"%.80s\" is no public key: it looks like claviger/node1+0123abcd+AbCd..., as kmsctl audit status shows it", text);
    return ok();
}

void note_key_release(struct note_key *k)
{
    EVP_PKEY_free(k->key);
    *k = (struct note_key){0};
}

/* ---- the note ---- */
static bool good(const struct note_key *k, struct bytes text, struct bytes signature)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    const bool is = c != NULL && EVP_DigestVerifyInit(c, NULL, k->ed25519 ? NULL : EVP_sha256(), NULL, k->key) == 1 &&
                    EVP_DigestVerify(c, signature.p, signature.n, text.p, text.n) == 1;
    EVP_MD_CTX_free(c);
    ERR_clear_error();
    return is;
}

static bool clean(struct bytes note)
{
    for (size_t i = 0; i < note.n; i++)
        if (note.p[i] < ' ' && note.p[i] != '\n')
            return false;
    return text_is_utf8(note);
}

/* The text is ended by the last empty line; it may have some itself. */
static bool split(struct bytes note, struct bytes *ret_text, struct bytes *ret_rest)
{
    for (size_t at = note.n; at >= 2; at--)
        if (note.p[at - 1] == '\n' && note.p[at - 2] == '\n') {
            *ret_text = BYTES(note.p, at - 1);
            *ret_rest = BYTES(note.p + at, note.n - at);
            return ret_rest->n > 0;
        }
    return false;
}

/* One line: dash, name, base64 of id and signature. */
static bool line_of(struct bytes *rest, struct bytes *ret_name, struct buf *raw)
{
    const size_t dash = strlen(DASH);
    const uint8_t *end = memchr(rest->p, '\n', rest->n);
    if (end == NULL || (size_t)(end - rest->p) <= dash || memcmp(rest->p, DASH, dash) != 0)
        return false;
    const struct bytes line = BYTES(rest->p + dash, (size_t)(end - rest->p) - dash);
    const uint8_t *space = memchr(line.p, ' ', line.n);
    if (space == NULL || space == line.p)
        return false;
    *ret_name = BYTES(line.p, (size_t)(space - line.p));
    *rest = BYTES(end + 1, rest->n - (size_t)(end + 1 - rest->p));
    return base64_decode(BYTES(space + 1, line.n - ret_name->n - 1), false, raw) && !raw->overflow && raw->n > NOTE_ID_BYTES;
}

RESULT note_verify(struct bytes untrusted_note, const struct note_key *k, struct bytes *ret_text, struct claviger_error *e)
{
    struct bytes text, rest, name;
    bool found = false;
    if (untrusted_note.n > NOTE_MAX || !clean(untrusted_note))
        return malformed(e, "too long, or not plain text");
    if (!split(untrusted_note, &text, &rest))
        return malformed(e, "it has no text and signatures, parted by an empty line");
    for (unsigned i = 0; rest.n > 0; i++) {
        CLEANUP(buf_release) struct buf raw;
        buf_init(&raw, SIGNATURE_BYTES_MAX);
        if (i == NOTE_SIGNATURES_MAX || !line_of(&rest, &name, &raw))
            return malformed(e, "a signature line");
        if (!bytes_equal(name, k->name) || memcmp(raw.p, k->id, NOTE_ID_BYTES) != 0)
            continue;
        if (!good(k, text, BYTES(raw.p + NOTE_ID_BYTES, raw.n - NOTE_ID_BYTES)))
            return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "NOTE_FORGED", "the signature does not verify: the text was changed, or it is not the key's");
        found = true;
    }
    if (!found)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "NOTE_UNKNOWN_KEY", "no signature is of the key %.*s", (int)k->name.n, (const char *)k->name.p);
    *ret_text = text;
    return ok();
}
