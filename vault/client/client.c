#include "vault/client/cache.h"
#include "vault/client/internal.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { CACHE_KEYS_DEFAULT = 128, CACHE_KEYS_MAX = 4096, TIMEOUT_DEFAULT_MS = 10000, TIMEOUT_MAX_MS = 3600000,
       CACHE_AGE_DEFAULT_MS = 300000, ATTEMPTS_DEFAULT = 5 };
static const uint64_t cache_uses_default = 1000000;

/* The slab of locked memory is one a process, whoever connects first. */
static pthread_once_t slab_once = PTHREAD_ONCE_INIT;
static bool slab_good;

static void slab_make(void)
{
    struct err e;
    slab_good = !secret_slab_init(CACHE_KEYS_MAX + 64, &e).failed;
    if (!slab_good) /* 64 KiB is the smallest RLIMIT_MEMLOCK found in the wild: enough for the default cache */
        slab_good = !secret_slab_init(CACHE_KEYS_DEFAULT + 64, &e).failed;
}

static const char *env_or(const char *given, const char *name, const char *second)
{
    if (given && *given)
        return given;
    const char *v = getenv(name);
    return (!v || !*v) && second ? getenv(second) : v;
}

static struct result resolve(const struct claviger_options *in, struct transport_options *ret, struct claviger_error *e)
{
    struct transport_options o = {
        .endpoint = env_or(in->endpoint, "KMS_ENDPOINT", NULL),
        .ca_file = env_or(in->ca_file, "KMS_CA", NULL),
        .cert_file = env_or(in->cert_file, "KMS_CERT", "KMS_SERVICE_CERT"),
        .key_file = env_or(in->key_file, "KMS_KEY", "KMS_SERVICE_KEY"),
        .server_name = in->server_name,
        .timeout_ms = in->timeout_ms ? in->timeout_ms : TIMEOUT_DEFAULT_MS,
        .max_attempts = in->max_attempts ? in->max_attempts : ATTEMPTS_DEFAULT,
    };
    const char *missing = !o.endpoint  ? "endpoint (KMS_ENDPOINT)"
                          : !o.ca_file   ? "CA file (KMS_CA)"
                          : !o.cert_file ? "client certificate (KMS_CERT)"
                          : !o.key_file  ? "client key (KMS_KEY)"
                                         : NULL;
    if (missing)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "NOT_CONFIGURED", "no %s was given", missing);
    if (o.timeout_ms > TIMEOUT_MAX_MS)
        return client_fail(e, CLAVIGER_OUT_OF_RANGE, "BAD_OPTION", "timeout_ms is more than %d", TIMEOUT_MAX_MS);
    *ret = o;
    return ok();
}

static struct result connect_checked(const struct claviger_options *in, struct claviger **ret, struct claviger_error *e)
{
    if (!in || in->size != sizeof *in)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_OPTION", "options.size must be sizeof(struct claviger_options)");
    struct transport_options o;
    TRY(resolve(in, &o, e));
    uint32_t keys = in->cache_max_keys ? in->cache_max_keys : CACHE_KEYS_DEFAULT;
    if (keys > CACHE_KEYS_MAX)
        return client_fail(e, CLAVIGER_OUT_OF_RANGE, "BAD_OPTION", "cache_max_keys is more than %d", CACHE_KEYS_MAX);
    pthread_once(&slab_once, slab_make);
    if (!slab_good || secret_stats().slots < keys + 64)
        return client_fail(e, CLAVIGER_FAILED_PRECONDITION, "MEMORY_NOT_LOCKED",
                           "memory for %u data keys cannot be locked: raise RLIMIT_MEMLOCK (ulimit -l)", keys);
    struct transport *t = NULL;
    TRY(transport_open(&o, &t, e));
    struct claviger *c = calloc(1, sizeof *c);
    INVARIANT(c);
    c->transport = t;
    c->cache = cache_new(&(struct cache_limits){.keys = keys,
                                                .age_ms = in->cache_max_age_ms ? in->cache_max_age_ms : CACHE_AGE_DEFAULT_MS,
                                                .uses = in->cache_max_uses ? in->cache_max_uses : cache_uses_default},
                         &clock_system);
    *ret = c;
    return ok();
}

