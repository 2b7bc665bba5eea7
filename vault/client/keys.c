#include "vault/client/internal.h"

#include "claviger/envelope/v1/envelope.pb-c.h"
#include "google/cloud/kms/v1/service.pb-c.h"

#include <string.h>

#define KMS "/google.cloud.kms.v1.KeyManagementService/"
#define ENVELOPE "/claviger.envelope.v1.Envelope/"

static struct result check_size(size_t n, size_t max, struct claviger_error *e)
{
    if (n > max)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "TOO_LARGE", "%zu bytes are more than the %zu allowed", n, max);
    return ok();
}

static struct result call(struct transport *t, const char *path, const void *req, const ProtobufCMessageDescriptor *d,
                          struct arena *a, void *ret, struct claviger_error *e)
{
    ProtobufCMessage *m = NULL;
    TRY(rpc_unary(t, &(struct rpc_options){.path = path, .retry = true}, req, d, a, &m, e));
    memcpy(ret, &m, sizeof m);
    return ok();
}

static struct result verified(bool yes, struct claviger_error *e)
{
    if (!yes)
        return client_fail(e, CLAVIGER_DATA_LOSS, "CRC32C_NOT_VERIFIED", "the server did not verify the checksum that was sent");
    return ok();
}

/* ---- encrypt, decrypt: Cloud KMS when bound to bytes, a batch of one when bound to pairs -------------------------------------- */

static struct result batch_of_one(struct transport *t, bool encrypt, const char *key, struct bytes in,
                                  const struct claviger_binding *b, struct claviger_buffer *ret, struct claviger_error *e)
{
    struct claviger_item item = {.in = in.p, .in_len = in.n, .binding = *b};
    struct batch *batch = NULL;
    TRY(batch_start(t, key, encrypt, &item, 1, &batch, e));
    struct result r = batch_finish(batch, e);
    if (r.failed && item.code != CLAVIGER_OK) {
        e->code = item.code;
        client_copy_text(e->reason, sizeof e->reason, bytes_str(item.reason));
    }
    if (!r.failed)
        *ret = item.out;
    return r;
}

static struct result encrypt(struct transport *t, const char *key, struct bytes plain, const struct claviger_binding *b,
                             struct claviger_buffer *ret, struct claviger_error *e)
{
    TRY(binding_check(b, true, e));
    TRY(check_size(plain.n, CLAVIGER_PLAINTEXT_MAX, e));
    if (b && b->context_len > 0)
        return batch_of_one(t, true, key, plain, b, ret, e);
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    Google__Cloud__Kms__V1__EncryptRequest q = GOOGLE__CLOUD__KMS__V1__ENCRYPT_REQUEST__INIT;
    q.name = pb_of(bytes_str(key));
    q.plaintext = pb_of(plain);
    q.plaintext_crc32c = crc_of(plain, &a);
    q.additional_authenticated_data = binding_aad(b);
    q.additional_authenticated_data_crc32c = crc_of(pb_bytes_of(q.additional_authenticated_data), &a);
    const Google__Cloud__Kms__V1__EncryptResponse *p = NULL;
    TRY(call(t, KMS "Encrypt", &q, &google__cloud__kms__v1__encrypt_response__descriptor, &a, &p, e));
    TRY(verified(p->verified_plaintext_crc32c && p->verified_additional_authenticated_data_crc32c, e));
    TRY(crc_check(p->ciphertext, p->ciphertext_crc32c, e));
    return buffer_from(pb_bytes_of(p->ciphertext), ret, e);
}

static struct result decrypt(struct transport *t, const char *key, struct bytes sealed, const struct claviger_binding *b,
                             struct claviger_buffer *ret, struct claviger_error *e)
{
    TRY(binding_check(b, true, e));
    TRY(check_size(sealed.n, 2 * CLAVIGER_PLAINTEXT_MAX, e));
    if (b && b->context_len > 0)
        return batch_of_one(t, false, key, sealed, b, ret, e);
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    Google__Cloud__Kms__V1__DecryptRequest q = GOOGLE__CLOUD__KMS__V1__DECRYPT_REQUEST__INIT;
    q.name = pb_of(bytes_str(key));
    q.ciphertext = pb_of(sealed);
    q.ciphertext_crc32c = crc_of(sealed, &a);
    q.additional_authenticated_data = binding_aad(b);
    q.additional_authenticated_data_crc32c = crc_of(pb_bytes_of(q.additional_authenticated_data), &a);
    const Google__Cloud__Kms__V1__DecryptResponse *p = NULL;
    TRY(call(t, KMS "Decrypt", &q, &google__cloud__kms__v1__decrypt_response__descriptor, &a, &p, e));
    TRY(crc_check(p->plaintext, p->plaintext_crc32c, e));
    return buffer_from(pb_bytes_of(p->plaintext), ret, e);
}

