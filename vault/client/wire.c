#include "vault/client/wire.h"

#include "base/clock.h"
#include "base/rng.h"
#include "vault/client/error.h"
#include "vault/client/pem.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc_security.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BACKOFF_FIRST_MS = 100, BACKOFF_MAX_MS = 1600 };

/* ---- channel ---------------------------------------------------------------------------------------------------------- */

static grpc_arg arg_int(const char *key, int v)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = v};
}

static grpc_channel *channel_new(const struct transport_options *o, const struct pem_files *pem)
{
    grpc_arg args[12];
    size_t n = 0;
    args[n++] = arg_int(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, TRANSPORT_RECEIVE_MAX);
    args[n++] = arg_int(GRPC_ARG_ENABLE_RETRIES, 0);                /* ours know what may be repeated */
    args[n++] = arg_int(GRPC_ARG_ENABLE_HTTP_PROXY, 0);             /* no environment decides where keys travel */
    args[n++] = arg_int(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
    args[n++] = arg_int(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1);
    args[n++] = arg_int(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RECONNECT_FIRST_MS);
    args[n++] = arg_int(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 3000); /* also the longest wait for one connection attempt */
    args[n++] = arg_int(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
    args[n++] = arg_int(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1); /* two clients in a process never share a connection */
    args[n++] = arg_int(GRPC_ARG_ENABLE_CHANNELZ, 0);
    if (o->server_name)
        args[n++] = (grpc_arg){.type = GRPC_ARG_STRING, .key = (char *)(uintptr_t)GRPC_SSL_TARGET_NAME_OVERRIDE_ARG,
                               .value.string = (char *)(uintptr_t)o->server_name};
    grpc_channel_args list = {n, args};
    grpc_ssl_pem_key_cert_pair pair = {.private_key = pem->key, .cert_chain = pem->cert};
    grpc_channel_credentials *creds = grpc_ssl_credentials_create(pem->ca, &pair, NULL, NULL);
    grpc_channel *ch = grpc_channel_create(o->endpoint, creds, &list);
    grpc_channel_credentials_release(creds);
    return ch;
}

RESULT transport_open(const struct transport_options *o, struct transport **ret, struct claviger_error *e)
{
    CLEANUP(pem_release) struct pem_files pem = {0};
    TRY(pem_load(o->ca_file, o->cert_file, o->key_file, &pem, e));
    struct transport *t = calloc(1, sizeof *t);
    INVARIANT(t);
    t->timeout_ms = o->timeout_ms;
    t->max_attempts = o->max_attempts;
    grpc_init();
    t->channel = channel_new(o, &pem);
    INVARIANT(t->channel);
    *ret = t;
    return ok();
}

void transport_close(struct transport *t)
{
    if (!t)
        return;
    grpc_channel_destroy(t->channel);
    grpc_shutdown();
    free(t);
}

uint32_t transport_timeout_ms(const struct transport *t)
{
    return t->timeout_ms;
}

/* ---- what every call does ---------------------------------------------------------------------------------------------- */

static void add_meta(struct wire *w, const char *key, const char *value)
{
    w->meta[w->nmeta++] = (grpc_metadata){.key = grpc_slice_from_static_string(key),
                                          .value = grpc_slice_from_copied_string(value)};
}

void wire_open(struct wire *w, struct transport *t, const char *path, const char *idempotency_key, gpr_timespec deadline)
{
    w->t = t;
    w->cq = grpc_completion_queue_create_for_pluck(NULL);
    grpc_slice method = grpc_slice_from_copied_string(path);
    w->call = grpc_channel_create_call(t->channel, NULL, GRPC_PROPAGATE_DEFAULTS, w->cq, method, NULL, deadline, NULL);
    grpc_slice_unref(method);
    INVARIANT(w->call);
    w->nmeta = 0;
    add_meta(w, "x-request-id", w->request_id);
    if (idempotency_key)
        add_meta(w, "claviger-idempotency-key", idempotency_key);
    grpc_metadata_array_init(&w->initial);
    grpc_metadata_array_init(&w->trailing);
    w->details = grpc_empty_slice();
}

void wire_close(struct wire *w)
{
    grpc_call_unref(w->call);
    for (size_t i = 0; i < w->nmeta; i++)
        grpc_slice_unref(w->meta[i].value);
    grpc_metadata_array_destroy(&w->initial);
    grpc_metadata_array_destroy(&w->trailing);
    grpc_slice_unref(w->details);
    grpc_completion_queue_shutdown(w->cq);
    grpc_completion_queue_destroy(w->cq);
    w->call = NULL;
}

void wire_start(struct wire *w, const grpc_op *ops, size_t n, void *tag)
{
    /* anything but OK is a wrong batch of ours, never an event */
    INVARIANT(grpc_call_start_batch(w->call, ops, n, tag, NULL) == GRPC_CALL_OK);
}

bool wire_wait(struct wire *w, void *tag)
{
    grpc_event ev = grpc_completion_queue_pluck(w->cq, tag, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    return ev.type == GRPC_OP_COMPLETE && ev.success != 0;
}

bool wire_wait_until(struct wire *w, void *tag, int64_t deadline_ms)
{
    gpr_timespec left = gpr_time_from_millis(deadline_ms - clock_boot_ms(&clock_system), GPR_TIMESPAN);
    grpc_event ev = grpc_completion_queue_pluck(w->cq, tag, gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), left), NULL);
    if (ev.type != GRPC_QUEUE_TIMEOUT)
        return ev.type == GRPC_OP_COMPLETE && ev.success != 0;
    (void)grpc_call_cancel_with_status(w->call, GRPC_STATUS_DEADLINE_EXCEEDED, "no answer in time", NULL);
    return wire_wait(w, tag);
}

/* Exponential with full jitter, so that clients of a restarted server do not come back in step. */
bool wire_back_off(unsigned attempts, uint64_t asked_ms, int64_t deadline_ms)
{
    uint64_t ceiling = BACKOFF_FIRST_MS;
    for (unsigned i = 1; i < attempts && ceiling < BACKOFF_MAX_MS; i++)
        ceiling *= 2;
    uint64_t draw;
    rng_fill(&rng_system, &draw, sizeof draw);
    uint64_t wait_ms = ceiling / 2 + draw % (ceiling / 2 + 1);
    if (wait_ms < asked_ms)
        wait_ms = asked_ms;
    if (clock_boot_ms(&clock_system) + (int64_t)wait_ms >= deadline_ms)
        return false;
    struct timespec ts = {(time_t)(wait_ms / 1000), (long)(wait_ms % 1000) * 1000000};
    while (nanosleep(&ts, &ts) != 0) {
    }
    return true;
}

static struct bytes slice_bytes(const grpc_slice *s)
{
    return BYTES(GRPC_SLICE_START_PTR(*s), GRPC_SLICE_LENGTH(*s));
}

struct result wire_failure(const struct wire *w, struct claviger_error *e)
{
    struct bytes details = {0};
    for (size_t i = 0; i < w->trailing.count; i++) {
        if (bytes_equal(slice_bytes(&w->trailing.metadata[i].key), BYTES_LIT("grpc-status-details-bin")))
            details = slice_bytes(&w->trailing.metadata[i].value);
    }
    return client_fail_status(e, (int)w->status, slice_bytes(&w->details), details, w->request_id);
}

static void wipe_and_free(void *p, size_t n)
{
    wipe(p, n);
    free(p);
}

grpc_slice wire_pack(const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *p = malloc(n ? n : 1);
    INVARIANT(p);
    protobuf_c_message_pack(m, p);
    return grpc_slice_new_with_len(p, n, wipe_and_free);
}

static void *arena_for_pb(void *a, size_t n)
{
    return arena_alloc(a, n);
}

static void not_freed(void *a, void *p)
{
    (void)a;
    (void)p;
}

struct result wire_unpack(grpc_byte_buffer *b, const ProtobufCMessageDescriptor *d, struct arena *a, ProtobufCMessage **ret,
                          struct claviger_error *e)
{
    grpc_byte_buffer_reader r;
    if (!grpc_byte_buffer_reader_init(&r, b))
        return client_fail(e, CLAVIGER_INTERNAL, "BAD_ANSWER", "the answer cannot be read");
    grpc_slice all = grpc_byte_buffer_reader_readall(&r);
    grpc_byte_buffer_reader_destroy(&r);
    ProtobufCAllocator mem = {.alloc = arena_for_pb, .free = not_freed, .allocator_data = a};
    ProtobufCMessage *m = protobuf_c_message_unpack(d, &mem, GRPC_SLICE_LENGTH(all), GRPC_SLICE_START_PTR(all));
    wipe(GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all)); /* readall made this copy for us alone */
    grpc_slice_unref(all);
    if (!m)
        return client_fail(e, CLAVIGER_INTERNAL, "BAD_ANSWER", "the answer is not a %s", d->name);
    *ret = m;
    return ok();
}

void wire_new_request_id(char out[REQUEST_ID_TEXT])
{
    uint8_t id[REQUEST_ID_BYTES];
    rng_fill(&rng_system, id, sizeof id);
    hex_encode(id, sizeof id, out);
}
