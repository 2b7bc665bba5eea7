#include "vault/client/local.h"

#include "vault/client/cache.h"
#include "vault/client/internal.h"

#include <stdlib.h>

enum { LOCAL_KEY_BYTES = 32, LOCAL_AAD_MAX = 1 << 20 };

/* Data keys of this format are bound to its name: a wrapped key from here opens nowhere else, and no other opens here. */
static const struct claviger_pair local_pair = {"claviger", "local.v1"};
static const struct claviger_binding local_binding = {.context = &local_pair, .context_len = 1};

static struct result to_secret(struct bytes plain, struct secret **ret, struct claviger_error *e)
{
    struct err inner;
    if (plain.n != LOCAL_KEY_BYTES)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "CIPHERTEXT", "the ciphertext cannot be decrypted");
    if (secret_from(plain.p, plain.n, ret, &inner).failed)
        return client_fail(e, CLAVIGER_RESOURCE_EXHAUSTED, "NO_LOCKED_MEMORY", "locked memory for data keys is used up");
    return ok();
}

static struct result fetch_to_encrypt(struct claviger *c, const char *key, const struct data_key **ret, struct claviger_error *e)
{
    *ret = cache_to_encrypt(c->cache, key);
    if (*ret)
        return ok();
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    struct bytes plain, wrapped;
    TRY(key_generate(c->transport, key, LOCAL_KEY_BYTES, false, &local_binding, &a, &plain, &wrapped, e));
    if (wrapped.n > LOCAL_WRAPPED_MAX)
        return client_fail(e, CLAVIGER_INTERNAL, "BAD_ANSWER", "a wrapped key of %zu bytes", wrapped.n);
    struct secret *s = NULL;
    TRY(to_secret(plain, &s, e));
    *ret = cache_put(c->cache, key, wrapped, s, true);
    return ok();
}

static struct result fetch_to_decrypt(struct claviger *c, const char *key, struct bytes wrapped, const struct data_key **ret,
                                      struct claviger_error *e)
{
    *ret = cache_to_decrypt(c->cache, key, wrapped);
    if (*ret)
        return ok();
    CLEANUP(arena_release) struct arena a;
    arena_init(&a, CLIENT_ARENA_MAX);
    struct bytes plain;
    TRY(key_unwrap(c->transport, key, wrapped, &local_binding, &a, &plain, e));
    struct secret *s = NULL;
    TRY(to_secret(plain, &s, e));
    *ret = cache_put(c->cache, key, wrapped, s, false);
    return ok();
}

static struct result local_encrypt(struct claviger *c, const char *key, struct bytes plain, const struct claviger_binding *b,
                                   struct claviger_buffer *ret, struct claviger_error *e)
{
    TRY(binding_check(b, true, e));
    if (plain.n > CLAVIGER_LOCAL_PLAINTEXT_MAX)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "TOO_LARGE", "more than %d bytes", CLAVIGER_LOCAL_PLAINTEXT_MAX);
    CLEANUP(buf_release) struct buf aad;
    buf_init(&aad, LOCAL_AAD_MAX);
    TRY(local_aad(b, &aad, e));
    const struct data_key *k = NULL;
    TRY(fetch_to_encrypt(c, key, &k, e));
    size_t n = local_size(k->wrapped.n, plain.n);
    uint8_t *out = malloc(n);
    INVARIANT(out);
    local_seal(k->key, k->wrapped, buf_bytes(&aad), plain, &rng_system, out);
    cache_give_back(c->cache, k);
    *ret = (struct claviger_buffer){out, n};
    return ok();
}

static struct result local_decrypt(struct claviger *c, const char *key, struct bytes message, const struct claviger_binding *b,
                                   struct claviger_buffer *ret, struct claviger_error *e)
{
    TRY(binding_check(b, true, e));
    CLEANUP(buf_release) struct buf aad;
    buf_init(&aad, LOCAL_AAD_MAX);
    TRY(local_aad(b, &aad, e));
    struct local_parts p;
    TRY(local_parse(message, &p, e));
    const struct data_key *k = NULL;
    TRY(fetch_to_decrypt(c, key, p.wrapped, &k, e));
    size_t n = p.sealed.n - LOCAL_TAG_BYTES;
    CLEANUP(claviger_buffer_free) struct claviger_buffer out = {malloc(n ? n : 1), n};
    INVARIANT(out.data);
    struct result r = local_open(k->key, &p, buf_bytes(&aad), out.data, e);
    cache_give_back(c->cache, k);
    TRY(r);
    *ret = out;
    out = (struct claviger_buffer){0};
    return ok();
}

int claviger_local_encrypt(struct claviger *c, const char *key, const void *plaintext, size_t plaintext_len,
                           const struct claviger_binding *binding, struct claviger_buffer *ret, struct claviger_error *error)
{
    struct claviger_error e;
    return client_return(local_encrypt(c, key, BYTES(plaintext, plaintext_len), binding, ret, &e), &e, error);
}

int claviger_local_decrypt(struct claviger *c, const char *key, const void *message, size_t message_len,
                           const struct claviger_binding *binding, struct claviger_buffer *ret, struct claviger_error *error)
{
    struct claviger_error e;
    return client_return(local_decrypt(c, key, BYTES(message, message_len), binding, ret, &e), &e, error);
}

void claviger_forget_keys(struct claviger *c)
{
    cache_clear(c->cache);
}

void claviger_cache_stats(struct claviger *c, struct claviger_cache_stats *ret)
{
    cache_read_stats(c->cache, ret);
}