int claviger_connect(const struct claviger_options *options, struct claviger **ret, struct claviger_error *error)
{
    struct claviger_error e;
    return client_return(connect_checked(options, ret, &e), &e, error);
}

void claviger_free(struct claviger *c)
{
    if (!c)
        return;
    cache_free(c->cache);
    transport_close(c->transport);
    free(c);
}

struct transport *client_transport(struct claviger *c)
{
    return c->transport;
}

void claviger_buffer_free(struct claviger_buffer *b)
{
    if (b->data) {
        wipe(b->data, b->len);
        free(b->data);
    }
    *b = (struct claviger_buffer){0};
}

RESULT buffer_from(struct bytes b, struct claviger_buffer *ret, struct claviger_error *e)
{
    uint8_t *p = malloc(b.n ? b.n : 1);
    if (!p)
        return client_fail(e, CLAVIGER_RESOURCE_EXHAUSTED, "NO_MEMORY", "no memory for %zu bytes", b.n);
    if (b.n)
        memcpy(p, b.p, b.n);
    *ret = (struct claviger_buffer){p, b.n};
    return ok();
}

/* ---- bindings and checksums ---------------------------------------------------------------------------------------------- */

RESULT binding_check(const struct claviger_binding *b, bool aad_allowed, struct claviger_error *e)
{
    if (!b)
        return ok();
    if (b->context_len > CLAVIGER_CONTEXT_PAIRS_MAX)
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_BINDING", "more than %d context pairs", CLAVIGER_CONTEXT_PAIRS_MAX);
    if (b->aad_len > 0 && (b->context_len > 0 || !aad_allowed))
        return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_BINDING",
                           aad_allowed ? "give context pairs or aad, not both" : "this call binds context pairs, not aad");
    for (size_t i = 0; i < b->context_len; i++) {
        if (!b->context[i].key || !b->context[i].value)
            return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_BINDING", "a context pair is NULL");
        for (size_t j = 0; j < i; j++) {
            if (strcmp(b->context[i].key, b->context[j].key) == 0)
                return client_fail(e, CLAVIGER_INVALID_ARGUMENT, "BAD_BINDING", "a context key is given twice");
        }
    }
    return ok();
}

/* Every map entry of two byte strings is generated with this shape; only its descriptor differs. */
struct entry {
    ProtobufCMessage base;
    ProtobufCBinaryData key, value;
};

void **binding_entries(const struct claviger_binding *b, const ProtobufCMessageDescriptor *d, struct arena *a, size_t *ret_n)
{
    *ret_n = b ? b->context_len : 0;
    if (*ret_n == 0)
        return NULL;
    INVARIANT(d->sizeof_message == sizeof(struct entry));
    struct entry **list = arena_alloc(a, *ret_n * sizeof *list);
    struct entry *all = arena_zalloc(a, *ret_n * sizeof *all);
    INVARIANT(list && all); /* pairs are few and counted */
    for (size_t i = 0; i < *ret_n; i++) {
        protobuf_c_message_init(d, &all[i]);
        all[i].key = pb_of(bytes_str(b->context[i].key));
        all[i].value = pb_of(bytes_str(b->context[i].value));
        list[i] = &all[i];
    }
    return (void **)list;
}

Google__Protobuf__Int64Value *crc_of(struct bytes b, struct arena *a)
{
    Google__Protobuf__Int64Value *v = arena_alloc(a, sizeof *v);
    INVARIANT(v);
    google__protobuf__int64_value__init(v);
    v->value = crc32c(b);
    return v;
}

RESULT crc_check(ProtobufCBinaryData data, const Google__Protobuf__Int64Value *crc, struct claviger_error *e)
{
    if (!crc || crc->value != (int64_t)crc32c(pb_bytes_of(data)))
        return client_fail(e, CLAVIGER_DATA_LOSS, "CRC32C_MISMATCH", "the answer was damaged on its way, or bears no checksum");
    return ok();
}
