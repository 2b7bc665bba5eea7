#include "vault/service/crypt.h"

#include "vault/service/uses.h"

#include <string.h>

void crypt_key_release(struct crypt_key *k)
{
    key_handle_unref(k->handle);
    *k = (struct crypt_key){0};
}

RESULT crypt_key_for_seal(struct call *c, const struct name *n, enum key_use use, struct crypt_key *k, struct err *e)
{
    if (k->handle != NULL && k->name == n && k->use == use)
        return ok();
    crypt_key_release(k);
    TRY(keyring_use_encrypt(c->svc->keyring, n, use, c->may_block, &k->handle, &k->view, e));
    k->name = n;
    k->use = use;
    return ok();
}

static bool on_token(const struct crypt_key *k)
{
    return k->view.protection == PROTECTION_HSM;
}

static enum format_type type_of(enum key_use use, bool token)
{
    if (token)
        return use == KEY_USE_WRAP ? FORMAT_TOKEN_WRAPPED_KEY : FORMAT_TOKEN_ENCRYPTED;
    return use == KEY_USE_WRAP ? FORMAT_WRAPPED_KEY : FORMAT_ENCRYPTED;
}

static bool type_is_of(enum format_type t, enum key_use use)
{
    return t == type_of(use, false) || t == type_of(use, true);
}

static enum event_use_what opens(enum key_use use)
{
    return use == KEY_USE_WRAP ? EVENT_USE_UNWRAP : EVENT_USE_DECRYPT;
}

static RESULT room(struct call *c, size_t n, uint8_t **ret, struct err *e)
{
    *ret = arena_alloc(&c->arena, n + 1);
    if (*ret == NULL)
        FAIL(e, ERR_EXHAUSTED, "CALL_MEMORY", "the result does not fit the call's memory");
    return ok();
}

/* A batch asks the token item by item: once it was away, the rest is not made to wait for it each in turn, nor for a caller who left. */
static RESULT may_ask_token(struct call *c, struct err *e)
{
    if (c->token_away)
        FAIL(e, ERR_UNAVAILABLE, "HSM_UNAVAILABLE", "the token went away in this call");
    if (call_is_cancelled(c))
        FAIL(e, ERR_DEADLINE, NULL, "the deadline passed, or the client went away, between two operations of the token");
    return ok();
}

static RESULT token_answered(struct call *c, struct result r, const struct err *why, struct err *e)
{
    if (!r.failed)
        return ok();
    c->token_away = why->code == ERR_UNAVAILABLE;
    *e = *why;
    return r;
}

/* As Cloud KMS: of level HSM plaintext and additional data are 8 KiB together. */
static RESULT token_seal(struct call *c, const struct crypt_key *k, enum key_use use, struct bytes aad, struct bytes plain, uint8_t *out,
                         struct err *e)
{
    enum { CANONICAL = 4 /* "aad1", "ctx1" */ };
    struct err why = {0};
    if (plain.n + aad.n - CANONICAL > KEYRING_TOKEN_MAX)
        return err_field(e, "plaintext", "with a key of level HSM, plaintext and additional data or context are at most 8192 bytes together");
    TRY(may_ask_token(c, e));
    return token_answered(c, keyring_token_seal(c->svc->keyring, k->handle, use, aad, plain, out, &why), &why, e);
}

static RESULT token_open(struct call *c, const struct crypt_key *k, enum key_use use, struct bytes aad, struct bytes sealed, uint8_t *out,
                         struct err *e)
{
    struct err why = {0};
    TRY(may_ask_token(c, e));
    return token_answered(c, keyring_token_open(c->svc->keyring, k->handle, use, aad, sealed, out, &why), &why, e);
}

RESULT crypt_seal(struct call *c, const struct crypt_key *k, enum key_use use, struct bytes aad, struct bytes plain,
                  struct bytes *ret, struct err *e)
{
    const enum format_type type = type_of(use, on_token(k));
    uint8_t *out;
    TRY(room(c, plain.n + format_overhead(type), &out, e));
    if (on_token(k))
        TRY(token_seal(c, k, use, aad, plain, out, e));
    else
        envelope_seal(k->view.aead, type, k->view.kvid, NULL, aad, plain, out);
    *ret = BYTES(out, plain.n + format_overhead(type));
    return uses_add(c, &k->view, use == KEY_USE_WRAP ? EVENT_USE_WRAP : EVENT_USE_ENCRYPT, e);
}

