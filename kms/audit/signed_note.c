#include "kms/audit/signed_note.h"

#include "base/text.h"
#include "kms/crypto/kdf.h"

#include <stdio.h>
#include <string.h>

enum { TYPE_ED25519 = 1, TYPE_ECDSA = 2, ED25519_BYTES = 32, POINT_BYTES = 65, SIGNATURE_MAX = 128 };

/* RFC 5480: the algorithm id-ecPublicKey on secp256r1, then the point as a bit string. */
static const uint8_t p256_head[] = {0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
                                    0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00};

static bool is_key_name(struct bytes name)
{
    for (size_t i = 0; i < name.n; i++)
        if (name.p[i] <= ' ' || name.p[i] >= 0x7f || name.p[i] == '+') /* of the spaces that Unicode has, none */
            return false;
    return name.n > 0;
}

static void public_put(struct signed_note_key *k, const void *p, size_t n)
{
    INVARIANT(k->public_n + n <= sizeof k->public);
    memcpy(k->public + k->public_n, p, n);
    k->public_n += n;
}

RESULT signed_note_key_init(const char *name, struct bytes raw, bool ed25519, struct signed_note_key *ret, struct err *e)
{
    struct signed_note_key k = {.public = {ed25519 ? TYPE_ED25519 : TYPE_ECDSA}, .public_n = 1};
    uint8_t hash[32];
    INVARIANT(raw.n == (ed25519 ? ED25519_BYTES : POINT_BYTES));
    if (!is_key_name(bytes_str(name)) || !text_copy(bytes_str(name), k.name, sizeof k.name))
        FAIL(e, ERR_STATE, "AUDIT_ORIGIN", "\"%.100s\" cannot name a key: cluster_name and node_name are printable ASCII without spaces and +", name);
    if (!ed25519)
        public_put(&k, p256_head, sizeof p256_head);
    public_put(&k, raw.p, raw.n);
    const struct bytes public = BYTES(k.public, k.public_n);
    const struct bytes ours[] = {bytes_str(name), BYTES_LIT("\n"), public}, theirs[] = {BYTES(k.public + 1, k.public_n - 1)};
    sha256(ed25519 ? ours : theirs, ed25519 ? 3 : 1, hash);
    memcpy(k.id, hash, sizeof k.id);
    *ret = k;
    return ok();
}

void signed_note_key_text(const struct signed_note_key *k, char out[SIGNED_NOTE_KEY_TEXT_MAX])
{
    CLEANUP(buf_release) struct buf b64;
    char id[2 * SIGNED_NOTE_ID_BYTES + 1];
    buf_init(&b64, SIGNED_NOTE_KEY_TEXT_MAX);
    base64_encode(BYTES(k->public, k->public_n), false, &b64);
    hex_encode(k->id, sizeof k->id, id);
    const int n = snprintf(out, SIGNED_NOTE_KEY_TEXT_MAX, "%s+%s+%s", k->name, id, buf_cstr(&b64));
    INVARIANT(n > 0 && n < SIGNED_NOTE_KEY_TEXT_MAX);
}

void signed_note_put(const struct signed_note_key *k, struct bytes text, struct bytes signature, struct buf *out)
{
    uint8_t raw[SIGNED_NOTE_ID_BYTES + SIGNATURE_MAX];
    INVARIANT(signature.n <= SIGNATURE_MAX && text.n > 0 && text.p[text.n - 1] == '\n');
    memcpy(raw, k->id, sizeof k->id);
    memcpy(raw + sizeof k->id, signature.p, signature.n);
    buf_put_bytes(out, text);
    buf_putf(out, "\n\xe2\x80\x94 %s ", k->name);
    base64_encode(BYTES(raw, sizeof k->id + signature.n), false, out);
    buf_put_str(out, "\n");
}