static struct result rewrap(struct transport *t, const char *key, struct bytes sealed, const struct claviger_binding *b,
                            struct claviger_buffer *ret, struct claviger_error *e)
{
    TRY(binding_check(b, true, e));
    TRY(check_size(sealed.n, 2 * CLAVIGER_PLAINTEXT_MAX, e));
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    Claviger__Envelope__V1__RewrapRequest q = CLAVIGER__ENVELOPE__V1__REWRAP_REQUEST__INIT;
    q.name = pb_of(bytes_str(key));
    q.ciphertext = pb_of(sealed);
    q.ciphertext_crc32c = crc_of(sealed, &a);
    q.additional_authenticated_data = binding_aad(b);
    q.context = (void *)binding_entries(b, &claviger__envelope__v1__rewrap_request__context_entry__descriptor, &a, &q.n_context);
    const Claviger__Envelope__V1__RewrapResponse *p = NULL;
    TRY(call(t, ENVELOPE "Rewrap", &q, &claviger__envelope__v1__rewrap_response__descriptor, &a, &p, e));
    TRY(crc_check(p->ciphertext, p->ciphertext_crc32c, e));
    return buffer_from(pb_bytes_of(p->ciphertext), ret, e);
}

int claviger_encrypt(struct claviger *c, const char *key, const void *plaintext, size_t plaintext_len,
                     const struct claviger_binding *binding, struct claviger_buffer *ret, struct claviger_error *error)
{
    struct claviger_error e;
    return client_return(encrypt(c->transport, key, BYTES(plaintext, plaintext_len), binding, ret, &e), &e, error);
}

int claviger_decrypt(struct claviger *c, const char *key, const void *ciphertext, size_t ciphertext_len,
                     const struct claviger_binding *binding, struct claviger_buffer *ret, struct claviger_error *error)
{
    struct claviger_error e;
    return client_return(decrypt(c->transport, key, BYTES(ciphertext, ciphertext_len), binding, ret, &e), &e, error);
}

int claviger_rewrap(struct claviger *c, const char *key, const void *ciphertext, size_t ciphertext_len,
                    const struct claviger_binding *binding, struct claviger_buffer *ret, struct claviger_error *error)
{
    struct claviger_error e;
    return client_return(rewrap(c->transport, key, BYTES(ciphertext, ciphertext_len), binding, ret, &e), &e, error);
}

/* ---- wrap, unwrap, generate --------------------------------------------------------------------------------------------------- */

static struct result wrap(struct transport *t, const char *key, struct bytes plain, const struct claviger_binding *b,
                          struct claviger_buffer *ret, struct claviger_error *e)
{
    TRY(binding_check(b, false, e));
    TRY(check_size(plain.n, CLAVIGER_PLAINTEXT_MAX, e));
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    Claviger__Envelope__V1__WrapRequest q = CLAVIGER__ENVELOPE__V1__WRAP_REQUEST__INIT;
    q.name = pb_of(bytes_str(key));
    q.plaintext_key = pb_of(plain);
    q.plaintext_key_crc32c = crc_of(plain, &a);
    q.context = (void *)binding_entries(b, &claviger__envelope__v1__wrap_request__context_entry__descriptor, &a, &q.n_context);
    const Claviger__Envelope__V1__WrapResponse *p = NULL;
    TRY(call(t, ENVELOPE "Wrap", &q, &claviger__envelope__v1__wrap_response__descriptor, &a, &p, e));
    TRY(verified(p->verified_plaintext_key_crc32c, e));
    TRY(crc_check(p->wrapped_key, p->wrapped_key_crc32c, e));
    return buffer_from(pb_bytes_of(p->wrapped_key), ret, e);
}