/* One text, whatever was wrong; the key must exist all the same. */
static RESULT bad_ciphertext(struct call *c, const struct name *n, const char *why, struct err *e)
{
    TRY(keyring_key_exists(c->svc->keyring, n, c->may_block, e));
    FAIL(e, ERR_CIPHERTEXT, NULL, "%s", why);
}

RESULT crypt_open(struct call *c, const struct name *n, enum key_use use, struct bytes aad, struct bytes sealed,
                  struct crypt_key *k, struct bytes *ret, struct err *e)
{
    struct format_header h;
    struct err why = {0};
    if (format_header_parse(sealed, &h, &why).failed) /* which looks at the length, too */
        return bad_ciphertext(c, n, why.detail, e);
    if (!type_is_of(h.type, use))
        return bad_ciphertext(c, n, "another type of ciphertext", e);
    if (k->handle == NULL || k->name != n || k->use != use || memcmp(k->view.kvid, h.kvid, sizeof h.kvid) != 0) {
        crypt_key_release(k);
        TRY(keyring_use_decrypt(c->svc->keyring, n, use, h.kvid, c->may_block, &k->handle, &k->view, e));
        k->name = n;
        k->use = use;
    }
    uint8_t *out;
    if (h.type != type_of(use, on_token(k))) /* a kvid is of one level only: somebody wrote this header */
        FAIL(e, ERR_CIPHERTEXT, NULL, "the header is of another level than its version");
    TRY(room(c, sealed.n - format_overhead(h.type), &out, e));
    if (on_token(k))
        TRY(token_open(c, k, use, aad, sealed, out, e));
    else
        TRY(envelope_open(k->view.aead, h.type, h.kvid, aad, sealed, out, e));
    *ret = BYTES(out, sealed.n - format_overhead(h.type));
    return uses_add(c, &k->view, opens(use), e);
}

/* Data or a wrapped key: the header says which, and the new one is what the old one was. */
static enum key_use use_of(struct bytes sealed)
{
    struct format_header h;
    struct err why = {0};
    return !format_header_parse(sealed, &h, &why).failed && type_is_of(h.type, KEY_USE_WRAP) ? KEY_USE_WRAP : KEY_USE_ENCRYPT;
}

static RESULT seal_again(struct call *c, const struct name *n, enum key_use use, struct bytes aad, struct bytes plain, struct bytes sealed,
                         const struct crypt_key *from, struct crypt_key *to, struct bytes *ret, struct err *e)
{
    TRY(crypt_key_for_seal(c, n, use, to, e));
    *ret = sealed;
    return from->view.version == to->view.version ? ok() : crypt_seal(c, to, use, aad, plain, ret, e);
}

RESULT crypt_rewrap(struct call *c, const struct name *n, struct bytes aad, struct bytes sealed, struct crypt_key *from,
                    struct crypt_key *to, struct bytes *ret, struct err *e)
{
    enum key_use use = use_of(sealed);
    struct bytes plain;
    TRY(crypt_open(c, n, use, aad, sealed, from, &plain, e));
    struct result done = seal_again(c, n, use, aad, plain, sealed, from, to, ret, e);
    if (done.failed)
        uses_take_back(c, &from->view, opens(use));
    wipe((void *)(uintptr_t)plain.p, plain.n); /* not left for the arena's end: a stream's message waits there for its answer to be read */
    return done;
}

ProtobufCBinaryData crypt_version_name(struct call *c, const struct crypt_key *k)
{
    void *copy = arena_dup(&c->arena, k->view.version_name.p, k->view.version_name.n);
    INVARIANT(copy != NULL);
    c->ev.key_version = BYTES(copy, k->view.version_name.n);
    return pb_view(c->ev.key_version);
}