RESULT key_unwrap(struct transport *t, const char *key, struct bytes wrapped, const struct claviger_binding *b, struct arena *a,
                  struct bytes *ret_plain, struct claviger_error *e)
{
    TRY(binding_check(b, false, e));
    TRY(check_size(wrapped.n, 2 * CLAVIGER_PLAINTEXT_MAX, e));
    Claviger__Envelope__V1__UnwrapRequest q = CLAVIGER__ENVELOPE__V1__UNWRAP_REQUEST__INIT;
    q.name = pb_of(bytes_str(key));
    q.wrapped_key = pb_of(wrapped);
    q.wrapped_key_crc32c = crc_of(wrapped, a);
    q.context = (void *)binding_entries(b, &claviger__envelope__v1__unwrap_request__context_entry__descriptor, a, &q.n_context);
    const Claviger__Envelope__V1__UnwrapResponse *p = NULL;
    TRY(call(t, ENVELOPE "Unwrap", &q, &claviger__envelope__v1__unwrap_response__descriptor, a, &p, e));
    TRY(crc_check(p->plaintext_key, p->plaintext_key_crc32c, e));
    *ret_plain = pb_bytes_of(p->plaintext_key);
    return ok();
}

static struct result unwrap(struct transport *t, const char *key, struct bytes wrapped, const struct claviger_binding *b,
                            struct claviger_buffer *ret, struct claviger_error *e)
{
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    struct bytes plain;
    TRY(key_unwrap(t, key, wrapped, b, &a, &plain, e));
    return buffer_from(plain, ret, e);
}

RESULT key_generate(struct transport *t, const char *key, uint32_t key_bytes, bool wrapped_only,
                    const struct claviger_binding *b, struct arena *a, struct bytes *ret_plain, struct bytes *ret_wrapped,
                    struct claviger_error *e)
{
    TRY(binding_check(b, false, e));
    Claviger__Envelope__V1__GenerateDataKeyRequest q = CLAVIGER__ENVELOPE__V1__GENERATE_DATA_KEY_REQUEST__INIT;
    q.name = pb_of(bytes_str(key));
    q.key_bytes = key_bytes;
    q.wrapped_only = wrapped_only;
    q.context = (void *)binding_entries(b, &claviger__envelope__v1__generate_data_key_request__context_entry__descriptor, a,
                                        &q.n_context);
    const Claviger__Envelope__V1__GenerateDataKeyResponse *p = NULL;
    TRY(call(t, ENVELOPE "GenerateDataKey", &q, &claviger__envelope__v1__generate_data_key_response__descriptor, a, &p, e));
    TRY(crc_check(p->wrapped_key, p->wrapped_key_crc32c, e));
    if (!wrapped_only) {
        TRY(crc_check(p->plaintext_key, p->plaintext_key_crc32c, e));
        if (p->plaintext_key.len != key_bytes)
            return client_fail(e, CLAVIGER_INTERNAL, "BAD_ANSWER", "asked for %u key bytes, got %zu", key_bytes,
                               p->plaintext_key.len);
    }
    *ret_plain = pb_bytes_of(p->plaintext_key);
    *ret_wrapped = pb_bytes_of(p->wrapped_key);
    return ok();
}

static struct result generate(struct transport *t, const char *key, uint32_t key_bytes, const struct claviger_binding *b,
                              struct claviger_buffer *ret_plain, struct claviger_buffer *ret_wrapped, struct claviger_error *e)
{
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    struct bytes plain, wrapped;
    TRY(key_generate(t, key, key_bytes, ret_plain == NULL, b, &a, &plain, &wrapped, e));
    CLEANUP(claviger_buffer_free) struct claviger_buffer w = {0};
    TRY(buffer_from(wrapped, &w, e));
    if (ret_plain)
        TRY(buffer_from(plain, ret_plain, e));
    *ret_wrapped = w;
    w = (struct claviger_buffer){0};
    return ok();
}

int claviger_wrap(struct claviger *c, const char *key, const void *data_key, size_t data_key_len,
                  const struct claviger_binding *binding, struct claviger_buffer *ret_wrapped, struct claviger_error *error)
{
    struct claviger_error e;
    return client_return(wrap(c->transport, key, BYTES(data_key, data_key_len), binding, ret_wrapped, &e), &e, error);
}

int claviger_unwrap(struct claviger *c, const char *key, const void *wrapped, size_t wrapped_len,
                    const struct claviger_binding *binding, struct claviger_buffer *ret_data_key, struct claviger_error *error)
{
    struct claviger_error e;
    return client_return(unwrap(c->transport, key, BYTES(wrapped, wrapped_len), binding, ret_data_key, &e), &e, error);
}

int claviger_generate_data_key(struct claviger *c, const char *key, uint32_t key_bytes, const struct claviger_binding *binding,
                               struct claviger_buffer *ret_plaintext, struct claviger_buffer *ret_wrapped,
                               struct claviger_error *error)
{
    struct claviger_error e;
    return client_return(generate(c->transport, key, key_bytes, binding, ret_plaintext, ret_wrapped, &e), &e, error);
}
